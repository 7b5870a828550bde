"""Building and loading: configurations, input sizes, strictness, main memory, the bundled weights."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from SAM2PropagateLib.engine import build
from SAM2PropagateLib.engine.build import (
    build_model,
    check_input_size,
    config_names,
    load_model,
    memory_needed,
    model_config,
    recognize_config,
)
from SAM2PropagateLib.engine.weights import read_state, write_packed
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, find_model
from SAM2PropagateLib.models.store import resource_folder
from Testing.engine.official import write_checkpoint

TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
BUNDLED = resource_folder() / "sam2propagate_tiny.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 2.1 tiny with random weights, as Meta saves, in a small file."""
    return write_checkpoint(find_model("sam2.1_hiera_tiny"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def large_tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same in a file that is as large as Meta's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "tiny.pt"
    torch.save({"model": build_model(model_config(TINY, 128)).state_dict()}, path)
    yield path
    path.unlink()


def refused(code: str, call: Any, *arguments: Any, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return caught.value


# the bundled weights


def test_the_bundled_weights_are_complete_and_say_what_they_are() -> None:
    loaded = load_model(BUNDLED, device="cpu")
    assert (loaded.name, loaded.input_size) == (DEFAULT_MODEL, find_model(DEFAULT_MODEL).input_size)
    assert loaded.metadata["licence"] == "Apache-2.0"  # codespell:ignore
    assert loaded.metadata["version"] and "Meta" in loaded.metadata["origin"]
    config = json.loads(loaded.metadata["config"])
    assert config["base"] == TINY
    assert len(loaded.model.memory_attention.layers) == 2
    stored, _ = read_state(BUNDLED)
    own = loaded.model.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name], stored[name]) for name in own)


