"""Real workers of Dask: they die and are replaced, a killed run goes on, and nobody else is let in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.cohort.fleet import TRIES_AGAIN, DaskFleet, LostWork, Sharing, open_fleet
from SAM2PropagateLib.cohort.needs import LocalPlan
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.segmentation import read_segmentation
from Testing.cohort.cases import die, fail, forked_workers, notes, write_manifest, write_volumes

psutil = pytest.importorskip("psutil")
default_client = pytest.importorskip("distributed").default_client
ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Resources" / "Sample" / "abdomen_ct.nii.gz"
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers leave their notes."""
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[DaskFleet]:
    """One worker on this computer."""
    opening = open_fleet(Sharing(), lambda: LocalPlan(1, 2), folder, lambda text: None)
    with forked_workers(COHORT_TEST_FOLDER=str(folder)), opening as opened:
        yield opened


def wait_until(is_true: Callable[[], object], what: str) -> None:
    """Wait for as long as a very busy machine may need."""
    end = time.monotonic() + 240
    while not is_true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@posix_only
def test_a_worker_that_dies_is_replaced_and_its_volume_tried_again(fleet: DaskFleet, folder: Path) -> None:
    items = [("ever", 99), ("once", 1), ("fine", 0)]
    answers = dict(fleet.each(die, items, lambda: False))
    assert isinstance(answers[0], LostWork)
    assert (answers[1], answers[2]) == ("once", "fine")
    # VolumeWork that waits is not to blame: it is not with the worker that dies.
    assert [notes(folder).count(name) for name, _ in items] == [1 + TRIES_AGAIN, 2, 1]


def test_work_that_fails_is_tried_again_too(fleet: DaskFleet, folder: Path) -> None:
    items = [("broken", 99), ("shaky", TRIES_AGAIN)]
    answers = dict(fleet.each(fail, items, lambda: False))
    assert isinstance(answers[0], OSError) and answers[1] == "shaky"
    assert [notes(folder).count(name) for name, _ in items] == [1 + TRIES_AGAIN] * 2


@pytest.mark.usefixtures("fleet")
def test_local_workers_listen_on_the_loopback_address_with_keys_only() -> None:
    own = psutil.Process()
    ports = [
        connection.laddr
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert ports and {address.ip for address in ports} == {"127.0.0.1"}
    for address in ports:
        # A client without the keys of this run, as any other user of this computer would be.
        with socket.create_connection(("127.0.0.1", address.port), timeout=60) as stranger:
            stranger.settimeout(60)
            stranger.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            try:
                answer = stranger.recv(64)
            except ConnectionResetError:
                answer = b""
        # Nothing at all, or a TLS alert: not Dask's greeting. The ports for web pages have none.
        assert answer[:1] in (b"", b"\x15") or answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.usefixtures("fleet")
def test_local_workers_are_told_to_serve_no_pages() -> None:
    """Without Bokeh, Dask has no pages to serve. So this looks at the options that Dask is given."""
    cluster = default_client().cluster
    specs = [cluster.scheduler_spec, *cluster.worker_spec.values()]
    assert [spec["options"]["dashboard"] for spec in specs] == [False, False]


# --- SLURM


@posix_only
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            '[ "$1" = --test-only ] && echo "sbatch: error: invalid partition specified: gpux" >&2 && exit 1',
            "SLURM does not take the jobs (invalid partition specified: gpux).",
        ),
        ("exit 1", "SLURM does not take the jobs (it said nothing)."),
        (None, "There is no program sbatch on this computer."),
    ],
)
def test_slurm_says_at_once_that_it_takes_no_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, said: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if program is not None:
        (programs / "sbatch").write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
        (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    told: list[str] = []
    fleet = open_fleet(Sharing(slurm="gpux"), lambda: LocalPlan(1, 1), tmp_path / "jobs", told.append)
    with pytest.raises(SAM2PropagateError) as raised, fleet:
        pass
    assert (raised.value.code, raised.value.sentence) == ("slurm_failed", said)
    # Nothing was asked for, and the keys of the run are gone.
    assert not told and not list((tmp_path / "jobs").iterdir())


@posix_only
def test_jobs_of_slurm_are_told_to_serve_no_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\n/bin/cat "$2" > "{tmp_path}/job"\nexit 1\n', encoding="utf-8")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    fleet = open_fleet(Sharing(slurm="gpu"), lambda: LocalPlan(1, 1), tmp_path / "jobs", lambda text: None)
    with pytest.raises(SAM2PropagateError), fleet:
        pass
    # They would need no keys.
    assert "--no-dashboard" in (tmp_path / "job").read_text(encoding="utf-8")


# --- the command


def start(tmp_path: Path, *words: object) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT / "SAM2Propagate"), str(ROOT)])
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "Testing.cohort.slow_cohort",
            str(tmp_path / "models"),
            "cohort",
            *map(str, words),
        ],
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "COHORT_TEST_FOLDER": str(tmp_path),
            "PYTHONIOENCODING": "utf-8",
        },
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@posix_only
def test_a_killed_run_resumes_without_repeating_volumes(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    write_volumes(tmp_path, *(f"{name}.nrrd" for name in names))
    manifest = write_manifest(tmp_path, *(f"{name}.nrrd,x,{{inside}}" for name in names))
    out = tmp_path / "out"
    words = (manifest, "--out", out, "--workers", 1)
    (tmp_path / "stuck").touch()
    with start(tmp_path, *words) as process:
        # The first one is done, the second one is under way when it is killed.
        wait_until(lambda: sum(note.startswith("volume") for note in notes(tmp_path)) >= 2, "the second")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "workers outlived the run that was killed"
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.seg.nrrd")}
    assert list(done) == ["a.seg.nrrd"]
    (tmp_path / "stuck").unlink()
    before = len(notes(tmp_path))
    with start(tmp_path, *words, "--resume") as process:
        told, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert told.startswith(f"Wrote {out / 'cohort.html'}: 3 of 3 volumes are done.")
    assert "1 of 3 volumes are finished already." in err
    for name, stamp in done.items():
        assert (out / name).stat().st_mtime_ns == stamp, f"{name} was done twice"
    again = [note.split()[0] for note in notes(tmp_path)[before:]]
    # One model for all of them.
    assert again == ["session", "volume", "volume"]
    assert not list(out.rglob("*.part"))


def test_the_bundled_model_on_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "list.csv"
    rows = f"{SAMPLE},bladder,--point-ras 2 170 148\n"
    manifest.write_text("volume,segment,prompts\n" + rows, encoding="utf-8")
    words = ["cohort", str(manifest), "--out", str(tmp_path / "out"), "--workers", "1", "--reach", "1"]
    words += ["--input-size", "256"]
    with forked_workers():
        assert main(words) == 0, capsys.readouterr().err
    (bladder,) = read_segmentation(tmp_path / "out" / "abdomen_ct.seg.nrrd").segments
    assert bladder.name == "bladder" and 1e3 < bladder.mask.sum() < 2e4
