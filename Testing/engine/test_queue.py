"""No device is mixed with another one, and the host waits for the device once per step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.build import build_model, load_model, model_config
from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.session import PATIENCE, EngineSession
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest
from Testing.engine.models import BUNDLED, SHALLOW_TRUNK
from Testing.engine.queued_device import META, QueuedDevice

FRAMES, SIDE = 16, 96
BOX = FramePrompts(box=(30.0, 40.0, 60.0, 70.0))
CLICK = FramePrompts(clicks=((45.0, 55.0, True), (80.0, 20.0, False)))
BOX_AND_CLICK = FramePrompts(box=BOX.box, clicks=((45.0, 55.0, True),))
ABSENT = FramePrompts(absent=True)
MASK = np.zeros((SIDE, SIDE), bool)
MASK[40:60, 40:60] = True


def shallow(base: str) -> LoadedModel:
    """A model of one of sam2's configurations with fewer layers: the device plays each operation slowly."""
    overrides = {**SHALLOW_TRUNK, "model.memory_attention.num_layers": 1}
    config = model_config({"base": base, "overrides": overrides}, 128)
    model = build_model(config, device=META, draw_weights=False).to(META)
    return LoadedModel(model, META, torch.bfloat16, 128, "random", SAM2Steps, {})


SAM2_1, SAM2 = "configs/sam2.1/sam2.1_hiera_t.yaml", "configs/sam2/sam2_hiera_t.yaml"


def opened(loaded: LoadedModel, motion: bool = True) -> EngineSession:
    volume = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    frames = FrameStack(volume, VolumeGeometry((SIDE, SIDE, FRAMES), np.eye(4)), 2, Window(255, 127.5))
    return PropagationEngine(loaded, motion=motion).open(frames, "auto")


def segment(name: str, keyframes: dict[int, FramePrompts]) -> ResolvedSegment:
    return ResolvedSegment(name, keyframes, frozenset(), 0, FRAMES - 1)


def propagate(session: EngineSession, *segments: ResolvedSegment, **options: object) -> list[FrameMask]:
    masks: list[FrameMask] = []
    session.propagate(RunRequest(segments, RunOptions(**options)), masks.append)  # type: ignore[arg-type]
    return masks


def test_the_bundled_model_mixes_no_devices() -> None:
    with QueuedDevice() as device:
        session = opened(load_model(BUNDLED, device=META, precision="bfloat16"))
        device.waits.clear()
        assert session.preview(7, BOX, "a").mask.any()
        assert len(propagate(session, segment("a", {7: BOX}), reach=2)) == 5
    assert device.waits == Counter(read=1 + 2)


@pytest.mark.parametrize("config", [SAM2_1, SAM2])
def test_no_step_mixes_devices(config: str) -> None:
    keyframes = {7: BOX}
    with QueuedDevice():
        session = opened(shallow(config))
        assert session.preview(7, BOX, "a").mask.any()
        assert len(propagate(session, segment("a", keyframes), reach=1)) == 3
        session.preview(10, CLICK, "a")
        for frame, said in ((10, CLICK), (5, FramePrompts(mask=MASK)), (13, ABSENT)):
            keyframes[frame] = said
            assert propagate(session, segment("a", keyframes), reach=2)
        session.preview(5, FramePrompts(mask=MASK, clicks=CLICK.clicks), "a")
        both = [segment("a", keyframes), segment("b", {6: BOX, 9: CLICK})]
        masks = propagate(session, *both, reach=1, everything=True)
        assert {mask.segment for mask in masks} == {"a", "b"}
        assert session.encode_ahead(range(2), lambda: False) == 2
        assert session.features.offload()
        assert propagate(session, segment("c", {3: BOX}), reach=1)


RANGED = ResolvedSegment("a", {7: BOX}, frozenset(), 4, 10, is_ranged=True)
RUNS: dict[str, tuple[list[ResolvedSegment], int]] = {
    # Beside them the steps: the longest way of a front, as all of them go together.
    "both directions": ([segment("a", {7: BOX})], 4),
    "to an absent mark": ([segment("a", {7: BOX, 13: ABSENT})], 5),
    "between keyframes": ([segment("a", {5: BOX, 12: FramePrompts(mask=MASK)})], 6),
    "in a given range": ([RANGED], 3),
    "by the model alone": ([segment("a", {7: BOX})], 2),
    "two segments": ([segment("a", {7: BOX}), segment("b", {3: BOX, 9: BOX_AND_CLICK})], 5),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_step_is_read_once_and_nothing_else_waits(name: str) -> None:
    segments, steps = RUNS[name]
    session = opened(shallow(SAM2_1), motion=name != "by the model alone")
    with QueuedDevice() as device:
        masks = propagate(session, *segments, reach=steps)
    assert len(masks) > steps
    assert session.motion is None or session.motion.registered_pairs > steps
    keyframes = [said for one in segments for said in one.keyframes.values() if not said.absent]
    assert device.waits == Counter(read=len(keyframes) + steps)


def test_the_end_of_a_segment_is_read_before_it_is_gone_beyond() -> None:
    session = opened(shallow(SAM2_1))
    with QueuedDevice(answer=0) as device:
        masks = propagate(session, segment("a", {7: BOX}))
    assert {mask.frame for mask in masks} == set(range(FRAMES))
    # The keyframe, the frames of which the last one decides, and once those beyond.
    assert device.waits == Counter(read=1 + PATIENCE + 1)


def test_the_played_device_sees_what_would_wait_or_fail() -> None:
    there, here = torch.ones(3, device=META), torch.ones(3)
    with QueuedDevice() as device:
        there.to("cpu", non_blocking=True), here.to(META, non_blocking=True)
        assert there.to(torch.bfloat16).device == META
        assert not device.waits
        assert there.cpu().tolist() == [pytest.approx(0.747, abs=1e-3)] * 3
        there.tolist()
        here.clone().copy_(there)
        assert device.waits == {"read": 3}
        here.to(META), there.clone().copy_(here), torch.tensor([1.0], device=META)
        assert device.waits == {"read": 3, "upload": 3}
        for fails in (
            lambda: there + here,
            lambda: there[torch.tensor([0])],
            lambda: bool(there.any()),
            lambda: float(there[0]),
            lambda: there[there > 0],
        ):
            with pytest.raises((AssertionError, RuntimeError)):
                fails()
        assert (there * torch.tensor(2.0)).device == META
