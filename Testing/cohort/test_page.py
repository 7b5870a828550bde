"""The table, the page and its pictures: what is in them, in which order, and that names cannot do harm."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from SAM2PropagateLib.cohort.page import write_page
from SAM2PropagateLib.cohort.record import SegmentRow, VolumeRecord, read_record, write_record
from SAM2PropagateLib.cohort.table import lines_of, write_table
from SAM2PropagateLib.cohort.thumbnails import COUNT, SIDE, chosen_frames, strip
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.segment_job import FrameScore

EVIL = "<script>alert('x')</script> & \"quotes\""


def row(segment: str, doubt: float | None, voxels: int = 10, picture: bytes = b"") -> SegmentRow:
    return SegmentRow(segment, voxels / 10, voxels, 3, 4, 6, doubt, 1, (4, 5, 6), picture)


def record(name: str, *rows: SegmentRow) -> VolumeRecord:
    return VolumeRecord(
        f"/{name}\n\n", name, "f", f"/{name}.nii", 1.5, 9, "400 40 (so)", "tiny", ("a note",), rows
    )


class Page(HTMLParser):
    """The texts, tags and images of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def test_the_page_lists_the_most_doubtful_first_and_escapes_names(tmp_path: Path) -> None:
    volumes = [
        ("/waiting.nii", "waiting", None, None),
        ("/a.nii", "a", record("a", row("sure", 0.1), row(EVIL, 0.9)), None),
        (f"/{EVIL}.nii", "bad", None, InputError("x", f"It is {EVIL}.", "Do something.")),
        ("/b.nii", "b", record("b", row("none", 0.0, 0), row("unsure", None)), None),
    ]
    lines = lines_of(volumes)
    shown = [(line.name, line.row.segment if line.row else line.state) for line in lines]
    assert shown == [
        ("bad", "failed"),
        ("b", "none"),
        ("a", EVIL),
        ("a", "sure"),
        ("b", "unsure"),
        ("waiting", "not done yet"),
    ]
    write_page(tmp_path / "p.html", EVIL, lines, lambda line: b"\xff\xd8" if line.name == "a" else b"")
    page = Page(tmp_path / "p.html")
    assert "script" not in page.tags and page.tags.count("tr") == 1 + len(lines)
    assert page.texts.count(EVIL) == 3 and f"It is {EVIL}. Do something." in page.texts
    assert "2 volumes with 4 segments done, 1 failed, 1 not done yet." in page.texts
    assert [image["alt"] for image in page.images] == [
        f"a, {EVIL}: slices 5, 6, 7",
        "a, sure: slices 5, 6, 7",
    ]
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,/9g=") for image in page.images)
    # One file: nothing is fetched from anywhere.
    assert not re.search(r"(src|href)=\"(?!data:)", (tmp_path / "p.html").read_text(encoding="utf-8"))
    write_table(tmp_path / "t.csv", tmp_path, lines)
    with (tmp_path / "t.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["segment"] for line in table] == ["", "none", EVIL, "sure", "unsure", ""]
    assert table[2]["segmentation"] == str(tmp_path / "a.seg.nrrd") and table[2]["doubt"] == "0.9"
    assert table[0]["volume"] == f"/{EVIL}.nii" and table[5]["state"] == "not done yet"


def test_a_page_of_very_many_segments_has_pictures_for_the_first(tmp_path: Path) -> None:
    rows = [row(str(number), number / 10) for number in range(5)]
    lines = lines_of([("/a.nii", "a", record("a", *rows), None)])
    asked: list[str] = []

    def picture(line: object) -> bytes:
        asked.append(str(line))
        return b"\xff\xd8"

    write_page(tmp_path / "p.html", "t", lines, picture, most_pictures=2)
    page = Page(tmp_path / "p.html")
    assert len(page.images) == len(asked) == 2 and page.tags.count("tr") == 6
    assert any("Only the first 2 segments have pictures." in text for text in page.texts)


def test_a_record_is_read_as_it_was_written_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    one = record("a", row(EVIL, None, picture=bytes(range(256))))
    write_record(tmp_path / "a.json", one)
    assert read_record(tmp_path / "a.json") == one
    strange = replace(one, volume="/p\udcff/a.nii")
    write_record(tmp_path / "b.json", strange)
    assert read_record(tmp_path / "b.json") == strange
    for content in (
        b"",
        b"[]",
        b'{"format": "x"}',
        b'{"format": "sam2propagate-cohort-record", "version": 9}',
    ):
        (tmp_path / "a.json").write_bytes(content)
        assert read_record(tmp_path / "a.json") is None
    assert read_record(tmp_path / "none.json") is None


# --- pictures


def score(frame: int, doubt: float | None = 0.1, kind: str = "propagated") -> FrameScore:
    return FrameScore(frame, kind, 0.9, 5.0, doubt)


def test_the_pictures_show_prompted_doubtful_and_largest_frames() -> None:
    mask = np.zeros((20, 8, 8), bool)
    mask[4:16, 3, 3] = True
    mask[12, 2:6, 2:6] = True
    scores = [score(frame) for frame in range(4, 16)]
    scores[2], scores[10] = score(6, 0.0, "keyframe"), score(14, 0.8)
    assert chosen_frames(mask, scores) == (6, 12, 14)
    # Doubt about a frame without the structure is not shown; where frames coincide, others come.
    scores[0] = score(19, 0.99)
    assert 19 not in chosen_frames(mask, scores)
    assert len(set(chosen_frames(mask, [score(12, 0.9, "keyframe")]))) == COUNT
    assert chosen_frames(np.zeros((2, 8, 8), bool), []) == (0, 1)


# How the voxel axes i, j and k lie in the patient, as RAS directions.
@pytest.mark.parametrize(
    "directions",
    [
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
        ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
        ((0, -1, 0), (-1, 0, 0), (0, 0, 1)),
    ],
)
def test_pictures_are_oriented_as_in_a_viewer(directions: tuple[tuple[int, int, int], ...]) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(directions, dtype=np.float64).T
    geometry = VolumeGeometry((40, 40, 5), matrix)
    # Bright where the patient's right and front is.
    ijk = np.indices((40, 40, 5)).reshape(3, -1).T
    ras = geometry.ras_of_ijk(ijk)
    middle = (ras.min(axis=0) + ras.max(axis=0)) / 2
    bright = (ras[:, 0] > middle[0]) & (ras[:, 1] > middle[1])
    array = (bright * 200).astype(np.int16).reshape(40, 40, 5).T
    stack = FrameStack(array, geometry, 2, Window(200, 100))
    mask = np.zeros((5, 40, 40), bool)
    content = strip(stack, mask, (1, 2, 3), (1.0, 0.0, 0.0))
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None and picture.shape == (SIDE, 3 * SIDE + 8)
    first = picture[:, :SIDE].astype(float)
    half, quarter = SIDE // 2, SIDE // 4
    corners = [first[y, x] for y in (quarter, half + quarter) for x in (quarter, half + quarter)]
    # A reader has the patient's right at the left, and the front at the top.
    assert corners[0] > 150 and max(corners[1:]) < 50


def test_an_outline_is_drawn_around_the_structure_alone() -> None:
    geometry = VolumeGeometry((60, 60, 4), np.diag([-1.0, -1.0, 2.0, 1.0]))
    stack = FrameStack(np.full((4, 60, 60), 40, np.int16), geometry, 2, Window(400, 40))
    mask = np.zeros((4, 60, 60), bool)
    mask[1:3, 20:40, 25:35] = True
    picture = cv2.imdecode(np.frombuffer(strip(stack, mask, (0, 1, 2), (1.0, 0.0, 0.0)), np.uint8), 1)
    assert picture is not None
    red = picture[..., 2].astype(int) - picture[..., 0].astype(int) > 60
    assert not red[:, :SIDE].any()
    rows, columns = np.nonzero(red[:, SIDE + 4 : 2 * SIDE + 4])
    # Twice as high as wide, in the middle, and cropped to it with a margin of 15 mm.
    assert 1.7 < np.ptp(rows) / np.ptp(columns) < 2.3 and abs(rows.mean() - SIDE / 2) < 4
    assert 0.3 * SIDE < np.ptp(rows) < 0.5 * SIDE
