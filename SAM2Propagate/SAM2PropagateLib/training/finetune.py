"""From a folder of segmented volumes and a model to a better model: the job behind `finetune`."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from SAM2PropagateLib.cohort.folder import LOCK_NAME, held
from SAM2PropagateLib.engine.build import load_model, recognize_config
from SAM2PropagateLib.engine.crops import STYLE_KEY
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.atomic import PART_SUFFIX, atomic_output, check_output, part_prefix
from SAM2PropagateLib.models.verify import config_identity, sha256_of
from SAM2PropagateLib.training.case import Case
from SAM2PropagateLib.training.cases import check_apart, find_cases, split
from SAM2PropagateLib.training.encoding import Encoding, EncodingWork, works_of
from SAM2PropagateLib.training.image_half import ImageHalf
from SAM2PropagateLib.training.parts import IMAGE, unfreeze
from SAM2PropagateLib.training.plot import draw_plot
from SAM2PropagateLib.training.pool import CaseShelf, LookPool, LookStore, Source
from SAM2PropagateLib.training.recipe import Recipe
from SAM2PropagateLib.training.trainer import STATE_FILE, Listener, Trainer, TrainingProgress, TrainingRun
from SAM2PropagateLib.training.validation import Validation

# An epoch has so many clips per structure; those of warped slices (see `warps`) are among them.
_CLIPS_PER_EPOCH = 8
_FEWEST_CASES = 2
# With few structures fewer looks do for the beginning.
_LOOKS_PER_STRUCTURE = 3
_STEPS_PER_VALIDATION = 50
DEFAULT_RECIPE = Recipe()
_LOOKS = "looks"
# What a training makes in its folder, whole and unfinished.
_OWN = re.compile(
    rf"{LOCK_NAME}|{re.escape(STATE_FILE)}|{re.escape(part_prefix(STATE_FILE))}[^/]*{re.escape(PART_SUFFIX)}"
    rf"|{_LOOKS}|{_LOOKS}/look_\d+\.(safetensors|part)"
)


@dataclass(frozen=True)
class FinetuneJob:
    """What to fine-tune on what.

    Attributes:
        cases: folder to learn from; see `training.cases`. sequence: which image of cases that have several.
        model: weights file to start from. config: its configuration, where the file does not tell.
        out: the file to write; `.png` and `.json` beside it get the plot and the report.
        validation: folder to measure on; None: `share` of the patients of `cases`.
        further: parts to unfreeze beside the memory half and the heads.
        epochs: 0: no limit but the recipe's.
        resume: go on with the run that was stopped; what it wrote already is written again. overwrite:
            start over, whatever is there.
    """

    cases: Path
    model: Path
    out: Path
    config: str | None = None
    sequence: str = ""
    validation: Path | None = None
    share: float = 0.15
    device: str = "auto"
    input_size: int | None = None
    further: tuple[str, ...] = ()
    epochs: int = 0
    recipe: Recipe = DEFAULT_RECIPE
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class FinetuneResult:
    """What came out: the file, the plot and the report; the scores (see `Score`) before and of the weights
    that were kept; how many steps and seconds it took."""

    out: Path
    plot: Path
    report: Path
    first: dict[str, Any]
    best: dict[str, Any]
    steps: int
    seconds: float


def work_folder(out: Path) -> Path:
    """Return where a run keeps its state until it is finished."""
    return out.with_name(out.name + ".training")


def can_resume(out: Path) -> bool:
    """Tell whether the state of a run that was stopped is there."""
    return (work_folder(out) / STATE_FILE).is_file()


def clear_work_folder(folder: Path) -> None:
    """Delete what trainings made in their folder, but its lock; whatever else is there stays."""
    # Files come before the folder that holds them.
    for path in sorted(folder.rglob("*"), reverse=True):
        if _is_own(folder, path) and path.name != LOCK_NAME:
            if path.is_dir():
                with contextlib.suppress(OSError):
                    path.rmdir()
            else:
                path.unlink()


def _is_own(folder: Path, path: Path) -> bool:
    return not path.is_symlink() and bool(_OWN.fullmatch(path.relative_to(folder).as_posix()))


EncodeElsewhere = Callable[[Sequence[EncodingWork]], None]
"""Has `encode_looks` done with each piece of work, by other processes."""


def finetune(
    job: FinetuneJob,
    listener: Listener,
    tell: Callable[[str], None],
    encode_elsewhere: EncodeElsewhere | None = None,
) -> FinetuneResult:
    """Train, and write the plot, the report and, last, the model.

    Nothing is left behind by a run that is refused; one that is stopped later can be resumed.

    Args:
        listener: is told how the training goes; what it raises ends it, to be resumed later.
        tell: takes a sentence about what is being done.
        encode_elsewhere: has the looks made with which the training begins; None: this process makes them.

    Raises:
        InputError: as `find_cases`, `LoadedCase`, `split`, `load_model`, `check_output`;
            `output_exists`, `training_unfinished`, `training_running`, `nothing_to_resume`,
            `resume_mismatch`, `too_few_cases`, `nothing_to_learn`, `unknown_part`.
        SAM2PropagateError: as `load_model`; `disk_full`.
    """
    plot, report = job.out.with_suffix(".png"), job.out.with_suffix(".json")
    _check_state(job)
    for path in (job.out, plot, report):
        check_output(path, job.overwrite or job.resume)
    train, validate = _cases(job)
    tell(f"Reading {_counted(train)} to learn from and {_counted(validate)} to measure on")
    shelf = CaseShelf()
    sources = _sources(train, shelf, listener.check, tell)
    measured = _sources(validate, shelf, listener.check, tell)
    structures = sum(len(source.structures) for source in sources)
    tell("Loading the model")
    loaded = load_model(
        job.model, config=job.config, device=job.device, input_size=job.input_size, precision="float32"
    )
    recipe = _limited(job, structures)
    learning = unfreeze(loaded.model, job.further)
    keeps = IMAGE not in learning.parts
    image_half = ImageHalf.of(loaded, learning)
    folder = work_folder(job.out)
    # Only now, when nothing is left to be refused.
    with held(folder, "", "training_running"):
        # Again, as another run may have ended meanwhile.
        _check_state(job)
        if not job.resume:
            clear_work_folder(folder)
        pool = LookPool(sources, shelf, recipe, image_half, LookStore(folder / _LOOKS))
        validation = Validation(measured, shelf, most=recipe.most_targets, keeps_features=keeps)
        checksum = sha256_of(job.model)
        about = {
            "cases": [[s.case.name, *s.structures] for s in sources],
            "validation cases": [[s.case.name, *s.structures] for s in measured],
            "content of the cases": [s.fingerprint for s in (*sources, *measured)],
            "model": checksum,
            "configuration": config_identity(job.config),
            "device": str(loaded.device),
            "input size": loaded.input_size,
            "parts": sorted(learning.parts),
        }
        trainer = Trainer(loaded, learning, pool, validation, TrainingRun(recipe, folder, about))
        if job.resume:
            trainer.resume()
        tell(
            f"Training on {_some(structures, 'structure')} of {_some(len(sources), 'case')}, "
            f"measuring on {validation.structure_count} of {len(measured)}"
        )
        if encode_elsewhere is not None:
            encoding = Encoding(
                tuple(_absolute(source) for source in sources),
                recipe,
                job.model.absolute(),
                checksum,
                job.config,
                job.device,
                job.input_size,
                job.further,
                (folder / _LOOKS).absolute(),
            )
            encode_elsewhere(works_of(encoding, pool.numbers(trainer.progress.step)))
        trainer.run(listener)
        progress = trainer.progress
        first, best = progress.scores[0], max(progress.scores, key=lambda score: float(score["volume"]))
        spent = _some(round(progress.seconds / 60), "minute")
        draw_plot(progress, plot, f"{job.out.stem}: {_some(len(sources), 'case')}, {spent}")
        _write_report(report, job, recipe, about, progress, first, best)
        # Last: where the model is, all is.
        _write_model(job, loaded, progress, best)
        clear_work_folder(folder)
    with contextlib.suppress(OSError):
        (folder / LOCK_NAME).unlink(missing_ok=True)
        folder.rmdir()
    return FinetuneResult(job.out, plot, report, first, best, progress.step, progress.seconds)


def _absolute(source: Source) -> Source:
    """Return a source with absolute paths."""
    case = source.case
    return replace(source, case=replace(case, image=case.image.absolute(), label=case.label.absolute()))


def _check_state(job: FinetuneJob) -> None:
    """Check that work folder and options agree. A folder without a state holds no training to resume."""
    folder = work_folder(job.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(
            "output_exists", f"“{folder}” is in the way of this training's folder.", "Move it elsewhere."
        )
    foreign = next((path for path in sorted(folder.rglob("*")) if not _is_own(folder, path)), None)
    if foreign is not None:
        raise InputError(
            "output_exists",
            f"“{folder}”, the folder of this training, holds “{foreign.name}”, which no training made.",
            "Move the folder elsewhere, or choose another --out.",
        )
    if can_resume(job.out) and not job.resume and not job.overwrite:
        raise InputError(
            "training_unfinished",
            f"A training for “{job.out.name}” was stopped before its end.",
            "Add --resume to continue it, or --overwrite to start again.",
        )
    if job.resume and not can_resume(job.out):
        raise InputError(
            "nothing_to_resume",
            f"There is no training to resume for “{job.out.name}”.",
            "Leave out --resume.",
        )


def _cases(job: FinetuneJob) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    cases = find_cases(job.cases, job.sequence)
    if job.validation is not None:
        validation = find_cases(job.validation, job.sequence)
        check_apart(cases, validation)
        return cases, validation
    if len(cases) < _FEWEST_CASES:
        raise InputError(
            "too_few_cases",
            f"“{job.cases}” holds {_some(len(cases), 'case')}; one to learn from and one to measure on are "
            "needed.",
            "Add cases of other patients, or give cases to measure on with --val.",
        )
    return split(cases, job.share, job.recipe.seed)


def _counted(cases: Sequence[Case]) -> str:
    """Return so many cases of so many patients, for a sentence."""
    patients = len({case.patient for case in cases})
    return f"{_some(len(cases), 'case')} of {_some(patients, 'patient')}"


def _some(count: int, thing: str) -> str:
    """Return `1 case`, `2 cases`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _sources(
    cases: Sequence[Case], shelf: CaseShelf, check: Callable[[], None], tell: Callable[[str], None]
) -> list[Source]:
    found = []
    windows: Counter[str] = Counter()
    for case in cases:
        check()
        loaded = shelf.get(case)
        for note in loaded.notes:
            tell(f"Note on “{case.name}”: {note.rstrip('.')}")
        windows[str(loaded.window.reason)] += 1
        usable = loaded.usable()
        left_out = [name for number, name in enumerate(loaded.names) if number not in usable]
        if left_out:
            tell(
                f"Left out of “{case.name}”, being a few voxels or many parts: {', '.join(left_out[:5])}"
                + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
            )
        if usable:
            found.append(Source(case, tuple(usable), loaded.fingerprint()))
    for reason, count in windows.items():
        tell(f"Window of {count} of {len(cases)} cases: {reason}")
    if not found:
        raise InputError(
            "nothing_to_learn",
            "No case has a structure that one prompt could mean: all are a few voxels or many parts.",
            "Label separate parts as structures of their own.",
        )
    return found


