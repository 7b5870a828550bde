"""A user who takes every step of the work in a random order while the worker is killed at random moments,
and, beside it, what must hold: known from what the user did and saw alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from numpy.typing import NDArray
from scipy import ndimage
from vtk.util.numpy_support import numpy_to_vtk

from Headless.scenes import addSegmentation, addVolume
from SAM2PropagateLib.app.events import Choices, Editing, FrameArrived, RunEnd
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import Box, Click, SegmentPrompts
from SAM2PropagateLib.scene.segment_writer import LogicSegmentWriter
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from SAM2PropagateLib.worker.transport import PopenTransport
from SAM2PropagateTesting.scenes import nodesOfClass
from Testing.app.cases import HeadlessCase
from Testing.flow.drawing_worker import carried, drawn
from Testing.worker.fake_worker import SCRIPT_VARIABLE
from Testing.worker.forked import REAL, SCRIPTED, forks
from Testing.worker.helpers import command_of, is_running, own_threads, soon
from Testing.worker.test_real_worker import sample

BoolArray = NDArray[np.bool_]
Key = tuple[str, int]
# The user's own prompts of a segment by id, in a form that can be compared.
Said = dict[str, tuple[Any, ...]]

SEGMENTS = ("A", "B")
# The moments at which the worker may be killed, seen from the step that the user takes.
BEFORE, DURING, AFTER, NEVER = "before", "during", "after", "never"
# What a message may be about when the worker is killed, and what the user may be refused or told.
KILLED = {"worker_died", "worker_not_started", "worker_not_running", "worker_not_responding"}
TOLD = {"not_possible", "range", "preview_kept", "newer_prompts"}
# What the story of the module is made of, in its order.
STORY = (
    ("click",),
    ("click", "negative"),
    ("propagate",),
    ("cancel",),
    ("propagate", "apply"),
    ("undo", "redo"),
    ("undo", "undo", "redo", "redo"),
    ("paint", "propagate", "apply"),
    ("erase", "propagate", "apply"),
    ("correct", "propagate", "apply"),
    ("save",),
    ("box", "undo", "redo"),
    ("scribble", "undo", "redo", "propagate", "apply"),
    ("lasso", "propagate", "apply"),
    ("paint", "click", "undo", "undo", "redo", "redo"),
    ("lock", "propagate", "cancel", "apply", "unlock"),
    ("load",),
    ("absent", "click", "propagate", "apply"),
    ("paint", "undo"),
    ("begin", "click", "paint", "propagate", "apply"),
    ("propagate", "paint", "erase", "apply"),
    ("range", "propagate", "click", "discard"),
    ("click", "lock", "begin", "save", "apply", "unlock"),
    ("leave",),
    ("reopen",),
)
STEPS = tuple(dict.fromkeys(itertools.chain.from_iterable(STORY)))
# Steps that ask the worker for something.
ASKING = {"click", "negative", "correct", "box", "scribble", "lasso", "propagate", "begin", "cancel"}


@dataclass
class Painted:
    """A slice that was painted by hand.

    Attributes:
        mask: how it was left. stroke, adds: the last stroke. clicks: those on the slice since.
        is_exact: just this is to stay; else a run that was under way, a preview that had not come yet, or an
            undo may have a say outside the stroke.
    """

    mask: BoolArray
    stroke: BoolArray
    adds: bool
    is_exact: bool = True
    clicks: list[tuple[float, float, bool]] = field(default_factory=list)

    def is_in(self, mask: BoolArray, others: list[BoolArray]) -> bool:
        """Whether a mask has the stroke, and is as one of the others everywhere else."""
        has = mask[self.stroke].all() if self.adds else not mask[self.stroke].any()
        same = np.any([mask == other for other in others], axis=0) | self.stroke
        return bool(has and same.all())

    def on(self, mask: BoolArray) -> BoolArray:
        """A mask with the stroke."""
        return mask | self.stroke if self.adds else mask & ~self.stroke


Hand = dict[Key, Painted]
# What was said, what the segments held, and what was painted.
State = tuple[dict[str, Said], dict[str, BoolArray], Hand]


def copied(hand: Hand) -> Hand:
    """The same, to which later clicks are not added."""
    return {key: replace(one, clicks=list(one.clicks)) for key, one in hand.items()}


@dataclass
class Expected:
    """What must hold.

    Attributes:
        said: per segment the user's clicks, boxes, marks and range.
        voxels: per segment (K, J, I) bool.
        history, at: the states that Undo and Redo go through, each with what was said, what the segments held
            and the slices painted by hand, and which of them it is.
        maybe: those that may be no states of their own.
        seen: the preview's masks. ever: all that were seen, per segment and frame.
        hand: the slices that were painted.
    """

    said: dict[str, Said] = field(default_factory=lambda: {name: {} for name in SEGMENTS})
    voxels: dict[str, BoolArray] = field(default_factory=dict)
    history: list[State] = field(default_factory=list)
    at: int = 0
    maybe: set[int] = field(default_factory=set)
    seen: dict[Key, BoolArray] = field(default_factory=dict)
    ever: dict[Key, list[BoolArray]] = field(default_factory=dict)
    hand: Hand = field(default_factory=dict)

    def start(self) -> None:
        """Nothing can be undone."""
        self.history = [(self.said, dict(self.voxels), dict(self.hand))]
        self.at = 0
        self.maybe.clear()

    def push(self, maybe: bool = False, joins: bool = False) -> None:
        """What is known now is a state of its own.

        Args:
            maybe: or it is part of the next one. joins: it takes the place of the present one.
        """
        self.at += not joins
        self.history = [*self.history[: self.at], (self.said, dict(self.voxels), dict(self.hand))]
        self.maybe = {step for step in self.maybe if step < self.at}
        if maybe:
            self.maybe.add(self.at)

    def see(self, seen: dict[Key, BoolArray]) -> None:
        """The preview shows these masks."""
        self.seen = seen
        for key, mask in seen.items():
            known = self.ever.setdefault(key, [])
            if not any(np.array_equal(mask, one) for one in known):
                known.append(mask)


@dataclass(frozen=True)
class Saved:
    """What was in the scene when it was saved. `seen` is None if a run was going on."""

    file: Path
    said: dict[str, Said]
    masks: dict[str, dict[str, Any]]
    voxels: dict[str, BoolArray]
    seen: dict[Key, BoolArray] | None
    hand: Hand
    edited: dict[str, set[int]]


def observed(case: HeadlessCase) -> tuple[list[bool], list[bool]]:
    """How much of the scene and the user's nodes is observed, as far as VTK tells."""
    scene, segmentation = slicer.vtkMRMLScene, slicer.vtkSegmentation
    of_scene = (
        scene.NodeAddedEvent,
        scene.NodeRemovedEvent,
        scene.StartCloseEvent,
        scene.EndBatchProcessEvent,
    )
    of_segments = (
        segmentation.SourceRepresentationModified,
        segmentation.SegmentModified,
        segmentation.SegmentAdded,
        segmentation.SegmentRemoved,
    )
    return (
        [case.headless.scene.HasObserver(event) for event in of_scene],
        [case.segmentationNode.HasObserver(event) for event in of_segments],
    )


