"""Devices and precisions: what is there, what is picked, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from SAM2PropagateLib.engine import build, device
from SAM2PropagateLib.engine.device import (
    available_devices,
    compute_dtype,
    cpu_has_bfloat16,
    describe,
    free_memory,
    pick_device,
)
from SAM2PropagateLib.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer that says it has two GPUs; whether they compute is up to `why_unusable`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def refused(code: str, name: str) -> InputError:
    with pytest.raises(InputError) as caught:
        pick_device(name)
    assert caught.value.code == code
    return caught.value


def test_the_cpu_is_always_there() -> None:
    assert available_devices()[-1] == "cpu"
    assert pick_device("cpu") == CPU
    assert pick_device(" CPU ") == CPU


def test_auto_picks_the_cpu_where_there_is_nothing_else(only_cpu: None) -> None:
    assert pick_device() == pick_device("auto") == CPU


def test_auto_picks_the_first_gpu_that_computes(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "why_unusable", lambda name: None)
    assert pick_device("auto") == torch.device("cuda:0")
    assert pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(device, "why_unusable", lambda name: "too old" if name == "cuda:0" else None)
    assert pick_device("auto") == torch.device("cuda:1")


def test_auto_goes_to_the_cpu_when_the_gpus_do_not_compute_and_says_so(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "why_unusable", lambda name: None if name == "cpu" else "no kernel image")
    assert pick_device("auto") == CPU
    assert "cuda:0 is there but cannot compute: no kernel image" in caplog.text
    assert "no kernel image" in refused("device_unusable", "cuda").sentence


def test_a_device_that_is_not_there_lists_what_is(only_cpu: None) -> None:
    for name in ("cuda", "cuda:0", "cuda:7", "mps"):
        assert refused("device_unavailable", name).hint == "Choose one of: auto, cpu."


def test_a_device_with_too_high_a_number(two_gpus: None) -> None:
    assert "cuda:0, cuda:1, cpu" in refused("device_unavailable", "cuda:2").hint


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1", "mps:0", "meta", "xpu"])
def test_names_that_are_none(name: str) -> None:
    assert "auto" in refused("unknown_device", name).hint


def test_a_gpu_that_torch_was_not_built_for_is_found_by_trying() -> None:
    if torch.cuda.is_available():
        assert device.why_unusable("cuda:0") is None
    else:
        assert device.why_unusable("cuda:0")


def test_descriptions() -> None:
    text = describe(CPU)
    assert text.startswith("CPU ") and "thread" in text
    if torch.cuda.is_available():
        assert "GB" in describe(torch.device("cuda:0"))


def test_free_main_or_gpu_memory_is_plausible() -> None:
    free = free_memory(CPU)
    assert free is not None and free > 1 << 26


def test_precisions_by_name() -> None:
    assert compute_dtype(CPU, "float32") == torch.float32
    assert compute_dtype(CPU, "bfloat16") == torch.bfloat16
    assert compute_dtype(torch.device("cuda:0"), "float16") == torch.float16
    with pytest.raises(InputError) as caught:
        compute_dtype(CPU, "int4")
    assert caught.value.code == "unknown_precision" and "bfloat16" in caught.value.hint


def test_automatic_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute_dtype(torch.device("mps")) == torch.float32
    for answer, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "cpu_has_bfloat16", lambda answer=answer: answer)
        assert compute_dtype(CPU) == wanted
    for capability, dtype in (((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda which, c=capability: c)
        assert compute_dtype(torch.device("cuda:0")) == dtype


def test_a_torch_that_cannot_be_asked_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(cpu_has_bfloat16(), bool)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    monkeypatch.setattr(device.platform, "machine", lambda: "AMD64")
    assert cpu_has_bfloat16() is False
    monkeypatch.setattr(device.platform, "machine", lambda: "riscv64")
    assert cpu_has_bfloat16() is False


def test_a_model_for_the_cpu_leaves_the_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """sam2 sends a table to the first GPU whenever there is one; here it goes where the model goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model: Any = build.build_model(build.model_config("sam2.1_hiera_t", 128), device=CPU, draw_weights=False)
    assert model.memory_attention.layers[0].self_attn.freqs_cis.device == CPU
    assert all(tensor.device == CPU for tensor in model.state_dict().values())
