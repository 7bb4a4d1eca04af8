"""``python -m benchmarks steps ...`` and the other commands."""

import sys

from benchmarks import growth, headline, ops, overhead, readme, replay, steps
from benchmarks.gpu import run as gpu

COMMANDS = {
    "steps": (steps.main, "training and inference steps of whole models beside other libraries"),
    "ops": (ops.main, "single ops beside PyTorch's, and their share of what the machine can do"),
    "gpu": (gpu.main, "what is right and how fast it is on a GPU; --toy plays one"),
    "growth": (growth.main, "how a training step's time grows with batch, width and sequence length"),
    "replay": (replay.main, "what replaying a compiled step costs beyond its kernels"),
    "headline": (headline.main, "the MNIST CNN trained to 0.97 beside PyTorch"),
    "readme": (readme.main, "README's figures written from the files of results"),
    "overhead": (overhead.main, "what one eager op costs beside PyTorch"),
}


def main(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]][0](argv[1:])
    lines = [f"  {name:10s} {what}" for name, (_, what) in COMMANDS.items()]
    asked = argv in (["-h"], ["--help"])
    print("\n".join(["python -m benchmarks COMMAND [--help]", *lines]), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
