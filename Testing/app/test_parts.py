"""The small parts that decide something: rules, tools, the strip, facts of frames, texts."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import numpy as np
import pytest

from SAM2PropagateLib import segment_job, texts
from SAM2PropagateLib.amounts import duration_words
from SAM2PropagateLib.app import keyframes, rules, strip, tools
from SAM2PropagateLib.app.rules import Conditions
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.app.strip import FrameFacts, Withheld
from SAM2PropagateLib.app.wording import size
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.prompts import Lasso, SegmentPrompts, box_at, click_at, mask_at
from SAM2PropagateLib.prompts.values import to_ras

READY = Conditions(
    hasVolume=True,
    hasSegmentation=True,
    hasSegment=True,
    canStart=True,
    hasPreview=True,
    hasPrompts=True,
    undoName="click",
    redoName="click",
    undoesPrompts=True,
    redoesPrompts=True,
    hasDoubt=True,
)


@pytest.mark.parametrize("action", rules.ACTIONS)
def test_every_action_says_why_it_is_not_possible(action):
    reason = rules.whyNot(action, Conditions())
    assert re.fullmatch(r"[A-Z][^.]*\.", reason), reason


def test_all_is_possible_when_all_is_there():
    possible = {action for action in rules.ACTIONS if not rules.whyNot(action, READY)}
    assert possible == set(rules.ACTIONS) - {rules.CANCEL}
    running = replace(READY, isRunning=True)
    assert not rules.whyNot(rules.CANCEL, running) and not rules.whyNot(rules.PROMPT, running)
    assert rules.whyNot(rules.PROPAGATE, running) and rules.whyNot(rules.APPLY, running)
    assert not rules.whyNot(rules.UNDO, running) and not rules.whyNot(rules.REDO, running)
    of_masks = replace(running, undoesPrompts=False, redoesPrompts=False)
    assert rules.whyNot(rules.UNDO, of_masks) and rules.whyNot(rules.REDO, of_masks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missing": ("torch", "sam2")}, "Install the missing packages first: torch, sam2."),
        ({"hasVolume": False}, "Choose a volume first."),
        ({"volumeProblem": "It is a label map."}, "It is a label map."),
        ({"hasSegmentation": False}, "Choose or create a segmentation first."),
        ({"segmentationProblem": "It has no voxels."}, "It has no voxels."),
        ({"modelProblem": "Download it."}, "Download it."),
    ],
)
def test_the_first_thing_that_is_missing_is_named(change, words):
    facts = replace(READY, **change)
    assert rules.whyNot(rules.PROMPT, facts) == words
    assert rules.whyNot(rules.PROPAGATE, facts) == words
    assert set(change) <= {field.name for field in fields(Conditions)}


def test_every_tool_has_a_key_of_its_own_and_takes_none_of_slicers():
    keys = [*(tool.key for tool in tools.tools()), *tools.ACTION_KEYS]
    assert len(keys) == len(set(keys)) == len(tools.TOOLS) + 3
    assert not set(keys) & set("BFGIRTVWXYZ0123456789")
    assert tools.toolOfKey("a") == tools.POSITIVE and tools.toolOfKey("x") is None


def test_the_scribble_is_pressed_again_for_what_does_not_belong():
    pressed, on = [], None
    for _ in range(4):
        on = tools.toolAfter(tools.SCRIBBLE, on)
        pressed.append(on)
    assert pressed == [tools.SCRIBBLE, tools.NEGATIVE_SCRIBBLE, None, tools.SCRIBBLE]
    assert tools.toolAfter(tools.LASSO, tools.NEGATIVE_SCRIBBLE) == tools.LASSO
    assert tools.toolAfter(tools.LASSO, tools.LASSO) is None
    assert tools.buttonOf(tools.NEGATIVE_SCRIBBLE) == tools.SCRIBBLE and tools.buttonOf(None) is None


def test_texts_are_translated_by_the_function_that_is_given():
    files = []
    texts.set_translator(lambda text, file: files.append(file) or f"<{text}>")
    try:
        assert rules.whyNot(rules.CANCEL, Conditions()) == "<Nothing is running.>"
        assert tools.tools()[0].title == "<Click +>"
        assert files[0] == rules.__file__ and files[-1] == tools.__file__
    finally:
        texts.set_translator(None)
    assert rules.whyNot(rules.CANCEL, Conditions()) == "Nothing is running."


def test_times_and_sizes_in_words():
    assert [str(duration_words(seconds)) for seconds in (0.2, 59.4, 125, 3600)] == [
        "0 s",
        "59 s",
        "2:05 min",
        "60:00 min",
    ]
    assert size(156_008_466) == "149 MB" and size(None) == "size not published"


def test_signals_reach_everybody_until_they_let_go():
    signal: Signal[int] = Signal()
    heard: list[int] = []
    signal.connect(heard.append)
    signal.connect(heard.append)
    signal.emit(1)
    signal.disconnect(heard.append)
    signal.emit(2)
    assert heard == [1]


def doubts(*values):
    facts = {
        frame: FrameFacts("propagated", value) for frame, value in enumerate(values) if value is not None
    }
    return strip.strip(len(values), facts)


def test_the_worst_slice_of_each_doubtful_stretch_is_next():
    one = doubts(0.1, 0.6, 0.9, 0.7, 0.2, None, 0.5, 0.5, 0.1, 0.99)
    assert one.doubtful == (2, 6, 9)
    assert [one.nextDoubtful(after) for after in (None, 0, 2, 5, 9)] == [2, 2, 6, 6, 2]
    assert doubts(0.1, 0.2).nextDoubtful(0) is None
    assert strip.DOUBTFUL == segment_job.DOUBTFUL


def test_what_the_user_decided_is_not_doubtful():
    facts = {frame: FrameFacts("propagated", 0.9) for frame in range(4)}
    one = strip.strip(
        4,
        facts,
        edited=frozenset({0}),
        locked=frozenset({1}),
        absent=frozenset({2}),
        keyframes=frozenset({0}),
    )
    assert [frame.drawnAs for frame in one.frames] == ["edited", "locked", "absent", "propagated"]
    assert one.doubtful == (3,)


def test_hovering_gives_the_numbers():
    facts = {2: FrameFacts("propagated", 0.62, 0.81, 3.0)}
    one = strip.strip(5, facts, preview=frozenset({2}), keyframes=frozenset({4}), inRange=range(1, 5))
    assert one.text(2).splitlines() == [
        "Slice 3 of 5",
        "propagated, in the preview, not applied yet",
        "Doubt 62% · model's own estimate of overlap 81%",
    ]
    assert one.text(0).splitlines() == ["Slice 1 of 5", "outside the range"]
    empty = replace(facts[2], withheld=Withheld(pack(np.eye(4, dtype=bool)), (0.0,) * 16))
    left, edited = strip.strip(5, {2: empty}), strip.strip(5, {2: empty}, edited=frozenset({2}))
    known = "Left empty, but a mask was drawn. Click + where it should be brings it back."
    assert left.text(2).splitlines()[-1] == known
    assert known not in edited.text(2)
    assert one.text(4).splitlines()[1] == "keyframe with prompts"


def test_places_of_the_strip():
    one = doubts(*[0.1] * 10)
    assert [one.frameAt(x, 200) for x in (-1, 0, 19.9, 20, 199.9, 200)] == [None, 0, 0, 1, 9, None]
    assert strip.SliceStrip().frameAt(3, 200) is None


@pytest.mark.parametrize("count", [300, 500, 800, 3000])
@pytest.mark.parametrize("width", [378, 150])
def test_no_mark_is_lost_where_slices_share_a_pixel(count, width):
    marks = {"keyframes": (7, 8, 201), "edited": (9, 200), "absent": (10, 299), "locked": (0, 202)}
    facts = {frame: FrameFacts("propagated", 0.1) for frame in range(count)}
    one = strip.strip(count, facts, **{name: frozenset(frames) for name, frames in marks.items()})
    columns = one.columns(width)
    assert len(columns) == width
    for frame in sorted(frame for frames in marks.values() for frame in frames):
        first, end = one.place(frame, width)
        assert end - first >= 2 and first >= 0 and end <= width
        for x in range(first, end):
            assert one.frames[frame].drawnAs in columns[x].drawnAs
        # Clicks there come to it, the next one to the next of them.
        reached = [one.frameAt(first, width)]
        for _ in range(len(one.framesAt(first, width)) - 1):
            reached.append(one.frameAt(first, width, reached[-1]))
        assert frame in reached
    assert columns[width // 2 + 40].drawnAs == ("propagated",)


def test_marks_on_one_pixel_share_its_height_the_strongest_first():
    one = strip.strip(1000, {}, keyframes=frozenset({500}), locked=frozenset({501}), edited=frozenset({502}))
    assert one.columns(100)[50].drawnAs == ("locked", "edited", "keyframe")
    assert one.framesAt(50, 100) == (501, 502, 500)
    assert [one.frameAt(50, 100, shown) for shown in (None, 501, 502, 500, 7)] == [501, 502, 500, 501, 501]


def test_a_click_beside_a_mark_comes_to_it_or_to_the_middle_slice():
    one = strip.strip(800, {}, keyframes=frozenset({400}), locked=frozenset({799}))
    first, end = one.place(400, 400)
    assert (first, end) == (200, 202)
    reached = [one.frameAt(x, 400) for x in range(first - 3, end + 3)]
    assert reached == [395, 400, 400, 400, 400, 400, 400, 409]
    assert one.frameAt(399, 400) == 799
    # Where every slice is wide enough to be hit, a click is for the slice under it.
    assert strip.strip(20, {}, locked=frozenset({3})).frameAt(41, 200) == 4


def test_the_curve_keeps_the_greatest_doubt_of_a_pixel_and_its_gaps():
    values = [0.1] * 1000
    values[333] = 0.9
    values[600:620] = [None] * 20
    curve = doubts(*values).curve(100)
    assert len(curve) == 100
    assert dict(curve)[33] == 0.9 and dict(curve)[34] == 0.1 and dict(curve)[61] is None
    assert doubts(0.1, None, 0.3).curve(90) == [(15, 0.1), (45, None), (75, 0.3)]


def test_the_history_of_a_mask_counts_again_where_it_is_dragged_to():
    geometry = VolumeGeometry((20, 18, 9), np.eye(4))
    edited = mask_at(np.ones((18, 20), bool), 3, geometry, 2, "edit-k3")

    def speaking(frame):
        outline = tuple(to_ras(geometry.ras_of_pixel(x, y, frame, 2)) for x, y in ((2, 2), (9, 2), (9, 9)))
        said = SegmentPrompts(
            "A",
            clicks=(click_at(4, 5, frame, geometry, 2, True, "click"),),
            boxes=(box_at((2, 2, 9, 9), frame, geometry, 2, "box"),),
            lassos=(Lasso("lasso", outline),),
            masks=(edited,),
        )
        history = {edited.id: frozenset({"click", "box", "lasso"})}
        return {one.id for one in keyframes.drawn(keyframes.speaking(said, history, geometry, 2))}

    assert speaking(3) == set()
    assert speaking(5) == {"click", "box", "lasso"}
