"""Recurrent cells, one step each: PyTorch's ``lstm_cell``, ``gru_cell``, ``rnn_tanh_cell``, ``rnn_relu_cell``. Floor 3.

A cell is a layer over a sequence of one step, so it costs one node of the tape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import ShapeError
from tensorlite.ops.recurrent import sigmoid_of
from tensorlite.ops.recurrent_gru import gru_layer
from tensorlite.ops.recurrent_lstm import lstm_layer
from tensorlite.ops.recurrent_rnn import rnn_layer


def _check(name: str, input: Tensor, states: Any, w_ih: Tensor, w_hh: Tensor) -> None:
    if input._spec.ndim != 2:
        raise ShapeError(f"{name}: input {input._spec.shape}; wanted (N, inputs)")
    batch, inputs = input._spec.shape
    if w_ih._spec.ndim != 2 or w_ih._spec.shape[1] != inputs:
        raise ShapeError(
            f"{name}: input has inconsistent input_size: got {inputs} for w_ih {w_ih._spec.shape}; wanted "
            f"expected {w_ih._spec.shape[-1]}"
        )
    for k, h in enumerate(states):
        if h._spec.ndim != 2 or h._spec.shape[0] != batch:
            raise ShapeError(
                f"{name}: input batch size {batch} doesn't match hidden{k} batch size: got {h._spec.shape}; wanted "
                f"({batch}, hidden)"
            )
        if h._spec.shape[1] != w_hh._spec.shape[-1]:
            raise ShapeError(
                f"{name}: hidden{k} has inconsistent hidden_size: got {h._spec.shape[1]}, expected "
                f"{w_hh._spec.shape[-1]}"
            )


@op
def lstm_cell(
    input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: (h', c') from input (N, I) and hx = (h, c), each (N, H).

    i, f, g, o = w_ih input + b_ih + w_hh h + b_hh;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c').

    >>> import tensorlite as tl
    >>> state, w = tl.zeros(1, 1), tl.ones(4, 1)
    >>> tl.lstm_cell(tl.ones(1, 1), (state, state), w, w)
    (tensor([[0.3696]]), tensor([[0.5568]]))
    """
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise ShapeError("lstm_cell: expects two hidden states; wanted hx = (h, c)")
    _check("lstm_cell", input, hx, w_ih, w_hh)
    return lstm_layer(input.unsqueeze(0), *hx, w_ih, w_hh, b_ih, b_hh)[1:]  # type: ignore[return-value]


@op
def gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """One step of a GRU: h' from input (N, I) and hx (N, H).

    r = sigmoid(x_r + h_r);  z = sigmoid(x_z + h_z);  n = tanh(x_n + r h_n);  h' = (1 - z) n + z h.

    >>> import tensorlite as tl
    >>> w = tl.ones(3, 1)
    >>> tl.gru_cell(tl.ones(1, 1), tl.zeros(1, 1), w, w)
    tensor([[0.2048]])
    """
    _check("gru_cell", input, [hx], w_ih, w_hh)
    return gru_layer(input.unsqueeze(0), hx, w_ih, w_hh, b_ih, b_hh)[1]


@op
def rnn_tanh_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """tanh(w_ih input + b_ih + w_hh hx + b_hh).  input (N, I), hx (N, H) -> (N, H)."""
    _check("rnn_tanh_cell", input, [hx], w_ih, w_hh)
    return rnn_layer(input.unsqueeze(0), hx, w_ih, w_hh, b_ih, b_hh)[1]


@op
def rnn_relu_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """relu(w_ih input + b_ih + w_hh hx + b_hh).  input (N, I), hx (N, H) -> (N, H)."""
    _check("rnn_relu_cell", input, [hx], w_ih, w_hh)
    return rnn_layer(input.unsqueeze(0), hx, w_ih, w_hh, b_ih, b_hh, nonlinearity="relu")[1]


def _samples(make: Any, gates: int, states: int) -> Any:
    def cell(batch: int, i: int, h: int) -> dict:
        hx = tuple(make(batch, h) for _ in range(states))
        return dict(
            input=make(batch, i), hx=hx if states > 1 else hx[0], w_ih=make(gates * h, i), w_hh=make(gates * h, h)
        )

    yield cell(2, 3, 2)
    yield cell(2, 3, 2) | dict(b_ih=make(gates * 2), b_hh=make(gates * 2))
    yield cell(0, 3, 2)
    yield RuntimeError, cell(2, 3, 2) | dict(input=make(2, 4))
    yield RuntimeError, cell(2, 3, 2) | dict(input=make(1, 3))
    yield RuntimeError, cell(2, 3, 2) | dict(w_hh=make(gates * 3, 3))
    yield RuntimeError, cell(2, 3, 2) | dict(input=make.ints(2, 3))


@lstm_cell.cases
def _(make):
    yield from _samples(make, 4, 2)
    yield RuntimeError, dict(input=make(2, 3), hx=(make(2, 2),), w_ih=make(8, 3), w_hh=make(8, 2))


@gru_cell.cases
def _(make):
    yield from _samples(make, 3, 1)


@rnn_tanh_cell.cases
@rnn_relu_cell.cases
def _(make):
    yield from _samples(make, 1, 1)


@lstm_cell.ref
def _(input, hx, w_ih, w_hh, b_ih=0, b_hh=0):
    h, c = hx
    i, f, g, o = np.split(input @ w_ih.T + h @ w_hh.T + b_ih + b_hh, 4, 1)
    c = sigmoid_of(f) * c + sigmoid_of(i) * np.tanh(g)
    return sigmoid_of(o) * np.tanh(c), c


@gru_cell.ref
def _(input, hx, w_ih, w_hh, b_ih=0, b_hh=0):
    (r, z, n), (hr, hz, hn) = np.split(input @ w_ih.T + b_ih, 3, 1), np.split(hx @ w_hh.T + b_hh, 3, 1)
    z = sigmoid_of(z + hz)
    return (1 - z) * np.tanh(n + sigmoid_of(r + hr) * hn) + z * hx


rnn_tanh_cell.ref(lambda input, hx, w_ih, w_hh, b_ih=0, b_hh=0: np.tanh(input @ w_ih.T + hx @ w_hh.T + b_ih + b_hh))
rnn_relu_cell.ref(
    lambda input, hx, w_ih, w_hh, b_ih=0, b_hh=0: np.maximum(input @ w_ih.T + hx @ w_hh.T + b_ih + b_hh, 0)
)
