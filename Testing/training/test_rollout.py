"""What is trained is what is used: the rollout against the engine's own steps, number by number."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.front import Course, Front, Recollection, Tracked
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.training.clips import BOX, CLICK, MASK, ClipPlan, ClipPrompt
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.rollout import Rollout
from Testing.training.samples import small_model

FRAMES = 9
PROMPTS = {
    BOX: ClipPrompt(np.array([[10.0, 12.0], [40.0, 44.0]]), np.array([2, 3])),
    CLICK: ClipPrompt(np.array([[20.0, 30.0]]), np.array([1])),
    MASK: ClipPrompt(mask=np.pad(np.ones((20, 24), bool), ((8, 36), (16, 24)))),
}


def model_with_opinions(is_there: bool) -> LoadedModel:
    """Random weights, of one opinion on whether the object is there, and no fallback to another candidate."""
    found = small_model()
    with torch.no_grad():
        found.model.maskmem_tpos_enc.normal_(0, 0.5)
        found.model.no_obj_ptr.normal_(0, 0.5)
        found.model.no_obj_embed_spatial.normal_(0, 0.5)
        for parameter in found.model.memory_attention.parameters():
            parameter.mul_(2)
        found.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0 if is_there else -5.0)
    # Training learns the candidate itself, use falls back to another one if it is unstable.
    found.model.sam_mask_decoder.dynamic_multimask_via_stability = False
    return found


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize(("slots", "is_there"), [(7, True), (3, True), (7, False)])
def test_the_rollout_gives_what_the_engine_gives(kind: str, slots: int, is_there: bool) -> None:
    loaded = model_with_opinions(is_there)
    images = torch.randn(FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    steps = SAM2Steps(replace(loaded, model=copy.deepcopy(loaded.model)))
    features = steps.encode(images)
    prompt = PROMPTS[kind]
    if prompt.mask is not None:
        key = steps.decode_mask(features[0], torch.from_numpy(prompt.mask)[None, None].float())
    else:
        key = steps.decode_prompts(
            features[0], torch.from_numpy(prompt.points).float(), torch.from_numpy(prompt.labels).int()
        )
    pointers = 5
    memory = steps.remember([features[0]], key, prompted=True)[0]
    front = Front(Course(0, 1), memory, Recollection(slots, pointers))
    wanted = [key]
    for feature in features[1:]:
        decoded = steps.settled(steps.track([feature], [front.recall()]))
        front.advance(Tracked.of(decoded)[0], steps.remember([feature], decoded, prompted=False)[0])
        wanted.append(decoded)

    plan = ClipPlan(kind, 0, FRAMES - 1, slots, pointers)
    stocks = [FrameStock((images[n : n + 1],)) for n in range(FRAMES)]
    with torch.no_grad():
        answers = Rollout(loaded).run(stocks, [prompt], plan)
    for answer, decoded in zip(answers, wanted, strict=True):
        assert torch.allclose(answer.logits, decoded.logits, atol=2e-3, rtol=1e-3)
        assert torch.allclose(answer.pointer, decoded.pointer, atol=2e-3, rtol=1e-3)
    # Otherwise the frames would agree whatever the memories are.
    changes = float((answers[1].pointer - answers[-1].pointer).abs().max())
    assert changes > 0.01 if is_there else changes == 0


def test_warm_frames_are_tracked_but_not_learned_from() -> None:
    loaded = small_model()
    loaded.model.memory_attention.requires_grad_(True)
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    stocks = [FrameStock((images[n : n + 1],)) for n in range(6)]
    answers = Rollout(loaded).run(stocks, [PROMPTS[BOX]], ClipPlan(BOX, 3, 2, 7, 16))
    assert len(answers) == 3  # the keyframe and the two learned from
    assert answers[1].masks.requires_grad and answers[2].masks.requires_grad
    cold = Rollout(loaded).run(stocks, [PROMPTS[BOX]], ClipPlan(BOX, 0, 5, 7, 16))
    assert torch.allclose(answers[2].masks, cold[5].masks, atol=1e-5)