def brushed(voxels: BoolArray, grid: Any) -> Any:
    """A vtkOrientedImageData on the grid, from its first voxel, that holds just these voxels (K, J, I)."""
    image = slicer.vtkOrientedImageData()
    image.SetSpacing(grid.GetSpacing())
    image.SetOrigin(grid.GetOrigin())
    image.CopyDirections(grid)
    depth, rows, columns = voxels.shape
    image.SetExtent(0, columns - 1, 0, rows - 1, 0, depth - 1)
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.astype(np.uint8).reshape(-1), deep=True))
    return image


class Walk(HeadlessCase):
    """The user, the worker's killer, and what must hold.

    Args:
        headless: the scene. folder: for shared files and saved scenes. seed: of every choice.
        steps: seconds per step of the engine that draws. automatic: runs are applied at their end.
    """

    draws = True
    patience = 30.0

    def __init__(
        self,
        headless: Any,
        folder: Path,
        seed: int,
        steps: dict[str, float] | None = None,
        automatic: bool = False,
    ) -> None:
        self.choices = Choices(applyAutomatically=automatic, device="cpu")
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.steps = steps or {}
        self.workers: list[PopenTransport] = []
        self.writer: Any = None
        self.log: list[str] = []
        self.done: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.killed: set[int] = set()
        self.saved: Saved | None = None
        self.told: dict[str, ResolvedSegment] = {}
        self.promptStore: set[Key] = set()
        self.awaited: set[Key] = set()
        self.name = "A"
        self.begin(headless)
        self.known = Expected()
        self.note()

    def begin(self, headless: Any) -> None:
        """The volume, its segmentation, and the module opened."""
        super().__init__(headless)
        self.controller.close()
        self.unobserved = observed(self)
        self.start(self.choices)

    # --- the module

    def start(self, choices: Choices | None = None, **options: Any) -> None:
        super().start(choices, editing=Editing(self.make_writer), **options)
        self.applied: list[RunEnd] = []
        self.controller.finished.connect(lambda end: self.applied.append(end) if end.applied else None)
        self.controller.frameArrived.connect(self.came)

    def came(self, arrived: FrameArrived) -> None:
        if arrived.kind == "preview":
            self.awaited.discard((arrived.segmentID, arrived.frame))

    def make_writer(self, segmentation: Any, volume: Any) -> Any:
        """The history that runs and the user's own edits share, as in the embedded Segment Editor."""
        settings = slicer.vtkMRMLSegmentEditorNode()
        self.writer = LogicSegmentWriter(segmentation, volume, settings)
        return self.writer

    def makeSession(self) -> Any:  # noqa: N802
        self.sessions.append(WorkerSession(self.transport, folder=SharedFolder([self.shared])))
        return self.sessions[-1]

    def transport(self) -> PopenTransport:
        script = json.dumps({"steps": self.steps})
        command = command_of("Testing.flow.drawing_worker", **{SCRIPT_VARIABLE: script})
        self.workers.append(PopenTransport(command, popen=forks(SCRIPTED)))
        return self.workers[-1]

    def array(self, name: str) -> BoolArray:
        return SegmentReader(self.segmentationNode, name, self.geometry).array()

    @property
    def count(self) -> int:
        return int(self.geometry.frame_count(2))

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.geometry.frame_shape(2)
        return int(rows), int(columns)

    # --- the killer

    @property
    def is_dead(self) -> bool:
        """Whether the newest worker was killed."""
        # AssertionError: it is not started yet.
        with contextlib.suppress(AssertionError, IndexError):
            return self.workers[-1].pid in self.killed
        return False

    def kill(self, moment: str) -> None:
        """Kills the worker, if there is one."""
        # AssertionError: the newest one is not started yet; ProcessLookupError: it has just ended.
        with contextlib.suppress(AssertionError, ProcessLookupError, IndexError):
            pid = self.workers[-1].pid
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
                self.killed.add(pid)
                self.kills[moment] += 1
                self.log.append(f"killed {moment}")

    def noticed(self) -> None:
        """Waits until this side of the pipe knows that the worker is dead."""
        sessions = self.sessions[-1:]
        assert soon(lambda: not self.is_dead or not any(one.is_running for one in sessions)), "unnoticed"

    # --- one step

    def take(self, step: str, moment: str) -> bool:
        """A step of the user, with the worker killed at a moment of it; False if it was not possible."""
        self.check()
        self.log.append(f"{step}, killed {moment}" if moment != NEVER else step)
        if moment == BEFORE:
            self.kill(self.phase(step, BEFORE))
        elif moment == NEVER and step in ASKING:
            self.settle()
        timer = None
        if moment == DURING:
            delay = self.chance.uniform(0, 0.5 if step in ASKING else 0.03)
            timer = threading.Timer(delay, lambda: self.kill(self.phase(step, DURING)))
            timer.start()
        try:
            done = getattr(self, f"do_{step}")(moment)
        finally:
            if timer is not None:
                self.poll_for(self.chance.uniform(0, 0.3))
                timer.join()
        if moment == AFTER:
            self.kill(self.phase(step, AFTER))
        if self.chance.random() < 0.5:
            self.poll_for(self.chance.uniform(0, 0.05))
        self.check()
        if not done:
            self.log.append(f"  no {step}: {self.texts[-1] if self.texts else ''}")
        self.done[step] += done
        return bool(done)

    def phase(self, step: str, moment: str) -> str:
        """What is under way, for the count of kills."""
        waits = self.controller.isWaiting
        what = "run" if self.controller.isRunning else "preview" if waits else "idle"
        if step == "cancel" and waits and not self.controller.isRunning:
            what = "cancel"
        return f"{moment} {step} ({what})"

    def poll_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self.controller.poll()
            if time.monotonic() > end:
                return
            time.sleep(0.003)

    def settle(self) -> None:
        """Nothing is awaited any more, nobody kills."""
        assert self.controller.wait(self.patience), self.where()
        self.noticed()
        self.check()

    def until(self, condition: Callable[[], bool]) -> bool:
        def polled() -> bool:
            self.controller.poll()
            return condition()

        return soon(polled, self.patience)

    # --- the user's steps

    def choose(self, name: str) -> None:
        """The segment that the user works on now."""
        self.name = name
        self.controller.select(self.volumeNode, self.segmentationNode, name)

    def within(self) -> tuple[int, int]:
        """The frames that a run may touch."""
        chosen = self.workspace.prompts.segment(self.name).range
        if chosen is None:
            return 0, self.count - 1
        first, last = sorted(self.geometry.frame_of(end, 2) for end in (chosen.first, chosen.last))
        return first, last

    def marked(self, kind: str) -> set[int]:
        return {one[1] for one in self.known.said[self.name].values() if one[0] == kind}

    def clicked(self) -> set[int]:
        kinds = ("click", "box", "scribble", "lasso")
        return {one[1] for one in self.known.said[self.name].values() if one[0] in kinds and one[-1]}

    def frame(self, where: Callable[[int], bool] = lambda frame: True) -> int | None:
        """A frame of the range, neither locked nor absent, for which a condition holds."""
        first, last = self.within()
        closed = self.marked("lock") | self.marked("absent")
        free = [one for one in range(first, last + 1) if one not in closed and where(one)]
        # As often as not one of the few that matter.
        shown = [one for one in free if (self.name, one) in self.known.seen]
        if shown and self.chance.random() < 0.5:
            free = shown
        return self.chance.choice(free) if free else None

    def place(self, frame: int, tool: str) -> tuple[float, float]:
        """Where to click."""
        return self.chance.uniform(8, 32), self.chance.uniform(8, 28)

    def bent(self, frame: int) -> list[tuple[float, float]]:
        """Three places not near a line: a scribble along a line has no place between its ends."""
        while True:
            a, b, c = (self.place(frame, "positive") for _ in range(3))
            (x, y), (u, v) = np.subtract(b, a), np.subtract(c, a)
            if abs(x * v - y * u) > 2 * max(np.hypot(u, v), 1):
                return [a, b, c]

    def do_click(self, moment: str, tool: str = "positive", where: Any = None) -> bool:
        frame = self.frame(where or (lambda frame: True))
        if frame is None:
            return False
        x, y = self.place(frame, tool)
        return self.click_at(x, y, frame, tool, moment)

    def click_at(self, x: float, y: float, frame: int, tool: str, moment: str) -> bool:
        key = (self.name, frame)
        self.speak(key)
        ras = self.ras(x, y, frame)
        assert self.controller.point(tool, ras, (0, 0, 1)), self.where()
        value = ("click", frame, *np.round(ras, 3).tolist(), tool == "positive")

        def takes(other: tuple[Any, ...]) -> bool:
            """A click at the place of one of the other sign takes its place."""
            same = other[:2] == value[:2] and other[-1] != value[-1]
            return same and bool(np.linalg.norm(np.subtract(other[2:5], value[2:5])) <= 0.5 * self.pixel)

        self.said(lambda said: {**{name: one for name, one in said.items() if not takes(one)}, "new": value})
        if key in self.known.hand:
            self.known.hand[key].clicks.append((x, y, tool == "positive"))
        if moment == NEVER:
            self.expect_preview(key)
        return True

    @property
    def pixel(self) -> float:
        """The side of a pixel, mm."""
        return float(np.linalg.norm(self.ras(1, 0, 0) - self.ras(0, 0, 0)))

    def do_negative(self, moment: str) -> bool:
        clicked = self.clicked()
        return self.do_click(moment, "negative", lambda frame: frame in clicked)

    def do_correct(self, moment: str) -> bool:
        """A click on a slice that was propagated or painted."""
        voxels, tool = self.known.voxels[self.name], self.chance.choice(("positive", "positive", "negative"))
        return self.do_click(moment, tool, lambda frame: bool(voxels[frame].sum() > 60))

    def do_box(self, moment: str) -> bool:
        frame = self.frame(lambda frame: (self.name, frame) not in self.known.hand)
        if frame is None:
            return False
        key = (self.name, frame)
        self.speak(key)
        corners = self.corners(frame)
        assert self.controller.addBox(*corners), self.where()
        value = ("box", frame, *np.round(corners, 3).ravel().tolist(), True)
        shapes = (("box", frame), ("lasso", frame))
        self.said(
            lambda said: {
                **{name: one for name, one in said.items() if one[:2] not in shapes},
                "new": value,
            }
        )
        if moment == NEVER:
            self.expect_preview(key)
        return True

    def do_scribble(self, moment: str) -> bool:
        return self.draw_stroke("scribble", moment)

    def do_lasso(self, moment: str) -> bool:
        return self.draw_stroke("lasso", moment)

    def draw_stroke(self, kind: str, moment: str) -> bool:
        """A scribble through some places, or a lasso around the corners of a box."""
        frame = self.frame(lambda frame: (self.name, frame) not in self.known.hand)
        if frame is None:
            return False
        key = (self.name, frame)
        self.speak(key)
        if kind == "lasso":
            (a, b), normal = self.corners(frame), (0, 0, 1)
            places = [a, (b[0], a[1], a[2]), b, (a[0], b[1], a[2])]
            assert self.controller.addLasso(places, self.chance.random() < 0.5, normal), self.where()
        else:
            places = [self.ras(*place, frame) for place in self.bent(frame)]
            assert self.controller.addScribble(places, True, (0, 0, 1)), self.where()

        def after(said: Said) -> Said:
            kept = said
            if kind == "lasso":
                kept = {name: one for name, one in said.items() if one[:2] != ("box", frame)}
            return {**kept, "new": (kind, frame, *np.round(places, 3).ravel().tolist(), True)}

        self.said(after)
        if moment == NEVER:
            self.expect_preview(key)
        return True

    def corners(self, frame: int) -> tuple[Any, Any]:
        x, y = self.chance.uniform(6, 16), self.chance.uniform(6, 14)
        return self.ras(x, y, frame), self.ras(
            x + self.chance.uniform(5, 16), y + self.chance.uniform(5, 14), frame
        )

    def expect_preview(self, key: Key) -> None:
        """Nobody has killed the worker since: the preview comes."""
        assert self.controller.wait(self.patience), self.where()
        assert key in self.previews(), f"no preview of {key}; {self.where()}"
        if self.draws:
            resolved = resolve(
                self.workspace.promptStore.effective(key[0]), self.geometry, 2, need_positive=False
            ).keyframes[key[1]]
            np.testing.assert_array_equal(self.previews()[key], drawn(resolved, self.shape), self.where())
        self.done["preview"] += 1

    def do_absent(self, moment: str) -> bool:
        spoken = self.clicked()
        keys = self.known.hand
        frame = self.frame(lambda frame: (self.name, frame) not in keys and bool(spoken - {frame}))
        return frame is not None and self.mark("absent", frame)

    def mark(self, kind: str, frame: int) -> bool:
        key = (self.name, frame)
        self.speak(key)
        is_there = frame in self.marked(kind)
        ras = self.ras(5, 5, frame)
        seen = self.previews().get(key)
        assert self.controller.point(kind, ras, (0, 0, 1)), self.where()

        def after(said: Said) -> Said:
            if is_there:
                return {name: one for name, one in said.items() if one[:2] != (kind, frame)}
            kept = said
            if kind == "absent":
                placed = [(one, frame) for one in ("click", "box", "scribble", "lasso")]
                kept = {name: one for name, one in said.items() if one[:2] not in placed}
            return {**kept, "new": (kind, frame)}

        self.said(after)
        if kind == "lock" and not is_there and seen is not None:
            # What is seen on a slice that is locked is what is locked.
            self.changed({self.name: {frame: [seen]}}, joins=True)
            np.testing.assert_array_equal(self.shown(frame, self.name), seen, self.where())
        return True

    def do_lock(self, moment: str) -> bool:
        spoken = self.clicked()
        frame = self.frame(lambda frame: bool(spoken - {frame}))
        return frame is not None and self.mark("lock", frame)

    def do_unlock(self, moment: str) -> bool:
        locked = sorted(self.marked("lock"))
        return bool(locked) and self.mark("lock", self.chance.choice(locked))

    def do_range(self, moment: str) -> bool:
        prompts = self.workspace.prompts.segment(self.name)
        ends = [self.geometry.frame_of(one.origin, 2) for one in prompts.masks]
        ends += [one[1] for one in self.known.said[self.name].values() if one[0] != "range"]
        ends += [frame for name, frame in self.known.hand if name == self.name]
        ends += [frame for frame in range(self.count) if self.known.voxels[self.name][frame].any()]
        if not ends:
            return False
        first, last = self.chance.randint(0, min(ends)), self.chance.randint(max(ends), self.count - 1)
        for frame in (first, last):
            assert self.controller.point("range", self.ras(5, 5, frame), (0, 0, 1)), self.where()
        self.said(lambda said: {**said, "range": ("range", first, last)})
        return True

    def do_propagate(self, moment: str) -> bool:
        if not self.propagate(moment):
            return False
        if moment == NEVER:
            self.finish()
        else:
            self.some_frames()
        return True

    def do_begin(self, moment: str) -> bool:
        """A run that goes on while the user does something else."""
        if not self.propagate(moment):
            return False
        self.until(lambda: len(self.arrived) >= 3 or not self.controller.isRunning)
        return True

    def propagate(self, moment: str = NEVER) -> bool:
        if self.controller.isRunning:
            assert self.until(lambda: not self.controller.isRunning), self.where()
            self.check()
        if not self.clicked():
            return False
        self.promptStore.clear()
        if not self.controller.propagate():
            # It may have died within the call.
            assert moment != NEVER and self.codes[-1] in KILLED, self.where()
            return False
        self.told = {self.name: resolve(self.workspace.promptStore.effective(self.name), self.geometry, 2)}
        return True

    def some_frames(self) -> None:
        """Looks on for a while: until some frames have arrived, or the worker dies."""
        wanted = self.chance.randrange(self.count // 2)
        ends = len(self.ends)
        end = time.monotonic() + 2
        self.until(lambda: len(self.ends) > ends or len(self.arrived) >= wanted or time.monotonic() > end)

    def finish(self) -> None:
        """Nobody kills the worker: the run ends, and all is there that it must find."""
        assert self.controller.wait(self.patience), self.where()
        assert self.ends[-1].state == "done", self.where()
        if not self.draws:
            return
        for name, segment in self.told.items():
            for frame in range(segment.first, segment.last + 1):
                if frame not in segment.locked and (name, frame) not in self.promptStore:
                    np.testing.assert_array_equal(
                        self.shown(frame, name),
                        carried(segment, frame, self.shape),
                        f"{name} {frame}; {self.where()}",
                    )
        self.done["whole run"] += 1

    def do_cancel(self, moment: str) -> bool:
        if not self.controller.isRunning and not self.propagate(moment):
            return False
        self.some_frames()
        if moment == DURING and self.chance.random() < 0.5:
            self.kill("just before cancel")
        was_running = self.controller.isRunning
        ends = len(self.ends)
        self.controller.cancel()
        assert not self.controller.isRunning
        if was_running:
            assert len(self.ends) == ends + 1, self.where()
            assert self.ends[-1].state in ("cancelled", "failed", "done"), self.where()
        if moment == DURING and self.controller.isWaiting:
            self.kill("while it cancels")
        return was_running and self.ends[-1].state == "cancelled"

    def do_apply(self, moment: str) -> bool:
        if self.controller.isRunning:
            assert self.until(lambda: not self.controller.isRunning), self.where()
            self.check()
        previews = self.previews()
        locked = {
            (name, value[1]) for name in SEGMENTS for value in self.known.said[name].values()
            if value[0] == "lock"
        }  # fmt: skip
        masks = {key: mask for key, mask in previews.items() if key not in locked}
        # Where a run went over a slice that was being painted, both are brought together first.
        open_ = {key for key in masks if key in self.known.hand and not self.known.hand[key].is_exact}
        # As the button does, and something else comes after a while; or at once, as a script does.
        is_begun = bool(masks) and self.chance.random() < 0.5 and self.controller.startApplying()
        for _ in range(self.chance.randrange(6) if is_begun else 0):
            self.controller.poll()
        if not is_begun or self.controller.isApplying:
            summary = self.controller.apply()
            assert (summary is not None) == bool(masks) or masks.keys() == open_, self.where()
        self.merged(open_, maybe=False)
        joins = self.pushed
        after = {name: array.copy() for name, array in self.known.voxels.items()}
        for name, frame in masks:
            self.may_go.add((name, frame))
            assert (name, frame) not in self.previews(), "applied, and still in the preview"
            if (name, frame) not in open_:
                after[name][frame] = masks[name, frame]
        self.becomes(after, joins=joins)
        return bool(masks)

    def merged(self, keys: set[Key], maybe: bool = True) -> None:
        """What a run found may have come to what was being painted meanwhile."""
        after = {name: array.copy() for name, array in self.known.voxels.items()}
        for name, frame in keys:
            now = self.array(name)[frame]
            painted = self.known.hand[name, frame]
            if not np.array_equal(now, after[name][frame]):
                assert self.is_kept(painted, now), f"the stroke on {name} {frame}; {self.where()}"
                after[name][frame] = now
                self.known.hand[name, frame] = replace(painted, mask=now.copy(), is_exact=not painted.clicks)
                self.may_go.add((name, frame))
            elif self.shows_no_more((name, frame), now):
                # With the stroke the preview is what is in the segment already: nothing was to be written.
                self.may_go.add((name, frame))
        self.becomes(after, maybe=maybe)

    def shows_no_more(self, key: Key, mask: BoolArray) -> bool:
        """Whether the preview of a painted slice is, with the stroke, just this mask."""
        seen = self.known.seen.get(key)
        return seen is not None and np.array_equal(self.known.hand[key].on(seen), mask)

    def do_undo(self, moment: str) -> bool:
        return self.go(self.controller.undo, -1)

    def do_redo(self, moment: str) -> bool:
        return self.go(self.controller.redo, 1)

    def go(self, step: Callable[[], bool], by: int) -> bool:
        """One step back or forth, of prompts, masks or the preview alone, in the order of them all."""
        known = self.known
        if self.controller.isRunning:
            assert self.until(lambda: not self.controller.isRunning), self.where()
            self.check()
        last = len(known.history) - 1
        text = self.controller.undoText if by < 0 else self.controller.redoText
        can = self.controller.canUndo if by < 0 else self.controller.canRedo
        done = step()
        assert done == can, f"{text}; {self.where()}"
        assert done or not 0 <= known.at + by <= last, f"{text}; {self.where()}"
        if not done:
            return False
        self.log.append(f"  {text}")
        where = known.at + by
        # What may be part of the one before or after.
        skips = known.maybe & ({where, known.at} if by < 0 else {where, where + by})
        if skips and not self.is_at(where):
            where += by
        if not self.is_at(where):
            # A run into the preview, or discarding it: prompts and segments stay.
            where = known.at
        assert self.is_at(where), f"{text} gives something else; {self.where()}"
        for name in SEGMENTS:
            said, before = known.history[where][0][name], known.said[name]
            for one in {*said.values(), *before.values()} - ({*said.values()} & {*before.values()}):
                self.speak((name, one[1]))
        known.at = where
        known.said, voxels, hand = known.history[where]
        known.voxels = dict(voxels)
        known.hand = {key: replace(one, is_exact=False) for key, one in hand.items()}
        previews = self.previews()
        for key, mask in previews.items():
            masks = known.ever.get(key, [])
            assert any(np.array_equal(mask, one) for one in masks), f"{text}: {key}; {self.where()}"
        known.see(previews)
        return True

    def is_at(self, step: int) -> bool:
        """Whether prompts and segments are what they were after a step of the history."""
        history = self.known.history
        if not 0 <= step < len(history):
            return False
        said, voxels, _ = history[step]
        return all(
            np.array_equal(self.array(name), voxels[name]) and self.user(name) == said[name]
            for name in SEGMENTS
        )

    def do_paint(self, moment: str) -> bool:
        return self.edit("add")

    def do_erase(self, moment: str) -> bool:
        return self.edit("remove")

    def edit(self, change: Any) -> bool:
        """The user's own brush on a slice."""
        name = self.name
        filled = self.known.voxels[name]
        frame = self.frame(lambda frame: change == "add" or bool(filled[frame].sum() > 40))
        if frame is None:
            return False
        stroke = self.stroke(frame, filled[frame], change)
        key, previews = (name, frame), self.previews()
        before, seen = filled[frame].copy(), previews.get(key)
        filled_before = {one: array.copy() for one, array in self.known.voxels.items()}
        self.speak(key, asks=False)
        assert self.workspace.committer is not None
        grid = self.writer.prepare()
        whole = np.zeros(filled.shape, bool)
        whole[frame] = stroke
        was_running = self.controller.isRunning
        self.writer.modify(name, brushed(whole, grid), change)
        self.writer.finish()
        # As when the user lifts the pen.
        self.controller.lookForEdits()
        has_ended_run = was_running and not self.controller.isRunning
        # What had been previewed may have been applied by this.
        allowed: dict[str, dict[int, list[BoolArray]]] = {one: {} for one in SEGMENTS}
        for (other, n), mask in previews.items():
            allowed[other][n] = [mask]
            self.may_go.add((other, n))
        is_awaited = key in self.awaited and frame in self.clicked()
        is_exact = not (self.controller.isRunning or is_awaited)
        painted = Painted(before, stroke, change == "add", is_exact)
        bases = [before] if seen is None else [before, seen]
        old = self.known.hand.get(key)
        if old is not None and not old.is_exact:
            bases += [old.on(base) for base in bases]
        for (other, n), one in self.known.hand.items():
            if not one.is_exact and n in allowed[other]:
                allowed[other][n] += [one.on(mask) for mask in allowed[other][n]]
        allowed[name][frame] = [painted.on(base) for base in bases]
        if has_ended_run:
            # It was being written, in turns: the stroke is a step of its own before it.
            alone = {one: array.copy() for one, array in filled_before.items()}
            alone[name][frame] = painted.on(before)
            self.becomes(alone)
            # What the run found on painted slices comes with the stroke.
            self.known.hand[key] = replace(painted, is_exact=False)
            self.merged({one for one, hand in self.known.hand.items() if not hand.is_exact})
        self.changed(allowed, must=(key, painted))
        painted = replace(painted, mask=self.known.voxels[name][frame].copy())
        self.known.hand[key] = self.known.history[self.known.at][2][key] = painted
        shown = self.shown(frame, name)
        assert shown[stroke].all() if change == "add" else not shown[stroke].any(), (
            f"what was painted on {key} is not seen; {self.where()}"
        )
        return True

    def stroke(self, frame: int, filled: BoolArray, change: str) -> BoolArray:
        """Some pixels that the brush changes, never all."""
        stroke = np.zeros(self.shape, bool)
        if change == "remove":
            rows, columns = np.nonzero(filled)
            n = self.chance.randrange(len(rows))
            stroke[max(0, rows[n] - 2) : rows[n] + 2, max(0, columns[n] - 2) : columns[n] + 2] = True
            # What a preview shows beyond the segment cannot be erased there.
            stroke &= filled
        else:
            while not (stroke & ~filled).any():
                row, column = (self.chance.randint(2, size - 8) for size in self.shape)
                stroke[row : row + 5, column : column + 4] = True
            # Nor painted what the segment has already and a preview takes away: nothing changes there.
            stroke &= ~filled
        return stroke

    def do_discard(self, moment: str) -> bool:
        if self.controller.isRunning or not self.previews():
            return False
        self.may_go |= set(self.previews())
        self.controller.discard()
        assert not self.previews(), self.where()
        return True

    def do_leave(self, moment: str) -> bool:
        """Another segmentation, and back."""
        was_running = self.controller.isRunning
        before = self.previews()
        self.controller.select(self.volumeNode, None)
        if self.chance.random() < 0.5:
            self.poll_for(0.05)
        self.controller.select(self.volumeNode, self.segmentationNode, self.name)
        self.fresh(before, was_running)
        return True

    def do_reopen(self, moment: str) -> bool:
        """The module closed and opened again."""
        was_running = self.controller.isRunning
        before = self.previews()
        self.controller.close()
        self.start(self.choices)
        self.choose(self.name)
        self.fresh(before, was_running)
        return True

    def fresh(self, before: dict[Key, BoolArray], was_running: bool) -> None:
        """The undo histories are new; the preview is what it was."""
        self.same(self.previews(), before)
        self.known.start()
        self.awaited.clear()

    def do_save(self, moment: str) -> bool:
        if not self.controller.isRunning:
            self.controller.poll()
            self.check()
        known = self.known
        self.saved = Saved(
            self.folder / f"scene{len(self.log)}.mrb",
            {name: dict(one) for name, one in known.said.items()},
            self.masks(),
            dict(known.voxels),
            None if self.controller.isRunning else self.previews(),
            copied(known.hand),
            self.edited(),
        )
        self.headless.saveScene(self.saved.file)
        return True

    def do_load(self, moment: str) -> bool:
        if self.saved is None:
            self.do_save(moment)
        saved = self.saved
        assert saved is not None
        if self.chance.random() < 0.5:
            self.headless.clear()
            self.poll_for(0.02)
        self.headless.loadScene(saved.file)
        (self.volumeNode,) = nodesOfClass("vtkMRMLScalarVolumeNode")
        (self.segmentationNode,) = (
            node for node in nodesOfClass("vtkMRMLSegmentationNode") if not node.GetHideFromEditors()
        )
        if self.chance.random() < 0.3:
            self.controller.close()
            self.start(self.choices)
        self.controller.select(self.volumeNode, self.segmentationNode, self.name)
        self.known = Expected(
            said={name: dict(one) for name, one in saved.said.items()},
            voxels=dict(saved.voxels),
            hand=copied(saved.hand),
        )
        if saved.seen is not None:
            self.same(self.previews(), saved.seen)
        for name, masks in self.masks().items():
            assert masks.keys() == saved.masks[name].keys(), self.where()
            for key, mask in masks.items():
                np.testing.assert_array_equal(mask, saved.masks[name][key], self.where())
        assert self.edited() == saved.edited, self.where()
        self.arrived.clear()
        self.applied.clear()
        self.awaited.clear()
        self.known.see(self.previews())
        self.known.start()
        return True

    # --- what must hold

    def speak(self, key: Key, asks: bool = True) -> None:
        """The user says or does something on a slice: its preview may change, and may be asked for."""
        self.may_go.add(key)
        self.promptStore.add(key)
        if asks:
            self.awaited.add(key)

    def said(self, after: Callable[[Said], Said]) -> None:
        """The user has said something; the id of what is new is taken from the scene."""
        known, name = self.known, self.name
        now, before = self.user(name), known.said
        wanted = after(dict(before[name]))
        if "new" in wanted:
            new = now.keys() - before[name].keys()
            assert len(new) == 1, f"{before[name]} {now} {wanted}; {self.where()}"
            wanted[new.pop()] = wanted.pop("new")
        known.said = {**before, name: wanted}
        if known.said != before:
            known.push()

    def user(self, name: str) -> Said:
        """What the user said of a segment, as the scene has it."""
        prompts: SegmentPrompts = self.workspace.prompts.segment(name)
        geometry = self.geometry
        said: Said = {}
        for one in (*prompts.clicks, *prompts.boxes):
            if isinstance(one, Click):
                place, sign = np.round(one.ras, 3).tolist(), one.positive
                said[one.id] = ("click", geometry.frame_of(one.ras, 2), *place, sign)
            elif isinstance(one, Box):
                corners = np.round([one.corner_a, one.corner_b], 3).ravel().tolist()
                said[one.id] = ("box", geometry.frame_of(one.corner_a, 2), *corners, True)
        for kind, strokes in (("scribble", prompts.scribbles), ("lasso", prompts.lassos)):
            for stroke in strokes:
                places = np.round(stroke.points, 3).ravel().tolist()
                said[stroke.id] = (kind, geometry.frame_of(stroke.points[0], 2), *places, True)
        for kind, marks in (("absent", prompts.absent), ("lock", prompts.locks)):
            said.update({mark.id: (kind, geometry.frame_of(mark.ras, 2)) for mark in marks})
        if prompts.range is not None:
            ends = sorted(geometry.frame_of(end, 2) for end in (prompts.range.first, prompts.range.last))
            said["range"] = ("range", *ends)
        return said

    def masks(self) -> dict[str, dict[str, Any]]:
        """The masks among the prompts, which the module made."""
        return {
            name: {one.id: one.mask for one in self.workspace.prompts.segment(name).masks}
            for name in SEGMENTS
        }

    def edited(self) -> dict[str, set[int]]:
        """The slices that the strip shows as edited."""
        for name in SEGMENTS:
            self.workspace.edits(name)
        return {
            name: {n for n, one in enumerate(self.controller.strip(name).frames) if one.isEdited}
            for name in SEGMENTS
        }

    def previews(self) -> dict[Key, BoolArray]:
        workspace = self.workspace
        return {
            (name, frame): workspace.maskNow(name, frame)
            for name in SEGMENTS
            for frame in workspace.previewFrames(name)
        }

    def becomes(self, after: dict[str, BoolArray], maybe: bool = False, joins: bool = False) -> None:
        """A step has made the segments this: one that Undo takes back, if it changed anything.

        Args:
            maybe, joins: see `Expected.push`.
        """
        known = self.known
        self.pushed = any((after[name] != known.voxels[name]).any() for name in SEGMENTS)
        known.voxels = after
        if self.pushed:
            known.push(maybe, joins)

    def changed(
        self,
        allowed: dict[str, dict[int, list[BoolArray]]],
        must: tuple[Key, Painted] | None = None,
        joins: bool = False,
    ) -> None:
        """A step may have made these slices one of these masks; others are what they were."""
        after = {name: self.array(name) for name in SEGMENTS}
        for name in SEGMENTS:
            before = self.known.voxels[name]
            for frame in np.flatnonzero((after[name] != before).any(axis=(1, 2))).tolist():
                masks = allowed.get(name, {}).get(frame, [])
                now = after[name][frame]
                is_known = any(np.array_equal(now, mask) for mask in masks)
                if not is_known and masks:
                    # On what was previewed, all that was painted since it was asked for; painting the
                    # other segment takes from this one.
                    is_this = must is not None and must[0] == (name, frame)
                    painted = must[1] if must is not None and is_this else self.known.hand.get((name, frame))
                    is_known = painted is not None and painted.is_in(now, [before[frame], *masks])
                assert is_known, f"{name} {frame} has changed; {self.where()}"
        # With a stroke goes what had been previewed.
        self.becomes(after, joins=joins)

    def note(self) -> None:
        self.known.voxels = {name: self.array(name) for name in SEGMENTS}
        self.known.start()
        self.may_go = set()

    def check(self) -> None:
        """Nothing is lost."""
        known = self.known
        codes = {code for code in self.codes if code}
        assert codes <= KILLED | TOLD, f"{codes} {self.texts[-3:]}; {self.where()}"
        self.merged({key for key, one in known.hand.items() if not one.is_exact})
        if self.applied:
            self.run_applied()
        for name in SEGMENTS:
            assert self.user(name) == known.said[name], f"the prompts of {name}; {self.where()}"
            now = self.array(name)
            if not np.array_equal(now, known.voxels[name]):
                frames = np.flatnonzero((now != known.voxels[name]).any(axis=(1, 2))).tolist()
                raise AssertionError(f"{name} differs on {frames}; {self.where()}")
        arrived = {(one.segmentID, one.frame) for one in self.arrived}
        previews = self.previews()
        for key, mask in known.seen.items():
            if key not in self.may_go | arrived:
                assert key in previews, f"the preview of {key} is lost; {self.where()}"
                np.testing.assert_array_equal(previews[key], mask, f"{key}; {self.where()}")
        new = previews.keys() - known.seen.keys() - arrived
        assert not new, f"a preview of {new} from nowhere; {self.where()}"
        for key, painted in known.hand.items():
            name, frame = key
            for what, mask in (("holds", known.voxels[name][frame]), ("shows", self.shown(frame, name))):
                if what == "holds" or painted.is_exact:
                    assert self.is_kept(painted, mask), f"{key}: painted, but {what} it not; {self.where()}"
        known.see(previews)
        self.arrived.clear()
        self.may_go = set()

    def run_applied(self) -> None:
        """A run was applied at its end: what it found is in the segment."""
        self.applied.clear()
        allowed: dict[str, dict[int, list[BoolArray]]] = {}
        for name, segment in self.told.items():
            frames = set(range(segment.first, segment.last + 1)) - segment.locked
            frames -= {frame for other, frame in self.promptStore if other == name}
            allowed[name] = {frame: [carried(segment, frame, self.shape)] for frame in frames}
            self.may_go |= {(name, frame) for frame in frames}
        self.changed(allowed)

    def is_kept(self, painted: Painted, mask: BoolArray) -> bool:
        """Whether a slice is as it was painted, corrected with any of the clicks since."""
        if not painted.is_exact:
            stroke = painted.stroke & ~drawn(self.discs(painted), self.shape)
            return bool(mask[stroke].all() if painted.adds else not mask[stroke].any())
        if not painted.clicks:
            return np.array_equal(mask, painted.mask)
        if not self.draws:
            return bool((mask & painted.mask).sum() > 0.8 * painted.mask.sum())
        counts = range(len(painted.clicks) + 1)
        some = (one for n in counts for one in itertools.combinations(painted.clicks, n))
        states = (drawn(FramePrompts(clicks=one, mask=painted.mask), self.shape) for one in some)
        return any(np.array_equal(mask, state) for state in states)

    @staticmethod
    def discs(painted: Painted) -> FramePrompts:
        """Where clicks may have changed a slice since it was painted."""
        return FramePrompts(clicks=tuple((x, y, True) for x, y, _ in painted.clicks))

    def same(self, now: dict[Key, BoolArray], before: dict[Key, BoolArray]) -> None:
        """Both are the same masks."""
        assert now.keys() == before.keys(), f"{now.keys() ^ before.keys()}; {self.where()}"
        for key, mask in before.items():
            np.testing.assert_array_equal(now[key], mask, f"{key}; {self.where()}")

    def where(self) -> str:
        """How to come here again."""
        steps = "\n  ".join(self.log[-25:])
        return f"seed {self.seed}, after {len(self.log)} entries, the last:\n  {steps}\n  {self.texts[-2:]}"

    # --- whole walks

    def story(self, kills: float) -> None:
        """Every step once in the order of the work; the worker is killed in this part of them."""
        for group in STORY:
            self.group("A", group, kills)

    def stroll(self, groups: int, kills: float) -> None:
        """Steps in a random order."""
        deck: list[tuple[str, ...]] = []
        for _ in range(groups):
            if not deck:
                deck = self.chance.sample(STORY, len(STORY))
            self.group(self.chance.choice("AAB"), deck.pop(), kills)

    def group(self, name: str, group: tuple[str, ...], kills: float) -> None:
        self.choose(name)
        for step in group:
            is_killed = self.chance.random() < kills
            self.take(step, self.chance.choice((BEFORE, DURING, AFTER)) if is_killed else NEVER)

    def complete(self) -> None:
        """Steps that were not possible so far."""
        for _ in range(5):
            missing = {step for step in STEPS if not self.done[step]}
            for group in STORY:
                if missing & set(group):
                    self.group("A", group, 0.0)
        assert not missing, f"never done: {missing}; {self.where()}"

    def end(self) -> None:
        """Nobody kills any more: all works, and nothing is left over."""
        self.settle()
        self.take("click", NEVER)
        if not self.clicked():
            self.click_at(*self.place(8, "positive"), 8, "positive", NEVER)
            self.check()
        assert self.propagate()
        self.finish()
        self.check()
        self.take("apply", NEVER)
        self.controller.close()
        for name in SEGMENTS:
            now = slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentationNode, name, self.volumeNode)
            np.testing.assert_array_equal(now > 0, self.known.voxels[name])
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """No process, no thread, no file, no observer, no helper's node."""
        pids = [one.pid for one in self.workers]
        assert soon(lambda: not any(is_running(pid) for pid in pids)), "an orphan"
        assert soon(lambda: own_threads() == []), own_threads()
        assert [path for path in self.shared.rglob("*") if path.is_file()] == []
        scene = self.headless.scene
        names = [scene.GetNthNode(n).GetName() for n in range(scene.GetNumberOfNodes())]
        assert "SAM2 Propagate preview" not in names and "SAM2Propagate commit" not in names
        assert observed(self) == self.unobserved, "something is still observed"


