"""Starts the command line with `python -m SAM2PropagateLib.cli`."""

import sys

from SAM2PropagateLib.cli.main import console

if __name__ == "__main__":
    sys.exit(console())
