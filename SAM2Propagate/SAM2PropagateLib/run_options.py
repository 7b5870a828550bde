"""The options of a run as one value, from the panel or the command line through the worker to the engine.

A new option is a field of `RunOptions` and its use; everything between passes the value on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from SAM2PropagateLib.errors import InputError, shortened
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.texts import text as _

BOTH, FORWARD, BACKWARD = "both", "forward", "backward"
DIRECTIONS = (BOTH, FORWARD, BACKWARD)


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out.

    Attributes:
        direction: `BOTH`, `FORWARD` (to higher frame indices) or `BACKWARD`.
        reach: leave frames alone that are further than this from every keyframe; None: no limit.
        everything: write every frame again, also those whose keyframes have not changed since the last run;
            finished ones are not computed again. A segment keeps the window of its last run.
        anew: compute and write every frame again, in the present window.
        edges: report how each mask's edge runs between the pixels, if known.
        all_axes: carry finished masks along the other two axes, too, and fuse the three.
        filled: per segment the frames with masks of earlier runs, also of those that the session does not
            know. They are emptied beyond an absent mark.

    Raises:
        InputError: `unknown_direction`, `bad_reach`, `bad_run_option`.
    """

    direction: str = BOTH
    reach: int | None = None
    everything: bool = False
    anew: bool = False
    edges: bool = False
    all_axes: bool = False
    filled: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise InputError(
                "unknown_direction",
                _("There is no direction “{direction}”.").format(direction=self.direction),
                _("Use one of: {names}.").format(names=", ".join(DIRECTIONS)),
            )
        if self.reach is not None and not (type(self.reach) is int and self.reach >= 1):
            raise InputError(
                "bad_reach",
                _("The reach must be at least 1 slice, not {reach}.").format(reach=self.reach),
                _("Give 1 or more, or none."),
            )
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(one.default, bool) and not isinstance(value, bool):
                raise InputError(
                    "bad_run_option",
                    _("The option “{name}” of a run cannot be {value}.").format(
                        name=one.name, value=_shown(value)
                    ),
                    _("Give True or False."),
                )
        if not _are_frames(self.filled):
            raise InputError(
                "bad_run_option",
                _("The option “{name}” of a run cannot be {value}.").format(
                    name="filled", value=_shown(self.filled)
                ),
                _("Give frame numbers for each segment's name."),
            )
        object.__setattr__(self, "filled", {name: tuple(one) for name, one in self.filled.items()})

    @property
    def writes_all(self) -> bool:
        """Whether masks that are up to date are written, too."""
        return self.everything or self.anew

    def to_wire(self) -> dict[str, Any]:
        """Return the options as JSON-able values."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_wire(cls, values: Any) -> RunOptions:
        """Return the options that `to_wire` gave.

        Raises:
            InputError: as for the class; also `bad_run_option` for a name that is no option.
        """
        if not isinstance(values, Mapping):
            raise InputError(
                "bad_run_option",
                _("The options of a run must have names; {value} has none.").format(value=_shown(values)),
                _("Both ends must be of the same version of SAM2 Propagate."),
            )
        names = [one.name for one in fields(cls)]
        for name in values:
            if name not in names:
                raise InputError(
                    "bad_run_option",
                    _("A run has no option “{name}”.").format(name=_shown(name)),
                    _("Use one of: {names}.").format(names=", ".join(names)),
                )
        return cls(**values)


@dataclass(frozen=True)
class RunRequest:
    """One propagation, as the engine is asked for it.

    Attributes:
        segments: the prompts on frames; all segments are carried in one pass.
        options: of the run.
    """

    segments: tuple[ResolvedSegment, ...]
    options: RunOptions = field(default_factory=RunOptions)


def _are_frames(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(frames, list | tuple)
        and all(type(frame) is int and frame >= 0 for frame in frames)
        for name, frames in value.items()
    )


def _shown(value: Any) -> str:
    return shortened(value if isinstance(value, str) else repr(value))
