"""Scenes that earlier versions saved load as they were, and the user goes on in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from SAM2PropagateLib.prompts.document import from_document
from SAM2PropagateLib.scene.names import encoded
from SAM2PropagateTesting.answers import disc
from Testing.gui.saved_scenes.make_scene import SHAPE, shown, strip, unpacked, voxels
from Testing.gui.test_panel import Desk, Effect

FOLDER = Path(__file__).with_name("saved_scenes")
SCENES = sorted(FOLDER.glob("*.mrb"))
KINDS = ("clicks", "boxes", "masks", "absent", "locks", "scribbles", "lassos")


@dataclass
class Morning:
    """A scene of an earlier version, opened; what it held when it was saved.

    Attributes:
        first, second: the IDs of the segment with masks and of the one with an open preview.
        voxels, preview: (K, J, I) bool per segment, and (J, I) per segment and frame.
    """

    desk: Any
    expected: dict[str, Any]

    def __post_init__(self) -> None:
        self.first, self.second = self.expected["segments"]
        segments = self.expected["segments"].items()
        self.voxels = {name: unpacked(one["voxels"], SHAPE) for name, one in segments}
        self.preview = {
            name: {int(frame): unpacked(mask, SHAPE[1:]) for frame, mask in one["preview"].items()}
            for name, one in segments
        }

    @property
    def controller(self) -> Any:
        return self.desk.controller

    def choose(self, segmentID: str) -> None:
        self.desk.parameters.segmentID = encoded(segmentID)

    def click(self, frame: int, x: float, y: float, tool: str = "positive") -> bool:
        geometry = self.controller.workspace.worldGeometry
        place = geometry.ras_of_pixel(x, y, frame, 2)
        done = bool(self.controller.point(tool, place, geometry.frame_normal(2)))
        self.desk.settle()
        return done

    def run(self) -> None:
        self.desk.ui.propagateButton.click()
        self.desk.settle()


def opened(module: Any, headless: Any, file: Path) -> Morning:
    slicer.mrmlScene.Clear(False)
    headless.loadScene(file)
    Effect(module.ui.segmentEditor)
    return Morning(Desk(module), json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))


@pytest.fixture(params=SCENES, ids=lambda file: file.stem)
def morning(request: Any, module: Any, stand_ins: Any) -> Iterator[Morning]:
    yield opened(module, stand_ins, request.param)


def test_there_is_a_scene_of_the_version_before() -> None:
    assert SCENES and all(file.stat().st_size < 30_000 for file in SCENES)


def test_segments_and_choices_are_as_they_were(morning: Morning) -> None:
    segmentation = morning.controller.segmentationNode.GetSegmentation()
    count = segmentation.GetNumberOfSegments()
    assert [segmentation.GetNthSegmentID(n) for n in range(count)] == [morning.first, morning.second]
    for name, one in morning.expected["segments"].items():
        assert segmentation.GetSegment(name).GetName() == one["name"]
        np.testing.assert_allclose(segmentation.GetSegment(name).GetColor(), one["color"], atol=1e-5)
    assert morning.controller.segmentID == morning.second
    assert morning.controller.choices.run.reach == morning.expected["reach"]
    assert not morning.controller.choices.applyAutomatically
    assert morning.desk.ui.reachSpinBox.value == morning.expected["reach"]


def test_prompts_of_every_kind_are_as_they_were(morning: Morning) -> None:
    wanted = from_document(morning.expected["prompts"])
    found = morning.controller.workspace.prompts
    assert (found.names, found.axis) == (wanted.names, wanted.axis)
    kinds = {kind for one in wanted.segments for kind in KINDS if getattr(one, kind)}
    assert kinds == set(KINDS), "the scene has a prompt of every kind"
    for one in wanted.segments:
        other = found.segment(one.segment)
        for kind in KINDS:
            for now, before in zip(getattr(other, kind), getattr(one, kind), strict=True):
                assertSamePrompt(now, before)
        assert (other.range is None) == (one.range is None)
        if one.range is not None:
            np.testing.assert_allclose(other.range.first, one.range.first, atol=1e-4)
            np.testing.assert_allclose(other.range.last, one.range.last, atol=1e-4)
    first = wanted.segment(morning.first)
    assert {one.positive for one in (*first.clicks, *first.scribbles)} == {True, False}
    assert {one.exact for one in first.lassos} == {True, False} and first.range is not None


def assertSamePrompt(now: Any, before: Any) -> None:
    assert type(now) is type(before)
    for name, value in vars(before).items():
        other = getattr(now, name)
        if isinstance(value, str | bool):
            assert other == value, name
        else:
            np.testing.assert_allclose(np.asarray(other, float), np.asarray(value, float), atol=1e-4)


def test_voxels_previews_and_strip_are_as_they_were(morning: Morning) -> None:
    for name, one in morning.expected["segments"].items():
        np.testing.assert_array_equal(voxels(morning.desk, name), morning.voxels[name])
        now = shown(morning.desk, name)
        assert now.keys() == morning.preview[name].keys()
        for frame, mask in now.items():
            np.testing.assert_array_equal(mask, morning.preview[name][frame])
        assert strip(morning.desk, name) == one["strip"]
    first, second = (morning.expected["segments"][name] for name in (morning.first, morning.second))
    looks = {look for look, *_ in first["strip"]}
    assert looks == {"nothing", "propagated", "keyframe", "edited", "absent", "locked"}
    assert second["preview"] and morning.voxels[morning.first].any()


def test_nothing_is_said_and_nothing_is_asked_of_the_worker(morning: Morning) -> None:
    assert morning.desk.session.asked == []
    assert not morning.controller.canUndo
    assert morning.desk.widget.panel.messages is not None and morning.desk.ui.messageLabel.text == ""


def test_the_open_preview_is_applied_with_the_stroke_under_it(morning: Morning) -> None:
    before = {name: mask.copy() for name, mask in morning.voxels.items()}
    assert morning.controller.apply() is not None
    wanted = before[morning.second].copy()
    for frame, mask in morning.preview[morning.second].items():
        wanted[frame] = mask | before[morning.second][frame]
    np.testing.assert_array_equal(voxels(morning.desk, morning.second), wanted)
    np.testing.assert_array_equal(voxels(morning.desk, morning.first), before[morning.first])
    assert morning.controller.undo()
    np.testing.assert_array_equal(voxels(morning.desk, morning.second), before[morning.second])
    assert shown(morning.desk, morning.second).keys() == morning.preview[morning.second].keys()


def test_a_run_goes_on_from_what_was_said_and_painted(morning: Morning) -> None:
    morning.choose(morning.first)
    before = morning.voxels[morning.first]
    assert morning.click(11, 33, 30)
    morning.run()
    resolved = next(told[1] for kind, told in reversed(morning.desk.session.asked) if kind == "propagate")
    wanted = from_document(morning.expected["prompts"]).segment(morning.first)
    assert {4, 6, 7, 8, 9, 10, 11, 12, 13} <= set(resolved.keyframes) and 5 in resolved.locked
    # Both strokes of the user speak for their slices: the one before the last run, and the one after it.
    for frame in (3, 7):
        np.testing.assert_array_equal(resolved.keyframes[frame].mask, before[frame])
    assert resolved.keyframes[13].absent and (resolved.first, resolved.last) == (2, 13)
    assert wanted.masks, "one kept with a correction"
    assert morning.controller.apply() is not None
    after = voxels(morning.desk, morning.first)
    np.testing.assert_array_equal(after[[3, 5, 7]], before[[3, 5, 7]])
    assert not after[13].any() and after[11][30, 33] and not before[11][30, 33]
    assert morning.controller.undo()
    np.testing.assert_array_equal(voxels(morning.desk, morning.first), before)


def test_what_a_user_refines_and_removes_is_gone_after_the_next_saving(
    morning: Morning, stand_ins: Any, tmp_path: Path
) -> None:
    morning.choose(morning.first)
    assert morning.click(5, 1, 1, "lock"), "a lock is taken away by a second click"
    assert morning.click(2, 20, 20)
    np.testing.assert_array_equal(
        shown(morning.desk, morning.first)[2],
        morning.voxels[morning.first][2] | disc(20, 20, SHAPE[1:]),
    )
    prompts = morning.controller.workspace.prompts
    stand_ins.saveScene(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(False)
    stand_ins.loadScene(tmp_path / "scene.mrb")
    found = morning.controller.workspace.prompts.segment(morning.first)
    wanted = prompts.segment(morning.first)
    assert found.locks == () and len(found.masks) == len(wanted.masks) == 3
    assert {one.id for one in found.clicks} == {one.id for one in wanted.clicks}
