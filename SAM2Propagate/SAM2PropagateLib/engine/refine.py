"""A click on a mask that is already there: it changes what it was aimed at, and nothing else."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

ClickAt = tuple[float, float, bool]

# A negative click on a piece larger than this share of the mask cannot mean that piece.
_LARGEST_PIECE = 0.6


def refined(mask: np.ndarray, proposal: np.ndarray, click: ClickAt) -> np.ndarray:
    """The mask with the part of the model's proposal that a click asks for.

    A positive click adds the connected piece of the proposal that it lies on, a negative click removes the
    connected piece of the mask that the proposal drops there. Everything else, hand-drawn detail above all,
    stays as it is.

    Args:
        mask: bool (rows, columns), what was there.
        proposal: bool (rows, columns), the model's mask from the old mask and the clicks.
        click: (x, y, positive) in native pixels.

    Returns:
        bool (rows, columns); the same array if the proposal has nothing for this click.
    """
    positive = click[2]
    piece = _piece_at(proposal & ~mask if positive else mask & ~proposal, click)
    if piece is None:
        return mask
    return mask | piece if positive else mask & ~piece


def toggled(mask: np.ndarray, thing: np.ndarray, click: ClickAt) -> np.ndarray:
    """The mask with, or without, the thing that lies at a click.

    Args:
        mask: bool (rows, columns), what was there.
        thing: bool (rows, columns), what the model sees at the click by itself.
        click: (x, y, positive) in native pixels.

    Returns:
        bool (rows, columns); the same array if the click already has what it asks for, or if a negative click
        would take most of the mask away.
    """
    positive = click[2]
    piece = _piece_at(thing & ~mask if positive else thing & mask, click)
    if piece is None or (not positive and piece.sum() > _LARGEST_PIECE * mask.sum()):
        return mask
    return mask | piece if positive else mask & ~piece


def _piece_at(mask: np.ndarray, click: ClickAt) -> np.ndarray | None:
    """The connected piece of a mask that a click lies on."""
    x, y, _ = click
    column = int(np.clip(round(x), 0, mask.shape[1] - 1))
    row = int(np.clip(round(y), 0, mask.shape[0] - 1))
    if not mask[row, column]:
        return None
    pieces, _ = ndimage.label(mask)
    found: np.ndarray = pieces == pieces[row, column]
    return found
