"""`models`: lists the models, and downloads and removes them with the user's consent.

The other commands find their model here, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SAM2PropagateLib.amounts import size_words
from SAM2PropagateLib.cli.options import HowToSegment, add_debug, program_name
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cohort.needs import model_memory_mb
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.download import download
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, ModelEntry
from SAM2PropagateLib.models.store import ModelStatus, ModelStore
from SAM2PropagateLib.models.verify import is_config_file
from SAM2PropagateLib.worker.messages import LoadModel, ProgressEvent

_HEADINGS = ("NAME", "WHERE", "FILE", "INPUT", "MEMORY", "LICENSE", "WHAT")


@dataclass(frozen=True)
class ModelsCommand:
    """The options of `models`: list them, or download or remove one."""

    download: str | None
    remove: str | None
    yes: bool
    debug: bool


def add_models(commands: Any, **shape: Any) -> None:
    """Add the command `models` to the parser's commands."""
    parser = commands.add_parser("models", help="list, download or remove models", **shape)
    only_one = parser.add_mutually_exclusive_group()
    only_one.add_argument("--download", metavar="NAME", help="get a model into your cache folder")
    only_one.add_argument("--remove", metavar="NAME", help="delete a downloaded model")
    parser.add_argument("--yes", action="store_true", help="agree to the download or removal")
    add_debug(parser)


def models_command(namespace: argparse.Namespace) -> ModelsCommand:
    """Return the command of parsed arguments."""
    return ModelsCommand(namespace.download, namespace.remove, namespace.yes, namespace.debug)


def run_models(
    command: ModelsCommand,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> list[str]:
    """Run the command `models`; return the lines of the result.

    Raises:
        InputError: `consent_needed` without --yes; `unknown_model`, `model_bundled`.
        Cancelled: during a download, which can be resumed.
        SAM2PropagateError: as `download` and `ModelStore.remove`.
    """
    if command.download is not None:
        return [_download(command.download, command.yes, store, progress, should_cancel)]
    if command.remove is not None:
        return [_remove(command.remove, command.yes, store)]
    rows = [_HEADINGS, *(_row(status) for status in store.status())]
    return [*_table(rows), f"Downloaded models lie in {store.cache / 'models'}."]


def _row(status: ModelStatus) -> tuple[str, ...]:
    entry = status.entry
    if status.there:
        where = "bundled" if entry.resource is not None else "there"
    else:
        where = "missing" if entry.resource is not None else "to download"
        if status.bytes_there:
            where = f"{size_words(status.bytes_there)} there"
    size = status.bytes_there if status.there else entry.bytes
    return (
        entry.name + (" *" if entry.name == DEFAULT_MODEL else ""),
        where,
        str(size_words(size)) if size else "",
        f"{entry.input_size} px",
        f"{entry.memory_mb / 1024:.1f} GB",
        entry.license,
        str(entry.listed_title),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _download(
    name: str,
    consent: bool,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> str:
    entry = store.find(name)
    if entry.url is None:
        raise InputError(
            "model_bundled", f"The model “{name}” comes with the extension.", "There is nothing to download."
        )
    if not consent:
        size = size_words(entry.bytes) if entry.bytes else "a file"
        raise InputError(
            "consent_needed",
            f"This would download {size} (license {entry.license}) from {entry.url} to "
            f"“{store.path_of(entry)}”.",
            "Add --yes to agree.",
        )
    progress("download")

    def tell(done: int, total: int | None) -> None:
        progress("download", ProgressEvent(None, name, done, total or entry.bytes or 0))

    path = download(entry, store, progress=tell, cancelled=should_cancel)
    return f"Downloaded {name} to {path}"


def _remove(name: str, consent: bool, store: ModelStore) -> str:
    entry = store.find(name)
    if not consent and entry.resource is None:
        raise InputError(
            "consent_needed", f"This would delete “{store.path_of(entry)}”.", "Add --yes to agree."
        )
    freed = store.remove(name)
    return f"Removed {name}: {size_words(freed)} freed" if freed else f"{name} was not there"


# --- the model of another command


@dataclass(frozen=True)
class ChosenModel:
    """The model of a command, found and verified.

    Attributes:
        path: of its weights, absolute. entry: in the list of models; None: a file of the user.
        config: its configuration, a file as an absolute path; None: taken from the weights file.
        identity: changes with the weights or the configuration, not with their place.
    """

    path: Path
    entry: ModelEntry | None
    config: str | None
    identity: str

    @property
    def family(self) -> str | None:
        """Its family of models; None: taken from the file."""
        return None if self.entry is None else self.entry.family

    @property
    def memory_mb(self) -> int:
        """The main memory of a process with it, in MB."""
        return model_memory_mb(self.entry, self.path)


def chosen_model(store: ModelStore, name: str, config: str | None) -> ChosenModel:
    """Return the model of this name or path, with the given configuration or its own.

    Raises:
        InputError, SAM2PropagateError: as `ModelStore.resolve`; for a missing model, the hint has the command
            that downloads it.
    """
    try:
        path, entry = store.resolve(name)
    except InputError as error:
        if error.code != "model_not_there":
            raise
        hint = f"'{program_name()} models --download {name} --yes' gets it."
        raise InputError(error.code, error.sentence, f"{error.hint} {hint}") from error
    if config and is_config_file(config):
        # Workers may run in another folder.
        config = str(Path(config).absolute())
    chosen = config or (None if entry is None else entry.config)
    return ChosenModel(path.absolute(), entry, chosen, store.identity(path, chosen))


def model_request(command: HowToSegment, chosen: ChosenModel) -> LoadModel:
    """Return the request to load the model that was chosen for the command."""
    by_name = chosen.entry is not None and chosen.entry.name == command.model
    config = chosen.config if command.config else None
    return model_of(command, None if by_name else str(chosen.path), config)


def model_of(command: HowToSegment, path: str | None, config: str | None) -> LoadModel:
    """Return the request to load a model.

    Args:
        path: of a file on the worker's computer; None: the command's model by name.
        config: a name, or a file there; None: the model's own.
    """
    return LoadModel(
        name=command.model if path is None else None,
        path=path,
        config=config,
        device=command.device,
        input_size=command.input_size,
        motion=command.motion,
        precision=command.precision,
        # Without previews there is nothing to encode ahead for.
        encode_ahead=False,
    )
