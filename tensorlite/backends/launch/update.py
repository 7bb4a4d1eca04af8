"""Steps of optimizers on a GPU: constants and tables for kernels/cuda/update.cu. Floor 1.

A step is one launch for all tensors of a dtype, after a small one that raises the step counts, if there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.table import NUMBERS, THREADS, tables

FLAGS = {"maximize": 1, "decays": 2, "decoupled": 4, "nesterov": 8, "first": 16, "centered": 32, "momentum": 64,
         "dampening": 128}  # fmt: skip
PREPARE, STEP = "PiPPiP" + "d" * 5 + "i", "PiPPPiiP" + "d" * 5 + "i"  # types of arguments

# rule: which constants its a, b, d are (update.cu), kinds of arrays, kinds of single numbers
RULES: dict[str, tuple] = {
    "sgd": (("momentum", "dampening", ""), lambda c: 2 + bool(c["momentum"]), 0),
    "adam": (("betas", "", ""), lambda c: 4 + c["amsgrad"], 1),
    "rmsprop": (("alpha", "momentum", ""), lambda c: 3 + c["centered"] + bool(c["momentum"]), 1),
    "adagrad": (("lr_decay", "", ""), lambda c: 3, 1),
    "adadelta": (("rho", "", ""), lambda c: 4, 1),
    "adamax": (("betas", "", ""), lambda c: 4, 1),
    "nadam": (("betas", "", "momentum_decay"), lambda c: 4, 2),
    "radam": (("betas", "", ""), lambda c: 4, 1),
    "scale": (("", "", ""), lambda c: 1, 0),
}


def _stepper(name: str) -> Callable:
    def factory(specs: tuple, outs: tuple, kw: dict) -> Callable:
        (a, b, d), kinds, singles = RULES[name][0], int(RULES[name][1](kw)), RULES[name][2]
        lr, tensors = specs[0], specs[1:]
        told = len(tensors) % (kinds + singles) == 1  # the table ends with found_inf
        decay = float(kw.get("weight_decay", 0.0))
        pair = kw["betas"] if a == "betas" else (kw.get(a, 0.0), kw.get(b, 0.0))
        flags = sum(bit for flag, bit in FLAGS.items() if kw.get(flag)) + FLAGS["decays"] * bool(decay)
        constants = decay, *map(float, pair), float(kw.get("eps", 0.0)), float(kw.get(d, 0.0)), flags
        code = NUMBERS[lr.dtype.short]
        launches = []
        for short, table in tables(tensors[: len(tensors) - told], kinds, singles):
            module = launch.load("update", **defines(name, short, kinds, singles))
            prepare = module.kernel("prepare", PREPARE) if singles else None
            launches.append((table, prepare, module.kernel("step", STEP)))

        def call(lr: Any, *arrays: Any) -> None:
            found = arrays[-1] if told else None
            for table, prepare, step in launches:
                (fixed, numbers), moving = table.find(arrays)
                if prepare is not None:
                    grid = (-(-table.count // THREADS),)
                    prepare(grid, (THREADS,), lr, code, found, fixed, table.count, numbers, *constants)
                if table.blocks:
                    step(
                        (table.blocks,), (THREADS,),
                        lr, code, found, fixed, moving, table.count, table.chunk, numbers, *constants,
                    )  # fmt: skip

        return call

    factory.__name__ = factory.__qualname__ = name
    return factory


def defines(name: str, short: str, kinds: int, singles: int) -> dict:
    """The macros of a rule for tensors of this dtype."""
    return {"ELEM": CTYPES[short], "RULE": name.capitalize(), "KINDS": kinds, "SINGLES": singles}


sgd, adam, rmsprop = _stepper("sgd"), _stepper("adam"), _stepper("rmsprop")
adagrad, adadelta, adamax = _stepper("adagrad"), _stepper("adadelta"), _stepper("adamax")
nadam, radam, scale = _stepper("nadam"), _stepper("radam"), _stepper("scale")


def _variants() -> list[Variant]:
    found = []
    for name, kinds in (
        ("sgd", 2), ("sgd", 3), ("adam", 4), ("adam", 5), ("rmsprop", 3), ("rmsprop", 4), ("rmsprop", 5),
        ("adagrad", 3), ("adadelta", 4), ("adamax", 4), ("nadam", 4), ("radam", 4), ("scale", 1),
    ):  # fmt: skip
        singles = RULES[name][2]
        kernels = {"step": Needs(THREADS, blocks=2)} | ({"prepare": Needs(THREADS, blocks=2)} if singles else {})
        common = name in ("sgd", "adam", "scale")
        shorts = ("f4", "f8", "f2", "bf2") if common else ("f4", "bf2")
        found += [Variant(defines(name, short, kinds, singles), kernels) for short in shorts]
    return found


VARIANTS = _variants()
