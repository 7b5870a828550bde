"""`models`: lists the models, and downloads and removes them with the user's consent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from SAM2PropagateLib.cli.arguments import ModelsCommand
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.download import download
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStatus, ModelStore
from SAM2PropagateLib.worker.messages import ProgressEvent

_MB = 1 << 20
_HEADINGS = ("NAME", "WHERE", "FILE", "INPUT", "MEMORY", "LICENSE", "WHAT")


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
            where = f"{status.bytes_there // _MB} MB there"
    size = status.bytes_there if status.there else entry.bytes
    return (
        entry.name + (" *" if entry.name == DEFAULT_MODEL else ""),
        where,
        f"{round(size / _MB)} MB" if size else "",
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
        size = f"{round(entry.bytes / _MB)} MB" if entry.bytes else "a file"
        raise InputError(
            "consent_needed",
            f"This would download {size} (license {entry.license}) from {entry.url} to "
            f"“{store.path_of(entry)}”.",
            "Add --yes to agree.",
        )
    progress("download")

    def tell(done: int, total: int | None) -> None:
        progress("download", ProgressEvent(None, name, done // _MB, (total or entry.bytes or 0) // _MB))

    path = download(entry, store, progress=tell, cancelled=should_cancel)
    return f"Downloaded {name} to {path}"


def _remove(name: str, consent: bool, store: ModelStore) -> str:
    entry = store.find(name)
    if not consent and entry.resource is None:
        raise InputError(
            "consent_needed", f"This would delete “{store.path_of(entry)}”.", "Add --yes to agree."
        )
    freed = store.remove(name)
    return f"Removed {name}: {round(freed / _MB)} MB freed" if freed else f"{name} was not there"
