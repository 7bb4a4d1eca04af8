"""Trainer: fit, evaluate and predict for any Module, stopped and taken up again bit for bit. Floor 6."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tensorlite import metrics as metric_table
from tensorlite.autograd import recording
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.callbacks import Callback
from tensorlite.errors import CaptureError, DataError, TrainingError
from tensorlite.nn.module import Module
from tensorlite.nn.utils import clip_grad_norm_, clip_grad_value_
from tensorlite.ops.join import cat
from tensorlite.program.compiled import Compiled
from tensorlite.utils import rng

FORMAT = 1  # of state_dict


class Trainer:
    """Trains a model: ``fit`` on batches, ``evaluate`` and ``predict`` on others.

    A batch is (input, ..., target): ``loss(model(input, ...), target)`` is what an optimizer's step makes smaller. For
    anything else (a variational auto-encoder, two outputs) pass ``compute`` or override it in a subclass.

    What a training is made of stands in attributes: ``model``, ``optimizer``, ``epoch`` and ``step`` (finished ones),
    ``history`` (a dict an epoch) and ``losses`` (one a step). ``state_dict`` holds all that decides how it goes on.

    Args:
        model: the Module. ``fit`` puts it in training mode unless it is; parts of one that is, and that were put in
            evaluation mode (a frozen BatchNorm), stay there. The others leave all modes as they were.
        optimizer: of its parameters; only ``fit`` needs one.
        loss: ``(prediction, target) -> scalar``, a loss module or function.
        metrics: of ``tensorlite.metrics``, or their names; they see what ``compute`` gives as prediction and target.
        callbacks: of ``tensorlite.callbacks``, told in this order (checkpoints last).
        compute: ``(model, batch) -> loss`` or ``(loss, prediction, target)`` in place of ``loss``.
        accumulate: batches to a step of the optimizer. Their gradients are averaged by the number of samples in each,
            so that it is as if they were one batch.
        clip_grad_norm, clip_grad_value: bounds of the gradients' common norm and of their elements.
        l1, l2: the factors of sum |w| and sum w * w, over parameters of two dimensions or more (weights, not biases),
            that are added to the loss. They count in the gradient, not in the losses that are reported.
        device: where batches are moved to; None leaves them where they are.
        compile: record what is done to a batch of a shape, and replay it (``tensorlite.compile``): only the order of
            some sums is another. What cannot be recorded (a loss that reads numbers) runs as it is, and one line on
            stderr says why. Python's own side effects in ``compute`` are not replayed: turn it off for those.

    >>> import tensorlite as tl
    >>> from tensorlite.train import Trainer
    >>> x = tl.linspace(-1, 1, 64).reshape(64, 1)
    >>> batches = [(x, 2 * x + 1)] * 100
    >>> model = tl.nn.Linear(1, 1)
    >>> trainer = Trainer(model, tl.optim.Adam(model.parameters(), lr=0.05), tl.nn.MSELoss(), metrics=["mae"])
    >>> history = trainer.fit(batches, epochs=3)
    >>> sorted(trainer.evaluate(batches)), history[-1]["loss"] < 1e-3
    (['loss', 'mae'], True)
    """

    def __init__(
        self,
        model: Module,
        optimizer: Any = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        *,
        metrics: Iterable[Any] = (),
        callbacks: Iterable[Callback] = (),
        compute: Callable[[Module, Any], Any] | None = None,
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        device: Any = None,
        compile: bool = True,
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"Trainer: accumulate {accumulate}; wanted 1 or more")
        if loss is not None and compute is not None:
            raise ValueError("Trainer: got both loss and compute; wanted one of them")
        self.model, self.optimizer, self.loss, self.device = model, optimizer, loss, device
        self.metrics = [metric_table.get(m) if isinstance(m, str) else m for m in metrics]
        self.callbacks = sorted(callbacks, key=lambda c: c.last)
        self.accumulate, self.clip_grad_norm, self.clip_grad_value = accumulate, clip_grad_norm, clip_grad_value
        self.l1, self.l2 = l1, l2
        self._compute = compute
        self.compile = compile
        self._structure = -1  # what recording.structure was when the model was last looked through
        self._learning = Compiled(self._learn)
        self._judging = Compiled(self._computed)
        self.epochs, self.epoch, self.step = 0, 0, 0
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.should_stop = False
        self.position = 0  # batches of the running epoch that are done
        self.batches: int | None = None  # of an epoch, where the loader knows
        self._trained = False  # whether the running epoch's batches are all done, and only its validation is to come
        self._total, self._count = 0.0, 0  # the sum of the running epoch's losses and of its samples
        self._loader: Any = None
        self._loader_state: Any = None  # where the loader that fit will be given is to go on
        self._after: Any = None  # the loader's state at the end of the epoch's batches, while validation runs
        self._whole = True  # whether no step is half done
        self._interrupted = False
        self._began = 0.0

    # ---- what a batch comes to
    def compute(self, batch: Any) -> Any:
        """The loss of a batch, or (loss, prediction, target): prediction and target are for the metrics."""
        if self._compute is not None:
            return self._compute(self.model, batch)
        if self.loss is None:
            raise ValueError("Trainer: there is neither a loss nor compute; wanted one of them")
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise TypeError(f"Trainer: a batch is {_kind(batch)}; wanted (input, ..., target), or compute for others")
        *inputs, target = batch
        prediction = self.model(*inputs)
        return self.loss(prediction, target), prediction, target

    def _computed(self, batch: Any) -> tuple[Tensor, Any, Any]:
        made = self.compute(batch)
        if isinstance(made, tuple) and len(made) != 3:
            raise TypeError(f"Trainer: compute gave {_kind(made)}; wanted the loss or (loss, prediction, target)")
        loss, prediction, target = made if isinstance(made, tuple) else (made, None, None)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else _kind(loss)
            raise TypeError(f"Trainer: the loss is {got}; wanted a tensor with one element")
        if self.metrics and prediction is None:
            raise TypeError("Trainer: metrics need compute to give (loss, prediction, target); it gave the loss alone")
        return loss, prediction, target

    # ---- fit
    def fit(
        self, loader: Iterable, epochs: int = 1, validation: Iterable | None = None, resume: bool = False
    ) -> list[dict[str, Any]]:
        """Train until ``epochs`` epochs are done in all (those of earlier calls count) and return the history.

        An epoch's entry has ``epoch`` (from 1), ``loss`` (mean over its samples), the metrics, the same of
        ``validation`` with ``val_`` before the name, ``lr`` and ``seconds``. Validation draws no random numbers from
        the training's generators.

        Ctrl-C ends it after the step that is running, with checkpoints written; a second one, at once and without. An
        epoch that was left, by that or by an error, is gone on with by the next call with the same loader, after the
        batches that were handed out; with another loader it begins anew.

        Args:
            loader: batches; a DataLoader, whose position is part of ``state_dict``, or anything that can be iterated.
            resume: go on from the newest checkpoint of the ``LastCheckpoint`` among the callbacks, if there is one.

        Raises:
            TrainingError: a loss, gradient or weight that is no longer a number; it says which, and nothing is saved.
            KeyboardInterrupt: after Ctrl-C.
        """
        if self.optimizer is None:
            raise ValueError("fit: the Trainer has no optimizer; wanted one")
        self.epochs, self.should_stop, self._whole = epochs, False, True
        self.batches = _batches(loader)
        if resume:
            self._resume()
        passed = self._place(loader)
        with self._listening():
            try:
                if not self.model.training:
                    self.model.train()
                self._tell("on_fit_begin")
                while self.epoch < epochs and not self.should_stop:
                    self._fit_epoch(loader, validation, passed)
                    passed = 0
                self.check_finite()
                self._tell("on_fit_end")
                self._stop_if_interrupted()
            except KeyboardInterrupt:
                if self._whole:  # a second Ctrl-C may have come in the middle of a step
                    self._tell("on_interrupt")
                raise
            finally:
                if self.position:  # of an epoch that a later call goes on with
                    self._loader_state = self._where()
                self._tell("on_fit_exit")
        return self.history

    def _place(self, loader: Iterable) -> int:
        """Put the loader where the running epoch goes on, or begin that anew; gives the batches to pass over."""
        if self._loader is not None and self._loader is not loader:  # other batches than those of the epoch so far
            self._loader_state = None
            self._begin_epoch()
        self._loader, state, self._loader_state = loader, self._loader_state, None
        if state is None:
            return self.position
        if not hasattr(loader, "load_state_dict"):
            raise TypeError(f"fit: got {_kind(loader)}; wanted a DataLoader, as the epoch that goes on began with one")
        loader.load_state_dict(state)
        self._after = state
        return 0

    def _where(self) -> Any:
        """The state of the loader, where it has one."""
        if self._loader_state is not None:  # loaded, and not used yet
            return self._loader_state
        if not hasattr(self._loader, "load_state_dict"):
            return None
        return self._after if self._trained else self._loader.state_dict()

    def _begin_epoch(self) -> None:
        """Nothing of the next epoch is done."""
        self.position, self._trained, self._total, self._count = 0, False, 0.0, 0
        for m in self.metrics:
            m.reset()

    def _fit_epoch(self, loader: Iterable, validation: Iterable | None, passed: int) -> None:
        self._began = time.perf_counter()
        self._tell("on_epoch_begin")
        if not self._trained:
            batches = itertools.islice(iter(loader), passed, None)
            while True:
                self._whole = False
                if not (group := list(itertools.islice(batches, self.accumulate))):
                    break
                self._step(group)
                self._tell("on_step_end")
                self._whole = True
                self._stop_if_interrupted()
            if not self._count:
                raise DataError("fit: the loader gave no batch; wanted at least one an epoch")
            self._after = self._where()
            self._trained = self._whole = True
        logs: dict[str, Any] = {"epoch": self.epoch + 1, "loss": self._total / self._count}
        logs |= {m.name: m.compute() for m in self.metrics}
        if validation is not None:
            logs |= {f"val_{name}": value for name, value in self.evaluate(validation).items()}
        logs |= {"lr": float(self.optimizer.param_groups[0]["lr"]), "seconds": time.perf_counter() - self._began}
        self.history.append(logs)
        self.epoch += 1
        self._begin_epoch()
        self._whole = False
        self._tell("on_epoch_end", logs)
        self._whole = True
        self._stop_if_interrupted()

    def _step(self, batches: list) -> None:
        """One step of the optimizer on the mean over all samples of these batches."""
        self.optimizer.zero_grad()
        batches = [self._moved(batch) for batch in batches]
        sizes = [_length(batch) for batch in batches]
        samples = sum(sizes)
        if not samples:
            raise DataError("fit: got a batch of 0 samples; wanted 1 or more")
        value, seen = 0.0, []
        for k, (batch, size) in enumerate(zip(batches, sizes)):
            share = size / samples if len(batches) > 1 else 1.0
            penalties = (self.l1, self.l2) if k == 0 else (0.0, 0.0)
            loss, prediction, target = self._replayed(self._learning, batch, share, penalties)
            found = loss.item()
            if not math.isfinite(found):
                raise TrainingError(self._report(f"the loss is {found}", batch))
            value += found * share
            if self.metrics:
                seen.append((_detached(prediction), target))
        if self.clip_grad_value is not None:
            clip_grad_value_(self.model.parameters(), self.clip_grad_value)
        if self.clip_grad_norm is not None:
            norm = clip_grad_norm_(self.model.parameters(), self.clip_grad_norm).item()
            if not math.isfinite(norm):
                raise TrainingError(self._report(f"the gradients' norm is {norm}", batches[-1]))
        with no_grad():  # not before: batches of a step that fails do not count
            for prediction, target in seen:
                for m in self.metrics:
                    m.update(prediction, target)
        self.optimizer.step()
        self.step += 1
        self.position += len(batches)
        self.losses.append(value)
        self._total += value * samples
        self._count += samples

    def _learn(self, batch: Any, share: float, penalties: tuple[float, float]) -> tuple[Tensor, Any, Any]:
        """A batch's gradients, times its share of the step, added to ``.grad``; gives loss, prediction and target."""
        loss, prediction, target = self._computed(batch)
        total = loss if share == 1.0 else loss * share
        if any(penalties):
            total = total + self._penalty(*penalties)
        total.backward()
        return loss.detach(), _detached(prediction) if self.metrics else None, target

    def _replayed(self, compiled: Compiled, *args: Any) -> Any:
        """What a function of ours gives, replayed if it can be."""
        if self.compile and self._structure != recording.structure[0]:
            self._structure = recording.structure[0]
            if any(m._hooks for m in self.model.modules()):
                self._not_compiled("the model has hooks, which a replay would not call")
        if not self.compile:
            return compiled.fn(*args)
        try:
            return compiled(*args)
        except CaptureError as error:
            self._not_compiled(str(error).splitlines()[0])
            return compiled.fn(*args)

    def _not_compiled(self, why: str) -> None:
        self.compile = False
        print(f"Trainer: the steps are not compiled: {why}", file=sys.stderr)

    def _reached(self) -> tuple:
        """What a recorder finds through this object."""
        return self.model, self.optimizer, self.loss, self._compute, type(self).compute

    def _penalty(self, l1: float, l2: float) -> Any:
        terms: list[Tensor] = []
        for w in self.model.parameters():
            if w.ndim > 1 and w.requires_grad:
                if l1:
                    terms.append(w.abs().sum() * l1)
                if l2:
                    terms.append((w * w).sum() * l2)
        return sum(terms)

    # ---- evaluate, predict
    def evaluate(self, loader: Iterable) -> dict[str, Any]:
        """The mean loss over all samples, and the metrics, in evaluation mode and without gradients."""
        total, count = 0.0, 0
        found = copy.deepcopy(self.metrics)
        for m in found:
            m.reset()
        with self._evaluating():
            for batch in loader:
                batch = self._moved(batch)
                loss, prediction, target = self._replayed(self._judging, batch)
                size = _length(batch)
                total += loss.item() * size
                count += size
                for m in found:
                    m.update(prediction, target)
                self._stop_if_interrupted()
        if not count:
            raise DataError("evaluate: the loader gave no batch; wanted at least one")
        return {"loss": total / count, **{m.name: m.compute() for m in found}}

    def predict(self, loader: Iterable) -> Tensor:
        """The model's outputs for all batches, joined along the first dimension.

        A batch that is one tensor is all input; of a tuple or list of several, the last is the target and is left out.
        """
        outputs = []
        with self._evaluating():
            for batch in loader:
                batch = self._moved(batch)
                inputs = (batch,) if isinstance(batch, Tensor) else batch[:-1] if len(batch) > 1 else batch
                outputs.append(self.model(*inputs))
                self._stop_if_interrupted()
        if not outputs:
            raise DataError("predict: the loader gave no batch; wanted at least one")
        return cat(outputs)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        try:
            self._tell("on_evaluate_begin")
            with no_grad(), rng.kept():
                yield
        finally:
            for m, training in modes:  # one by one: parts that are frozen in evaluation mode stay so
                m.training = training
            self._tell("on_evaluate_end")

    # ---- its state
    def state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on, in a form that ``tl.save`` takes.

        Weights, optimizer, the loader's position, random generators, the running epoch's sums and metrics, history,
        and each callback's state (schedulers are callbacks).
        """
        return {
            "format": FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "position": self.position,
            "trained": self._trained,
            "sums": [self._total, self._count],
            "model": self.model.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "loader": self._where(),
            "metrics": [m.state_dict() for m in self.metrics],
            "callbacks": {name: c.state_dict() for name, c in self._named_callbacks()},
            "history": self.history,
            "losses": np.array(self.losses, np.float64),
            "rng": rng.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave: ``fit`` with the same loader ends as if it had never stopped."""
        if state.get("format") != FORMAT:
            raise DataError(
                f"load_state_dict: a state of format {state.get('format')!r}; wanted {FORMAT}, from Trainer.state_dict"
            )
        if len(state["metrics"]) != len(self.metrics):
            raise ValueError(
                f"load_state_dict: a state with {len(state['metrics'])} metrics; wanted {len(self.metrics)}"
            )
        known = dict(self._named_callbacks())
        if lost := sorted(set(state["callbacks"]) ^ set(known)):
            raise ValueError(f"load_state_dict: {', '.join(lost)} on one side only; wanted the same callbacks")
        if self.optimizer is not None and state["optimizer"] is None:
            raise ValueError("load_state_dict: a state without an optimizer; wanted one, as this Trainer has")
        self.model.load_state_dict(state["model"])
        if self.optimizer is not None:  # one that only evaluates needs none
            self.optimizer.load_state_dict(state["optimizer"])
        for m, own in zip(self.metrics, state["metrics"]):
            m.load_state_dict(own)
        for name, own in state["callbacks"].items():
            known[name].load_state_dict(own)
        self._loader, self._loader_state = None, state["loader"]
        self.epoch, self.step, self.position = state["epoch"], state["step"], state["position"]
        self._trained, (self._total, self._count) = state["trained"], state["sums"]
        self.history, self.losses = [dict(logs) for logs in state["history"]], state["losses"].tolist()
        rng.load_state_dict(state["rng"])

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        seen: dict[str, int] = {}
        for c in self.callbacks:
            if c.stateful:
                name = type(c).__name__
                seen[name] = seen.get(name, 0) + 1
                yield f"{name}{seen[name]}", c

    def _resume(self) -> None:
        from tensorlite.callbacks import LastCheckpoint

        places = [c for c in self.callbacks if isinstance(c, LastCheckpoint)]
        if not places:
            raise ValueError("fit: resume=True without a LastCheckpoint among the callbacks; wanted one")
        found = places[0].checkpoints.load(places[0].say)
        if found is not None:
            self.load_state_dict(found[1])

    # ---- what can go wrong
    def check_finite(self) -> None:
        """Raise a TrainingError where a weight is no longer a number: what is checked before anything is saved."""
        for _, p in self.model.named_parameters():
            if p.is_floating_point() and not p.isfinite().all():
                raise TrainingError(self._report("a weight is no longer a number", None))

    def _report(self, what: str, batch: Any) -> str:
        lines = [f"training stopped in epoch {self.epoch + 1}, step {self.step + 1}: {what}; nothing of this is saved"]
        rates = ", ".join(f"{float(g['lr']):g}" for g in self.optimizer.param_groups)
        last = ", ".join(f"{v:.4g}" for v in self.losses[-5:])
        lines.append(f"  learning rate {rates}; losses before it: {last or 'none'}")
        for kind, member in (("weight", lambda p: p), ("gradient", lambda p: p.grad)):
            for name, p in self.model.named_parameters():
                t = member(p)
                if t is not None and t.is_floating_point() and (bad := int((~t.isfinite()).sum())):
                    lines.append(f"  {kind} {name} {tuple(t.shape)}: {bad} of {t.numel()} values are NaN or infinite")
        for k, t in enumerate(_tensors(batch)):
            if t.is_floating_point() and (bad := int((~t.isfinite()).sum())):
                lines.append(f"  the batch's tensor {k} {tuple(t.shape)}: {bad} values are NaN or infinite")
        lines.append("  a smaller learning rate or clip_grad_norm often helps; TL_NAN=1 names the op, module and line")
        return "\n".join(lines)

    # ---- Ctrl-C
    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Ctrl-C waits for the end of a step, so that no checkpoint holds half of one. A second one does not wait."""
        self._interrupted = False
        own = threading.current_thread() is threading.main_thread()
        if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield  # somebody else's way with Ctrl-C is left alone
            return

        def note(*_: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._interrupted = False

    def _stop_if_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def _tell(self, event: str, *args: Any) -> None:
        for c in self.callbacks:
            getattr(c, event)(self, *args)

    def _moved(self, batch: Any) -> Any:
        return batch if self.device is None else _map(lambda t: t.to(self.device), batch)


def _map(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with ``fn`` of every tensor in it."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        return {k: _map(fn, v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(fn, v) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map(fn, v) for v in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(lambda t: found.append(t) or t, value)  # type: ignore[func-returns-value]
    return found


def _detached(value: Any) -> Any:
    return _map(lambda t: t.detach(), value)


def _length(batch: Any) -> int:
    """The number of samples in a batch: the length of its first tensor."""
    found = _tensors(batch)
    if not found:
        raise TypeError(f"Trainer: a batch is {_kind(batch)} without a tensor; wanted tensors")
    return found[0].shape[0] if found[0].ndim else 1


def _batches(loader: Any) -> int | None:
    """How many batches a loader has, where it knows."""
    try:
        return len(loader)
    except TypeError:  # no length, or one of a stream
        return None


def _kind(value: Any) -> str:
    inside = f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else ""
    return f"a {type(value).__name__}{inside}"
