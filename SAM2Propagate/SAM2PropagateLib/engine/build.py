"""Builds a SAM 2 model from a weights file: configuration, construction, strict loading.

A configuration may come from a file that somebody else made. So it can only choose numbers, and classes among
the building blocks of SAM 2 that are named here; nothing else is ever imported or called.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.overrides import TorchFunctionMode
from yaml import YAMLError  # type: ignore[import-untyped]

from SAM2PropagateLib.engine.device import compute_dtype, free_memory, pick_device, uses_int8
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.engine.weights import State, is_finite, is_mapped, parameter_count, read_state
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.models.verify import is_config_file
from SAM2PropagateLib.texts import Text, Words
from SAM2PropagateLib.texts import text as _

log = logging.getLogger(__name__)

STRIDE = 16  # of the features that the memory attends to
INPUT_STEP = 32  # the encoder halves five times
SMALLEST_INPUT, LARGEST_INPUT = 64, 2048

_MODEL_CLASS = "sam2.modeling.sam2_base.SAM2Base"
_BUILDING_BLOCKS = frozenset(
    {
        _MODEL_CLASS,
        "sam2.modeling.backbones.image_encoder.ImageEncoder",
        "sam2.modeling.backbones.image_encoder.FpnNeck",
        "sam2.modeling.backbones.hieradet.Hiera",
        "sam2.modeling.position_encoding.PositionEmbeddingSine",
        "sam2.modeling.memory_attention.MemoryAttention",
        "sam2.modeling.memory_attention.MemoryAttentionLayer",
        "sam2.modeling.sam.transformer.Attention",
        "sam2.modeling.sam.transformer.RoPEAttention",
        "sam2.modeling.memory_encoder.MemoryEncoder",
        "sam2.modeling.memory_encoder.MaskDownSampler",
        "sam2.modeling.memory_encoder.Fuser",
        "sam2.modeling.memory_encoder.CXBlock",
    }
)
# Predictors are the same model with a loop around it; the settings below belong to the loop.
_PREDICTORS = frozenset(
    {
        "sam2.sam2_video_predictor.SAM2VideoPredictor",
        "sam2.sam2_video_predictor.SAM2VideoPredictorVOS",
        "sam2.sam2_video_predictor_legacy.SAM2VideoPredictor",
    }
)
_PREDICTOR_SETTINGS = (
    "fill_hole_area",
    "non_overlap_masks",
    "clear_non_cond_mem_around_input",
    "clear_non_cond_mem_for_multi_obj",
    "add_all_frames_to_correct_as_cond",
)
# The settings of sam2's own predictor for interactive use: one mask, unless it is unstable, and memories of
# the mask that was shown.
_INTERACTIVE: dict[str, Any] = {
    "model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability": True,
    "model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta": 0.05,
    "model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh": 0.98,
    "model.binarize_mask_from_pts_for_mem_enc": True,
}
# (channels, blocks) of the image encoder -> the letter of sam2's configuration.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}

ConfigLike = str | Path | Mapping[str, Any]


def load_model(
    path: str | Path,
    *,
    config: ConfigLike | None = None,
    device: str | torch.device = "auto",
    input_size: int | None = None,
    precision: str = "auto",
    name: str | None = None,
) -> LoadedModel:
    """Build the model of a weights file and load all of its weights.

    Args:
        path: see `read_state` for the formats. Verify the file's origin before this (models/store.py).
        config: a configuration of the sam2 package by name ("configs/sam2.1/sam2.1_hiera_t.yaml"), a YAML
            file of that form, or {"base": name, "overrides": {"model.x.y": value}} as a mapping or as JSON
            text. Without it, the file's metadata decides, and without that, the shapes of the weights (for
            the eight models of Meta).
        device: "auto", "cuda", "cuda:N", "mps" or "cpu", or a device.
        input_size: side of the model's input in pixels, a multiple of 32; the configuration's own if None.
        precision: "auto", "float32", "bfloat16", "float16" or "int8"; see `compute_dtype` and `uses_int8`.
        name: for the user; else the metadata's `name`, else the file's name.

    Raises:
        InputError: for the file (`read_state`), the device (`pick_device`), `unknown_precision`,
            `int8_unavailable`, `bad_input_size`, `config_unknown`, `config_unreadable`, `config_not_allowed`,
            `weights_do_not_match`.
        SAM2PropagateError: `model_does_not_fit`: not enough main or GPU memory.
    """
    path = Path(path)
    where = device if isinstance(device, torch.device) else pick_device(device)
    dtype, int8 = compute_dtype(where, precision), uses_int8(where, precision)
    if input_size is not None:
        check_input_size(input_size)
    count = parameter_count(path)
    copies = 1 if is_mapped(path) or where.type == "cuda" else 2
    label = name or path.stem
    with _memory_errors(label, where):
        _check_room(label, where, count, 0, copies)
        state, metadata = read_state(path)
        label = name or metadata.get("name") or path.stem
        chosen = (
            config if config is not None else metadata.get("config") or recognize_config(state, path.name)
        )
        values = model_config(chosen, input_size)
        size = int(values["image_size"])
        _check_room(label, where, count, size, 1)
        model = build_model(values, device=where, draw_weights=False)
        _load_strictly(model, state, path.name)
        del state
        model = model.to(where)
    loaded = LoadedModel(model, where, dtype, size, label, SAM2Steps, metadata, int8)
    log.info(
        "loaded %s: %.1f million weights, %d px, %s, %s", label, count / 1e6, size, where, loaded.precision
    )
    return loaded


def build_model(
    values: Mapping[str, Any], *, device: torch.device | None = None, draw_weights: bool = True
) -> torch.nn.Module:
    """Return a SAM2Base from a checked configuration (`model_config`), on the CPU, in eval mode, without
    gradients.

    Args:
        values: what `model_config` returns.
        device: the model's later device; constants for which sam2 chooses a device itself go there.
        draw_weights: False leaves the weights uninitialized, which saves seconds if a file replaces them.

    Raises:
        InputError: `config_not_allowed` if sam2 cannot build a model from these values.
    """
    with _Construction(device or torch.device("cpu"), draw_weights):
        try:
            model: torch.nn.Module = _construct(values)
        except (
            TypeError,
            AssertionError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                "config_not_allowed",
                _("sam2 cannot build a model from this configuration ({kind}: {reason}).").format(
                    kind=type(error).__name__, reason=error
                ),
                _("Start from one of sam2's own configurations."),
            ) from error
    model.eval()
    return model.requires_grad_(False)


# --- input size


def check_input_size(size: int) -> int:
    """Check and return an input size.

    Raises:
        InputError: `bad_input_size`.
    """
    if (
        isinstance(size, bool)
        or not isinstance(size, int)
        or size % INPUT_STEP
        or not (SMALLEST_INPUT <= size <= LARGEST_INPUT)
    ):
        raise InputError(
            "bad_input_size",
            _("The model cannot take an input of {size} pixels.").format(size=size),
            _("Choose a multiple of {step} from {least} to {most}.").format(
                step=INPUT_STEP, least=SMALLEST_INPUT, most=LARGEST_INPUT
            ),
        )
    return size


# --- configuration


def config_names() -> list[str]:
    """Return the names of the sam2 package's configurations, for `load_model`."""
    root = sam2_folder()
    return sorted(
        file.relative_to(root).as_posix()
        for file in root.glob("configs/sam2*/sam2*_hiera_*.yaml")
        if "training" not in file.parent.name
    )


