"""Metrics beside scikit-learn; batches add up to the whole; a run that stops goes on."""

import math
import warnings

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import metrics
from tensorlite.errors import DTypeError, ShapeError

RNG = np.random.default_rng(7)
N, C = 157, 6


def scores(n=N, c=C, *more):
    return RNG.standard_normal((n, c, *more)).astype(np.float32)


def ids(n=N, c=C, *more):
    return RNG.integers(0, c, (n, *more))


SOFT, HARD = scores(), ids()
HARD[HARD == 4] = 1  # a class that is guessed and never true
TIED = (RNG.integers(0, 8, N) / 8).astype(np.float32)  # many equal scores
BINARY = ids(N, 2)
REAL = RNG.standard_normal(N) + 1e4  # far from 0: sums of squares would lose eight digits
NEAR = REAL + RNG.standard_normal(N) / 2


def same(mine, theirs, **tolerance):
    mine = mine.numpy() if isinstance(mine, tl.Tensor) else mine
    np.testing.assert_allclose(mine, theirs, **({"rtol": 1e-12} | tolerance))


def whole(metric, *data):
    metric.update(*(tl.from_numpy(a) for a in data))
    return metric.compute()


# ---- the same numbers as scikit-learn
@pytest.fixture(scope="module")
def sk():
    return pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "none"])
@pytest.mark.parametrize("ours,theirs", [("Precision", "precision"), ("Recall", "recall"), ("F1Score", "f1")])
@pytest.mark.parametrize("zero_division", [0.0, 1.0])
def test_averages_over_classes(sk, ours, theirs, average, zero_division):
    function, kind = getattr(sk, f"{theirs}_score"), getattr(metrics, ours)
    guessed = SOFT.argmax(1)
    wanted = dict(average=None if average == "none" else average, zero_division=zero_division)
    theirs = function(HARD, guessed, **wanted)
    same(whole(kind(average, zero_division=zero_division), SOFT, HARD), theirs)
    same(whole(kind(average, zero_division=zero_division), guessed, HARD), theirs)
    few = np.array([0, 5, 5]), np.array([5, 0, 5])  # classes between that never occur
    theirs = function(few[1], few[0], **wanted, labels=range(6) if average == "none" else None)
    same(whole(kind(average, zero_division=zero_division), *few), theirs)


@pytest.mark.parametrize("ours,theirs", [("Precision", "precision"), ("Recall", "recall"), ("F1Score", "f1")])
def test_binary_average_is_of_class_1(sk, ours, theirs):
    theirs = getattr(sk, f"{theirs}_score")(BINARY, TIED > 0.5)
    same(whole(getattr(metrics, ours)("binary"), TIED, BINARY), theirs)
    same(whole(getattr(metrics, ours)("binary", threshold=0.0), TIED - 0.5, BINARY), theirs)
    with pytest.raises(ValueError, match="class 2 in preds; wanted 0 to 1"):
        getattr(metrics, ours)("binary").update([0, 2], [0, 1])


