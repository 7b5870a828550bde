"""Makes undo steps: one of everything within `Steps.step`, and one of every edit made elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from SAM2PropagateLib.app import keyframes, rules
from SAM2PropagateLib.app.history import Step
from SAM2PropagateLib.app.moment import Known, Moment, PromptState, Record
from SAM2PropagateLib.app.run_under_way import RunUnderWay
from SAM2PropagateLib.app.selection import Selection
from SAM2PropagateLib.app.turns import Turns
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene import undo_states
from SAM2PropagateLib.scene.kept_preview import isSameFrame
from SAM2PropagateLib.texts import tr as _

if TYPE_CHECKING:
    from SAM2PropagateLib.app.workspace import Workspace


@dataclass(frozen=True)
class WorkState:
    """The state of the work at one moment.

    Attributes:
        prompts: all of them. masks: the number of the segmentation's state. known: of these masks.
        preview: its frames. asked: frames whose previews are awaited.
        segments: their IDs. chosen: the chosen one.
    """

    prompts: PromptState
    masks: int
    known: Known
    preview: Mapping[SegmentFrame, Record]
    asked: frozenset[SegmentFrame]
    segments: tuple[str, ...]
    chosen: str


@dataclass
class Made:
    """A step that is being made.

    Attributes:
        since: the state before. step: None as long as nothing has changed.
    """

    since: WorkState
    step: Step[Moment] | None = None


class Steps:
    """Makes undo steps of what is done in the workspace at hand.

    Args:
        running: notes the preview before anything is done.
        turns: finishes earlier work before anything else is done.
        editName: returns what the user edits with, as the name of a step; "" if unknown.

    Attributes:
        turns: as given.
    """

    def __init__(
        self, selection: Selection, running: RunUnderWay, turns: Turns, editName: Callable[[], str]
    ) -> None:
        self.turns = turns
        self._selection = selection
        self._running = running
        self._editName = editName
        self._isOpen = False
        # The last step that is an edit of the user: merging it with a preview extends it.
        self._edit: Made | None = None

    def stateIfUsable(self) -> WorkState | None:
        """Returns the present state; None without a workspace, or while the volume cannot be used."""
        with contextlib.suppress(SAM2PropagateError):  # reported when the volume is needed
            return self.state()
        return None

    def state(self) -> WorkState | None:
        """Returns the present state; None without a workspace.

        Raises:
            SAM2PropagateError: the volume or the segmentation cannot be used now.
        """
        workspace = self._selection.workspace
        if workspace is None or not workspace.isInScene:
            return None
        with contextlib.suppress(SAM2PropagateError):  # reported when the volume is needed
            # Prompts of a step are those of the volume's present place.
            workspace.settle()
        preview = workspace.shown.records()
        self._running.see(preview)
        return WorkState(
            workspace.promptStore.state,
            workspace.states.at,
            Known(workspace.tracker.record, workspace.keptFacts.allApplied),
            preview,
            frozenset(workspace.underlay.asked),
            workspace.segmentIDs,
            self._selection.segmentID,
        )

    @contextlib.contextmanager
    def step(
        self,
        name: str,
        *,
        before: PromptSet | None = None,
        preview: Mapping[SegmentFrame, Record | None] | None = None,
        onto: Made | None = None,
    ) -> Iterator[Made | None]:
        """Makes one step of what is done within it. Within another step it is part of that.

        Args:
            name: of the step.
            before: the earlier prompts, if they have changed already.
            preview: earlier frames of the preview, if they have changed already.
            onto: the step that this one extends, unless another was made since.
        """
        if self._isOpen:
            yield None
            return
        self.turns.finish()
        self.noteEdits()
        since = self._begun()
        if since is None:
            yield None
            return
        if before is not None:
            since = replace(since, prompts=(before, since.prompts[1]))
        if preview:
            kept = {key: one for key, one in {**since.preview, **preview}.items() if one is not None}
            since = replace(since, preview=kept)
        made, workspace = Made(since), self._selection.workspace
        self._isOpen = True
        try:
            yield made
        finally:
            self._isOpen = False
            if workspace is not None and workspace is self._selection.workspace:
                self._close(workspace, name, made, onto)

    def _begun(self) -> WorkState | None:
        workspace = self._selection.workspace
        if workspace is not None and workspace.isInScene and not workspace.states.isKept:
            workspace.states.keep()
        now = self.stateIfUsable()
        if workspace is not None and now is not None and not self._running.isOn:
            workspace.handEdits.noteAgreed(now.preview, compares=False)
        return now

    @contextlib.contextmanager
    def merging(self, keys: Iterable[SegmentFrame]) -> Iterator[None]:
        """Adds what is done within it to the last step, if this is an edit of the user.

        Otherwise it is a step of its own. Undoing that brings no preview back over the edits: they would be
        merged again at once, as a new step that ends Redo.

        Args:
            keys: the frames whose edits are merged into the preview.
        """
        self.noteEdits()
        edit, workspace = self._edit, self._selection.workspace
        isLast = (
            edit is not None
            and edit.step is not None
            and workspace is not None
            and workspace.history.last is edit.step
        )
        name = edit.step.name if isLast and edit and edit.step else self._named(undo_states.EDITED)
        earlier = None if isLast else dict.fromkeys(keys)
        with self.step(name, preview=earlier, onto=edit if isLast else None):
            yield

    def noteEdits(self) -> bool:
        """Makes a step of the edits in the segments since the last step; returns whether there were any."""
        workspace = self._selection.workspace
        if self._isOpen or workspace is None or not workspace.states.isChanged:
            return False
        since = self.stateIfUsable()
        change = workspace.states.keep()
        if change and since is not None:
            step = workspace.history.add(self._named(change), Moment(masks=since.masks, known=since.known))
            self._edit = Made(since, step)
        return bool(change)

    # --- what can be undone

    @property
    def undoName(self) -> str:
        """The name of the step that Undo takes back; "" if there is none."""
        workspace = self._selection.workspace
        if workspace is None:
            return ""
        if change := workspace.states.change:
            return self._named(change)
        return workspace.history.last.name if workspace.history.last is not None else ""

    @property
    def redoName(self) -> str:
        """The name of the step that Redo brings back; "" if there is none."""
        workspace = self._selection.workspace
        if workspace is None or workspace.states.change or workspace.history.next is None:
            return ""
        return workspace.history.next.name

    def conditions(self, conditions: rules.Conditions) -> rules.Conditions:
        """Returns a copy with the steps that can be undone and redone."""
        workspace = self._selection.workspace
        isNoted = workspace is not None and not workspace.states.change
        return replace(
            conditions,
            isApplying=self.turns.isWorking,
            undoName=self.undoName,
            redoName=self.redoName,
            undoesPrompts=isNoted and workspace is not None and _isPrompts(workspace.history.last),
            redoesPrompts=isNoted and workspace is not None and _isPrompts(workspace.history.next),
        )

    # --- what changed

    def _close(self, workspace: Workspace, name: str, made: Made, onto: Made | None) -> None:
        if workspace.states.isChanged:
            workspace.states.keep()
        now = self.stateIfUsable()
        if now is None:
            return
        history = workspace.history
        if onto is not None and onto.step is not None and history.last is onto.step:
            onto.step = history.replace(onto.step, name, _between(workspace, onto.since, now))
            made.step = onto.step
            return
        moment = _between(workspace, made.since, now)
        if not moment.isEmpty:
            made.step = history.add(name, moment)

    def _named(self, change: str) -> str:
        names = {
            undo_states.ADDED: _("add segment"),
            undo_states.REMOVED: _("remove segment"),
            undo_states.RENAMED: _("rename segment"),
            undo_states.RECOLORED: _("change color"),
        }
        return names.get(change) or self._editName() or _("edit")


def _between(workspace: Workspace, since: WorkState, now: WorkState) -> Moment:
    """Returns what brings back the first of two moments from the second."""
    hasNewPrompts = since.prompts != now.prompts
    keys = {
        key
        for key in since.preview.keys() | now.preview.keys()
        if not isSameFrame(since.preview.get(key), now.preview.get(key))
    }
    if hasNewPrompts:
        # Their previews are still awaited.
        before, after = since.prompts[0], now.prompts[0]
        for name in {*before.names, *after.names}:
            frames = keyframes.changedFrames(
                before.segment(name), after.segment(name), workspace.geometry, workspace.axis
            )
            keys |= {(name, frame) for frame in frames}
    return Moment(
        since.prompts if hasNewPrompts else None,
        since.masks if since.masks != now.masks else None,
        since.known if since.masks != now.masks else None,
        {key: since.preview.get(key) for key in keys},
        since.asked & keys,
        workspace.axis,
        since.chosen if set(since.segments) != set(now.segments) else None,
    )


def _isPrompts(step: Step[Moment] | None) -> bool:
    return step is not None and step.moment.prompts is not None and step.moment.masks is None