def model_config(config: ConfigLike, input_size: int | None = None) -> dict[str, Any]:
    """Return the values of a configuration's `model`, checked, with the settings for interactive use.

    Raises:
        InputError: `config_unknown`, `config_unreadable`, `config_not_allowed`, `bad_input_size`.
    """
    base, overrides = _base_and_overrides(config)
    try:
        tree = OmegaConf.load(base)
        if not OmegaConf.is_dict(tree) or not OmegaConf.is_dict(tree.get("model")):
            raise InputError(
                "config_unreadable",
                _("The configuration “{name}” has no section “model”.").format(name=base.name),
                _("Use one from sam2's folder configs, not a training configuration."),
            )
        tree = OmegaConf.create({"model": tree.model})
        for key, value in _INTERACTIVE.items():
            if OmegaConf.select(tree, key) is None:
                OmegaConf.update(tree, key, value, force_add=True)
        for key, value in overrides.items():
            OmegaConf.update(tree, key, value, merge=False, force_add=True)
        values: Any = OmegaConf.to_container(tree.model, resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise InputError(
            "config_unreadable",
            _("The configuration “{name}” cannot be read ({reason}).").format(
                name=base.name, reason=" ".join(str(error).split())[:160]
            ),
            _("Give a YAML file like those in sam2's folder configs."),
        ) from error
    if values.get("_target_") in _PREDICTORS:
        values["_target_"] = _MODEL_CLASS
        for setting in _PREDICTOR_SETTINGS:
            values.pop(setting, None)
    if values.get("_target_") != _MODEL_CLASS:
        raise _not_allowed(_("the model is “{value}”").format(value=values.get("_target_")))
    _check_blocks(values)
    _set_input_size(
        values, check_input_size(input_size if input_size is not None else values.get("image_size", 0))
    )
    values["compile_image_encoder"] = False
    return values


def recognize_config(state: Mapping[str, torch.Tensor], file_name: str = "the file") -> str:
    """Return the one of sam2's eight configurations that the weights' shapes match.

    Raises:
        InputError: `config_unknown` if they are of none.
    """
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    prefix = "image_encoder.trunk.blocks."
    blocks = {name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)}
    letter = None if patch is None or not patch.ndim else _SIZES.get((int(patch.shape[0]), len(blocks)))
    if letter is None:
        raise InputError(
            "config_unknown",
            _("The weights in “{file}” belong to none of the eight SAM 2 models.").format(file=file_name),
            _("Name the configuration that they were trained with."),
        )
    family = "sam2.1" if "obj_ptr_tpos_proj.weight" in state else "sam2"
    return f"configs/{family}/{family}_hiera_{letter}.yaml"


