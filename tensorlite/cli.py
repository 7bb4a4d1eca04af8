"""The program ``tensorlite``: train, predict, sample, info. What a verb needs is imported when it runs. Floor 7.

Exit codes: 0; 1 where something failed; 2 for options that cannot be; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from tensorlite._version import __version__
from tensorlite.errors import DataError, DeviceError, TensorliteError


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


class _Usage(Exception):
    """An option that cannot be, found after parsing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on these arguments (default: the process's) and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    if "run" not in args:
        args.help()
        return 2
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except _Usage as error:
        return _complain(error, 2)
    except TensorliteError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was written", 130)
    except BrokenPipeError:  # the reader of our output has seen enough: `tensorlite info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(what: Any, code: int) -> int:
    print(f"tensorlite: {'error: ' if code != 130 else ''}{what}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tensorlite", description="A small deep-learning framework with PyTorch's names.")
    parser.add_argument("--version", action=_Version)
    parser.set_defaults(help=parser.print_help)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    verb = verbs.add_parser("train", help="train an example program", description="Train an example program.")
    verb.set_defaults(help=verb.print_help)
    programs = verb.add_subparsers(title="programs", metavar="PROGRAM")
    for name, add in PROGRAMS.items():
        add(programs, name)

    verb = verbs.add_parser(
        "predict",
        help="read the digits on pictures",
        description="Read the digit on each picture with the weights that `tensorlite train mnist` saved.",
    )
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG or the like, one digit on each")
    verb.add_argument("--weights", metavar="FILE", help="default: the newest mnist-*.safetensors in this folder")
    verb.set_defaults(run=_predict)

    verb = verbs.add_parser(
        "sample",
        help="go on with a text",
        description="Go on with a text, by a model that `tensorlite train chars` saved.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    verb.add_argument("--weights", metavar="FILE", default="chars.safetensors", help="weights, or a checkpoint")
    verb.add_argument("--prompt", metavar="TEXT", default="\n", help="what to go on with")
    verb.add_argument("--length", type=_number(int, 1), default=500, metavar="N", help="characters to add")
    verb.add_argument("--temperature", type=_number(float, 0.0), default=0.8, metavar="X",
                      help="below 1 likelier characters are preferred; 0 always takes the likeliest")  # fmt: skip
    verb.add_argument("--seed", type=_number(int, 0, 2**63 - 1), default=0, metavar="N", help="of what is drawn")
    verb.add_argument("--device", default="cpu", metavar="NAME", help="where to compute")
    verb.set_defaults(run=_sample)

    verb = verbs.add_parser("info", help="versions, devices, kernels, switches and paths")
    verb.set_defaults(run=_info)
    return parser


def _number(kind: Callable[[str], Any], low: float, high: float = math.inf, above: bool = False) -> Callable:
    """A type for argparse: numbers from ``low`` to ``high``, or above ``low``."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value if above else low <= value) or not value <= high or math.isinf(value):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(
                f"{text!r}; wanted {what} {'above' if above else 'from'} {low:g}{'' if above else ' up'}"
            )
        return value

    return parse


class _Version(argparse.Action):
    def __init__(self, **given: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, help="print the version and leave", **given)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"tensorlite {__version__}")
        parser.exit()


# ---- the programs that train
def _program(
    programs: Any, name: str, title: str, about: str, *, epochs: str | None, lr: float, batch_size: int = 64, data: str,
    out: str, plot: str,
) -> Callable:  # fmt: skip
    """A program with the options that all have; returns what adds more. ``out`` may name options in braces."""
    parser = programs.add_parser(
        name,
        help=title,
        description=f"{about} Ctrl-C saves the weights and a checkpoint, from which --resume goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    option = parser.add_argument
    if epochs is not None:
        option("--epochs", type=_number(int, 1), metavar="N", help=f"passes over the data (default: {epochs})")
    option("--batch-size", type=_number(int, 1), default=batch_size, metavar="N", help="samples a step")
    option("--lr", type=_number(float, 0.0, above=True), default=lr, metavar="X",
           help="Adam's learning rate at the start; it falls to 0")  # fmt: skip
    option("--seed", type=_number(int, 0, 2**63 - 1), default=0, metavar="N", help="of weights and order")
    option("--device", default="cpu", metavar="NAME", help="where to compute")
    option("--data", metavar="DIR", help=data)
    option("--workers", type=_number(int, 0), default=0, metavar="N", help="processes that make batches; the weights "
                                                                           "are the same for any number")  # fmt: skip
    option("--out", metavar="FILE", help=f"where the weights go (default: {re.sub('{.*?}', _upper, out)})")
    option("--plot", metavar="FILE", help=f"a picture (.png, .svg or .pdf) of {plot}")
    option("--resume", action="store_true", help="go on from the newest checkpoint of this run, if there is one")
    option("--checkpoint-every", type=_number(float, 0.0), default=30.0, metavar="S",
           help="seconds from one checkpoint to the next at least")  # fmt: skip
    parser.set_defaults(run=_train, program=name, default_out=out)
    return option


def _upper(name: re.Match) -> str:
    return name[0].strip("{}").upper()


def _mnist(programs: Any, name: str) -> None:
    option = _program(
        programs, name, "a net for handwritten digits", "Train a net for handwritten digits.", epochs="5", lr=1e-3,
        data="the folder with MNIST (default: looked for in $TENSORLITE_DATA and the cache, else downloaded)",
        out="mnist-{model}.safetensors", plot="loss and accuracy",
    )  # fmt: skip
    option("--model", choices=("mlp", "cnn", "lstm"), default="mlp",
           help="784-128-10; three convolutions; an LSTM that reads a row a step")  # fmt: skip
    option("--dropout", type=_number(float, 0.0, 0.99), default=0.0, metavar="P", help="before the last layer")
    option("--augment", action="store_true", help="turn and shift the training images at random")


def _text(programs: Any, name: str) -> None:
    option = _program(
        programs, name, "an LSTM that tells praise from its contrary",
        "Train an LSTM in both directions on sentences of movie reviews.", epochs="6", lr=2e-3, batch_size=32,
        data="the folder with rt-polarity.pos and rt-polarity.neg (default: looked for in $TENSORLITE_DATA and the "
        "cache, else downloaded)", out="text.safetensors", plot="loss and accuracy",
    )  # fmt: skip
    option("--dropout", type=_number(float, 0.0, 0.99), default=0.5, metavar="P", help="before and after the LSTM")


def _chars(programs: Any, name: str) -> None:
    option = _program(
        programs, name, "a language model of characters",
        "Train a stacked LSTM to go on with a text, and print a sample.", epochs=None, lr=4e-3, batch_size=32,
        data="a text, or the folder with tinyshakespeare.txt (default: looked for in $TENSORLITE_DATA and the cache, "
        "else downloaded)", out="chars.safetensors", plot="the loss",
    )  # fmt: skip
    option("--steps", type=_number(int, 1), default=1500, metavar="N", help="steps of the optimizer")
    option("--length", type=_number(int, 1), default=64, metavar="N", help="characters that the net is unrolled over")
    option("--hidden", type=_number(int, 1), default=256, metavar="N", help="size of the LSTM's state")
    option("--layers", type=_number(int, 1), default=2, metavar="N", help="of the LSTM")
    option("--dropout", type=_number(float, 0.0, 0.99), default=0.0, metavar="P", help="between the layers")


def _series(programs: Any, name: str) -> None:
    option = _program(
        programs, name, "a forecast of a series", "Train two stacked LSTMs to give the next value of a series.",
        epochs="20; 3 for pollution", lr=1e-3,
        data="the folder with daily-min-temperatures.csv or pollution.csv (default: looked for in $TENSORLITE_DATA "
        "and the cache, else downloaded)", out="series-{series}.safetensors", plot="the loss, and of both forecasts",
    )  # fmt: skip
    option("--series", choices=("temperature", "pollution"), default="temperature",
           help="Melbourne's coldest of each day; Beijing's fine dust of each hour")  # fmt: skip
    option("--window", type=_number(int, 2), default=30, metavar="N", help="steps that the net sees")
    option("--dropout", type=_number(float, 0.0, 0.99), default=0.1, metavar="P", help="after each LSTM")


def _vae(programs: Any, name: str) -> None:
    option = _program(
        programs, name, "digits made up", "Train a variational auto-encoder on the digits and draw new ones.",
        epochs="10", lr=1e-3, batch_size=128,
        data="the folder with MNIST (default: looked for in $TENSORLITE_DATA and the cache, else downloaded)",
        out="vae.safetensors", plot="the loss",
    )  # fmt: skip
    option("--grid", metavar="FILE", help="a picture of made-up digits (default: as --out, with .png)")


PROGRAMS: dict[str, Callable[[Any, str], None]] = {
    "mnist": _mnist, "text": _text, "chars": _chars, "series": _series, "vae": _vae,
}  # fmt: skip


def _train(args: argparse.Namespace) -> int:
    from tensorlite.backends import Device, backend
    from tensorlite.examples.curves import Curves
    from tensorlite.utils.data.files import check_writable

    with _checking("--device"):
        backend(Device(args.device))
    with _checking("--data"):
        if "data" in args:
            there = os.path.exists if args.program == "chars" else os.path.isdir
            if not there(os.path.expanduser(args.data)):
                raise DataError(f"there is no folder {args.data}")
    with _checking("--out"):
        check_writable(args.out if "out" in args else args.default_out.format(**vars(args)))
    with _checking("--plot"):
        if "plot" in args:
            Curves(args.plot)
    with _checking("--grid"):
        if "grid" in args:
            check_writable(args.grid)

    program = importlib.import_module(f"tensorlite.examples.{args.program}")
    given = {k: v for k, v in vars(args).items() if k not in ("run", "help", "program", "default_out", "argv")}
    result = program.train(**given)
    if result.interrupted:
        resumed = [*args.argv, *([] if "--resume" in args.argv else ["--resume"])]
        print(f"go on with: tensorlite {shlex.join(resumed)}")
    return 130 if result.interrupted else 0


# ---- the other verbs


@contextlib.contextmanager
def _checking(option: str) -> Iterator[None]:
    """Complaints made inside are about this option."""
    try:
        yield
    except (DataError, DeviceError) as error:
        raise _Usage(f"{option}: {error}") from error


def _predict(args: argparse.Namespace) -> int:
    for path in args.images:
        if not os.path.isfile(path):
            raise DataError(f"{path}: there is no such file; wanted a picture")
    weights = args.weights or _newest_weights()
    if not os.path.isfile(weights):
        raise DataError(f"{weights}: there is no such file; wanted weights that `tensorlite train mnist` saved")

    from tensorlite.examples.mnist import predict

    width = max(map(len, args.images))
    for path, (digit, probability) in zip(args.images, predict(args.images, weights)):
        print(f"{path:<{width}}  {digit}  {probability:.4f}")
    return 0


def _sample(args: argparse.Namespace) -> int:
    from tensorlite.backends import Device, backend

    with _checking("--device"):
        backend(Device(args.device))
    if not os.path.exists(args.weights):
        raise DataError(f"{args.weights}: there is no such file; wanted weights that `tensorlite train chars` saved")

    from tensorlite.examples.chars import sample

    print(sample(args.weights, args.prompt, args.length, args.temperature, args.seed, args.device))
    return 0


def _newest_weights() -> str:
    import glob

    found = glob.glob("mnist-*.safetensors")
    if not found:
        raise DataError(
            "there is no mnist-*.safetensors here; wanted `tensorlite train mnist` first, or --weights FILE"
        )
    return max(found, key=os.path.getmtime)


def _info(args: argparse.Namespace) -> int:
    import platform
    import textwrap

    import numpy as np

    from tensorlite import config
    from tensorlite.backends import cpu
    from tensorlite.utils.data.files import cache_dir
    from tensorlite.vision import mnist

    rows: list[tuple[str, Any]] = [("tensorlite", __version__), ("python", platform.python_version())]
    rows += [(name, _installed(name)) for name in ("numpy", "ml_dtypes", "safetensors", "tqdm")]
    rows += [(name, _installed(name)) for name in ("matplotlib", "scikit-learn", "pillow")]
    _table("versions", rows)

    kernels = ", ".join(cpu.kernel_names()) or "none; NumPy does the work"
    build: Any = np.show_config(mode="dicts")
    blas = build.get("Build Dependencies", {}).get("blas", {})
    _table("machine", [
        ("system", f"{platform.system()} {platform.machine()}"),
        ("devices", ", ".join(["cpu", *(f"cuda:{k} ({name})" for k, name in enumerate(_gpus()))])),
        ("cores", cpu.cores()),
        ("threads", f"{cpu.get_num_threads()} in compiled kernels"),
        ("instruction set", cpu.isa()),
        ("matrix products", f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()),
        ("compiled kernels", textwrap.fill(kernels, 100, subsequent_indent=" " * 20)),
    ])  # fmt: skip
    _table("switches", [
        (s.name, f"{s.value}{'' if s.value == s.default else f' (default {s.default})'}")
        for s in config.Switch.table.values()
    ])  # fmt: skip
    found = mnist.find()
    _table("paths", [
        ("program", os.path.dirname(os.path.abspath(__file__))),
        ("cache", cache_dir()),
        ("TENSORLITE_DATA", os.environ.get("TENSORLITE_DATA") or "not set"),
        ("MNIST", found[0].parent if found else "not here; `tensorlite train mnist` will look for it on the internet"),
    ])  # fmt: skip
    return 0


def _gpus() -> list[str]:
    """The names of the GPUs that can be used."""
    from tensorlite import cuda

    return [cuda.get_device_name(k) for k in range(cuda.device_count())]


def _table(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    print(title)
    for name, value in rows:
        print(f"  {name:<17} {value}")


def _installed(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
