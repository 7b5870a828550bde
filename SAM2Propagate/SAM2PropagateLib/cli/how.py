"""Parses the options on how to segment: the model, the device, the window, the run."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from SAM2PropagateLib.cli.said import NUMBER, program_name
from SAM2PropagateLib.cohort.needs import model_memory_mb
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.window import PRESETS
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, ModelEntry
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.models.verify import is_config_file
from SAM2PropagateLib.run_options import BOTH, DIRECTIONS, RunOptions
from SAM2PropagateLib.worker.messages import LoadModel

# Copied from `engine.device`, which imports torch.
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
AXES = {"i": 0, "j": 1, "k": 2, "auto": None}
ALL_AXES = "all"
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def add_how(parser: argparse.ArgumentParser) -> Any:
    """Add the options on how to segment; return their group, to add more."""
    how = parser.add_argument_group("how")
    how.add_argument("--axis", choices=tuple(AXES), default="auto", help="propagation axis (default: auto)")
    how.add_argument(
        "--direction",
        choices=DIRECTIONS,
        default=BOTH,
        help=f"forward is to higher slice indices (default: {BOTH})",
    )
    how.add_argument("--reach", type=count, metavar="N", help="at most N slices away from the prompts")
    how.add_argument(
        "--window",
        metavar="WIDTH LEVEL | PRESET",
        help=f"what the model sees: two numbers, or one of {', '.join(PRESETS)} (default: the file's own, "
        "else soft-tissue for CT and percentiles for the rest)",
    )
    how.add_argument(
        "--crop",
        choices=("auto", "none"),
        default="auto",
        help="let the model see the region around the prompts (auto, the default) or whole slices",
    )
    how.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=f"default: {DEFAULT_MODEL}")
    how.add_argument(
        "--config", metavar="NAME|FILE", help="the model's configuration, for a file of your own"
    )
    how.add_argument("--input-size", type=count, metavar="N", help="side of the model's input in pixels")
    how.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (default: auto)")
    how.add_argument("--precision", choices=PRECISIONS, default="auto", help="to compute in (default: auto)")
    add_motion(how)
    add_axes(how)
    return how


@dataclass(frozen=True)
class ChosenModel:
    """The model of a command, found and verified.

    Attributes:
        path: of its weights, absolute. entry: in the list of models; None: a file of the user.
        config: its configuration, a file as an absolute path; None: taken from the weights file.
        identity: changes with the weights or the configuration, not with their place.
    """

    path: Path
    entry: ModelEntry | None
    config: str | None
    identity: str

    @property
    def family(self) -> str | None:
        """Its family of models; None: taken from the file."""
        return None if self.entry is None else self.entry.family

    @property
    def memory_mb(self) -> int:
        """The main memory of a process with it, in MB."""
        return model_memory_mb(self.entry, self.path)


def chosen_model(store: ModelStore, name: str, config: str | None) -> ChosenModel:
    """Return the model of this name or path, with the given configuration or its own.

    Raises:
        InputError, SAM2PropagateError: as `ModelStore.resolve`; for a missing model, the hint has the command
            that downloads it.
    """
    try:
        path, entry = store.resolve(name)
    except InputError as error:
        if error.code != "model_not_there":
            raise
        hint = f"'{program_name()} models --download {name} --yes' gets it."
        raise InputError(error.code, error.sentence, f"{error.hint} {hint}") from error
    if config and is_config_file(config):
        # Workers may run in another folder.
        config = str(Path(config).absolute())
    chosen = config or (None if entry is None else entry.config)
    return ChosenModel(path.absolute(), entry, chosen, store.identity(path, chosen))


@dataclass(frozen=True)
class HowToSegment:
    """The values of the options of `add_how`; commands that have them inherit it.

    Attributes:
        axis: 0, 1, 2, or None: chosen by the prompts.
        window: a preset's name, (width, level), or None: the file's own. crop: "auto", or None: whole slices.
    """

    axis: int | None
    model: str
    config: str | None
    device: str
    input_size: int | None
    motion: bool
    precision: str
    window: str | tuple[float, float] | None
    crop: str | None
    run: RunOptions


def how_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `HowToSegment` from the parsed arguments.

    Raises:
        InputError: `bad_window`.
    """
    return {
        "axis": AXES[namespace.axis],
        "model": namespace.model,
        "config": namespace.config,
        "device": namespace.device,
        "input_size": namespace.input_size,
        "motion": namespace.motion == "on",
        "precision": namespace.precision,
        "window": parse_window(namespace.window),
        "crop": None if namespace.crop == "none" else "auto",
        "run": RunOptions(
            direction=namespace.direction, reach=namespace.reach, all_axes=namespace.axes == ALL_AXES
        ),
    }


