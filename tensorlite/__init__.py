"""tensorlite: a small deep-learning framework with PyTorch's names and kernels of its own.

The public names. Folders stand on floors, and a file imports only from lower ones:
ground (errors, config, dtypes, shapes), ``backends``, ``autograd``, ``ops``, learning (``nn``, ``optim``, ``io``,
``utils.data``, ``vision``), and the face: this file, the command line, the examples. Floor 7.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from tensorlite import autograd as autograd, backends as backends, config as config, errors as errors, ops as _ops
from tensorlite._version import __version__ as __version__
from tensorlite.autograd.modes import (
    enable_grad as enable_grad,
    inference_mode as inference_mode,
    is_grad_enabled as is_grad_enabled,
    is_inference_mode_enabled as is_inference_mode_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
from tensorlite.autograd.printing import set_printoptions as set_printoptions
from tensorlite.autograd.spec import (
    channels_last as channels_last,
    channels_last_3d as channels_last_3d,
    contiguous_format as contiguous_format,
    memory_format as memory_format,
    preserve_format as preserve_format,
)
from tensorlite.autograd.tensor import Tensor as Tensor
from tensorlite.autograd.tracing import follow_switches as _follow_switches
from tensorlite.backends import (
    Device as device,
    get_float32_matmul_precision as get_float32_matmul_precision,
    set_float32_matmul_precision as set_float32_matmul_precision,
)
from tensorlite.backends.cpu import get_num_threads as get_num_threads, set_num_threads as set_num_threads
from tensorlite.dtypes import (
    bfloat16 as bfloat16,
    bool as bool,
    can_cast as can_cast,
    double as double,
    dtype as dtype,
    finfo as finfo,
    float as float,
    float16 as float16,
    float32 as float32,
    float64 as float64,
    get_default_dtype as get_default_dtype,
    half as half,
    iinfo as iinfo,
    int as int,
    int8 as int8,
    int16 as int16,
    int32 as int32,
    int64 as int64,
    long as long,
    promote_types as promote_types,
    set_default_dtype as set_default_dtype,
    short as short,
    uint8 as uint8,
)
from tensorlite.errors import OutOfMemoryError as OutOfMemoryError
from tensorlite.ops.activation import (
    log_softmax as log_softmax,
    relu as relu,
    sigmoid as sigmoid,
    softmax as softmax,
    tanh as tanh,
)
from tensorlite.ops.blend import (
    addcdiv as addcdiv,
    addcmul as addcmul,
    atan2 as arctan2,
    atan2 as atan2,
    lerp as lerp,
    logaddexp as logaddexp,
)
from tensorlite.ops.cast import (
    clone as clone,
)
from tensorlite.ops.choice import (
    clamp as clamp,
    clamp as clip,
    clamp_max as clamp_max,
    clamp_min as clamp_min,
    maximum as maximum,
    minimum as minimum,
    where as where,
)
from tensorlite.ops.compare import (
    bitwise_and as bitwise_and,
    bitwise_not as bitwise_not,
    bitwise_or as bitwise_or,
    bitwise_xor as bitwise_xor,
    eq as eq,
    ge as ge,
    gt as gt,
    isfinite as isfinite,
    isinf as isinf,
    isnan as isnan,
    le as le,
    logical_and as logical_and,
    logical_not as logical_not,
    logical_or as logical_or,
    logical_xor as logical_xor,
    lt as lt,
    ne as ne,
)
from tensorlite.ops.conv import (
    conv1d as conv1d,
    conv2d as conv2d,
    conv_transpose2d as conv_transpose2d,
)
from tensorlite.ops.create import (
    arange as arange,
    as_tensor as as_tensor,
    asarray as asarray,
    empty as empty,
    empty_like as empty_like,
    eye as eye,
    from_dlpack as from_dlpack,
    from_numpy as from_numpy,
    frombuffer as frombuffer,
    full as full,
    full_like as full_like,
    is_floating_point as is_floating_point,
    is_tensor as is_tensor,
    linspace as linspace,
    numel as numel,
    ones as ones,
    ones_like as ones_like,
    tensor as tensor,
    zeros as zeros,
    zeros_like as zeros_like,
)
from tensorlite.ops.curved import (
    celu as celu,
    selu as selu,
)
from tensorlite.ops.diagonal import (
    diag as diag,
    diag_embed as diag_embed,
    diagonal as diagonal,
    trace as trace,
    tril as tril,
    tril_indices as tril_indices,
    triu as triu,
    triu_indices as triu_indices,
)
from tensorlite.ops.einsum import (
    einsum as einsum,
)
from tensorlite.ops.elementwise import (
    abs as abs,
    abs as absolute,
    add as add,
    div as div,
    div as divide,
    div as true_divide,
    floor_divide as floor_divide,
    mul as mul,
    mul as multiply,
    neg as neg,
    neg as negative,
    pow as pow,
    remainder as remainder,
    sign as sign,
    sub as sub,
    sub as subtract,
)
from tensorlite.ops.functions import (
    ceil as ceil,
    cos as cos,
    exp as exp,
    expm1 as expm1,
    floor as floor,
    log as log,
    log1p as log1p,
    log2 as log2,
    log10 as log10,
    reciprocal as reciprocal,
    round as round,
    rsqrt as rsqrt,
    sin as sin,
    sqrt as sqrt,
    square as square,
    trunc as trunc,
)
from tensorlite.ops.gather import (
    gather as gather,
    scatter as scatter,
    scatter_add as scatter_add,
    take_along_dim as take_along_dim,
)
from tensorlite.ops.group_norm import (
    group_norm as group_norm,
    instance_norm as instance_norm,
)
from tensorlite.ops.index import (
    index_put as index_put,
    masked_select as masked_select,
)
from tensorlite.ops.join import (
    cat as cat,
    chunk as chunk,
    concat as concat,
    concatenate as concatenate,
    flip as flip,
    hstack as hstack,
    meshgrid as meshgrid,
    split as split,
    split_with_sizes as split_with_sizes,
    stack as stack,
    tile as tile,
    unbind as unbind,
    vstack as vstack,
)
from tensorlite.ops.linalg import (
    addmm as addmm,
    baddbmm as baddbmm,
    bmm as bmm,
    dot as dot,
    matmul as matmul,
    mm as mm,
    mv as mv,
    outer as outer,
)
from tensorlite.ops.mask import (
    allclose as allclose,
    argwhere as argwhere,
    equal as equal,
    isclose as isclose,
    masked_fill as masked_fill,
    nonzero as nonzero,
)
from tensorlite.ops.norm import (
    batch_norm as batch_norm,
    layer_norm as layer_norm,
)
from tensorlite.ops.pair_loss import (
    cdist as cdist,
    cosine_embedding_loss as cosine_embedding_loss,
    cosine_similarity as cosine_similarity,
    hinge_embedding_loss as hinge_embedding_loss,
    margin_ranking_loss as margin_ranking_loss,
    pairwise_distance as pairwise_distance,
    poisson_nll_loss as poisson_nll_loss,
    triplet_margin_loss as triplet_margin_loss,
)
from tensorlite.ops.piecewise import (
    hardshrink as hardshrink,
    prelu as prelu,
    rrelu as rrelu,
    threshold as threshold,
)
from tensorlite.ops.pool import (
    max_pool2d as max_pool2d,
)
from tensorlite.ops.random import (
    Generator as Generator,
    bernoulli as bernoulli,
    default_generator as default_generator,
    dropout as dropout,
    get_rng_state as get_rng_state,
    initial_seed as initial_seed,
    manual_seed as manual_seed,
    multinomial as multinomial,
    normal as normal,
    rand as rand,
    rand_like as rand_like,
    randint as randint,
    randint_like as randint_like,
    randn as randn,
    randn_like as randn_like,
    randperm as randperm,
    seed as seed,
    set_rng_state as set_rng_state,
)
from tensorlite.ops.rank import kthvalue as kthvalue, median as median, quantile as quantile
from tensorlite.ops.recurrent_cell import (
    gru_cell as gru_cell,
    lstm_cell as lstm_cell,
    rnn_relu_cell as rnn_relu_cell,
    rnn_tanh_cell as rnn_tanh_cell,
)
from tensorlite.ops.reduce import (
    all as all,
    amax as amax,
    amin as amin,
    any as any,
    argmax as argmax,
    argmin as argmin,
    cumsum as cumsum,
    logsumexp as logsumexp,
    max as max,
    mean as mean,
    min as min,
    norm as norm,
    std as std,
    sum as sum,
    var as var,
)
from tensorlite.ops.rms_norm import rms_norm as rms_norm
from tensorlite.ops.rows import (
    embedding as embedding,
    index_add as index_add,
    index_copy as index_copy,
    index_fill as index_fill,
    index_select as index_select,
)
from tensorlite.ops.scan import (
    scan as scan,
)
from tensorlite.ops.shape import (
    broadcast_shapes as broadcast_shapes,
    broadcast_tensors as broadcast_tensors,
    broadcast_to as broadcast_to,
    flatten as flatten,
    movedim as moveaxis,
    movedim as movedim,
    permute as permute,
    ravel as ravel,
    reshape as reshape,
    squeeze as squeeze,
    swapaxes as swapaxes,
    swapdims as swapdims,
    t as t,
    transpose as transpose,
    unflatten as unflatten,
    unsqueeze as unsqueeze,
)
from tensorlite.ops.signals import (
    adaptive_avg_pool1d as adaptive_avg_pool1d,
    adaptive_max_pool1d as adaptive_max_pool1d,
    avg_pool1d as avg_pool1d,
    conv_transpose1d as conv_transpose1d,
    max_pool1d as max_pool1d,
)
from tensorlite.ops.slices import (
    narrow as narrow,
    select as select,
)
from tensorlite.ops.smooth import (
    erf as erf,
)
from tensorlite.ops.sort import (
    argsort as argsort,
    sort as sort,
    topk as topk,
    unique as unique,
)
from tensorlite.ops.tally import (
    bincount as bincount,
    count_nonzero as count_nonzero,
    cumprod as cumprod,
    isin as isin,
    prod as prod,
    repeat_interleave as repeat_interleave,
    roll as roll,
    std_mean as std_mean,
    var_mean as var_mean,
)
from tensorlite.ops.typed import (
    BFloat16Tensor as BFloat16Tensor,
    BoolTensor as BoolTensor,
    ByteTensor as ByteTensor,
    CharTensor as CharTensor,
    DoubleTensor as DoubleTensor,
    FloatTensor as FloatTensor,
    HalfTensor as HalfTensor,
    IntTensor as IntTensor,
    LongTensor as LongTensor,
    ShortTensor as ShortTensor,
)
from tensorlite.shapes import Size as Size

if _TYPE_CHECKING:
    from tensorlite import (
        amp as amp,
        callbacks as callbacks,
        cuda as cuda,
        io as io,
        metrics as metrics,
        nn as nn,
        optim as optim,
        program as program,
        text as text,
        train as train,
        utils as utils,
        vision as vision,
    )
    from tensorlite.amp import (
        autocast as autocast,
        get_autocast_dtype as get_autocast_dtype,
        is_autocast_enabled as is_autocast_enabled,
    )
    from tensorlite.io import load as load, save as save
    from tensorlite.program import compile as compile

inf, nan, pi, e = 1e1000, 1e1000 - 1e1000, 3.141592653589793, 2.718281828459045
newaxis = None
strided = "strided"

# what not every program needs is imported when first named, so that `import tensorlite` stays quick
_LAZY = {
    name: name
    for name in (
        "amp",
        "callbacks",
        "cuda",
        "io",
        "metrics",
        "nn",
        "optim",
        "program",
        "text",
        "train",
        "utils",
        "vision",
    )
} | {
    "load": "io",
    "save": "io",
    "compile": "program",
    "autocast": "amp",
    "get_autocast_dtype": "amp",
    "is_autocast_enabled": "amp",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'tensorlite' has no attribute {name!r}")
    module = _importlib.import_module(f"tensorlite.{_LAZY[name]}")
    globals()[name] = value = module if name == _LAZY[name] else getattr(module, name)
    return value


def __dir__() -> list:
    return sorted({*globals(), *_LAZY})


_follow_switches()
