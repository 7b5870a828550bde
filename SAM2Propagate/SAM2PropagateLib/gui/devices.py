"""Lists the devices that the model can run on, and which of them this computer cannot have.

It asks only the system: torch is never imported in Slicer's process.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from SAM2PropagateLib.texts import tr as _

AUTO, CUDA, MPS, CPU = "auto", "cuda", "mps", "cpu"


@dataclass(frozen=True)
class Device:
    """A device in the list.

    Attributes:
        name: as `Choices.device` takes it. title: for the user.
        whyNot: why this computer cannot use it; "" if no reason is known.
        help: a remark for the user; may be empty.
    """

    name: str
    title: str
    whyNot: str = ""
    help: str = ""


def devices() -> tuple[Device, ...]:
    """Returns all devices in the order of the list, in the user's language."""
    isMac, machine = sys.platform == "darwin", platform.machine()
    # Only a remark: PyTorch also uses this name for other makers' cards.
    driver = "" if isMac or hasDriver() else _("No NVIDIA driver was found on this computer.")
    mac = _("PyTorch cannot use NVIDIA graphics cards on a Mac.") if isMac else ""
    apple = "" if isMac and machine == "arm64" else _("Only Macs with Apple silicon have this.")
    return (
        Device(AUTO, _("Automatic (the fastest there is)")),
        Device(CUDA, _("NVIDIA GPU (CUDA)"), mac, driver),
        Device(MPS, _("Apple GPU (MPS)"), apple),
        Device(CPU, _("Processor")),
    )


def hasDriver() -> bool:
    """Tells whether there are signs of NVIDIA's driver, without starting a process."""
    windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows"))
    files = (Path("/proc/driver/nvidia/version"), windows / "System32" / "nvcuda.dll")
    return shutil.which("nvidia-smi") is not None or any(file.exists() for file in files)
