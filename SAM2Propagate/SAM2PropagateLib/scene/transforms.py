"""Returns parent transforms of MRML nodes as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.texts import tr as _


def parentToWorld(node: Any) -> FloatArray:
    """Returns the 4x4 matrix of all parent transforms of a transformable node, up to the world (identity
    without one).

    Raises:
        InputError: `nonlinear_transform` when one of them is not linear.
    """
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            "nonlinear_transform",
            _("“{name}” is under a non-linear transform, which bends its slices.").format(
                name=node.GetName()
            ),
            _("Harden the transform (Data module, right-click on its icon) or take the node out of it."),
        )
    return transformToWorld(transform)


def transformToWorld(transformNode: Any) -> FloatArray:
    """Returns the 4x4 matrix of a linear transform node and those above it, up to the world."""
    matrix = vtk.vtkMatrix4x4()
    transformNode.GetMatrixTransformToWorld(matrix)
    return toArray(matrix)


def isLinear(node: Any) -> bool:
    """Tells whether all parent transforms of a transformable node are linear."""
    transform = node.GetParentTransformNode()
    return transform is None or bool(transform.IsTransformToWorldLinear())


def between(node: Any, other: Any) -> FloatArray:
    """Returns the 4x4 matrix from the space of one transformable node, below its parent transforms, to that
    of another; exactly the identity under the same transform.

    Raises:
        InputError: `nonlinear_transform` when a transform between them is not linear.
    """
    if node.GetTransformNodeID() == other.GetTransformNodeID():
        return np.eye(4)
    return np.asarray(np.linalg.solve(parentToWorld(other), parentToWorld(node)), dtype=np.float64)


def toArray(matrix: Any) -> FloatArray:
    """Returns a vtkMatrix4x4 as a (4, 4) float64 array."""
    return np.array(matrix.GetData(), dtype=np.float64).reshape(4, 4)


def toMatrix(array: FloatArray) -> Any:
    """Returns a (4, 4) array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(value) for value in np.asarray(array).ravel()])
    return matrix