def _limited(job: FinetuneJob, structures: int) -> Recipe:
    """Return the recipe with the steps of the epochs asked for, and no more effort around them than pays."""
    recipe = job.recipe
    looks = max(recipe.batch, min(recipe.first_looks, _LOOKS_PER_STRUCTURE * structures))
    recipe = replace(recipe, first_looks=looks)
    if not job.epochs:
        return recipe
    steps = math.ceil(job.epochs * structures * _CLIPS_PER_EPOCH / recipe.batch)
    return replace(recipe, steps=steps, validations=min(recipe.validations, steps // _STEPS_PER_VALIDATION))


def _write_model(
    job: FinetuneJob, loaded: LoadedModel, progress: TrainingProgress, best: dict[str, Any]
) -> None:
    """Write the whole model as float safetensors with the configuration to build it."""
    metadata = read_state(job.model)[1]
    state = {name: tensor.cpu().clone() for name, tensor in loaded.model.state_dict().items()}
    described = job.config or metadata.get("config") or recognize_config(state, job.model.name)
    about = {
        "config": _with_size(described, loaded.input_size),
        "name": job.out.stem,
        "base": metadata.get("name", job.model.stem),
        "training": json.dumps(
            {
                "steps": progress.step,
                "minutes": round(progress.seconds / 60, 1),
                "validation": {key: round(best[key], 4) for key in ("preview", "volume", "in_range")},
            }
        ),
    }
    kept = ("licence", STYLE_KEY)  # codespell:ignore
    about.update({key: metadata[key] for key in kept if key in metadata})
    with atomic_output(job.out, job.overwrite or job.resume) as file:
        file.write(save(state, about))


def _with_size(config: str, size: int) -> str:
    """Return the configuration as JSON, with the input size that was trained at."""
    is_json = config.lstrip().startswith("{")
    values: dict[str, Any] = json.loads(config) if is_json else {"base": config}
    overrides = {**(values.get("overrides") or {}), "model.image_size": size}
    return json.dumps({"base": values["base"], "overrides": overrides}, sort_keys=True)


def _write_report(
    path: Path,
    job: FinetuneJob,
    recipe: Recipe,
    about: dict[str, Any],
    progress: TrainingProgress,
    first: dict[str, Any],
    best: dict[str, Any],
) -> None:
    content = {
        "model": job.out.name,
        "started_from": job.model.name,
        "recipe": asdict(recipe),
        "trained_on": about["cases"],
        "measured_on": about["validation cases"],
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "before": first,
        "kept": best,
        "losses": [round(loss, 5) for loss in progress.losses],
        "scores": progress.scores,
    }
    with atomic_output(path, True) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
