"""Labelmaps that are made ahead and swapped in are just what Slicer's own way to write voxels leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import slicer
import vtk

from Headless.scenes import addSegmentation, fillSegment
from SAM2PropagateLib.scene import slabs
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.edits import EditTracker
from SAM2PropagateLib.scene.segment_writer import LogicSegmentWriter
from SAM2PropagateLib.scene.segments import SegmentReader, binaryLabelmapName, labelsOf, segmentIDs
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.undo_states import SegmentationStates, hashed
from SAM2PropagateLib.scene.volume import volumeGeometry
from Testing.scene.geometries import SHAPE_IJK, addCase

COLORS = {"A": (0.9, 0.2, 0.1), "B": (0.1, 0.8, 0.2), "C": (0.2, 0.3, 0.9)}
EVENTS = (
    "SourceRepresentationModified",
    "RepresentationModified",
    "ContainedRepresentationNamesModified",
    "SegmentAdded",
    "SegmentRemoved",
)


def ball(center, radius):
    """(K, J, I) bool."""
    k, j, i = np.mgrid[: SHAPE_IJK[2], : SHAPE_IJK[1], : SHAPE_IJK[0]]
    return ((i - center[0]) ** 2 + (j - center[1]) ** 2 + ((k - center[2]) * 2) ** 2) < radius**2


def frames(mask, axis=2, indices=None):
    count = SHAPE_IJK[axis]
    return {n: np.take(mask, n, 2 - axis) for n in (indices or range(count))}


OLD, NEW = ball((18, 17, 8), 9), ball((22, 20, 9), 10)
NOTHING = np.zeros_like(OLD)
FAR, NEAR = ball((5, 5, 2), 4), ball((25, 20, 9), 8)


@dataclass(frozen=True)
class CommitCase:
    """What segments hold before a commit, what the commit writes, and whether Slicer has to write it."""

    before: dict
    masks: dict
    needs_slicer: bool = False
    geometry: str = "plain"
    axis: int = 2
    prepare: object = field(default=lambda node: None)


def asShort(node):
    image = node.GetSegmentation().GetSegment("A").GetRepresentation(binaryLabelmapName())
    slicer.vtkOrientedImageDataResample.CastImageForValue(image, 1000)


def withLabel(node):
    node.GetSegmentation().GetSegment("A").SetLabelValue(7)


def onItsOwnGrid(node):
    image = node.GetSegmentation().GetSegment("A").GetRepresentation(binaryLabelmapName())
    image.SetOrigin(*(value + 0.4 for value in image.GetOrigin()))


def withSurfaces(node):
    node.CreateClosedSurfaceRepresentation()


def masked(low, high, mode="EditAllowedEverywhere"):
    """Prepares an editable intensity range, and an editable area."""

    def prepare(node):
        scene = node.GetScene()
        settings = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        settings.UnRegister(None)
        settings.SetSingletonTag("SegmentEditor")
        settings = scene.AddNode(settings)
        settings.SetSourceVolumeIntensityMask(True)
        settings.SetSourceVolumeIntensityMaskRange(low, high)
        settings.SetMaskMode(getattr(slicer.vtkMRMLSegmentationNode, mode))

    return prepare


CASES = {
    "nothing in it yet": CommitCase({}, {"A": frames(NEW)}),
    "gains and loses": CommitCase({"A": OLD}, {"A": frames(NEW)}),
    "gains and loses on some frames": CommitCase({"A": OLD}, {"A": frames(NEW, 2, [5, 6, 7, 10, 12])}),
    "along i": CommitCase({"A": OLD}, {"A": frames(NEW, 0)}, axis=0),
    "along j": CommitCase({"A": OLD}, {"A": frames(NEW, 1)}, axis=1),
    "loses all": CommitCase({"A": OLD}, {"A": frames(NOTHING)}),
    "loses all, and another one gains": CommitCase({"A": OLD}, {"A": frames(NOTHING), "B": frames(NEW)}),
    "shrinks": CommitCase({"A": OLD}, {"A": frames(ball((18, 17, 8), 4))}),
    "beside another one": CommitCase({"A": OLD, "B": FAR}, {"A": frames(OLD | ball((30, 30, 14), 3))}),
    "both at once": CommitCase(
        {"A": OLD, "B": FAR}, {"A": frames(OLD & NEW), "B": frames(ball((5, 5, 2), 2))}
    ),
    "takes over what the other one gives up": CommitCase(
        {"A": OLD}, {"A": frames(OLD & NEW), "B": frames(OLD & ~NEW), "C": frames(FAR)}
    ),
    "onto a neighbor": CommitCase({"A": OLD & ~NEAR, "B": NEAR}, {"A": frames(OLD | NEW)}, True),
    "loses beside a neighbor": CommitCase(
        {"A": OLD & ~NEAR, "B": NEAR}, {"A": frames(OLD & ~NEAR & ball((8, 17, 8), 9))}, True
    ),
    "onto each other": CommitCase({}, {"A": frames(NEW), "B": frames(NEAR)}, True),
    "a voxel larger than a byte": CommitCase({"A": OLD}, {"A": frames(NEW)}, prepare=asShort),
    "another label": CommitCase({}, {"A": frames(NEW)}, prepare=withLabel),
    "another grid": CommitCase({"A": OLD}, {"A": frames(NEW)}, True, prepare=onItsOwnGrid),
    "surfaces": CommitCase({"A": OLD}, {"A": frames(NEW)}, True, prepare=withSurfaces),
    "within a range of intensities": CommitCase({"A": OLD}, {"A": frames(NEW)}, prepare=masked(150, 400)),
    "within a range of intensities, beside another one": CommitCase(
        {"A": OLD, "B": FAR},
        {"A": frames(OLD | NEW & ~FAR)},
        geometry="oblique mirrored",
        prepare=masked(150, 400),
    ),
    "between two integers": CommitCase({"A": OLD}, {"A": frames(NEW)}, prepare=masked(150.5, 399.5)),
    "within a range and an area": CommitCase(
        {"A": OLD, "B": FAR},
        {"A": frames(NEW)},
        True,
        prepare=masked(150, 400, "EditAllowedOutsideAllSegments"),
    ),
    **{
        name: CommitCase({"A": OLD, "B": FAR}, {"A": frames(OLD | NEW & ~FAR)}, geometry=name)
        for name in ("flipped", "permuted", "oblique mirrored", "under transforms")
    },
}


class SlicersWay(LogicSegmentWriter):
    """Has every voxel written by Slicer."""

    @property
    def isPlain(self):
        return False

    @property
    def intensityRange(self):
        return None


class Bench:
    """A segmentation in a situation, and what is heard of it."""

    def __init__(self, headless, situation, writer):
        self.volumeNode = addCase(headless, situation.geometry)
        self.node = addSegmentation(headless, self.volumeNode, COLORS)
        for name, mask in situation.before.items():
            fillSegment(self.node, name, self.volumeNode, mask)
        # One labelmap for all of them, where they can share one.
        self.node.GetSegmentation().CollapseBinaryLabelmaps(False)
        situation.prepare(self.node)
        self.tracker = EditTracker(self.node, self.volumeNode)
        self.states = SegmentationStates(self.node)
        self.committer = SegmentCommitter(
            self.node, self.volumeNode, writer(self.node, self.volumeNode), self.tracker, self.states
        )
        self.heard = []
        self.listen(self.node.GetSegmentation())

    def listen(self, segmentation):
        # Python's part of it goes, and its observers with it, once nobody holds it.
        self.segmentation = segmentation
        for name in EVENTS:

            def hear(caller, event, callData="", name=name):
                self.heard.append((name, callData))
                # Whoever looks when told finds a whole image.
                for segmentID in segmentIDs(self.node):
                    image = segmentation.GetSegment(segmentID).GetRepresentation(binaryLabelmapName())
                    labelsOf(image)

            hear.CallDataType = "string0"
            segmentation.AddObserver(getattr(segmentation, name), hear)

    @property
    def look(self):
        """All that can be seen of the segmentation."""
        segmentation, kind = self.node.GetSegmentation(), binaryLabelmapName()
        geometry = volumeGeometry(self.volumeNode)
        images, seen = [], {}
        for name in segmentIDs(self.node):
            segment = segmentation.GetSegment(name)
            image = segment.GetRepresentation(kind)
            if image not in images:
                images.append(image)
            names = []
            segment.GetContainedRepresentationNames(names)
            seen[name] = (
                SegmentReader(self.node, name, geometry).array().tobytes(),
                images.index(image),
                segment.GetLabelValue(),
                sorted(names),
                slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment),
            )
        places = [
            (image.GetExtent(), image.GetOrigin(), image.GetSpacing(), directions(image)) for image in images
        ]
        return seen, places, [(labelsOf(image).dtype, labelsOf(image).tobytes()) for image in images]

    @property
    def record(self):
        return SceneState(self.node).get("edits")


def directions(image):
    matrix = vtk.vtkMatrix4x4()
    image.GetDirectionMatrix(matrix)
    return np.round(matrix.GetData(), 9).tolist()


@pytest.mark.parametrize("name", CASES)
def test_it_is_all_as_slicer_would_have_written_it(headless, name, monkeypatch):
    # So that a small volume has many slabs, too.
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 3000)
    situation = CASES[name]
    ours, slicers = (Bench(headless, situation, one) for one in (LogicSegmentWriter, SlicersWay))
    assert ours.look == slicers.look
    results = []
    for bench in (ours, slicers):
        plan = bench.committer.plan(situation.masks, situation.axis)
        summary = bench.committer.carryOut(plan)
        isDirect = plan.worked.layers is not None
        after, heard = bench.look, list(bench.heard)
        assert bench.states.voxels("A") == fresh(bench, "A")
        assert bench.committer.undo()
        before = bench.look
        assert bench.committer.redo()
        edited = [one.frame for one in bench.tracker.edited("A", situation.axis)]
        results.append(
            (summary, after, before, bench.look, bench.record, set(heard), edited, bench.states.voxels("A"))
        )
        assert isDirect is (bench is ours and not situation.needs_slicer)
        # Once of each; Slicer tells of what is lost and of what is gained.
        assert not isDirect or len(heard) == len(set(heard))
    assert results[0] == results[1]
    assert {(event, "A") for event in EVENTS[:2]} <= results[0][5]


def test_what_somebody_changes_who_is_told_is_seen(headless):
    """As when a script smooths a segment whenever it was written."""
    results = []
    for writer in (LogicSegmentWriter, SlicersWay):
        bench = Bench(headless, CASES["gains and loses"], writer)
        segmentation = bench.node.GetSegmentation()
        image = segmentation.GetSegment("A").GetRepresentation(binaryLabelmapName())
        done = []

        def change(*_, image=image, done=done):
            if not done:
                done.append(True)
                labelsOf(image)[3, 4, 5] ^= 1
                image.Modified()

        tag = segmentation.AddObserver(segmentation.RepresentationModified, change)
        bench.committer.commit({"A": frames(NEW)}, 2)
        segmentation.RemoveObserver(tag)
        assert done and bench.states.voxels("A") == fresh(bench, "A")
        results.append((bench.tracker.edited("A", 2), bench.tracker.edited("A", 0)))
    assert results == [((), ()), ((), ())]


def fresh(bench, segmentID):
    """What tells a segment's voxels from others, looked at once more."""
    segment = bench.node.GetSegmentation().GetSegment(segmentID)
    image, label = segment.GetRepresentation(binaryLabelmapName()), segment.GetLabelValue()
    return slabs.finished(hashed(image, [label]))[label]
