"""Compiled training steps: optimizers, schedulers, accumulated and clipped gradients, loss scaling, random numbers."""

from __future__ import annotations

import pytest
from capture_harness import OFF, batches, both, everything, net, recordings, same, training

import tensorlite as tl
from tensorlite.optim import lr_scheduler as schedulers

F = tl.nn.functional

OPTIMIZERS = {
    "sgd": lambda p: tl.optim.SGD(p, 0.1),
    "sgd weight_decay": lambda p: tl.optim.SGD(p, 0.1, weight_decay=0.1, maximize=True),
    "sgd momentum": lambda p: tl.optim.SGD(p, 0.1, momentum=0.9),
    "sgd dampening": lambda p: tl.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
    "sgd nesterov": lambda p: tl.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: tl.optim.Adam(p, 0.01),
    "adam amsgrad": lambda p: tl.optim.Adam(p, 0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: tl.optim.AdamW(p, 0.01),
    "adam lr tensor": lambda p: tl.optim.Adam(p, tl.tensor(0.01)),
    "rmsprop": lambda p: tl.optim.RMSprop(p, 0.01),
    "rmsprop centered": lambda p: tl.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: tl.optim.Adagrad(p, 0.1),
    "adadelta": lambda p: tl.optim.Adadelta(p),
    "adamax": lambda p: tl.optim.Adamax(p),
    "nadam": lambda p: tl.optim.NAdam(p),
    "radam": lambda p: tl.optim.RAdam(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    """Parameters, gradients, states and counts after each step; the first step makes the state."""

    def make():
        model = net()
        optimizer = OPTIMIZERS[name](model.parameters())
        return training(model, optimizer), model, [optimizer], None

    step = both(make)
    assert recordings(step) == (2 if "dampening" in name else 1)  # there a first step is another one


def test_groups_of_their_own():
    def make():
        model = net()
        optimizer = tl.optim.AdamW(
            [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "betas": (0.5, 0.9)}]
        )
        return training(model, optimizer), model, [optimizer], None

    both(make)


SCHEDULERS = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda k: 0.9**k),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda k: 0.9),
    "step": lambda o: schedulers.StepLR(o, 2, 0.5),
    "multistep": lambda o: schedulers.MultiStepLR(o, [1, 3], 0.5),
    "constant": lambda o: schedulers.ConstantLR(o, 0.5, 3),
    "linear": lambda o: schedulers.LinearLR(o, 0.5, 1.0, 4),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.8),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 6),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 5),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "cyclic, momentum kept": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=50),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.1, 3), schedulers.ExponentialLR(o, 0.9)], [3]
    ),
}
KINDS = {
    "sgd": lambda p: tl.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: tl.optim.Adam(p, 0.01),
    "adam of a tensor": lambda p: tl.optim.Adam(p, tl.tensor(0.01)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name, kind):
    def make():
        model = net()
        optimizer = KINDS[kind](model.parameters())
        scheduler = SCHEDULERS[name](optimizer)
        return training(model, optimizer), model, [optimizer], lambda k: scheduler.step()

    assert recordings(both(make, 8)) == 1


def test_reduce_on_plateau():
    def make():
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.5)
        scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return training(model, optimizer), model, [optimizer], lambda k: scheduler.step(1.0)

    assert recordings(both(make)) == 1


def test_cycled_momentum_for_long():
    """A setting that changes at each step does not record at each step."""

    def make():
        model = net()
        optimizer = tl.optim.Adam(model.parameters())
        scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps=100)
        return training(model, optimizer), model, [optimizer], lambda k: scheduler.step()

    assert recordings(both(make, 60)) == 1


CHANGES = {
    "weight_decay": 0.3, "betas": (0.5, 0.8), "eps": 1e-3, "lr": 0.2, "maximize": True, "amsgrad": True,
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_settings_changed_outside(key):
    def make():
        model = net()
        optimizer = tl.optim.AdamW(model.parameters(), 0.01)

        def between(k):
            if k == 2:
                optimizer.param_groups[0][key] = CHANGES[key]

        return training(model, optimizer), model, [optimizer], between

    both(make)


def test_weight_decay_on_and_off():
    def make():
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.01, momentum=0.9)

        def between(k):
            optimizer.param_groups[0]["weight_decay"] = 0.1 * (k % 2)
            optimizer.param_groups[0]["momentum"] = 0.9 if k < 3 else 0.0

        return training(model, optimizer), model, [optimizer], between

    both(make, 8)


