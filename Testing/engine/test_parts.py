"""The engine's small parts: planning, blending, cleaning, refining, resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SAM2PropagateLib.engine import crops, imaging
from SAM2PropagateLib.engine.blend import blended
from SAM2PropagateLib.engine.front import Tracked
from SAM2PropagateLib.engine.keyframes import Keyframe
from SAM2PropagateLib.engine.plan import Stretch, plan, signature
from SAM2PropagateLib.engine.postprocess import clean, native_mask, shown_mask
from SAM2PropagateLib.engine.refine import ClickAt, aim_of, refined, toggled
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.packed_masks import EDGE_STEPS
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment

Change = Callable[..., np.ndarray]
HERE = FramePrompts(clicks=((1.0, 1.0, True),))
ABSENT = FramePrompts(absent=True)
CPU = torch.device("cpu")


def resolved(keyframes: dict[int, FramePrompts], first: int = 0, last: int = 9) -> ResolvedSegment:
    return ResolvedSegment("s", keyframes, frozenset(), first, last)


def test_plan_between_and_beyond_keyframes() -> None:
    assert plan(resolved({2: HERE, 6: HERE})) == (
        Stretch("s", 0, 1, None, 2),
        Stretch("s", 3, 5, 2, 6),
        Stretch("s", 7, 9, 6, None),
    )
    assert plan(resolved({2: HERE, 6: HERE}), "forward") == (
        Stretch("s", 3, 5, 2, None),
        Stretch("s", 7, 9, 6, None),
    )


def test_plan_does_not_start_from_absent_marks() -> None:
    assert plan(resolved({4: HERE, 7: ABSENT}, last=7)) == (
        Stretch("s", 0, 3, None, 4),
        Stretch("s", 5, 6, 4, None, absent=7),
    )
    assert plan(resolved({4: ABSENT})) == ()


def test_what_a_corrected_mask_took_over_from_may_end_the_segment() -> None:
    mask = np.ones((2, 2), bool)
    corrected = FramePrompts(mask=mask, clicks=((1.0, 1.0, False),))
    painted = FramePrompts(mask=mask)
    assert plan(resolved({2: HERE, 6: corrected})) == (
        Stretch("s", 0, 1, None, 2),
        Stretch("s", 3, 5, 2, 6),
        Stretch("s", 7, 9, 6, None, elder=2),
    )
    assert plan(resolved({2: corrected, 6: HERE}))[0] == Stretch("s", 0, 1, None, 2, elder=6)
    # A painted mask is right, and a click alone corrects nothing; a mark or a range says where the end is.
    for there, reach in (
        (resolved({2: HERE, 6: painted}), None),
        (resolved({2: painted, 6: HERE}), None),
        (resolved({2: corrected}), None),
        (resolved({2: ABSENT, 6: corrected}, first=3), None),
        (resolved({2: HERE, 6: corrected, 9: ABSENT}), None),
        (replace(resolved({2: HERE, 6: corrected}), is_ranged=True), None),
        (resolved({2: HERE, 6: corrected}), 3),
        # A keyframe further on shows the segment again.
        (resolved({2: HERE, 6: corrected, 9: HERE}), None),
        (resolved({1: HERE, 3: corrected, 9: HERE}), 2),
    ):
        assert {stretch.elder for stretch in plan(there, reach=reach)} == {None}
    assert plan(resolved({2: HERE, 6: corrected}), reach=4)[-1].elder == 2
    # Another corrected mask between changes nothing beyond the outermost one.
    assert plan(resolved({2: HERE, 4: corrected, 6: corrected}))[-1].elder == 2
    assert plan(resolved({2: HERE, 4: painted, 6: corrected}))[-1].elder == 4

    for direction in ("forward", "backward"):
        between = plan(resolved({2: HERE, 4: corrected, 7: corrected, 9: HERE}), direction)
        assert {stretch.elder for stretch in between} == {None}

    last = Stretch("s", 7, 9, 6, None, elder=2)
    keyframes = {2: HERE, 6: corrected}
    other_elder = {2: FramePrompts(clicks=((2.0, 1.0, True),)), 6: corrected}
    assert signature(last, keyframes) != signature(last, other_elder)
    alone = replace(last, elder=None)
    assert signature(alone, keyframes) == signature(alone, other_elder)


@given(
    st.dictionaries(st.integers(0, 29), st.booleans(), min_size=1, max_size=6),
    st.sampled_from(["both", "forward", "backward"]),
    st.one_of(st.none(), st.integers(1, 8)),
)
@settings(max_examples=150, deadline=None)
def test_plan_reaches_each_frame_at_most_once_and_never_a_keyframe(
    keys: dict[int, bool], direction: str, reach: int | None
) -> None:
    segment = resolved({frame: HERE if here else ABSENT for frame, here in keys.items()}, last=29)
    frames = [frame for stretch in plan(segment, direction, reach) for frame in stretch.frames]
    assert len(frames) == len(set(frames))
    assert not set(frames) & set(keys)
    sources = [frame for frame, here in keys.items() if here]
    for frame in frames:
        assert any(reach is None or abs(frame - source) <= reach for source in sources)
    if direction == "both" and reach is None and len(sources) == len(keys):
        assert sorted([*frames, *keys]) == list(range(30))


def test_signatures_follow_the_prompts() -> None:
    stretch = Stretch("s", 3, 5, 2, 6)
    known = signature(stretch, {2: HERE, 6: HERE})
    assert known == signature(stretch, {2: FramePrompts(clicks=((1.0, 1.0, True),)), 6: HERE})
    assert known != signature(stretch, {2: HERE, 6: FramePrompts(clicks=((2.0, 1.0, True),))})


def tracked(value: float, iou: float = 0.9, score: float = 5.0) -> Tracked:
    return Tracked(torch.full((4, 4), value).half(), torch.tensor(iou), torch.tensor(score))


def test_blending_follows_nearness_and_confidence() -> None:
    logits, _, _, _ = blended(tracked(6), tracked(-6), 1, 9)
    assert (logits > 0).all()
    logits, _, _, _ = blended(tracked(6), tracked(-6), 9, 1)
    assert (logits < 0).all()
    logits, _, _, _ = blended(tracked(6, iou=0.9), tracked(-6, iou=0.3), 5, 5)
    assert (logits > 0).all()
    # A side that says "nothing here at all" is one vote, not a veto.
    logits, _, _, _ = blended(tracked(6), tracked(-1024), 2, 8)
    assert (logits > 0).all()
    logits, iou, score, agreement = blended(None, tracked(-3, iou=0.7, score=-2), 0, 4)
    assert (logits < -1000).all(), "absent by its score, whatever was drawn"
    logits, _, _, _ = blended(None, tracked(-3, score=2), 0, 4)
    assert float(logits[0, 0]) == -3
    assert (float(iou), float(score)) == (pytest.approx(0.7), -2) and agreement is None


def test_cleaning_takes_specks_and_holes_but_never_all() -> None:
    mask = np.zeros((30, 30), bool)
    mask[5:20, 5:20] = True
    mask[10:12, 10:12] = False  # a hole of 4
    mask[25, 25] = True  # a speck of 1
    mask[14:18, 14:18] = False  # a hole of 16
    cleaned = clean(mask, 5)
    assert cleaned[10:12, 10:12].all()
    assert not cleaned[25, 25]
    assert not cleaned[15, 15]
    tiny = np.zeros((30, 30), bool)
    tiny[3, 3] = True
    assert clean(tiny, 50)[3, 3]
    assert clean(mask, 0) is mask
    assert not clean(np.zeros((4, 4), bool), 9).any()
    open_bay = np.ones((6, 6), bool)
    open_bay[0, 2] = False  # touches the border: no hole
    assert not clean(open_bay, 5)[0, 2]


def changed(change: Change, mask: np.ndarray, seen: np.ndarray, *clicks: ClickAt) -> np.ndarray:
    """What the last of the clicks makes of a mask."""
    result: np.ndarray = change(mask, seen, clicks[-1], aim_of(mask, clicks))
    return result


@pytest.mark.parametrize("moved", [-1e-9, 1e-9])
@pytest.mark.parametrize("is_positive", [True, False])
def test_what_a_click_may_change_is_the_same_after_saving_and_loading(
    moved: float, is_positive: bool
) -> None:
    # A place comes back from a file with a rounding error; column 20 is as near to one click as to the other.
    mask = np.zeros((41, 41), bool)
    mask[5:36, 2:39] = not is_positive
    mask[20, 10] = is_positive
    clicks = [(10.0, 20.0, not is_positive), (30.0, 20.0, is_positive)]
    loaded = [(x + moved, y - moved, sign) for x, y, sign in clicks]
    before, after = aim_of(mask, clicks), aim_of(mask, loaded)
    assert before.within.any()
    np.testing.assert_array_equal(before.within, after.within)
    assert before.stays == after.stays


def test_refining_only_touches_the_part_that_was_clicked() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = True
    proposal = mask.copy()
    proposal[2:8, 8:12] = True  # asked for
    proposal[15:18, 15:18] = True  # not asked for
    proposal[2, 2] = False  # not asked for
    result = changed(refined, mask, proposal, (9.0, 4.0, True))
    assert result[2:8, 2:12].all()
    assert not result[16, 16]
    mask[2:4, 8:16] = True
    proposal = mask.copy()
    proposal[2:4, 8:16] = False  # asked for
    proposal[6:8, 2:4] = False  # not asked for
    result = changed(refined, mask, proposal, (13.0, 3.0, False))
    assert not result[2:4, 11:16].any()
    assert result[2:8, 2:8].all()
    assert changed(refined, mask, mask, (15.0, 15.0, True)) is mask


def test_a_click_adds_or_takes_the_thing_that_lies_there() -> None:
    mask = np.zeros((40, 40), bool)
    mask[4:24, 4:24] = True
    mask[10:16, 24:32] = True
    lump = np.zeros((40, 40), bool)
    lump[10:16, 24:36] = True
    assert (changed(toggled, mask, lump, (28.0, 13.0, False)) ^ (mask & ~lump)).sum() <= 4
    assert (changed(toggled, mask, lump, (34.0, 13.0, True)) == (mask | lump)).all()
    assert changed(toggled, mask, lump, (28.0, 13.0, True)) is mask


@pytest.mark.parametrize("change", [refined, toggled])
def test_a_negative_click_takes_its_pixel_and_leaves_most_of_the_mask(change: Change) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:25, 5:35] = True
    mask[20:24, 35:50] = True  # what should not be there
    mask[30:36, 4:10] = True
    # The model drops all of it, or sees all of it as one thing.
    seen = np.full_like(mask, change is toggled)
    result = changed(change, mask, seen, (44.0, 22.0, False))
    assert not result[22, 44] and not (result & ~mask).any()
    assert result[5:25, 5:30].all() and result[30:36, 4:10].all()
    assert not result[20:24, 38:50].any()


@pytest.mark.parametrize("change", [refined, toggled])
def test_a_positive_click_adds_its_pixel_and_not_the_whole_frame(change: Change) -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    # Six columns are missing; the model sees all that is there as one thing.
    result = changed(change, mask, np.ones_like(mask), (43.0, 30.0, True))
    assert result[30, 43] and result[mask].all() and result[25:35, 40:46].all()
    assert not result[:, 50:].any() and not result[:10].any()


@pytest.mark.parametrize("click", [(30.0, 30.0, False), (10.0, 10.0, False)])
def test_a_negative_click_may_take_a_part_of_the_mask_that_is_not_most_of_it(click: ClickAt) -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:20, 2:20] = True
    mask[22:38, 22:38] = True
    result = changed(refined, mask, np.zeros_like(mask), click)
    assert result[2:20, 2:20].sum() in (0, 18 * 18) and result[22:38, 22:38].sum() in (0, 16 * 16)
    assert result.any() and not result[int(click[1]), int(click[0])]


def test_a_later_click_leaves_what_an_earlier_one_asked_for() -> None:
    mask = np.zeros((20, 40), bool)
    mask[4:16, 4:36] = True
    result = changed(refined, mask, np.zeros_like(mask), (30.0, 10.0, True), (22.0, 10.0, False))
    assert result[10, 30] and not result[10, 22]
    mask[:, 12:] = False
    result = changed(refined, mask, np.ones_like(mask), (30.0, 10.0, False), (20.0, 10.0, True))
    assert result[10, 20] and not result[10, 30]


def test_a_click_on_an_empty_mask_adds_what_the_model_sees() -> None:
    nothing = np.zeros((20, 20), bool)
    thing = nothing.copy()
    thing[2:9, 3:12] = True
    assert (changed(refined, nothing, thing, (5.0, 5.0, True)) == thing).all()
    assert changed(refined, nothing, nothing, (5.0, 5.0, False)) is nothing


@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from([16, 32, 64]))
@settings(max_examples=60, deadline=None)
def test_a_mask_survives_the_way_to_the_model_and_back(rows: int, columns: int, size: int) -> None:
    crop = FrameCrop((rows, columns), (1, 1), (-0.5, -0.5, columns - 0.5, rows - 0.5), size)
    mask = np.zeros((rows, columns), bool)
    mask[: (rows + 1) // 2, : (columns + 1) // 2] = True
    seen = imaging.mask_to_model(mask, crop, CPU)
    assert seen.shape == (1, 1, size, size)
    back = native_mask(shown_mask(seen[0, 0] - 0.5, crop).numpy(), crop, 4 * size)
    wrong = (back ^ mask).sum() / mask.size
    assert wrong <= (rows + columns) * max(1.0, rows / size, columns / size) / mask.size


def test_outside_the_frame_there_is_black_and_outside_the_crop_nothing() -> None:
    crop = FrameCrop((10, 20), (1, 1), (-5.5, -5.5, 9.5, 9.5), 32)
    frame = np.full((10, 20), 255, np.uint8)
    seen = imaging.to_model_input([frame, frame], crop, CPU)
    assert seen.shape == (2, 3, 32, 32)
    black = (0 - 0.485) / 0.229
    white = (1 - 0.485) / 0.229
    assert torch.allclose(seen[:, 0, :8, :8], torch.tensor(black), atol=1e-4)
    assert torch.allclose(seen[:, 0, 14:, 14:], torch.tensor(white), atol=1e-4)
    shown = shown_mask(torch.ones(8, 8), crop)
    assert shown.shape == (10, 10) and shown.all()
    mask = native_mask(shown.numpy(), crop, 8)
    assert mask[:, :10].all() and not mask[:, 10:].any()
    aside = FrameCrop((10, 20), (1, 1), (24.5, -9.5, 34.5, 0.5), 32)
    assert not native_mask(shown_mask(torch.ones(8, 8), aside).numpy(), aside, 8).any()


def test_logits_tell_how_the_edge_runs_between_the_pixels() -> None:
    """A circle in the logits, coarser than the native pixels: its edge is known to a part of a pixel."""
    rows, columns = np.indices((32, 32))
    # Logit pixel (r, c) lies on native ((r + 0.5) * 3 - 0.5 + 4, (c + 0.5) * 3 - 0.5 + 10).
    y, x = (rows + 0.5) * 3 - 0.5 + 4, (columns + 0.5) * 3 - 0.5 + 10
    center, radius = (50.3, 58.8), 21.4
    logits = torch.from_numpy(0.7 * (radius - np.hypot(y - center[0], x - center[1]))).float()
    crop = FrameCrop((110, 130), (1, 1), (9.5, 3.5, 105.5, 99.5), 128)
    steps = imaging.edge_steps(logits, crop)
    assert steps.shape == (110, 130) and steps.dtype == np.int8
    shown = shown_mask(logits, crop).numpy()
    mask = np.zeros((110, 130), bool)
    mask[imaging.shown_part(crop)] = shown
    np.testing.assert_array_equal(steps > 0, mask)
    assert not steps[:, :10].any() and not steps[100:].any(), "beyond the crop nothing is known"
    native_rows, native_columns = np.indices((110, 130))
    true = radius - np.hypot(native_rows - center[0], native_columns - center[1])
    near = np.abs(true) < 1.5
    error = np.abs(steps / EDGE_STEPS - true)[near]
    assert error.max() < 0.15 and error.mean() < 0.06


def test_only_masks_from_logits_tell_of_their_edge() -> None:
    given = np.zeros((8, 8), bool)
    given[2:5, 2:5] = True
    keyframe = Keyframe(FramePrompts(mask=given), None, given, 1.0, 5.0)  # type: ignore[arg-type]
    assert keyframe.as_mask("a", 3, "keyframe").edge is None


def test_a_click_and_its_pixel_meet_in_the_model() -> None:
    frame = np.zeros((50, 70), np.uint8)
    frame[30, 41] = 255
    crop = imaging.whole_pixels(FrameCrop((50, 70), (1, 1), (20.2, 9.7, 60.4, 49.9), 128))
    seen = imaging.to_model_input([frame], crop, CPU)[0, 0]
    row, column = divmod(int(seen.argmax()), 128)
    x, y = crop.to_model(np.array([41.0, 30.0])) - 0.5
    assert abs(x - column) <= 1.5
    assert abs(y - row) <= 1.5


def frames(rows: int, columns: int, spacing: tuple[float, float]) -> FrameStack:
    row_mm, column_mm = spacing
    geometry = VolumeGeometry((columns, rows, 2), np.diag([column_mm, row_mm, 1.0, 1.0]))
    return FrameStack(np.zeros((2, rows, columns), np.uint8), geometry, 2, Window(255, 127.5))


def test_close_crops_are_square_in_mm_where_there_is_room() -> None:
    stack = frames(60, 400, (4.0, 0.5))
    crop = crops.close_crop(stack, 256, (190.0, 28.0, 210.0, 31.0))
    x0, y0, x1, y1 = crop.box
    assert (x1 - x0) * 0.5 == pytest.approx((y1 - y0) * 4.0, rel=0.15)
    edge = crops.close_crop(frames(100, 100, (1, 1)), 64, (0.0, 0.0, 30.0, 30.0))
    assert min(edge.box) >= -0.5


def test_regions_come_from_boxes_and_masks_with_their_clicks() -> None:
    mask = np.zeros((20, 20), bool)
    mask[4:8, 3:9] = True
    assert crops.region_of(FramePrompts(mask=mask)) == (2.5, 3.5, 8.5, 7.5)
    assert crops.region_of(FramePrompts(clicks=((1.0, 2.0, True),))) is None
    both = FramePrompts(box=(5.0, 5.0, 9.0, 9.0), clicks=((12.0, 6.0, False),))
    assert crops.region_of(both) == (5.0, 5.0, 12.0, 9.0)


def test_an_isotropic_model_gets_padding_and_a_stretched_one_does_not() -> None:
    stack = frames(50, 100, (1, 1))
    assert crops.whole_crop(stack, 64).box == (-0.5, -0.5, 99.5, 49.5)
    assert crops.whole_crop(stack, 64, crops.ISOTROPIC).box == (-0.5, -25.5, 99.5, 74.5)
