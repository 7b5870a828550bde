"""The shipped CT in a scene, a controller, and a real worker behind it."""

# ruff: noqa: N802, N803

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from SAM2PropagateLib.gui.controller import Controller
from SAM2PropagateLib.gui.events import Choices, Message, RunEnd
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.session import WorkerSession
from Testing.headless.boot import HeadlessSlicer
from Testing.headless.scenes import addSegmentation, addVolume

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "Sample"


def sampleLabels() -> tuple[np.ndarray, dict[str, int]]:
    """(K, J, I) labels of the CT, and the values by name."""
    described = json.loads((SAMPLE / "abdomen_ct_labels.json").read_text(encoding="utf-8"))
    values = described.get("labels", described)
    names = {
        str(name if isinstance(value, int) else value): int(value if isinstance(value, int) else name)
        for name, value in values.items()
    }
    image = sitk.ReadImage(str(SAMPLE / "abdomen_ct_labels.nii.gz"))
    return sitk.GetArrayFromImage(image), names


def addSample(headless: HeadlessSlicer) -> Any:
    """The CT as a volume node, in the soft-tissue window."""
    image = sitk.ReadImage(str(SAMPLE / "abdomen_ct.nii.gz"))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    node = addVolume(headless, sitk.GetArrayFromImage(image), np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 40)
    return node


class FlowCase:
    """The user at work on the shipped CT."""

    def __init__(
        self,
        headless: HeadlessSlicer,
        makeSession: Callable[[], WorkerSession] | None = None,
        choices: Choices | None = None,
    ) -> None:
        self.headless = headless
        self.volumeNode = addSample(headless)
        self.segmentationNode = addSegmentation(headless, self.volumeNode, {"A": (0, 1, 0), "B": (1, 0, 0)})
        self.makeSession = makeSession or realSession
        self.start(choices)

    def start(self, choices: Choices | None = None) -> None:
        self.messages: list[Message] = []
        self.ends: list[RunEnd] = []
        self.controller = Controller(self.makeSession)
        self.controller.message.connect(self.messages.append)
        self.controller.finished.connect(self.ends.append)
        if choices is not None:
            self.controller.choices = choices
        self.controller.select(self.volumeNode, self.segmentationNode, "A")

    def click(self, ijk: Any, tool: str = "positive", wait: bool = True) -> bool:
        workspace = self.controller.workspace
        assert workspace is not None
        done = self.controller.point(tool, workspace.geometry.ijk_to_world(ijk), (0, 0, 1))
        return done and (not wait or self.controller.wait(120))

    def run(self, **options: Any) -> RunEnd:
        assert self.controller.propagate(**options), [message.text for message in self.messages]
        assert self.controller.wait(120)
        return self.ends[-1]

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Polls until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.controller.poll()
            time.sleep(0.002)
        return True

    def segment(self, segmentID: str = "A") -> np.ndarray:
        """(K, J, I) bool."""
        assert self.controller.workspace is not None
        return SegmentReader(self.segmentationNode, segmentID, self.controller.workspace.geometry).array()


def realSession() -> WorkerSession:
    return WorkerSession(worker_command(sys.executable))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())