def _base_and_overrides(config: ConfigLike) -> tuple[Path, dict[str, Any]]:
    if isinstance(config, str) and config.lstrip().startswith("{"):
        try:
            config = json.loads(config)
        except json.JSONDecodeError as error:
            raise InputError(
                "config_unreadable", _("The configuration is not valid JSON ({reason}).").format(reason=error)
            ) from error
    if isinstance(config, Mapping):
        overrides = config.get("overrides") or {}
        if not isinstance(config.get("base"), str) or not isinstance(overrides, Mapping):
            raise InputError(
                "config_unreadable", _("A configuration needs “base” (a name) and “overrides” (a table).")
            )
        for key, value in overrides.items():
            plain = (
                value is None
                or isinstance(value, bool | int | float)
                or (isinstance(value, list | tuple) and all(isinstance(v, bool | int | float) for v in value))
            )
            if not str(key).startswith("model.") or not plain:
                raise _not_allowed(
                    _("the override “{key}” is not a number, a truth value or a list of them").format(key=key)
                )
        return _named_config(config["base"]), dict(overrides)
    if is_config_file(str(config)):
        return Path(config), {}
    return _named_config(str(config)), {}


def _named_config(name: str) -> Path:
    """Return the file of one of sam2's configurations, by its full name or its last part without ".yaml"."""
    names = config_names()
    wanted = name.replace("\\", "/")
    for known in names:
        if wanted in (known, known.rpartition("/")[2], known.rpartition("/")[2].removesuffix(".yaml")):
            return sam2_folder() / known
    raise InputError(
        "config_unknown",
        _("There is no model configuration “{name}”.").format(name=name),
        _("Name a YAML file or one of: {names}.").format(names=", ".join(names)),
    )


def sam2_folder() -> Path:
    """Return the folder in which the package `sam2` is installed."""
    import sam2  # late: it starts hydra when it is imported

    return Path(sam2.__path__[0])


def _not_allowed(what: Words) -> InputError:
    return InputError(
        "config_not_allowed",
        _("This model configuration is not allowed: {what}.").format(what=what),
        _("It may only combine SAM 2's own building blocks."),
    )


def _check_blocks(values: Any) -> None:
    """Refuse whatever would make the construction import, call or read something else."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == "_target_":
                if value not in _BUILDING_BLOCKS:
                    raise _not_allowed(_("it asks for “{value}”").format(value=value))
            elif str(key).startswith("_") or (key == "weights_path" and value is not None):
                raise _not_allowed(_("it sets “{key}”").format(key=key))
            _check_blocks(value)
    elif isinstance(values, list):
        for value in values:
            _check_blocks(value)


def _set_input_size(values: dict[str, Any], size: int) -> None:
    values["image_size"] = size
    for part in _tables(values):
        if str(part.get("_target_", "")).endswith(".RoPEAttention"):
            part["feat_sizes"] = [size // STRIDE, size // STRIDE]
        if str(part.get("_target_", "")).endswith(".PositionEmbeddingSine"):
            # Warming up would put tables on the first GPU, even for a model on another device.
            part["warmup_cache"] = False


def _tables(values: Any) -> Iterator[dict[str, Any]]:
    if isinstance(values, dict):
        yield values
        for value in values.values():
            yield from _tables(value)


def _construct(values: Any) -> Any:
    """Build innermost first: every table with a `_target_` becomes an object of that class."""
    if isinstance(values, list):
        return [_construct(value) for value in values]
    if not isinstance(values, Mapping):
        return values
    arguments = {key: _construct(value) for key, value in values.items() if key != "_target_"}
    target = values.get("_target_")
    if target is None:
        return arguments
    module, _, name = str(target).rpartition(".")
    factory: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return factory(**arguments)


class _Construction(TorchFunctionMode):
    """While active, it puts constants on the model's device and can skip the drawing of random weights."""

    _DRAWS = frozenset(
        {
            torch.Tensor.uniform_,
            torch.Tensor.normal_,
            torch.Tensor.erfinv_,
            torch.nn.init.kaiming_uniform_,
            torch.nn.init.uniform_,
            torch.nn.init.normal_,
            torch.nn.init.trunc_normal_,
        }
    )

    def __init__(self, device: torch.device, draw_weights: bool) -> None:
        super().__init__()
        self._device = device
        self._draw_weights = draw_weights

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # sam2's rotary attention puts its table on the first GPU if there is one.
        if func is torch.Tensor.to and len(args) == 2 and args[1] == "cuda":
            args = (args[0], self._device)
        if not self._draw_weights and func in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


