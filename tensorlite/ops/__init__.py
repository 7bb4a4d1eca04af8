"""Every op, one family a file. Floor 3: importing this attaches Tensor's methods."""

from tensorlite.ops import compare, choice, elementwise, functions, cast, operators  # noqa: I001
from tensorlite.ops import slices, shape, join, reduce, create, linalg, activation, random
from tensorlite.ops import places, index, gather, rows, mask, diagonal, sort
from tensorlite.ops import conv, pool, conv_act, conv_pool, signals, pad, resize
from tensorlite.ops import einsum, attention, group_norm, blend, tally
from tensorlite.ops import smooth, piecewise, curved, slopes, norm, loss, pair_loss, cross_entropy, update, adaptive
from tensorlite.ops import clip, scaling, linear_act, norm_act, batch_norm_act, rms_norm, fused
from tensorlite.ops import recurrent, recurrent_lstm, recurrent_gru, recurrent_rnn, recurrent_cell
from tensorlite.ops import bags, rank, scan, shuffle, typed
