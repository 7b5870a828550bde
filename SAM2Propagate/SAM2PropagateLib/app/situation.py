"""Finds out which actions are possible now, and from which segments a run could start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from SAM2PropagateLib.app import keyframes, rules
from SAM2PropagateLib.app.events import Installed
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.strip import SliceStrip, strip
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import SegmentPrompts
from SAM2PropagateLib.texts import tr as _


class Situation:
    """Reads the state of all parts, and changes nothing.

    Args:
        installed: the models and packages of this computer.
    """

    def __init__(
        self,
        shared: Shared,
        installed: Installed,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._running = shared.running
        self._steps = shared.steps
        self._store = installed.store
        self._missing = installed.missing
        self._computer = installed.computer

    def conditions(self) -> rules.Conditions:
        """Returns the conditions that `rules.whyNot` decides by."""
        workspace, segmentID = self._selection.workspace, self._selection.segmentID
        said = workspace.prompts.segment(segmentID) if workspace is not None and segmentID else None
        chosen = self._chosen()
        isUsable = not (chosen.volumeProblem or chosen.segmentationProblem)
        conditions = replace(
            chosen,
            isRunning=self._running.isOn,
            canStart=isUsable and bool(self.startable()),
            hasPreview=workspace is not None and workspace.hasPreview,
            hasPrompts=said is not None and not said.is_empty,
            hasDoubt=isUsable and bool(self.strip().doubtful),
        )
        return self._steps.conditions(conditions)

    def _chosen(self) -> rules.Conditions:
        """Returns only the conditions that prompts depend on, as every click asks for them."""
        selection = self._selection
        workspace = selection.workspace
        return rules.Conditions(
            missing=tuple(self._missing()),
            volumeProblem=selection.volumeProblem,
            segmentationProblem=selection.segmentationProblem,
            modelProblem=self.modelProblem(),
            hasVolume=selection.volumeNode is not None,
            hasSegmentation=selection.segmentationNode is not None,
            hasSegment=workspace is not None and selection.segmentID in workspace.segmentIDs,
            makesSegment=selection.makeSegment is not None,
        )

    def whyNot(self, action: str) -> str:
        """Returns why an action of `rules` is not possible now; "" if it is."""
        return rules.whyNot(action, self._chosen() if action in rules.PROMPTING else self.conditions())

    def refuses(self, action: str) -> bool:
        """Tells whether an action is impossible now; if so, a message says why."""
        reason = self.whyNot(action)
        if reason:
            self._messages.sayForNow("warning", reason, "not_possible")
        return bool(reason)

    def lacksPackages(self) -> bool:
        """Tells whether packages are missing that a preview needs; if so, a message names them."""
        missing = tuple(self._missing())
        if missing:
            text = rules.whyNot(rules.PROMPT, rules.Conditions(missing=missing))
            self._messages.say("warning", text, "not_installed")
        return bool(missing)

    def modelProblem(self) -> str:
        """Returns why the chosen model cannot be loaded on the chosen computer; "" if no reason is known."""
        if self._computer is not None and self.isElsewhere:
            # Only the server knows what is there.
            return self._computer.problem
        model = self._selection.choices.model
        entry = next((one for one in self._store.models if one.name == model), None)
        if entry is None:
            path = Path(model).expanduser()
            if path.is_file():
                return ""
            return _(
                "There is no weights file “{path}”. Open another one, or choose a model from the list."
            ).format(path=path)
        if self._store.path_of(entry).is_file():
            return ""
        if entry.resource is not None:
            return _("The model that comes with the extension is missing. Reinstall the extension.")
        return _(
            "The model “{title}” is not on this computer yet. Download it, or choose another one."
        ).format(title=entry.title)

    @property
    def isElsewhere(self) -> bool:
        """Whether the model runs on a server."""
        return self._computer is not None and self._computer.isServer

    def startable(self) -> tuple[str, ...]:
        """Returns the segments that a run could start from, among the chosen ones."""
        workspace, chosen = self._selection.workspace, self._selection.segmentID
        if workspace is None:
            return ()
        allSegments = self._selection.choices.allSegments
        # Slices painted by hand start a run of the chosen segment only: in others they are finished work.
        startable = [
            one
            for one in workspace.segmentIDs
            if (allSegments or one == chosen) and workspace.promptStore.speaking(one).has_positive
        ]
        isOpen = chosen in workspace.segmentIDs and chosen not in startable
        if isOpen and any(one.prompt.mask.any() for one in workspace.edits(chosen)):
            startable.append(chosen)
        return tuple(startable)

    def strip(self, segmentID: str | None = None) -> SliceStrip:
        """Returns the slice strip of a segment; by default of the chosen one."""
        workspace, wanted = self._selection.workspace, segmentID or self._selection.segmentID
        if workspace is None or wanted not in workspace.segmentIDs:
            return SliceStrip()
        return _stripOf(workspace, wanted)


def _stripOf(workspace: Workspace, segmentID: str) -> SliceStrip:
    """Returns the slice strip of a segment."""
    geometry, axis = workspace.geometry, workspace.axis
    counting = workspace.promptStore.speaking(segmentID)
    frames = keyframes.framesOf(counting, geometry, axis)
    absent, locked = workspace.promptStore.marked(segmentID)
    own = {frames[one.id] for one in counting.masks if keyframes.isEdited(one) and one.id in frames}
    if workspace.handEdits.isKnown(segmentID):
        own |= {one.frame for one in workspace.edits(segmentID)}
    spoken = keyframes.placed(counting)
    inRange = None
    if counting.range is not None:
        resolved = resolve(
            SegmentPrompts(segmentID, range=counting.range), geometry, axis, need_positive=False
        )
        inRange = range(resolved.first, resolved.last + 1)
    return strip(
        geometry.frame_count(axis),
        workspace.keptFacts.facts(segmentID, geometry, axis),
        keyframes=keyframes.everyFrame(spoken, geometry, axis),
        edited=frozenset(own),
        absent=absent,
        locked=locked,
        preview=workspace.previewFrames(segmentID),
        inRange=inRange,
    )