def test_the_learning_rate_becomes_a_tensor():
    def make():
        model = net()
        optimizer = tl.optim.Adam(model.parameters(), 0.01)

        def between(k):
            if k == 2:
                optimizer.param_groups[0]["lr"] = tl.tensor(0.05)
            if k == 3:
                optimizer.param_groups[0]["lr"].fill_(0.02)

        return training(model, optimizer), model, [optimizer], between

    both(make)


def test_a_state_that_was_cleared():
    def make():
        model = net()
        optimizer = tl.optim.Adam(model.parameters(), 0.01)

        def between(k):
            if k == 2:
                optimizer.state.clear()

        return training(model, optimizer), model, [optimizer], between

    both(make)


# ---- gradients
def test_clipping():
    for clip in (
        lambda p: tl.nn.utils.clip_grad_norm_(p, 0.1),
        lambda p: tl.nn.utils.clip_grad_norm_(p, 0.1, norm_type=float("inf")),
        lambda p: tl.nn.utils.clip_grad_value_(p, 0.01),
    ):

        def make(clip=clip):
            model = net()
            optimizer = tl.optim.Adam(model.parameters(), 0.01)
            return training(model, optimizer, before=lambda: clip(model.parameters())), model, [optimizer], None

        assert recordings(both(make)) == 1


def test_the_norm_that_clipping_gives():
    model = net()
    optimizer = tl.optim.SGD(model.parameters(), 0.01)

    @tl.compile
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        norm = tl.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return norm

    norms = [step(x, y) for x, y in batches(4)]
    assert len({n.item() for n in norms}) == 4 and all(n > 0.1 for n in norms)


def test_zero_grad_at_the_end():
    def make():
        model = net()
        optimizer = tl.optim.Adam(model.parameters(), 0.01)

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return step, model, [optimizer], None

    both(make)


def test_zero_grad_by_filling():
    def make():
        model = net()
        optimizer = tl.optim.Adam(model.parameters(), 0.01)

        def step(x, y):
            optimizer.zero_grad(set_to_none=False)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step, model, [optimizer], None

    both(make)


def test_zero_grad_outside():
    for to_none in (True, False):

        def make(to_none=to_none):
            model = net()
            optimizer = tl.optim.Adam(model.parameters(), 0.01)

            def step(x, y):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                return loss

            return step, model, [optimizer], lambda k: optimizer.zero_grad(set_to_none=to_none)

        both(make)


def test_gradients_that_add_up():
    """Backward alone is compiled; every third call the optimizer steps outside."""

    def make():
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.1, momentum=0.9)

        def step(x, y):
            loss = F.cross_entropy(model(x), y) / 3
            loss.backward()
            return loss

        def between(k):
            if k % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()

        return step, model, [optimizer], between

    assert recordings(both(make, 12)) <= 3


def test_gradients_that_add_up_inside():
    def make():
        model = net()
        optimizer = tl.optim.Adam(model.parameters(), 0.1)

        def step(x, y):
            optimizer.zero_grad()
            total = 0.0
            for k in range(0, 4, 2):
                loss = F.cross_entropy(model(x[k : k + 2]), y[k : k + 2]) / 2
                loss.backward()
                total = total + loss.detach()
            optimizer.step()
            return total

        return step, model, [optimizer], None

    both(make)


def test_gradients_kept_by_the_caller():
    """What a caller made of a gradient is the caller's; ``.grad`` itself is the program's memory, as documented."""
    model = net()
    step = tl.compile(training(model, tl.optim.SGD(model.parameters(), 0.1)))
    kept = []
    for x, y in batches(3):
        step(x, y)
        kept.append(model[0].weight.grad.clone())
    assert not same(kept[0], kept[1]) and same(kept[2], model[0].weight.grad)


def test_a_gradient_changed_outside():
    """Gradients are added to the one that is there, whoever wrote it."""

    def make():
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.1)

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        def between(k):
            if k == 1:
                model[0].weight.grad = tl.ones(6, 4)
            if k == 2:
                model[0].weight.grad.mul_(0.5)
            if k == 3:
                model[0].bias.grad = None

        return step, model, [optimizer], between

    both(make)


