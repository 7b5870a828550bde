"""The command line: `segment`, `cohort`, `models`, `finetune` and `evaluate` (`docs/cli.md`).

Start it as `python3 run.py cli` in a checkout, and as `sam2propagate` if the package is installed.

Only the result goes to stdout; progress, notes and errors go to stderr. Exit status: 0 the file is written, 1
failure, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cli.cohort import CohortCommand, add_cohort, cohort_command, run_cohort_command
from SAM2PropagateLib.cli.evaluate import EvaluateCommand, add_evaluate, evaluate_command, run_evaluate
from SAM2PropagateLib.cli.experiment import ExperimentCommand, PartlyDone, run_experiment_command
from SAM2PropagateLib.cli.finetune import FinetuneCommand, add_finetune, finetune_command, run_finetune
from SAM2PropagateLib.cli.models import ModelsCommand, add_models, models_command, run_models
from SAM2PropagateLib.cli.options import Parser, bad_arguments, check_device, prepared, program_name
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cli.segment import (
    SegmentCommand,
    SessionFactory,
    add_segment,
    run_segment,
    segment_command,
)
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.files.unreadable import path_failure
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.worker.command import OPENMP_SETTINGS, worker_command
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.session import WorkerSession

if TYPE_CHECKING:
    from SAM2PropagateLib.cohort.on_worker import MakeSession

OK, FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# A console that cannot print the first character of a pair gets the second.
_PLAIN = {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "×": "x", "−": "-", "–": "-", "—": "-"}


Command = (
    SegmentCommand | ModelsCommand | CohortCommand | FinetuneCommand | EvaluateCommand | ExperimentCommand
)


def local_session() -> WorkerSession:
    """Return a session that runs its worker on this computer with this Python."""
    return WorkerSession(worker_command())


def remote_session(remote: Remote) -> WorkerSession:
    """Return a session that runs its worker on a server."""
    return WorkerSession(worker_command(remote=remote))


def main(
    arguments: Sequence[str] | None = None,
    *,
    session_factory: SessionFactory = local_session,
    make_session: MakeSession | None = None,
    store: ModelStore | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None: those of this process.
        session_factory: makes the worker session of `segment` on this computer.
        make_session: makes those of `cohort`; see `run_cohort_command`.
        store: the models of this computer; None: those of the user.
        stdout, stderr: where to write; None: this process's.

    Returns:
        The exit status.
    """
    out, err = stdout or sys.stdout, stderr or sys.stderr
    words = sys.argv[1:] if arguments is None else list(arguments)
    progress = ProgressPrinter(err)
    command: Command | None = None
    try:
        command = parse_arguments(words)
        with _interruptions(progress) as interruption:
            models = store or ModelStore()
            if isinstance(command, ModelsCommand):
                lines = run_models(command, models, progress, interruption)
            elif isinstance(command, SegmentCommand):
                factory = session_factory
                if command.remote is not None:
                    factory = functools.partial(remote_session, command.remote)
                lines = [run_segment(command, factory, models, progress, interruption)]
            elif isinstance(command, CohortCommand):
                lines = run_cohort_command(command, models, progress, interruption, make_session)
            else:
                # These commands compute in this process, and torch reads the settings when it is imported.
                for name, value in OPENMP_SETTINGS.items():
                    os.environ.setdefault(name, value)
                if isinstance(command, EvaluateCommand):
                    lines = run_evaluate(command, models, progress, interruption)
                elif isinstance(command, ExperimentCommand):
                    lines = run_experiment_command(command, models, progress, interruption)
                else:
                    lines = run_finetune(command, models, progress, interruption)
        progress.close()
        _print(out, lines)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else OK
    except (Cancelled, KeyboardInterrupt) as error:
        progress.note(str(error) or "Cancelled; nothing was written.")
        return INTERRUPTED
    except PartlyDone as error:
        progress.close()
        _print(out, error.lines)
        _tell(progress, error, command)
        return FAILURE
    except SAM2PropagateError as error:
        _tell(progress, error, command)
        return BAD_INPUT if isinstance(error, InputError) else FAILURE
    except OSError as error:
        # Where a file is only looked for, too.
        failure = path_failure(error)
        if failure is None:
            return _unexpected(progress, error, command)
        _tell(progress, error, command, str(failure))
        return BAD_INPUT
    except ImportError as error:
        _tell(progress, error, command, f"The Python package “{error.name or error}” cannot be imported.")
        return FAILURE
    except Exception as error:
        return _unexpected(progress, error, command)
    return OK