def test_the_bundled_model_sees_a_disc() -> None:
    """One click in the middle of a bright disc gives the disc: trained weights, in their places."""
    loaded = load_model(BUNDLED, device="cpu", precision="float32")
    model, size = loaded.model, loaded.input_size
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((x - 150) ** 2 + (y - 110) ** 2) < 45**2
    image = (0.25 + 0.5 * disc).expand(1, 3, -1, -1)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.inference_mode():
        encoded = model.forward_image((image - mean) / deviation)
        _, features, positions, sizes = model._prepare_backbone_features(encoded)
        answer = model.track_step(
            0,
            True,
            features,
            positions,
            sizes,
            {
                "point_coords": torch.tensor([[[150.0, 110.0]]]),
                "point_labels": torch.ones(1, 1, dtype=torch.int32),
            },
            None,
            {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}},
            1,
        )
    logits = torch.nn.functional.interpolate(answer["pred_masks"], (size, size), mode="bilinear")[0, 0]
    mask = logits > 0
    dice = 2 * float((mask & disc).sum()) / float(mask.sum() + disc.sum())
    assert dice > 0.95
    assert answer["maskmem_features"].shape == (1, 64, size // 16, size // 16)


# input sizes


@pytest.mark.parametrize("size", [64, 128, 192, 320])
def test_sizes_that_work(size: int) -> None:
    model: Any = build_model(model_config(TINY, check_input_size(size)))
    side = size // 16
    with torch.inference_mode():
        features = model.forward_image(torch.zeros(1, 3, size, size))["backbone_fpn"][-1]
        assert features.shape == (1, 256, side, side)
        current = features.flatten(2).permute(2, 0, 1)
        memory = torch.zeros(side * side + 4, 1, 64)
        out = model.memory_attention(
            curr=[current], curr_pos=[current], memory=memory, memory_pos=memory, num_obj_ptr_tokens=4
        )
        assert out.shape == current.shape
    # The table of positions has the right size, so that it is not made again at each call.
    for layer in model.memory_attention.layers:
        assert layer.self_attn.freqs_cis.shape[0] == side * side


@pytest.mark.parametrize("size", [0, -256, 32, 100, 250, 4096, True, 256.0])
def test_sizes_that_do_not(size: Any) -> None:
    error = refused("bad_input_size", check_input_size, size)
    assert "multiple of 32" in error.hint


def test_the_size_can_be_chosen_and_else_is_the_configurations(tiny: Path) -> None:
    assert load_model(tiny, device="cpu").input_size == 1024
    assert load_model(tiny, device="cpu", input_size=192).model.image_size == 192
    refused("bad_input_size", load_model, tiny, device="cpu", input_size=200)


# configurations


def test_settings_for_interactive_use_as_sam2s_own_predictor_has() -> None:
    values = model_config(TINY)
    assert values["binarize_mask_from_pts_for_mem_enc"] is True
    assert values["sam_mask_decoder_extra_args"] == {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    decoder: Any = build_model(values, draw_weights=False)
    assert decoder.sam_mask_decoder.dynamic_multimask_via_stability is True


def test_all_ways_to_name_a_configuration(tmp_path: Path) -> None:
    wanted = model_config(TINY)
    assert model_config("sam2.1_hiera_t.yaml") == model_config("sam2.1_hiera_t") == wanted
    assert model_config({"base": TINY, "overrides": {}}) == wanted
    assert model_config(json.dumps({"base": TINY})) == wanted
    own = tmp_path / "own.yaml"
    source = (Path(build.sam2_folder()) / TINY).read_text(encoding="utf-8")
    own.write_text(source, encoding="utf-8")
    assert model_config(own) == model_config(str(own)) == wanted
    own.write_text(
        source.replace("sam2.modeling.sam2_base.SAM2Base", "sam2.sam2_video_predictor.SAM2VideoPredictor")
        + "\n  fill_hole_area: 8\n",
        encoding="utf-8",
    )
    assert model_config(own) == wanted  # the predictor's model, without the predictor


def test_overrides_change_what_they_name() -> None:
    values = model_config(
        {"base": TINY, "overrides": {"model.memory_attention.num_layers": 1, "model.new": [1, 2]}}
    )
    assert values["memory_attention"]["num_layers"] == 1 and values["new"] == [1, 2]


def test_the_eight_configurations_are_listed() -> None:
    assert len(config_names()) == 8 and TINY in config_names()


def test_a_configuration_that_does_not_exist() -> None:
    for name in ("sam3", "configs/sam2.1/../../setup.yaml", "/etc/passwd", "missing.yaml"):
        assert TINY in refused("config_unknown", model_config, name).hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model: [",
        "- a\n- b",
        "trainer: {model: {}}",
        "model: 3",
        "\x00\x01",
        "model: {image_size: '${nowhere}'}",
        "model: &m\n  inner: *m",
    ],
)
def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    refused("config_unreadable", model_config, path)


def test_a_configuration_that_is_not_json_or_lacks_its_base() -> None:
    refused("config_unreadable", model_config, "{base:")
    refused("config_unreadable", model_config, {"overrides": {}})
    refused("config_unreadable", model_config, {"base": TINY, "overrides": [1]})


@pytest.mark.parametrize(
    "change",
    [
        ("sam2.modeling.memory_encoder.Fuser", "os.mkdir"),
        # A dotted path through a module that merely imports another one.
        ("sam2.modeling.memory_encoder.Fuser", "sam2.modeling.sam2_base.torch.load"),
        ("sam2.modeling.sam2_base.SAM2Base", "subprocess.Popen"),
        ("embed_dim: 96", "embed_dim: 96\n      weights_path: /tmp/other.pt"),
        ("embed_dim: 96", "embed_dim: 96\n      _args_: [1]"),
        ("embed_dim: 96", "embed_dim: 96\n      surplus: 1"),
        ("stages: [1, 2, 7, 2]", "stages: [1, 2]"),
        ("num_maskmem: 7", "num_maskmem: -3"),
    ],
)
def test_a_configuration_may_only_combine_building_blocks(tmp_path: Path, change: tuple[str, str]) -> None:
    source = (Path(build.sam2_folder()) / TINY).read_text(encoding="utf-8")
    assert change[0] in source
    own = tmp_path / "own.yaml"
    own.write_text(source.replace(*change), encoding="utf-8")
    refused("config_not_allowed", lambda: build_model(model_config(own, 128)))


@pytest.mark.parametrize(
    "overrides",
    [
        {"model._target_": "os.mkdir"},
        {"model.image_encoder.trunk.weights_path": "x"},
        {"hydra.run.dir": 3},
        {"model.scale": "${oc.env:HOME}"},
        {"model.memory_encoder": {"_target_": "os.mkdir"}},
    ],
)
def test_metadata_may_only_change_numbers(overrides: dict[str, Any]) -> None:
    refused("config_not_allowed", model_config, {"base": TINY, "overrides": overrides})


def test_metadata_of_a_file_decides(tmp_path: Path, tiny: Path) -> None:
    state, _ = read_state(tiny)
    kept = {
        name: tensor.clone()
        for name, tensor in state.items()
        if not name.startswith("memory_attention.layers.3")
    }
    config = json.dumps(
        {"base": TINY, "overrides": {"model.memory_attention.num_layers": 3, "model.image_size": 128}}
    )
    path = tmp_path / "own.safetensors"
    save_file(kept, path, {"config": config, "name": "three layers"})
    loaded = load_model(path, device="cpu")
    assert (loaded.name, loaded.input_size) == ("three layers", 128)
    assert len(loaded.model.memory_attention.layers) == 3
    assert load_model(path, device="cpu", name="mine").name == "mine"


def test_building_again_and_again_in_one_process() -> None:
    from hydra.core.global_hydra import GlobalHydra

    for _ in range(2):
        build_model(model_config(TINY, 128), draw_weights=False)
        GlobalHydra.instance().clear()  # as another user of hydra in this process may do


def test_drawing_no_weights_draws_none() -> None:
    torch.manual_seed(3)
    torch.randn(2, 128)  # the prompt encoder's table, which is not initialized but made
    made = torch.get_rng_state()
    torch.manual_seed(3)
    build_model(model_config(TINY, 128), draw_weights=False)
    assert torch.equal(torch.get_rng_state(), made)
    build_model(model_config(TINY, 128))
    assert not torch.equal(torch.get_rng_state(), made)


# strictness


def test_weights_of_another_model_are_recognized() -> None:
    refused("config_unknown", recognize_config, {"conv.weight": torch.zeros(3)})
    number = {"image_encoder.trunk.patch_embed.proj.weight": torch.tensor(1.0)}
    refused("config_unknown", recognize_config, number)


def test_missing_surplus_and_misshapen_tensors(tmp_path: Path, tiny: Path) -> None:
    state, _ = read_state(tiny)
    path = tmp_path / "changed.pt"

    def sentence(**changes: torch.Tensor | None) -> str:
        changed = dict(state)
        for name, tensor in changes.items():
            if tensor is None:
                del changed[name]
            else:
                changed[name] = tensor
        torch.save({"model": changed}, path)
        return refused("weights_do_not_match", load_model, path, config=TINY, device="cpu").sentence

    assert "1 tensor missing (such as no_obj_ptr)" in sentence(no_obj_ptr=None)
    assert "1 tensor the model does not have (such as surplus)" in sentence(surplus=torch.zeros(2))
    assert "no_obj_ptr: [1, 8], not [1, 256]" in sentence(no_obj_ptr=torch.zeros(1, 8))
    whole = sentence(no_obj_ptr=state["no_obj_ptr"].to(torch.int64))
    assert "1 tensor of another type (such as no_obj_ptr: torch.int64, not torch.float32)" in whole
    everything = sentence(no_obj_ptr=None, surplus=torch.zeros(2), no_mem_embed=torch.zeros(3))
    assert everything.count("such as") == 3


def test_the_wrong_configuration(tiny: Path) -> None:
    error = refused(
        "weights_do_not_match", load_model, tiny, config="sam2_hiera_t", device="cpu", input_size=128
    )
    assert "SAM 2.1" in error.hint
    refused("weights_do_not_match", load_model, tiny, config="sam2.1_hiera_s", device="cpu", input_size=128)


def test_weights_that_are_not_numbers(tmp_path: Path, tiny: Path) -> None:
    state, _ = read_state(tiny)
    for value in (math.nan, math.inf, -math.inf):
        damaged = state["no_obj_ptr"].clone()
        damaged[0, 100] = value
        torch.save({"model": {**state, "no_obj_ptr": damaged}}, tmp_path / "damaged.pt")
        refused("weights_damaged", load_model, tmp_path / "damaged.pt", config=TINY, device="cpu")


def test_a_packed_copy_of_a_checkpoint_loads(tmp_path: Path, tiny: Path) -> None:
    state = {name: tensor.clone() for name, tensor in read_state(tiny)[0].items()}

    def keep_float(name: str, tensor: torch.Tensor) -> bool:  # packing all of it would take seconds
        return not name.startswith(("image_encoder.trunk.blocks.4.", "image_encoder.neck.convs.1."))

    path = tmp_path / "packed.safetensors"
    write_packed(state, {"config": json.dumps({"base": TINY})}, path, keep_float=keep_float)
    packed = load_model(path, device="cpu", input_size=128)
    exact = load_model(tiny, device="cpu", input_size=128)
    image = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        one, other = (m.model.forward_image(image)["backbone_fpn"][-1] for m in (packed, exact))
    assert 0.0 < float((one - other).norm() / other.norm()) < 0.02


# main and GPU memory


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    large_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "free_memory", lambda device: 100_000_000)
    monkeypatch.setattr(build, "read_state", lambda path: pytest.fail("the file was read"))
    with pytest.raises(SAM2PropagateError) as caught:
        load_model(large_tiny, device="cpu")
    assert caught.value.code == "model_does_not_fit" and not isinstance(caught.value, InputError)
    assert "GB are free" in caught.value.sentence and "smaller" in caught.value.hint


