"""Running the program ``tensorlite`` in a test, in this process or in one of its own, and a little data for it."""

import os
import signal
import subprocess
import sys

import numpy as np

import tensorlite as tl
from tensorlite.cli import main


def cli(capsys, *argv):
    """Exit code, lines of standard output, lines of standard error."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as leave:
        code = leave.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


# of subprocess.Popen, for a process that hears Ctrl-C even where the tests run in the background and do not
OPEN_TO_CTRL_C = {} if os.name == "nt" else dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def program(*argv):
    """The program in a process of its own, as a terminal would start it: open to Ctrl-C."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(tl.__file__)))
    return subprocess.Popen(
        [sys.executable, "-m", "tensorlite", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=package),
        **OPEN_TO_CTRL_C,
    )


def write_small_data(folder):
    """A little of what every program but the digits' ones reads, so little that a training takes a moment."""
    rng = np.random.default_rng(0)
    nouns, good, bad = ["film", "plot", "actor", "scene"], ["good", "great", "fine"], ["bad", "dull", "poor"]
    for name, words in (("rt-polarity.pos", good), ("rt-polarity.neg", bad)):
        lines = (f"the {nouns[k % 4]} is {words[k % 3]} , caf\xe9 {'.' * (k % 5)}" for k in range(900))
        (folder / name).write_bytes("\n".join(lines).encode("latin-1"))
    (folder / "tinyshakespeare.txt").write_text("To be, or not to be: that is the question.\n" * 80)
    days = np.arange("1981-01-01", "1981-12-31", dtype="datetime64[D]")
    degrees = 10 + 5 * np.sin(np.arange(len(days)) / 9) + rng.normal(0, 1, len(days))
    cells = ["" if k % 50 == 7 else f"{d:.1f}" for k, d in enumerate(degrees)]
    rows = (f'"{day}",{cell}' for day, cell in zip(days, cells))
    (folder / "daily-min-temperatures.csv").write_text("\n".join(['"Date","Temp"', *rows]))
    header = "No,year,month,day,hour,pm2.5,DEWP,TEMP,PRES,cbwd,Iws,Is,Ir"
    rows = (f"{k},2010,1,1,{k % 24},{'NA' if k % 9 == 0 else 50 + k % 30},1,{k % 7},{1000 + k % 5},NW,1.5,0,{k % 3}"
            for k in range(600))  # fmt: skip
    (folder / "pollution.csv").write_text("\n".join([header, *rows]))