class CtWalk(Walk):
    """On some slices of the shipped CT with the left kidney, with the real worker and the bundled model."""

    draws = False
    patience = 120.0

    def begin(self, headless: Any) -> None:
        self.headless = headless
        array, geometry, self.kidney = sample()
        self.volumeNode = addVolume(headless, array, geometry.ijk_to_ras)
        self.segmentationNode = addSegmentation(headless, self.volumeNode, {"A": (0, 1, 0), "B": (1, 0, 0)})
        self.unobserved = observed(self)
        self.start(self.choices)

    def transport(self) -> PopenTransport:
        self.workers.append(PopenTransport(command_of("Testing.worker.small_worker"), popen=forks(REAL)))
        return self.workers[-1]

    def place(self, frame: int, tool: str) -> tuple[float, float]:
        """On the kidney, or a little beside it."""
        kidney = self.kidney[frame]
        near = ndimage.binary_dilation(kidney, iterations=6) & ~ndimage.binary_dilation(kidney, iterations=3)
        rows, columns = np.nonzero(kidney if tool == "positive" else near)
        n = self.chance.randrange(len(rows))
        return float(columns[n]), float(rows[n])

    def corners(self, frame: int) -> tuple[Any, Any]:
        rows, columns = np.nonzero(self.kidney[frame])
        return (
            self.ras(columns.min() - 1.0, rows.min() - 1.0, frame),
            self.ras(columns.max() + 1.0, rows.max() + 1.0, frame),
        )