def test_the_input_size_counts(large_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = memory_needed(39_000_000, 256) + 50_000_000
    monkeypatch.setattr(build, "free_memory", lambda device: room)
    assert load_model(large_tiny, device="cpu", input_size=128).input_size == 128
    with pytest.raises(SAM2PropagateError) as caught:
        load_model(large_tiny, device="cpu", input_size=1024)
    assert caught.value.code == "model_does_not_fit"


def test_a_device_that_does_not_tell_is_tried(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "free_memory", lambda device: None)
    assert load_model(tiny, device="cpu", input_size=128).input_size == 128


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_running_out_of_main_or_gpu_memory_while_loading(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    assert is_out_of_memory(error)
    monkeypatch.setattr(build, "build_model", fail)
    with pytest.raises(SAM2PropagateError) as caught:
        load_model(tiny, device="cpu", input_size=128)
    assert caught.value.code == "model_does_not_fit"


def test_other_failures_are_not_called_a_lack_of_memory(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("something else")

    assert not is_out_of_memory(RuntimeError("something else"))
    monkeypatch.setattr(build, "build_model", fail)
    with pytest.raises(RuntimeError, match="something else"):
        load_model(tiny, device="cpu", input_size=128)


def test_real_lack_of_main_memory_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_loading_is_logged(large_tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_model(large_tiny, device="cpu", input_size=128)
    assert "39.0 million weights, 128 px" in caplog.text
