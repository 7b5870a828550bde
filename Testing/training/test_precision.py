"""The precision that is learned and measured with."""

from __future__ import annotations

from pathlib import Path

from SAM2PropagateLib.engine.build import load_model
from SAM2PropagateLib.training.precision import as_in_use
from Testing.training.samples import loaded


def test_what_is_learned_from_is_encoded_as_the_engine_would(model: Path) -> None:
    learning = loaded(model)
    used = as_in_use(learning)
    assert used.precision == load_model(model, device="cpu").precision
    assert learning.precision == "float32"
    # The engine changes in place what it is given.
    assert used.model is not learning.model
