"""The tools with which the user places prompts in the slice views."""

from __future__ import annotations

from dataclasses import dataclass

from SAM2PropagateLib.texts import tr as _

POSITIVE, NEGATIVE, BOX, ABSENT, LOCK, RANGE = "positive", "negative", "box", "absent", "lock", "range"
SCRIBBLE, NEGATIVE_SCRIBBLE, LASSO = "scribble", "negativeScribble", "lasso"
CLICK_TOOLS = (POSITIVE, NEGATIVE)
SCRIBBLE_TOOLS = (SCRIBBLE, NEGATIVE_SCRIBBLE)
STROKE_TOOLS = (*SCRIBBLE_TOOLS, LASSO)
TOOLS = (POSITIVE, NEGATIVE, BOX, SCRIBBLE, LASSO, ABSENT, LOCK, RANGE)
"""Tools with a button. The scribble's button also gives the negative scribble."""

# Slicer's slice views and markups leave these keys free; they use B F G I R T V W Y Z, the digits, the
# arrows, Space, Delete, Escape and others. Q and S belong to Slicer's own Segment Editor module, not to the
# embedded one. An effect's keys (Draw: A and X) come first while it is on.
_KEYS = {
    POSITIVE: "A",
    NEGATIVE: "D",
    BOX: "O",
    SCRIBBLE: "S",
    LASSO: "Q",
    ABSENT: "E",
    LOCK: "L",
    RANGE: "K",
}
PROPAGATE_KEY, NEXT_DOUBTFUL_KEY, ADD_SEGMENT_KEY = "P", "N", "C"
ACTION_KEYS = (PROPAGATE_KEY, NEXT_DOUBTFUL_KEY, ADD_SEGMENT_KEY)


@dataclass(frozen=True)
class Tool:
    """A tool as the panel shows it.

    Attributes:
        name: one of `TOOLS`. key: switches it on while a slice view has the focus. title, help: for the user.
    """

    name: str
    key: str
    title: str
    help: str


def tools() -> tuple[Tool, ...]:
    """Returns all tools, in the order in which they are shown, in the user's language."""
    described = {
        POSITIVE: (_("Click +"), _("Click on what belongs to the structure.")),
        NEGATIVE: (_("Click −"), _("Click on what does not belong to the structure.")),
        BOX: (_("Box"), _("Drag a box around the structure on one slice.")),
        SCRIBBLE: (
            _("Scribble"),
            _("Drag along the structure; press the tool again to drag along what does not belong to it."),
        ),
        LASSO: (_("Lasso"), _("Drag around the structure; the line closes when you let go.")),
        ABSENT: (
            _("Absent here"),
            _("Click on a slice without the structure to end propagation there; click again to remove "
              "the mark."),
        ),
        LOCK: (
            _("Lock slice"),
            _("Click on a correct slice to keep it from changing; click again to unlock it."),
        ),
        RANGE: (_("Range"), _("Click on the first and on the last slice that may change.")),
    }  # fmt: skip
    return tuple(Tool(name, _KEYS[name], *described[name]) for name in TOOLS)


def toolOfKey(key: str) -> str | None:
    """Returns the tool of a key; None for other keys."""
    return next((name for name, own in _KEYS.items() if own == key.upper()), None)


def toolAfter(pressed: str | None, isOn: str | None) -> str | None:
    """Returns the tool that is on after `pressed` was pressed; `isOn`: the tool before, None for none."""
    if pressed == SCRIBBLE and isOn in SCRIBBLE_TOOLS:
        return NEGATIVE_SCRIBBLE if isOn == SCRIBBLE else None
    return None if pressed == isOn else pressed


def buttonOf(tool: str | None) -> str | None:
    """Returns the tool whose button shows as pressed while `tool` is on."""
    return SCRIBBLE if tool == NEGATIVE_SCRIBBLE else tool
