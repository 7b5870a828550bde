"""`finetune`: trains a model on the user's own segmented volumes (`docs/finetune.md`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SAM2PropagateLib.cli.models import ChosenModel, chosen_model
from SAM2PropagateLib.cli.options import (
    add_debug,
    add_device_and_size,
    add_sharing,
    count,
    given_sharing,
    gpus_for,
    open_workers,
)
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cohort.fleet import Sharing, results
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, SAM2
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.numerals import MOST_DIGITS, decimal_number, whole_number
from SAM2PropagateLib.worker.messages import ProgressEvent

if TYPE_CHECKING:
    from SAM2PropagateLib.training.encoding import EncodingWork
    from SAM2PropagateLib.training.finetune import EncodeElsewhere, FinetuneResult
    from SAM2PropagateLib.training.trainer import TrainingProgress
    from SAM2PropagateLib.training.validation import Score

DEFAULT_EPOCHS = 10
_STAGE = "Training"

_EPILOG = """\
A case is a subfolder with image.nii.gz and label.nii.gz (or .nrrd, .mha; the label may be a .seg.nrrd), or
a file NAME.nii.gz with NAME_label.nii.gz or NAME.seg.nrrd beside it. Data sets of nnU-Net, the Medical
Segmentation Decathlon, TotalSegmentator and BraTS are read as they come. Every label value and every segment
is a structure. Cases whose names are the same up to the number of the patient (p07_ct, p07_mr) are of one
patient; a manifest.json can say otherwise.

example:
  finetune --cases my_livers --from sam2propagate_tiny --out liver.safetensors --minutes 60
  segment ct.nii.gz --model liver.safetensors --point-ras -80 10 45 --out liver.seg.nrrd
"""


@dataclass(frozen=True)
class FinetuneCommand:
    """The options of `finetune`. Without epochs and minutes: `DEFAULT_EPOCHS`."""

    cases: Path
    sequence: str
    model: str
    out: Path
    config: str | None
    validation: Path | None
    device: str
    input_size: int | None
    unfreeze: tuple[str, ...]
    epochs: int
    minutes: float
    seed: int
    batch: int | None
    resume: bool
    overwrite: bool
    debug: bool
    sharing: Sharing | None = None


def add_finetune(commands: Any, **shape: Any) -> argparse.ArgumentParser:
    """Add the command to the parsers made by `add_subparsers`."""
    shape = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **shape}
    parser: argparse.ArgumentParser = commands.add_parser(
        "finetune", help="teach a model on your own segmented volumes", epilog=_EPILOG, **shape
    )
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR", help="segmented volumes")
    add_sequence(parser)
    parser.add_argument(
        "--from",
        dest="model",
        default=DEFAULT_MODEL,
        metavar="NAME|FILE",
        help=f"the model to start from (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="NEW.safetensors",
        help="the new model; plot and report beside it",
    )
    parser.add_argument("--config", metavar="NAME|FILE", help="its configuration, for a file of your own")
    parser.add_argument(
        "--val", type=Path, metavar="DIR", help="cases to measure on (default: some patients of --cases)"
    )
    add_sharing(parser)
    how = parser.add_argument_group("how")
    add_device_and_size(how)
    how.add_argument(
        "--unfreeze",
        action="append",
        choices=("prompts", "image"),
        help="let this part learn as well (default: the memory half and the mask decoder alone)",
    )
    how.add_argument(
        "--epochs",
        type=count,
        metavar="N",
        help=f"rounds of 8 clips per structure (default: {DEFAULT_EPOCHS}, or no limit with --minutes)",
    )
    how.add_argument("--minutes", type=_minutes, metavar="M", help="stop after so much training")
    how.add_argument("--batch", type=count, metavar="N", help="clips per step (default: 8)")
    how.add_argument(
        "--seed", type=_seed, default=1, metavar="N", help="seed of what is drawn at random (default: 1)"
    )
    how.add_argument("--resume", action="store_true", help="go on with a training that was stopped")
    how.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_debug(how)
    return parser


def add_sequence(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses an image of cases that have several."""
    parser.add_argument(
        "--sequence",
        default="",
        metavar="NAME|N",
        help="which image of cases with several: its name (flair, t1ce, ...) or its number from 0",
    )


def finetune_command(namespace: argparse.Namespace) -> FinetuneCommand:
    """Return the command of parsed arguments.

    Raises:
        InputError: `bad_arguments`.
    """
    if namespace.out.suffix != ".safetensors":
        raise InputError(
            "bad_arguments",
            f"“{namespace.out.name}” is not the name of a weights file.",
            "Give a name that ends in .safetensors.",
        )
    epochs = namespace.epochs or (0 if namespace.minutes else DEFAULT_EPOCHS)
    return FinetuneCommand(
        cases=namespace.cases,
        sequence=namespace.sequence,
        model=namespace.model,
        out=namespace.out,
        config=namespace.config,
        validation=namespace.val,
        device=namespace.device,
        input_size=namespace.input_size,
        unfreeze=tuple(sorted(set(namespace.unfreeze or ()))),
        epochs=epochs,
        minutes=namespace.minutes or 0.0,
        seed=namespace.seed,
        batch=namespace.batch,
        resume=namespace.resume,
        overwrite=namespace.overwrite,
        debug=namespace.debug,
        sharing=given_sharing(namespace),
    )


