"""Reads weights files in three formats without ever running code from them, and writes the compact format.

The compact format is a safetensors file in which a large weight NAME is kept as int8, with a float32 tensor
NAME.scale of one scale per output channel beside it (same number of dimensions, 1 where it does not vary),
and everything else as float16 or float32. Its metadata says `format` = "sam2propagate-1".
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.texts import Text
from SAM2PropagateLib.texts import text as _

PACKED_FORMAT = "sam2propagate-1"
SCALE_SUFFIX = ".scale"
SMALLEST_PACKED = 1024


State = dict[str, torch.Tensor]


def read_state(path: str | Path) -> tuple[State, dict[str, str]]:
    """Return the weights in a file, and its metadata.

    Args:
        path: a safetensors file (the compact format above, or plain), or a PyTorch checkpoint whose key
            "model" holds the weights, as Meta publishes them. The content decides, not the name.

    Returns:
        name -> tensor on the CPU, float32 (whole numbers stay as stored), and the safetensors metadata, {}
        for a checkpoint. Tensors of a checkpoint may be mapped from the file: copy them before it is deleted.

    Raises:
        InputError: `weights_missing`; `weights_not_weights`: another kind of file; `weights_damaged`: cut
            off or inconsistent; `weights_unsafe`: holds more than weights, so loading could run code (none
            was run); `weights_no_model`: a checkpoint without the key "model"; `weights_not_plain`: a tensor
            is sparse, complex or without values; `weights_newer`: a format of a later version.
    """
    path = Path(path)
    state, metadata = (
        _read_safetensors(path) if _kind(path) == "safetensors" else (_read_checkpoint(path), {})
    )
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_complex():
            raise InputError(
                "weights_not_plain",
                _("In “{file}”, “{name}” is no plain table of numbers.").format(file=path.name, name=name),
                _("Save the weights as dense tensors of real numbers."),
            )
    return state, metadata


def parameter_count(path: str | Path) -> int:
    """Return how many numbers the weights file holds, from its header or its size.

    For a checkpoint this is a quarter of its size in bytes, which is too much if it is stored in less than
    float32.

    Raises:
        InputError: as `read_state`.
    """
    path = Path(path)
    if _kind(path) != "safetensors":
        return path.stat().st_size // 4
    try:
        with safe_open(str(path), framework="pt") as file:
            names = [name for name in file.keys() if not name.endswith(SCALE_SUFFIX)]  # noqa: SIM118
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def metadata_of(path: str | Path) -> dict[str, str]:
    """Return the metadata of a weights file, without reading its weights; {} for a checkpoint.

    Raises:
        InputError: as `read_state`.
    """
    path = Path(path)
    if _kind(path) != "safetensors":
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def is_mapped(path: str | Path) -> bool:
    """Tell whether `read_state` leaves this file's numbers in the file until they are used.

    Raises:
        InputError: as `read_state`.
    """
    path = Path(path)
    return _kind(path) == "checkpoint" and _is_mappable(path)


def _is_mappable(path: Path) -> bool:
    # torch cannot map checkpoints from before version 1.6, and expects another format under this name.
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" and path.suffix != ".safetensors"


def _kind(path: Path) -> str:
    if path.is_dir():
        raise InputError(
            "weights_not_weights",
            _("“{path}” is a folder, not a weights file.").format(path=path),
            _("Name the file inside it."),
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError as error:
        raise InputError(
            "weights_missing", _("There is no weights file “{path}”.").format(path=path)
        ) from error
    except OSError as error:
        raise InputError(
            "weights_missing",
            _("The weights file “{path}” cannot be read ({reason}).").format(
                path=path, reason=error.strerror or error
            ),
        ) from error
    if len(start) == 9 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000:
        return "safetensors"
    if start[:1] == b"\x80" or (start[:4] == b"PK\x03\x04" and not _is_other_archive(path)):
        return "checkpoint"  # a bare pickle, or a ZIP archive, as torch writes now
    sentence = _("“{name}” is empty.") if size == 0 else _("“{name}” is not a weights file.")
    raise InputError(
        "weights_not_weights",
        sentence.format(name=path.name),
        _("Weights are a .safetensors file or a PyTorch checkpoint (.pt) as Meta publishes them."),
    )


def _is_other_archive(path: Path) -> bool:
    """Tell whether it is a whole ZIP archive without what torch puts into its own."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _damaged(path: Path, reason: object) -> InputError:
    line = " ".join(str(reason).split())[:160]
    return InputError(
        "weights_damaged",
        _("The weights file “{name}” is cut off or damaged ({reason}).").format(
            # Only cut if needed, as cutting makes a str of a text, which is not translated any more.
            name=path.name,
            reason=reason if reason == line else line,
        ),
        _get_again(),
    )


def _get_again() -> Text:
    return _("Get the file again from where it was published.")


# --- safetensors


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from error
    file_format = metadata.get("format", "")
    if file_format.startswith("sam2propagate-") and file_format != PACKED_FORMAT:
        raise InputError(
            "weights_newer",
            _(
                "The weights file “{name}” has the format “{file_format}”, which this version cannot read."
            ).format(name=path.name, file_format=file_format),
            _("Update the extension."),
        )
    if file_format != PACKED_FORMAT:
        return {name: _as_float(tensor) for name, tensor in stored.items()}, metadata
    state: State = {}
    for name in list(stored):
        if name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) in stored:
            continue
        tensor = stored[name]
        state[name] = (
            _unpacked(path, name, tensor, stored) if tensor.dtype == torch.int8 else _as_float(tensor)
        )
    return state, metadata


