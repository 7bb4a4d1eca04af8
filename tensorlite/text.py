"""Text for models: tokenizers, vocabularies of words and of characters, sequences padded to one length. Floor 5.

The names are torchtext's, and Keras's where torchtext has none.

>>> import tensorlite as tl
>>> from tensorlite.text import build_vocab_from_iterator, pad_sequences, tokenize
>>> lines = ["The cat sat.", "The dog sat on the cat!"]
>>> v = build_vocab_from_iterator(map(tokenize, lines), specials=["<pad>", "<unk>"])
>>> v.set_default_index(v["<unk>"])
>>> pad_sequences([v(tokenize(line)) for line in lines], padding="post")
tensor([[2, 3, 4, 6, 0, 0, 0],
        [2, 7, 4, 8, 2, 3, 5]])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import FLOAT, as_dtype, can_cast, dtype
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.create import as_tensor
from tensorlite.utils.data.collate import default_collate
from tensorlite.utils.data.files import read_text

__all__ = [
    "CharVocab",
    "Vocab",
    "build_vocab_from_iterator",
    "get_tokenizer",
    "pad_collate",
    "pad_sequences",
    "padded",
    "read_text",
    "tokenize",
    "vocab",
]

# ---- words
_APART = str.maketrans({c: f" {c} " for c in "'.,()!?"} | {'"': None, ";": " ", ":": " "})


def tokenize(text: str) -> list[str]:
    """The words and signs of ``text`` in lower case: torchtext's ``basic_english``.

    The signs ``' . , ( ) ! ?`` are words of their own; double quotes, ``;``, ``:`` and ``<br />`` are left out.

    >>> tokenize("It's here: a <br />tokenizer (simple)!")
    ['it', "'", 's', 'here', 'a', 'tokenizer', '(', 'simple', ')', '!']
    """
    return text.lower().replace("<br />", " ").translate(_APART).split()


def get_tokenizer(tokenizer: str | Callable | None, language: str = "en") -> Callable[[str], list[str]]:
    """The function from a text to its tokens: ``"basic_english"``, any callable, or None to split at white space.

    >>> get_tokenizer(None)("A b.")
    ['A', 'b.']

    Raises:
        ValueError: another name, or another language than English for ``"basic_english"``.
    """
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer != "basic_english":
        raise ValueError(f"get_tokenizer: got {tokenizer!r}; wanted 'basic_english', a function or None")
    if language != "en":
        raise ValueError(f"get_tokenizer: basic_english for language {language!r}; wanted 'en'")
    return tokenize


# ---- vocabularies
class Vocab:
    """Tokens with their indices: a token's index is its place in ``tokens``.

    Args:
        tokens: texts, no two the same.
        default_index: the index that stands for every token that is not there; None refuses them.

    >>> v = Vocab(["<unk>", "a", "b"], default_index=0)
    >>> v["b"], v(["a", "c"]), v.lookup_tokens([2, 1]), "c" in v, len(v)
    (2, [1, 0], ['b', 'a'], False, 3)

    ``state_dict()`` holds lists and numbers alone, so ``tl.save`` takes it:

    >>> Vocab(**v.state_dict())["b"]
    2

    Raises:
        RuntimeError: a token twice, an unknown token where no default index is set, an index out of range.
        TypeError: a token that is no text.
    """

    def __init__(self, tokens: Iterable[str] = (), default_index: int | None = None) -> None:
        self._itos: list[str] = []
        self._stoi: dict[str, int] = {}
        self._default = default_index
        for token in tokens:
            self.append_token(token)

    def __len__(self) -> int:
        return len(self._itos)

    def __contains__(self, token: object) -> bool:
        return token in self._stoi

    def __getitem__(self, token: str) -> int:
        """The index of a token, or the default index."""
        index = self._stoi.get(token, self._default)
        if index is None:
            raise RuntimeError(
                f"{type(self).__name__}: token {token!r} is not one of the {len(self)} tokens and no default index is "
                "set; wanted a known token, or set_default_index first"
            )
        return index

    def __call__(self, tokens: Iterable[str]) -> list[int]:
        """The indices of tokens."""
        return [self[token] for token in tokens]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tokens, default_index={self._default})"

    def set_default_index(self, index: int | None) -> None:
        """Let ``index`` stand for unknown tokens; None refuses them again."""
        self._default = index

    def get_default_index(self) -> int | None:
        """The index of unknown tokens, or None."""
        return self._default

    def insert_token(self, token: str, index: int) -> None:
        """Put a new token at ``index``; the tokens from there on move up by one."""
        if not 0 <= index <= len(self):
            raise RuntimeError(f"{type(self).__name__}: insert_token at {index}; wanted 0 to {len(self)}")
        self._check(token)
        self._itos.insert(index, token)
        for k in range(index, len(self._itos)):
            self._stoi[self._itos[k]] = k

    def append_token(self, token: str) -> None:
        """Put a new token at the end."""
        self._check(token)
        self._stoi[token] = len(self._itos)
        self._itos.append(token)

    def _check(self, token: Any) -> None:
        if not isinstance(token, str):
            raise TypeError(f"{type(self).__name__}: got token {token!r} of {type(token).__name__}; wanted a str")
        if token in self._stoi:
            raise RuntimeError(
                f"{type(self).__name__}: token {token!r} already exists at index {self._stoi[token]}; wanted each once"
            )

    def lookup_token(self, index: int) -> str:
        """The token at an index."""
        if not 0 <= index < len(self):
            raise RuntimeError(f"{type(self).__name__}: index {index}; wanted 0 to {len(self) - 1}")
        return self._itos[index]

    def lookup_tokens(self, indices: Iterable[int]) -> list[str]:
        """The tokens at indices."""
        return [self.lookup_token(index) for index in indices]

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        """The indices of tokens, as ``vocab(tokens)`` gives them."""
        return self(tokens)

    def get_stoi(self) -> dict[str, int]:
        """A new dict from tokens to indices."""
        return dict(self._stoi)

    def get_itos(self) -> list[str]:
        """A new list of the tokens in the order of their indices."""
        return list(self._itos)

    def state_dict(self) -> dict[str, Any]:
        """``{"tokens": [...], "default_index": ...}``: the arguments that make this vocabulary again."""
        return {"tokens": self.get_itos(), "default_index": self._default}


def vocab(
    ordered_dict: Mapping[str, int],
    min_freq: int = 1,
    specials: Sequence[str] | None = None,
    special_first: bool = True,
) -> Vocab:
    """A vocabulary of the keys of ``ordered_dict``, in its order, whose values (counts) are ``min_freq`` or more.

    ``specials`` come first (or last) whatever their counts are.

    >>> vocab({"b": 5, "a": 1, "c": 2}, min_freq=2, specials=["<unk>"]).get_itos()
    ['<unk>', 'b', 'c']
    """
    specials = list(specials or ())
    words = [token for token, count in ordered_dict.items() if count >= min_freq and token not in specials]
    return Vocab(specials + words if special_first else words + specials)


def build_vocab_from_iterator(
    iterator: Iterable[Iterable[str]],
    min_freq: int = 1,
    specials: Sequence[str] | None = None,
    special_first: bool = True,
    max_tokens: int | None = None,
) -> Vocab:
    """A vocabulary of all tokens in ``iterator``, which yields lists of tokens: most frequent first, then by alphabet.

    Args:
        iterator: yields lists (or other iterables) of tokens; a text counts as a list of its characters.
        min_freq: leave out tokens that are rarer.
        specials: tokens put first (or last), whatever their counts are.
        special_first: whether ``specials`` come first.
        max_tokens: the most tokens there may be, ``specials`` included.

    >>> build_vocab_from_iterator([["b", "a"], ["a", "c", "b", "a"]], specials=["<pad>"]).get_itos()
    ['<pad>', 'a', 'b', 'c']

    Raises:
        ValueError: ``max_tokens`` leaves no place beside ``specials``.
    """
    specials = list(specials or ())
    counts: Counter[str] = Counter()
    for tokens in iterator:
        counts.update(tokens)
    for token in specials:
        counts.pop(token, None)
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if max_tokens is not None:
        if max_tokens <= len(specials):
            raise ValueError(
                f"build_vocab_from_iterator: max_tokens {max_tokens} with {len(specials)} specials; wanted more tokens "
                "than specials"
            )
        order = order[: max_tokens - len(specials)]
    return vocab(dict(order), min_freq, specials, special_first)


class CharVocab(Vocab):
    """A vocabulary of single characters that turns texts to int64 tensors and back, fast: for language models.

    >>> v = CharVocab.from_text("hello world")
    >>> v.encode("hold")
    tensor([3, 5, 4, 1])
    >>> v.decode(v.encode("hold"))
    'hold'

    Raises:
        ValueError: a token that is not one character.
        RuntimeError: as ``Vocab``; ``encode`` names the first unknown character and its offset.
    """

    _table: np.ndarray | None = None

    @classmethod
    def from_text(cls, text: str, default_index: int | None = None) -> CharVocab:
        """The characters of ``text``, each once, in the order of their code points."""
        return cls(sorted(set(text)), default_index)

    def _check(self, token: Any) -> None:
        super()._check(token)
        if len(token) != 1:
            raise ValueError(f"CharVocab: got token {token!r}; wanted one character")
        self._table = None

    def encode(self, text: str) -> Tensor:
        """The indices of the characters of ``text``: int64 of shape (len(text),)."""
        if self._table is None:
            places = _code_points("".join(self._itos))
            self._table = np.full(int(places.max(initial=0)) + 2, -1, np.int64)  # the last place: all code points above
            self._table[places] = np.arange(len(places))
        codes = self._table[np.minimum(_code_points(text), len(self._table) - 1)]
        unknown = codes < 0
        if unknown.any():
            if self._default is None:
                offset = int(unknown.argmax())
                raise RuntimeError(
                    f"CharVocab: character {text[offset]!r} at offset {offset} is none of the {len(self)} tokens and "
                    "no default index is set; wanted known characters, or set_default_index first"
                )
            codes[unknown] = self._default
        return from_array(codes)

    def decode(self, indices: Any) -> str:
        """The text whose characters have these indices: a tensor, an array or a list, of one dimension."""
        places = np.asarray(as_tensor(indices).detach().cpu()._arr)
        if places.ndim != 1 or (places.size and places.dtype.kind not in "iu"):
            raise ShapeError(
                f"CharVocab: decode of {places.dtype} values of shape {places.shape}; wanted integers of one dimension"
            )
        wrong = (places < 0) | (places >= len(self))
        if wrong.any():
            at = int(wrong.argmax())
            raise RuntimeError(f"CharVocab: index {places[at]} at place {at}; wanted 0 to {len(self) - 1}")
        points = _code_points("".join(self._itos))[places.astype(np.int64)]
        return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)


# ---- sequences of unequal length
def padded(
    sequences: Sequence,
    maxlen: int | None = None,
    dtype: Any = "int64",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """``pad_sequences`` as a NumPy array."""
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise ValueError(f"pad_sequences: {name} {given!r}; wanted 'pre' or 'post'")
    target = as_dtype(dtype, "pad_sequences")
    if target.category < FLOAT:
        if not float(value).is_integer():
            raise DTypeError(f"pad_sequences: value {value} in {target}; wanted a whole number, or a floating dtype")
        value = int(value)
    rows = [_row(k, sequence, target) for k, sequence in enumerate(sequences)]
    if maxlen is None:
        maxlen = max(map(len, rows), default=0)
    filled = [row for row in rows if len(row)]
    tail = filled[0].shape[1:] if filled else ()
    out = np.full((len(rows), maxlen, *tail), value, target.np)
    for k, row in enumerate(rows):
        if len(row) and row.shape[1:] != tail:
            raise ShapeError(
                f"pad_sequences: sequence {k} has entries of shape {row.shape[1:]}; wanted {tail}, as the first has"
            )
        n = min(len(row), maxlen)
        if n:
            to = slice(maxlen - n, None) if padding == "pre" else slice(n)
            out[k, to] = row[len(row) - n :] if truncating == "pre" else row[:n]
    return out


def _row(k: int, sequence: Any, target: dtype) -> np.ndarray:
    """Sequence number ``k`` as an array of a dtype that ``target`` holds."""
    if not hasattr(sequence, "__len__") or isinstance(sequence, (str, bytes)):
        raise ValueError(f"pad_sequences: sequence {k} is a {type(sequence).__name__}; wanted a list of sequences")
    row = as_tensor(sequence).detach().cpu()
    if not len(row):
        return row._arr.astype(target.np)
    held = can_cast(row.dtype, target)
    if held and target.category < FLOAT and row.dtype is not target:
        held = bool((row._arr.astype(target.np) == row._arr).all())
    if not held:
        raise DTypeError(f"pad_sequences: sequence {k} holds {row.dtype} that {target} cannot hold; wanted a wider one")
    array: np.ndarray = row._arr
    return array


def pad_sequences(
    sequences: Sequence,
    maxlen: int | None = None,
    dtype: Any = "int64",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> Tensor:
    """Sequences of unequal length as one tensor (N, maxlen, ...): short ones are filled up, long ones cut.

    Arguments and defaults are Keras's, except that this gives a Tensor, of int64, as embeddings and losses want it.

    Args:
        sequences: lists, arrays or tensors; entries may have dimensions of their own, the same everywhere.
        maxlen: the length of all; default that of the longest.
        dtype: of the result. Floats are not cut to integers.
        padding: "pre" fills up before the values, "post" after them.
        truncating: "pre" cuts off the beginning, "post" the end.
        value: what fills up.

    >>> pad_sequences([[1, 2, 3], [4]], maxlen=2)
    tensor([[2, 3],
            [0, 4]])

    Raises:
        ValueError: another word for ``padding`` or ``truncating``, something that is no sequence.
        DTypeError: values that ``dtype`` does not hold.
        ShapeError: entries of unequal shapes.
    """
    return from_array(padded(sequences, maxlen, dtype, padding, truncating, value))


def pad_collate(
    batch: Sequence, padding: str = "post", value: float = 0.0, maxlen: int | None = None, dtype: Any = None
) -> tuple:
    """``collate_fn`` of a ``DataLoader`` whose samples are sequences of unequal length.

    A sample is a sequence, or a tuple that begins with one. The result is ``(padded, lengths)``: the sequences
    filled up (B, T, ...) and their lengths (B,) int64; of tuples, the other entries follow, collated as always.

    Args:
        batch: the samples.
        padding: "pre" or "post".
        value: what fills up.
        maxlen: cut longer sequences (their ends).
        dtype: of the padded tensor; default that of the first sequence that is not empty.

    >>> pad_collate([([1, 2], 0), ([3], 1)])
    (tensor([[1, 2], [3, 0]]), tensor([2, 1]), tensor([0, 1]))

    Settings go in with ``functools.partial(pad_collate, value=1)``.
    """
    paired = isinstance(batch[0], tuple)
    sequences = [as_tensor(sample[0] if paired else sample) for sample in batch]
    if dtype is None:
        dtype = next((s.dtype for s in sequences if s.numel()), "int64")
    out = pad_sequences(sequences, maxlen, dtype, padding, "post", value)
    lengths = from_array(np.array([min(len(s), out.shape[1]) for s in sequences], np.int64))
    rest = [default_collate(column) for column in list(zip(*batch))[1:]] if paired else []
    return (out, lengths, *rest)
