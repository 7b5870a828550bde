"""Manifests in JSON: read by one reader, and refused in one sentence."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.targets import find_targets
from SAM2PropagateLib.files.json_manifest import from_manifest
from SAM2PropagateLib.training.cases import find_cases

PAIRS = {"pairs": [{"name": "a", "labels": {"1": "liver"}, "recommended_targets": [1]}]}


def test_what_is_read_is_returned(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text('{"cases": ["ä"]}', encoding="utf-8")
    assert from_manifest(file, lambda content: content["cases"][0], "List cases.") == "ä"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "JSONDecodeError"),
        (b"\xff\xfe{", "UnicodeDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError: 'cases'"),
        (b'{"cases": {}}', "KeyError: 0"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_one_sentence_says_which_file_why_and_what_to_do(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as raised:
        from_manifest(file, lambda content: content["cases"][0], "List cases.")
    assert raised.value.code == "manifest_unreadable" and raised.value.hint == "List cases."
    assert str(file) in str(raised.value) and reason in str(raised.value)


def test_a_refusal_of_the_reader_stays_as_it_is(tmp_path: Path) -> None:
    def refuse(content: Any) -> None:
        raise InputError("no_cases", "It lists none.")

    file = tmp_path / "manifest.json"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="It lists none") as raised:
        from_manifest(file, refuse, "List cases.")
    assert raised.value.code == "no_cases"


@pytest.mark.parametrize("find", [find_targets, find_cases])
def test_a_manifest_that_windows_wrote_is_read(tmp_path: Path, find: Callable[..., Any]) -> None:
    (tmp_path / "a").mkdir()
    for name in ("image.nii.gz", "label.nii.gz"):
        (tmp_path / "a" / name).touch()
    text = codecs.BOM_UTF8 + json.dumps(PAIRS).encode("utf-8")
    (tmp_path / "manifest.json").write_bytes(text)
    assert len(find(tmp_path)) == 1