def _unexpected(progress: ProgressPrinter, error: Exception, command: Command | None) -> int:
    """Tell of an error that nobody has expected; return the exit status."""
    if is_out_of_memory(error):
        _tell(progress, error, command, "This needs more memory than the computer has free.")
        return FAILURE
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    _tell(progress, error, command, f"It failed unexpectedly ({reason}); --debug shows where.")
    return FAILURE


def parse_arguments(arguments: Sequence[str]) -> Command:
    """Return the command of a command line.

    Raises:
        InputError: `bad_arguments`, `unknown_device`, `bad_window`: one sentence each.
        SystemExit: after --help or --version, with 0.
    """
    parser, commands = _parser()
    namespace = parser.parse_args(prepared(arguments))
    if namespace.command is None:
        *others, last = commands
        raise bad_arguments("No command is given.", f"Use {', '.join(others)} or {last}; --help tells more.")
    if namespace.command == "models":
        return models_command(namespace)
    if namespace.command == "segment":
        return segment_command(namespace)
    check_device(namespace.device)
    if namespace.command == "cohort":
        return cohort_command(namespace)
    return finetune_command(namespace) if namespace.command == "finetune" else evaluate_command(namespace)


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser and the names of its commands."""
    shape: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser(
        prog=program_name(),
        description="Segment a CT or MR volume with SAM 2, without a screen.",
        **shape,
    )
    parser.add_argument("--version", action="version", version=f"SAM2Propagate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    add_segment(commands, **shape)
    add_cohort(commands, **shape)
    add_models(commands, **shape)
    add_finetune(commands, **shape)
    add_evaluate(commands, **shape)
    return parser, list(commands.choices)


class Interruption:
    """Tells whether the user has asked to stop; asking twice stops at once."""

    def __init__(self) -> None:
        self.is_asked = False

    def __call__(self) -> bool:
        return self.is_asked


@contextlib.contextmanager
def _interruptions(progress: ProgressPrinter) -> Iterator[Interruption]:
    """Make the first Ctrl-C, or a request to terminate, set a flag that the work checks."""
    interruption = Interruption()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if interruption.is_asked:
            raise KeyboardInterrupt
        interruption.is_asked = True

    kept: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        # Only the main thread can do this; in other threads the caller handles signals.
        with contextlib.suppress(ValueError):
            kept[number] = signal.signal(number, ask)
    try:
        yield interruption
    finally:
        for held, handler in kept.items():
            signal.signal(held, handler)


def _tell(
    progress: ProgressPrinter,
    error: BaseException,
    command: Command | None,
    sentence: str = "",
) -> None:
    if command is not None and command.debug:
        progress.note("".join(traceback.format_exception(error)).rstrip())
    text = sentence or str(error)
    if isinstance(error, ImportError) or getattr(error, "code", "") == "not_installed":
        text += " docs/install.md lists the commands that install everything."
    progress.note("Error: " + " ".join(text.split()))


def _print(stream: TextIO, lines: Sequence[str]) -> None:
    """Print lines; ignore a closed pipe, as the work has succeeded."""
    try:
        for line in lines:
            stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        # Python flushes stdout at its end, which must not fail again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return a replacement for a character that a console cannot show: a similar plain one, or an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    escape = character.encode("ascii", "backslashreplace").decode("ascii")
    return _PLAIN.get(character, escape), after


def _survive_characters(stream: Any) -> None:
    """Let a console print similar characters for those that it cannot show, instead of failing."""
    codecs.register_error("plainer", _plainer)
    with contextlib.suppress(AttributeError, ValueError):
        stream.reconfigure(errors="plainer")


def console() -> int:
    """Run the command line as a program; return its exit status."""
    _survive_characters(sys.stdout)
    _survive_characters(sys.stderr)
    return main()
