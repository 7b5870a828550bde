"""Scribbles and lassos in the engine: which points the model is told, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine import crops, strokes
from SAM2PropagateLib.engine.family import Decoded
from SAM2PropagateLib.engine.steps import FrameFeatures
from SAM2PropagateLib.mask_depth import innermost_point
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.prompts.strokes import FrameStroke, filled
from SAM2PropagateLib.run_options import RunRequest
from Testing.engine.fake_steps import FakeSteps, blocks, session

FRAME = 5
BRIGHT = FrameStroke(((10.0, 10.0), (16.0, 20.0), (21.0, 21.0)))
THROUGH_GRAY = FrameStroke(((34.0, 40.0), (45.0, 40.0)), positive=False)
ON_BRIGHT = (15.0, 15.0, True)


def same(mask: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for corners, which the model's coarser grid rounds off."""
    return int((mask ^ expected).sum()) <= 12


def bright() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[8:24, 8:24] = True
    return mask


def gray() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[32:56, 32:48] = True
    return mask


class CountingSteps(FakeSteps):
    """Keeps the points and labels of every decode."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[np.ndarray, np.ndarray]] = []

    def decode_prompts(
        self,
        features: FrameFeatures,
        points: torch.Tensor,
        labels: torch.Tensor,
        mask_logits: torch.Tensor | None = None,
    ) -> Decoded:
        self.told.append((points.numpy().copy(), labels.numpy().copy()))
        return super().decode_prompts(features, points, labels, mask_logits)


def test_a_scribble_finds_what_a_click_there_finds() -> None:
    steps = CountingSteps()
    found = session(blocks(), steps=steps).preview(FRAME, FramePrompts(strokes=(BRIGHT,)))
    assert same(found.mask, bright()) and found.kind == "preview" and not found.note
    [(points, labels)] = steps.told
    assert labels.tolist() == [1, 1, 1]
    # Ends and middle by length, the middle first; the fake grid has one pixel per pixel.
    assert np.allclose(points[1:], [(10, 10), (21, 21)], atol=0.01)
    assert np.allclose(points[0], (14.31, 17.19), atol=0.01)


def test_what_the_mask_misses_is_told_once_more_and_not_for_ever() -> None:
    """Its ends lie on the gray block, its middle on the bright one: no answer of the fake holds all of it."""
    steps = CountingSteps()
    stroke = FrameStroke(((36.0, 36.0), (20.0, 20.0), (36.0, 36.5)))
    found = session(blocks(), steps=steps).preview(FRAME, FramePrompts(strokes=(stroke,)))
    assert len(steps.told) == 1 + strokes.ROUNDS
    counts = [len(points) for points, _ in steps.told]
    assert counts == list(range(counts[0], counts[0] + len(counts)))
    last = steps.told[1][0][-1]
    first = (
        session(blocks(), steps=FakeSteps()).preview(FRAME, FramePrompts(clicks=((36.0, 36.5, True),))).mask
    )
    assert not first[round(last[1]), round(last[0])], "the point that was added is one that was missed"
    assert found.mask.any()


def test_a_scribble_run_equals_its_preview() -> None:
    engine = session(blocks(), auto=True)
    prompts = FramePrompts(strokes=(BRIGHT,))
    preview = engine.preview(FRAME, prompts, segment="a").mask
    written: dict[int, np.ndarray] = {}
    segment = ResolvedSegment("a", {FRAME: prompts}, first=0, last=19)
    engine.propagate(RunRequest((segment,)), lambda mask: written.update({mask.frame: mask.mask}))
    assert np.array_equal(written[FRAME], preview) and set(written) == set(range(20))
    again = ResolvedSegment("a", {FRAME: FramePrompts(strokes=(FrameStroke(((10.0, 10.0),)),))}, last=19)
    assert engine.expected_frames(RunRequest((again,))) == 20, "another stroke makes what was written stale"
    assert engine.expected_frames(RunRequest((segment,))) == 0


def test_a_negative_scribble_takes_away_what_it_runs_through() -> None:
    mask = bright() | gray()
    steps = CountingSteps()
    found = session(blocks(), steps=steps).preview(FRAME, FramePrompts(mask=mask, strokes=(THROUGH_GRAY,)))
    assert same(found.mask, bright()) and not found.note
    assert all(labels[-1] == 0 or labels.tolist() == [1] for _, labels in steps.told)


def test_a_negative_scribble_never_empties_the_slice() -> None:
    through = FrameStroke(((10.0, 16.0), (22.0, 16.0)), positive=False)
    found = session(blocks(), steps=CountingSteps()).preview(
        FRAME, FramePrompts(mask=bright(), strokes=(through,))
    )
    assert np.array_equal(found.mask, bright())
    assert "does not follow" in str(found.note)


def test_a_negative_scribble_is_taken_off_what_the_others_find() -> None:
    """Told all at once, the fake answers with what lies under the last click: the negative one's."""
    prompts = FramePrompts(clicks=(ON_BRIGHT,), strokes=(THROUGH_GRAY,))
    found = session(blocks()).preview(FRAME, prompts)
    assert same(found.mask, bright()), "the click's structure stays"
    assert found.predicted_iou == pytest.approx(0.9), "nothing was taken away: the decoder's answer counts"
    volume = blocks()
    volume[:, 8:24, 24:60] = 200  # the bright block leaks, as far as the stroke
    leak = FrameStroke(((40.0, 10.0), (52.0, 20.0)), positive=False)
    whole = session(volume).preview(FRAME, FramePrompts(clicks=(ON_BRIGHT,))).mask
    kept = session(volume).preview(FRAME, FramePrompts(clicks=(ON_BRIGHT,), strokes=(leak,)))
    assert np.array_equal(kept.mask, whole) and "does not follow" in str(kept.note), (
        "the click must stay in it"
    )


