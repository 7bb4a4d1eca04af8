"""What recurrent layers do element by element in one step, forwards and backwards. Floor 1.

Plain functions that Numba compiles, a thread for each hidden unit of each row. All arrays are (rows, columns) of any
strides. The backward ones get the states that a step began with as those of the step before it (its first ``rows``
rows; in packed sequences the others begin here) and ``h0``, and write them out in ``before`` for the gradient of w_hh;
``given`` says whether there is a ``dy``. ``h`` and ``c`` hold the gradients on their way back through the steps.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

from tensorlite.backends.numba_cuda.launching import Kernel, array_type, line, maths, on_device

cuda: Any = None  # this and the next are those of maths(), by element type: see kernel
exp = tanh = zero = one = cuda


def lstm_step(gates, c, h, cells, y):
    """Gates (input, forget, cell, output) of sums become gates; c and h move on."""
    at = cuda.grid(1)
    size = c.shape[1]
    if at < c.shape[0] * size:
        row = at // size
        j = at % size
        i = one / (one + exp(-gates[row, j]))
        f = one / (one + exp(-gates[row, size + j]))
        g = tanh(gates[row, 2 * size + j])
        o = one / (one + exp(-gates[row, 3 * size + j]))
        new = f * c[row, j] + i * g
        gates[row, j] = i
        gates[row, size + j] = f
        gates[row, 2 * size + j] = g
        gates[row, 3 * size + j] = o
        c[row, j] = new
        cells[row, j] = new
        new = o * tanh(new)
        h[row, j] = new
        y[row, j] = new


def lstm_step_dx(gates, cells, gates_before, cells_before, h0, c0, dy, rows, given, h, c, before, d):
    """The gradients d of the sums under the gates; c becomes that of the cells before, h is left to w_hh."""
    at = cuda.grid(1)
    size = c.shape[1]
    if at < c.shape[0] * size:
        row = at // size
        j = at % size
        if row < rows:
            c_before = cells_before[row, j]
            before[row, j] = gates_before[row, 3 * size + j] * tanh(c_before)
        else:
            c_before = c0[row, j]
            before[row, j] = h0[row, j]
        i = gates[row, j]
        f = gates[row, size + j]
        g = gates[row, 2 * size + j]
        o = gates[row, 3 * size + j]
        squashed = tanh(cells[row, j])
        to_h = h[row, j]
        if given:
            to_h += dy[row, j]
        to_c = c[row, j] + to_h * (o * (one - squashed * squashed))
        d[row, j] = i * (one - i) * g * to_c
        d[row, size + j] = f * (one - f) * c_before * to_c
        d[row, 2 * size + j] = i * (one - g * g) * to_c
        d[row, 3 * size + j] = o * (one - o) * squashed * to_h
        c[row, j] = to_c * f


def gru_step(gates, h, y):
    """Sums (q, reset, update, new), q being w_hh's part of new, become gates; h moves on."""
    at = cuda.grid(1)
    size = h.shape[1]
    if at < h.shape[0] * size:
        row = at // size
        j = at % size
        r = one / (one + exp(-gates[row, size + j]))
        z = one / (one + exp(-gates[row, 2 * size + j]))
        n = tanh(gates[row, 3 * size + j] + gates[row, j] * r)
        new = n + z * (h[row, j] - n)
        gates[row, size + j] = r
        gates[row, 2 * size + j] = z
        gates[row, 3 * size + j] = n
        h[row, j] = new
        y[row, j] = new


def gru_step_dx(gates, y_before, h0, dy, rows, given, h, before, d):
    """The gradients d of (q, reset, update, new); h becomes the part of its gradient that goes by the update gate."""
    at = cuda.grid(1)
    size = h.shape[1]
    if at < h.shape[0] * size:
        row = at // size
        j = at % size
        h_before = y_before[row, j] if row < rows else h0[row, j]
        before[row, j] = h_before
        q = gates[row, j]
        r = gates[row, size + j]
        z = gates[row, 2 * size + j]
        n = gates[row, 3 * size + j]
        to_h = h[row, j]
        if given:
            to_h += dy[row, j]
        to_n = (one - z) * (one - n * n) * to_h
        d[row, j] = to_n * r
        d[row, size + j] = to_n * r * (q * (one - r))
        d[row, 2 * size + j] = (h_before - n) * (z * (one - z)) * to_h
        d[row, 3 * size + j] = to_n
        h[row, j] = to_h * z


def tanh_step(y, h):
    """y = tanh of the sums in it, and h is y."""
    at = cuda.grid(1)
    size = h.shape[1]
    if at < h.shape[0] * size:
        new = tanh(y[at // size, at % size])
        y[at // size, at % size] = new
        h[at // size, at % size] = new


def relu_step(y, h):
    """y = relu of the sums in it, and h is y."""
    at = cuda.grid(1)
    size = h.shape[1]
    if at < h.shape[0] * size:
        new = y[at // size, at % size]
        new = zero if new <= zero else new
        y[at // size, at % size] = new
        h[at // size, at % size] = new


def tanh_step_dx(y, y_before, h0, dy, rows, given, h, before, d):
    """The gradients d of the sums under tanh; h is left to w_hh."""
    at = cuda.grid(1)
    size = h.shape[1]
    if at < h.shape[0] * size:
        row = at // size
        j = at % size
        before[row, j] = y_before[row, j] if row < rows else h0[row, j]
        to_h = h[row, j]
        if given:
            to_h += dy[row, j]
        d[row, j] = (one - y[row, j] * y[row, j]) * to_h


def relu_step_dx(y, y_before, h0, dy, rows, given, h, before, d):
    """The gradients d of the sums under relu; h is left to w_hh."""
    at = cuda.grid(1)
    size = h.shape[1]
    if at < h.shape[0] * size:
        row = at // size
        j = at % size
        before[row, j] = y_before[row, j] if row < rows else h0[row, j]
        to_h = h[row, j]
        if given:
            to_h += dy[row, j]
        d[row, j] = to_h if y[row, j] > zero else zero


CELLS = {
    f.__name__: f
    for f in (
        lstm_step,
        lstm_step_dx,
        gru_step,
        gru_step_dx,
        tanh_step,
        tanh_step_dx,
        relu_step,
        relu_step_dx,
    )
}


@cache
def kernel(name: str, short: str) -> Kernel:
    body = CELLS[name]
    arguments = body.__code__.co_varnames[: body.__code__.co_argcount]
    types = ["int64" if a in ("rows", "given") else array_type(short, 2) for a in arguments]
    own = FunctionType(body.__code__, maths(short), name)
    return Kernel(own, ", ".join(types))


def step(name: str, short: str, units: int, *arguments: Any) -> None:
    """Launch a step on arrays and whole numbers; ``units`` is rows times hidden size."""
    if units:
        kernel(name, short)(*line(units), *(a if isinstance(a, int) else on_device(a) for a in arguments))
