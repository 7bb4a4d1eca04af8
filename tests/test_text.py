"""text and utils.data.tables: tokens, vocabularies, padding, text and CSV files that are broken."""

import copy
import functools
import random
import re

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import DataError, DTypeError, ShapeError
from tensorlite.text import (
    CharVocab,
    Vocab,
    build_vocab_from_iterator,
    get_tokenizer,
    pad_collate,
    pad_sequences,
    padded,
    read_text,
    tokenize,
    vocab,
)
from tensorlite.utils.data import DataLoader
from tensorlite.utils.data.tables import read_csv_series


# ---- tokens
def spaced(text):
    """basic_english as the rules that it is described by, one after the other."""
    text = text.lower()
    for pattern, by in (
        (r"\'", " '  "), (r"\"", ""), (r"\.", " . "), (r"<br \/>", " "), (r",", " , "), (r"\(", " ( "),
        (r"\)", " ) "), (r"\!", " ! "), (r"\?", " ? "), (r"\;", " "), (r"\:", " "), (r"\s+", " "),
    ):  # fmt: skip
        text = re.sub(pattern, by, text)
    return text.split()


def test_tokenize():
    assert tokenize('He said: "It\'s (not) 3.5!"') == [
        "he", "said", "it", "'", "s", "(", "not", ")", "3", ".", "5", "!",
    ]  # fmt: skip
    assert tokenize("") == tokenize(" \t\n") == []
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice(["a", "B", "é", " ", "\n", "<br />", *"'\".,()!?;:-"]) for _ in range(20))
        assert tokenize(text) == spaced(text), text


def test_get_tokenizer():
    assert get_tokenizer("basic_english")("A b.") == ["a", "b", "."]
    assert get_tokenizer(None)("A  b.") == ["A", "b."]
    assert get_tokenizer(list)("ab") == ["a", "b"]
    for wrong in (("spacy",), ("basic_english", "de")):
        with pytest.raises(ValueError, match=r"get_tokenizer: .*wanted"):
            get_tokenizer(*wrong)


# ---- vocabularies
def test_vocab():
    v = Vocab(["<unk>", "a", "b"])
    assert len(v) == 3 and "a" in v and "c" not in v and 1 not in v
    assert v["b"] == 2 and v(["b", "a"]) == v.lookup_indices(iter(["b", "a"])) == [2, 1]
    assert v.lookup_token(0) == "<unk>" and v.lookup_tokens([2, 0]) == ["b", "<unk>"]
    assert v.get_default_index() is None
    with pytest.raises(RuntimeError, match="token 'c' is not one of the 3 tokens and no default index"):
        v(["a", "c"])
    v.set_default_index(0)
    assert v.get_default_index() == 0 and v(["a", "c"]) == [1, 0] and "c" not in v
    assert repr(v) == "Vocab(3 tokens, default_index=0)"
    for wrong in (-1, 3):
        with pytest.raises(RuntimeError, match="wanted 0 to 2"):
            v.lookup_token(wrong)


def test_vocab_grows():
    v = Vocab(["a", "b"])
    v.insert_token("x", 1)
    v.append_token("c")
    v.insert_token("y", 4)
    assert v.get_itos() == ["a", "x", "b", "c", "y"]
    assert v.get_stoi() == {t: k for k, t in enumerate(v.get_itos())}
    for act in (lambda: v.insert_token("a", 0), lambda: v.append_token("c"), lambda: Vocab(["a", "a"])):
        with pytest.raises(RuntimeError, match="already exists"):
            act()
    for index in (-1, 6):
        with pytest.raises(RuntimeError, match="wanted 0 to 5"):
            v.insert_token("z", index)
    with pytest.raises(TypeError, match="token 3 of int; wanted a str"):
        v.append_token(3)
    v.get_itos().append("q"), v.get_stoi().update(q=0)
    assert "q" not in v and len(v) == 5


