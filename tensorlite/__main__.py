"""``python -m tensorlite``: the program of the same name. Floor 7."""

import sys

from tensorlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
