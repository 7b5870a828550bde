"""Holds what all parts of the work share: the selection, the present run, undo steps, messages, signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from SAM2PropagateLib.app.events import FrameArrived, Progress, RunEnd, UserMessage
from SAM2PropagateLib.app.run_under_way import RunUnderWay
from SAM2PropagateLib.app.selection import Selection
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.app.steps import Steps
from SAM2PropagateLib.app.turns import Turns
from SAM2PropagateLib.app.user_messages import UserMessages


@dataclass(frozen=True)
class Signals:
    """The controller's signals; see `Controller`."""

    frameArrived: Signal[FrameArrived] = field(default_factory=Signal)
    progress: Signal[Progress] = field(default_factory=Signal)
    finished: Signal[RunEnd] = field(default_factory=Signal)
    message: Signal[UserMessage] = field(default_factory=Signal)
    recovered: Signal[None] = field(default_factory=Signal)
    wentOn: Signal[None] = field(default_factory=Signal)
    applying: Signal[None] = field(default_factory=Signal)
    changed: Signal[None] = field(default_factory=Signal)


class Shared:
    """What a controller gives to all of its parts; there is one per controller.

    Args:
        selection: what is worked on.
        editName: see `Editing`.

    Attributes:
        messages: says things to the user. running: the run under way, if there is one.
        turns: does long work in turns.
        steps: makes undo steps. signals: emitted by the parts.
    """

    def __init__(self, selection: Selection, editName: Callable[[], str]) -> None:
        self.signals = Signals()
        self.selection = selection
        self.messages = UserMessages(self.signals.message, self.signals.recovered, self.signals.wentOn)
        self.running = RunUnderWay()
        self.turns = Turns()
        self.steps = Steps(selection, self.running, self.turns, editName)
