"""Links the work with the worker: its session, the model and volumes in it, and when it is polled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from SAM2PropagateLib.app.events import Choices, Ticker
from SAM2PropagateLib.app.volumes import OpenVolumes
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.worker.calls import Call, Update
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.server_copy import model_there
from SAM2PropagateLib.worker.session import WorkerSession


class WorkerLink:
    """One worker's session, and its updates that were not handled yet.

    Args:
        makeSession: makes the session when it is first needed; this starts no process.
        ticker: started while the session has to be polled, else stopped.
        store: the models of this computer.

    Attributes:
        makeSession, ticker: as given.
    """

    def __init__(self, makeSession: Callable[[], WorkerSession], ticker: Ticker, store: ModelStore) -> None:
        self.makeSession = makeSession
        self.ticker = ticker
        self._store = store
        self._session: WorkerSession | None = None
        self._volumes: OpenVolumes | None = None
        self._waiting: deque[Update] = deque()

    @property
    def session(self) -> WorkerSession:
        """The worker's session; made on first use, starts nothing."""
        if self._session is None:
            self._session = self.makeSession()
            self._volumes = OpenVolumes(self._session)
        return self._session

    @property
    def isMade(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    @property
    def device(self) -> str:
        """The device that the model runs on; "" before a model is loaded."""
        return "" if self._session is None else self._session.device

    @property
    def host(self) -> str:
        """The server that the worker runs on; "": this computer."""
        remote = None if self._session is None else self._session.remote
        return "" if remote is None else remote.host

    @property
    def hasUpdates(self) -> bool:
        """Whether something has arrived that `updates` has not yielded yet."""
        return bool(self._waiting)

    @property
    def isWaiting(self) -> bool:
        """Whether the session has to be polled."""
        return self.hasUpdates or (self._session is not None and self._session.is_waiting)

    def updates(self, seconds: float | None = None) -> Iterator[Update]:
        """Yields what has arrived, oldest first, for so many seconds at most; the rest stays for the next
        call."""
        self._waiting.extend(self.session.poll())
        end = None if seconds is None else time.perf_counter() + seconds
        while self._waiting:
            yield self._waiting.popleft()
            if end is not None and time.perf_counter() >= end:
                return

    def ready(self, volumeNode: Any, axis: int, choices: Choices, *, isBusy: bool) -> str:
        """Asks the worker to load the model and open the volume, if it has not; returns the volume's name.

        Args:
            isBusy: see `OpenVolumes.ensure`.

        Raises:
            InputError: the volume cannot be segmented. SAM2PropagateError: no worker can be started.
        """
        session = self.session
        assert self._volumes is not None
        model = choices.model
        if session.remote is not None:
            model = model_there(model, self._store)
        isName = any(one.name == model for one in self._store.models)
        session.load_model(
            LoadModel(name=model, device=choices.device, motion=choices.motion)
            if isName
            else LoadModel(path=model, device=choices.device, motion=choices.motion)
        )
        return self._volumes.ensure(volumeNode, axis, isBusy=isBusy)

    def placed(self, volumeNode: Any, axis: int, prompts: PromptSet) -> PromptSet:
        """Returns prompts as the worker needs them; see `OpenVolumes.placed`. Call `ready` first."""
        assert self._volumes is not None
        return self._volumes.placed(volumeNode, axis, prompts)

    def fits(self, volumeNode: Any, axis: int, isOfRun: bool) -> bool:
        """Tells whether masks of a volume fit its present image; see `OpenVolumes.fits`."""
        return self._volumes is not None and self._volumes.fits(volumeNode, axis, isOfRun)

    def forgetVolume(self, volumeID: str) -> None:
        """Closes a volume in the worker."""
        if self._volumes is not None:
            self._volumes.forget(volumeID)
            if self.isWaiting:
                # Nothing else polls once the scene is closed.
                self.startPolling()

    def cancel(self, call: Call) -> None:
        """Cancels a call whose answer is not wanted any more."""
        if self._session is not None:
            self._session.cancel(call)

    def startPolling(self) -> None:
        """Starts the ticker, after a request."""
        self.ticker.start()

    def stopPolling(self) -> None:
        """Stops the ticker, as no answer is awaited."""
        self.ticker.stop()

    def close(self, timeout: float | None) -> None:
        """Ends the worker; drops updates that were not handled.

        Args:
            timeout: seconds that the worker may take to end by itself.
        """
        self.ticker.stop()
        if self._session is not None:
            self._session.close(timeout)
        self._session = self._volumes = None
        self._waiting.clear()
