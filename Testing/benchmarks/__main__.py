"""`python3 run.py bench [accuracy|speed|streaming|panel|server|all] [options]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from Testing.benchmarks import accuracy, panel, server, speed, streaming
from Testing.benchmarks.machine import ROOT, WAIT_POLICY

BENCHMARKS = {"accuracy": accuracy, "speed": speed, "streaming": streaming, "panel": panel, "server": server}
RECORDS = Path(__file__).parent / "results"
_ABOUT = {
    "accuracy": "Dice over labeled volumes, with one box and after corrections",
    "speed": "slices per second beside sam2's own predictor, previews, main and GPU memory",
    "streaming": "how long a client is held per arriving slice",
    "panel": "the same with the module's whole panel",
    "server": "sending a volume, previews and masks through ssh, also on a slow line",
}


def parser() -> argparse.ArgumentParser:
    """Run the command line."""
    main = argparse.ArgumentParser(
        prog="run.py bench",
        description="Measure SAM2Propagate on this computer; without a name: all.",
    )
    commands = main.add_subparsers(dest="benchmark", metavar="NAME")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=_ABOUT[name], description=_ABOUT[name])
        _add_common(command)
        module.add_arguments(command)
    everything = commands.add_parser("all", help="one after the other, with their defaults")
    _add_common(everything)
    return main


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, default=ROOT / "bench-output", help="folder for the records")
    command.add_argument(
        "--record", action="store_true", help="write the records into the repository, to be committed"
    )
    command.add_argument("--threads", type=int, help="threads of torch; default: its own choice")


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 0, or 2 for bad input and 1 for a failure."""
    # Before torch is imported: its threads read it once.
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
    options = parser().parse_args(arguments)
    names = list(BENCHMARKS) if options.benchmark in (None, "all") else [options.benchmark]
    given = [] if options.benchmark is None else list(arguments)[1:]
    try:
        for name in names:
            chosen = parser().parse_args([name, *given])
            report = BENCHMARKS[name].run(chosen)
            if report is not None:
                readable, complete = report.write(RECORDS if chosen.record else chosen.out)
                print(f"Written: {readable} and {complete.name}\n", flush=True)
    except SAM2PropagateError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("bench: interrupted; what was finished before is written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
