"""Calls the command line as a user does, with a fake session and a store of its own."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.models.registry import ModelEntry
from SAM2PropagateLib.models.store import ModelStore
from Testing.cli.fake_session import FakeJobSession

SHAPE = (8, 20, 30)
SPACING = (1.0, 2.0, 3.0)
ORIGIN_LPS = (-5.0, -7.0, 11.0)


@dataclass(frozen=True)
class Outcome:
    """What the command line did."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The only line on stderr that tells of an error."""
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("Error: ")


def ras_of(i: float, j: float, k: float) -> tuple[float, float, float]:
    """World position of a voxel of `write_volume`'s volume."""
    x, y, z = (float(value) for value in np.array(ORIGIN_LPS) + np.array(SPACING) * (i, j, k))
    return -x, -y, z


def words(point: tuple[float, float, float]) -> list[str]:
    """A point as command line arguments."""
    return [repr(coordinate) for coordinate in point]


def write_volume(path: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    """A small volume with something in it; returns `path`."""
    array = np.random.default_rng(1).integers(0, 200, shape).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN_LPS)
    sitk.WriteImage(image, str(path))
    return path


def store_in(folder: Path) -> ModelStore:
    """A store with one small bundled model, `sam2propagate_tiny`, and one to download."""
    resources = folder / "resources"
    resources.mkdir(parents=True, exist_ok=True)
    content = b"weights of the bundled model"
    (resources / "tiny.safetensors").write_bytes(content)
    common: dict[str, Any] = {"license": "Apache-2.0", "config": None, "parameters": 1.0, "memory_mb": 512}
    models = (
        ModelEntry(
            name="sam2propagate_tiny",
            title="Bundled",
            url=None,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            input_size=256,
            resource="tiny.safetensors",
            **common,
        ),
        ModelEntry(
            name="big",
            title="Big",
            url="https://example.invalid/big.pt",
            sha256=hashlib.sha256(b"big").hexdigest(),
            bytes=3 << 20,
            input_size=1024,
            **common,
        ),
    )
    return ModelStore(cache=folder / "cache", resources=resources, models=models)


def run(tmp_path: Path, *arguments: object, session: FakeJobSession | None = None) -> Outcome:
    """Run the command line; a session that is not given must not be asked for."""
    out, err = io.StringIO(), io.StringIO()

    def factory() -> FakeJobSession:
        assert session is not None, "a worker was started for nothing"
        return session

    code = main(
        [str(argument) for argument in arguments],
        session_factory=factory,
        store=store_in(tmp_path / "models"),
        stdout=out,
        stderr=err,
    )
    return Outcome(code, out.getvalue(), err.getvalue())
