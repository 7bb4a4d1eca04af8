"""Recurrent layers and cells: RNN, LSTM, GRU. Floor 5."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

from tensorlite.autograd.autocast import current
from tensorlite.autograd.tensor import Tensor
from tensorlite.nn import init
from tensorlite.nn.module import Module
from tensorlite.nn.parameter import Parameter
from tensorlite.nn.utils.rnn import PackedSequence
from tensorlite.ops.create import empty, zeros
from tensorlite.ops.join import cat, stack
from tensorlite.ops.random import dropout
from tensorlite.ops.recurrent_cell import gru_cell, lstm_cell, rnn_relu_cell, rnn_tanh_cell
from tensorlite.ops.recurrent_gru import gru_layer
from tensorlite.ops.recurrent_lstm import lstm_layer
from tensorlite.ops.recurrent_rnn import rnn_layer
from tensorlite.ops.rows import index_select

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class RNNBase(Module):
    """What RNN, LSTM and GRU share: their weights, and the way through layers and directions.

    Weights of layer k are ``weight_ih_lk``, ``weight_hh_lk``, ``bias_ih_lk``, ``bias_hh_lk`` and, with a projection,
    ``weight_hr_lk``; those of the way back end in ``_reverse``. All begin uniform in +-1/sqrt(hidden_size).
    """

    weight_ih_l0: Parameter
    weight_hh_l0: Parameter

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        _check_arguments(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        rows, out = _GATES[mode] * hidden_size, proj_size or hidden_size
        directions = 2 if bidirectional else 1
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            for suffix in ("", "_reverse")[:directions]:
                shapes: dict[str, Any] = {"weight_ih": (rows, out * directions if layer else input_size)}
                shapes["weight_hh"] = (rows, out)
                if bias:
                    shapes |= {"bias_ih": rows, "bias_hh": rows}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                names = [f"{kind}_l{layer}{suffix}" for kind in shapes]
                for name, shape in zip(names, shapes.values()):
                    setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
                self._all_weights.append(names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def flatten_parameters(self) -> None:
        """Does nothing: weights keep memory of their own here."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The weights of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _kind(self) -> str:
        return self.mode.partition("_")[0]

    # ---- checks, as PyTorch's
    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Refuse an input of another dtype, number of dimensions or size than the weights want."""
        kind = self.weight_ih_l0.dtype
        if input.dtype is not kind and not current().holds(input.device.type):
            raise ValueError(
                f"{self._kind}: RNN input dtype ({input.dtype}) does not match weight dtype ({kind}). Convert input: "
                f"input.to({kind}), or convert model: model.to({input.dtype})"
            )
        wanted = 3 if batch_sizes is None else 2
        if input.dim() != wanted:
            raise RuntimeError(f"{self._kind}: input must have {wanted} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"{self._kind}: input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                f"{input.size(-1)}"
            )

    def check_hidden_size(
        self, hx: Tensor, expected_hidden_size: tuple, msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """Refuse a state of another shape."""
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise RuntimeError(f"{self._kind}: " + msg.format(tuple(expected_hidden_size), list(hx.shape)))

    def _state_sizes(self, batch: int) -> list[tuple[int, int, int]]:
        """The shapes of the states: of h, and for an LSTM of c."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        h = (count, batch, self.proj_size or self.hidden_size)
        return [h, (count, batch, self.hidden_size)] if self.mode == "LSTM" else [h]

    def _check_states(self, states: list, batch: int) -> None:
        sizes = self._state_sizes(batch)
        for k, (state, size) in enumerate(zip(states, sizes)):
            what = f"hidden[{k}]" if len(sizes) > 1 else "hidden"
            self.check_hidden_size(state, size, f"Expected {what} size {{}}, got {{}}")

    def _check_dims(self, states: list, input_dim: int) -> None:
        """The states have as many dimensions as the input."""
        if any(s.dim() != input_dim for s in states):
            batched = "batched 3-D" if input_dim == 3 else "unbatched 2-D"
            names = "hx and cx" if len(states) > 1 else "hx"
            got = ", ".join(f"{s.dim()}-D" for s in states)
            got = f"({got}) tensors" if len(states) > 1 else f"{got} tensor"
            raise RuntimeError(f"{self._kind}: For {batched} input, {names} should also be {input_dim}-D but got {got}")

    # ---- through the layers
    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple:
        sizes = order = back = None
        lone = batch_first = False
        if isinstance(input, PackedSequence):
            x, sizes, order, back = input
            batch = int(sizes[0])
        else:
            x = input
            if x.dim() not in (2, 3):
                raise ValueError(f"{self._kind}: Expected input to be 2D or 3D, got {x.dim()}D tensor instead")
            lone = x.dim() == 2
            batch_first = self.batch_first and not lone
            if lone:
                x = x.unsqueeze(1)
            batch = x.size(0 if batch_first else 1)
        self.check_input(x, sizes)
        states = self._states(hx, x, batch, None if sizes is not None else input.dim(), order)
        y, finals = self._run(x, states, dict(batch_sizes=sizes, batch_first=batch_first))
        if sizes is not None:
            output: Any = PackedSequence(y, sizes, order, back)
        else:
            output = y.squeeze(1) if lone else y
        if back is not None:
            finals = [index_select(s, 1, back) for s in finals]
        if lone:
            finals = [s.squeeze(1) for s in finals]
        return output, tuple(finals) if self.mode == "LSTM" else finals[0]

    def _states(self, hx: Any, x: Tensor, batch: int, dims: int | None, order: Tensor | None) -> list:
        """For each kind of state its rows for every layer and direction: those given, checked and sorted, or zeros.

        ``dims`` is that of the input, None for packed data.
        """
        if hx is None:
            return [
                (zeros((batch, size), dtype=x.dtype, device=x.device),) * count
                for count, _, size in self._state_sizes(batch)
            ]
        if self.mode == "LSTM" and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise TypeError(f"LSTM: hx is {type(hx).__name__}; wanted a pair of tensors (h_0, c_0)")
        states = list(hx) if self.mode == "LSTM" else [hx]
        if dims is not None:
            self._check_dims(states, dims)
            if dims == 2:
                states = [s.unsqueeze(1) for s in states]
        self._check_states(states, batch)
        if order is not None:
            states = [index_select(s, 1, order) for s in states]
        return [s.unbind(0) for s in states]

    def _run(self, x: Tensor, states: list, how: dict) -> tuple[Tensor, list[Tensor]]:
        directions = 2 if self.bidirectional else 1
        ends: list[list] = [[] for _ in states]
        for layer in range(self.num_layers):
            ways = []
            for way in range(directions):
                at = layer * directions + way
                y, *last = self._layer(x, [s[at] for s in states], self._all_weights[at], how | dict(reverse=way == 1))
                ways.append(y)
                for end, state in zip(ends, last):
                    end.append(state)
            x = ways[0] if directions == 1 else cat(ways, -1)
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = dropout(x, self.dropout, True)
        return x, [stack(end) if len(end) > 1 else end[0].unsqueeze(0) for end in ends]

    def _layer(self, x: Tensor, states: list, names: list[str], how: dict) -> tuple:
        weights = [getattr(self, name) for name in names]
        if not self.bias:
            weights[2:2] = [None, None]
        if self.mode == "LSTM":
            return lstm_layer(x, *states, *weights, **how)
        if self.mode == "GRU":
            return gru_layer(x, *states, *weights, **how)
        nonlinearity = "tanh" if self.mode == "RNN_TANH" else "relu"
        return rnn_layer(x, *states, *weights, nonlinearity=nonlinearity, **how)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        usual = dict(proj_size=0, num_layers=1, bias=True, batch_first=False, dropout=0, bidirectional=False)
        return ", ".join(parts + [f"{k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v])


def _check_arguments(
    mode: str, input_size: Any, hidden_size: Any, num_layers: Any, bias: Any, batch_first: Any, p: Any, proj_size: Any
) -> None:
    if not isinstance(p, numbers.Number) or isinstance(p, bool) or not 0 <= p <= 1:  # type: ignore[operator]
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed; got "
            f"{p!r}"
        )
    if p > 0 and num_layers == 1:  # type: ignore[operator]
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={p} and num_layers={num_layers}",
            UserWarning,
            stacklevel=4,
        )
    for name, value, kind in (
        ("bias", bias, bool),
        ("batch_first", batch_first, bool),
        ("input_size", input_size, int),
        ("hidden_size", hidden_size, int),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero; got {value}")
    if proj_size < 0:
        raise ValueError(f"proj_size should be a positive integer or zero to disable projections; got {proj_size}")
    if proj_size >= hidden_size:
        raise ValueError(f"proj_size has to be smaller than hidden_size; got {proj_size} and {hidden_size}")
    if mode not in _GATES:
        raise ValueError(f"Unrecognized RNN mode: {mode}")


def _without_projection(name: str, kwargs: dict) -> None:
    if "proj_size" in kwargs:
        raise ValueError(f"{name}: proj_size argument is only supported for LSTM, not RNN or GRU")


class RNN(RNNBase):
    """h' = tanh(weight_ih x + bias_ih + weight_hh h + bias_hh) over a sequence, in layers; or relu in place of tanh.

    input (T, N, input_size), (N, T, input_size) with ``batch_first``, (T, input_size) or a PackedSequence; hx
    (layers * directions, N, hidden_size), zeros by default -> (output, h_n), output with directions * hidden_size
    columns, of the kind of the input. RuntimeError for other sizes, ValueError for another dtype than the weights'.

    >>> import tensorlite as tl
    >>> output, h_n = tl.nn.RNN(10, 20, 2, nonlinearity="relu")(tl.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (tensorlite.Size([5, 3, 20]), tensorlite.Size([2, 3, 20]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        _without_projection("RNN", kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            "RNN_" + nonlinearity.upper(),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            **kwargs,
        )
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """An LSTM over a sequence, in layers: four gates, and a cell state beside the output.

    i, f, g, o = weight_ih x + bias_ih + weight_hh h + bias_hh;  c' = sigmoid(f) c + sigmoid(i) tanh(g);
    h' = sigmoid(o) tanh(c'), times weight_hr where ``proj_size`` is not 0.

    input (T, N, input_size), (N, T, input_size) with ``batch_first``, (T, input_size) or a PackedSequence; hx a pair
    (h_0, c_0), each (layers * directions, N, size), zeros by default -> (output, (h_n, c_n)), output of the kind of the
    input. RuntimeError for other sizes, ValueError for another dtype than the weights'.

    >>> import tensorlite as tl
    >>> output, (h_n, c_n) = tl.nn.LSTM(10, 20, bidirectional=True)(tl.randn(5, 3, 10))
    >>> output.shape, c_n.shape
    (tensorlite.Size([5, 3, 40]), tensorlite.Size([2, 3, 20]))
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """A GRU over a sequence, in layers.

    r = sigmoid(x_r + h_r);  z = sigmoid(x_z + h_z);  n = tanh(x_n + r h_n);  h' = (1 - z) n + z h, where x_r, x_z, x_n
    are the parts of weight_ih x + bias_ih and h_r, h_z, h_n those of weight_hh h + bias_hh.

    input (T, N, input_size), (N, T, input_size) with ``batch_first``, (T, input_size) or a PackedSequence; hx
    (layers * directions, N, hidden_size), zeros by default -> (output, h_n), output with directions * hidden_size
    columns, of the kind of the input. RuntimeError for other sizes, ValueError for another dtype than the weights'.

    >>> import tensorlite as tl
    >>> output, h_n = tl.nn.GRU(10, 20, batch_first=True)(tl.randn(3, 5, 10))
    >>> output.shape, h_n.shape
    (tensorlite.Size([3, 5, 20]), tensorlite.Size([1, 3, 20]))
    """

    def __init__(self, *args: Any, **kwargs: Any):
        _without_projection("GRU", kwargs)
        super().__init__("GRU", *args, **kwargs)