def run_finetune(
    command: FinetuneCommand,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> list[str]:
    """Train and write the new model; return the lines of the result.

    Raises:
        InputError, SAM2PropagateError: as `training.finetune.finetune` and `ModelStore.resolve`.
        Cancelled: if training had begun, its state is kept, and --resume continues it.
    """
    # Imported late, as they import torch.
    from SAM2PropagateLib.engine.families import family_of
    from SAM2PropagateLib.training.finetune import FinetuneJob, can_resume, finetune
    from SAM2PropagateLib.training.recipe import Recipe

    chosen = chosen_model(store, command.model, command.config)
    if family_of(chosen.path, chosen.family) != SAM2:
        name = command.model or chosen.path.name
        raise InputError(
            "family_not_trained",
            f"Only SAM 2 models can be fine-tuned, and “{name}” is of another family.",
            "Choose a SAM 2 model.",
        )
    recipe = Recipe(seed=command.seed, minutes=command.minutes)
    if command.batch is not None:
        recipe = Recipe(seed=command.seed, minutes=command.minutes, batch=command.batch)
    job = FinetuneJob(
        cases=command.cases,
        sequence=command.sequence,
        model=chosen.path,
        out=command.out,
        config=chosen.config,
        validation=command.validation,
        device=command.device,
        input_size=command.input_size,
        further=command.unfreeze,
        epochs=command.epochs,
        recipe=recipe,
        resume=command.resume,
        overwrite=command.overwrite,
    )
    try:
        result = finetune(
            job,
            _Printing(progress, should_cancel),
            lambda text: progress.note(text + "."),
            None if command.sharing is None else _encoding(command, chosen, progress, should_cancel),
        )
    except (Cancelled, KeyboardInterrupt):
        hint = "Add --resume to continue it." if can_resume(command.out) else "Nothing was written."
        raise Cancelled(sentence="The training was stopped.", hint=hint) from None
    return _told(result)


@dataclass(frozen=True)
class EncodingOnWorker:
    """Looks for a worker to encode, and the number of GPUs that the workers share."""

    work: EncodingWork
    gpus: int


def _encoding(
    command: FinetuneCommand,
    chosen: ChosenModel,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> EncodeElsewhere:
    """Return a function that lets workers encode; see `training.finetune.EncodeElsewhere`."""
    sharing = command.sharing
    assert sharing is not None
    gpus = gpus_for(sharing, command.device)

    def encode(works: Sequence[EncodingWork]) -> None:
        workers = open_workers(
            sharing,
            lambda: chosen.memory_mb,
            lambda: gpus,
            command.out.with_name(command.out.name + ".workers").absolute(),
            lambda text: progress.note(f"Note: {text}"),
        )
        with workers as fleet:
            total, done = sum(len(work.numbers) for work in works), 0
            for _, slices in results(
                fleet, encode_on_worker, [EncodingOnWorker(work, gpus) for work in works], should_cancel
            ):
                done += slices
                progress("Encoding", ProgressEvent(None, done=done, total=total))

    return encode


def encode_on_worker(shared: EncodingOnWorker) -> int | SAM2PropagateError:
    """Encode looks on this worker; return errors instead of raising them."""
    from SAM2PropagateLib.cohort.on_worker import begin_computing

    device = begin_computing(shared.work.encoding.device, shared.gpus)
    from SAM2PropagateLib.training.encoding import encode_looks

    try:
        encoding = replace(shared.work.encoding, device=device)
        return encode_looks(replace(shared.work, encoding=encoding))
    except SAM2PropagateError as error:
        return error


class _Printing:
    """Prints the progress of the training, and ends it on the user's request."""

    def __init__(self, progress: ProgressPrinter, should_cancel: Callable[[], bool]) -> None:
        self._progress = progress
        self._should_cancel = should_cancel

    def stepped(self, progress: TrainingProgress, share_done: float) -> None:
        """Print the progress after a step, from time to time."""
        recent = progress.losses[-20:]
        text = (
            f"step {progress.step}, {share_done:.0%} done, {progress.seconds / 60:.1f} min, "
            f"loss {sum(recent) / len(recent):.3f}"
        )
        self._progress(_STAGE, ProgressEvent(None, text))
        self.check()

    def measured(self, progress: TrainingProgress, score: Score) -> None:
        """Print the scores of the model."""
        steps = "1 step" if progress.step == 1 else f"{progress.step} steps"
        self._progress.note(
            f"After {steps}, mean Dice on the cases to measure on: prompted slice "
            f"{score.preview:.3f}, volume {score.volume:.3f}, with the ends given {score.in_range:.3f}."
        )

    def check(self) -> None:
        """Raise Cancelled if the user has asked to stop."""
        if self._should_cancel():
            raise Cancelled


def _told(result: FinetuneResult) -> list[str]:
    first, best = result.first, result.best
    steps = "1 step" if result.steps == 1 else f"{result.steps} steps"
    lines = [
        f"Wrote {result.out} after {steps} in {result.seconds / 60:.1f} minutes.",
        f"Mean Dice, before -> after: prompted slice {first['preview']:.3f} -> {best['preview']:.3f}, "
        f"volume {first['volume']:.3f} -> {best['volume']:.3f}, "
        f"with the ends given {first['in_range']:.3f} -> {best['in_range']:.3f}.",
        f"Plot: {result.plot}. Report: {result.report}.",
    ]
    if best["step"] == first["step"]:
        lines.insert(
            1,
            "No weights did better on the cases to measure on than those of the start, so it holds those: "
            "train longer or on more cases.",
        )
    return lines


def _seed(text: str) -> int:
    value = whole_number(text)
    if value is None:
        raise argparse.ArgumentTypeError(
            f"“{text}” is not a whole number from 0, of at most {MOST_DIGITS} digits"
        )
    return value


def _minutes(text: str) -> float:
    value = decimal_number(text)
    if value is None or not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"“{text}” is not a number of minutes")
    return value
