"""8-bit integers in the image encoder: how close they come, when they are chosen, and when they are not."""

from __future__ import annotations

import logging
from dataclasses import replace
from subprocess import PIPE

import pytest
import torch

from SAM2PropagateLib.cli.options import PRECISIONS as PRECISIONS_OF_COMMANDS
from SAM2PropagateLib.engine import device, int8_linear
from SAM2PropagateLib.engine.build import load_model
from SAM2PropagateLib.engine.device import PRECISIONS, compute_dtype, uses_int8
from SAM2PropagateLib.engine.int8_linear import Int8Linear, why_no_int8
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.errors import InputError
from Testing.engine.models import BUNDLED, bundled, random_model
from Testing.worker.forked import REAL, forks
from Testing.worker.helpers import command_of

CPU = torch.device("cpu")
NOT_HERE = why_no_int8()
needs_int8 = pytest.mark.skipif(NOT_HERE is not None, reason=f"no 8-bit integers here: {NOT_HERE}")


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@needs_int8
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 288), (7, 3), (384, 1)])
def test_a_layer_comes_close_to_its_floats(inputs: int, outputs: int) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(inputs, outputs)
    values = torch.randn(2, 5, 6, inputs)
    with torch.inference_mode():
        wanted, found = linear(values), Int8Linear(linear)(values)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert 0 < relative(found, wanted) < 0.03


@needs_int8
def test_a_layer_that_is_zero_stays_zero() -> None:
    linear = torch.nn.Linear(4, 2, bias=False)
    torch.nn.init.zeros_(linear.weight)
    with torch.inference_mode():
        assert Int8Linear(linear)(torch.randn(3, 4)).abs().max() == 0
        assert Int8Linear(torch.nn.Linear(4, 2, bias=False))(torch.zeros(3, 4)).abs().max() == 0


@needs_int8
@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_sums_fit_into_what_older_processors_add_in(limit: str) -> None:
    """The largest inputs on the largest weights, which fill 17 bits if nobody sees to it.

    On a processor that lacks what is not excluded, this is the same as the next lower limit.
    """
    command = command_of("Testing.engine.full_range", ONEDNN_MAX_CPU_ISA=limit)
    # oneDNN reads the limit when it computes for the first time, which a forked process has not done.
    with forks(REAL)(
        command.argv, env=command.env, cwd=command.cwd, stdout=PIPE, encoding="utf-8"
    ) as process:
        answer, _ = process.communicate()
    assert process.returncode == 0
    assert float(answer) < 0.02


@needs_int8
def test_features_come_close_to_those_in_floats() -> None:
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    wanted = SAM2Steps(bundled()).encode(image)[0]
    steps = SAM2Steps(bundled("int8"))
    found = steps.encode(image)[0]
    assert steps.dtype == torch.float32 and steps.loaded.precision == "int8"
    assert relative(found.fine, wanted.fine) < 1e-5, "the first stage computes in floats"
    for one, other in ((found.middle, wanted.middle), (found.coarse, wanted.coarse)):
        assert 1e-4 < relative(one, other) < 0.15


@needs_int8
def test_random_weights_come_close_as_well() -> None:
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    wanted = SAM2Steps(random_model()).encode(image)[0]
    found = SAM2Steps(replace(random_model(), int8=True)).encode(image)[0]
    assert 1e-5 < relative(found.coarse, wanted.coarse) < 0.1


@needs_int8
def test_making_a_layer_leaves_the_chosen_backend_alone() -> None:
    before = torch.backends.quantized.engine
    Int8Linear(torch.nn.Linear(4, 4))
    assert torch.backends.quantized.engine == before


def test_it_is_chosen_where_it_works_and_bfloat16_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bfloat16, reason, wanted in ((False, None, True), (True, None, False), (False, "old", False)):
        monkeypatch.setattr(device, "cpu_has_bfloat16", lambda answer=has_bfloat16: answer)
        monkeypatch.setattr(device, "why_no_int8", lambda answer=reason: answer)
        assert uses_int8(CPU) is wanted
        assert not uses_int8(CPU, "float32") and not uses_int8(CPU, "bfloat16")
        assert not uses_int8(torch.device("cuda:0")) and not uses_int8(torch.device("mps"))


@needs_int8
def test_a_loaded_model_says_in_which_precision_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: False)
    assert load_model(BUNDLED, device="cpu").precision == "int8"
    assert load_model(BUNDLED, device="cpu", precision="float32").precision == "float32"
    assert load_model(BUNDLED, device="cpu", precision="bfloat16").precision == "bfloat16"


def test_without_a_backend_floats_are_used_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(int8_linear.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["abacus"])
    with caplog.at_level(logging.INFO):
        loaded = load_model(BUNDLED, device="cpu")
    assert loaded.precision == "float32" and not loaded.int8
    assert "built without onednn" in caplog.text
    with pytest.raises(InputError) as caught:
        load_model(BUNDLED, device="cpu", precision="int8")
    assert caught.value.code == "int8_unavailable" and "onednn" in caught.value.sentence


def test_older_and_other_processors_use_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linear.platform, "machine", lambda: "arm64")
    assert "arm64" in str(why_no_int8())
    monkeypatch.setattr(int8_linear.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert "AVX2" in str(why_no_int8())


@needs_int8
def test_a_backend_that_fails_or_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(layer: Int8Linear, values: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("could not create\na primitive")

    monkeypatch.setattr(Int8Linear, "forward", fails)
    assert why_no_int8() == "could not create a primitive"
    monkeypatch.setattr(Int8Linear, "forward", lambda layer, values: values + 7)
    assert "wrong" in str(why_no_int8())


def test_it_is_refused_where_there_are_no_integers() -> None:
    with pytest.raises(InputError) as caught:
        uses_int8(torch.device("cuda:0"), "int8")
    assert caught.value.code == "int8_unavailable" and "CPU" in caught.value.sentence


def test_the_commands_offer_what_there_is() -> None:
    assert set(PRECISIONS_OF_COMMANDS) == {"auto", *PRECISIONS}
    assert compute_dtype(CPU, "int8") == torch.float32
