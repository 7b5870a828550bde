"""Reads and sets the window and level of a volume's display: presets for CT, or Slicer's automatic one."""

from __future__ import annotations

from typing import Any

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.window import PRESETS, Window, hounsfield_shift
from SAM2PropagateLib.scene.volume import volumeGeometry, voxelsOf

# On a volume: the user has answered the question whether to change its wide window.
_ANSWERED = "SAM2Propagate.WindowAnswered"
# Hounsfield units; in a window this wide, soft tissue has half of the grays of its own preset.
_WIDE = 2 * PRESETS["soft-tissue"][0]
# The code of Hounsfield units (UCUM) that Slicer gives volumes from DICOM.
_HOUNSFIELD = "[hnsf'U]"


def hounsfieldShift(volumeNode: Any) -> float | None:
    """Returns what was added to the Hounsfield units of a CT; None: it is not a CT, or cannot be used."""
    try:
        volumeGeometry(volumeNode)
        units = volumeNode.GetVoxelValueUnits()
        isMarked = units is not None and units.GetCodeValue() == _HOUNSFIELD
        return hounsfield_shift(voxelsOf(volumeNode), "CT" if isMarked else "")
    except InputError:
        return None


def presetWindow(name: str, shift: float = 0.0) -> Window:
    """Returns the window of a preset of `frames.window.PRESETS`, on values with `shift` added."""
    preset = Window.preset(name)
    return Window(preset.width, preset.level + shift)


def shownWindow(volumeNode: Any) -> Window | None:
    """Returns the window that a volume is displayed in; None without a display."""
    display = _display(volumeNode)
    return Window(display.GetWindow(), display.GetLevel()) if display is not None else None


def isAutomatic(volumeNode: Any) -> bool:
    """Tells whether Slicer chooses the window from the volume's values."""
    display = _display(volumeNode)
    return display is not None and bool(display.GetAutoWindowLevel())


def setWindow(volumeNode: Any, window: Window | None) -> None:
    """Shows a volume in a window in all views; None: in Slicer's automatic one."""
    display = _display(volumeNode)
    if display is None:
        volumeNode.CreateDefaultDisplayNodes()
        display = _display(volumeNode)
    display.SetAutoWindowLevel(window is None)
    if window is not None:
        display.SetWindowLevel(window.width, window.level)


def isToBeAsked(volumeNode: Any) -> bool:
    """Tells whether a CT is shown in a wide automatic window, and the user has not answered yet."""
    window = shownWindow(volumeNode)
    isWide = window is not None and window.width >= _WIDE
    return isWide and isAutomatic(volumeNode) and not volumeNode.GetAttribute(_ANSWERED)


def noteAnswer(volumeNode: Any) -> None:
    """Notes in the scene that the user has answered for this volume."""
    volumeNode.SetAttribute(_ANSWERED, "yes")


def _display(volumeNode: Any) -> Any:
    display = volumeNode.GetDisplayNode()
    isScalar = display is not None and display.IsA("vtkMRMLScalarVolumeDisplayNode")
    return display if isScalar and display.GetWindow() > 0 else None
