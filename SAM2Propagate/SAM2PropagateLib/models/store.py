"""Finds the models on this computer, and verifies their files."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, MODELS, ModelEntry, find_model
from SAM2PropagateLib.models.verify import ChecksumMemory, config_identity
from SAM2PropagateLib.texts import text as _

CACHE_VARIABLE = "SAM2PROPAGATE_CACHE"
MORE_MODELS_VARIABLE = "SAM2PROPAGATE_MODELS"
"""The environment variable with another folder of models' files, which is never written to."""


def cache_folder(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Return the user's folder for downloaded models. It may not exist yet.

    It is the environment variable SAM2PROPAGATE_CACHE, or else the system's folder for caches:
    %LOCALAPPDATA% on Windows, ~/Library/Caches on macOS, $XDG_CACHE_HOME or ~/.cache elsewhere.
    """
    environment = os.environ if environment is None else environment
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "SAM2Propagate" / "Cache"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "SAM2Propagate"
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "SAM2Propagate"


def resource_folder() -> Path:
    """Return the folder of bundled models; nothing is ever written there.

    In the extension it lies beside the library, in an installed wheel within it (`pyproject.toml`).
    """
    library = Path(__file__).resolve().parents[1]
    packaged = library / "bundled_models"
    return packaged if packaged.is_dir() else library.parent / "Resources" / "Models"


@dataclass(frozen=True)
class ModelStatus:
    """A model and whether it is on this computer.

    Attributes:
        entry: the model.
        path: of its file, which may be missing.
        there: whether the whole file is there (its checksum is checked when it is used).
        bytes_there: bytes on the disk, of the file or of an unfinished download.
    """

    entry: ModelEntry
    path: Path
    there: bool
    bytes_there: int


class ModelStore:
    """The models of this computer.

    Args:
        cache: the folder for downloads; `cache_folder()` if None.
        resources: the folder of bundled models; `resource_folder()` if None.
        models: the models to know; the registry's if None.
        more: another folder with models' files, which is never written to; the one in the environment if
            None.
    """

    def __init__(
        self,
        cache: Path | None = None,
        resources: Path | None = None,
        models: tuple[ModelEntry, ...] | None = None,
        more: Path | None = None,
    ) -> None:
        self.cache = cache if cache is not None else cache_folder()
        self.resources = resources if resources is not None else resource_folder()
        self.models = models if models is not None else MODELS
        named = os.environ.get(MORE_MODELS_VARIABLE)
        self._more = more if more is not None else Path(named) if named else None
        self.checksums = ChecksumMemory(self.cache / "checksums.json")

    def find(self, name: str) -> ModelEntry:
        """Return the model of that name.

        Raises:
            InputError: `unknown_model`.
        """
        return next((entry for entry in self.models if entry.name == name), None) or find_model(name)

    def path_of(self, entry: ModelEntry) -> Path:
        """Return where the model's file is, or will be once downloaded."""
        folder = self.resources if entry.resource is not None else self.cache / "models"
        path = folder / entry.file_name
        if self._more is not None and not path.is_file() and (self._more / entry.file_name).is_file():
            return self._more / entry.file_name
        return path

    def unfinished_path_of(self, entry: ModelEntry) -> Path:
        """Return the path of an unfinished download."""
        return _unfinished(self.path_of(entry))

    def status(self) -> list[ModelStatus]:
        """Return every model and whether it is there, without reading the files."""
        found = []
        for entry in self.models:
            path = self.path_of(entry)
            size = _size(path)
            there = size or _size(_unfinished(path)) or 0
            found.append(ModelStatus(entry, path, size is not None, there))
        return found

    def resolve(self, name_or_path: str | Path | None = None) -> tuple[Path, ModelEntry | None]:
        """Return the weights file of a model, its checksum verified, or a file of the user's.

        Args:
            name_or_path: a model's name, a path to a weights file, or None for the bundled model.

        Returns:
            The file and its model. A file of the user's with the name and the checksum of a known model is
            that model; for any other it is None, and the file is only as trustworthy as its origin.

        Raises:
            InputError: `unknown_model` (the hint lists them); `model_not_there`: known, not downloaded yet;
                `weights_missing`: no file at that path.
            SAM2PropagateError: `model_changed`: the file is not the published one; `model_unreadable`.
        """
        text = str(name_or_path) if name_or_path is not None else DEFAULT_MODEL
        by_name = next((entry for entry in self.models if entry.name == text), None)
        if by_name is not None:
            return self.verified(by_name), by_name
        path = Path(text)
        # A name after “~” that is no user's is left as it is.
        with contextlib.suppress(RuntimeError):
            path = path.expanduser()
        if not path.is_file():
            self._refuse(text, path)
        for entry in self.models:
            if entry.file_name == path.name and self._sha256(entry, path) == entry.sha256:
                return path, entry
        return path, None

    def verified(self, entry: ModelEntry) -> Path:
        """Check the checksum of a model's own file, and return its path.

        Raises:
            InputError: `model_not_there`.
            SAM2PropagateError: `model_changed`, `model_unreadable`.
        """
        path = self.path_of(entry)
        if not path.is_file():
            if entry.resource is not None:
                raise SAM2PropagateError(
                    "model_not_there",
                    _("The model “{name}”, which comes with the extension, is not there (“{path}”).").format(
                        name=entry.name, path=path
                    ),
                    _("Install the extension again."),
                )
            raise InputError(
                "model_not_there",
                _("The model “{name}” is not on this computer yet.").format(name=entry.name),
                _("Download it. Without a network, put “{file}” from {url} into “{folder}”.").format(
                    file=entry.file_name, url=entry.url, folder=path.parent
                ),
            )
        if self._sha256(entry, path) != entry.sha256:
            if entry.resource is not None:
                hint = _("Install the extension again.")
            else:
                hint = _("Remove it and download it again.")
            raise SAM2PropagateError(
                "model_changed",
                _(
                    "The file “{path}” is not the published model “{name}”: its checksum differs. "
                    "It was not loaded."
                ).format(path=path, name=entry.name),
                hint,
            )
        return path

    def identity(self, path: Path, config: str | None) -> str:
        """Return what changes with a model's weights or its configuration, and not with where they lie.

        Args:
            path: of the weights file. config: as for `config_identity`.

        Raises:
            SAM2PropagateError: `model_unreadable`.
        """
        try:
            return f"{self.checksums.sha256(path)} {config_identity(config)}".rstrip()
        except OSError as error:
            raise _unreadable(path, error) from error

    def remove(self, name: str) -> int:
        """Delete a downloaded model and its unfinished download.

        Returns:
            Bytes freed; 0 if nothing was there.

        Raises:
            InputError: `unknown_model`; `model_bundled`: it comes with the extension.
            SAM2PropagateError: `model_in_use`: the system does not delete the file.
        """
        entry = self.find(name)
        if entry.resource is not None:
            raise InputError(
                "model_bundled",
                _("The model “{name}” comes with the extension and cannot be removed.").format(name=name),
            )
        freed = 0
        for path in (self.path_of(entry), self.unfinished_path_of(entry)):
            size = _size(path)
            if size is None:
                continue
            try:
                path.unlink()
            except OSError as error:
                raise SAM2PropagateError(
                    "model_in_use",
                    _("“{path}” cannot be removed ({reason}).").format(
                        path=path, reason=error.strerror or error
                    ),
                    _("Stop the worker, or close the program that uses the model, and try again."),
                ) from error
            freed += size
        self.checksums.forget(self.path_of(entry))
        return freed

    def _sha256(self, entry: ModelEntry, path: Path) -> str:
        try:
            if entry.bytes is not None and path.stat().st_size != entry.bytes:
                return "another size"
            return self.checksums.sha256(path)
        except OSError as error:
            raise _unreadable(path, error) from error

    def _refuse(self, text: str, path: Path) -> None:
        looks_like_path = path.suffix.lower() in (".pt", ".pth", ".safetensors", ".bin") or any(
            mark in text for mark in ("/", "\\")
        )
        if looks_like_path:
            raise InputError(
                "weights_missing",
                _("There is no weights file “{path}”.").format(path=path),
                _("Check the path, or choose one of {names}.").format(
                    names=", ".join(entry.name for entry in self.models)
                ),
            )
        find_model(text)
        raise InputError("unknown_model", _("There is no model “{text}”.").format(text=text))


def _unreadable(path: Path, error: OSError) -> SAM2PropagateError:
    return SAM2PropagateError(
        "model_unreadable",
        _("The file “{path}” cannot be read ({reason}).").format(
            path=error.filename or path, reason=error.strerror or error
        ),
    )


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
