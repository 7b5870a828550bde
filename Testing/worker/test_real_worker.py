"""The worker with the real engine and the bundled model, on a part of the sample CT."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.files.volume import read_image
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, find_model
from SAM2PropagateLib.prompts.values import Box, PromptSet, to_ras
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.worker.forked import REAL, forks
from Testing.worker.held_worker import held_command
from Testing.worker.helpers import is_running, own_threads, soon

SAMPLE = LIBRARY_FOLDER.parent / "Resources" / "Sample"
LEFT_KIDNEY = 3
FIRST, FRAMES = 77, 6


def sample() -> tuple[np.ndarray, VolumeGeometry, np.ndarray]:
    """Some slices of the CT, (6, 101, 122), their geometry, and the left kidney in them."""
    image, labels = read_image(SAMPLE / "abdomen_ct.nii.gz"), read_image(SAMPLE / "abdomen_ct_labels.nii.gz")
    assert image.geometry is not None
    matrix = np.array(image.geometry.ijk_to_ras)
    matrix[:3, 3] = image.geometry.ras_of_ijk((0, 0, FIRST))
    array = image.array[FIRST : FIRST + FRAMES]
    geometry = VolumeGeometry((array.shape[2], array.shape[1], FRAMES), matrix)
    return array, geometry, labels.array[FIRST : FIRST + FRAMES] == LEFT_KIDNEY


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    return float(2 * np.count_nonzero(mask & reference) / (mask.sum() + reference.sum()))


@pytest.mark.skipif(os.name != "posix", reason="kills a process with a POSIX signal")
def test_the_real_worker_previews_propagates_and_survives_a_kill(tmp_path: Path) -> None:
    array, geometry, kidney = sample()
    middle = FRAMES // 2
    rows, columns = np.nonzero(kidney[middle])
    corners = [
        to_ras(geometry.ras_of_pixel(float(x), float(y), middle, 2))
        for x, y in ((columns.min(), rows.min()), (columns.max(), rows.max()))
    ]
    said = PromptSet().add("kidney", Box("b", *corners))
    shared, go = tmp_path / "shared", tmp_path / "go"
    shared.mkdir()
    started: list[PopenTransport] = []

    def start() -> PopenTransport:
        # The one that is killed is started as it is for users.
        popen = forks(REAL) if started else subprocess.Popen
        started.append(PopenTransport(held_command(2, go), popen=popen))
        return started[-1]

    with WorkerSession(start, folder=SharedFolder([shared])) as session:
        loaded = session.load_model(LoadModel(name="sam2propagate_tiny", device="cpu", precision="float32"))
        session.open_volume("ct", array, geometry, axis=2, window=Window.preset("soft-tissue"))
        preview = session.preview("ct", said, "kidney", middle)
        assert session.wait(preview, 120), session.log
        assert preview.state == "done", preview.error
        told = [loaded.result[key] for key in ("model", "device", "input_size")]
        assert told == [DEFAULT_MODEL, "cpu", find_model(DEFAULT_MODEL).input_size]
        assert loaded.result["dtype"] == "float32"
        assert preview.mask is not None and dice(preview.mask, kidney[middle]) > 0.7
        assert preview.frame is not None and 0 <= (preview.frame.doubt or 0) <= 1

        run = session.propagate("ct", said)
        assert soon(lambda: session.poll() is not None and len(run.frames) >= 2, 60)
        os.kill(started[0].pid, signal.SIGKILL)
        assert session.wait(run, 60) and run.state == "failed" and len(run.frames) == 2
        go.touch()
        again = session.propagate("ct", said)
        assert session.wait(again, 120), session.log
        assert again.state == "done" and session.starts == 2, again.error
        assert sorted(frame for _, frame in again.frames) == list(range(FRAMES))
        assert again.progress is not None and again.progress.done == again.progress.total == FRAMES
        for key, mask in run.masks.items():
            assert np.array_equal(mask, again.masks[key])
        assert dice(np.stack([again.masks["kidney", frame] for frame in range(FRAMES)]), kidney) > 0.7
        smooth = session.propagate("ct", said, options=RunOptions(everything=True, edges=True))
        assert session.wait(smooth, 120), session.log
        for (_, frame), event in smooth.frames.items():
            assert event.edge is not None and np.array_equal(event.mask, again.masks["kidney", frame])
            distances, is_known = event.edge.unpack()
            # What post-processing filled or took away is no edge of the model's.
            assert ((distances > 0) == event.mask)[is_known].mean() > 0.95
            assert 0 < np.abs(distances[is_known]).min() < 0.25 < np.abs(distances[is_known]).max()
        unchanged = session.propagate("ct", said)
        assert session.wait(unchanged, 60) and unchanged.frames == {}
        assert unchanged.result["frames_encoded"] == 0
    assert own_threads() == [] and list(shared.iterdir()) == []
    assert len(started) == 2 and soon(lambda: not any(is_running(worker.pid) for worker in started))


def test_the_client_imports_neither_torch_nor_slicer() -> None:
    modules = ("session", "client", "command", "transport", "messages", "server", "engine_adapter")
    forbidden = {"torch", "sam2", "slicer", "vtk", "qt", "SimpleITK"}
    lines = ["import sys", *(f"import SAM2PropagateLib.worker.{name}" for name in modules)]
    code = "\n".join([*lines, f"sys.exit(' '.join({forbidden} & set(sys.modules)) or 0)"])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(LIBRARY_FOLDER)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