@pytest.mark.parametrize("v", [Vocab(["<unk>", "ü"], 0), Vocab([]), CharVocab("ab\n", 1), CharVocab("x")], ids=repr)
def test_vocab_is_saved(v, tmp_path):
    tl.save(v.state_dict(), tmp_path / "v.safetensors")
    again = type(v)(**tl.load(tmp_path / "v.safetensors"))
    assert again.get_itos() == v.get_itos() and again.get_default_index() == v.get_default_index()
    assert copy.deepcopy(v).get_stoi() == again.get_stoi()


def test_vocab_of_counts():
    counts = {"b": 3, "<unk>": 9, "a": 1, "c": 2}
    assert vocab(counts).get_itos() == ["b", "<unk>", "a", "c"]
    assert vocab(counts, 2, ["<unk>", "<pad>"]).get_itos() == ["<unk>", "<pad>", "b", "c"]
    assert vocab(counts, 2, ["<unk>"], special_first=False).get_itos() == ["b", "c", "<unk>"]
    assert list(counts) == ["b", "<unk>", "a", "c"]  # as it was


def test_build_vocab():
    lines = [["d", "b"], [], ["b", "<unk>", "a"], ["c", "b", "a"], ["<unk>"] * 4]

    def itos(**options):
        return build_vocab_from_iterator(iter(lines), **options).get_itos()

    assert itos() == ["<unk>", "b", "a", "c", "d"]
    assert itos(specials=["<unk>"], special_first=False) == ["b", "a", "c", "d", "<unk>"]
    assert itos(min_freq=2, specials=["<pad>", "<unk>"]) == ["<pad>", "<unk>", "b", "a"]
    assert itos(max_tokens=3, specials=["<unk>"]) == ["<unk>", "b", "a"]
    shuffled = [line[::-1] for line in lines[::-1]]
    assert build_vocab_from_iterator(shuffled).get_itos() == itos()
    assert build_vocab_from_iterator(["aab"]).get_itos() == ["a", "b"]  # a text is its characters
    assert len(build_vocab_from_iterator([])) == 0
    with pytest.raises(ValueError, match="max_tokens 1 with 1 specials"):
        itos(max_tokens=1, specials=["<unk>"])


def test_characters():
    text = "naïve 🙂 text\n\ud800"
    v = CharVocab.from_text(text)
    assert v.get_itos() == sorted(set(text))
    codes = v.encode(text)
    assert codes.dtype is tl.int64 and codes.tolist() == [v[c] for c in text]
    for form in (codes, codes.numpy(), codes.tolist(), codes.to(tl.uint8)):
        assert v.decode(form) == text
    assert v.encode("").shape == (0,) and v.decode(v.encode("")) == v.decode([]) == ""
    assert CharVocab().encode("").tolist() == []
    for text, at in (("nax", 2), ("\U0010ffff", 0), ("n\0", 1)):
        with pytest.raises(RuntimeError, match=re.escape(f"{text[at]!r} at offset {at}")):
            CharVocab("na").encode(text)


def test_characters_grow_and_default():
    v = CharVocab("ab", default_index=1)
    assert v.encode("abc\U0010ffff").tolist() == [0, 1, 1, 1]
    v.insert_token("c", 0)
    v.set_default_index(None)
    assert v.encode("abc").tolist() == [1, 2, 0] and v.decode([0, 1]) == "ca"
    with pytest.raises(ValueError, match="wanted one character"):
        v.append_token("<unk>")
    with pytest.raises(RuntimeError, match="index 3 at place 1; wanted 0 to 2"):
        v.decode([0, 3])
    with pytest.raises(RuntimeError, match="index -1 at place 0"):
        v.decode(tl.tensor([-1]))
    for wrong in (tl.tensor([[0]]), tl.tensor([0.5]), 0):
        with pytest.raises(ShapeError, match="wanted integers of one dimension"):
            v.decode(wrong)