def test_unused_parameters():
    def make():
        model = net()
        model.add_module("unused", tl.nn.Linear(2, 2))
        model.forward = lambda x: model[2](model[1](model[0](x)))
        optimizer = tl.optim.Adam(model.parameters())
        return training(model, optimizer), model, [optimizer], None

    both(make)


def test_two_optimizers():
    """A generator and a critic, each with a step of its own."""

    def make():
        tl.manual_seed(1)
        maker, critic = tl.nn.Linear(2, 4), tl.nn.Linear(4, 1)
        both_nets = tl.nn.ModuleList([maker, critic])
        a, b = tl.optim.Adam(maker.parameters(), 0.01, betas=(0.5, 0.9)), tl.optim.SGD(critic.parameters(), 0.1)

        def step(x, y):
            b.zero_grad()
            fake = maker(tl.randn(5, 2))
            loss = F.binary_cross_entropy_with_logits(critic(x), tl.ones(5, 1))
            loss = loss + F.binary_cross_entropy_with_logits(critic(fake.detach()), tl.zeros(5, 1))
            loss.backward()
            b.step()
            a.zero_grad()
            wish = F.binary_cross_entropy_with_logits(critic(fake), tl.ones(5, 1))
            wish.backward()
            a.step()
            return loss + wish

        return step, both_nets, [a, b], None

    assert recordings(both(make)) == 1


def test_gradient_penalty():
    """``create_graph`` inside of the step."""

    def make():
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.1)

        def step(x, y):
            optimizer.zero_grad()
            x = x.detach().requires_grad_()
            loss = F.cross_entropy(model(x), y)
            (slope,) = tl.autograd.grad(loss, x, create_graph=True)
            loss = loss + (slope.norm() - 1) ** 2
            loss.backward()
            optimizer.step()
            return loss

        return step, model, [optimizer], None

    both(make)


def test_loss_scale_as_state():
    made = []
    for compiled in (False, True):
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.1)
        scale = tl.tensor(8.0)

        def step(x, y, model=model, optimizer=optimizer, scale=scale):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            (loss * scale).backward()
            for p in model.parameters():
                p.grad /= scale
            optimizer.step()
            scale.mul_(2)
            return loss

        f = tl.compile(step, state=[scale], options=OFF) if compiled else step
        for k, (x, y) in enumerate(batches(5)):
            f(x, y)
            if k == 2:
                scale.fill_(4.0)
        made.append([*everything(model), scale.clone()])
    assert same(*made) and made[1][-1].item() == 16


def test_loss_scale_undeclared():
    model, scale = net(), tl.tensor(8.0)
    f = tl.compile(lambda x: model(x) * scale)
    with pytest.raises(tl.errors.CaptureError, match=r"scale.*declare it"):
        f(tl.ones(2, 4))


# ---- random numbers
def test_dropout_draws_as_it_would():
    def make():
        model = net(tl.nn.Dropout(0.5))
        optimizer = tl.optim.Adam(model.parameters(), 0.01)
        return training(model, optimizer), model, [optimizer], None

    step = both(make)
    assert recordings(step) == 1


def test_dropout_after_other_seeds():
    def make():
        model = net(tl.nn.Dropout(0.5), tl.nn.BatchNorm1d(6))
        optimizer = tl.optim.SGD(model.parameters(), 0.1)

        def between(k):
            if k % 2:
                tl.manual_seed(k)
            if k == 4:
                tl.rand(3)

        return training(model, optimizer), model, [optimizer], between

    assert recordings(both(make)) == 1


def test_a_generator_of_its_own():
    made = []
    for compiled in (False, True):
        g = tl.Generator().manual_seed(3)

        def noisy(x, g=g):
            return x + tl.randn(3, generator=g), tl.randperm(5, generator=g), tl.rand(2)

        f = tl.compile(noisy) if compiled else noisy
        tl.manual_seed(1)
        out = [f(tl.ones(3)) for _ in range(3)]
        g.manual_seed(9)
        made.append([*out, f(tl.ones(3)), tl.rand(1)])
    assert same(*made)
    assert not same(made[1][0], made[1][1])


def test_every_draw_differs():
    f = tl.compile(lambda: tl.rand(4))
    drawn = [tuple(f().tolist()) for _ in range(20)]
    assert len(set(drawn)) == 20
