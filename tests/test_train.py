"""Trainer and callbacks: what is trained and told, and that a run that was stopped ends as if it never had been."""

import contextlib
import copy
import csv
import math
import os
import random
import signal
import sys
import threading

import numpy as np
import pytest

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.callbacks import (
    EMA,
    BestCheckpoint,
    Callback,
    CSVLogger,
    EarlyStopping,
    LastCheckpoint,
    Lines,
    Schedule,
    TensorBoard,
)
from tensorlite.errors import DataError, TrainingError
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, IterableDataset, TensorDataset


def problem(n=60, seed=3):
    """Two classes in the plane, not linearly separable."""
    g = tl.Generator().manual_seed(seed)
    x = tl.randn(n, 2, generator=g)
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def net(dropout=0.0):
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def made(callbacks=(), dropout=0.0, lr=0.05, **settings):
    tl.manual_seed(0)
    model = net(dropout)
    return Trainer(model, tl.optim.Adam(model.parameters(), lr=lr), F.cross_entropy, callbacks=callbacks, **settings)


def loader(batch_size=8, shuffle=True, n=60):
    return DataLoader(problem(n), batch_size=batch_size, shuffle=shuffle)


def weights(trainer):
    return [p.detach().numpy().copy() for p in trainer.model.parameters()]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class StopAt(Callback):
    """Ends the training by an exception after so many steps, as Ctrl-C would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            raise KeyboardInterrupt


# ---- fit, evaluate, predict
def test_fit_evaluate_predict():
    trainer = made(metrics=["accuracy"])
    history = trainer.fit(loader(), epochs=30, validation=loader(shuffle=False))
    assert [e["epoch"] for e in history] == list(range(1, 31)) and history is trainer.history
    assert set(history[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
    assert history[-1]["val_loss"] < history[0]["val_loss"] and history[-1]["val_accuracy"] > 0.9
    assert trainer.step == len(trainer.losses) == 30 * 8
    found = trainer.evaluate(loader(7, False))
    logits = trainer.predict(loader(7, False))
    data = problem()
    assert logits.shape == (60, 2) and not logits.requires_grad
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, data.tensors[1]).item(), rel=1e-6)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == data.tensors[1]).float().mean().item())
    assert trainer.predict([data.tensors[0]]).shape == (60, 2)
    assert trainer.model.training


def test_mean_loss_counts_samples_not_batches():
    trainer = made(lr=1e-12)
    history = trainer.fit(loader(batch_size=50, shuffle=False), epochs=1)  # 50 and 10
    x, y = problem().tensors
    assert history[0]["loss"] == pytest.approx(F.cross_entropy(trainer.model(x), y).item(), rel=1e-5)


def test_accumulated_batches_are_one_batch():
    one, many = made(), made(accumulate=4)
    one.fit(loader(batch_size=60, shuffle=False), epochs=3)
    many.fit(loader(batch_size=17, shuffle=False), epochs=3)  # 17, 17, 17 and 9
    assert one.step == many.step == 3
    for a, b in zip(weights(one), weights(many)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_penalties_are_in_the_gradient_and_not_in_the_losses():
    x, y = problem().tensors
    plain, heavy = made(lr=1e-12), made(lr=1e-12, l1=0.1, l2=0.01)
    assert plain.fit([(x, y)])[0]["loss"] == heavy.fit([(x, y)])[0]["loss"]
    for a, b in zip(plain.model.parameters(), heavy.model.parameters()):
        extra = 0.1 * np.sign(a.detach().numpy()) + 0.02 * a.detach().numpy() if a.ndim > 1 else 0
        np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy() + extra, rtol=1e-4, atol=1e-6)


def test_clipping():
    trainer = made(clip_grad_norm=1e-3)
    trainer.fit([problem().tensors])
    norm = math.sqrt(sum(float((p.grad * p.grad).sum()) for p in trainer.model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    trainer = made(clip_grad_value=1e-4)
    trainer.fit([problem().tensors])
    assert max(float(p.grad.abs().max()) for p in trainer.model.parameters()) == pytest.approx(1e-4)


def test_compute_in_place_of_a_loss():
    model = nn.Linear(2, 2)
    trainer = Trainer(
        model,
        tl.optim.SGD(model.parameters(), lr=0.1),
        compute=lambda model, batch: ((model(batch["x"]) - batch["x"]) ** 2).mean(),
    )
    history = trainer.fit([{"x": problem().tensors[0]}] * 20, epochs=2)
    assert history[1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize(
    "wrong, error, says",
    [
        (lambda: made(accumulate=0), ValueError, "accumulate 0; wanted 1 or more"),
        (lambda: Trainer(net(), loss=F.cross_entropy, compute=print), ValueError, "both loss and compute"),
        (lambda: Trainer(net(), loss=F.cross_entropy).fit(loader()), ValueError, "no optimizer"),
        (lambda: made().fit([]), DataError, "gave no batch"),
        (lambda: made().evaluate([]), DataError, "gave no batch"),
        (lambda: made().fit([problem().tensors[0]]), TypeError, "a batch is a Tensor; wanted"),
        (lambda: made().fit([[t[:0] for t in problem().tensors]]), DataError, "fit: got a batch of 0 samples"),
        (lambda: Trainer(net(), loss=lambda y, t: 1.0).evaluate(loader()), TypeError, "the loss is a float; wanted"),
        (
            lambda: Trainer(net(), loss=lambda y, t: y).evaluate(loader()),
            TypeError,
            r"tensor of shape \(8, 2\); wanted",
        ),
        (
            lambda: Trainer(net(), compute=lambda m, b: (1, 2)).evaluate(loader()),
            TypeError,
            "gave a tuple of 2; wanted",
        ),
        (lambda: made().fit(loader(), resume=True), ValueError, "without a LastCheckpoint"),
        (lambda: made([EarlyStopping("nonsense")]).fit(loader()), KeyError, "monitor 'nonsense'; wanted one of epoch"),
        (lambda: EarlyStopping(mode="best"), ValueError, "mode 'best'"),
        (lambda: EMA(1.0), ValueError, "decay 1.0"),
        (lambda: Schedule(None, every="day"), ValueError, "every 'day'"),
    ],
)
def test_refusals(wrong, error, says):
    with pytest.raises(error, match=says):
        wrong()


def test_validation_changes_nothing():
    alone = made(dropout=0.3)
    alone.fit(loader(), epochs=3)
    watched = made(dropout=0.3)
    watched.fit(loader(), epochs=3, validation=loader())
    assert same(weights(alone), weights(watched))


# ---- stopped and taken up again
def test_resumes_bit_for_bit(tmp_path):
    """After every single step, with dropout, shuffle, schedule, clipping, metrics and averages."""

    def run(stop=None, resume=False):
        average, folder = EMA(0.9), tmp_path / "checkpoints"
        trainer = made(dropout=0.5, metrics=["accuracy"], clip_grad_norm=1.0)
        schedule = tl.optim.lr_scheduler.CosineAnnealingLR(trainer.optimizer, T_max=24)
        trainer.callbacks = [Schedule(schedule, "step"), average, LastCheckpoint(folder, every=0)]
        if stop is not None:
            trainer.callbacks.append(StopAt(stop))
        with contextlib.suppress(KeyboardInterrupt):
            trainer.fit(loader(), epochs=3, validation=loader(shuffle=False), resume=resume)
        history = [{k: v for k, v in e.items() if k != "seconds"} for e in trainer.history]
        return weights(trainer), [v.numpy() for v in average.average.values()], history, trainer.losses

    whole = run()
    for step in (1, 5, 7, 8, 9, 15, 16, 23, 24):
        for path in (tmp_path / "checkpoints").iterdir():
            path.unlink()
        run(stop=step)
        tl.manual_seed(99)  # another state of the generators
        random.seed(99)
        again = run(resume=True)
        assert same(whole[0], again[0]) and same(whole[1], again[1]), step
        assert whole[2:] == again[2:], step


def test_resumes_a_loader_that_knows_no_position(tmp_path):
    batches = [problem(seed=k).tensors for k in range(6)]

    def run(stop=None, resume=False):
        trainer = made([LastCheckpoint(tmp_path, every=0), *([StopAt(stop)] if stop else [])])
        with contextlib.suppress(KeyboardInterrupt):
            trainer.fit(batches, epochs=2, resume=resume)
        return weights(trainer)

    whole = run()
    run(stop=9)
    assert same(whole, run(resume=True))


def test_interrupted_while_validating(tmp_path):
    """The epoch's batches are done: only the validation comes again."""

    class Slow(Callback):
        on = True

        def on_evaluate_begin(self, trainer):
            if self.on and trainer.epoch == 1:
                raise KeyboardInterrupt

    def run(interrupt, resume=False):
        slow = Slow()
        slow.on = interrupt
        trainer = made([slow, LastCheckpoint(tmp_path)], dropout=0.5)
        try:
            trainer.fit(loader(), epochs=3, validation=loader(), resume=resume)
        except KeyboardInterrupt:
            assert trainer.epoch == 1 and trainer.step == 16
        return weights(trainer)

    whole = run(False)
    run(True)
    assert same(whole, run(False, resume=True))


