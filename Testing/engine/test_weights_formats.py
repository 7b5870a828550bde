"""Weights files: three formats in, one out, and whatever else it is: one clear sentence, and no code run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from SAM2PropagateLib.engine.weights import (
    PACKED_FORMAT,
    pack,
    parameter_count,
    read_state,
    stays_float,
    write_packed,
)
from SAM2PropagateLib.errors import InputError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "layer.weight": torch.randn(64, 48, generator=draw) * torch.logspace(-3, 1, 64)[:, None],
        "layer.bias": torch.randn(64, generator=draw),
        "upscaling.weight": torch.randn(64, 32, 2, 2, generator=draw),
        "pos_embed": torch.randn(1, 96, 7, 7, generator=draw),
        "small.weight": torch.randn(4, 8, generator=draw),
    }


def refused(path: Path, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_state(path)
    assert caught.value.code == code, caught.value
    assert path.name in caught.value.sentence and "\n" not in str(caught.value)
    return caught.value


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# what can be read


def test_plain_safetensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state, path, {"config": "{}", "format": "pt"})
    read, metadata = read_state(path)
    assert same(read, state) and metadata["config"] == "{}"
    assert parameter_count(path) == sum(tensor.numel() for tensor in state.values())


def test_half_precision_becomes_float32(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.half() for name, tensor in state.items()}, path)
    read, _ = read_state(path)
    assert all(tensor.dtype == torch.float32 for tensor in read.values())
    assert same(read, {name: tensor.half().float() for name, tensor in state.items()})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_metas_checkpoints(tmp_path: Path, state: dict[str, torch.Tensor], zipped: bool) -> None:
    path = tmp_path / "sam2.pt"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
    read, metadata = read_state(path)
    assert same(read, state) and metadata == {}
    assert parameter_count(path) >= sum(tensor.numel() for tensor in state.values())


def test_the_content_decides_not_the_name(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    checkpoint, plain = tmp_path / "a.safetensors", tmp_path / "b.pt"
    torch.save({"model": state}, checkpoint)
    save_file(state, plain)
    assert same(read_state(checkpoint)[0], state) and same(read_state(plain)[0], state)


def test_a_safetensors_header_that_looks_like_a_pickle(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "weights.safetensors"
    for length in range(1, 2000):
        save_file({"a": torch.ones(3)}, path, {"x": "y" * length})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80, "a header length that starts like a pickle was not found"
    assert torch.equal(read_state(path)[0]["a"], torch.ones(3))


# the compact format


def test_packed_comes_back_nearly_the_same(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "packed.safetensors"
    write_packed(state, {"name": "x"}, path)
    read, metadata = read_state(path)
    assert metadata == {"name": "x", "format": PACKED_FORMAT}
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert read[name].dtype == torch.float32 and read[name].shape == tensor.shape
    # One scale per channel: rows ten thousand times apart in size are each kept to within half a step.
    step = state["layer.weight"].abs().amax(1, keepdim=True) / 127
    wrong = (read["layer.weight"] - state["layer.weight"]).abs()
    assert bool((wrong.pow(2).mean(1, keepdim=True).sqrt() < 0.5 * step).all())
    assert torch.equal(read["layer.bias"], state["layer.bias"])
    assert torch.equal(read["pos_embed"], state["pos_embed"].half().float())
    assert path.stat().st_size < 0.5 * sum(tensor.numel() * 4 for tensor in state.values())
    assert parameter_count(path) == sum(tensor.numel() for tensor in state.values())


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    metadata = {f"key {number}": "value" for number in range(9)}
    contents = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        items = list(state.items())
        write_packed(dict(items if number % 2 else items[::-1]), metadata, path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert len(list(tmp_path.iterdir())) == 4  # nothing unfinished is left


def test_transposed_convolutions_are_scaled_along_their_outputs() -> None:
    weight = torch.randn(64, 32, 2, 2) * torch.logspace(-2, 2, 32)[None, :, None, None]
    values, scale = pack(weight)
    assert scale.shape == (1, 32, 1, 1)
    assert float((values * scale - weight).norm() / weight.norm()) < 0.01


def test_delicate_tensors_stay_float() -> None:
    big = torch.zeros(64, 64)
    for name in (
        "image_encoder.trunk.pos_embed",
        "maskmem_tpos_enc",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "sam_mask_decoder.mask_tokens.weight",
        "no_obj_ptr",
    ):
        assert stays_float(name, big)
    assert stays_float("a.weight", torch.zeros(10, 10)) and stays_float("a.bias", torch.zeros(4096))
    assert not stays_float("a.weight", big)


def test_weights_that_are_not_numbers_are_not_packed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        write_packed({"a": torch.tensor([1.0, float("nan")])}, {}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_packed_without_its_scale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    save_file({"a": torch.ones(4, 4, dtype=torch.int8)}, path, {"format": PACKED_FORMAT})
    refused(path, "weights_damaged")
    for scale in (torch.ones(3, 1), torch.ones(4), torch.full((4, 1), float("nan"))):
        tensors = {"a": torch.ones(4, 4, dtype=torch.int8), "a.scale": scale}
        save_file(tensors, path, {"format": PACKED_FORMAT})
        refused(path, "weights_damaged")


def test_a_later_format_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "later.safetensors"
    save_file(state, path, {"format": "sam2propagate-2"})
    assert "Update" in refused(path, "weights_newer").hint


# what cannot


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize("part", [0.03, 0.5, 0.999])
def test_cut_off_safetensors(tmp_path: Path, state: dict[str, torch.Tensor], part: float) -> None:
    path = tmp_path / "weights.safetensors"
    write_packed(state, {}, path)
    cut(path, part)
    refused(path, "weights_damaged")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.03, 0.5, 0.99])
def test_cut_off_checkpoints(
    tmp_path: Path, state: dict[str, torch.Tensor], part: float, zipped: bool
) -> None:
    path = tmp_path / "sam2.pt"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
    cut(path, part)
    refused(path, "weights_damaged")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(100)],
    ids=["empty", "web page", "picture", "zeros"],
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refused(path, "weights_not_weights")


def test_another_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not weights")
    refused(path, "weights_not_weights")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "missing.pt", "weights_missing")
    refused(tmp_path, "weights_not_weights")


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {}}, {"model": [1, 2]}, [torch.ones(2)], torch.ones(2), {"model": {"a": 3}}],
    ids=["other key", "a list", "no table", "one tensor", "a number"],
)
def test_a_checkpoint_without_model(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    refused(path, "weights_no_model")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, 2, device="meta"),
        torch.ones(2, 2, dtype=torch.complex64),
    ],
    ids=["sparse", "without values", "complex"],
)
def test_tensors_that_are_no_plain_numbers(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": {"a": torch.ones(2), "b": tensor}}, path)
    assert "“b”" in refused(path, "weights_not_plain").sentence


class Malicious:
    """Unpickling this makes a folder: harmless, but it shows whether code ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["torch", "torch before 1.6", "pickle 2", "pickle 4", "beside the model"])
def test_a_file_that_would_run_code_runs_none(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "code ran"
    bad = Malicious(trace)
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"model": bad}, protocol=int(form[-1])))
    elif form == "beside the model":
        torch.save({"model": {"a": torch.ones(2)}, "optimizer": bad}, path)
    else:
        torch.save({"model": bad}, path, _use_new_zipfile_serialization=form == "torch")
    refused(path, "weights_unsafe")
    assert not trace.exists()
    # The file is not harmless by accident: the usual way to load it does run the code.
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert trace.is_dir()


def test_metadata_is_never_code(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state, path, {"config": json.dumps({"base": "__import__('os')"})})
    assert read_state(path)[1]["config"] == json.dumps({"base": "__import__('os')"})
