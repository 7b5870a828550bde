"""Tells what a server has that a worker needs, as one line of JSON. Run there by `server_check`, as it is.

It may be any Python, with nothing installed in it: only its standard library, no syntax newer than 3.6.
"""

import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Dict

MARK = "SAM2PROPAGATE-PROBE "
# The needed packages, as pip names them, with the module by which each is found.
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "sam2": "sam2",
    "hydra-core": "hydra",
    "iopath": "iopath",
    "tqdm": "tqdm",
    "pillow": "PIL",
    "safetensors": "safetensors",
    "opencv-python-headless": "cv2",
}


def probe(wanted: str) -> Dict[str, Any]:
    """Return what this server has, as JSON-able values.

    Args:
        wanted: the name of a model in the registry, or the path of a weights file here.
    """
    from importlib.util import find_spec

    found: Dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "computer": platform.node(),
        "system": platform.system(),
        "free_disk": shutil.disk_usage(str(Path.home())).free,
        "missing": [name for name, module in PACKAGES.items() if not find_spec(module)],
    }
    if "torch" not in found["missing"]:
        try:
            found.update(_torch())
        except Exception as error:  # a broken installation may raise anything
            found["torch_error"] = f"{type(error).__name__}: {error}"
    try:
        from SAM2PropagateLib.worker.library_files import own_version

        found["library"] = own_version()
    except Exception as error:  # not installed, older, or for a newer Python
        found["library_error"] = f"{type(error).__name__}: {error}"
    else:
        found["has_model"] = _has_model(wanted)
    return found


def _torch() -> Dict[str, Any]:
    import torch

    devices = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            devices.append({"name": torch.cuda.get_device_name(number), "total": total, "free": free})
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        devices.append({"name": "Apple GPU", "total": 0, "free": 0})
    return {"torch": str(torch.__version__), "devices": devices}


def _has_model(wanted: str) -> bool:
    try:
        from SAM2PropagateLib.models.store import ModelStore

        ModelStore().resolve(wanted)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    print(MARK + json.dumps(probe(sys.argv[1])), flush=True)
