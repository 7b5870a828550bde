"""The user's models: where they are, what is there, and that nothing is used unverified."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.models import verify
from SAM2PropagateLib.models.memory import available_host_memory, linux_memory
from SAM2PropagateLib.models.registry import MODELS, ModelEntry, find_model
from SAM2PropagateLib.models.store import ModelStore, cache_folder, resource_folder

CONTENT = b"weights" * 1000


def an_entry(content: bytes = CONTENT, **changes: object) -> ModelEntry:
    entry = replace(
        find_model("sam2.1_hiera_small"),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=None,
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    entry = an_entry()
    return ModelStore(tmp_path / "cache", tmp_path / "resources", (entry,))


def put(store: ModelStore, content: bytes = CONTENT) -> Path:
    path = store.path_of(store.models[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# where


def test_the_cache_is_where_each_system_keeps_such_things(tmp_path: Path) -> None:
    home = Path.home()
    assert cache_folder({}, "linux") == home / ".cache" / "SAM2Propagate"
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}, "linux") == tmp_path / "SAM2Propagate"
    assert cache_folder({}, "darwin") == home / "Library" / "Caches" / "SAM2Propagate"
    assert cache_folder({"LOCALAPPDATA": str(tmp_path)}, "win32") == tmp_path / "SAM2Propagate" / "Cache"
    assert cache_folder({}, "win32") == home / "AppData" / "Local" / "SAM2Propagate" / "Cache"
    for platform in ("linux", "darwin", "win32"):
        assert cache_folder({"SAM2PROPAGATE_CACHE": str(tmp_path)}, platform) == tmp_path


def test_the_environment_variable_moves_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2PROPAGATE_CACHE", str(tmp_path / "elsewhere"))
    assert ModelStore().path_of(find_model("sam2_hiera_tiny")).is_relative_to(tmp_path / "elsewhere")


def test_nothing_to_download_goes_into_the_extension() -> None:
    store = ModelStore()
    for entry in MODELS:
        inside = store.path_of(entry).is_relative_to(resource_folder().parent.parent)
        assert inside == (entry.resource is not None)


# what is there


def test_status_tells_what_is_there(store: ModelStore) -> None:
    (status,) = store.status()
    assert not status.there and status.bytes_there == 0
    unfinished = store.unfinished_path_of(store.models[0])
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"half")
    (status,) = store.status()
    assert not status.there and status.bytes_there == 4
    put(store)
    (status,) = store.status()
    assert status.there and status.bytes_there == len(CONTENT)


def test_asking_creates_nothing(store: ModelStore) -> None:
    store.status()
    with pytest.raises(InputError):
        store.resolve(store.models[0].name)
    assert not store.cache.exists()


def test_remove_deletes_the_file_and_what_is_unfinished(store: ModelStore) -> None:
    path = put(store)
    store.unfinished_path_of(store.models[0]).write_bytes(b"half")
    assert store.remove(store.models[0].name) == len(CONTENT) + 4
    assert not path.exists() and not store.unfinished_path_of(store.models[0]).exists()
    assert store.remove(store.models[0].name) == 0


def test_the_bundled_model_cannot_be_removed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ModelStore(tmp_path).remove("sam2propagate_tiny")
    assert caught.value.code == "model_bundled"
    assert (resource_folder() / "sam2propagate_tiny.safetensors").is_file()


# resolve


def test_a_model_that_is_there_is_verified_and_returned(store: ModelStore) -> None:
    path = put(store)
    assert store.resolve(store.models[0].name) == (path, store.models[0])


def test_a_model_that_is_not_there_says_how_to_get_it(store: ModelStore) -> None:
    with pytest.raises(InputError) as caught:
        store.resolve(store.models[0].name)
    assert caught.value.code == "model_not_there"
    assert store.models[0].url is not None and store.models[0].url in caught.value.hint
    assert str(store.path_of(store.models[0]).parent) in caught.value.hint


@pytest.mark.parametrize(
    "content", [CONTENT[:-1] + b"X", CONTENT[:-1], b""], ids=["one byte", "cut off", "empty"]
)
def test_a_changed_file_is_refused(store: ModelStore, content: bytes) -> None:
    put(store, content)
    with pytest.raises(SAM2PropagateError) as caught:
        store.resolve(store.models[0].name)
    assert caught.value.code == "model_changed"


def test_a_file_changed_after_it_was_verified_is_refused(store: ModelStore) -> None:
    path = put(store)
    store.resolve(store.models[0].name)
    before = path.stat()
    path.write_bytes(CONTENT[:-1] + b"X")
    # Somebody who sets the size and the time back is found out as well, where the system keeps a change time.
    if os.name == "posix":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(SAM2PropagateError) as caught:
        store.resolve(store.models[0].name)
    assert caught.value.code == "model_changed"


def test_a_file_of_another_size_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path, tmp_path, (an_entry(bytes=len(CONTENT) + 1),))
    put(store)
    monkeypatch.setattr(verify, "sha256_of", lambda path, check=None: pytest.fail("the file was read"))
    with pytest.raises(SAM2PropagateError) as caught:
        store.resolve(store.models[0].name)
    assert caught.value.code == "model_changed"


def test_unknown_names_and_missing_paths_are_told_apart(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        store.resolve("sam9")
    assert caught.value.code == "unknown_model" and store.models[0].name in caught.value.hint
    for path in ("missing.pt", str(tmp_path / "nowhere" / "model"), "x.safetensors"):
        with pytest.raises(InputError) as caught:
            store.resolve(path)
        assert caught.value.code == "weights_missing"


def test_a_file_of_the_users_is_taken_as_it_is(store: ModelStore, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"anything")
    assert store.resolve(str(own)) == (own, None)


def test_a_published_file_is_recognized_wherever_it_lies(store: ModelStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "downloads" / store.models[0].file_name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(CONTENT)
    assert store.resolve(elsewhere) == (elsewhere, store.models[0])
    elsewhere.write_bytes(b"fine-tuned, under the old name")
    assert store.resolve(elsewhere) == (elsewhere, None)


# checksums are remembered, but never trusted over a changed file


def test_an_unchanged_file_is_read_once(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    original = verify.sha256_of

    def counting(path: Path, *rest: object) -> str:
        reads.append(path)
        return original(path)

    monkeypatch.setattr(verify, "sha256_of", counting)
    put(store)
    for _ in range(3):
        store.resolve(store.models[0].name)
    again = ModelStore(store.cache, store.resources, store.models)
    again.resolve(store.models[0].name)
    assert len(reads) == 1
    os.utime(store.path_of(store.models[0]))
    again.resolve(store.models[0].name)
    assert len(reads) == 2


@pytest.mark.parametrize("content", ["", "not JSON", "[]", '{"x": 3}'])
def test_a_broken_file_of_checksums_does_no_harm(store: ModelStore, content: str) -> None:
    path = put(store)
    (store.cache / "checksums.json").write_text(content, encoding="utf-8")
    assert store.resolve(store.models[0].name)[0] == path
    remembered = json.loads((store.cache / "checksums.json").read_text(encoding="utf-8"))
    assert remembered[str(path.resolve())]["sha256"] == store.models[0].sha256


def test_a_file_of_checksums_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "m.safetensors").write_bytes(CONTENT)
    entry = an_entry(url=None, resource="m.safetensors")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the cache folder should be", encoding="utf-8")
    store = ModelStore(blocked, resources, (entry,))
    assert store.resolve(entry.name)[0] == resources / "m.safetensors"
    assert blocked.is_file()


# main memory


def test_free_main_memory_is_plausible() -> None:
    free = available_host_memory()
    assert free is not None and 1 << 26 < free < 1 << 46


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   9000 kB\n", encoding="ascii")
    assert linux_memory(tmp_path, tmp_path / "none") == 9000 * 1024
    group = tmp_path / "cgroup"
    group.mkdir()
    (group / "memory.max").write_text("max\n", encoding="ascii")
    assert linux_memory(tmp_path, group) == 9000 * 1024
    (group / "memory.max").write_text("5000000\n", encoding="ascii")
    (group / "memory.current").write_text("3000000\n", encoding="ascii")
    (group / "memory.stat").write_text("anon 1\ninactive_file 1000000\n", encoding="ascii")
    assert linux_memory(tmp_path, group) == 3_000_000


def test_a_model_may_lie_in_a_further_folder_that_is_never_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled, other = (entry for entry in MODELS if entry.name in ("sam2propagate_tiny", "sam2_hiera_tiny"))
    (tmp_path / "more").mkdir()
    monkeypatch.setenv("SAM2PROPAGATE_MODELS", str(tmp_path / "more"))
    store = ModelStore(tmp_path / "cache", tmp_path / "resources")
    assert store.path_of(other) == tmp_path / "cache" / "models" / other.file_name
    for entry in (bundled, other):
        (tmp_path / "more" / entry.file_name).write_bytes(b"copied")
        assert store.path_of(entry) == tmp_path / "more" / entry.file_name
        # It is compared like any other.
        with pytest.raises(SAM2PropagateError, match="not the published model"):
            store.verified(entry)
    # What is where it belongs comes first.
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / other.file_name).write_bytes(b"downloaded")
    assert store.path_of(other).parent == tmp_path / "cache" / "models"


# what a model is


def test_a_model_is_the_same_wherever_it_lies(store: ModelStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here.pt", tmp_path / "folder" / "there.safetensors"
    there.parent.mkdir()
    for path, when in ((here, 1), (there, 2)):
        path.write_bytes(CONTENT)
        os.utime(path, (when, when))
    assert store.identity(here, None) == store.identity(there, None)
    assert store.identity(here, None) != store.identity(here, "configs/sam2/sam2_hiera_s.yaml")
    there.write_bytes(CONTENT + b"more")
    assert store.identity(here, None) != store.identity(there, None)


def test_a_configuration_s_content_counts_and_not_its_place(store: ModelStore, tmp_path: Path) -> None:
    weights, one, two = tmp_path / "a.pt", tmp_path / "one.yaml", tmp_path / "two.yml"
    weights.write_bytes(CONTENT)
    for path in (one, two):
        path.write_text("model: {}", encoding="utf-8")
    before = store.identity(weights, str(one))
    assert before == store.identity(weights, str(two))
    one.write_text("model: {image_size: 64}", encoding="utf-8")
    assert store.identity(weights, str(one)) != before


def test_weights_that_cannot_be_read_have_no_identity(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(SAM2PropagateError) as caught:
        store.identity(tmp_path / "gone.pt", None)
    assert caught.value.code == "model_unreadable" and "gone.pt" in caught.value.sentence