# ---- padding
def test_pad_sequences():
    rows = [[1], [2, 3], [4, 5, 6], []]
    same = functools.partial(pad_sequences, rows)
    assert same().dtype is tl.int64
    assert same().tolist() == [[0, 0, 1], [0, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert same(padding="post").tolist() == [[1, 0, 0], [2, 3, 0], [4, 5, 6], [0, 0, 0]]
    assert same(maxlen=2).tolist() == [[0, 1], [2, 3], [5, 6], [0, 0]]
    assert same(maxlen=2, truncating="post", value=9.0).tolist() == [[9, 1], [2, 3], [4, 5], [9, 9]]
    assert same(2, "float32", "post", "post", 0.5).tolist() == [[1, 0.5], [2, 3], [4, 5], [0.5, 0.5]]
    assert same(maxlen=0).shape == (4, 0) and pad_sequences([]).shape == (0, 0)
    assert pad_sequences([], maxlen=3).shape == (0, 3) and pad_sequences([[], []]).shape == (2, 0)
    forms = [[1], np.array([2, 3], np.int16), tl.tensor([4, 5, 6]), ()]
    assert pad_sequences(forms).tolist() == same().tolist()
    whole = padded(rows, dtype=np.uint8)
    assert type(whole) is np.ndarray and whole.dtype == np.uint8 and whole.tolist() == same().tolist()


def test_pad_sequences_of_vectors():
    a, b = np.arange(6.0).reshape(3, 2), np.arange(2.0).reshape(1, 2)
    got = pad_sequences([b, a, []], dtype=tl.float32, padding="post")
    assert got.shape == (3, 3, 2) and got.dtype is tl.float32
    assert got.tolist() == [[[0, 1], [0, 0], [0, 0]], a.tolist(), [[0, 0]] * 3]
    with pytest.raises(ShapeError, match=r"sequence 1 has entries of shape \(3,\); wanted \(2,\)"):
        pad_sequences([a, np.zeros((1, 3))], dtype="float32")


@pytest.mark.parametrize(
    "error, options",
    [
        (ValueError, dict(padding="left")),
        (ValueError, dict(truncating="right")),
        (ValueError, dict(sequences=[1, 2])),
        (ValueError, dict(sequences="ab")),
        (DTypeError, dict(sequences=[[0.5]])),
        (DTypeError, dict(sequences=[[1], [300]], dtype="uint8")),
        (DTypeError, dict(sequences=[[-1]], dtype="uint8")),
        (DTypeError, dict(value=0.5)),
        (DTypeError, dict(value=float("inf"))),
        (DTypeError, dict(dtype="str")),
    ],
)
def test_pad_sequences_refuses(error, options):
    with pytest.raises(error, match=r"pad_sequences: .*wanted"):
        pad_sequences(**{"sequences": [[1]], **options})


def test_pad_collate():
    x, n = pad_collate([[1, 2], [], [3]])
    assert x.tolist() == [[1, 2], [0, 0], [3, 0]] and n.tolist() == [2, 0, 1]
    assert x.dtype is n.dtype is tl.int64
    data = [([k] * k, k % 2, f"s{k}") for k in range(1, 6)]
    collate = functools.partial(pad_collate, value=-1, maxlen=4)
    batches = list(DataLoader(data, batch_size=3, collate_fn=collate))
    x, n, label, name = batches[1]
    assert x.tolist() == [[4] * 4, [5] * 4] and n.tolist() == [4, 4]  # the second was cut
    assert label.tolist() == [0, 1] and name == ["s4", "s5"]
    assert batches[0][0].tolist() == [[1, -1, -1, -1], [2, 2, -1, -1], [3, 3, 3, -1]]
    assert pad_collate([tl.tensor([0.5]), tl.tensor([1.0, 2.0])], "pre")[0].tolist() == [[0, 0.5], [1, 2]]
    assert pad_collate([[], []])[0].shape == (2, 0)


# ---- files
@pytest.mark.parametrize("before", [0, 1, 5000])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xe2\x82", b"\xed\xa0\x80"])
def test_text_that_is_no_text(tmp_path, before, bad):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * before + bad + b"x" * 9)
    with pytest.raises(DataError, match=f"a.txt: offset {before}: byte {bad[0]:02x} is no utf-8"):
        read_text(path)
    assert len(read_text(path, "latin-1")) == before + len(bad) + 9


def test_read_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\nb\rc\n".encode("utf-16"))
    assert read_text(str(path), "utf-16") == "é\nb\nc\n"
    with pytest.raises(DataError, match="utf-8"):
        read_text(path)
    path.write_bytes(b"")
    assert read_text(path) == ""
    with pytest.raises(DataError, match=r"nothing\.txt: No such file"):
        read_text(tmp_path / "nothing.txt")
    with pytest.raises(DataError, match="directory"):
        read_text(tmp_path)


TABLE = '\ufeff"day", a,b\n2010-01-01,1.5,"2"\n\n2010-01-02 03:04, NA ,-1e3\r\n2010-02,?,\n'


def test_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE, encoding="utf-8", newline="")
    a, both = read_csv_series(path, "a"), read_csv_series(path, ["b", "a"])
    assert a.dtype == np.float64 and a.shape == (3,) and both.shape == (3, 2)
    np.testing.assert_array_equal(a, [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(both, [[2, 1.5], [-1000, np.nan], [np.nan, np.nan]])
    dates, values = read_csv_series(path, "a", "day")
    assert dates.dtype == "datetime64[s]" and values.shape == (3,)
    assert [str(d) for d in dates] == ["2010-01-01T00:00:00", "2010-01-02T03:04:00", "2010-02-01T00:00:00"]
    path.write_text("a;b\n1;x\n", encoding="utf-8")
    assert read_csv_series(path, "a", delimiter=";").tolist() == [1]
    path.write_text("a,b\n", encoding="utf-8")
    assert read_csv_series(path, "a").shape == (0,) and read_csv_series(path, ["a", "b"]).shape == (0, 2)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "line 1: no column 'a'"),
        ("A,day\n", "line 1: no column 'a'; wanted one of 'A', 'day'"),
        ("a\n1\n", "line 1: no column 'day'"),
        ("a,day\n1,2010-01-01\n?0.2,2010-01-02\n", "line 3, column 'a': got '?0.2'; wanted a number"),
        ("a,day\n\n1_0,2010-01-01\n", "line 3, column 'a': got '1_0'"),
        ('a,day\n"1\n2",2010-01-01\n', "line 3, column 'a'"),
        ("a,day\n1\n", "line 2: 1 cells; wanted 2"),
        ("a,day\n1,2,3\n", "line 2: 3 cells; wanted 2"),
        ("a,day\n1,today\n", "line 2, column 'day': got 'today'; wanted a date"),
        ("a,day\n1,2010-13-01\n", "line 2, column 'day': got '2010-13-01'"),
        ("a,day\n1,\n", "line 2, column 'day': got ''"),
        ('a,day\n1,"x" y\n', "line 2: ',' expected after '\"'; wanted CSV"),
        ('a,day\n1,"x', "line 2: unexpected end of data"),
    ],
)
def test_broken_csv_names_line_and_column(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.csv: ") as caught:
        read_csv_series(tmp_path / "t.csv", "a", "day")
    assert says in str(caught.value)


def test_csv_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a\n1\n\xff\n")
    with pytest.raises(DataError, match="offset 4"):
        read_csv_series(tmp_path / "t.csv", "a")
    with pytest.raises(DataError, match="No such file"):
        read_csv_series(tmp_path / "none.csv", "a")


def test_real_tables(data):
    dates, low = read_csv_series(data / "daily-min-temperatures.csv", "Temp", "Date")
    assert low.shape == (3650,) and np.isfinite(low).all() and low[0] == 20.7
    assert (np.diff(dates) > np.timedelta64(0)).all()
    air = read_csv_series(data / "pollution.csv", ["pm2.5", "TEMP"])
    assert air.shape == (43824, 2) and np.isnan(air).sum(0).tolist() == [2067, 0]
