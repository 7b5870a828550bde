"""Manifests: every fault of a row is a sentence, whatever wrote the file; rows of one volume are one job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from SAM2PropagateLib.cli.cohort import say_prompts
from SAM2PropagateLib.cohort.manifest import Entry, output_names, read_manifest
from SAM2PropagateLib.cohort.prompt_sources import joined
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.volume import read_volume
from Testing.cli.running import ras_of, words, write_volume

POINT = "--point-ras 1 2 3"


def read(folder: Path, content: str | bytes, name: str = "list.csv") -> tuple[Entry, ...]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_manifest(path, say_prompts(None))


def refusal(folder: Path, content: str | bytes, name: str = "list.csv") -> str:
    with pytest.raises(InputError) as raised:
        read(folder, content, name)
    assert raised.value.hint
    return str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"], ids=lambda name: name)
@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_csv_of_every_common_program_is_read(tmp_path: Path, encoding: str, separator: str) -> None:
    lines = ["Volume,Segment,Prompts", f"Müller/ct.nii,Läsion,{POINT}", "", " , , "]
    text = "\r\n".join(line.replace(",", separator) for line in lines)
    (entry,) = read(tmp_path, text.encode(encoding))
    assert entry.fault is None and entry.rows == (2,)
    assert entry.volume == tmp_path / "Müller" / "ct.nii"


def test_the_separator_line_that_excel_writes_is_read(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, f"sep=|\nvolume|segment|prompts\nct.nii|a|{POINT}\n")
    assert entry.fault is None and entry.rows == (3,)


def test_rows_of_one_volume_are_one_job_however_its_path_is_written(tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "v.nrrd")
    point = " ".join(words(ras_of(7, 9, 3)))
    rows = [
        f"v.nrrd,liver,--point-ras {point}",
        f"./x/../v.nrrd,spleen,--point-ras {point}",
        f"{volume},liver,--negative-ras {' '.join(words(ras_of(20, 9, 3)))}",
        f"other.nrrd,,{POINT}",
    ]
    first, second = read(tmp_path, "volume,segment,prompts\n" + "\n".join(rows))
    assert first.rows == (2, 3, 4) and second.rows == (5,)
    prompts = joined(first.sources, read_volume(volume).geometry, None)
    assert prompts.names == ("liver", "spleen")
    assert [click.positive for click in prompts.segment("liver").clicks] == [True, False]


def test_two_sources_for_one_segment_are_refused(tmp_path: Path) -> None:
    volume = read_volume(write_volume(tmp_path / "v.nrrd"))
    document = {
        "format": "sam2propagate-prompts",
        "version": 1,
        "segments": [{"segment": "liver", "clicks": [{"ras": ras_of(7, 9, 3)}]}],
    }
    (tmp_path / "p.json").write_text(json.dumps(document), encoding="utf-8")
    (entry,) = read(tmp_path, f"volume,segment,prompts\nv.nrrd,liver,{POINT}\nv.nrrd,,p.json\n")
    with pytest.raises(InputError, match="liver"):
        joined(entry.sources, volume.geometry, None)
    (other,) = read(tmp_path, "volume,segment,prompts\nv.nrrd,kidney,p.json\n")
    with pytest.raises(InputError, match="no prompts of “kidney”, but of “liver”"):
        joined(other.sources, volume.geometry, None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (f",liver,{POINT}", "names no volume"),
        ("ct.nii,liver,", "Row 2: It has no prompts"),
        ("ct.nii,liver,--point-ras 1 2", "Row 2: Argument --point-ras: expected 3 arguments"),
        ("ct.nii,liver,--point-ras 1 2 x", "“x” is not a number of millimeters"),
        ("ct.nii,liver,--model big", "Unrecognized arguments: --model big"),
        (f"ct.nii,liver,--segment x {POINT}", "--segment is not for the column"),
        ('ct.nii,liver,"--point-ras 1 2 \'3"', "cannot be read (No closing quotation)"),
        ("ct.nii,liver,prompts.txt", "neither an option of the command line nor a file of prompts"),
    ],
)
def test_a_wrong_row_is_told_and_the_other_rows_are_used(tmp_path: Path, row: str, said: str) -> None:
    bad, good = read(tmp_path, f"volume,segment,prompts\n{row}\ngood.nii,liver,{POINT}\n")
    assert bad.fault is not None and said in bad.fault.sentence and bad.fault.hint
    assert good.fault is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "a.nii,{p},one,,\na.nii,{p},two,,\n",
            "Rows 2 and 3 are of the same volume, but have “one” and “two”",
        ),
        ("a.nii,{p},,,40 20\na.nii,{p},,,400 40\n", "but have “40 20” and “400 40” for “window”"),
        ("a.nii,{p},x/y,,\n", "“x/y” for its outputs, which cannot be the name of a file"),
        ("a.nii,{p},CON,,\n", "“CON” for its outputs"),
    ],
)
def test_what_rows_say_of_their_volume_must_agree(tmp_path: Path, rows: str, said: str) -> None:
    (entry,) = read(tmp_path, "volume,prompts,name,series,window\n" + rows.replace("{p}", POINT))
    assert entry.fault is not None and said in str(entry.fault)


def test_a_name_given_twice_is_refused_for_the_second(tmp_path: Path) -> None:
    first, second = read(tmp_path, f"volume,prompts,name\na.nii,{POINT},one\nb.nii,{POINT},ONE\n")
    assert first.fault is None and second.fault is not None
    assert "Row 3 gives its outputs the name “ONE” of row 2" in str(second.fault)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "has no column “volume”"),
        ("volume,segment\n1,2\n", "has no column “prompts”"),
        ("volume,prompts,tint\n1,2,3\n", "an unknown column “tint”"),
        ("volume,prompts,volume\n1,2,3\n", "the column “volume” twice"),
        ("volume,prompts\n", "lists no volume"),
        (f"volume,prompts\na.nii,{POINT},3\n", "Line 2 of"),
        ('volume,prompts\na.nii,"--point', "cannot be read as CSV"),
        ("", "is empty"),
        (b"volume,prompts\n\x81\x8d", "cannot be read as text"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("[1]", "Row 1 of"),
        ('{"volume": "a"}', "is not a list"),
        ("[{", "not valid JSON"),
        ('[{"volume": 3, "prompts": "x"}]', "has 3 for “volume”"),
        ('[{"volume": "a"}]', "Row 1 of “{path}” has no column “prompts”"),
    ],
)
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, document: str, said: str) -> None:
    told = refusal(tmp_path, document, "list.json")
    assert said.replace("{path}", str(tmp_path / "list.json")) in told


def test_json_takes_words_lists_and_whole_prompts(tmp_path: Path) -> None:
    volume = read_volume(write_volume(tmp_path / "v.nrrd"))
    inside = list(ras_of(7, 9, 3))
    rows = [
        {"volume": "v.nrrd", "segment": "a", "prompts": ["--point-ras", *inside]},
        {"volume": "v.nrrd", "segment": "b", "prompts": " ".join(["--point-ras", *map(str, inside)])},
        {
            "volume": "v.nrrd",
            "prompts": {
                "format": "sam2propagate-prompts",
                "version": 1,
                "segments": [{"segment": "c", "clicks": [{"ras": inside}]}],
            },
        },
    ]
    (entry,) = read(tmp_path, json.dumps(rows), "list.json")
    assert set(joined(entry.sources, volume.geometry, None).names) == {"a", "b", "c"}
    (broken,) = read(tmp_path, json.dumps([{"volume": "v.nrrd", "prompts": {"format": "x"}}]), "list.json")
    assert broken.fault is not None and "Row 1: " in str(broken.fault)


@pytest.mark.parametrize("character", ["\0", "\ud800"])
@pytest.mark.parametrize("column", ["volume", "segment", "prompts", "name", "series", "part", "window"])
def test_a_character_that_no_file_can_hold_stays_with_its_row(
    tmp_path: Path, column: str, character: str
) -> None:
    good = {"volume": "good.nii", "segment": "a", "prompts": POINT}
    bad = {"volume": "bad.nii", "segment": "a", "prompts": POINT}
    bad[column] = bad.get(column, "x") + character
    first, second = read(tmp_path, json.dumps([bad, good]), "list.json")
    assert second.fault is None
    assert first.fault is not None and f"Row 1 has a character in its column “{column}”" in str(first.fault)
    output_names([first, second], {})
    words_of_it = {**good, "prompts": [*POINT.split(), character]}
    (entry,) = read(tmp_path, json.dumps([words_of_it]), "list.json")
    assert entry.fault is not None


def test_names_of_outputs_are_short_enough_for_every_file_system(tmp_path: Path) -> None:
    entries = read(tmp_path, f"volume,segment,prompts\n{'🫀' * 60}.nii,a,{POINT}\n")
    (name,) = output_names(entries, {})
    assert name == "🫀" * 50


def test_a_home_of_nobody_is_a_path_like_others(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, f"volume,segment,prompts\n~nobody-of-this-name/a.nii,a,{POINT}\n")
    assert entry.fault is None and entry.volume == tmp_path / "~nobody-of-this-name" / "a.nii"


def test_outputs_get_different_names_and_keep_them_when_resumed(tmp_path: Path) -> None:
    rows = "".join(
        f"{name},{POINT},\n" for name in ("p1/CT.nii.gz", "p2/ct.nii.gz", "p2/ct.nrrd", "x/con.nii")
    )
    entries = read(tmp_path, f"volume,prompts,name\nmine.nii,{POINT},ct\n{rows}")
    names = output_names(entries, {})
    assert names[0] == "ct" and len({name.casefold() for name in names}) == 5
    assert names[1] == "p1_CT" and names[2] == "p2_ct" and names[4] == "_con"
    # A longer manifest leaves the names of an earlier run alone.
    known = {entries[3].key: "ct"}
    assert output_names(entries[3:], known)[0] == "ct"
    assert output_names(entries[2:4], known) == ["p2_ct", "ct"]
    # But a name that the manifest gives to one volume is no other one's.
    names = output_names([entries[0], entries[3]], known)
    assert names[0] == "ct" and names[1].casefold() != "ct"
