"""sam2's own video predictor on frames in main memory: what the engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from sam2 import sam2_video_predictor

from SAM2PropagateLib.engine.build import ConfigLike, build_model, model_config


def official_predictor(
    config: ConfigLike, state: Mapping[str, torch.Tensor] | None, input_size: int | None = None
) -> Any:
    """A `SAM2VideoPredictor` with these weights (None: random ones), every keyframe conditioning."""
    model = build_model(model_config(config, input_size))
    if state is not None:
        model.load_state_dict(state)
    # The predictor is the same model with a loop around it; it adds these four settings and no weights.
    model.__class__ = sam2_video_predictor.SAM2VideoPredictor
    model.fill_hole_area = 0
    model.non_overlap_masks = False
    model.clear_non_cond_mem_around_input = False
    model.add_all_frames_to_correct_as_cond = True
    return model


def start(predictor: Any, images: torch.Tensor, shape: tuple[int, int]) -> dict[str, Any]:
    """The predictor's state over normalized images (frames, 3, size, size) of a (rows, columns) video."""
    with mock.patch.object(
        sam2_video_predictor, "load_video_frames", lambda **_: (images, shape[0], shape[1])
    ):
        state: dict[str, Any] = predictor.init_state("frames in memory")
    return state


def run(
    predictor: Any, state: dict[str, Any], frame: int, boxes: Sequence[Sequence[float]], *, reverse: bool
) -> dict[int, torch.Tensor]:
    """Box prompts (in video pixels, one an object) on one frame, carried in one direction.

    Returns:
        frame -> logits (objects, rows, columns).
    """
    predictor.reset_state(state)
    for number, box in enumerate(boxes):
        predictor.add_new_points_or_box(state, frame, number, box=torch.tensor(box, dtype=torch.float32))
    return {
        index: logits[:, 0]
        for index, _, logits in predictor.propagate_in_video(state, start_frame_idx=frame, reverse=reverse)
    }
