"""States of a segmentation: what comes back, what it costs, and that nobody writes into what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Headless.scenes import addSegmentation, fillSegment
from SAM2PropagateLib.scene import segment_copies
from SAM2PropagateLib.scene.segments import SegmentReader, binaryLabelmapName, labelsOf, segmentIDs
from SAM2PropagateLib.scene.slabs import finished
from SAM2PropagateLib.scene.undo_states import SegmentationStates
from SAM2PropagateLib.scene.volume import volumeGeometry
from Testing.scene.geometries import addCase
from Testing.scene.test_layers import COLORS, FAR, NEW, OLD


class Bench:
    """A segmentation whose segments A and B share a labelmap, and its first state."""

    def __init__(self, headless):
        self.volumeNode = addCase(headless, "plain")
        self.node = addSegmentation(headless, self.volumeNode, COLORS)
        self.segmentation = self.node.GetSegmentation()
        self.fill("A", OLD)
        self.fill("B", FAR)
        self.segmentation.CollapseBinaryLabelmaps(False)
        self.states = SegmentationStates(self.node)
        self.states.keep()

    def fill(self, name, mask):
        fillSegment(self.node, name, self.volumeNode, mask)

    def image(self, name):
        return self.segmentation.GetSegment(name).GetRepresentation(binaryLabelmapName())

    def write(self, name="A", place=(8, 17, 18)):
        """As Paint does that stays within the labelmap: in place; 0 where it was set."""
        image, label = self.image(name), self.segmentation.GetSegment(name).GetLabelValue()
        voxels = labelsOf(image)
        i, _, j, _, k, _ = image.GetExtent()
        at = (place[0] - k, place[1] - j, place[2] - i)
        voxels[at] = 0 if voxels[at] else label
        image.GetPointData().GetScalars().Modified()
        image.Modified()

    @property
    def look(self):
        geometry = volumeGeometry(self.volumeNode)
        found = {}
        for name in segmentIDs(self.node):
            segment = self.segmentation.GetSegment(name)
            kinds = []
            segment.GetContainedRepresentationNames(kinds)
            found[name] = (
                SegmentReader(self.node, name, geometry).array().tobytes(),
                segment.GetName(),
                segment.GetColor(),
                segment.GetLabelValue(),
                slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment),
                sorted(kinds),
                self.image(name) is self.image("A") if "A" in segmentIDs(self.node) else None,
            )
        return list(found), found


def removeB(bench):
    bench.segmentation.RemoveSegment("B")


def rename(bench):
    bench.segmentation.GetSegment("B").SetName("spleen")
    bench.segmentation.GetSegment("B").SetColor(0.5, 0.5, 0.0)


def withSurfaces(bench):
    bench.node.CreateClosedSurfaceRepresentation()
    bench.write()


def split(bench):
    """The Segment Editor gives a segment a labelmap of its own when it gains a voxel of another one."""
    bench.segmentation.SeparateSegmentLabelmap("B")
    bench.fill("B", OLD)


CHANGES = {
    "a stroke": lambda bench: bench.write(),
    "a larger labelmap": lambda bench: bench.fill("A", NEW),
    "nothing left": lambda bench: bench.fill("A", np.zeros_like(OLD)),
    "a removed segment": removeB,
    "a new segment": lambda bench: bench.segmentation.AddEmptySegment("D", "D"),
    "name and color": rename,
    "order": lambda bench: (bench.segmentation.ReorderSegments(["C", "A", "B"]), bench.write()),
    "a labelmap of its own": split,
    "surfaces": withSurfaces,
    "status": lambda bench: (
        slicer.vtkSlicerSegmentationsModuleLogic.SetSegmentStatus(
            bench.segmentation.GetSegment("A"), slicer.vtkSlicerSegmentationsModuleLogic.Completed
        ),
        bench.write(),
    ),
}


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_every_state_comes_back_whole_and_stays_as_it_is(headless, monkeypatch, name, is_ahead):
    bench = Bench(headless)
    looks, numbers = [bench.look], [bench.states.at]
    for change in (CHANGES[name], lambda one: one.write(place=(9, 17, 18)), lambda one: one.fill("A", NEW)):
        change(bench)
        assert bench.states.keep() != ""
        looks.append(bench.look)
        numbers.append(bench.states.at)
    assert len(set(numbers)) == len(numbers)
    for place in (2, 0, 3, 1, 3, 0, 1, 2):
        ready = finished(bench.states.copying(numbers[place])) if is_ahead else None
        if is_ahead:
            with monkeypatch.context() as patch:
                # All copies have been made.
                patch.setattr(segment_copies, "copying", None)
                bench.states.restore(numbers[place], ready)
        else:
            bench.states.restore(numbers[place])
        assert bench.look == looks[place], (name, place)
        assert not bench.states.isChanged and bench.states.change == ""
        # What is kept is nobody else's: it stays as it is, whatever is written into the segments.
        bench.write(place=(8, 16, 16))
        assert bench.look != looks[place] and bench.states.isChanged
        bench.write(place=(8, 16, 16))
        assert bench.states.keep() == ""
        assert bench.states.at == numbers[place]
    assert all(bench.states.isThere(one) for one in numbers)


def test_voxels_that_come_back_are_in_the_same_labelmap_and_told_of_once(headless):
    bench = Bench(headless)
    image, heard = bench.image("A"), []
    bench.write()
    bench.states.keep()
    for name in ("SourceRepresentationModified", "SegmentModified", "SegmentAdded", "SegmentRemoved"):
        bench.segmentation.AddObserver(
            getattr(bench.segmentation, name), lambda *_, name=name: heard.append(name)
        )
    assert bench.states.back()
    assert bench.image("A") is image and bench.image("B") is image
    # Of each segment once: they share the labelmap.
    assert heard == ["SourceRepresentationModified"] * len(COLORS)
    heard.clear()
    # Nothing is different: nothing is told.
    bench.states.restore(bench.states.at)
    assert heard == []


def test_a_stroke_that_changes_nothing_is_no_state_and_ends_no_redo(headless):
    bench = Bench(headless)
    first = bench.states.at
    bench.write()
    bench.states.keep()
    assert bench.states.back() and bench.states.at == first
    bench.write()
    bench.write()
    assert bench.states.isChanged and bench.states.change == ""
    assert bench.states.isThere(first + 1)
    assert bench.states.keep() == "" and bench.states.at == first
    assert bench.states.forward() and bench.states.at == first + 1


def test_a_change_ends_what_could_be_redone_and_its_number_is_new(headless):
    bench = Bench(headless)
    first = bench.states.at
    for place in ((8, 17, 18), (8, 17, 17)):
        bench.write(place=place)
        bench.states.keep()
    bench.states.restore(first)
    bench.write(place=(8, 16, 16))
    assert not bench.states.isThere(first + 1)
    bench.states.keep()
    assert bench.states.at == first + 3
    assert [bench.states.isThere(first + n) for n in range(4)] == [True, False, False, True]
    assert not bench.states.forward() and bench.states.back() and bench.states.at == first


@pytest.mark.parametrize("kind", ["in place", "with another segment"])
def test_what_an_observer_changes_in_a_restored_state_belongs_to_it(headless, kind):
    """As when a labelmap is put where it belongs now."""
    bench = Bench(headless)
    bench.write()
    if kind != "in place":
        removeB(bench)
    bench.states.keep()
    done, last = [], bench.states.at

    def change(*_):
        if not done:
            done.append(True)
            bench.write(place=(8, 16, 16))

    event = "RepresentationModified" if kind == "in place" else "SegmentModified"
    tag = bench.segmentation.AddObserver(getattr(bench.segmentation, event), change)
    assert bench.states.back()
    bench.segmentation.RemoveObserver(tag)
    found = bench.look
    assert done and not bench.states.isChanged and bench.states.isThere(last)
    assert bench.states.forward() and bench.states.at == last and bench.look != found
    assert bench.states.back() and bench.look == found


def test_what_has_not_changed_is_kept_once(headless, monkeypatch):
    bench = Bench(headless)
    bench.segmentation.SeparateSegmentLabelmap("B")
    bench.states.keep()
    size = bench.states.nbytes
    copied = []
    copying = segment_copies.copying
    monkeypatch.setattr(segment_copies, "copying", lambda data: (copied.append(data), copying(data))[1])
    bench.write("B", (2, 5, 5))
    bench.states.keep()
    assert copied == [bench.image("B")]
    rename(bench)
    bench.states.keep()
    assert len(copied) == 1
    assert bench.states.nbytes < size + 2 * bench.image("B").GetActualMemorySize() * 1024