# ---- cells
class RNNCellBase(Module):
    """What the cells share: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, +-1/sqrt(hidden_size) at most."""

    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(empty((rows, input_size), device=device, dtype=dtype))
        self.weight_hh = Parameter(empty((rows, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _step(self, cell: Any, input: Tensor, states: Any, what: str = "hidden") -> list[Tensor]:
        """The new states of one step; zeros stand for states left out, and a lone example is a batch of one."""
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for k, s in enumerate(states or ()):
            if s.dim() not in (1, 2):
                raise ValueError(f"{name}: Expected {what.format(k)} to be 1D or 2D, got {s.dim()}D instead")
        lone = input.dim() == 1
        x = input.unsqueeze(0) if lone else input
        if states is None:
            states = (zeros((x.size(0), self.hidden_size), dtype=x.dtype, device=x.device),) * 2
        else:
            states = [s.unsqueeze(0) if lone and s.dim() == 1 else s for s in states]
        hx = states if cell is lstm_cell else states[0]
        new = cell(x, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return [s.squeeze(0) if lone else s for s in (new if cell is lstm_cell else (new,))]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += "" if self.bias else f", bias={self.bias}"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else f"{text}, nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """One step: h' = tanh(weight_ih x + bias_ih + weight_hh h + bias_hh), or relu.

    input (N, input_size) or (input_size,), hx (N, hidden_size) or (hidden_size,), zeros by default -> as hx.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        cell = rnn_tanh_cell if self.nonlinearity == "tanh" else rnn_relu_cell
        return self._step(cell, input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """One step of an LSTM: (h', c') from x and (h, c); see LSTM.

    input (N, input_size) or (input_size,), hx a pair of (N, hidden_size) or (hidden_size,), zeros by default.

    >>> import tensorlite as tl
    >>> h, c = tl.nn.LSTMCell(10, 20)(tl.randn(3, 10))
    >>> h.shape
    tensorlite.Size([3, 20])
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._step(lstm_cell, input, hx, "hx[{}]")
        return h, c


class GRUCell(RNNCellBase):
    """One step of a GRU: h' from x and h; see GRU.

    input (N, input_size) or (input_size,), hx (N, hidden_size) or (hidden_size,), zeros by default -> as hx.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(gru_cell, input, None if hx is None else (hx,))[0]
