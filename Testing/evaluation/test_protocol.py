"""The evaluation's course, on sessions whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.engine.plan import plan
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.metrics import dice
from SAM2PropagateLib.evaluation.protocol import DoubtCount, EvaluationOptions, evaluate
from SAM2PropagateLib.evaluation.targets import LoadedTarget, Target
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest

SHAPE = (12, 16, 16)
FIRST, LAST, LARGEST = 3, 8, 5


def reference() -> np.ndarray:
    """A block on slices 3 to 8, largest on slice 5."""
    mask = np.zeros(SHAPE, bool)
    mask[FIRST : LAST + 1, 4:10, 4:10] = True
    mask[LARGEST, 4:11, 4:10] = True
    return mask


def target() -> LoadedTarget:
    array = np.zeros(SHAPE, np.int16)
    frames = FrameStack(array, VolumeGeometry(SHAPE[::-1], np.eye(4)), 2, Window(100, 50))
    return LoadedTarget(Target("case", "block", Path("image"), Path("label")), frames, reference())


class CarryingSession:
    """Carries the mask of the nearest positive keyframe unchanged over every frame of the plan; writes only
    what has changed, as the engine does."""

    def __init__(self) -> None:
        self.requests: list[RunRequest] = []
        self.previews: list[int] = []
        self._written: dict[int, object] = {}

    def _mask(self, said: FramePrompts) -> np.ndarray:
        if said.mask is not None:
            return said.mask
        mask = np.zeros(SHAPE[1:], bool)
        if said.box is not None:
            x0, y0, x1, y1 = (round(edge + 0.5) for edge in said.box)
            mask[y0:y1, x0:x1] = True
        for x, y, positive in said.clicks:
            mask[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3] = positive
        return mask

    def _answer(self, frame: int, mask: np.ndarray, kind: str) -> FrameMask:
        return FrameMask("target", frame, mask, 0.9, 5.0, 0.1, kind)

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        self.previews.append(frame)
        return self._answer(frame, self._mask(prompts), "preview")

    def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
        self.requests.append(run)
        [segment] = run.segments
        answers: dict[int, np.ndarray] = {
            frame: np.zeros(SHAPE[1:], bool) if said.absent else self._mask(said)
            for frame, said in segment.keyframes.items()
        }
        for stretch in plan(segment):
            sources = [source for source in (stretch.left, stretch.right) if source is not None]
            for frame in stretch.frames:
                nearest = min(sources, key=lambda source: abs(source - frame))
                answers[frame] = self._mask(segment.keyframes[nearest])
        written = 0
        for frame, mask in answers.items():
            if self._written.get(frame) != mask.tobytes():
                on_frame(self._answer(frame, mask, "propagated"))
                self._written[frame] = mask.tobytes()
                written += 1
        return RunSummary(written, written, 0, 0.0, ())


class GivesUp(CarryingSession):
    """Finds nothing beside a keyframe."""

    def _answer(self, frame: int, mask: np.ndarray, kind: str) -> FrameMask:
        return super()._answer(frame, mask & (frame == LARGEST), kind)


def test_slices_on_which_the_structure_is_missed_are_counted_apart() -> None:
    scores = evaluate(target(), GivesUp(), EvaluationOptions(corrections=0))
    assert scores.doubts[1] == DoubtCount(masks=0, bad=0, empty=11, missed=5)


def test_the_scores_of_a_copying_session() -> None:
    session = CarryingSession()
    scores = evaluate(target(), session, EvaluationOptions(corrections=3))
    copied = np.broadcast_to(reference()[LARGEST], SHAPE)
    assert session.previews == [LARGEST]
    assert scores.preview == 1.0
    assert scores.volume == pytest.approx(dice(copied, reference()))
    in_range = np.zeros(SHAPE, bool)
    in_range[FIRST : LAST + 1] = reference()[LARGEST]
    assert scores.volume_in_range == pytest.approx(dice(in_range, reference()))
    assert scores.slices == 12
    assert scores.slices_per_second > 0
    # All with a doubt of 0.1: five slices of the block that the larger mask fits well, six beyond its ends.
    nothing = DoubtCount(0, 0, 0, 0)
    assert scores.doubts == (nothing, DoubtCount(11, 6, 0, 0), *[nothing] * 8)

    # Superfluous slices are the worst: first below, then above, each marked absent, which empties the rest.
    assert [(one.frame, one.kind, one.wrong_pixels) for one in scores.corrections[:2]] == [
        (0, "absent", 42),
        (1, "absent", 42),
    ]
    assert len(scores.after) == len(scores.corrections) == 3
    assert list(scores.after) == sorted(scores.after) and scores.after[0] > scores.volume


def test_corrections_build_on_each_other_and_the_range_comes_last() -> None:
    session = CarryingSession()
    evaluate(target(), session, EvaluationOptions(corrections=2))
    sent = [request.segments[0] for request in session.requests]
    assert [sorted(segment.keyframes) for segment in sent] == [[5], [0, 5], [1, 5], [5]]
    assert [(segment.first, segment.last) for segment in sent] == [(0, 11), (0, 11), (1, 11), (3, 8)]


def test_frames_beyond_a_new_absent_mark_are_empty() -> None:
    """The copying session never takes a mask back; the evaluation has to drop what is out of reach."""
    session = CarryingSession()
    scores = evaluate(target(), session, EvaluationOptions(corrections=1))
    found = np.broadcast_to(reference()[LARGEST], SHAPE).copy()
    found[0] = False
    assert scores.after == (pytest.approx(dice(found, reference())),)


def test_nothing_left_to_correct_repeats_the_score() -> None:
    class Perfect(CarryingSession):
        def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
            self.requests.append(run)
            for frame, mask in enumerate(reference()):
                on_frame(self._answer(frame, mask, "propagated"))
            return RunSummary(SHAPE[0], SHAPE[0], 0, 0.0, ())

    session = Perfect()
    scores = evaluate(target(), session, EvaluationOptions(corrections=3))
    assert scores.volume == scores.volume_in_range == scores.surface == 1.0
    assert scores.after == (1.0, 1.0, 1.0) and scores.corrections == ()
    assert scores.correction_slices == 0 and len(session.requests) == 2


@pytest.mark.parametrize("correction", ["mask", "click"])
@pytest.mark.parametrize("prompt", ["box", "click"])
def test_every_kind_of_user_gets_through(prompt: str, correction: str) -> None:
    session = CarryingSession()
    options = EvaluationOptions(prompt=prompt, correction=correction, corrections=6)
    scores = evaluate(target(), session, options)
    assert len(scores.after) == 6 and len(scores.corrections) == 6
    [said] = session.requests[0].segments[0].keyframes.values()
    assert (said.box is not None) == (prompt == "box")
    assert bool(said.clicks) == (prompt == "click")
    kinds = {one.kind for one in scores.corrections}
    assert kinds <= {correction, "absent"}


@pytest.mark.parametrize("options", [{"prompt": "mask"}, {"correction": "box"}, {"corrections": -1}])
def test_options_that_do_not_exist_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        EvaluationOptions(**options)  # type: ignore[arg-type]
    assert caught.value.code == "bad_option"
