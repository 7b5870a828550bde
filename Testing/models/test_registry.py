"""The list of models: complete, consistent, and true of the bundled file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, MODELS, find_model, model_names
from SAM2PropagateLib.models.store import ModelStore, resource_folder
from SAM2PropagateLib.models.verify import sha256_of

LIBRARY = Path(__file__).resolve().parents[2] / "SAM2Propagate"


def test_it_lists_the_bundled_model_first_and_metas_eight() -> None:
    assert model_names()[0] == DEFAULT_MODEL == "sam2propagate_tiny"
    official = {
        f"{family}_hiera_{size}"
        for family in ("sam2", "sam2.1")
        for size in ("tiny", "small", "base_plus", "large")
    }
    assert set(model_names()) == official | {DEFAULT_MODEL}


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_each_entry_is_complete(entry) -> None:  # type: ignore[no-untyped-def]
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.license == "Apache-2.0"
    assert entry.input_size in (384, 1024)
    assert entry.memory_mb > entry.parameters * 4  # at least its own weights in float32
    assert (entry.url is None) != (entry.resource is None)
    if entry.url is not None:
        assert entry.url.startswith("https://dl.fbaipublicfiles.com/segment_anything_2/")
        assert entry.url.endswith(f"/{entry.name}.pt") and entry.file_name == f"{entry.name}.pt"
        assert entry.config is not None and entry.config.startswith(f"configs/{entry.name.split('_')[0]}/")


def test_no_two_entries_share_a_checksum() -> None:
    assert len({entry.sha256 for entry in MODELS}) == len(MODELS)


def test_the_bundled_file_is_the_registered_one_and_small_enough() -> None:
    entry = find_model(DEFAULT_MODEL)
    path = resource_folder() / entry.file_name
    assert path.stat().st_size == entry.bytes
    assert path.stat().st_size <= 40_000_000
    assert sha256_of(path) == entry.sha256
    assert path.with_suffix(".md").is_file(), "the model card lies beside the weights"


def test_the_bundled_model_resolves_with_its_checksum(tmp_path: Path) -> None:
    path, entry = ModelStore(cache=tmp_path).resolve()
    assert path == resource_folder() / "sam2propagate_tiny.safetensors"
    assert entry is find_model(DEFAULT_MODEL)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        find_model("sam3")
    assert caught.value.code == "unknown_model"
    assert "“sam3”" in caught.value.sentence
    assert "sam2.1_hiera_large" in caught.value.hint


def test_models_import_without_torch_and_start_nothing() -> None:
    code = (
        "import sys\n"
        "from SAM2PropagateLib.models import download, memory, registry, store, verify\n"
        "print([m for m in ('torch', 'sam2', 'numpy', 'slicer', 'vtk', 'qt') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=LIBRARY,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
