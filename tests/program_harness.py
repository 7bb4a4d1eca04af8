"""Running the program ``tensorlite`` in a test: in this process, or in one of its own."""

import os
import signal
import subprocess
import sys

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


def program(*argv):
    """The program in a process of its own, as a terminal would start it: open to Ctrl-C."""
    listen = {} if os.name == "nt" else dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    package = os.path.dirname(os.path.dirname(os.path.abspath(tl.__file__)))
    return subprocess.Popen(
        [sys.executable, "-m", "tensorlite", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=package),
        **listen,
    )
