"""The bundled model on real volumes, laid out as BraTS 2020 and the Decathlon are."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.experiment.running import CSV_NAME
from Testing.experiment.layouts import lay_out

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not (DATA / "manifest.json").is_file(), reason="the labeled volumes of ../shared/data are not here"
)


@needs_data
def test_a_brain_and_a_hippocampus(tmp_path: Path) -> None:
    folders = lay_out(DATA, tmp_path, ("brats", "brain", "hippocampus"), slices=5)
    found = {}
    for name, cases in folders.items():
        out, err = tmp_path / f"out_{name}", io.StringIO()
        words: list[object] = [
            "evaluate",
            "--protocol",
            "shen2024",
            "--cases",
            cases,
            "--out",
            out,
            "--prompt",
            "mask",
            "--motion",
            "off",
            "--input-size",
            256,
        ]
        stdout = io.StringIO()
        assert main([*map(str, words)], stdout=stdout, stderr=err) == 0, err.getvalue()
        with (out / CSV_NAME).open(encoding="utf-8-sig", newline="") as file:
            (found[name],) = csv.DictReader(file)
    # The same image and the same tumor, from one of four files and from a file with four channels.
    assert found["brats"]["sequence"] == "flair" and found["brain"]["sequence"] == "FLAIR"
    assert (found["brats"]["channel"], found["brain"]["channel"]) == ("", "0")
    assert found["brats"]["dice"] == found["brain"]["dice"] and float(found["brain"]["dice"]) > 0.3
    assert found["hippocampus"]["structure"] == "all labels" and float(found["hippocampus"]["dice"]) > 0.3