def test_a_positive_scribble_adds_to_a_mask_and_leaves_the_rest() -> None:
    drawn = bright()
    drawn[20:24, 20:24] = False
    said = FramePrompts(mask=drawn, strokes=(FrameStroke(((34.0, 40.0), (45.0, 40.0))),))
    found = session(blocks()).preview(FRAME, said)
    assert same(found.mask, drawn | gray()) and found.predicted_iou == 1.0


def test_a_scribble_that_a_mask_has_already_changes_nothing_and_asks_nothing() -> None:
    steps = CountingSteps()
    found = session(blocks(), steps=steps).preview(FRAME, FramePrompts(mask=bright(), strokes=(BRIGHT,)))
    assert np.array_equal(found.mask, bright()) and not steps.told


# --- lassos


def around(mask: np.ndarray, margin: float) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, x1, y0, y1 = columns[0] - margin, columns[-1] + margin, rows[0] - margin, rows[-1] + margin
    return filled([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], mask.shape)


def test_a_lasso_is_tightened_to_the_edge() -> None:
    drawn = around(bright(), 2.5)
    assert drawn.sum() > bright().sum()
    for auto in (False, True):
        found = session(blocks(), auto=auto).preview(FRAME, FramePrompts(outlines=(drawn,)))
        assert same(found.mask, bright()) and not found.note and found.doubt == 0


def test_an_exact_lasso_is_a_mask() -> None:
    drawn = around(bright(), 2.5)
    assert np.array_equal(session(blocks()).preview(FRAME, FramePrompts(mask=drawn)).mask, drawn)


def test_a_lasso_around_what_the_model_does_not_see_is_kept_and_said() -> None:
    """The fake takes what is at the lasso's middle for the structure: a corner of the bright block."""
    drawn = np.zeros((64, 64), bool)
    drawn[17:44, 17:44] = True
    volume = blocks()
    volume[:, 28:34, 28:34] = 200
    kept = session(volume).preview(FRAME, FramePrompts(outlines=(drawn,)))
    assert np.array_equal(kept.mask, drawn) and "kept as drawn" in str(kept.note)


def test_lassos_add_up_and_clicks_correct_them() -> None:
    both = FramePrompts(outlines=(around(bright(), 2.5), around(gray(), 2.5)))
    assert same(session(blocks()).preview(FRAME, both).mask, bright() | gray())
    exact = around(bright(), 2.5)
    mixed = FramePrompts(mask=exact, outlines=(around(gray(), 2.5),))
    assert same(session(blocks()).preview(FRAME, mixed).mask, exact | gray())
    corrected = FramePrompts(outlines=both.outlines, strokes=(THROUGH_GRAY,))
    assert same(session(blocks()).preview(FRAME, corrected).mask, bright())


def test_the_edge_moves_only_near_the_line() -> None:
    drawn = filled([(10, 10), (50, 10), (50, 50), (10, 50)], (64, 64))
    answer = drawn.copy()
    answer[10:20] = False
    answer[30:40, 45:64] = True
    answer[28:32, 28:32] = False
    held = strokes.tightened(drawn, answer)
    assert held is not None
    radius = np.sqrt(drawn.sum() / np.pi)
    assert held[30, 30], "what lies deep inside stays"
    far = np.zeros((64, 64), bool)
    far[30:40, int(np.ceil(50 + strokes.REACH_OUT * radius)) :] = True
    assert not (held & far).any(), "nothing is added far outside"
    assert held[30:40, 50].all(), "but a pixel beside the line is"
    assert not held[10:18, 10:50].any(), "what lies near the line is taken away"
    assert strokes.tightened(drawn, np.zeros((64, 64), bool)) is None
    speck = np.zeros((64, 64), bool)
    speck[12:15, 12:15] = True
    assert strokes.tightened(drawn, speck) is None
    assert innermost_point(drawn)[0] in (29, 30)


