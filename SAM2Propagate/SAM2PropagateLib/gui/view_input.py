"""Turns mouse and keys in the views into calls of the controller, without Qt.

It observes the views' interactors, so it works in Slicer and in offscreen views alike, and only between
`start` and `stop`. With a tool on, a click or a drag in a slice view is a prompt, unless the mouse is on an
existing prompt, which is dragged as usual. The Segment Editor's effects get keys first, and have the mouse
while one is on. All other events are left to Slicer.

Only one can have the mouse: a tool ends Slicer's mouse modes (place, window/level), and each of these ends
the tool. The same holds for the Segment Editor's effects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import slicer
import vtk

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.navigation import viewNormal, xyToRas
from SAM2PropagateLib.app.tools import (
    ABSENT,
    BOX,
    CLICK_TOOLS,
    LASSO,
    LOCK,
    NEGATIVE,
    NEGATIVE_SCRIBBLE,
    POSITIVE,
    RANGE,
    SCRIBBLE,
    STROKE_TOOLS,
    toolOfKey,
)
from SAM2PropagateLib.gui.editor_writer import EDITOR_TAG
from SAM2PropagateLib.scene import prompt_nodes
from SAM2PropagateLib.scene.box_drag import BoxDrag
from SAM2PropagateLib.scene.markups import removeNode
from SAM2PropagateLib.scene.stroke_drag import DrawnView, LineStyle, StrokeDrawing, StrokeMove
from SAM2PropagateLib.scene.view_drag import Drag, ViewDrag, hasModifier

# Above the priority of Slicer's interactor styles; below that of a box being drawn.
_PRIORITY = 9.0
# Below that of the Segment Editor (1), whose effects have keys of their own; above that of the views (0).
_KEY_PRIORITY = 0.5
_ESCAPE, _DELETE = "ESCAPE", "Delete"
# Pixels; the longest way between press and release of a click.
_LONGEST_CLICK = 4
# Seconds; a key that is pressed again sooner after its release counts as held. X11 sends a release before
# each repeat of a held key; other systems do not.
_REPEAT = 0.05
# The roles of a stroke tool's prompts in the scene.
_ROLES = {
    SCRIBBLE: prompt_nodes.SCRIBBLE,
    NEGATIVE_SCRIBBLE: prompt_nodes.NEGATIVE_SCRIBBLE,
    LASSO: prompt_nodes.LASSO,
}
# A scribble for which the mouse hardly moves is a click with these tools.
_TAPS = {SCRIBBLE: POSITIVE, NEGATIVE_SCRIBBLE: NEGATIVE}

Xy = tuple[int, int]


class ViewInput:
    """Handles mouse and keys in the views while the module is open.

    Args:
        controller: gets the calls.
        actions: called for keys that belong to no tool.
        clock: returns seconds.
        onHover: called with whether a prompt is under the mouse, when that changes.
        isButtonDown: tells whether the left button is down; a release is missed when another program or
            dialog takes the mouse.

    Attributes:
        actions: as given.
    """

    def __init__(
        self,
        controller: Controller,
        actions: Mapping[str, Callable[[], object]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        onHover: Callable[[bool], None] = lambda _isOn: None,
        isButtonDown: Callable[[], bool] = lambda: True,
    ) -> None:
        self._controller = controller
        self.actions = dict(actions or {})
        self._slices: list[tuple[Any, Any]] = []
        self._draws: dict[Any, Callable[[], None]] = {}
        self._others: list[Any] = []
        self._tags: list[tuple[Any, int]] = []
        self._pressed: tuple[Any, Xy] | None = None
        self._clicked: tuple[Any, Xy] | None = None
        self._mouse: tuple[Any, Xy] | None = None
        self._clock = clock
        self._onHover = onHover
        self._isHovering = False
        self._tool: str | None = None
        self._held = ""
        self._released: float | None = None
        self._boxes: BoxDrag | None = None
        self._boxesFor: Any = None
        self._isButtonDown = isButtonDown
        self._strokes: ViewDrag | None = None
        self._drawnFor: tuple[Any, ...] = ()

    @property
    def isOn(self) -> bool:
        """Whether it listens to the views."""
        return bool(self._tags)

    def addSliceView(self, interactor: Any, sliceNode: Any, draw: Callable[[], None] | None = None) -> None:
        """Adds a slice view in which prompts can be placed; call it before `start`.

        Args:
            interactor: its vtkRenderWindowInteractor, in Slicer `sliceWidget.sliceView().interactor()`.
            sliceNode: its vtkMRMLSliceNode.
            draw: schedules its drawing; None: it is drawn at once.
        """
        self._slices.append((interactor, sliceNode))
        self._draws[interactor] = draw or interactor.Render

    def add3DView(self, interactor: Any) -> None:
        """Adds a 3D view, in which prompts are refused; call it before `start`."""
        self._others.append(interactor)

    def clearViews(self) -> None:
        """Stops, and forgets all views, for example because the layout has changed."""
        self.stop()
        self._slices.clear()
        self._draws.clear()
        self._others.clear()

    def start(self) -> None:
        """Starts observing the views."""
        if self.isOn:
            return
        for interactor, _ in self._slices:
            self._observe(interactor, "LeftButtonPressEvent", self._press)
            # VTK sends it instead of a second press; Slicer would maximize the view on it.
            self._observe(interactor, "LeftButtonDoubleClickEvent", self._pressAgain)
            self._observe(interactor, "LeftButtonReleaseEvent", self._release)
            self._observe(interactor, "KeyPressEvent", self._key, _KEY_PRIORITY)
            self._observe(interactor, "KeyReleaseEvent", self._letGo, _KEY_PRIORITY)
            self._observe(interactor, "MouseMoveEvent", self._move)
            self._observe(interactor, "EnterEvent", self._enter)
            self._observe(interactor, "LeaveEvent", self._leave)
        for interactor in self._others:
            self._observe(interactor, "LeftButtonPressEvent", self._pressElsewhere)
            self._observe(interactor, "LeftButtonReleaseEvent", self._releaseElsewhere)
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        self._tags.append(
            (interaction, interaction.AddObserver(vtk.vtkCommand.ModifiedEvent, self._modeChanged))
        )
        self._strokes = ViewDrag(self._beginStroke, self._isButtonDown)
        for interactor, sliceNode in self._slices:
            self._strokes.addView(interactor, sliceNode)
        self._strokes.start()
        self._tool = None
        self._controller.changed.connect(self._controllerChanged)
        self._controllerChanged()

    def stop(self) -> None:
        """Stops observing the views, and drops what is being drawn."""
        self._controller.changed.disconnect(self._controllerChanged)
        for interactor, tag in self._tags:
            interactor.RemoveObserver(tag)
        self._tags.clear()
        self._pressed = self._clicked = self._mouse = None
        self._held = ""
        self._tellHover(False)
        strokes, self._strokes = self._strokes, None
        if strokes is not None:
            strokes.stop()
        self._dropBoxes()

    def cancelDrag(self) -> bool:
        """Takes back what is being drawn or moved right now; returns whether there was something."""
        isStroke = self._strokes is not None and self._strokes.cancel()
        return isStroke or (self._boxes is not None and self._boxes.cancel())

    def _observe(
        self, interactor: Any, event: str, handle: Callable[[Any], bool], priority: float = _PRIORITY
    ) -> None:
        def observer(caller: Any, _event: str) -> None:
            command = caller.GetCommand(tag)
            if handle(caller):
                command.AbortFlagOn()  # nobody else gets the event

        tag = interactor.AddObserver(event, observer, priority)
        self._tags.append((interactor, tag))

    # --- boxes

    def _controllerChanged(self, _: None = None) -> None:
        """Ends Slicer's own mouse modes if a tool was chosen, and a stroke that is meant for another one."""
        if self._controller.tool is not None and self._controller.tool != self._tool:
            interaction = slicer.app.applicationLogic().GetInteractionNode()
            if interaction.GetCurrentInteractionMode() != interaction.ViewTransform:
                interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        now = (self._controller.tool, self._controller.segmentID, self._controller.workspace)
        if now != self._drawnFor and self._strokes is not None:
            self._strokes.cancel()
        self._drawnFor = now
        self._tool = self._controller.tool
        self._followBoxes()

    def _modeChanged(self, interaction: Any, _event: str) -> None:
        """Switches the tool off if one of Slicer's own mouse modes was chosen."""
        isOther = interaction.GetCurrentInteractionMode() != interaction.ViewTransform
        if isOther and self._controller.tool is not None:
            self._controller.chooseTool(None)

    def _followBoxes(self) -> None:
        """Switches the drawing of boxes on and off with its tool."""
        workspace = self._controller.workspace
        if workspace is None or self._controller.tool != BOX or not self.isOn:
            self._dropBoxes()
            return
        if self._boxesFor != (workspace.segmentationID, self._controller.segmentID):
            self._dropBoxes()
            self._boxes = BoxDrag(workspace.markups, self._boxEnded, self._isButtonDown)
            for interactor, sliceNode in self._slices:
                self._boxes.addView(interactor, sliceNode)
            self._boxesFor = (workspace.segmentationID, self._controller.segmentID)
        if self._boxes is not None and not self._boxes.isOn:
            self._boxes.start(self._controller.segmentID)

    def _boxEnded(self, roiNode: Any) -> None:
        if self._boxes is None:
            return
        if roiNode is None:
            self._controller.refuseBox()
        # The tool stays on for the next box.
        if self._controller.tool == BOX and not self._boxes.isOn:
            self._boxes.start(self._controller.segmentID)

    def _dropBoxes(self) -> None:
        boxes, self._boxes, self._boxesFor = self._boxes, None, None
        if boxes is not None:
            boxes.stop()

    # --- strokes

    def _beginStroke(self, interactor: Any, sliceNode: Any, xy: Xy) -> Drag | None:
        """Begins to draw a stroke, or to move the one that is under the mouse."""
        workspace, tool = self._controller.workspace, self._controller.tool
        if workspace is None or hasModifier(interactor) or not isMouseFree():
            return None
        node = workspace.markups.strokeUnderMouse()
        if node is not None:
            return StrokeMove(workspace.markups, node, sliceNode, xy, lambda: self._tapped(interactor, xy))
        if tool not in STROKE_TOOLS or self._isOnPrompt():
            return None
        normal = viewNormal(sliceNode)
        color = prompt_nodes.promptColor(workspace.segmentationNode, self._controller.segmentID, _ROLES[tool])
        return StrokeDrawing(
            DrawnView(interactor, sliceNode, self._draws[interactor]),
            xy,
            LineStyle(color, tool == LASSO),
            lambda places: self._drawn(interactor, xy, places, normal),
        )

    def _drawn(self, interactor: Any, start: Xy, places: Any, normal: Any) -> None:
        """Adds a stroke that was drawn; one with a single place is a tap."""
        tool = self._controller.tool
        if len(places) == 1:
            self._tapped(interactor, start)
        elif tool == LASSO:
            self._controller.addLasso(places, viewNormal=normal)
        else:
            self._controller.addScribble(places, tool == SCRIBBLE, normal)

    def _tapped(self, interactor: Any, xy: Xy) -> None:
        """Handles a tap, for which the mouse hardly moved: a click, if the tool has one."""
        tool = self._controller.tool
        if tool == LASSO:
            self._controller.refuseLasso()
        elif tool in _TAPS or tool in CLICK_TOOLS:
            self._point(_TAPS.get(tool, tool), interactor, xy)
            self._clicked = (interactor, xy)

    # --- mouse

    def _move(self, interactor: Any) -> bool:
        self._mouse = (interactor, interactor.GetEventPosition())
        # The view decided this at the last move of the mouse, and will take the event itself.
        self._tellHover(self._isOnPrompt())
        return False

    def _tellHover(self, isOn: bool) -> None:
        if isOn != self._isHovering:
            self._isHovering = isOn
            self._onHover(isOn)

    def deletePrompt(self) -> None:
        """Deletes the prompt under the mouse, as Slicer's own key does in the view that has the keyboard."""
        if self._mouse is None or not self._isOnPrompt():
            return
        if self._deleteStroke():
            return
        interactor, (x, y) = self._mouse
        interactor.SetEventInformation(x, y, 0, 0, chr(127), 0, _DELETE)
        interactor.InvokeEvent("KeyPressEvent")
        interactor.InvokeEvent("KeyReleaseEvent")
        self._tellHover(False)

    def _deleteStroke(self) -> bool:
        """Deletes the scribble or lasso under the mouse, as Slicer's own key deletes only control points."""
        workspace = self._controller.workspace
        node = workspace.markups.strokeUnderMouse() if workspace is not None else None
        if node is None:
            return False
        self.cancelDrag()
        removeNode(node)
        self._tellHover(False)
        return True

    def _enter(self, interactor: Any) -> bool:
        # The release of a key is missed if another program or dialog has the keyboard by then.
        self._held = ""
        return self._move(interactor)

    def _leave(self, interactor: Any) -> bool:
        # The mouse may enter the next view before it leaves this one.
        if self._mouse is not None and self._mouse[0] is interactor:
            self._mouse = None
            self._tellHover(False)
        return False

    def _press(self, interactor: Any) -> bool:
        self._clicked = None
        tool = self._controller.tool
        if tool is None or tool == BOX or tool in STROKE_TOOLS or hasModifier(interactor):
            return False
        # Marks are for the whole slice, so a prompt under the mouse matters only to click tools.
        if tool in CLICK_TOOLS and self._isOnPrompt():
            return False
        self._pressed = (interactor, interactor.GetEventPosition())
        return True

    def _pressAgain(self, interactor: Any) -> bool:
        """Handles the second of two fast presses: a normal click, unless it is at the first one's place."""
        clicked, self._clicked = self._clicked, None
        xy = interactor.GetEventPosition()
        if clicked is None or clicked[0] is not interactor or not _isNear(clicked[1], xy):
            return self._press(interactor)
        # The first press has been handled, and Slicer must not take this as a double click.
        return not hasModifier(interactor)

    def _release(self, interactor: Any) -> bool:
        pressed, self._pressed = self._pressed, None
        if pressed is None or pressed[0] is not interactor:
            return False
        tool = self._controller.tool
        if tool is not None and _isNear(pressed[1], interactor.GetEventPosition()):
            self._point(tool, *pressed)
            self._clicked = pressed
        return True

    def _point(self, tool: str, interactor: Any, xy: Xy) -> None:
        sliceNode = next(node for view, node in self._slices if view is interactor)
        self._controller.point(tool, xyToRas(sliceNode, xy), viewNormal(sliceNode))

    def _isOnPrompt(self) -> bool:
        workspace = self._controller.workspace
        return workspace is not None and workspace.markups.isUnderMouse()

    def _pressElsewhere(self, interactor: Any) -> bool:
        self._pressed = (interactor, interactor.GetEventPosition())
        return False

    def _releaseElsewhere(self, interactor: Any) -> bool:
        pressed, self._pressed = self._pressed, None
        isHere = pressed is not None and pressed[0] is interactor
        if pressed is not None and isHere and _isNear(pressed[1], interactor.GetEventPosition()):
            self._controller.refuse3D()
        return False

    # --- keys

    def _key(self, interactor: Any) -> bool:
        key = _keyOf(interactor)
        # A key without a name cannot be a held one.
        isSame = bool(key) and key == self._held
        if isSame and (self._released is None or self._clock() - self._released < _REPEAT):
            self._released = None
            return True  # a repeat of a held key
        isTaken = not hasModifier(interactor) and self._act(key)
        self._held, self._released = key if isTaken else "", None
        return isTaken

    def _letGo(self, interactor: Any) -> bool:
        if _keyOf(interactor) == self._held:
            self._released = self._clock()
        return False

    def _act(self, key: str) -> bool:
        """Handles a key; returns whether it is one of ours."""
        if key in self.actions:
            self.actions[key]()
            return True
        if key == _DELETE.upper() and self._deleteStroke():
            return True
        if key == _ESCAPE and self._controller.tool is not None:
            self._controller.chooseTool(None)
            return True
        tool = toolOfKey(key)
        if tool is None:
            return False
        if tool not in (ABSENT, LOCK, RANGE):
            # A key pressed by mistake must not end an effect and lose what is half drawn.
            if _isEffectOn():
                return False
            self._controller.chooseTool(tool)
        elif self._mouse is None:
            self._controller.refuseKey()
        else:
            # It marks the slice under the mouse at once, whichever view has the keyboard focus.
            self._point(tool, *self._mouse)
        return True


def _keyOf(interactor: Any) -> str:
    return str(interactor.GetKeySym() or "").upper()


def isMouseFree() -> bool:
    """Tells whether neither an effect of the Segment Editor nor one of Slicer's mouse modes has the mouse."""
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    return interaction.GetCurrentInteractionMode() == interaction.ViewTransform and not _isEffectOn()


def _isEffectOn() -> bool:
    """Tells whether an effect of the module's Segment Editor has the mouse."""
    editor = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
    return editor is not None and bool(editor.GetActiveEffectName())


def _isNear(a: Xy, b: Xy) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= _LONGEST_CLICK
