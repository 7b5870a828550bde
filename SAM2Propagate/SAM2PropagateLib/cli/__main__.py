"""Starts the command line: `python -m SAM2PropagateLib.cli`, or `sam2propagate` where it is installed."""

import sys


def run() -> int:
    """Run the command line; return its exit status. Ctrl-C ends it without a traceback while it still
    starts."""
    try:
        # Late, as this takes a second or more.
        from SAM2PropagateLib.cli.main import console

        return console()
    except KeyboardInterrupt:
        print("Cancelled; nothing was written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
