"""Volumes that lie in the patient in every way that goes wrong; the tests inside Slicer use them as well."""

from __future__ import annotations

from typing import Any

import numpy as np

from Headless.boot import HeadlessSlicer
from SAM2PropagateTesting import scenes
from SAM2PropagateTesting.scenes import GEOMETRIES, SHAPE_IJK, block, rotation

__all__ = ["GEOMETRIES", "SHAPE_IJK", "addCase", "block", "rotation"]


def addCase(headless: HeadlessSlicer, name: str, array: np.ndarray | None = None) -> Any:
    """The volume node of a case of `GEOMETRIES`, with a bright block on noise unless an array is given."""
    return scenes.addCase(name, array)
