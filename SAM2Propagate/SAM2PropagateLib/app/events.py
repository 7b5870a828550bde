"""What the controller tells of, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from SAM2PropagateLib.app.computer import Computer
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.scene.commit import SegmentWriter

WriterMaker = Callable[[Any, Any], SegmentWriter]


@dataclass(frozen=True)
class Choices:
    """What the user has chosen; the panel keeps it in the scene's parameter node.

    Attributes:
        run: how a run is carried out.
        allSegments: run all segments that have prompts, not only the chosen one.
        applyAutomatically: write a finished run into the segment at once.
        model: a model's name, or the path of a weights file. device: "auto", "cuda", "mps" or "cpu".
        motion: carry masks along the image's motion as well as by the model.
        keepAsDrawn: lassos that are drawn from now on are masks just as they were drawn.
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
        isOfWorker: the worker failed; it is out of date once the worker has succeeded again.
        isForNow: something was refused or is half done; it is out of date once the user goes on.
    """

    level: str
    text: str
    code: str = ""
    log: tuple[str, ...] = ()
    isOfWorker: bool = False
    isForNow: bool = False


@dataclass(frozen=True)
class FrameArrived:
    """A mask is in the preview now. `kind`: of `frame_kinds.KINDS`."""

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
    """A run has ended.

    Attributes:
        state: "done", "cancelled" or "failed". segmentIDs: of the run. frames: slices that were finished.
        applied: they are in the segment; else they are in the preview.
    """

    state: str
    segmentIDs: tuple[str, ...]
    frames: int
    applied: bool


@dataclass(frozen=True)
class Editing:
    """How the application edits segments, and asks for its edits to be looked for.

    Attributes:
        makeWriter: makes what commits are written through, from segmentation and volume; None: a logic of
            our own.
        whenIdle: asked to call `lookForEdits` once the user has stopped editing; None: edits are looked for
            when they are needed.
        whenEdited: asked to call `noteEdits` as soon as the present edit is done, so that each is an undo
            step of its own; None: edits become steps when they are needed.
        editName: what the user edits segments with at present, as the name of a step; "" if unknown.
        holdViews: keeps all views from being drawn; gives for each what has it drawn again.
    """

    makeWriter: WriterMaker | None = None
    whenIdle: Callable[[], None] | None = None
    whenEdited: Callable[[], None] | None = None
    editName: Callable[[], str] = lambda: ""
    holdViews: Callable[[], list[Callable[[], None]]] = list


@dataclass(frozen=True)
class Installed:
    """What is on this computer.

    Attributes:
        store: the models. missing: the names of packages that are needed and not installed.
        computer: the one that the model runs on; None: this one.
    """

    store: ModelStore = field(default_factory=ModelStore)
    missing: Callable[[], Iterable[str]] = lambda: ()
    computer: Computer | None = None


class Ticker(Protocol):
    """Calls `Controller.poll` again and again while it is on; in Slicer a QTimer of 20 ms."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class NoTicker:
    """For callers that poll themselves."""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""
