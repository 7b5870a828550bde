"""The engine gives what sam2's own predictor gives, from the same weights and frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.engine.build import build_model, model_config
from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunRequest
from Testing.engine import video_predictor
from Testing.engine.models import NARROW_TRUNK, LoadedModel

SIZE = 128
FRAMES = 18
START = 8


def moving_discs(frames: int, size: int) -> np.ndarray:
    """uint8 (frames, size, size): two discs that drift and change size over noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    volume = generator.normal(60, 8, (frames, size, size))
    for n in range(frames):
        volume[n][(x - 40 - n) ** 2 + (y - 60) ** 2 < (14 + 0.3 * n) ** 2] += 110
        volume[n][(x - 90) ** 2 + (y - 30 - n) ** 2 < 81] += 70
    return volume.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("base", ["configs/sam2.1/sam2.1_hiera_t.yaml", "configs/sam2/sam2_hiera_t.yaml"])
def test_both_directions_match_the_official_predictor(base: str) -> None:
    config = {"base": base, "overrides": NARROW_TRUNK}
    torch.manual_seed(0)
    model = build_model(model_config(config, SIZE))
    # Random weights may find nothing anywhere, and then there would be nothing to compare.
    head = model.sam_mask_decoder.pred_obj_score_head
    (head.layers[-1] if hasattr(head, "layers") else head).bias += 5
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    volume = moving_discs(FRAMES, SIZE)
    frames = FrameStack(volume, VolumeGeometry((SIZE, SIZE, FRAMES), np.eye(4)), 2, Window(255, 127.5))
    loaded = LoadedModel(model, torch.device("cpu"), torch.float32, SIZE, "random", SAM2Steps, {})
    engine = PropagationEngine(loaded, motion=False)
    session = engine.open(frames, FrameCrop((SIZE, SIZE), (1, 1), (-0.5, -0.5, SIZE - 0.5, SIZE - 0.5), SIZE))
    boxes = [(30.0, 40.0, 66.0, 80.0), (80.0, 26.0, 101.0, 50.0)]
    segments = tuple(
        ResolvedSegment(
            str(n),
            {START: FramePrompts(box=box)},
            frozenset(),
            0,
            FRAMES - 1,
        )
        for n, box in enumerate(boxes)
    )
    session.propagate(RunRequest(segments), lambda mask: None)

    predictor = video_predictor.official_predictor(config, weights, SIZE)
    native = [frames.frame(n) for n in range(FRAMES)]
    images = imaging.to_model_input(native, session.crop_of("0"), engine.device)
    state = video_predictor.start(predictor, images, (SIZE, SIZE))
    for reverse, step in ((False, 1), (True, -1)):
        expected = video_predictor.run(predictor, state, START, boxes, reverse=reverse)
        for number in range(len(boxes)):
            # The logits leave the session only as masks.
            fronts = session._tracks[str(number)].fronts  # noqa: SLF001
            front = next(f for (_, _, direction, _), f in fronts.items() if direction == step)
            wanted = [n for n in expected if n != START]
            assert any((expected[frame][number] > 0).any() for frame in wanted)
            assert sorted(front.found) == sorted(wanted)
            for frame in wanted:
                got = torch.nn.functional.interpolate(
                    front.found[frame].logits.float()[None, None], size=(SIZE, SIZE), mode="bilinear"
                )[0, 0]
                # The engine keeps logits in half precision between frames' ends only for the masks.
                torch.testing.assert_close(got, expected[frame][number], atol=0.02, rtol=0.02)
