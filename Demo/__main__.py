"""`python -m Demo`: see `python3 run.py demo --help`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from Demo.terminal import Terminal
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.atomic import check_output, write_failure
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, model_names
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.messages import LoadModel

OK, FAILURE, INTERRUPTED = 0, 1, 130
_FILES = {
    "segmentation": "segmentation.seg.nrrd",
    "scene": "scene.mrb",
    "report": "report.json",
    "picture": "demo.png",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit status."""
    options = _parser().parse_args(arguments)
    terminal = Terminal(sys.stdout)
    try:
        demonstrate(options.out, options.model, options.device, terminal)
    except KeyboardInterrupt:
        terminal.close()
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        terminal.close()
        if options.debug:
            traceback.print_exc()
        print(f"The demonstration failed: {_sentence(error)}", file=sys.stderr)
        return FAILURE
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py demo",
        description="Segment two structures of the CT that ships with the project, from a click to a saved "
        "scene, and measure the result.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where to write (%(default)s)")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"a weights file, or one of {', '.join(model_names())} (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="say more when something fails")
    return parser


def _sentence(error: Exception) -> str:
    if isinstance(error, SAM2PropagateError):
        return str(error)
    text = str(error) or type(error).__name__
    return f"{text} (Run it again with --debug for the details.)"


def demonstrate(out: Path, model: str, device: str, terminal: Terminal) -> None:
    """Run the whole demonstration.

    Args:
        out: folder to write to; made if need be.
        model: a name or a weights file.
        device: as the worker takes it.

    Raises:
        SAM2PropagateError: a step failed.
    """
    files = _output_files(out)
    path, entry = ModelStore().resolve(model)
    by_name = entry is not None and entry.name == model
    request = LoadModel(
        name=model if by_name else None, path=None if by_name else str(path.absolute()), device=device
    )
    # Only now: Slicer's libraries take a while, and wrong arguments are told before.
    from Demo.desk import DemoSession
    from Demo.story import open_case, tell
    from Demo.write import write_all

    session = DemoSession(worker_command())
    with session:
        desk, facts = open_case(session, request, terminal)
        with contextlib.closing(desk):
            story = tell(desk, facts, terminal)
            # The pictures need no worker.
            session.close()
            write_all(desk, story, files, terminal)


def _output_files(out: Path) -> dict[str, Path]:
    # Slicer takes a relative path from its scene's folder, which is another one once a scene is loaded.
    files = {what: out.absolute() / name for what, name in _FILES.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(out, error) from error
    for path in files.values():
        check_output(path, overwrite=True)
    return files


if __name__ == "__main__":
    sys.exit(main())
