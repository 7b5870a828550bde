"""A volume, a segmentation and a controller with a session that answers by itself."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import Choices, FrameArrived, Progress, RunEnd, UserMessage
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateTesting.answers import AnsweringSession, CountingTicker
from SAM2PropagateTesting.scenes import addCase, addSegmentation, fillSegment

# The session answers with every poll, so all is taken after some of them, however long each takes.
_MOST_POLLS = 5000


class SceneCase:
    """What the user has in front of them. `A` and `B` are the segments; frames go along k."""

    def __init__(self, geometry: str = "plain", choices: Choices | None = None, **options: Any) -> None:
        self.volumeNode = addCase(geometry)
        self.segmentationNode = addSegmentation(self.volumeNode, {"A": (0, 1, 0), "B": (1, 0, 0)})
        self.start(choices, **options)

    def makeSession(self) -> Any:
        """Returns the worker's session of the next controller; a test may put another function in its
        place."""
        self.sessions.append(AnsweringSession())
        return self.sessions[-1]

    def start(self, choices: Choices | None = None, **options: Any) -> None:
        """Makes a controller on the nodes, as after opening the module."""
        self.sessions: list[AnsweringSession] = []
        self.ticker = CountingTicker()
        self.controller = Controller(self.makeSession, self.ticker, **options)
        self.messages: list[UserMessage] = []
        self.ends: list[RunEnd] = []
        self.arrived: list[FrameArrived] = []
        self.progress: list[Progress] = []
        self.controller.message.connect(self.messages.append)
        self.controller.finished.connect(self.ends.append)
        self.controller.frameArrived.connect(self.arrived.append)
        self.controller.progress.connect(self.progress.append)
        if choices is not None:
            self.controller.choices = choices
        self.controller.select(self.volumeNode, self.segmentationNode, "A")

    @property
    def session(self) -> AnsweringSession:
        return self.sessions[-1]

    @property
    def workspace(self) -> Any:
        assert self.controller.workspace is not None
        return self.controller.workspace

    @property
    def geometry(self) -> Any:
        """The volume's, in the world."""
        return self.workspace.worldGeometry

    def ras(self, x: float, y: float, frame: int, axis: int = 2) -> np.ndarray:
        return self.geometry.ras_of_pixel(x, y, frame, axis)

    def click(self, x: float, y: float, frame: int, tool: str = "positive", axis: int = 2) -> bool:
        """Clicks in a view along an axis, and waits for the answer."""
        done = self.controller.point(tool, self.ras(x, y, frame, axis), self.geometry.frame_normal(axis))
        self.settle()
        return done

    def run(self, **options: Any) -> None:
        """Propagates, up to the end."""
        assert self.controller.propagate(**options), self.texts
        self.settle()

    def settle(self) -> None:
        """Takes all that the session answers, and what follows from it."""
        for _ in range(_MOST_POLLS):
            self.controller.poll()
            if not self.controller.isWaiting:
                return
            time.sleep(0.001)
        raise AssertionError(f"still waiting after {_MOST_POLLS} polls: {self.texts}")

    def shown(self, frame: int, segmentID: str = "A") -> np.ndarray:
        """Returns what the user sees of the segment: its preview where there is one."""
        return self.workspace.maskNow(segmentID, frame)

    def segment(self, frame: int, segmentID: str = "A", axis: int = 2) -> np.ndarray:
        """Returns the mask of the segment itself."""
        return SegmentReader(self.segmentationNode, segmentID, self.geometry).frame(frame, axis)

    def frames(self, segmentID: str = "A") -> list[int]:
        """Returns the frames on which the segment has voxels."""
        reader = SegmentReader(self.segmentationNode, segmentID, self.geometry)
        return [frame for frame in reader.frames(2) if reader.frame(frame, 2).any()]

    def paint(self, frame: int, mask: np.ndarray, segmentID: str = "A", add: bool = True) -> None:
        """Edits one slice as the user does."""
        whole = SegmentReader(self.segmentationNode, segmentID, self.geometry).array()
        whole[frame] = whole[frame] | mask if add else mask
        fillSegment(self.segmentationNode, segmentID, self.volumeNode, whole)

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]

    @property
    def codes(self) -> list[str]:
        return [message.code for message in self.messages]
