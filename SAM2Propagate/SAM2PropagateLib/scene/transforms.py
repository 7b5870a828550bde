"""Parent transforms of MRML nodes as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.texts import tr as _


def parentToWorld(node: Any) -> FloatArray:
    """The 4x4 matrix of all parent transforms of a transformable node, up to the world (identity without
    one).

    Raises:
        InputError: `nonlinear_transform` when one of them is not linear.
    """
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            "nonlinear_transform",
            _("“{name}” is under a non-linear transform, along which its slices are not flat.").format(
                name=node.GetName()
            ),
            _("Harden the transform (Data module, right-click on its icon) or take the node out of it."),
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return toArray(matrix)


def toArray(matrix: Any) -> FloatArray:
    """A vtkMatrix4x4 as a (4, 4) float64 array."""
    return np.array(matrix.GetData(), dtype=np.float64).reshape(4, 4)


def toMatrix(array: FloatArray) -> Any:
    """A (4, 4) array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(value) for value in np.asarray(array).ravel()])
    return matrix
