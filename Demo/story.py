"""The demonstration, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from Demo import case
from Demo.canvas import Pixels
from Demo.desk import DemoDesk, DemoSession, Propagation, ShownPreview, load_model
from Demo.measure import (
    GOOD,
    BoolArray,
    Doubtful,
    NextClick,
    dice,
    doubtful_slices,
    first_to_correct,
    next_click,
    rate,
    read_reference,
)
from Demo.terminal import Terminal
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts.values import to_ras
from SAM2PropagateLib.worker.messages import LoadModel

# A user who corrects a slice clicks at most so often before going on.
MOST_CLICKS = 3

Masks = Mapping[str, BoolArray]


@dataclass(frozen=True, eq=False)
class Prompted:
    """A structure's first prompt and its preview.

    Attributes:
        preview: of its slice.
        frames: first and last slice of the marked range.
        dice: of the preview on its slice.
        picture: the slice view with the prompt and the preview.
    """

    preview: ShownPreview
    frames: tuple[int, int]
    dice: float
    picture: Pixels


@dataclass(frozen=True, eq=False)
class AppliedRun:
    """A run, applied.

    Attributes:
        propagation: the run.
        masks: the segments after it, (K, J, I) bool.
        dice: by structure.
    """

    propagation: Propagation
    masks: Masks
    dice: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class CorrectedSlice:
    """The slice that was corrected.

    Attributes:
        target: which, and how the doubt led there.
        clicks: that were placed and kept; none if the slice was painted.
        taken_back: how many clicks were taken back, because they did not help.
        kept_mask: whether the clicks corrected the mask that was there.
        painted: the slice was painted in the Segment Editor, because clicks did not do.
        dice_before, dice_after: on that slice, before and after the correction.
        picture: the slice view before.
    """

    target: Doubtful
    clicks: tuple[NextClick, ...]
    taken_back: int
    kept_mask: bool
    painted: bool
    dice_before: float
    dice_after: float
    picture: Pixels


@dataclass(frozen=True, eq=False)
class Story:
    """What happened, for the report and the sheet.

    Attributes:
        model: what the worker says of it: model, device, dtype, input_size.
        reference: masks by structure, (K, J, I) bool.
        prompted: by structure.
        first, second: the runs before and after the correction.
        corrected: the slice view on the corrected slice after the second run.
    """

    model: Mapping[str, Any]
    reference: Masks
    prompted: Mapping[str, Prompted]
    first: AppliedRun
    correction: CorrectedSlice
    second: AppliedRun
    corrected: Pixels

    def neighbors(self) -> tuple[float, float]:
        """Return Dice before and after on the slices that were written again, without the corrected one."""
        target = self.correction.target
        frames = sorted(self.second.propagation.frames(target.segment) - {target.frame})
        truth = self.reference[target.segment][frames]
        before, after = (run.masks[target.segment][frames] for run in (self.first, self.second))
        return dice(before, truth), dice(after, truth)

    def not_computed_again(self) -> int:
        """Return how many slices of the first run, over all structures, the second one left alone."""
        first, second = self.first.propagation, self.second.propagation
        return sum(len(first.frames(name) - second.frames(name)) for name in self.reference)


def open_case(session: DemoSession, model: LoadModel, terminal: Terminal) -> tuple[DemoDesk, Any]:
    """Return the model into the worker, the CT into the scene and the view; what the worker says of the
    model."""
    terminal.step("Starting the worker")
    facts = load_model(session, model, terminal.progress)
    side = facts["input_size"]
    terminal.say(f"{facts['model']} on {facts['device']}, {facts['dtype']}, input {side} × {side}")
    terminal.step("Opening the CT in Slicer's scene and in a slice view")
    desk = DemoDesk(case.CT_FILE, case.STRUCTURES, case.WINDOW_PRESET, session, model)
    geometry, window = desk.volume.geometry, desk.volume.window
    voxels = " × ".join(str(count) for count in geometry.shape_ijk)
    spacing = " × ".join(f"{edge:g}" for edge in geometry.spacing)
    terminal.say(f"{voxels} voxels of {spacing} mm, window {window.width:g}, level {window.level:g}")
    return desk, facts


def tell(desk: DemoDesk, model: Mapping[str, Any], terminal: Terminal) -> Story:
    """Tell the story from the first click to the corrected result.

    Raises:
        SAM2PropagateError: a step failed.
    """
    labels = read_reference(
        case.LABELS_FILE,
        case.LABEL_NAMES_FILE,
        [one.label for one in case.STRUCTURES],
        desk.volume.geometry,
    )
    reference = {one.name: labels[one.label] for one in case.STRUCTURES}
    prompted = {one.name: _prompt(desk, one, reference[one.name], terminal) for one in case.STRUCTURES}
    terminal.step(f"Propagating {' and '.join(reference)} in one run")
    first = _run(desk, reference, terminal)
    for name, score in first.dice.items():
        terminal.say(f"{name}: Dice {score:.3f} against the reference label")
    correction = _correct(desk, reference, first, terminal)
    terminal.step("Propagating again what that changes")
    before = desk.masks()
    second = _run(desk, reference, terminal)
    # After an undo the next run would write all slices again, so only the last one is undone.
    _check_undo(desk, before, second.masks)
    terminal.say("one Undo reverts the run, and one Redo restores it")
    story = Story(model, reference, prompted, first, correction, second, corrected=desk.screenshot())
    for name, score in second.dice.items():
        terminal.say(f"{name}: Dice {first.dice[name]:.3f} before, {score:.3f} now")
    encoded = second.propagation.count("frames_encoded")
    earlier, now = story.neighbors()
    terminal.say(
        f"on the slices written again, without the corrected one: {earlier:.3f} before, {now:.3f} now"
    )
    terminal.say(f"{story.not_computed_again()} slices were left as they were, {encoded} encoded again")
    return story


def _prompt(desk: DemoDesk, structure: case.Structure, truth: BoolArray, terminal: Terminal) -> Prompted:
    """Return a click or a box with the mouse, its preview, and the ends of the structure."""
    name = structure.name
    how = "a click" if structure.prompt_kind == "click" else "a box, dragged"
    terminal.step(f"{name}: {how} in the slice view")
    center = (structure.middle[0], structure.middle[1], structure.start[2])
    desk.look_at(center, structure.field_of_view)
    if structure.box is not None:
        preview = desk.drag_box(name, structure.box)
    else:
        preview = desk.click(name, structure.start)
    picture = desk.screenshot()
    agreement = dice(preview.mask, truth[preview.frame])
    first, last = desk.mark_range(name, structure.ends)
    terminal.say(f"preview of slice {preview.frame + 1} in {preview.seconds:.2f} s, Dice {agreement:.2f}")
    terminal.say(f"marked as reaching from slice {first + 1} to slice {last + 1}")
    return Prompted(preview, (first, last), agreement, picture)


def _run(desk: DemoDesk, reference: Masks, terminal: Terminal) -> AppliedRun:
    """Run both structures in one run, and apply it in one undo step."""
    propagation = desk.propagate(terminal.progress)
    written, seconds = propagation.count("frames_written"), propagation.whole_seconds
    terminal.say(
        f"{written} slices in {seconds:.1f} s ({rate(written, seconds):.1f}/s), "
        f"{propagation.count('frames_encoded')} of them encoded in the run"
    )
    summary = desk.commit()
    after = desk.masks()
    terminal.say(f"applied: {summary.added} voxels added, {summary.removed} removed")
    return AppliedRun(
        propagation, after, {name: dice(after[name], truth) for name, truth in reference.items()}
    )


def _check_undo(desk: DemoDesk, before: Masks, after: Masks) -> None:
    if _same(before, after):
        return
    undone = desk.undo() and _same(desk.masks(), before)
    if not undone or not desk.redo() or not _same(desk.masks(), after):
        raise SAM2PropagateError(
            "undo_failed", "Undo did not take back exactly what the run had written.", "Tell the developers."
        )


def _same(one: Masks, other: Masks) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def slice_agreement(outcome: AppliedRun, reference: Masks) -> dict[tuple[str, int], float]:
    """Return Dice of every slice that a run wrote, by structure and frame."""
    return {
        (name, frame): dice(outcome.masks[name][frame], truth[frame])
        for name, truth in reference.items()
        for frame in outcome.propagation.frames(name)
    }


def _correct(desk: DemoDesk, reference: Masks, first: AppliedRun, terminal: Terminal) -> CorrectedSlice:
    """Goes to a doubtful slice and corrects it: with clicks, or, where they do not do, with the brush."""
    agreement = slice_agreement(first, reference)
    target = first_to_correct(doubtful_slices(first.propagation.doubts()), agreement)
    name, frame = target.segment, target.frame
    structure, truth = desk.structures[name], reference[name][frame]
    mask, before = first.masks[name][frame], agreement[name, frame]
    terminal.step(f"{name}: correcting slice {frame + 1}")
    terminal.say(f"{_rank_words(target.rank)}: doubt {target.doubt:.2f}, Dice {before:.2f}")
    height = float(desk.volume.geometry.ras_of_ijk((0, 0, frame))[2])
    desk.look_at((structure.middle[0], structure.middle[1], height), structure.field_of_view)
    picture = desk.screenshot()
    clicks, taken_back, corrected = _click(desk, target, mask, truth, terminal)
    kept_mask = bool(desk.prompts.segment(name).masks)
    painted = dice(corrected, truth) < GOOD
    if painted:
        taken_back, clicks, corrected = taken_back + len(clicks), (), truth
        desk.clear_slice(name, frame)
        desk.paint(name, frame, truth)
        terminal.say(
            "clicks do not do: the slice is painted in the Segment Editor, after the reference label"
        )
    after = dice(corrected, truth)
    return CorrectedSlice(target, clicks, taken_back, kept_mask, painted, before, after, picture)


def _click(
    desk: DemoDesk, target: Doubtful, mask: BoolArray, truth: BoolArray, terminal: Terminal
) -> tuple[tuple[NextClick, ...], int, BoolArray]:
    """Clicks on the slice that is shown: those that were kept, how many were taken back, and its mask."""
    tried: list[NextClick] = []
    kept: list[NextClick] = []
    while len(tried) < MOST_CLICKS and (not tried or dice(mask, truth) < GOOD):
        aim = next_click(mask, truth, tried)
        if aim is None:
            break
        tried.append(aim)
        point = desk.volume.geometry.ras_of_pixel(aim.x, aim.y, target.frame, desk.axis)
        clicked = desk.click(target.segment, to_ras(point), aim.positive).mask
        sign = "positive" if aim.positive else "negative"
        words = f"a {sign} click: Dice of the slice {dice(clicked, truth):.2f}"
        if dice(clicked, truth) > dice(mask, truth):
            mask = clicked
            kept.append(aim)
            terminal.say(words)
        else:
            desk.take_back()
            terminal.say(f"{words}, no better: taken back")
    return tuple(kept), len(tried) - len(kept), mask


def _rank_words(rank: int) -> str:
    if rank == 1:
        return "the most doubtful slice of the run"
    return f"number {rank} in the list of doubtful slices (those before it are good enough)"
