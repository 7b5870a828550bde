"""The volumes as the worker has them: opened on first use, opened anew when the image has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.scene.volume import displayWindow, readVolume, volumeGeometry
from SAM2PropagateLib.worker.session import WorkerSession


@dataclass
class _Open:
    scalars: Any
    time: int
    geometry: VolumeGeometry
    window: Window


class OpenVolumes:
    """Which volumes are open in a worker's session, and in which state of theirs.

    Args:
        session: where they are opened.
    """

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._open: dict[tuple[str, int], _Open] = {}

    @staticmethod
    def name(volumeNode: Any, axis: int) -> str:
        """The name of a volume's frames in the session."""
        return f"{volumeNode.GetID()}/{'ijk'[axis]}"

    def ensure(self, volumeNode: Any, axis: int, *, isBusy: bool = False) -> str:
        """The name of the volume's frames, opened as they are now: image, place, window and level.

        Args:
            isBusy: a run goes over them: the window then stays as it is, as a new one would wait for the
                run's end and everything else with it.

        Raises:
            InputError: the volume cannot be segmented. SAM2PropagateError: no worker can be started.
        """
        name = self.name(volumeNode, axis)
        image = volumeNode.GetImageData()
        scalars: Any = image.GetPointData().GetScalars() if image is not None else None
        known = self._open.get((volumeNode.GetID(), axis))
        same = known is not None and scalars is known.scalars and scalars.GetMTime() == known.time
        if known is not None and same and volumeGeometry(volumeNode) == known.geometry:
            window = displayWindow(volumeNode)
            if window != known.window and not isBusy:
                self._session.set_window(name, window)
                known.window = window
            return name
        volume = readVolume(volumeNode)
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
            name, volume.array, volume.geometry, axis=axis, window=volume.window, voxels_of=other
        )
        self._open[volumeNode.GetID(), axis] = _Open(
            scalars, scalars.GetMTime(), volume.geometry, volume.window
        )
        return name

    def isOpen(self, name: str) -> bool:
        """Whether the session has frames of this name."""
        return name in self._session.volumes

    def forget(self, volumeId: str | None = None) -> None:
        """Closes the frames of one volume, or all; their shared memory is given back."""
        for nodeId, axis in [key for key in self._open if volumeId in (None, key[0])]:
            del self._open[nodeId, axis]
            name = f"{nodeId}/{'ijk'[axis]}"
            if self.isOpen(name):
                self._session.close_volume(name)