def test_ctrl_c_waits_for_the_step(tmp_path):
    class Press(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 11:
                os.kill(os.getpid(), signal.SIGINT)
                assert trainer.step == 11  # nothing was raised yet

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trainer = made([Press(), LastCheckpoint(tmp_path)])
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(loader(), epochs=5)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.step == 11
    (path,) = tmp_path.iterdir()
    assert path.name == "step-0000000011.safetensors" and tl.load(path)["step"] == 11


def test_fits_in_a_thread():
    trainer = made()
    thread = threading.Thread(target=lambda: trainer.fit(loader(), epochs=1))
    thread.start()
    thread.join(60)
    assert trainer.epoch == 1


def test_parts_in_evaluation_mode_stay_there():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    trainer = Trainer(model, tl.optim.SGD(model.parameters(), lr=0.1), F.cross_entropy)
    trainer.fit(loader(), epochs=2, validation=loader())
    trainer.predict(loader())
    assert [m.training for m in model] == [True, False, True, True] and model.training
    assert model[1].running_mean.abs().sum() == 0
    model.eval()
    trainer.evaluate(loader())
    assert not any(m.training for m in model.modules())
    trainer.fit(loader(), epochs=3)
    assert all(m.training for m in model.modules())


def test_modes_come_back_from_a_callback_that_fails():
    class Fail(Callback):
        def on_evaluate_begin(self, trainer):
            raise OSError

    trainer = made([Fail()])
    with pytest.raises(OSError):
        trainer.evaluate(loader())
    assert trainer.model.training


@pytest.mark.parametrize("kind", ["loader", "generator", "list", "validation"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_fit_goes_on_after_an_error(kind, accumulate):
    """The same Trainer, called again: nothing is trained on twice and nothing is left out."""

    class Fail(Callback):
        step = 3 * 8 // accumulate // 2

        def on_step_end(self, trainer):
            if kind != "validation" and trainer.step == self.step:
                self.step = None
                raise OSError

        def on_evaluate_begin(self, trainer):
            if kind == "validation" and trainer.epoch == 1 and self.step:
                self.step = None
                raise OSError

    def run(fails):
        trainer = made([Fail()] if fails else [], dropout=0.5, metrics=["accuracy"], accumulate=accumulate)
        own = tl.Generator().manual_seed(5) if kind in ("generator", "validation") else None
        batches = DataLoader(problem(), batch_size=8, shuffle=True, generator=own)
        batches = list(batches) if kind == "list" else batches
        if fails:
            with pytest.raises(OSError):
                trainer.fit(batches, epochs=3, validation=loader())
        trainer.fit(batches, epochs=3, validation=loader())
        return trainer

    whole, again = run(False), run(True)
    assert same(weights(whole), weights(again)) and whole.losses == again.losses
    assert [{**e, "seconds": 0} for e in whole.history] == [{**e, "seconds": 0} for e in again.history]


def test_other_batches_begin_the_epoch_anew():
    trainer = made([StopAt(5)], metrics=["accuracy"])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(loader(), epochs=1)
    assert trainer.position == 5
    (logs,) = trainer.fit(loader(), epochs=1)
    assert trainer.step == 5 + 8 and logs["loss"] == pytest.approx(
        np.average(trainer.losses[5:], weights=[8] * 7 + [4]), rel=1e-6
    )


def test_batches_of_a_step_that_fails_do_not_count():
    x = tl.zeros(4, 2)
    trainer = made(metrics=["accuracy"], clip_grad_norm=1.0)
    right = [(x, tl.zeros(4).long())]
    trainer.model.register_forward_hook(lambda m, i, y: y.register_hook(lambda g: g * math.nan) and None)
    with pytest.raises(TrainingError):
        trainer.fit(right)
    assert math.isnan(trainer.metrics[0].compute())  # nothing was seen


def test_a_state_that_was_loaded_is_the_state():
    trainer = made([StopAt(5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(loader(), epochs=1)
    state = trainer.state_dict()
    again = made()
    again.load_state_dict(state)
    assert state["loader"] is not None and again.state_dict()["loader"] == state["loader"]
    with pytest.raises(TypeError, match=r"fit: got a list of 1; wanted a DataLoader"):
        again.fit([problem().tensors])


def test_streams_without_a_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([problem(8)[k] for k in range(8)])

    trainer = made()
    trainer.fit(DataLoader(Stream(), batch_size=4))
    assert trainer.step == 2 and trainer.batches is None


def pressing(times):
    """What presses Ctrl-C in the forward pass of the 11th batch."""
    calls = []

    def hook(*_):
        calls.append(0)
        if len(calls) == 11:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return hook


def test_ctrl_c_at_the_very_end_is_not_lost():
    class Press(Callback):
        def on_fit_end(self, trainer):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trainer = made([Press()])
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(loader())
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.epoch == 1


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_twice_writes_no_half_step(tmp_path, times):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trainer = made([LastCheckpoint(tmp_path)])
        trainer.model.register_forward_hook(pressing(times))
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(loader(), epochs=5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.step == (11 if times == 1 else 10)
    assert len(list(tmp_path.iterdir())) == (1 if times == 1 else 0)
    trainer.evaluate(loader())  # is not ended by the Ctrl-C of then


def test_state_of_another_training():
    trainer = made(metrics=["accuracy"])
    trainer.fit(loader(), epochs=1)
    state = trainer.state_dict()
    with pytest.raises(ValueError, match="a state with 1 metrics; wanted 0"):
        made().load_state_dict(state)
    with pytest.raises(ValueError, match="EMA1 on one side only"):
        made([EMA()], metrics=["accuracy"]).load_state_dict(state)
    with pytest.raises(DataError, match="format None"):
        trainer.load_state_dict({})


# ---- NaN
def test_state_without_an_optimizer():
    trainer = made()
    trainer.fit(loader())
    model = net()
    only = Trainer(model, loss=F.cross_entropy)
    only.load_state_dict(trainer.state_dict())
    assert only.evaluate(loader()) == trainer.evaluate(loader())
    with pytest.raises(ValueError, match="a state without an optimizer; wanted one"):
        trainer.load_state_dict(only.state_dict())


class Spoil(Callback):
    """Makes one number of the weights NaN after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            with tl.no_grad():
                trainer.model[3].weight[0, 0] = math.nan


@pytest.mark.parametrize("every", [0, 1000])
def test_nan_stops_the_run_and_spoils_no_checkpoint(tmp_path, every):
    trainer = made([Spoil(5), LastCheckpoint(tmp_path, every=every)])
    with pytest.raises(TrainingError, match=r"(?s)step \d+: .*weight 3.weight \(2, 16\): 1 of 32 values") as error:
        trainer.fit(loader(), epochs=3)
    assert "learning rate 0.05" in str(error.value) and "TL_NAN=1" in str(error.value)
    paths = sorted(tmp_path.iterdir())
    assert [p.name[10:15] for p in paths] == (["00003", "00004"] if every == 0 else [])
    for path in paths:
        assert all(t.isfinite().all() for t in tl.load(path)["model"].values())


def test_nan_in_the_batch_is_named():
    x, y = problem().tensors
    x = x.clone()
    x[3, 1] = math.inf
    trainer = made()
    before = weights(trainer)
    with pytest.raises(TrainingError, match=r"(?s)the loss is (nan|inf).*the batch's tensor 0 \(60, 2\): 1 values"):
        trainer.fit([(x, y)])
    assert same(before, weights(trainer))


def test_nan_in_the_gradient_alone_stops_at_the_end_at_the_latest():
    model = nn.Linear(2, 1)
    trainer = Trainer(  # sqrt at 0: the value is 0, the gradient 0 / 0
        model, tl.optim.SGD(model.parameters(), 0.1), compute=lambda m, b: (m(b[0]) * 0.0).sum().sqrt()
    )
    with pytest.raises(TrainingError, match="weight"):
        trainer.fit([problem().tensors])


# ---- callbacks
def test_early_stopping_and_best(tmp_path):
    class Worse(Callback):
        """A validation loss that falls twice and then rises."""

        def on_epoch_end(self, trainer, logs):
            logs["val_loss"] = [3.0, 2.0, 1.0, 1.5, 1.0, 2.0][trainer.epoch - 1]
            self.weights = [*getattr(self, "weights", []), weights(trainer)]

    watch, best = Worse(), tmp_path / "best.safetensors"
    trainer = made([watch, EarlyStopping(patience=2, restore_best=True), BestCheckpoint(best)])
    trainer.fit(loader(), epochs=10)
    assert trainer.epoch == 5 and trainer.should_stop
    assert same(weights(trainer), watch.weights[2])
    assert same([t.numpy() for t in tl.load(best).values()], watch.weights[2])


def test_early_stopping_goes_on_waiting_after_a_resume(tmp_path):
    def run(epochs, resume=False):
        trainer = made([EarlyStopping("loss", patience=3, mode="max"), LastCheckpoint(tmp_path)])
        trainer.fit(loader(), epochs=epochs, resume=resume)
        return trainer

    assert run(2).epoch == 2
    assert run(10, resume=True).epoch == 4  # the first epoch's loss was the greatest, and three came after it
    assert run(20, resume=True).epoch == 4


def test_schedule_by_epoch_and_by_value():
    trainer = made()
    trainer.callbacks = [Schedule(tl.optim.lr_scheduler.StepLR(trainer.optimizer, 2, gamma=0.1))]
    history = trainer.fit(loader(), epochs=4)
    assert [e["lr"] for e in history] == pytest.approx([0.05, 0.05, 0.005, 0.005])

    class Watch:
        seen = []

        def step(self, value):
            self.seen.append(value)

    trainer = made([Schedule(Watch(), monitor="loss")])
    assert [e["loss"] for e in trainer.fit(loader(), epochs=2)] == Watch.seen
    with pytest.raises(ValueError, match="monitor with every='step'"):
        Schedule(Watch(), every="step", monitor="loss")


def test_average_of_weights():
    class Note(Callback):
        seen: list

        def on_fit_begin(self, trainer):
            self.seen = []

        def on_step_end(self, trainer):
            self.seen.append(weights(trainer))

    note, average = Note(), EMA(0.8)
    trainer = made([note, average])
    trainer.fit(loader(), epochs=2)
    want = note.seen[0]
    for now in note.seen[1:]:
        want = [0.8 * a + 0.2 * b for a, b in zip(want, now)]
    for a, b in zip(want, average.average.values()):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-7)
    other = copy.deepcopy(trainer.model)
    average.copy_to(other)
    x, y = problem().tensors
    assert trainer.evaluate([(x, y)])["loss"] == pytest.approx(F.cross_entropy(other(x), y).item())
    assert same(weights(trainer), note.seen[-1])  # the weights themselves are back
    kept = made([EMA(0.8, keep=True)])
    kept.fit(loader(), epochs=2)
    assert same(weights(kept), [v.numpy() for v in average.average.values()])


def test_average_that_was_loaded_leaves_the_state_alone():
    average = EMA(0.8)
    trainer = made([average])
    trainer.fit(loader(), epochs=1)
    state = copy.deepcopy(trainer.state_dict())
    before = copy.deepcopy(state["callbacks"]["EMA1"]["average"])
    again = made([EMA(0.8)])
    again.load_state_dict(state)
    again.fit(loader(), epochs=2)
    for name, tensor in state["callbacks"]["EMA1"]["average"].items():
        assert bool((tensor == before[name]).all()), name


def test_table_of_the_history(tmp_path):
    trainer = made([CSVLogger(tmp_path / "log.csv"), LastCheckpoint(tmp_path / "c")], metrics=["accuracy"])
    trainer.fit(loader(), epochs=2)
    made([CSVLogger(tmp_path / "log.csv"), LastCheckpoint(tmp_path / "c")], metrics=["accuracy"]).fit(
        loader(), epochs=3, resume=True
    )
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    assert [float(r["loss"]) for r in rows[:2]] == [e["loss"] for e in trainer.history]


def test_lines():
    said = []
    made([Lines(said.append)], metrics=["accuracy"]).fit(loader(), epochs=1, validation=loader())
    assert len(said) == 1 and said[0].startswith("epoch 1/1: loss ") and ", validation accuracy 0." in said[0]


def test_tensorboard_needs_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"TensorBoard: tensorboardX.*pip install 'tensorlite\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_tensorboard_writes(tmp_path):
    pytest.importorskip("tensorboardX")
    made([TensorBoard(tmp_path)], metrics=["accuracy"]).fit(loader(), epochs=2)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    assert b"loss/step" in data and b"epoch/accuracy" in data
