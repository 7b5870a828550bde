"""The segments as surfaces in the patient's skeleton, drawn without a screen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# First: it chooses how VTK draws without a screen.
import Headless  # noqa: F401  # isort: skip
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.scene.transforms import toMatrix

Image = npt.NDArray[np.uint8]
Color = tuple[float, float, float]

# Hounsfield units; blurred by a voxel, so that noise makes no surface.
_BONE, _SKIN = 130.0, -250.0
_BONE_COLOR, _SKIN_COLOR = (0.80, 0.76, 0.67), (0.75, 0.78, 0.85)
_BONE_OPACITY, _SKIN_OPACITY = 1.0, 0.07
# mm³ within a piece of bone; smaller pieces (calcifications, stones, the table's wires) are left out.
_SMALLEST_BONE_MM3 = 900.0
_SMOOTHING = 0.5
# From the front, a little from the patient's right and from above; degrees.
_FROM_THE_RIGHT, _FROM_ABOVE = 24.0, 12.0
_SUPERSAMPLING = 2


def segment_surfaces(segmentation_node: Any) -> dict[str, Any]:
    """Return the smoothed closed surface (vtkPolyData, world RAS) of every segment that has voxels.

    The segmentation keeps the surfaces, so that 3D views show them.
    """
    segmentation_node.GetSegmentation().SetConversionParameter("Smoothing factor", str(_SMOOTHING))
    segmentation_node.CreateClosedSurfaceRepresentation()
    surfaces = {}
    segmentation = segmentation_node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        name = segmentation.GetNthSegmentID(index)
        surface = vtk.vtkPolyData()
        segmentation_node.GetClosedSurfaceRepresentation(name, surface)
        if surface.GetNumberOfPolys():
            surfaces[name] = surface
    return surfaces


def render_surfaces(
    surfaces: dict[str, Any],
    colors: dict[str, Color],
    array: npt.NDArray[Any],
    geometry: VolumeGeometry,
    size: tuple[int, int],
    background: Color,
) -> Image:
    """Draws surfaces among the bones of a CT.

    Args:
        surfaces: vtkPolyData in world RAS by segment.
        colors: by segment, 0 to 1.
        array: the CT, (K, J, I), Hounsfield units.
        geometry: of the CT.
        size: width and height in pixels.
        background: 0 to 1.

    Returns:
        (height, width, 3) RGB, top row first.
    """
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(*background)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetAlphaBitPlanes(1)
    window.SetSize(size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING)
    window.AddRenderer(renderer)
    renderer.SetUseDepthPeeling(True)
    renderer.SetMaximumNumberOfPeels(8)
    renderer.SetOcclusionRatio(0.02)
    _light(renderer)
    for name, surface in surfaces.items():
        renderer.AddActor(_actor(surface, colors[name], 1.0, specular=0.35))
    for surface, color, opacity in (
        (bone_surface(array, geometry), _BONE_COLOR, _BONE_OPACITY),
        (_surface_of(array, geometry, _SKIN), _SKIN_COLOR, _SKIN_OPACITY),
    ):
        renderer.AddActor(_actor(surface, color, opacity, specular=0.1))
    _aim(renderer, geometry, size)
    try:
        return _picture(window, size)
    finally:
        window.Finalize()


def bone_surface(array: npt.NDArray[Any], geometry: VolumeGeometry) -> Any:
    """Return the bones of a CT as vtkPolyData in world RAS, without small calcified pieces."""
    from scipy import ndimage

    blurred = _blurred(array)
    labels, count = ndimage.label(blurred > _BONE)
    voxel = float(abs(np.linalg.det(geometry.ijk_to_ras[:3, :3])))
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * voxel
    small = (sizes < _SMALLEST_BONE_MM3) & (np.arange(count + 1) > 0)
    # Also around the small pieces, where the surface would pass.
    gone = ndimage.binary_dilation(small[labels])
    return _contour(np.where(gone, np.float32(-1000.0), blurred), geometry, _BONE)


def _surface_of(array: npt.NDArray[Any], geometry: VolumeGeometry, value: float) -> Any:
    connectivity = vtk.vtkPolyDataConnectivityFilter()
    connectivity.SetInputData(_contour(_blurred(array), geometry, value))
    connectivity.SetExtractionModeToLargestRegion()
    connectivity.Update()
    return connectivity.GetOutput()


def _blurred(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(array.astype(np.float32), 0.6), dtype=np.float32)


def _contour(array: npt.NDArray[np.float32], geometry: VolumeGeometry, value: float) -> Any:
    image = vtk.vtkImageData()
    image.SetDimensions(*geometry.shape_ijk)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, value)
    edges.ComputeNormalsOff()
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(edges.GetOutputPort())
    smooth.SetNumberOfIterations(15)
    smooth.SetPassBand(0.1)
    transform = vtk.vtkTransform()
    transform.SetMatrix(toMatrix(geometry.ijk_to_ras))
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetTransform(transform)
    placed.SetInputConnection(smooth.GetOutputPort())
    placed.Update()
    return placed.GetOutput()


def _actor(surface: Any, color: Color, opacity: float, specular: float) -> Any:
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputData(surface)
    normals.SplittingOff()
    normals.ConsistencyOn()
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(normals.GetOutputPort())
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    look = actor.GetProperty()
    look.SetColor(*color)
    look.SetOpacity(opacity)
    look.SetInterpolationToPhong()
    look.SetAmbient(0.12)
    look.SetDiffuse(0.85)
    look.SetSpecular(specular)
    look.SetSpecularPower(30)
    return actor


def _light(renderer: Any) -> None:
    kit = vtk.vtkLightKit()
    kit.SetKeyLightIntensity(0.95)
    kit.SetKeyToFillRatio(2.5)
    kit.SetKeyToHeadRatio(4.0)
    kit.AddLightsToRenderer(renderer)


def _aim(renderer: Any, geometry: VolumeGeometry, size: tuple[int, int]) -> None:
    corners = np.array(
        [
            [i, j, k]
            for i in (0, geometry.shape_ijk[0])
            for j in (0, geometry.shape_ijk[1])
            for k in (0, geometry.shape_ijk[2])
        ]
    )
    center = geometry.ras_of_ijk(corners).mean(axis=0)
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(*center)
    camera.SetPosition(center[0], center[1] + 1200.0, center[2])
    camera.SetViewUp(0.0, 0.0, 1.0)
    # The patient's right is on the left of the picture.
    camera.Azimuth(-_FROM_THE_RIGHT)
    camera.Elevation(_FROM_ABOVE)
    camera.SetViewAngle(20.0)
    renderer.ResetCamera()
    camera.Zoom(1.45)
    renderer.ResetCameraClippingRange()


def _picture(window: Any, size: tuple[int, int]) -> Image:
    from PIL import Image as PilImage

    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.SetInputBufferTypeToRGB()
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]
    small = PilImage.fromarray(np.ascontiguousarray(pixels)).resize(size, PilImage.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.uint8)
