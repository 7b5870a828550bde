"""Lists the known models: where they come from, how to verify them, and what they need."""

from __future__ import annotations

from dataclasses import dataclass

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _

DEFAULT_MODEL = "sam2propagate_tiny"
# The family of all models listed so far; `engine.families` loads them.
SAM2 = "sam2"


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be loaded by name.

    Attributes:
        name: for the user and the command line.
        title: for people.
        url: for the download; None if it comes with the extension.
        sha256: of the whole file, in hexadecimal.
        bytes: size of the file; None if not published.
        license: SPDX identifier of the weights.
        config: the configuration for `load_model`; None if the file has it.
        input_size: side of its input in pixels unless another is chosen.
        parameters: how many weights, in millions.
        memory_mb: most main memory (2**20 bytes) of a process that loads it and segments two frames at
            `input_size`: measured on a CPU in float32, torch itself included (Tools/measure_memory.py) and
            rounded up to 50. An estimate for a GPU, not measured on one. Kept features of frames come on top.
        resource: the file's name in the extension's Resources/Models; None for a download.
        family: of `engine.families`; it decides which code loads and runs the model.
    """

    name: str
    title: str
    url: str | None
    sha256: str
    bytes: int | None
    license: str
    config: str | None
    input_size: int
    parameters: float
    memory_mb: int
    resource: str | None = None
    family: str = SAM2

    @property
    def listed_title(self) -> Words:
        """The title for a list, with a remark if the model comes with the extension."""
        if self.resource is None:
            return self.title
        return _("{title} (comes with the extension)").format(title=self.title)

    @property
    def file_name(self) -> str:
        """The file's name, in the extension or in the cache folder."""
        if self.resource is not None:
            return self.resource
        assert self.url is not None
        return self.url.rpartition("/")[2]


_META = "https://dl.fbaipublicfiles.com/segment_anything_2"


def _meta(
    generation: str,
    size: str,
    sha256: str,
    parameters: float,
    memory_mb: int,
    file_bytes: int | None = None,
) -> ModelEntry:
    folder = {"sam2": "072824", "sam2.1": "092824"}[generation]
    letter = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}[size]
    return ModelEntry(
        name=f"{generation}_hiera_{size}",
        title=f"{'SAM 2.1' if generation == 'sam2.1' else 'SAM 2'} {size.replace('_', ' ')} (Meta)",
        url=f"{_META}/{folder}/{generation}_hiera_{size}.pt",
        sha256=sha256,
        bytes=file_bytes,
        license="Apache-2.0",
        config=f"configs/{generation}/{generation}_hiera_{letter}.yaml",
        input_size=1024,
        parameters=parameters,
        memory_mb=memory_mb,
    )


MODELS: tuple[ModelEntry, ...] = (
    ModelEntry(
        name=DEFAULT_MODEL,
        title="SAM2Propagate tiny",
        url=None,
        sha256="aab1ad508bdeaa8466858c3f30d9c80aee351418fbf38e41dfb0409863cbc916",
        bytes=38_903_096,
        license="Apache-2.0",
        config=None,
        input_size=384,
        parameters=35.0,
        memory_mb=450,
        resource="sam2propagate_tiny.safetensors",
    ),
    _meta(
        "sam2.1",
        "tiny",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        39.0,
        1000,
        156_008_466,
    ),
    _meta("sam2.1", "small", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38", 46.1, 1000),
    _meta(
        "sam2.1", "base_plus", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5", 80.9, 1150
    ),
    _meta(
        "sam2.1",
        "large",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        224.4,
        1750,
        898_083_611,
    ),
    _meta("sam2", "tiny", "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125", 38.9, 1000),
    _meta("sam2", "small", "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3", 46.0, 1000),
    _meta(
        "sam2", "base_plus", "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071", 80.8, 1150
    ),
    _meta("sam2", "large", "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b", 224.4, 1750),
)


def model_names() -> list[str]:
    """Return every name that `find_model` takes, the default first."""
    return [entry.name for entry in MODELS]


def find_model(name: str) -> ModelEntry:
    """Return the model of that name.

    Raises:
        InputError: `unknown_model`; its hint lists the names.
    """
    for entry in MODELS:
        if entry.name == name:
            return entry
    raise InputError(
        "unknown_model",
        _("There is no model “{name}”.").format(name=name),
        _("Choose one of {names}, or name a weights file.").format(names=", ".join(model_names())),
    )