def add_motion(parser: Any) -> None:
    """Add the option that switches the motion between slices on and off."""
    parser.add_argument(
        "--motion",
        choices=("on", "off"),
        default="on",
        help="carry masks along the image's motion, too (on, the default), or by the model alone",
    )


def add_axes(parser: Any) -> None:
    """Add the option that carries masks along the other two axes, too."""
    parser.add_argument(
        "--axes",
        choices=("one", ALL_AXES),
        default="one",
        help="when the masks are finished, carry them along the other two axes, too, and fuse the three "
        f"({ALL_AXES}); takes at least three times as long (default: one)",
    )


def check_device(name: str) -> None:
    """Refuse a name that no device has. Raises InputError `unknown_device`."""
    if not _DEVICE.fullmatch(name):
        raise InputError(
            "unknown_device", f"There is no device “{name}”.", "Use auto, cuda, cuda:N, mps or cpu."
        )


def count(text: str) -> int:
    """Parse a whole number above 0, for argparse."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"“{text}” is not a whole number above 0")
    return int(text)


def parse_window(text: str | None) -> str | tuple[float, float] | None:
    """Return a preset's name, or (width, level)."""
    if text is None:
        return None
    words = text.replace(",", " ").split()
    if len(words) == 2 and all(NUMBER.fullmatch(word) for word in words):
        return float(words[0]), float(words[1])
    if len(words) == 1 and words[0] and not NUMBER.fullmatch(words[0]):
        return words[0]
    raise InputError(
        "bad_window",
        f"“{text}” is not a window.",
        f"Give a width and a level, such as 400 40, or one of {', '.join(PRESETS)}.",
    )


class ModelWords(Protocol):
    """The options of a command on the model and how it computes."""

    @property
    def model(self) -> str:
        """Its name or file."""

    @property
    def config(self) -> str | None:
        """Its configuration, for a file of the user."""

    @property
    def device(self) -> str:
        """The device to compute on."""

    @property
    def input_size(self) -> int | None:
        """The side of the model's input in pixels; None: the model's own."""

    @property
    def motion(self) -> bool:
        """Whether masks follow the image's motion, too."""

    @property
    def precision(self) -> str:
        """The precision to compute in."""


def model_request(command: ModelWords, chosen: ChosenModel) -> LoadModel:
    """Return the request to load the model that was chosen for the command."""
    by_name = chosen.entry is not None and chosen.entry.name == command.model
    config = chosen.config if command.config else None
    return model_of(command, None if by_name else str(chosen.path), config)


def model_of(command: ModelWords, path: str | None, config: str | None) -> LoadModel:
    """Return the request to load a model.

    Args:
        path: of a file on the worker's computer; None: the command's model by name.
        config: a name, or a file there; None: the model's own.
    """
    return LoadModel(
        name=command.model if path is None else None,
        path=path,
        config=config,
        device=command.device,
        input_size=command.input_size,
        motion=command.motion,
        precision=command.precision,
        # Without previews there is nothing to encode ahead for.
        encode_ahead=False,
    )
