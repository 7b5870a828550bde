"""The errors of `scene`, `app` and `gui` are translated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from Headless.scenes import addVolume
from SAM2PropagateLib import texts
from SAM2PropagateLib.app import controller, selection
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.gui import editor_writer
from SAM2PropagateLib.scene import segments
from Testing.scene.geometries import block


@pytest.fixture
def asked():
    """Marks every text as translated; the files in which the texts are written."""
    files: list[str] = []
    texts.set_translator(lambda text, file: files.append(file) or f"<{text}>")
    yield files
    texts.set_translator(None)


def test_an_error_of_the_scene_is_translated(headless, asked):
    with pytest.raises(InputError) as caught:
        segments.checkSegmentation(None)
    assert caught.value.sentence == "<No segmentation is chosen.>"
    assert caught.value.hint == "<Choose or create a segmentation.>"
    assert set(asked) == {segments.__file__}
    node = addVolume(headless, block())
    node.SetName("{braces}")
    with pytest.raises(InputError) as caught:
        segments.checkSegmentation(node)
    assert caught.value.sentence == "<“{braces}” is not a segmentation.>"
    texts.set_translator(None)
    with pytest.raises(InputError) as caught:
        segments.checkSegmentation(None)
    assert str(caught.value) == "No segmentation is chosen. Choose or create a segmentation."


def test_an_error_of_the_work_and_the_panel_is_translated(headless, asked):
    with pytest.raises(InputError) as caught:
        controller.Controller(lambda: None).jump(3)
    assert caught.value.sentence == "<No volume and segmentation are chosen.>"
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    editor = SimpleNamespace(
        mrmlSegmentEditorNode=lambda: None,
        setMRMLSegmentEditorNode=lambda settings: None,
        segmentationNode=lambda: node,
        sourceVolumeNode=lambda: None,
        effectByName=lambda name: None,
    )
    with pytest.raises(SAM2PropagateError) as caught:
        editor_writer.EditorSegmentWriter(editor, node, None).prepare()
    words = "<<The Segment Editor cannot write into this segmentation.> Nothing was written.>"
    assert caught.value.sentence == words
    assert set(asked) == {selection.__file__, editor_writer.__file__}
