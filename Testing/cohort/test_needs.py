"""How many workers a computer can feed, and what each of them gets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from SAM2PropagateLib.cohort import needs
from SAM2PropagateLib.cohort.needs import VOLUME_MB, gpu_count, local_plan, model_memory_mb, usable_cores
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, find_model

EACH = 800 + VOLUME_MB


@pytest.mark.parametrize(
    ("cores", "free_mb", "workers", "threads"),
    [
        (16, 100 * EACH, 16, 1),  # one for each core
        (16, 3 * EACH, 3, 5),  # as far as main memory goes
        (5, 100 * EACH, 5, 1),
        (1, 100 * EACH, 1, 1),
        (16, EACH // 2, 1, 16),  # one in any case
    ],
)
def test_without_a_gpu_cores_and_free_mb_decide(cores: int, free_mb: int, workers: int, threads: int) -> None:
    plan = local_plan(None, 800, 0, cores=cores, free_mb=free_mb)
    assert (plan.workers, plan.threads, plan.gpus, plan.note) == (workers, threads, 0, "")


def test_there_is_one_worker_for_each_gpu() -> None:
    plan = local_plan(None, 800, 3, cores=16, free_mb=100 * EACH)
    assert (plan.workers, plan.threads, plan.gpus, plan.cache_mb) == (3, 5, 3, None)


def test_what_the_user_wants_is_done_and_told_where_it_is_too_much() -> None:
    plan = local_plan(6, 800, 0, cores=4, free_mb=4 * EACH)
    assert (plan.workers, plan.threads) == (6, 1)
    assert f"6 workers may take {6 * EACH / 1024:.1f} GB" in plan.note and "--workers" in plan.note
    # One alone has to take what there is.
    assert local_plan(1, 800, 0, cores=4, free_mb=EACH // 2).note == ""
    assert local_plan(4, 800, 0, cores=4, free_mb=4 * EACH).note == ""


def test_workers_share_the_main_memory_for_features() -> None:
    assert local_plan(4, 800, 0, cores=8, free_mb=16000).cache_mb == 1000
    assert local_plan(2, 800, 0, cores=8, free_mb=10**6).cache_mb == 4096, "as the engine limits it"
    assert local_plan(1, 800, 0, cores=8, free_mb=16000).cache_mb is None, "one chooses by itself"


def test_where_main_memory_is_unknown_cores_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "available_host_memory", lambda: None)
    plan = local_plan(None, 800, 0, cores=8)
    assert (plan.workers, plan.cache_mb, plan.note) == (8, None, "")
    monkeypatch.setattr(needs, "available_host_memory", lambda: 2 * EACH << 20)
    assert local_plan(None, 800, 0, cores=8).workers == 2


def test_a_model_of_the_user_s_own_is_judged_by_its_file(tmp_path: Path) -> None:
    entry = find_model(DEFAULT_MODEL)
    file = tmp_path / "mine.safetensors"
    with file.open("wb") as handle:
        handle.truncate(150 << 20)
    assert model_memory_mb(entry, file) == entry.memory_mb
    assert model_memory_mb(None, file) == 400 + 2 * 150


def test_only_an_open_choice_shares_out_gpus() -> None:
    for device in ("auto", "cuda"):
        assert gpu_count(device, lambda: 4) == 4
    for device in ("cpu", "mps", "cuda:1"):
        assert gpu_count(device, lambda: 4) == 0


@pytest.mark.parametrize(("answer", "count"), [("2\n", 2), ("a warning\n3\n", 3), ("", 0), ("none\n", 0)])
def test_gpus_are_counted_in_a_process_of_their_own(
    answer: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, answer, "")

    monkeypatch.setattr(needs.sys, "platform", "linux")
    monkeypatch.setattr(needs.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(needs.subprocess, "run", run)
    assert gpu_count("auto") == count and "device_count" in asked[0][-1]


def test_without_a_driver_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(needs.subprocess, "run", run)
    monkeypatch.setattr(needs.shutil, "which", lambda name: None)
    assert gpu_count("auto") == 0
    monkeypatch.setattr(needs.shutil, "which", lambda name: name)
    monkeypatch.setattr(needs.sys, "platform", "darwin")
    assert gpu_count("auto") == 0


@pytest.mark.parametrize(
    "error",
    [OSError("no"), subprocess.CalledProcessError(1, "python"), subprocess.TimeoutExpired("python", 1)],
)
def test_a_count_that_fails_is_none(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(needs.sys, "platform", "linux")
    monkeypatch.setattr(needs.shutil, "which", lambda name: name)
    monkeypatch.setattr(needs.subprocess, "run", run)
    assert gpu_count("cuda") == 0


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(needs.os, "sched_getaffinity")
    monkeypatch.setattr(needs.os, "cpu_count", lambda: None)
    assert usable_cores() == 1
