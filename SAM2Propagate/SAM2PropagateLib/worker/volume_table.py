"""The volumes that are open in the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.checks import check_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.engine_port import Crop, ServedSession
from SAM2PropagateLib.worker.messages import OpenVolume
from SAM2PropagateLib.worker.shared import MappedArray
from SAM2PropagateLib.worker.voxels import CODEC, decompress
from SAM2PropagateLib.worker.wire import Payload


class VoxelStore:
    """An array that several open volumes may share, with its mapping, if it has one."""

    def __init__(self, array: NDArray[Any], mapped: MappedArray | None) -> None:
        self.array: NDArray[Any] | None = array
        self._mapped = mapped
        self.users = 0

    def drop(self) -> None:
        """Count one user less; unmap after the last one."""
        self.users -= 1
        if self.users == 0:
            self.array = None
            if self._mapped is not None:
                self._mapped.close()


@dataclass
class ServedVolume:
    """An open volume; each model gets a new session for it."""

    frames: FrameStack
    crop: Crop
    voxels: VoxelStore
    session: ServedSession | None = None


class VolumeTable:
    """Open volumes by name.

    Attributes:
        shared_bases: the folders above the client's shared files.
    """

    def __init__(self) -> None:
        self._volumes: dict[str, ServedVolume] = {}
        self.shared_bases: set[Path] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._volumes

    def get(self, name: str) -> ServedVolume:
        """Return the volume of that name.

        Raises:
            SAM2PropagateError: unknown_volume.
        """
        if name not in self._volumes:
            raise SAM2PropagateError(
                "unknown_volume", _("No volume “{name}” is open.").format(name=name), _("Open it first.")
            )
        return self._volumes[name]

    def open(
        self,
        request: OpenVolume,
        payload: Payload,
        session_of: Callable[[FrameStack], ServedSession | None],
    ) -> ServedVolume:
        """Open a volume as requested, in place of what has its name; nothing changes if that fails.

        Raises:
            InputError: see `check_volume`, `FrameStack`, `Window`, `VolumeGeometry`.
            SAM2PropagateError: volume_data, out_of_memory, unknown_volume, bad_message; what `session_of`
                raises.
        """
        voxels = self._voxels(request, payload)
        voxels.users += 1
        try:
            assert voxels.array is not None
            geometry = VolumeGeometry.from_dict(request.geometry)
            check_volume(voxels.array, geometry, request.axis)
            frames = FrameStack(voxels.array, geometry, request.axis, Window(*request.window))
            volume = ServedVolume(frames, request.crop, voxels, session_of(frames))
        except BaseException:
            voxels.drop()
            raise
        if request.volume in self._volumes:
            self.close(request.volume)
        self._volumes[request.volume] = volume
        return volume

    def close(self, name: str) -> None:
        """Forget a volume and unmap its voxels.

        Raises:
            SAM2PropagateError: unknown_volume.
        """
        volume = self.get(name)
        del self._volumes[name]
        voxels = volume.voxels
        # The session's views of the voxels have to be released before they can be unmapped.
        volume.session = None
        del volume.frames
        voxels.drop()

    def drop_sessions(self) -> None:
        """Forget the sessions of all volumes, for another model."""
        for volume in self._volumes.values():
            volume.session = None

    def _voxels(self, request: OpenVolume, payload: Payload) -> VoxelStore:
        source = request.source
        kind = source.get("kind")
        if kind == "shared" and isinstance(source.get("path"), str):
            path = Path(source["path"])
            self.shared_bases.add(path.parent.parent)
            mapped = MappedArray(path, request.dtype, request.shape)
            return VoxelStore(mapped.array, mapped)
        if kind == "payload" and source.get("codec") == CODEC:
            return VoxelStore(decompress(payload, request.dtype, request.shape), None)
        if kind == "volume":
            voxels = self.get(str(source.get("volume"))).voxels
            array = voxels.array
            if array is None or array.shape != request.shape or array.dtype != np.dtype(request.dtype):
                raise SAM2PropagateError(
                    "volume_data", _("The volumes that were to share their voxels differ.")
                )
            return voxels
        raise SAM2PropagateError(
            "bad_message", _("A volume cannot come from {source}.").format(source=repr(dict(source)))
        )
