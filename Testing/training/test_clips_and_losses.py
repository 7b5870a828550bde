"""What is drawn to learn from, and what an answer is measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.clips import BOX, CLICK, CLICKS, MASK, ClipPlan, draw_clip, draw_prompt
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.loaded_case import LoadedCase
from SAM2PropagateLib.training.looks import Look, coarse_target, draw_look
from SAM2PropagateLib.training.losses import answer_loss
from SAM2PropagateLib.training.recipe import LossWeights
from SAM2PropagateLib.training.rollout import Answer
from Testing.training.samples import write_case


def numbered_look(frames: int = 20, first: int = 6, last: int = 13, owner: int = 0) -> Look:
    """Frames whose images are their own number; the structure is a square from `first` to `last`."""
    masks = torch.zeros(frames, 64, 64, dtype=torch.bool)
    masks[first : last + 1, 20:40, 24:44] = True
    images = torch.arange(frames).float()[:, None, None, None].expand(-1, 3, 64, 64)
    return Look(FrameStock((images,)), masks, masks.sum(dim=(1, 2)).numpy(), owner)


def test_looks_show_the_structure_and_what_lies_beyond_its_ends(tmp_path: Path) -> None:
    write_case(tmp_path, "c1")
    target = LoadedCase(find_cases(tmp_path)[0]).structure(0)
    stock = []

    def keep(images: torch.Tensor) -> FrameStock:
        stock.append(images)
        return FrameStock((images,))

    rng = np.random.default_rng(0)
    looks = [draw_look(target, 64, keep, rng) for _ in range(12)]
    found = [look for look in looks if look is not None]
    assert len(found) >= 10
    for look in found:
        assert look.masks.shape == (len(look.frames), 64, 64) and look.masks.dtype == torch.bool
        assert not look.masks[0].any() and not look.masks[-1].any()
        # The ball is brighter than the rest, or darker where black and white were changed.
        key = int(look.areas.argmax())
        image, mask = look.frames.parts[0][key].mean(0), look.masks[key]
        assert abs(float(image[mask].mean() - image[~mask].mean())) > 0.1
    again = draw_look(target, 64, keep, np.random.default_rng(0))
    assert again is not None and looks[0] is not None
    assert torch.equal(again.frames.parts[0], looks[0].frames.parts[0])


def test_clips_go_one_way_and_pass_the_end() -> None:
    look, plan = numbered_look(), ClipPlan(BOX, 2, 6, 7, 16)
    passed = 0
    for seed in range(60):
        clip = draw_clip(look, plan, [], np.random.default_rng(seed))
        numbers = clip.frames.parts[0][:, 0, 0, 0].int().tolist()
        assert len(numbers) == len(clip.masks) == len(clip.weights) == 9
        assert clip.masks[0].any() and clip.weights[0] == 1
        steps = {
            b - a for a, b, weight in zip(numbers, numbers[1:], clip.weights[1:], strict=False) if weight
        }
        assert len(steps) <= 1
        for n, number in enumerate(numbers):
            assert torch.equal(clip.masks[n], look.masks[number])
            # Beyond the volume the last frame stands there again, and counts for nothing.
            assert clip.weights[n] == 1 or number == numbers[n - 1]
        learned = clip.masks[3:].flatten(1).any(dim=1)
        passed += bool(learned.any() and not learned.all())
    assert passed > 20


def test_a_stranger_s_frame_never_shows_the_structure() -> None:
    look, other = numbered_look(), numbered_look(owner=1)
    other = Look(FrameStock((other.frames.parts[0] + 100,)), other.masks, other.areas, 1)
    seen = 0
    for seed in range(80):
        clip = draw_clip(look, ClipPlan(BOX, 2, 6, 7, 16), [other], np.random.default_rng(seed))
        strange = (clip.frames.parts[0][:, 0, 0, 0] >= 100).nonzero().flatten().tolist()
        assert len(strange) <= 1
        for n in strange:
            seen += 1
            assert n >= 3 and not clip.masks[n].any() and clip.weights[n] == 1
    assert seen


@pytest.mark.parametrize("kind", [BOX, CLICK, CLICKS, MASK])
def test_prompts_are_about_the_structure(kind: str) -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:40, 24:50] = True
    shapes = set()
    for seed in range(30):
        prompt = draw_prompt(kind, mask, np.random.default_rng(seed))
        if kind == MASK:
            assert prompt.mask is not None
            assert (prompt.mask & mask).sum() > 0.7 * (prompt.mask | mask).sum()
            continue
        shapes.add(prompt.points.shape)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            if label in (0, 1):
                assert mask[int(y), int(x)] == bool(label)
        if kind == BOX:
            assert prompt.labels.tolist() == [2, 3]
            assert np.abs(prompt.points - [[23.5, 19.5], [49.5, 39.5]]).max() < 9
    assert len(shapes) <= 1  # a batch has one shape


def answer(logits: torch.Tensor, iou: float, score: float) -> Answer:
    masks = logits[:, None]
    batch = len(masks)
    return Answer(
        masks,
        torch.full((batch, 1), float(iou)),
        torch.zeros(batch, dtype=torch.long),
        torch.full((batch, 1), float(score)),
        torch.ones(batch, 1),
        logits,
        torch.zeros(batch, 256),
    )


def test_the_loss_rewards_the_right_mask_its_claim_and_its_presence() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    target = coarse_target(masks, 16)
    right, wrong, empty = (target - 0.5) * 20, (0.5 - target) * 20, torch.full_like(target, -10)
    counts, weights = torch.ones(1), LossWeights()

    def loss(logits: torch.Tensor, iou: float, score: float, wanted: torch.Tensor = target) -> float:
        return float(answer_loss(answer(logits, iou, score), wanted, counts, weights))

    assert loss(right, 1, 10) < 0.01
    assert loss(wrong, 0, 10) > 3
    assert loss(right, 0, 10) == pytest.approx(loss(right, 1, 10) + weights.iou, abs=1e-3)
    assert loss(right, 1, -10) > loss(right, 1, 10) + 5
    nothing = torch.zeros_like(target)
    assert loss(empty, 0.3, -10, nothing) < 0.01
    assert loss(empty, 0.3, 10, nothing) > 5
    assert loss(right, 0.3, -10, nothing) > 1
    two = answer(torch.cat([right, wrong]), 1, 10)
    only_first = answer_loss(two, target.repeat(2, 1, 1), torch.tensor([1.0, 0.0]), weights)
    assert float(only_first) < 0.01
