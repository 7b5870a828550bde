"""Keeps what is worked on: volume, segmentation, segment, choices, and the workspace that these open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAM2PropagateLib.app.events import Choices, WriterMaker
from SAM2PropagateLib.app.shown_preview import Drawer
from SAM2PropagateLib.app.workspace import Listeners, Workspace
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.scene.segments import checkSegmentation
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateLib.texts import tr as _


class Selection:
    """What the user has chosen. A caller that changes the nodes closes the old workspace first.

    Args:
        makeWriter, drawer: see `Workspace`.

    Attributes:
        volumeNode, segmentationNode: None for one that is not chosen.
        segmentID: the segment that prompts are for; "" if none is chosen.
        choices: how to propagate, and with which model.
        makeSegment: makes and chooses a missing segmentation and segment; None: nobody does.
        chooseSegment: called with a segment that is chosen here; None: nobody else needs to know.
        previewOpacity: the fill opacity of previews, 0 to 1; None: their default.
    """

    def __init__(self, makeWriter: WriterMaker | None = None, drawer: Drawer | None = None) -> None:
        self._makeWriter = makeWriter
        self._drawer = drawer
        self._workspace: Workspace | None = None
        self.volumeNode: Any = None
        self.segmentationNode: Any = None
        self.segmentID = ""
        self.choices = Choices()
        self.makeSegment: Callable[[], None] | None = None
        self.chooseSegment: Callable[[str], None] | None = None
        self.previewOpacity: float | None = None

    @property
    def workspace(self) -> Workspace | None:
        """The volume and segmentation at hand; None as long as not both can be used."""
        return self._workspace

    def open(self, listeners: Listeners) -> bool:
        """Opens the workspace if there is none and both nodes can be used; returns whether it did.

        Args:
            listeners: called when others change something in it.

        Raises:
            SAM2PropagateError: what the scene keeps with the nodes cannot be used.
        """
        volume, segmentation = self.volumeNode, self.segmentationNode
        if self._workspace is not None or volume is None or segmentation is None:
            return False
        if self.volumeProblem or self.segmentationProblem:
            return False
        self._workspace = Workspace(volume, segmentation, listeners, self._makeWriter, self._drawer)
        self._workspace.shown.opacity = self.previewOpacity
        return True

    def fillPreview(self, opacity: float) -> None:
        """Sets the fill opacity of this preview and of those to come, 0 to 1."""
        self.previewOpacity = float(opacity)
        if self._workspace is not None:
            self._workspace.shown.opacity = self.previewOpacity

    def takeWorkspace(self) -> Workspace | None:
        """Returns the workspace and forgets it; the caller closes it."""
        workspace, self._workspace = self._workspace, None
        return workspace

    @property
    def volumeProblem(self) -> str:
        """Why the chosen volume cannot be used; "" if it can, or none is chosen."""
        return _problem(volumeGeometry, self.volumeNode)

    @property
    def segmentationProblem(self) -> str:
        """Why the chosen segmentation cannot be used; "" if it can, or none is chosen."""
        return _problem(checkSegmentation, self.segmentationNode)

    def require(self) -> Workspace:
        """Returns the workspace.

        Raises:
            InputError: there is none.
        """
        if self._workspace is None:
            raise InputError(
                "nothing_selected",
                _("No volume and segmentation are chosen."),
                _("Choose a volume and a segmentation first."),
            )
        return self._workspace

    def choose(self, segmentID: str) -> None:
        """Works on another segment of the workspace from now on."""
        if self.chooseSegment is not None:
            self.chooseSegment(segmentID)
        self.segmentID = segmentID
        if self._workspace is not None:
            self._workspace.markups.choose(segmentID)

    def provideSegment(self) -> None:
        """Calls `makeSegment` if the chosen volume has no segmentation or segment yet."""
        workspace = self._workspace
        isMissing = workspace is None or self.segmentID not in workspace.segmentIDs
        if isMissing and self.volumeNode is not None and self.makeSegment is not None:
            self.makeSegment()

    def requireSegment(self) -> str:
        """Returns the chosen segment's ID.

        Raises:
            InputError: there is no workspace, or no segment of it is chosen.
        """
        if self.segmentID not in self.require().segmentIDs:
            raise InputError("no_segment", _("No segment is chosen."), _("Add or choose a segment first."))
        return self.segmentID


def _problem(check: Callable[[Any], Any], node: Any) -> str:
    if node is None:
        return ""
    try:
        check(node)
    except SAM2PropagateError as error:
        return str(error)
    return ""
