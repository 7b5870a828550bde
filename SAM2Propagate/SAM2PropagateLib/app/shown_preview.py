"""Shows a workspace's preview in the views, keeps it in the scene, and brings it back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.app.kept_facts import FactsOfFrames, factsAsList, factsOfList
from SAM2PropagateLib.app.moment import Record
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.frame_kinds import PREVIEW
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.scene.kept_preview import KeptFrame, KeptPreview, PackedFrame, ReadFrame, Stamps
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.seen_segment import Snapshot
from SAM2PropagateLib.scene.smooth import FrameDetail, widened
from SAM2PropagateLib.texts import tr as _

if TYPE_CHECKING:
    from SAM2PropagateLib.app.workspace import Workspace

BoolArray = npt.NDArray[np.bool_]
# Draws frames of a volume along an axis.
Drawer = Callable[[VolumeGeometry, int, Collection[int]], None]


@dataclass(frozen=True, eq=False)
class Merged:
    """A frame of the preview, merged with the user's edits under it.

    Attributes:
        mask: (rows, columns) bool. detail: the edge of the preview's mask, and where that may be written.
    """

    mask: BoolArray
    detail: FrameDetail


class WorkspacePreview:
    """The masks of a workspace that are shown but not yet in the segments.

    Args:
        workspace: has the segments.
        drawer: draws the slice views when the preview was written; None: all views are drawn.
    """

    def __init__(self, workspace: Workspace, drawer: Drawer | None) -> None:
        self._workspace = workspace
        self._drawer = drawer
        self._layer: PreviewLayer | None = None
        self._opacity: float | None = None
        self._kept = KeptPreview(workspace.segmentationNode, workspace.volumeNode)

    def close(self) -> None:
        """Removes the preview from the views. Call `keep` first to have it back later."""
        if self._layer is not None:
            self._layer.close()
        self._layer = None

    # --- in the views

    @property
    def layer(self) -> PreviewLayer:
        """The preview along the present axis, made when it is needed."""
        if self._layer is None:
            workspace, axis, drawer = self._workspace, self._workspace.axis, self._drawer
            redraw = None if drawer is None else lambda frames: drawer(workspace.geometry, axis, frames)
            self._layer = PreviewLayer(workspace.segmentationNode, workspace.volumeNode, axis, redraw)
            self._layer.fill(self._opacity)
        return self._layer

    @property
    def node(self) -> Any:
        """The preview's segmentation node; None as long as there is none."""
        return self._layer.node if self._layer is not None else None

    @property
    def opacity(self) -> float | None:
        """The preview's fill opacity, 0 to 1; None: the default."""
        return self._opacity

    @opacity.setter
    def opacity(self, opacity: float | None) -> None:
        """Sets it, also of the preview that is shown."""
        self._opacity = opacity
        if self._layer is not None:
            self._layer.fill(opacity)

    @property
    def isEmpty(self) -> bool:
        """Whether there is no mask in it."""
        # The segmentation may be gone with its scene: only a layer may ask it.
        return self._layer is None or not any(
            self.frames(segmentID) for segmentID in self._workspace.segmentIDs
        )

    def frames(self, segmentID: str) -> frozenset[int]:
        """Returns the frames of a segment that are in the preview."""
        return self._layer.frames(segmentID) if self._layer is not None else frozenset()

    def restyle(self) -> None:
        """Gives the preview the names, colors and visibility that the segments have now."""
        if self._layer is not None and self._workspace.isInScene:
            self._layer.restyle()

    def follow(self) -> None:
        """Keeps the preview on the volume's voxels."""
        if self._layer is not None:
            self._layer.follow()

    @property
    def isResized(self) -> bool:
        """Whether the volume has another size now than when the preview was made.

        Raises:
            InputError: the volume cannot be used.
        """
        layer = self._layer
        return layer is not None and layer.shape_ijk != self._workspace.geometry.shape_ijk

    def drop(self, hadSteps: bool) -> InputError | None:
        """Drops the preview, as the volume holds another image now; returns what to tell the user, if
        anything was lost.

        Args:
            hadSteps: undo steps were dropped, too.
        """
        workspace = self._workspace
        held = [segmentID for segmentID in workspace.segmentIDs if self.frames(segmentID)]
        workspace.handEdits.lose(held)
        for segmentID in held:
            workspace.keptFacts.dropPreview(segmentID)
        self.close()
        self._kept.remove()
        if held:
            return self.otherImage()
        if not hadSteps:
            return None
        return InputError(
            "steps_gone",
            _("“{volume}” holds another image now. What was done before cannot be undone.").format(
                volume=workspace.volumeNode.GetName()
            ),
        )

    def otherImage(self) -> InputError:
        """Returns the error of a preview of another image than the volume holds now."""
        return InputError(
            "other_image",
            _("“{volume}” holds another image now. The preview does not fit it and was dropped.").format(
                volume=self._workspace.volumeNode.GetName()
            ),
            _("Propagate again."),
        )

    def ofEarlierImage(self) -> InputError:
        """Returns the error of masks that arrive for another image than the volume holds now."""
        return InputError(
            "other_image",
            _("“{volume}” holds another image now. Masks of the earlier one were left out.").format(
                volume=self._workspace.volumeNode.GetName()
            ),
            _("Propagate again."),
        )

    def dropOtherAxis(self) -> None:
        """Drops a preview along another axis than the present one."""
        if self._layer is not None and self._layer.axis != self._workspace.axis:
            self.close()

    def takeOut(self, segmentID: str, frames: Collection[int], tidies: bool = True) -> None:
        """Removes frames of a segment from the preview; `layer.refresh` draws the views.

        Args:
            tidies: pass False if `tidy` comes later.
        """
        if self.frames(segmentID) <= set(frames):
            self.layer.clear(segmentID, tidies)
        for frame in self.frames(segmentID) & set(frames):
            self.layer.erase(segmentID, frame, refresh=False)

    # --- masks

    def maskNow(self, segmentID: str, frame: int) -> BoolArray:
        """Returns the mask that the user sees: the preview's if there is one, else the segment's."""
        shown = self._layer.mask(segmentID, frame) if self._layer is not None else None
        if shown is not None:
            return shown
        return self._workspace.reader(segmentID).frame(frame, self._workspace.axis)

    def maskToCorrect(self, segmentID: str, frame: int) -> BoolArray:
        """Returns the mask that new prompts on a frame correct: a run's. A preview of removed prompts does
        not count."""
        workspace = self._workspace
        facts = workspace.keptFacts.facts(segmentID, workspace.geometry, workspace.axis).get(frame)
        if facts is None or facts.kind != PREVIEW:
            return self.maskNow(segmentID, frame)
        return workspace.reader(segmentID).frame(frame, workspace.axis)

    def painted(self, segmentID: str) -> dict[int, Merged]:
        """Returns the frames of the preview that the user edited the segment under. Pixels that the edit
        changed are as the user left them; the others are the preview's."""
        workspace, frames = self._workspace, self.frames(segmentID)
        found: dict[int, Merged] = {}
        for one in workspace.edits(segmentID) if frames else ():
            base = workspace.underlay.base((segmentID, one.frame))
            # The volume's size may have changed under the preview.
            if (
                one.frame not in frames
                or base is None
                or base.geometry.shape_ijk != workspace.geometry.shape_ijk
            ):
                continue
            now = workspace.tracker.snapshot(segmentID)
            changed = now.changedPixels(base, one.frame, workspace.axis)
            shown = self.layer.mask(segmentID, one.frame)
            # The scene keeps a base in the volume's pixels, not in the voxels of a segment's own grid.
            isUnknown = now.own is not None and base.own is None
            if shown is None or not (isUnknown or changed.any()):
                continue
            where = widened(shown != base.frame(one.frame, workspace.axis)) & ~changed
            edge = self.layer.edge(segmentID, one.frame)
            found[one.frame] = Merged(np.where(changed, one.prompt.mask, shown), FrameDetail(edge, where))
        return found

    # --- kept in the scene

    def keep(self, tidies: bool = True) -> bool:
        """Keeps the present preview in the scene; returns whether there is one.

        While the volume cannot be used, the preview that was kept before stays.

        Args:
            tidies: pass False if `tidy` comes later.
        """
        try:
            stamps, read = self._framesToKeep()
        except InputError:
            return not self.isEmpty
        axis = self._layer.axis if self._layer is not None else 0
        self._kept.put(axis, stamps, read, tidies)
        return bool(stamps)

    def prepareKept(self, isEnough: Callable[[], bool]) -> bool:
        """Packs frames of the preview for `keep` until `isEnough` returns True: all of them at the end of a
        run would block Slicer. Returns whether there may be more to do.
        """
        with contextlib.suppress(InputError):
            return self._kept.prepare(*self._framesToKeep(), isEnough)
        return False

    def _framesToKeep(self) -> tuple[Stamps, ReadFrame]:
        """Returns a stamp for each frame of the preview, which changes with the frame, and a function that
        reads one.

        Raises:
            InputError: the volume cannot be used.
        """
        workspace, layer, geometry = self._workspace, self._layer, self._workspace.geometry
        written = layer.stamps() if layer is not None else {}
        present = set(workspace.segmentIDs)
        # Comparing a segment takes a moment: once for all of its frames.
        snapshots = {name: workspace.tracker.snapshot(name) if name in present else None for name in written}
        facts: dict[str, FactsOfFrames] = {}
        hashes: dict[str, Mapping[int, str]] = {}

        def stamp(segmentID: str, frame: int, write: int) -> tuple[int, int | None, int | None]:
            base, now = workspace.underlay.base((segmentID, frame)), snapshots[segmentID]
            return (
                write,
                None if base is None else base.number,
                None if now is None or now.own is None else now.number,
            )

        def seen(segmentID: str, frame: int, axis: int) -> str | None:
            base, now = workspace.underlay.base((segmentID, frame)), snapshots[segmentID]
            if now is None or now.own is None or base is None:
                return None
            if base.own is None or now.changedPixels(base, frame, axis).any():
                return ""
            if segmentID not in hashes:
                hashes[segmentID] = workspace.tracker.hashes(segmentID, axis)
            return hashes[segmentID].get(frame, "-")

        def read(segmentID: str, frame: int) -> KeptFrame:
            assert layer is not None
            mask = layer.mask(segmentID, frame)
            if segmentID not in facts:
                facts[segmentID] = workspace.keptFacts.facts(segmentID, geometry, layer.axis)
            own = facts[segmentID].get(frame)
            base = workspace.underlay.base((segmentID, frame))
            assert mask is not None
            return KeptFrame(
                mask,
                factsAsList(own) if own is not None else None,
                # The segment's own mask is kept, too, so that later edits are found when the preview returns.
                base.frame(frame, layer.axis) if base is not None else None,
                layer.edge(segmentID, frame),
                seen(segmentID, frame, layer.axis),
            )

        stamps = {
            name: {frame: stamp(name, frame, write) for frame, write in frames.items()}
            for name, frames in written.items()
        }
        return stamps, read

    def showKept(self) -> None:
        """Shows the preview that `keep` kept, also in a scene that was saved and loaded since.

        Raises:
            InputError: `bad_preview` (it cannot be read), `other_image` (the volume holds another image).
        """
        workspace = self._workspace
        try:
            kept = self._kept.get()
        except InputError:
            self._kept.remove()
            raise
        if kept is None:
            return
        if not kept.fits:
            self._kept.remove()
            raise self.otherImage()
        if kept.axis != workspace.axis:
            workspace.setAxis(kept.axis, isFixed=False)
        for segmentID, frames in kept.frames.items():
            if segmentID in workspace.segmentIDs:
                self._showKept(segmentID, frames, kept.axis)
        self.layer.refresh()

    def _showKept(
        self,
        segmentID: str,
        frames: Mapping[int, KeptFrame] | Mapping[int, PackedFrame],
        axis: int,
        isThere: bool = False,
    ) -> None:
        """Shows frames that were kept.

        Args:
            isThere: their masks are in the preview already.
        """
        workspace, geometry = self._workspace, self._workspace.geometry
        edited = self._editedFrames(segmentID)
        hashes = workspace.tracker.hashes(segmentID, axis)
        bases: dict[int, Snapshot | None] = {}
        for frame, one in frames.items():
            if not isThere:
                self.layer.write(segmentID, frame, one.mask, refresh=False, edge=one.edge)
            # Commits and their undoing change segments, too, but are not edits.
            isEdited = frame in edited and (one.seen is None or one.seen != hashes.get(frame, "-"))
            under = one.under if isEdited else None
            bases[frame] = None if under is None else Snapshot.ofFrame(under, frame, axis, geometry)
            workspace.keptFacts.dropPreview(segmentID, frame)
            if one.facts is not None:
                facts = factsOfList(one.facts)
                workspace.keptFacts.putPreview(segmentID, frame, facts, geometry, axis)
        workspace.underlay.put(segmentID, bases)

    def _editedFrames(self, segmentID: str) -> set[int]:
        """Returns the frames of a segment that the user edited since the last run; none if they cannot be
        read, which the next look for edits reports."""
        try:
            return {one.frame for one in self._workspace.edits(segmentID)}
        except SAM2PropagateError:
            return set()

    # --- undo

    def records(self) -> dict[SegmentFrame, Record]:
        """Returns the present preview, for `showRecords`.

        Raises:
            InputError: the volume cannot be used.
        """
        return self._kept.records(*self._framesToKeep())

    def prepareRecords(self, records: Mapping[SegmentFrame, Record | None], axis: int | None) -> None:
        """Makes ahead what `showRecords` and `keep` need in scene and views; it takes as long as they do."""
        workspace = self._workspace
        shown = {key[0] for key, record in records.items() if record is not None} & set(workspace.segmentIDs)
        if shown and axis == workspace.axis:
            self.layer.prepare(sorted(shown))
            self._kept.prepareNode()

    def tidy(self) -> None:
        """Removes what is empty from scene and views, after calls with `tidies=False`."""
        if self._layer is not None:
            self._layer.tidy()
        self._kept.tidy()

    def showRecords(
        self, records: Mapping[SegmentFrame, Record | None], axis: int | None, tidies: bool = True
    ) -> None:
        """Shows earlier frames of the preview; None for one that was not in it.

        Args:
            axis: of these frames. If the present preview is along another one, they cannot be shown.
            tidies: pass False if `tidy` comes later.
        """
        workspace = self._workspace
        there = {key: one for key, one in records.items() if key[0] in workspace.segmentIDs}
        shown: dict[str, dict[int, Record]] = {}
        gone: dict[str, set[int]] = {}
        for (segmentID, frame), record in there.items():
            if frame in self.frames(segmentID) or record is not None:
                # The worker does not know that these masks are gone.
                workspace.handEdits.undone.add(segmentID)
            if record is not None:
                shown.setdefault(segmentID, {})[frame] = record
            elif frame in self.frames(segmentID):
                gone.setdefault(segmentID, set()).add(frame)
        for segmentID, frames in gone.items():
            self.takeOut(segmentID, frames, tidies)
            for frame in frames:
                workspace.keptFacts.dropPreview(segmentID, frame)
        if shown and axis is not None and axis != workspace.axis and self.isEmpty:
            workspace.setAxis(axis, isFixed=False)
        if shown and axis == workspace.axis:
            for segmentID, masks in shown.items():
                packed = {frame: PackedFrame(record) for frame, record in masks.items()}
                self._showKept(segmentID, packed, workspace.axis, self._bringBack(segmentID, masks))
        self.layer.refresh()

    def _bringBack(self, segmentID: str, records: Mapping[int, Record]) -> bool:
        """Puts back masks that were taken out of the preview as a whole; False if these are not they."""
        stamps = self._kept.stamps(segmentID, records)
        if stamps is None:
            return False
        # A stamp of a frame begins with the number of its writing.
        return self.layer.bringBack(segmentID, {frame: one[0] for frame, one in stamps.items()})
