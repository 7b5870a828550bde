"""Opens volumes in the worker: on first use, and again when the image has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.move import moved
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene.volume import displayWindow, ownGeometry, readVolume, volumeGeometry
from SAM2PropagateLib.worker.session import WorkerSession


@dataclass
class _OpenedVolume:
    scalars: Any
    time: int
    geometry: VolumeGeometry
    window: Window


class OpenVolumes:
    """Knows which volumes are open in a worker's session, and in which state.

    Args:
        session: where they are opened.
    """

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._open: dict[tuple[str, int], _OpenedVolume] = {}
        # Volumes as the run under way sees them, if they were opened again since it began.
        self._ofRun: dict[tuple[str, int], _OpenedVolume] = {}

    @staticmethod
    def name(volumeNode: Any, axis: int) -> str:
        """Returns the name of a volume's frames in the session."""
        return f"{volumeNode.GetID()}/{AXIS_NAMES[axis]}"

    def ensure(self, volumeNode: Any, axis: int, *, isBusy: bool = False) -> str:
        """Opens the volume with its present image, spacing, window and level; returns the name of its frames.

        A volume that only moved stays open: for the model nothing has changed. `placed` moves prompts with
        it.

        Args:
            isBusy: whether a run uses the frames. Then the window stays: a new one, and all requests after
                it, would wait for the run's end.

        Raises:
            InputError: the volume cannot be segmented. SAM2PropagateError: no worker can be started.
        """
        name = self.name(volumeNode, axis)
        image = volumeNode.GetImageData()
        scalars: Any = image.GetPointData().GetScalars() if image is not None else None
        known = self._open.get((volumeNode.GetID(), axis))
        if not isBusy:
            self._ofRun.clear()
        same = known is not None and scalars is known.scalars and scalars.GetMTime() == known.time
        if known is not None and same and _looksAlike(volumeGeometry(volumeNode), known.geometry):
            window = displayWindow(volumeNode)
            if window != known.window and not isBusy:
                self._session.set_window(name, window)
                known.window = window
            return name
        if isBusy and known is not None:
            self._ofRun.setdefault((volumeNode.GetID(), axis), known)
        volume = readVolume(volumeNode)
        own = ownGeometry(volumeNode)
        geometry = own if _looksAlike(volume.geometry, own) else volume.geometry
        other = next(
            (
                self.name(volumeNode, axisOf)
                for (nodeId, axisOf), one in self._open.items()
                if nodeId == volumeNode.GetID()
                and axisOf != axis
                and one.scalars is scalars
                and one.time == scalars.GetMTime()
            ),
            None,
        )
        self._session.open_volume(
            name, volume.array, geometry, axis=axis, window=volume.window, voxels_of=other
        )
        self._open[volumeNode.GetID(), axis] = _OpenedVolume(
            scalars, scalars.GetMTime(), geometry, volume.window
        )
        return name

    def placed(self, volumeNode: Any, axis: int, prompts: PromptSet) -> PromptSet:
        """Returns prompts of the volume's present space on the same voxels of the volume as it was opened.

        Raises:
            InputError: the volume cannot be used any more.
        """
        opened, own = self._open[volumeNode.GetID(), axis].geometry, ownGeometry(volumeNode)
        if opened == own:
            return prompts
        return moved(prompts, np.asarray(opened.ijk_to_ras @ own.ras_to_ijk_matrix, dtype=np.float64))

    def fits(self, volumeNode: Any, axis: int, isOfRun: bool) -> bool:
        """Tells whether masks of a volume, as it was opened, are still on its voxels: it has the same size,
        and the same voxels or the same place.

        Args:
            isOfRun: they are of a run, which may have been asked for before the volume was last opened.

        Raises:
            InputError: the volume cannot be used any more.
        """
        key = (volumeNode.GetID(), axis)
        opened = (self._ofRun.get(key) if isOfRun else None) or self._open.get(key)
        own, world = ownGeometry(volumeNode), volumeGeometry(volumeNode)
        if opened is None or opened.geometry.shape_ijk != own.shape_ijk:
            return False
        scalars = volumeNode.GetImageData().GetPointData().GetScalars()
        isSame = scalars is opened.scalars and scalars.GetMTime() == opened.time
        return isSame or any(np.allclose(opened.geometry.ijk_to_ras, one.ijk_to_ras) for one in (own, world))

    def isOpen(self, name: str) -> bool:
        """Tells whether the session has frames of this name."""
        return name in self._session.volumes

    def forget(self, volumeId: str | None = None) -> None:
        """Closes the frames of one volume, or all, and frees their shared memory."""
        for nodeId, axis in [key for key in self._open if volumeId in (None, key[0])]:
            del self._open[nodeId, axis]
            self._ofRun.pop((nodeId, axis), None)
            name = f"{nodeId}/{AXIS_NAMES[axis]}"
            if self.isOpen(name):
                self._session.close_volume(name)


def _looksAlike(geometry: VolumeGeometry, other: VolumeGeometry) -> bool:
    """Tells whether two volumes differ at most by a rigid motion, which the model cannot see."""
    if geometry.shape_ijk != other.shape_ijk:
        return False
    one, two = (axes.T @ axes for axes in (geometry.ijk_to_ras[:3, :3], other.ijk_to_ras[:3, :3]))
    return bool(np.allclose(one, two, rtol=0, atol=1e-5 * float(np.abs(one).max())))