def test_accuracies(sk):
    same(whole(metrics.Accuracy(), SOFT, HARD), sk.accuracy_score(HARD, SOFT.argmax(1)))
    same(whole(metrics.Accuracy(), TIED, BINARY.astype(np.float32)), sk.accuracy_score(BINARY, TIED > 0.5))
    same(whole(metrics.Accuracy(), TIED > 0.5, BINARY > 0), sk.accuracy_score(BINARY, TIED > 0.5))
    for k in range(1, C + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn: k as great as the number of classes is perfect
            theirs = sk.top_k_accuracy_score(HARD, SOFT, k=k, labels=range(C))
        same(whole(metrics.TopKAccuracy(k), SOFT, HARD), theirs)


def test_top_1_is_accuracy_with_equal_scores_too():
    flat = np.round(SOFT)
    assert whole(metrics.TopKAccuracy(1), flat, HARD) == whole(metrics.Accuracy(), flat, HARD)
    assert metrics.TopKAccuracy(1)(tl.full((1, 3), math.nan), [0]) == 0


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_confusion_matrix(sk, normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sk.confusion_matrix(HARD, SOFT.argmax(1), normalize=normalize, labels=range(C))
    mine = whole(metrics.ConfusionMatrix(normalize=normalize), SOFT, HARD)
    assert mine.dtype is (tl.int64 if normalize is None else tl.float64)
    same(mine, theirs)


def test_auc(sk):
    same(whole(metrics.AUC(), TIED, BINARY), sk.roc_auc_score(BINARY, TIED))
    pair = scores(N, 2)
    same(whole(metrics.AUC(), pair, BINARY), sk.roc_auc_score(BINARY, pair[:, 1] - pair[:, 0].astype(np.float64)))
    assert metrics.AUC()(tl.tensor([-math.inf, 0.0, math.inf]), [0, 0, 1]) == 1
    assert metrics.AUC()(tl.ones(4), [0, 0, 1, 1]) == 0.5


@pytest.mark.parametrize(
    "ours,theirs",
    [
        ("MeanAbsoluteError", "mean_absolute_error"),
        ("MeanSquaredError", "mean_squared_error"),
        ("RootMeanSquaredError", "root_mean_squared_error"),
        ("R2Score", "r2_score"),
    ],
)
def test_regression(sk, ours, theirs):
    kind, function = getattr(metrics, ours), getattr(sk, theirs)
    same(whole(kind(), NEAR, REAL), function(REAL, NEAR))
    same(whole(kind(), HARD, BINARY), function(BINARY, HARD))  # integers
    if ours != "RootMeanSquaredError":  # scikit-learn takes the mean of the columns' roots
        same(whole(kind(), NEAR[:156].reshape(-1, 3), REAL[:156].reshape(-1, 3)), function(
            REAL[:156].reshape(-1, 3), NEAR[:156].reshape(-1, 3)
        ))  # fmt: skip


def test_r2_where_the_target_does_not_vary(sk):
    flat, off = np.ones(4), np.array([1.0, 1.0, 1.0, 2.0])
    assert metrics.R2Score()(flat, flat) == sk.r2_score(flat, flat) == 1
    assert metrics.R2Score()(off, flat) == sk.r2_score(flat, off) == 0
    both = np.stack([flat, off], 1)
    same(metrics.R2Score()(both[:, ::-1].copy(), both), sk.r2_score(both, both[:, ::-1]))


def test_perplexity_is_exp_of_cross_entropy():
    target = HARD.copy()
    target[::5] = -100
    x, t = tl.from_numpy(SOFT).double(), tl.from_numpy(target)
    same(whole(metrics.Perplexity(), SOFT, target), math.exp(tl.nn.functional.cross_entropy(x, t).item()))
    some = metrics.Perplexity(ignore_index=3)
    same(whole(some, SOFT, HARD), math.exp(
        tl.nn.functional.cross_entropy(x, tl.from_numpy(HARD), ignore_index=3).item()
    ))  # fmt: skip
    nats = metrics.Perplexity()
    nats.update_nats(tl.tensor(2.0), 3)
    nats.update_nats(1.0)
    same(nats.compute(), math.exp(7 / 4))
    assert metrics.Perplexity()(tl.tensor([[0.0, -math.inf]]), [1]) == math.inf
    nats.update_nats(1e6)
    assert nats.compute() == math.inf


def test_mean_is_weighted():
    mean = metrics.Mean("loss", higher_is_better=False)
    assert mean(tl.tensor([1.0, 2.0]), tl.tensor([3.0, 1.0])) == 1.25
    assert mean(4.0, weight=4) == 4.0
    assert mean.compute() == (5 + 16) / 8
    assert (mean.name, mean.higher_is_better, metrics.Mean().higher_is_better) == ("loss", False, None)
    assert math.isnan(metrics.Mean()(math.nan)) and metrics.Mean()(math.inf) == math.inf
    assert math.isnan(metrics.Mean()(2.0, weight=0))


# ---- batches, and going on
CASES = {
    "accuracy": (metrics.Accuracy, SOFT, HARD),
    "accuracy, binary": (metrics.Accuracy, TIED, BINARY),
    "accuracy, places": (lambda: metrics.Accuracy(ignore_index=2), scores(N, C, 3), ids(N, C, 3)),
    "accuracy, last": (lambda: metrics.Accuracy(dim=-1), scores(N, C, 4), ids(N, 4, C)),
    "top 2": (lambda: metrics.TopKAccuracy(2, ignore_index=0), SOFT, HARD),
    "precision": (lambda: metrics.Precision("weighted"), SOFT.argmax(1), np.sort(HARD)),
    "recall": (lambda: metrics.Recall("none"), SOFT.argmax(1), np.sort(HARD)),
    "f1": (metrics.F1Score, SOFT.argmax(1), np.sort(HARD)),
    "confusion": (metrics.ConfusionMatrix, SOFT.argmax(1), np.sort(HARD)),
    "auc": (metrics.AUC, TIED, BINARY),
    "mae": (metrics.MeanAbsoluteError, NEAR, REAL),
    "mse": (metrics.MeanSquaredError, NEAR, REAL),
    "rmse": (metrics.RootMeanSquaredError, NEAR, REAL),
    "r2": (metrics.R2Score, NEAR, np.sort(REAL)),
    "perplexity": (metrics.Perplexity, SOFT, HARD),
    "perplexity, last": (lambda: metrics.Perplexity(dim=-1), scores(N, C, C), ids(N, C, C)),
    "mean": (metrics.Mean, NEAR, BINARY + 1.0),
}


def batches(a, size=10):
    return [tl.from_numpy(a[k : k + size]) for k in range(0, len(a), size)]


@pytest.mark.parametrize("case", CASES)
def test_batches_add_up_to_the_whole(case):
    make, preds, target = CASES[case]
    metric = make()
    for p, t in zip(batches(preds), batches(target)):
        alone = make()
        alone.update(p, t)
        now = metric(p, t)
        same(now, alone.compute(), rtol=0)
    same(metric.compute(), whole(make(), preds, target), rtol=1e-10)
    metric.reset()
    same(metric(batches(preds)[0], batches(target)[0]), metric.compute(), rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_stops_goes_on(case, tmp_path):
    make, preds, target = CASES[case]
    pairs = list(zip(batches(preds), batches(target)))
    straight, first, second = make(), make(), make()
    for p, t in pairs:
        straight.update(p, t)
    for p, t in pairs[:7]:
        first.update(p, t)
    tl.save(first.state_dict(), tmp_path / "state.pt")
    kept = first.compute()
    second.load_state_dict(tl.load(tmp_path / "state.pt"))
    for p, t in pairs[7:]:
        second.update(p, t)
    same(second.compute(), straight.compute(), rtol=0)
    same(first.compute(), kept, rtol=0)  # the state was a copy
    assert {k: v.dtype for k, v in second.state_dict().items()} == {
        k: v.dtype for k, v in straight.state_dict().items()
    }


@pytest.mark.parametrize("case", CASES)
def test_a_state_from_before_any_batch_can_be_loaded(case):
    make, preds, target = CASES[case]
    metric = make()
    metric.load_state_dict(make().state_dict())
    same(whole(metric, preds, target), whole(make(), preds, target), rtol=0)


def test_sums_keep_their_digits():
    small = tl.full((1000,), 1e-4, dtype=tl.bfloat16)
    metric = metrics.MeanAbsoluteError()
    for _ in range(30):
        metric.update(small, tl.zeros(1000, dtype=tl.bfloat16))
    same(metric.compute(), small[0].item())
    assert metric.state_dict()["count"].item() == 30_000


@pytest.mark.parametrize("kind", [tl.float16, tl.bfloat16, tl.float64])
def test_other_element_types(kind):
    x = tl.from_numpy(np.round(SOFT * 4) / 4).to(kind).requires_grad_()
    for make in (metrics.Accuracy, metrics.F1Score, metrics.Perplexity, lambda: metrics.TopKAccuracy(2)):
        same(make()(x, tl.from_numpy(HARD).int()), make()(x.detach().double().tolist(), HARD))


# ---- nothing
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_nan(case):
    make, preds, target = CASES[case]
    for metric in (make(), make()):
        value = metric.compute()
        if isinstance(value, tl.Tensor):
            assert value.numel() == 0
        else:
            assert math.isnan(value)
        metric.update(tl.from_numpy(preds[:0]), tl.from_numpy(target[:0]))  # nor does an empty batch count
        if not isinstance(metric, (metrics.ConfusionMatrix, metrics.Recall)):
            assert math.isnan(metric.compute())
        same(whole(metric, preds, target), whole(make(), preds, target), rtol=0)


def test_one_class_or_one_sample_alone():
    assert math.isnan(metrics.AUC()(tl.tensor([0.1, 0.9]), [1, 1]))
    assert math.isnan(metrics.R2Score()([1.0], [2.0]))
    assert metrics.ConfusionMatrix(3).compute().tolist() == [[0] * 3] * 3
    only = metrics.Accuracy(ignore_index=0)
    assert math.isnan(only([0, 0], [0, 0]))


# ---- refusals
REFUSED = [
    (metrics.Accuracy, SOFT, HARD[:-1], ShapeError, r"Accuracy: got preds \(157, 6\)"),
    (metrics.Accuracy, SOFT[:, :1], HARD, ShapeError, "scores of 1 classes; wanted 2 or more"),
    (metrics.Accuracy, SOFT, HARD + 0.0, DTypeError, "target of float64; wanted integers"),
    (metrics.Accuracy, HARD, HARD + 0.0, DTypeError, "target of float64; wanted integers"),
    (metrics.Accuracy, SOFT, HARD + 1, ValueError, "class 6 in target; wanted 0 to 5"),
    (metrics.Accuracy, SOFT, HARD - 100, ValueError, "in target; wanted 0 to 5"),
    (metrics.Accuracy, HARD, HARD - 100, ValueError, "in target; wanted 0 or more"),
    (metrics.Accuracy, TIED, HARD, ValueError, "wanted 0 or 1"),
    (metrics.Accuracy, ["a"], ["a"], DTypeError, "preds of type list"),
    (lambda: metrics.Precision(num_classes=5), SOFT, HARD, ShapeError, "scores of 6 classes; wanted 5"),
    (lambda: metrics.ConfusionMatrix(4), HARD, HARD, ValueError, "class 5 in preds; wanted 0 to 3"),
    (lambda: metrics.TopKAccuracy(7), SOFT, HARD, ShapeError, "scores of 6 classes; wanted 7 or more"),
    (lambda: metrics.TopKAccuracy(2), HARD, HARD, ShapeError, "TopKAccuracy: got preds"),
    (lambda: metrics.Accuracy(dim=2), SOFT, HARD, ShapeError, "along dimension 2"),
    (metrics.AUC, SOFT, HARD, ShapeError, r"AUC: got preds \(157, 6\)"),
    (metrics.AUC, TIED, HARD, ValueError, "wanted 0 or 1"),
    (metrics.AUC, BINARY, BINARY, DTypeError, "floating-point scores"),
    (metrics.AUC, TIED * np.nan, BINARY, ValueError, "nan"),
    (metrics.MeanSquaredError, NEAR[:, None], REAL, ShapeError, r"\(157, 1\) and target \(157,\)"),
    (metrics.MeanSquaredError, BINARY > 0, BINARY > 0, DTypeError, "booleans"),
    (metrics.R2Score, np.ones((2, 2, 2)), np.ones((2, 2, 2)), ShapeError, r"wanted \(N\) or \(N, K\)"),
    (metrics.Perplexity, HARD, HARD, ShapeError, "Perplexity: got preds"),
    (metrics.Perplexity, SOFT, HARD + 1, ValueError, "class 6 in target"),
    (metrics.Mean, NEAR, NEAR[:3], ShapeError, "weight"),
    (metrics.Mean, NEAR, -1.0, ValueError, "weight -1.0; wanted 0 or more"),
]


@pytest.mark.parametrize("k", range(len(REFUSED)))
def test_refusals_leave_the_counts_alone(k):
    make, preds, target, error, message = REFUSED[k]
    metric = make()
    before = metric.state_dict()
    with pytest.raises(error, match=message):
        metric.update(preds, target)
    assert {n: v.tolist() for n, v in metric.state_dict().items()} == {n: v.tolist() for n, v in before.items()}


def test_arguments_are_checked():
    for make in (
        lambda: metrics.F1Score("mean"),
        lambda: metrics.F1Score("binary", num_classes=3),
        lambda: metrics.TopKAccuracy(0),
        lambda: metrics.ConfusionMatrix(normalize="rows"),
        lambda: metrics.ConfusionMatrix(0),
    ):
        with pytest.raises(ValueError, match="wanted"):
            make()
    with pytest.raises(ShapeError, match="columns"):
        both = metrics.R2Score()
        both.update(np.ones((3, 2)), np.ones((3, 2)))
        both.update(np.ones((3, 3)), np.ones((3, 3)))
    with pytest.raises(ShapeError, match="nats"):
        metrics.Perplexity().update_nats(tl.ones(2))
    with pytest.raises(RuntimeError, match=r"got \['total'\]; wanted \['right', 'total'\]"):
        metrics.Accuracy().load_state_dict({"total": tl.tensor(1)})
    with pytest.raises(ShapeError, match="dimensions"):
        metrics.Accuracy().load_state_dict({"total": tl.ones(2), "right": tl.ones(2)})


# ---- names
def test_get_by_name_class_or_itself():
    from tensorlite.metrics.names import NAMES

    for name, kind in NAMES.items():
        made = metrics.get(name)
        assert type(made) is kind and metrics.get(made) is made
        assert type(metrics.get(kind)) is kind
    assert {kind.__name__ for kind in NAMES.values()} | {"Metric", "get"} == set(metrics.__all__)
    assert metrics.get("top3").name == metrics.get("top3_accuracy").name == "top3_accuracy"
    assert metrics.get("accuracy") is not metrics.get("accuracy")
    assert metrics.Accuracy(name="validation").name == "validation"
    with pytest.raises(ValueError, match="got 'acuracy'; wanted"):
        metrics.get("acuracy")
    with pytest.raises(TypeError, match="got 3"):
        metrics.get(3)


def test_directions():
    better = {name: metrics.get(name).higher_is_better for name in ("accuracy", "top2", "f1", "auc", "r2")}
    assert set(better.values()) == {True}
    assert {metrics.get(n).higher_is_better for n in ("mae", "mse", "rmse", "perplexity")} == {False}
    assert metrics.get("confusion_matrix").higher_is_better is None


def test_no_gradient_is_recorded_and_scores_are_copied():
    x = tl.tensor([0.2, 0.8], requires_grad=True)
    auc = metrics.AUC()
    auc.update(x, [0, 1])
    with tl.no_grad():
        x.zero_()
    assert auc.compute() == 1.0 and x.grad is None
