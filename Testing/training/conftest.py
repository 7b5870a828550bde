"""What the tests of the training share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from SAM2PropagateLib.training import image_half
from Testing.training.samples import outline_the_bright, write_case, write_model


@pytest.fixture(scope="module")
def outlines() -> Iterator[None]:
    """Warped looks: a model with random weights outlines nothing, and takes long to find that out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_half, "proposer", lambda steps: outline_the_bright)
        yield


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, one structure each."""
    folder = tmp_path_factory.mktemp("cases")
    for number in range(3):
        write_case(folder, f"p{number}", seed=number)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_model` as a file."""
    return write_model(tmp_path_factory.mktemp("model") / "start.safetensors")
