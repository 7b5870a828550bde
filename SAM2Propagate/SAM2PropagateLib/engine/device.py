"""Chooses device and precision, and finds out how much main or GPU memory is free."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable

import torch

from SAM2PropagateLib.engine.int8_linear import why_no_int8
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.memory import available_host_memory
from SAM2PropagateLib.numerals import whole_number
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _

log = logging.getLogger(__name__)

# float32, but 8-bit integers for most of the image encoder's matrix products.
INT8 = "int8"
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    INT8: torch.float32,
}


def available_devices() -> list[str]:
    """Return names that `pick_device` takes on this computer, the fastest first; the last is always "cpu"."""
    names = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name, after a small test computation on it.

    Args:
        name: "auto" (the fastest that works), "cuda", "cuda:N", "mps" or "cpu".

    Raises:
        InputError: `unknown_device` for any other name, `device_unavailable` if this computer does not have
            it, `device_unusable` if it cannot compute (an old driver, a GPU that this torch was not built
            for).
    """
    there = available_devices()
    wanted = name.strip().lower()
    if wanted == "auto":
        for candidate in there:
            reason = why_unusable(candidate)
            if reason is None:
                return torch.device(candidate)
            log.warning("%s is there but cannot compute: %s", candidate, reason)
        raise InputError("device_unusable", _("No device of this computer can compute with torch."))
    choices = _("Choose one of: auto, {names}.").format(names=", ".join(there))
    kind, separator, index = wanted.partition(":")
    has_number = kind == "cuda" and whole_number(index) is not None
    if kind not in ("cuda", "mps", "cpu") or (separator and not has_number):
        raise InputError(
            "unknown_device", _("There is no device called “{name}”.").format(name=name), choices
        )
    if wanted == "cuda" and "cuda:0" in there:
        wanted = "cuda:0"
    if wanted not in there:
        raise InputError(
            "device_unavailable", _("The device “{name}” is not available here.").format(name=name), choices
        )
    reason = why_unusable(wanted)
    if reason is not None:
        raise InputError(
            "device_unusable",
            _("The device “{name}” is there but cannot compute ({reason}).").format(name=name, reason=reason),
            choices,
        )
    return torch.device(wanted)


def why_unusable(name: str) -> Words | None:
    """Return None if the device computes; else torch's reason, on one line."""
    if name == "cpu":
        return None
    try:
        answer = float((torch.ones(2, device=name) + 1).sum().item())
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:200]
    return None if answer == 4.0 else _("1 + 1 gave {answer:g}").format(answer=answer / 2)


def describe(device: torch.device) -> str:
    """Return the device in words: a GPU's name and GPU memory, or the CPU and the number of threads torch
    uses."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GB (cuda:{device.index or 0})"
    if device.type == "mps":
        return f"Apple GPU of {platform.machine()} (mps)"
    threads = torch.get_num_threads()
    return f"CPU {_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of main or GPU memory that this process can have on the device; None if unknown."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        # GPU memory that torch has reserved but does not use is free for us, too.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        try:
            limit = torch.mps.recommended_max_memory()
            return int(limit - torch.mps.driver_allocated_memory())
        except (AttributeError, RuntimeError):
            return available_host_memory()
    return available_host_memory()


def compute_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Return the type to compute in.

    Args:
        device: where.
        precision: "auto", "float32", "bfloat16", "float16" or "int8" (float32; see `uses_int8`). Auto is
            bfloat16 on a GPU that has it in hardware and float16 on an older one; float32 on mps; on a CPU
            bfloat16 only where it has instructions for it, as it is slower than float32 where it has to be
            emulated.

    Raises:
        InputError: `unknown_precision`.
    """
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    if precision != "auto":
        raise InputError(
            "unknown_precision",
            _("There is no precision called “{precision}”.").format(precision=precision),
            _("Choose one of: auto, {names}.").format(names=", ".join(PRECISIONS)),
        )
    if device.type == "cuda":
        major, _minor = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 or torch.version.hip else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def uses_int8(device: torch.device, precision: str = "auto") -> bool:
    """Tell whether the image encoder computes on 8-bit integers.

    Args:
        device: where.
        precision: as for `compute_dtype`. Auto: on a CPU without bfloat16, if integers are faster there.

    Raises:
        InputError: `int8_unavailable`: "int8" is asked for where it does not work.
    """
    if precision not in ("auto", INT8):
        return False
    if precision == "auto" and (device.type != "cpu" or compute_dtype(device) != torch.float32):
        return False
    reason = _("it is for CPUs only") if device.type != "cpu" else why_no_int8()
    if reason is None:
        return True
    if precision == INT8:
        raise InputError(
            "int8_unavailable",
            _("The precision int8 does not work here ({reason}).").format(reason=reason),
            _("Choose the precision auto."),
        )
    log.info("the image encoder computes in float32, not in 8-bit integers: %s", reason)
    return False


def cpu_has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 in hardware. False where this torch has no way to ask."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64", "x64"):
        # oneDNN also reports bfloat16 for CPUs that emulate it, so on x86 the CPU's instructions decide.
        return _ask(torch.cpu, "_is_avx512_bf16_supported") or _ask(torch.cpu, "_is_amx_tile_supported")
    if machine in ("aarch64", "arm64") and platform.system() == "Linux":
        return _ask(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    return False


def _ask(module: object, name: str) -> bool:
    try:
        query: Callable[[], object] = getattr(module, name)
        return bool(query())
    except (AttributeError, RuntimeError):
        return False
