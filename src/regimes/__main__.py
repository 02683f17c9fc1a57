"""``python -m regimes``: the command line, where its script is not on the path."""

import sys

from regimes.cli import group

if __name__ == "__main__":
    # A run records its command, to be run again: this file as a script would hide Python's own modules by ours.
    sys.argv[:1] = ["-m", "regimes"]
    group(sys.argv[2:], prog_name="regimes")
