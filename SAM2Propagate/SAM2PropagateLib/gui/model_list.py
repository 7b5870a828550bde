"""Lists the models, and downloads and removes them.

A download runs in a thread; `poll` emits the thread's messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from SAM2PropagateLib.amounts import MEGABYTE
from SAM2PropagateLib.app.events import Ticker
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.app.thread_job import ThreadJob, reasonOf
from SAM2PropagateLib.app.wording import size
from SAM2PropagateLib.errors import Cancelled
from SAM2PropagateLib.models.download import download
from SAM2PropagateLib.models.memory import available_host_memory
from SAM2PropagateLib.models.registry import ModelEntry
from SAM2PropagateLib.models.store import ModelStatus, ModelStore
from SAM2PropagateLib.texts import tr as _


@dataclass(frozen=True)
class ModelRow:
    """A model in the list.

    Attributes:
        name: as in `Choices.model`. title, details: for the user. isThere: whether it is on this computer.
        whyNotDownload, whyNotRemove: why that is impossible; "" if it is possible.
    """

    name: str
    title: str
    details: str
    isThere: bool
    whyNotDownload: str
    whyNotRemove: str


@dataclass(frozen=True)
class DownloadProgress:
    """The progress of a download: bytes so far, bytes in all (None: unknown), and a text of both."""

    name: str
    done: int
    total: int | None
    text: str


@dataclass(frozen=True)
class DownloadEnd:
    """The end of a download: `state` is "done", "cancelled" or "failed"; `text` is for the user."""

    name: str
    state: str
    text: str


class ModelList:
    """The models of this computer, for a list in the panel.

    Args:
        store: has the models.
        ticker: started while `poll` has to be called.
        fetch: downloads a model, as `models.download.download`.

    Signals:
        progress, finished, changed (the list).
    """

    def __init__(
        self, store: ModelStore, ticker: Ticker | None = None, fetch: Callable[..., Any] = download
    ) -> None:
        self.progress: Signal[DownloadProgress] = Signal()
        self.finished: Signal[DownloadEnd] = Signal()
        self.changed: Signal[None] = Signal()
        self._store = store
        self.fetch = fetch
        self._name = ""
        self._job: ThreadJob[DownloadProgress, DownloadEnd] = ThreadJob("sam2propagate-download", ticker)

    @property
    def isDownloading(self) -> bool:
        """Whether a download is under way."""
        return self._job.isRunning

    def rows(self) -> list[ModelRow]:
        """Returns all models, the bundled one first."""
        free = available_host_memory()
        return [self._row(status, free) for status in self._store.status()]

    def _row(self, status: ModelStatus, free: int | None) -> ModelRow:
        entry = status.entry
        whyNotDownload = ""
        if status.there:
            whyNotDownload = _("It is on this computer already.")
        elif entry.url is None:
            whyNotDownload = _("It comes with the extension. Reinstall the extension.")
        elif self.isDownloading:
            whyNotDownload = _("Another download is running.")
        whyNotRemove = ""
        if entry.resource is not None:
            whyNotRemove = _("It is part of the extension and cannot be removed.")
        elif not status.there and not status.bytes_there:
            whyNotRemove = _("It is not on this computer.")
        elif self.isDownloading and self._name == entry.name:
            whyNotRemove = _("It is being downloaded.")
        return ModelRow(
            entry.name,
            str(entry.listed_title),
            _details(status, free),
            status.there,
            whyNotDownload,
            whyNotRemove,
        )

    def consentText(self, name: str) -> str:
        """Returns what is downloaded, from where, how large and under which license, for the user to agree
        to."""
        entry = self._store.find(name)
        lines = [
            _("Download {title}?").format(title=entry.title),
            "",
            _("From: {url}").format(url=entry.url),
            _("Size: {size}").format(size=size(entry.bytes)),
            _("License of the weights: {license}").format(license=entry.license),
            _("To: {folder}").format(folder=self._store.path_of(entry).parent),
            _("It is checked against its published SHA-256 before it is used."),
        ]
        return "\n".join(lines)

    def download(self, name: str) -> bool:
        """Begins to download a model; the user has agreed to `consentText`. False while another download
        runs."""
        if self.isDownloading:
            return False
        entry = self._store.find(name)
        self._name = name
        self._job.start(lambda: self._run(entry), lambda error: _failed(entry, error))
        self.changed.emit(None)
        return True

    def cancel(self) -> None:
        """Ends the download; the next one continues from what has arrived."""
        self._job.cancel()

    def remove(self, name: str) -> None:
        """Deletes a downloaded model.

        Raises:
            InputError, SAM2PropagateError: see `ModelStore.remove`.
        """
        self._store.remove(name)
        self.changed.emit(None)

    def _run(self, entry: ModelEntry) -> DownloadEnd:
        def progress(done: int, total: int | None) -> None:
            known = total or entry.bytes
            text = size(done) if known is None else f"{size(done)} / {size(known)}"
            self._job.tell(DownloadProgress(entry.name, done, known, text))

        self.fetch(entry, self._store, progress=progress, cancelled=lambda: self._job.isCancelled)
        text = _("{title} is on this computer now.").format(title=entry.title)
        return DownloadEnd(entry.name, "done", text)

    def poll(self) -> None:
        """Emits the progress and the end of the download, without waiting. The ticker calls it."""
        self._job.poll(self.progress.emit, self._ended)

    def _ended(self, end: DownloadEnd) -> None:
        self.finished.emit(end)
        self.changed.emit(None)

    def close(self, timeout: float = 5.0) -> None:
        """Ends a download and its thread."""
        self._job.close(timeout)


def _failed(entry: ModelEntry, error: Exception) -> DownloadEnd:
    if isinstance(error, Cancelled):
        return DownloadEnd(entry.name, "cancelled", _("The download was cancelled."))
    return DownloadEnd(entry.name, "failed", reasonOf(error))


def _details(status: ModelStatus, free: int | None) -> str:
    entry = status.entry
    parts = [_("on this computer") if status.there else _("not downloaded")]
    parts.append(size(status.bytes_there if status.there else entry.bytes))
    parts.append(entry.license)
    parts.append(_("needs about {mb} MB of memory").format(mb=entry.memory_mb))
    if free is not None and entry.memory_mb * MEGABYTE > free:
        parts.append(_("more than is free now"))
    return " · ".join(parts)
