"""Draws three small pictures of a segment: slices with its outline, in a radiologist's orientation."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frame_kinds import KEYFRAME
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.segment_job import FrameScore

COUNT = 3
SIDE = 150
"""Pixels along each side of one picture."""

_GAP = 4
# The margin around the structure: this share of its size, and at least this many mm.
_MARGIN_SHARE, _MARGIN_MM = 0.4, 15.0
_QUALITY = 82
# A screen's right and down in the patient (RAS), by the axis nearest to the normal: R, A, S.
_SCREEN = (((0, -1, 0), (0, 0, -1)), ((-1, 0, 0), (0, 0, -1)), ((-1, 0, 0), (0, -1, 0)))

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]


def chosen_frames(mask: BoolArray, scores: Sequence[FrameScore]) -> tuple[int, ...]:
    """Return the frames to show: one with prompts, the most doubtful, the one with the largest area, then
    others.

    Args:
        mask: (frames, rows, columns), the propagation axis first.
        scores: of its frames.

    Returns:
        `COUNT` different frames, ascending; fewer only if the volume has fewer.
    """
    areas = np.count_nonzero(mask, axis=(1, 2))
    there = np.flatnonzero(areas)
    prompted = [score.frame for score in scores if score.kind == KEYFRAME]
    doubted = [score for score in scores if score.doubt is not None and areas[score.frame]]
    wanted: list[int] = prompted[len(prompted) // 2 :][:1]
    if doubted:
        wanted.append(max(doubted, key=lambda score: (score.doubt or 0.0, -score.frame)).frame)
    if len(there):
        wanted.append(int(areas.argmax()))
        wanted += [int(there[round((len(there) - 1) * share)]) for share in (0.25, 0.75, 0.5, 0.0, 1.0)]
        wanted += [int(frame) for frame in there]
    middle = wanted[0] if wanted else len(areas) // 2
    wanted += sorted(range(len(areas)), key=lambda frame: abs(frame - middle))
    return tuple(sorted(list(dict.fromkeys(wanted))[:COUNT]))


def strip(
    stack: FrameStack, mask: BoolArray, frames: Sequence[int], color: tuple[float, float, float]
) -> bytes:
    """Return a JPEG with the frames side by side.

    Args:
        stack: of the volume.
        mask: (frames, rows, columns), as `chosen_frames`.
        frames: which to show.
        color: of the outline, red, green and blue from 0 to 1.
    """
    rows, columns = _region(mask, stack.geometry, stack.axis)
    pictures = [_picture(stack, mask[frame], frame, rows, columns, color) for frame in frames]
    canvas = np.full((SIDE, SIDE * len(pictures) + _GAP * (len(pictures) - 1), 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        left = number * (SIDE + _GAP)
        canvas[:, left : left + SIDE] = picture
    done, content = cv2.imencode(".jpg", canvas[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return bytes(content)


def _region(mask: BoolArray, geometry: VolumeGeometry, axis: int) -> tuple[slice, slice]:
    """Return the rows and columns that hold the structure on any frame, with a margin; all for an empty
    mask."""
    shadow = np.asarray(mask.any(axis=0))
    if not shadow.any():
        return slice(0, shadow.shape[0]), slice(0, shadow.shape[1])
    found = []
    for line, step in zip(
        (np.asarray(shadow.any(axis=1)), np.asarray(shadow.any(axis=0))),
        geometry.frame_spacing(axis),
        strict=True,
    ):
        where = np.flatnonzero(line)
        first, last = int(where[0]), int(where[-1]) + 1
        margin = round(max(_MARGIN_SHARE * (last - first), _MARGIN_MM / step))
        found.append(slice(max(0, first - margin), min(len(line), last + margin)))
    return found[0], found[1]


def _picture(
    stack: FrameStack,
    mask: BoolArray,
    frame: int,
    rows: slice,
    columns: slice,
    color: tuple[float, float, float],
) -> ByteArray:
    """Return a picture of the part of a frame, as large as it fits, with true proportions: (SIDE, SIDE, 3)
    RGB."""
    turned, flipped = _turn(stack.geometry, stack.axis)
    image, shape = (
        np.ascontiguousarray(_turned(part[rows, columns], turned, flipped))
        for part in (stack.frame(frame), mask.astype(np.uint8))
    )
    step_y, step_x = stack.geometry.frame_spacing(stack.axis)[:: -1 if turned else 1]
    height, width = image.shape[0] * step_y, image.shape[1] * step_x
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    image = cv2.resize(image, size, interpolation=method)
    shape = cv2.resize(shape * 255, size, interpolation=cv2.INTER_LINEAR)
    colored = np.repeat(image[..., np.newaxis], 3, axis=2)
    outlines, _ = cv2.findContours((shape > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(colored, outlines, -1, tuple(round(255 * part) for part in color), 1)
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = colored
    return canvas


def _turned(part: npt.NDArray, turned: bool, flipped: tuple[bool, bool]) -> npt.NDArray:
    """Return a frame with its rows and columns exchanged if `turned`, then (up-down, left-right) flipped."""
    part = part.T if turned else part
    return part[:: -1 if flipped[0] else 1, :: -1 if flipped[1] else 1]


def _turn(geometry: VolumeGeometry, axis: int) -> tuple[bool, tuple[bool, bool]]:
    """Return how to turn frames for a radiologist's orientation, with the patient's right on the left."""
    normal = int(np.abs(geometry.frame_normal(axis)).argmax())
    right, down = (np.array(one, dtype=np.float64) for one in _SCREEN[normal])
    x, y = (step / np.linalg.norm(step) for step in geometry.pixel_steps(axis))
    turned = abs(float(x @ down)) > abs(float(x @ right))
    across, along = (y, x) if turned else (x, y)
    return turned, (float(along @ down) < 0, float(across @ right) < 0)
