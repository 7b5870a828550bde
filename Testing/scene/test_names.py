"""Whatever users call things, the scene loads again, and gives back what was in it."""

from __future__ import annotations

import unicodedata

import pytest

from SAM2PropagateLib.prompts.values import PromptSet, SegmentPrompts
from SAM2PropagateLib.scene.kept_preview import KeptFrame, KeptPreview
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.names import decoded, encoded, safeName, uniqueName
from SAM2PropagateTesting.scenes import nodesOfClass
from Testing.scene.test_commit import NEW
from Testing.scene.test_markups import MarkupCase, assertSame

NAMES = [
    "liver & spleen",
    "R&L",
    'GTV "boost" <5mm & rim',
    "it's",
    "a/b\\c:d|e?f*",
    "50% #1; x=y",
    "tab\there",
    "two\nlines\r",
    "\x01control\x1f\x7f",
    "Milz ü 腫瘍 👍",
    "u\u0308 combined",
    "￾ noncharacter",
    "",
    "   ",
    " blanks around ",
    "ends in dots...",
    "..",
    "CON",
    "x" * 300,
    "腫" * 300,
    "&" * 300,
]
SEGMENT_IDS = [
    'a"b<c>',
    "semi;colon:x",
    "50%25",
    "%:50",
    "tab\there",
    "two\nlines",
    " blanks around ",
    "a/b",
    "it's",
]


def reload(headless, folder, suffix):
    file = folder / f"scene{suffix}"
    headless.saveScene(file)
    headless.clear()
    headless.loadScene(file)


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
@pytest.mark.parametrize("name", NAMES)
def test_a_scene_loads_whatever_segments_are_called(headless, tmp_path, name, suffix):
    case = MarkupCase(headless)
    case.segmentationNode.GetSegmentation().GetSegment("A").SetName(name)
    prompts = case.prompts()
    case.markups.write(prompts)
    KeptPreview(case.segmentationNode, case.volumeNode).put(2, {"A": {7: 1}}, lambda *_: KeptFrame(NEW[7]))
    reload(headless, tmp_path, suffix)
    node = headless.scene.GetFirstNodeByName
    assertSame(case, PromptMarkups(node("Segmentation"), node("CT")).read(), prompts)
    kept = KeptPreview(node("Segmentation"), node("CT")).get()
    assert kept is not None and (kept.frames["A"][7].mask == NEW[7]).all()


@pytest.mark.parametrize(
    "name", ['GTV "boost" <5mm', "it's", "tab\there", "two\nlines", "a/b\\c", "", "x" * 300]
)
def test_a_scene_loads_whatever_volume_and_segmentation_are_called(headless, tmp_path, name):
    case = MarkupCase(headless)
    case.segmentationNode.SetName(name)
    case.volumeNode.SetName(name)
    prompts = case.prompts()
    case.markups.write(prompts)
    reload(headless, tmp_path, ".mrb")
    (segmentation,), (volume,) = (
        nodesOfClass(kind) for kind in ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode")
    )
    assertSame(case, PromptMarkups(segmentation, volume).read(), prompts)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_that_is_made_has_a_character_that_is_not_escaped(headless, name):
    case = MarkupCase(headless)
    before = {node.GetID() for node in nodesOfClass("vtkMRMLNode")}
    case.segmentationNode.SetName(name)
    case.segmentationNode.GetSegmentation().GetSegment("A").SetName(name)
    case.markups.write(case.prompts())
    KeptPreview(case.segmentationNode, case.volumeNode).put(2, {"A": {7: 1}}, lambda *_: KeptFrame(NEW[7]))
    made = [node for node in nodesOfClass("vtkMRMLNode") if node.GetID() not in before]
    assert len(made) > 10
    for node in made:
        text = node.GetName() or ""
        assert not set(text) & set("&<>\"'/\\:*?|%#;"), text
        assert text.isprintable() and text == text.strip(" .")
        assert len(text.encode()) < 200
        assert unicodedata.normalize("NFC", text) == text


@pytest.mark.parametrize("segmentID", SEGMENT_IDS)
def test_prompts_find_their_segment_whatever_its_id(headless, tmp_path, segmentID):
    case = MarkupCase(headless, segments=("A", segmentID))
    click = case.prompts().segment("B").clicks[0]
    prompts = PromptSet((SegmentPrompts(segmentID, clicks=(click,)),), 2)
    case.markups.write(prompts)
    reload(headless, tmp_path, ".mrb")
    node = headless.scene.GetFirstNodeByName
    markups = PromptMarkups(node("Segmentation"), node("CT"))
    markups.removeGone()
    assertSame(case, markups.read(), prompts)
    # Slicer's own display node complains of some of these IDs.
    assert all("vtkMRMLSegmentationDisplayNode" in one for one in headless.messages.errors)
    headless.messages.clear()


def test_segments_whose_names_differ_only_in_case_have_files_of_their_own(headless):
    case = MarkupCase(headless)
    segmentation = case.segmentationNode.GetSegmentation()
    segmentation.GetSegment("A").SetName("Liver")
    segmentation.GetSegment("B").SetName("liver")
    case.markups.write(case.prompts())
    names = [node.GetName().casefold() for node in case.markups.nodes()]
    assert len(names) == len(set(names))


def test_plain_names_stay_readable(headless):
    assert safeName("Leber (links) +2", "box") == "Leber (links) +2 box"
    assert safeName("腫瘍", "box") == "腫瘍 box"
    assert safeName("liver & spleen", "box") == "liver _ spleen box"
    assert safeName("&&", "box") == "box"
    headless.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "LIVER box")
    assert uniqueName(headless.scene, "liver box") == "liver box_1"


@pytest.mark.parametrize("text", [*NAMES, *SEGMENT_IDS, "Segment_1", "1.2.840.3"])
def test_an_encoded_text_is_what_it_was(text):
    assert decoded(encoded(text)) == text
    assert (encoded(text).isprintable() and encoded(text).isascii()) or encoded(text) == text


def test_an_id_of_an_earlier_version_is_read_as_it_is():
    assert [decoded(one) for one in ("50%25", "a&b", "a b", None)] == ["50%25", "a&b", "a b", ""]
