"""Decides which actions are possible, and why others are not: the texts are tooltips of disabled buttons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from SAM2PropagateLib.texts import tr as _

PROMPT, ADD_SEGMENT, PROPAGATE, PROPAGATE_ANEW, CANCEL, APPLY, DISCARD, NEXT_DOUBTFUL = (
    "prompt",
    "add_segment",
    "propagate",
    "propagate_anew",
    "cancel",
    "apply",
    "discard",
    "next_doubtful",
)
UNDO, REDO, CLEAR_PROMPTS = "undo", "redo", "clear_prompts"
ACTIONS = (
    PROMPT,
    ADD_SEGMENT,
    PROPAGATE,
    PROPAGATE_ANEW,
    CANCEL,
    APPLY,
    DISCARD,
    NEXT_DOUBTFUL,
    UNDO,
    REDO,
    CLEAR_PROMPTS,
)
PROMPTING = (PROMPT, ADD_SEGMENT)
"""Actions that depend only on what is chosen and installed."""


@dataclass(frozen=True)
class Conditions:
    """The conditions that the rules decide by: what is chosen, running and present.

    Attributes:
        missing: packages that are not installed.
        volumeProblem, segmentationProblem, modelProblem: why the chosen one cannot be used; "" if it can.
        hasVolume, hasSegmentation, hasSegment: whether one is chosen.
        makesSegment: a missing segmentation and segment are made and chosen when a prompt needs them.
        isRunning: a propagation is running. isApplying: the preview is being written into the segments.
        canStart: there are prompts, or slices painted by hand, to propagate from.
        hasPreview: the preview holds masks. hasPrompts: the chosen segment has prompts.
        undoName, redoName: of the step that can be undone or redone; "" if there is none.
        undoesPrompts, redoesPrompts: this step changes only prompts. hasDoubt: some slice is doubtful.
    """

    missing: tuple[str, ...] = ()
    volumeProblem: str = ""
    segmentationProblem: str = ""
    modelProblem: str = ""
    hasVolume: bool = False
    hasSegmentation: bool = False
    hasSegment: bool = False
    makesSegment: bool = False
    isRunning: bool = False
    isApplying: bool = False
    canStart: bool = False
    hasPreview: bool = False
    hasPrompts: bool = False
    undoName: str = ""
    redoName: str = ""
    undoesPrompts: bool = False
    redoesPrompts: bool = False
    hasDoubt: bool = False


def whyNot(action: str, conditions: Conditions) -> str:
    """Returns why an action is not possible now, as a sentence for its tooltip; "" if it is.

    Raises:
        KeyError: there is no such action.
    """
    return _RULES[action](conditions)


def _cannotAdd(conditions: Conditions) -> str:
    if conditions.missing:
        return _("Install the missing packages first: {names}.").format(names=", ".join(conditions.missing))
    if not conditions.hasVolume:
        return _("Choose a volume first.")
    if conditions.volumeProblem:
        return conditions.volumeProblem
    if not conditions.hasSegmentation and not conditions.makesSegment:
        return _("Choose or create a segmentation first.")
    return conditions.segmentationProblem


def _notReady(conditions: Conditions) -> str:
    return _cannotAdd(conditions) or conditions.modelProblem


def _prompt(conditions: Conditions) -> str:
    hasSegment = conditions.hasSegment or conditions.makesSegment
    return _notReady(conditions) or ("" if hasSegment else _("Choose or add a segment first."))


def _propagate(conditions: Conditions) -> str:
    if conditions.isRunning:
        return _("A propagation is running.")
    if reason := _notReady(conditions):
        return reason
    if not conditions.canStart:
        return _("Click on the structure, draw a box around it, or paint it on one slice first.")
    return ""


def _cancel(conditions: Conditions) -> str:
    return "" if conditions.isRunning else _("Nothing is running.")


def _ended(conditions: Conditions) -> str:
    return _("Wait until the propagation has finished, or cancel it.") if conditions.isRunning else ""


def _apply(conditions: Conditions) -> str:
    if conditions.isApplying:
        return _ended(conditions) or _("The preview is being applied.")
    return _ended(conditions) or ("" if conditions.hasPreview else _("There is no preview."))


def _nextDoubtful(conditions: Conditions) -> str:
    return "" if conditions.hasDoubt else _("No slice is doubtful.")


def _undo(conditions: Conditions) -> str:
    if not conditions.undoName:
        return _("There is nothing to undo.")
    return _ended(conditions) if conditions.isRunning and not conditions.undoesPrompts else ""


def _redo(conditions: Conditions) -> str:
    if not conditions.redoName:
        return _("There is nothing to redo.")
    return _ended(conditions) if conditions.isRunning and not conditions.redoesPrompts else ""


def _clearPrompts(conditions: Conditions) -> str:
    return "" if conditions.hasPrompts else _("This segment has no prompts.")


_RULES: dict[str, Callable[[Conditions], str]] = {
    PROMPT: _prompt,
    ADD_SEGMENT: _cannotAdd,
    PROPAGATE: _propagate,
    PROPAGATE_ANEW: _propagate,
    CANCEL: _cancel,
    APPLY: _apply,
    DISCARD: _apply,
    NEXT_DOUBTFUL: _nextDoubtful,
    UNDO: _undo,
    REDO: _redo,
    CLEAR_PROMPTS: _clearPrompts,
}
