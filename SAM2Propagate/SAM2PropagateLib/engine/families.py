"""Lists the families of models, and loads a model with the code of its family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SAM2PropagateLib.engine.build import load_model as load_sam2
from SAM2PropagateLib.engine.family import LoadedModel, LoadsModel
from SAM2PropagateLib.engine.weights import metadata_of
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.registry import SAM2
from SAM2PropagateLib.texts import text as _

FAMILIES: Mapping[str, LoadsModel] = {SAM2: load_sam2}


def family_of(path: Path, listed: str | None = None) -> str:
    """Return the family of a weights file.

    Args:
        listed: the family in the registry; None: taken from the file, or SAM 2.

    Raises:
        InputError: as `weights.read_state`.
    """
    return listed if listed is not None else metadata_of(path).get("family", SAM2)


def load_model(
    path: Path,
    family: str | None = None,
    *,
    config: Any = None,
    device: str = "auto",
    input_size: int | None = None,
    precision: str = "auto",
    name: str | None = None,
    families: Mapping[str, LoadsModel] = FAMILIES,
) -> LoadedModel:
    """Load a model from its weights file with the code of its family.

    Args:
        path: of the weights file; verified before (models/store.py).
        family: in the registry; None: taken from the file's metadata, or SAM 2.
        config, device, input_size, precision, name: see `build.load_model`.
        families: the known families.

    Raises:
        InputError: `unknown_family`, or as the family refuses, see `build.load_model`.
        SAM2PropagateError: `model_does_not_fit`.
    """
    wanted = family_of(path, family)
    if wanted not in families:
        raise InputError(
            "unknown_family",
            _("“{file}” is a model of the family “{family}”, which this version does not know.").format(
                file=path.name, family=wanted
            ),
            _("Update the extension, or choose another model."),
        )
    return families[wanted](
        path, config=config, device=device, input_size=input_size, precision=precision, name=name
    )
