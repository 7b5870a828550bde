"""The command line as a process: signals, pipes, imports, and once the whole way with a real worker."""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.files.image import read_image
from SAM2PropagateLib.files.segmentation import read_segmentation
from Testing.cli.running import SHAPE, ras_of, words, write_volume
from Testing.worker.helpers import forked_session

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "SAM2Propagate"
SAMPLE = ROOT / "Resources" / "Sample"
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and pipes")


def start(module: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(LIBRARY), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[call-overload]
    )


def slow(tmp_path: Path, *more: object, **options: object) -> subprocess.Popen[str]:
    volume = write_volume(tmp_path / "v.nrrd")
    return start(
        "Testing.cli.slow_cli",
        tmp_path / "models",
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "out.seg.nrrd"),
        *more,
        **options,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read stderr up to a line with `text`."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}")


def test_an_interrupt_while_it_starts_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt if name == "console" else AttributeError(name)

    monkeypatch.setitem(sys.modules, "SAM2PropagateLib.cli.main", Interrupted("SAM2PropagateLib.cli.main"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("SAM2PropagateLib.cli", run_name="__main__")
    assert ended.value.code == 130 and capsys.readouterr().err == "Cancelled; nothing was written.\n"


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_run_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with slow(tmp_path) as process:
        wait_for(process, "Propagating")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert "nothing was written" in err and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "v.nrrd"]


@posix_only
def test_an_interrupted_run_keeps_what_is_finished_when_told(tmp_path: Path) -> None:
    with slow(tmp_path, "--keep-partial") as process:
        wait_for(process, "Propagating: 1 of")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "what was finished is in" in err
    (segment,) = read_segmentation(tmp_path / "out.seg.nrrd").segments
    assert 0 < np.count_nonzero(segment.mask.any(axis=(1, 2))) < SHAPE[0]


@posix_only
def test_a_closed_pipe_at_stdout_does_not_stop_the_work(tmp_path: Path) -> None:
    with slow(tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        wait_for(process, "Propagating")
        process.stdout.close()
        process.stderr.close()
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "out.seg.nrrd").is_file()


def test_stdout_carries_one_line_in_any_encoding(tmp_path: Path) -> None:
    process = start(
        "Testing.cli.slow_cli",
        tmp_path / "models",
        *("segment", write_volume(tmp_path / "v.nrrd"), "--segment", "Milz ß 肝", "--range", 3, 3),
        *("--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "out.seg.nrrd"),
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("Wrote ") and out.count("\n") == 1 and "Milz ß 肝" in out


def test_a_console_without_curly_quotes_shows_straight_ones(tmp_path: Path) -> None:
    missing = tmp_path / "Milz.肝"
    given = ["segment", str(missing), "--point-ras", "1", "2", "3", "--out", str(tmp_path / "out.seg.nrrd")]
    done = subprocess.run(
        [sys.executable, "-m", "SAM2PropagateLib.cli", *given],
        env={**os.environ, "PYTHONPATH": str(LIBRARY), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    shown = str(missing).replace("肝", "\\u809d")
    assert done.returncode == 2 and f'There is no file "{shown}".' in done.stderr.decode("ascii")


def test_help_needs_neither_torch_nor_slicer() -> None:
    code = (
        "import sys; from SAM2PropagateLib.cli import main as cli; cli.main(['segment', '--help']); "
        "found = {'torch', 'sam2', 'slicer', 'vtk', 'qt'} & set(sys.modules); "
        "sys.exit(str(found) if found else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "--negative-ras" in result.stdout


def test_a_device_that_the_real_worker_does_not_have(tmp_path: Path) -> None:
    given = (
        *("segment", str(write_volume(tmp_path / "v.nrrd")), "--point-ras", *words(ras_of(7, 9, 3))),
        *("--device", "cuda:99", "--out", str(tmp_path / "out.seg.nrrd")),
    )
    stdout, stderr = io.StringIO(), io.StringIO()
    code = main(given, session_factory=forked_session, stdout=stdout, stderr=stderr)
    out, err = stdout.getvalue(), stderr.getvalue()
    assert code == 2 and out == "" and not (tmp_path / "out.seg.nrrd").exists()
    *_, last = err.splitlines()
    assert last.startswith("Error: The device “cuda:99” is not available") and "Traceback" not in err


def test_the_whole_way_with_the_real_worker_and_model(tmp_path: Path) -> None:
    """The bladder of the sample CT from one click, on the slice of the click and its neighbors."""
    labels = read_image(SAMPLE / "abdomen_ct_labels.nii.gz")
    bladder = labels.array == 21
    assert labels.geometry is not None
    k, j, i = 18, 57, 48
    assert bladder[k, j, i]
    out, report = tmp_path / "bladder.seg.nrrd", tmp_path / "report.json"
    started = time.monotonic()
    process = start(
        "SAM2PropagateLib.cli",
        *("segment", SAMPLE / "abdomen_ct.nii.gz", "--segment", "bladder"),
        *("--point-ras", *words(tuple(labels.geometry.ras_of_ijk((i, j, k)).tolist()))),
        *("--axis", "k", "--range", k - 1, k + 1, "--device", "cpu", "--out", out, "--report", report),
        "--debug",
    )
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.startswith(f"Wrote {out}: bladder: ") and stdout.count("\n") == 1
    (segment,) = read_segmentation(out).segments
    touched = np.flatnonzero(segment.mask.any(axis=(1, 2)))
    assert touched.tolist() == [k - 1, k, k + 1]
    for frame in touched:
        overlap = np.count_nonzero(segment.mask[frame] & bladder[frame])
        total = np.count_nonzero(segment.mask[frame]) + np.count_nonzero(bladder[frame])
        assert 2 * overlap / total > 0.8
    values = json.loads(report.read_text(encoding="utf-8"))
    assert values["model"]["model"] == "sam2propagate_tiny" and values["model"]["device"] == "cpu"
    assert values["run"]["slices_encoded"] >= 3 and values["segments"][0]["keyframes"] == [k]
    assert values["run"]["seconds"] < time.monotonic() - started
