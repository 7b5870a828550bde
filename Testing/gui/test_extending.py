"""The scripts in docs/extending.md do what the page says."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import slicer

from SAM2PropagateLib.files.segmentation import read_segmentation
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.worker import session
from SAM2PropagateTesting.answers import AnsweringSession
from Testing.cli.fake_session import FakeJobSession
from Testing.gui.conftest import MODULE_FILE, ROOT

SHAPE = (60, 40, 50)
# The scripts click in the middle of it.
CORNER = (-102.0, -22.0, 70.0)


def scripts() -> list[str]:
    """The blocks of Python in the part on scripts."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text[text.index("## A script") :], flags=re.S)


def test_what_the_page_imports_of_the_library_is_there(stand_ins: Any) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    imported = re.findall(r"^from (SAM2PropagateLib[\w.]*) import (.+)$", text, flags=re.M)
    names = [(module, name) for module, some in imported for name in some.split(", ")]
    assert ("SAM2PropagateLib.gui.editor_writer", "EditorSegmentWriter") in names
    assert [one for one in names if not hasattr(importlib.import_module(one[0]), one[1])] == []


def image() -> np.ndarray:
    array = np.zeros(SHAPE, np.int16)
    array[20:40, 10:30, 15:35] = 100
    return array


def test_there_is_one_for_slicer_and_one_without() -> None:
    assert [("import slicer" in one, "WorkerSession" in one) for one in scripts()] == [
        (True, False),
        (False, True),
    ]


def test_the_script_for_slicer(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE)
    sessions: list[AnsweringSession] = []

    def logic() -> Any:
        return module.python.SAM2PropagateLogic(
            makeSession=lambda: sessions.append(AnsweringSession()) or sessions[-1]
        )

    monkeypatch.setitem(sys.modules, "SAM2Propagate", SimpleNamespace(SAM2PropagateLogic=logic))
    node = slicer.util.addVolumeFromArray(image(), name="CT")
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = CORNER
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    exec(scripts()[0], {})
    segmentation = slicer.util.getNode("Result")
    segment = segmentation.GetSegmentation().GetNthSegmentID(0)
    geometry = module.python.volumeGeometry(node)
    found = SegmentReader(segmentation, segment, geometry).array().any(axis=(1, 2))
    assert list(np.flatnonzero(found)) == list(range(10, 51)), "20 slices on both sides of the click"
    assert sessions[0].isClosed


def test_the_script_without_slicer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = sitk.GetImageFromArray(image())
    written.SetSpacing((2.0, 2.0, 2.0))
    r, a, s = CORNER
    written.SetOrigin((-r, -a, s))
    written.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(written, str(tmp_path / "CT.nii.gz"))
    monkeypatch.chdir(tmp_path)
    made: list[FakeJobSession] = []

    class RememberedSession(FakeJobSession):
        def __enter__(self) -> RememberedSession:
            made.append(self)
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    monkeypatch.setattr(session, "WorkerSession", lambda command: RememberedSession())
    exec(scripts()[1], {})
    (segment,) = read_segmentation(tmp_path / "liver.seg.nrrd").segments
    assert segment.name == "liver" and segment.mask.any() and len(made) == 1
