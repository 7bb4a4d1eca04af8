"""Plain forwards on the stand-in of CuPy: for each primitive what NumPy gives, with nothing that CuPy refuses."""

import numpy as np
import pytest
from ops_harness import cases, primitives

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import Entry
from tensorlite.autograd.pick import pick
from tensorlite.autograd.run import execute, set_seam
from tensorlite.backends import cuda, standin
from tensorlite.backends.standin.arrays import fresh

WAYS = [(tl.float32, "contiguous"), (tl.float32, "strided"), (tl.float16, "contiguous"), (tl.bfloat16, "contiguous")]
TOLERANCE = {2: (1e-2, 1e-2), 4: (2e-5, 2e-6), 8: (1e-10, 1e-10)}  # by the size of an element: (relative, absolute)

# op -> why its plain forward does not run on a GPU. None is the aim.
EXCLUDED: dict[str, str] = {}

# Plain forwards that let the host wait for the device, and why. Inside a step that must not be, such an op needs a
# kernel of its own. An op that is not here must not read, and one that is here must.
_BOUNDS = "the indices are looked through, so that a bad one raises"
_VALUES = "the values are looked through, so that a bad one raises"
_WORDS = "the random key is read, and the words are worked out from numbers"
_STEPS = "learning rate and step counts are read"
_SIZES = "the sizes of the batch at each time are read"
_ERF = "erf picks its ranges by masks"
READS = {
    _BOUNDS: """embedding gather index_add index_copy index_put index_select scatter scatter_add unindex unselect
        one_hot class_pick class_put cross_entropy cross_entropy_dx cross_entropy_kept cross_entropy_kept_dx""",
    _VALUES: "bce bernoulli floor_divide pow remainder trunc_divide",
    _WORDS: "dropout_mask normal randint randperm uniform",
    _STEPS: "adam adadelta adagrad adamax nadam radam rmsprop",
    _SIZES: "gru_layer gru_layer_dx lstm_layer lstm_layer_dx rnn_layer rnn_layer_dx",
    _ERF: "act_dx erf gelu gelu_dx layer_norm_act layer_norm_act_dx linear_act linear_gelu",
    "how many there are decides the shape": "nonzero unique",
    "the norms of the tensors are added on the host": "total_norm",
}
READING = {name for names in READS.values() for name in names.split()}


@pytest.fixture(autouse=True)
def emulated():
    with config.CUDA_EMULATION(1), config.KERNELS("plain"):
        yield


def runs(case) -> list:
    """Every run of the op's own primitive in a case, on NumPy: entry, arrays before and after it, outputs."""
    found: list = []

    def seam(entry, arrays, outs):
        before = [None if a is None else a.copy("K") for a in arrays]
        made = execute(entry, arrays, outs)
        if entry.op is case.op:
            after = [None if a is None else a.copy("K") for a in arrays]
            found.append((entry, before, after, made if isinstance(made, (tuple, list)) else (made,)))
        return made

    set_seam(seam)
    try:
        with tl.no_grad():
            case.run()
    finally:
        set_seam(None)
    return found


def on_gpu(entry, before, made) -> tuple[list, list, standin.Counts]:
    """The same run by the plain kernel that a GPU would get: the inputs afterwards, the outputs, what crossed."""
    e = Entry()
    for name in ("kw", "op", "out", "outs", "specs"):
        setattr(e, name, getattr(entry, name))
    e.fresh, e.native = None, False
    pick(e.op, e, cuda.on(0))
    assert not e.native
    inputs = [None if a is None else fresh(a, order="K") for a in before]
    outs = [] if e.op.view or e.op.dynamic or not e.outs else [standin.xp.empty_like(fresh(y, order="K")) for y in made]
    with standin.watch() as seen:
        given = e.kernel(*inputs, *outs)
    if e.op.view or e.op.dynamic:
        outs = list(given) if isinstance(given, (tuple, list)) else [given]
    return inputs, outs, seen


def difference(got, wanted) -> str | None:
    if not isinstance(got, standin.ndarray):
        return f"a {type(got)}; wanted an array of the device"
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        return f"{got.dtype}{got.shape}; NumPy {wanted.dtype}{wanted.shape}"
    relative, absolute = TOLERANCE[got.itemsize] if got.dtype.kind in "fV" else (0, 0)
    a, b = got.get().astype("f8"), wanted.astype("f8")
    if not np.allclose(a, b, relative, absolute, equal_nan=True):
        return f"values {a.ravel()[:4]}; NumPy {b.ravel()[:4]}"
    return None


@pytest.mark.parametrize("op", primitives(), ids=lambda op: op.name)
def test_gives_what_numpy_gives(op):
    """And reads nothing from the device, unless READS says why."""
    if op.name in EXCLUDED:
        pytest.skip(EXCLUDED[op.name])
    wrong, read = [], 0
    for float_type, layout in WAYS:
        for case in cases(op, float_type, layout):
            for entry, before, after, made in runs(case):
                try:
                    inputs, outs, seen = on_gpu(entry, before, made)
                except Exception as error:
                    raise AssertionError(f"{case} in {float_type}, {layout}: {error}") from error
                read += seen.crossings
                pairs = [(a, b) for a, b in zip([*inputs, *outs], [*after, *made]) if b is not None]
                assert len(outs) == len(made)
                wrong += [f"{case} in {float_type}, {layout}: {d}" for a, b in pairs if (d := difference(a, b))]
    assert not wrong, "\n".join(wrong[:5])
    if op.name in READING:
        assert read, "reads nothing from the device any more; take it out of READS"
    else:
        assert not read, "reads from the device, or copies to it"


def test_the_lists_name_primitives():
    assert READING | set(EXCLUDED) <= {op.name for op in primitives()}
