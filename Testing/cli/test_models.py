"""`models`: the list, and download and removal with consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from SAM2PropagateLib.cli import models as cli_models
from SAM2PropagateLib.errors import Cancelled
from Testing.cli.running import run, store_in, write_volume
from Testing.training.samples import write_case


def test_the_list_tells_what_there_is_and_what_it_needs(tmp_path: Path) -> None:
    outcome = run(tmp_path, "models")
    assert outcome.code == 0 and outcome.err == ""
    heading, bundled, big, where = outcome.out.splitlines()
    assert heading.split() == ["NAME", "WHERE", "FILE", "INPUT", "MEMORY", "LICENSE", "WHAT"]
    assert bundled.startswith("sam2propagate_tiny *") and "bundled" in bundled and "Apache-2.0" in bundled
    assert "to download" in big and "3 MB" in big and "1024 px" in big and "0.5 GB" in big
    assert str(tmp_path / "models" / "cache") in where


def test_nothing_is_downloaded_without_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("downloaded without consent")

    monkeypatch.setattr(cli_models, "download", forbidden)
    outcome = run(tmp_path, "models", "--download", "big")
    assert outcome.code == 2
    for part in ("3 MB", "Apache-2.0", "https://example.invalid/big.pt", "--yes"):
        assert part in outcome.error_line


def test_a_download_with_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(entry, store, *, progress, cancelled):  # type: ignore[no-untyped-def]
        progress(1 << 20, 3 << 20)
        assert not cancelled()
        return store.path_of(entry)

    monkeypatch.setattr(cli_models, "download", fake)
    outcome = run(tmp_path, "models", "--download", "big", "--yes")
    path = tmp_path / "models" / "cache" / "models" / "big.pt"
    assert outcome.code == 0 and outcome.out == f"Downloaded big to {path}\n"
    assert "Downloading" in outcome.err


def test_an_interrupted_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*_: object, **__: object) -> None:
        raise Cancelled("cancelled", "The download of “big” was cancelled.")

    monkeypatch.setattr(cli_models, "download", fake)
    outcome = run(tmp_path, "models", "--download", "big", "--yes")
    assert outcome.code == 130 and "cancelled" in outcome.err and outcome.out == ""


def test_removal(tmp_path: Path) -> None:
    store = store_in(tmp_path / "models")
    path = store.path_of(store.find("big"))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(3 << 20))
    outcome = run(tmp_path, "models", "--remove", "big")
    assert outcome.code == 2 and "--yes" in outcome.error_line and path.exists()
    outcome = run(tmp_path, "models", "--remove", "big", "--yes")
    assert outcome.code == 0 and outcome.out == "Removed big: 3 MB freed\n" and not path.exists()
    assert run(tmp_path, "models", "--remove", "big", "--yes").out == "big was not there\n"


@pytest.mark.parametrize("option", ["--download", "--remove"])
def test_what_cannot_be_downloaded_or_removed(tmp_path: Path, option: str) -> None:
    outcome = run(tmp_path, "models", option, "sam2propagate_tiny", "--yes")
    assert outcome.code == 2 and "comes with the extension" in outcome.error_line
    outcome = run(tmp_path, "models", option, "nonsense", "--yes")
    assert outcome.code == 2 and "no model “nonsense”" in outcome.error_line


@pytest.mark.parametrize(
    "words",
    [
        "segment {volume} --point-ras 0 0 0 --out {out}.seg.nrrd --model big",
        "cohort {list} --out {out} --model big",
        "evaluate --cases {cases} --out {out}.json --model big",
        "evaluate --protocol shen2024 --cases {cases} --out {out} --model big",
        "finetune --cases {cases} --out {out}.safetensors --from big",
    ],
)
def test_every_command_says_how_to_get_a_model(tmp_path: Path, words: str) -> None:
    write_case(tmp_path / "cases", "p1")
    write_case(tmp_path / "cases", "p2", seed=1)
    listed = tmp_path / "list.csv"
    listed.write_text("volume,segment,prompts\nvolume.nrrd,x,--point-ras 0 0 0\n", encoding="utf-8")
    places = {
        "volume": write_volume(tmp_path / "volume.nrrd"),
        "list": listed,
        "cases": tmp_path / "cases",
        "out": tmp_path / "out",
    }
    outcome = run(tmp_path, *(word.format(**places) for word in words.split()))
    assert outcome.code == 2, outcome.err
    assert "The model “big” is not on this computer yet." in outcome.error_line
    assert outcome.error_line.endswith("models --download big --yes' gets it.")
    assert not list(tmp_path.glob("out*"))
