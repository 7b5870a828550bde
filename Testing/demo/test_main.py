"""What is refused before anything is started, in a sentence and with an exit status."""

from __future__ import annotations

import sys

import pytest

from Demo.__main__ import FAILURE, INTERRUPTED, main


def test_an_unknown_model_is_refused_before_the_worker_starts(tmp_path, capsys):
    assert main(["--model", "nonsense", "--out", str(tmp_path / "out")]) == FAILURE
    message = capsys.readouterr().err
    assert message.startswith("The demonstration failed: There is no model “nonsense”.")
    assert "Traceback" not in message


def test_an_output_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert main(["--out", str(tmp_path / "file" / "out")]) == FAILURE
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_an_output_that_is_a_folder_is_told(tmp_path, capsys):
    (tmp_path / "demo.png").mkdir()
    assert main(["--out", str(tmp_path)]) == FAILURE
    assert "demo.png" in capsys.readouterr().err


def test_unknown_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--nonsense"])
    assert stop.value.code == 2
    assert "run.py demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "Interrupted."),
        (ValueError("the inside"), FAILURE, "the inside (Run it again with --debug for the details.)"),
    ],
)
def test_what_nobody_foresaw_is_told_too(monkeypatch, tmp_path, capsys, error, status, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(sys.modules["Demo.__main__"], "demonstrate", fail)
    assert main(["--out", str(tmp_path)]) == status
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