# --- along a stroke


def test_points_along_a_stroke_are_even_and_its_middle_is_among_them() -> None:
    points = strokes.sampled(FrameStroke(((0.0, 0.0), (3.0, 0.0), (3.0, 8.0))))
    steps = np.hypot(*np.diff(points, axis=0).T)
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [3, 8] and steps.max() <= 1
    assert points[len(points) // 2].tolist() == [3, 2.5]
    assert strokes.sampled(FrameStroke(((4.0, 5.0),))).tolist() == [[4, 5]]


def test_the_point_farthest_from_the_border_is_told() -> None:
    mask = np.zeros((20, 40), bool)
    mask[:, :20] = True
    right = FrameStroke(((10.0, 10.0), (35.0, 10.0)))
    assert strokes.worst_click([right], mask, []) == (35.0, 10.0, True)
    left = FrameStroke(((25.0, 10.0), (9.0, 10.0)), positive=False)
    worst = strokes.worst_click([left], mask, [])
    assert worst is not None and not worst[2] and abs(worst[0] - 10) <= 1
    both = strokes.wrong_clicks([right, left], mask, [])
    assert [click[2] for click in both] == [True, False]
    assert strokes.worst_click([FrameStroke(((1.0, 1.0), (15.0, 1.0)))], mask, []) is None
    known = [(float(x), 10.0, True) for x in range(20, 36)]
    assert strokes.worst_click([right], mask, known) is None, "what was tried is not tried again"


def test_what_a_negative_scribble_must_leave() -> None:
    whole, positives = bright(), [ON_BRIGHT]
    smaller = whole.copy()
    smaller[8:12] = False
    assert strokes.is_left(smaller, whole, positives)
    assert not strokes.is_left(np.zeros_like(whole), whole, [])
    assert not strokes.is_left(whole & ~smaller, whole, positives), "the click's place must stay"
    speck = np.zeros_like(whole)
    speck[9, 9] = True
    assert not strokes.is_left(speck, whole, [])


def test_corrections_follow_what_became_of_the_mask() -> None:
    mask = np.zeros((20, 40), bool)
    stroke = FrameStroke(((5.0, 10.0), (35.0, 10.0)))
    asked = strokes.corrections([stroke], lambda: mask)
    assert next(asked) == (20.0, 10.0, True)
    mask[:, 10:30] = True
    assert next(asked) == (5.0, 10.0, True)
    mask[:, :36] = True
    assert list(asked) == [], "the other end is in the mask by now"
    stubborn = list(strokes.corrections([stroke], lambda: np.zeros((20, 40), bool)))
    assert len(stubborn) == 3 + 1
    negative = FrameStroke(stroke.points, positive=False)
    deepest = list(strokes.corrections([negative], lambda: np.pad(np.ones((10, 9), bool), ((5, 5), (4, 27)))))
    assert len(deepest) == strokes.CARVINGS and deepest[0] == (8.0, 10.0, False)


def test_a_scribble_is_looked_at_as_closely_as_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """From afar a large thing of the same brightness is one with it; closely it is not in sight."""
    volume = np.zeros((6, 256, 256), np.uint8)
    volume[:, 64:128, 64:128] = 200
    volume[:, 176:, :] = 200
    prompts = FramePrompts(strokes=(FrameStroke(((74.0, 78.0), (116.0, 114.0))),))
    opened = session(volume, auto=True)
    found = opened.preview(2, prompts, "a").mask
    assert not found[160:].any() and found[64:128, 64:128].mean() > 0.6
    crop = opened.crop_of("a")
    assert crop.box[2] - crop.box[0] < 160
    monkeypatch.setattr(crops, "SHORTEST", 1000.0)
    assert session(volume, auto=True).preview(2, prompts, "a").mask[160:].any()


def test_a_short_scribble_in_something_large_is_not_cut() -> None:
    volume = np.zeros((6, 256, 256), np.uint8)
    volume[:, 40:220, 40:220] = 200
    stroke = FrameStroke(((120.0, 120.0), (132.0, 124.0)))
    found = session(volume, auto=True).preview(2, FramePrompts(strokes=(stroke,)), "a")
    # Ten of the fake's cells of 16 pixels lie wholly in it.
    assert found.mask.sum() > 0.7 * 180 * 180
