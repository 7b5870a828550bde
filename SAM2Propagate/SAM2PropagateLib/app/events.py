"""The values that the controller emits, and those that it is built with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from SAM2PropagateLib.app.computer import Computer
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.scene.segment_writer import SegmentWriter

WriterMaker = Callable[[Any, Any], SegmentWriter]


@dataclass(frozen=True)
class Choices:
    """The user's choices; the panel keeps them in the scene's parameter node.

    Attributes:
        run: how a run is carried out.
        allSegments: run all segments that have prompts, not only the chosen one.
        applyAutomatically: write a finished run into the segment at once.
        model: a model's name, or the path of a weights file. device: "auto", "cuda", "mps" or "cpu".
        motion: carry masks along the image's motion as well as by the model.
        keepAsDrawn: a new lasso is a mask, exactly as it was drawn.
    """

    run: RunOptions = field(default_factory=RunOptions)
    allSegments: bool = False
    applyAutomatically: bool = True
    model: str = DEFAULT_MODEL
    device: str = "auto"
    motion: bool = True
    keepAsDrawn: bool = False


@dataclass(frozen=True)
class UserMessage:
    """A short message for the user.

    Attributes:
        level: "info", "warning" or "error". text: one or two sentences.
        log: the worker's last lines, where they may help.
        isOfWorker: the worker failed; the message is out of date once the worker works again.
        isForNow: something was refused or is half done; the message is out of date once the user goes on.
    """

    level: str
    text: str
    code: str = ""
    log: tuple[str, ...] = ()
    isOfWorker: bool = False
    isForNow: bool = False


@dataclass(frozen=True)
class FrameArrived:
    """A mask that has arrived in the preview. `kind`: one of `frame_kinds.KINDS`."""

    segmentID: str
    frame: int
    kind: str
    doubt: float | None


@dataclass(frozen=True)
class Progress:
    """How far a run, or what comes before it, is.

    Attributes:
        done, total: slices; total 0: not known. slicesPerSecond, secondsLeft: None while not known.
        text: all of it in words.
    """

    done: int
    total: int
    slicesPerSecond: float | None
    secondsLeft: float | None
    text: str


@dataclass(frozen=True)
class RunEnd:
    """The end of a run.

    Attributes:
        state: "done", "cancelled" or "failed". segmentIDs: of the run. frames: number of finished slices.
        applied: whether they are in the segment; else they are in the preview.
    """

    state: str
    segmentIDs: tuple[str, ...]
    frames: int
    applied: bool


@dataclass(frozen=True)
class Editing:
    """How the application edits segments, and how the controller learns of edits.

    Attributes:
        makeWriter: makes the `SegmentWriter` for a segmentation and a volume; None: one without an editor
            widget.
        whenIdle: schedules a call of `lookForEdits` for when the user has stopped editing; None: edits are
            looked for when a command begins.
        whenEdited: schedules a call of `noteEdits` for the end of the present edit, so that each edit is an
            undo step; None: edits become steps when a command begins.
        editName: returns what the user edits with, as the name of an undo step; "" if unknown.
        holdViews: stops the drawing of all views; returns for each view a function that draws it again.
    """

    makeWriter: WriterMaker | None = None
    whenIdle: Callable[[], None] | None = None
    whenEdited: Callable[[], None] | None = None
    editName: Callable[[], str] = lambda: ""
    holdViews: Callable[[], list[Callable[[], None]]] = list


@dataclass(frozen=True)
class Installed:
    """The models and packages of this computer, and the computer that the model runs on.

    Attributes:
        store: the models. missing: returns the names of needed packages that are not installed.
        computer: the choice of the computer; None: always this one.
    """

    store: ModelStore = field(default_factory=ModelStore)
    missing: Callable[[], Iterable[str]] = lambda: ()
    computer: Computer | None = None


class Ticker(Protocol):
    """Calls `Controller.poll` repeatedly while it is on; in Slicer a QTimer of 20 ms."""

    def start(self) -> None:
        """Begins to call; does nothing if it is on."""

    def stop(self) -> None:
        """Ends the calls."""


class NoTicker:
    """A ticker that does nothing, for callers that poll themselves."""

    def start(self) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""