# --- loading


def _load_strictly(model: torch.nn.Module, state: State, file_name: str) -> None:
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [name for name in sorted(own.keys() & state.keys()) if own[name].shape != state[name].shape]
    problems = []
    if missing:
        problems.append(
            _("{tensors} missing (such as {name})").format(tensors=_count(missing), name=missing[0])
        )
    if unexpected:
        problems.append(
            _("{tensors} the model does not have (such as {name})").format(
                tensors=_count(unexpected), name=unexpected[0]
            )
        )
    if shapes:
        first = shapes[0]
        problems.append(
            _("{tensors} of another shape (such as {name}: {shape}, not {own})").format(
                tensors=_count(shapes),
                name=first,
                shape=list(state[first].shape),
                own=list(own[first].shape),
            )
        )
    kinds = [
        name
        for name in sorted(own.keys() & state.keys())
        if own[name].is_floating_point() != state[name].is_floating_point()
    ]
    if kinds:
        problems.append(
            _("{tensors} of another type (such as {name}: {type}, not {own})").format(
                tensors=_count(kinds), name=kinds[0], type=state[kinds[0]].dtype, own=own[kinds[0]].dtype
            )
        )
    if problems:
        raise InputError(
            "weights_do_not_match",
            _("The weights in “{file}” do not belong to this configuration: {problems}.").format(
                file=file_name, problems=_listed(problems)
            ),
            _("Name the configuration that they were trained with; SAM 2 and SAM 2.1 have different ones."),
        )
    for name in sorted(own):
        if not is_finite(state[name]):
            raise InputError(
                "weights_damaged",
                _("The weights in “{file}” have values that are not numbers, in {name}.").format(
                    file=file_name, name=name
                ),
            )
    model.load_state_dict(state, strict=True)


def _count(names: list[str]) -> Text:
    return _("1 tensor") if len(names) == 1 else _("{count} tensors").format(count=len(names))


def _listed(problems: list[Text]) -> Text:
    # Not joined as a str, which could not be translated where it is shown.
    listed, *others = problems
    for problem in others:
        listed = _("{one}; {other}").format(one=listed, other=problem)
    return listed


# --- main memory and GPU memory


def memory_needed(parameters: int, input_size: int, *, copies: int = 1) -> int:
    """Return roughly how many bytes it takes to load a model and segment one frame.

    Fitted to the peaks that Tools/measure_memory.py measures on a CPU in float32, without torch itself. The
    share of a frame hardly depends on the model.

    Args:
        parameters: how many weights.
        input_size: side of the input in pixels; 0 for loading alone.
        copies: how many float32 copies of the weights there are while loading.
    """
    return int(parameters * 4 * copies + 150e6 + 550e6 * (input_size / 1024) ** 2)


def _check_room(label: str, device: torch.device, parameters: int, input_size: int, copies: int) -> None:
    needed = memory_needed(parameters, input_size, copies=copies)
    free = free_memory(device)
    if free is not None and needed > free:
        why = _("it needs about {needed:.1f} GB, and {free:.1f} GB are free").format(
            needed=needed / 2**30, free=free / 2**30
        )
        raise _does_not_fit(label, device, why)


def _does_not_fit(label: str, device: torch.device, why: Words) -> SAM2PropagateError:
    return SAM2PropagateError(
        "model_does_not_fit",
        _("The model “{label}” does not fit into the memory of {device} ({why}).").format(
            label=label, device=device, why=why
        ),
        _("Close other programs, or choose a smaller model or another device."),
    )


@contextmanager
def _memory_errors(label: str, device: torch.device) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _does_not_fit(label, device, _("the system refused more memory")) from error