def _unpacked(path: Path, name: str, values: torch.Tensor, stored: State) -> torch.Tensor:
    scale = stored.get(name + SCALE_SUFFIX)
    if scale is None:
        raise _damaged(path, _("{name} has no scale").format(name=name))
    fits = scale.ndim == values.ndim and all(
        s in (1, v) for s, v in zip(scale.shape, values.shape, strict=True)
    )
    if not fits or not is_finite(scale):
        raise _damaged(path, _("the scale of {name} does not fit").format(name=name))
    return values.to(torch.float32).mul_(scale.to(torch.float32))


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


# --- Meta's checkpoints


def _read_checkpoint(path: Path) -> State:
    try:
        loaded = _load_only_weights(path)
    except pickle.UnpicklingError as error:
        if any(sign in str(error).lower() for sign in ("unsupported", "blocked", "can only")):
            raise InputError(
                "weights_unsafe",
                _(
                    "“{name}” holds more than weights: loading it could run code, so it was not loaded."
                ).format(name=path.name),
                _("Use only checkpoints from people you trust, and ask them for one with plain tensors."),
            ) from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("model"), Mapping):
        raise InputError(
            "weights_no_model",
            _("“{name}” is a PyTorch file without the key “model” of a SAM 2 checkpoint.").format(
                name=path.name
            ),
            _("Use a checkpoint that Meta's training code wrote."),
        )
    model = loaded["model"]
    for name, tensor in model.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(
                "weights_no_model",
                _("In “{file}”, “{name}” under “model” is not a tensor.").format(file=path.name, name=name),
                _get_again(),
            )
    return {name: _as_float(tensor.detach()) for name, tensor in model.items()}


def _load_only_weights(path: Path) -> object:
    """Call torch.load so that it accepts only tensors and plain containers, mapped if possible."""
    if _is_mappable(path):
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


# --- writing


def stays_float(name: str, tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is too small or too delicate to be kept as int8: norms, biases, embeddings,
    tokens."""
    delicate = (
        "embed",
        "tpos_enc",
        "token",
        "gaussian_matrix",
        "no_obj_ptr",
        "mask_downsample.",
        "patch_embed",
    )
    return tensor.ndim < 2 or tensor.numel() < SMALLEST_PACKED or any(part in name for part in delicate)


def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 values and float32 scales, values * scales ~ tensor, one scale per channel.

    Args:
        tensor: float, (out, in, ...) or, for a transposed convolution, (in, out, ...).

    Returns:
        int8 of the tensor's shape, and scales with 1 in every dimension but one of the first two, the one
        that loses less. Each scale is the one of eight candidates below the channel's largest value / 127
        that has the smallest squared error.
    """
    wide = tensor.detach().to(torch.float64)
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    for axis in (0, 1):
        others = [d for d in range(wide.ndim) if d != axis]
        largest = wide.abs().amax(dim=others, keepdim=True).clamp_min(1e-12)
        scale = torch.zeros_like(largest, dtype=torch.float32)
        lowest = torch.full_like(largest, math.inf)
        for shrink in (1.0, 0.98, 0.96, 0.93, 0.9, 0.86, 0.82, 0.78):
            candidate = (largest * (shrink / 127.0)).to(torch.float32)
            error = (_rounded(wide, candidate) * candidate - wide).square().sum(dim=others, keepdim=True)
            better = error < lowest
            scale, lowest = torch.where(better, candidate, scale), torch.where(better, error, lowest)
        total = float(lowest.sum())
        if best is None or total < best[0]:
            best = (total, _rounded(wide, scale).to(torch.int8), scale)
    assert best is not None
    return best[1], best[2]


def _rounded(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (values / scale).round().clamp(-127, 127)


def write_packed(
    state: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    path: str | Path,
    *,
    keep_float: Callable[[str, torch.Tensor], bool] = stays_float,
    packed: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> None:
    """Write the compact format; the same input gives the same bytes.

    Args:
        state: name -> float tensor.
        metadata: text to keep with it; `format` is added. `config` should be JSON {"base": ..., "overrides":
            ...}.
        path: written under a temporary name first, then renamed.
        keep_float: tells which tensors to keep as float16 (float32 if that overflows, or below 1024 numbers).
        packed: int8 values and scales of some others, chosen by a better method than `pack`.

    Raises:
        OSError: the file cannot be written.
        ValueError: a tensor has values that are not finite.
    """
    stored: State = {}
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        if not is_finite(tensor):
            raise ValueError(f"{name} has values that are not finite")
        if not keep_float(name, tensor):
            stored[name], stored[name + SCALE_SUFFIX] = (packed or {}).get(name) or pack(tensor)
        elif tensor.numel() < SMALLEST_PACKED or float(tensor.abs().max()) > 60000.0:
            stored[name] = tensor.to(torch.float32)
        else:
            stored[name] = tensor.to(torch.float16)
    content = _with_sorted_metadata(safetensors_bytes(stored), {**metadata, "format": PACKED_FORMAT})
    path = Path(path)
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _with_sorted_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with sorted metadata: the library writes it in no fixed order, which would
    change the checksum."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether all values are numbers."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    # Both ends are NaN if any value is. `torch.isfinite` on each value takes sixteen times as long.
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))
