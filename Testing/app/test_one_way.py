"""There is one way through: what a click passes to the worker, and what a mask passes to the views."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import SAM2PropagateLib
from Headless.fake_session import AnsweringSession
from SAM2PropagateLib.app.applying import Applying
from SAM2PropagateLib.gui.view_input import ViewInput
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.preview import PreviewLayer
from Testing.app.cases import HeadlessCase

LIBRARY = Path(SAM2PropagateLib.__file__).parent


def passed(frame: FrameType | None) -> list[str]:
    """The library's files that are on the way to a frame, in their order."""
    files: list[str] = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(LIBRARY):
            name = file.relative_to(LIBRARY).as_posix()
            files += [] if files[-1:] == [name] else [name]
        frame = frame.f_back
    return files[::-1]


def noted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[list[str]]:
    """The ways on which a method is called from now on."""
    ways: list[list[str]] = []
    real: Callable[..., Any] = getattr(owner, name)

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        caller = inspect.currentframe()
        assert caller is not None
        ways.append(passed(caller.f_back))
        return real(self, *arguments, **named)

    monkeypatch.setattr(owner, name, method)
    return ways


@pytest.fixture
def mouse(case: HeadlessCase, openView: Callable[..., Any]) -> Any:  # noqa: N803
    """A view of the volume in which the mouse is followed."""
    view = openView(size=(420, 400))
    view.show(case.volumeNode)
    views = ViewInput(case.controller)
    views.addSliceView(view.interactor, view.node)
    views.start()
    yield view
    views.stop()


@pytest.fixture
def clicks(case: HeadlessCase, mouse: Any) -> Callable[[int, int, int], None]:
    """Clicks at places of the volume, with the mouse in a view."""
    case.controller.chooseTool("positive")

    def click(i: int, j: int, k: int) -> None:
        place = case.geometry.ras_of_ijk([i, j, k])
        mouse.jumpTo(place)
        mouse.click(mouse.rasToXy(place))

    return click


def test_a_click_passes_six_files_at_most_and_each_once(
    case: HeadlessCase, clicks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = noted(monkeypatch, AnsweringSession, "preview")
    clicks(20, 18, 9)
    clicks(24, 18, 9)
    assert len(asked) == 2
    for way in asked:
        # The session's own file, for which another stands in here, is the last one.
        assert way[0] == "gui/view_input.py" and len(way) + 1 <= 6
        assert len(set(way)) == len(way)


def test_a_mask_that_arrives_passes_five_files_at_most_and_each_once(
    case: HeadlessCase, clicks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = noted(monkeypatch, PreviewLayer, "write")
    clicks(20, 18, 9)
    assert case.controller.wait(60) and len(shown) == 1
    case.run(reach=2)
    assert len(shown) > 1
    for way in shown:
        assert way[0] == "app/controller.py" and len({*way, "scene/preview.py"}) == len(way) + 1 <= 5


def test_a_box_passes_seven_files_at_most_and_each_once(
    case: HeadlessCase, mouse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds the way of a box to its length now. It is not that of a click: the box is in the scene while it
    is drawn, and the controller hears of it from there."""
    asked = noted(monkeypatch, AnsweringSession, "preview")
    case.controller.chooseTool("box")
    corners = [case.geometry.ras_of_ijk([i, j, 9]) for i, j in ((12, 12), (26, 24))]
    mouse.jumpTo(corners[0])
    mouse.drag(*(mouse.rasToXy(corner) for corner in corners))
    (way,) = asked
    assert way[0] == "scene/view_drag.py" and len(set(way)) == len(way) <= 7 - 1


def test_a_tap_with_the_tool_for_scribbles_passes_eight_files_at_most_and_each_once(
    case: HeadlessCase, clicks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds the way of a tap to its length now. It is not that of a click: it begins as a stroke, and that it
    is none is known when the mouse is released."""
    asked = noted(monkeypatch, AnsweringSession, "preview")
    case.controller.chooseTool("scribble")
    clicks(20, 18, 9)
    (way,) = asked
    assert case.workspace.prompts.segment("A").clicks
    assert way[0] == "scene/view_drag.py" and len(set(way)) == len(way) <= 8 - 1


def test_a_finished_run_passes_five_files_at_most_into_the_segment(
    case: HeadlessCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds the way of a run to its length now. It is not that of a mask that arrives: a run is written in
    turns while no view is drawn, so its own file and that of the turns stand on the way twice."""
    case.click(20, 18, 9)
    written = noted(monkeypatch, SegmentCommitter, "carryOut")
    case.run(reach=2)
    assert written and case.segment(10).any()
    for way in written:
        assert way[0] == "app/controller.py" and way[-1] == "app/applying.py"
        assert len(way) + 1 <= 7 and len({*way, "scene/commit.py"}) <= 5


def test_prompts_are_put_into_the_scene_once_when_they_are_complete(
    case: HeadlessCase, clicks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.click(20, 18, 9)
    case.run(reach=2)
    written, read = noted(monkeypatch, PromptMarkups, "write"), noted(monkeypatch, PromptMarkups, "read")
    clicks(24, 18, 10)
    # A click that corrects brings the mask along that it corrects.
    said = case.workspace.prompts.segment("A")
    assert len(said.clicks) == 2 and len(said.masks) == 1
    assert len(written) == 1 and len(read) == 1


def test_hand_edits_are_looked_for_once_where_a_command_begins(
    case: HeadlessCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = noted(monkeypatch, Applying, "mergeEdits")
    for command in (
        lambda: case.controller.point("positive", case.ras(20, 18, 9), (0, 0, 1)),
        lambda: case.controller.addBox(case.ras(10, 10, 4), case.ras(20, 20, 4)),
        lambda: case.controller.addScribble([case.ras(x, 12, 6) for x in range(10, 20)], True, (0, 0, 1)),
        lambda: case.controller.clearPrompts(6),
        lambda: case.controller.propagate(reach=1),
    ):
        looked.clear()
        assert command() is not False
        assert looked == [["app/controller.py"]], command
    case.controller.wait(60)
    for command in (case.controller.undo, case.controller.redo):
        looked.clear()
        assert command()
        assert looked == [["app/controller.py"]]


def test_hand_edits_are_looked_for_once_for_all_that_comes_in_and_where_masks_are_applied(
    case: HeadlessCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = noted(monkeypatch, Applying, "mergeEdits")
    entrance, ending, applying = "app/controller.py", "app/runs.py", "app/applying.py"

    def places() -> list[str]:
        """The places that looked since the last call of this, in order."""
        found = [way[-1] for way in looked]
        looked.clear()
        return found

    case.click(20, 18, 9)
    assert places() == [entrance, entrance], "a click, and its mask that arrives"
    case.drag_first_click(24, 18, 9)
    assert places() == [entrance], "a change in the scene"
    case.settle()
    assert places() == [entrance], "its mask that arrives"
    case.controller.editBegins()
    assert places() == [entrance], "a tool of the Segment Editor"
    case.run(reach=1)
    assert places() == [entrance, ending], "a run and its end"
    assert case.controller.propagate(reach=2)
    case.controller.cancel()
    assert places() == [entrance, ending], "a run and its cancelling"
    case.settle()
    case.click(20, 18, 12)
    looked.clear()
    case.controller.apply()
    assert places() == [applying], "applying"
    assert case.controller.undo()
    assert places() == [entrance], "Undo"
    assert case.controller.redo()
    assert places() == [entrance], "Redo"
