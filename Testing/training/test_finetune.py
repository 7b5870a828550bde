"""Fine-tuning: what learns and what stays, going on after a kill, what is refused, and both commands."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from SAM2PropagateLib.cli import main
from SAM2PropagateLib.cli_finetune import _told
from SAM2PropagateLib.engine.build import build_model, model_config
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.finetune import FinetuneJob, FinetuneResult, finetune, work_folder
from SAM2PropagateLib.training.parts import HEADS, IMAGE, MEMORY, part_of, unfreeze
from SAM2PropagateLib.training.pool import CaseShelf, LookPool, Source
from SAM2PropagateLib.training.recipe import Recipe
from SAM2PropagateLib.training.trainer import ImageHalf, Progress, Trainer
from SAM2PropagateLib.training.validation import Score, Validation
from Testing.training.samples import loaded, small_model, write_case, write_model

QUICK = Recipe(
    steps=4,
    batch=2,
    length=2,
    warm=(0, 1),
    warm_up=1,
    first_looks=3,
    steps_per_look=2,
    most_looks=3,
    validations=0,
    save_minutes=0.0,
    memory_rate=1e-3,
)


class Killed(BaseException):
    """The process ends here; nothing is done any more."""


class Killer:
    """Ends a run after a step; 0: never."""

    def __init__(self, after: int = 0) -> None:
        self.after = after
        self.steps: list[int] = []
        self.scores: list[Score] = []

    def stepped(self, progress: Progress, share_done: float) -> None:
        self.steps.append(progress.step)
        if progress.step == self.after:
            raise Killed

    def measured(self, progress: Progress, score: Score) -> None:
        self.scores.append(score)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for number in range(3):
        write_case(folder, f"p{number}", seed=number)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "start.safetensors")


def job_for(cases: Path, model: Path, out: Path, recipe: Recipe = QUICK) -> FinetuneJob:
    return FinetuneJob(cases=cases, model=model, out=out, device="cpu", recipe=recipe)


def run(job: FinetuneJob, killer: Killer | None = None) -> FinetuneResult:
    return finetune(job, killer or Killer(), lambda text: None)


@pytest.fixture(scope="module")
def straight(cases: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """A run that nothing stopped."""
    return run(job_for(cases, model, tmp_path_factory.mktemp("straight") / "new.safetensors"))


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return read_state(path)[0]


def test_the_memory_half_and_the_heads_learn_and_the_rest_stays(
    cases: Path, model: Path, straight: FinetuneResult, tmp_path: Path
) -> None:
    before, after = state_of(model), state_of(straight.out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in changed} <= {MEMORY, HEADS}
    # The file holds what did best, which may be the start; the state holds what was learned.
    job = job_for(cases, model, tmp_path / "new.safetensors")
    with pytest.raises(Killed):
        run(job, Killer(2))
    learned = torch.load(work_folder(job.out) / "training.pt", weights_only=True)["weights"]
    assert {part_of(name) for name in learned} == {MEMORY, HEADS}
    # What is measured and kept is the running mean, between the start and what was learned.
    mean = torch.load(work_folder(job.out) / "training.pt", weights_only=True)["mean"]
    for name in ("memory_attention.norm.weight", "sam_mask_decoder.iou_token.weight"):
        way, gone = learned[name] - before[name], mean[name] - before[name]
        assert 0 < gone.norm() < way.norm()
    for part in ("memory_attention.", "memory_encoder.", "obj_ptr_proj.", "sam_mask_decoder.transformer."):
        names = [name for name in learned if name.startswith(part)]
        assert any(not torch.equal(before[name], learned[name]) for name in names), part
    assert part_of("sam_mask_decoder.conv_s0.weight") == IMAGE
    model_again = loaded(straight.out)
    assert model_again.input_size == 64 and model_again.name == "new"


def test_the_report_and_the_plot_tell_what_was_done(straight: FinetuneResult) -> None:
    report = json.loads(straight.report.read_text())
    assert report["steps"] == len(report["losses"]) == 4 and all(np.isfinite(report["losses"]))
    learned = {case[0] for case in report["trained_on"]}
    assert len(learned) == 2 and not learned & {case[0] for case in report["measured_on"]}
    assert [score["step"] for score in report["scores"]] == [0, 4]
    assert straight.plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not work_folder(straight.out).exists()


@pytest.mark.parametrize(("saves", "killed_after"), [(True, 3), (False, 2)])
def test_a_killed_run_goes_on_to_the_same_weights(
    cases: Path, model: Path, straight: FinetuneResult, tmp_path: Path, saves: bool, killed_after: int
) -> None:
    recipe = QUICK if saves else replace(QUICK, save_minutes=1e9)
    job = job_for(cases, model, tmp_path / "new.safetensors", recipe)
    with pytest.raises(Killed):
        run(job, Killer(killed_after))
    assert not job.out.exists()
    # A file that was being written then.
    looks = sorted((work_folder(job.out) / "looks").glob("look_*.safetensors"))
    looks[-1].write_bytes(looks[-1].read_bytes()[:-100])
    with pytest.raises(InputError) as error:
        run(job)
    assert error.value.code == "training_unfinished"
    with pytest.raises(InputError) as error:
        run(replace(job, resume=True, recipe=replace(recipe, head_rate=1.0)))
    assert error.value.code == "resume_mismatch"
    killer = Killer()
    resumed = run(replace(job, resume=True), killer)
    assert killer.steps == ([4] if saves else [1, 2, 3, 4])
    reports = [json.loads(result.report.read_text()) for result in (straight, resumed)]
    assert reports[0]["losses"] == reports[1]["losses"] and len(reports[1]["losses"]) == 4
    wanted, found = state_of(straight.out), state_of(job.out)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_more_can_be_unfrozen(cases: Path, model: Path, tmp_path: Path) -> None:
    recipe = replace(QUICK, steps=1, image_rate=1e-3)
    job = replace(job_for(cases, model, tmp_path / "new.safetensors", recipe), further=("image",))
    killer = Killer(1)
    with pytest.raises(Killed):
        run(job, killer)
    state = torch.load(work_folder(job.out) / "training.pt", weights_only=True)
    start = small_model().model.state_dict()
    name = "image_encoder.trunk.patch_embed.proj.weight"
    assert not torch.equal(state["weights"][name], start[name])
    assert "sam_prompt_encoder.no_mask_embed.weight" not in state["weights"]


def test_what_cannot_be_trained_on_is_refused(cases: Path, model: Path, tmp_path: Path) -> None:
    def code(job: FinetuneJob) -> str:
        with pytest.raises(InputError) as error:
            run(job)
        assert error.value.hint
        return error.value.code

    out = tmp_path / "new.safetensors"
    alone = tmp_path / "alone"
    write_case(alone, "p7")
    assert code(job_for(alone, model, out)) == "too_few_cases"
    write_case(alone, "p7_again")
    assert code(replace(job_for(alone, model, out), overwrite=True)) == "too_few_cases"
    same = replace(job_for(cases, model, out), validation=cases, overwrite=True)
    assert code(same) == "patient_on_both_sides"
    assert (
        code(replace(job_for(cases, model, tmp_path / "b.safetensors"), further=("hat",))) == "unknown_part"
    )
    assert (
        code(replace(job_for(cases, model, tmp_path / "c.safetensors"), resume=True)) == "nothing_to_resume"
    )
    (tmp_path / "d.safetensors").write_bytes(b"")
    assert code(job_for(cases, model, tmp_path / "d.safetensors")) == "output_exists"


def test_learning_lowers_the_loss(cases: Path, tmp_path: Path) -> None:
    """On one batch again and again."""
    found, shelf, model = find_cases(cases), CaseShelf(), small_model()
    sources = [Source(case, (0,)) for case in found]
    learning = unfreeze(model.model)
    half = ImageHalf.of(model, learning)
    pool = LookPool(sources, shelf, QUICK, 64, half.stock, half.propose, tmp_path / "looks")
    validation = Validation(sources, shelf, most=1, keeps_features=True)
    trainer = Trainer(model, learning, pool, validation, QUICK, tmp_path, {})
    losses = [trainer.step(1) for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]


# --- the commands


def cli(tmp_path: Path, *words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    store = ModelStore(cache=tmp_path / "cache", resources=tmp_path / "resources")
    code = main([str(word) for word in words], store=store, stdout=out, stderr=err)
    return code, out.getvalue(), err.getvalue()


def test_an_official_checkpoint_goes_through_both_commands(cases: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    official = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build_model(model_config("sam2.1_hiera_t.yaml", 64)).state_dict()}, official)
    new, small = tmp_path / "mine.safetensors", ("--input-size", 64, "--device", "cpu")
    words = ("finetune", "--cases", cases, "--from", official, "--out", new, "--epochs", 1, *small)
    code, out, err = cli(tmp_path, *words)
    assert code == 0, err
    assert f"Wrote {new} after 2 steps" in out and "prompted slice" in out
    assert "Training on 2 structures of 2 cases" in err and "After 2 steps" in err
    assert loaded(new).input_size == 64  # its configuration comes along
    table = tmp_path / "table.json"
    code, out, err = cli(
        tmp_path, "evaluate", "--cases", cases, "--model", new, "--out", table, "--device", "cpu"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["TARGET", "PREVIEW", "VOLUME"] and lines[4].startswith("MEAN OF 3")
    written = json.loads(table.read_text())
    assert len(written["targets"]) == 3 and written["input_size"] == 64
    for target in written["targets"]:
        assert 0 <= target["volume"] <= 1 and len(target["scores"]["after"]) == 3
    mean = np.mean([target["preview"] for target in written["targets"]])
    assert written["mean"]["preview"] == pytest.approx(mean)


def test_bad_words_on_the_command_line(cases: Path, model: Path, tmp_path: Path) -> None:
    given = ("finetune", "--cases", cases, "--from", model)
    for words, sentence in (
        ((*given, "--out", tmp_path / "a.pt"), "is not the name of a weights file"),
        ((*given, "--out", tmp_path / "a.safetensors", "--epochs", "0"), "whole number above 0"),
        ((*given, "--out", tmp_path / "a.safetensors", "--minutes", "-3"), "number of minutes"),
        ((*given, "--out", tmp_path / "a.safetensors", "--device", "tpu"), "no device"),
        (("evaluate", "--cases", tmp_path / "none", "--out", tmp_path / "t.json"), "There is no folder"),
        (("evaluate", "--cases", cases, "--model", "nobody", "--out", tmp_path / "t.json"), "nobody"),
    ):
        code, out, err = cli(tmp_path, *words)
        assert code == 2 and not out and sentence in err, err


def test_a_training_that_did_not_help_says_so() -> None:
    start = {"step": 0, "preview": 0.9, "volume": 0.7, "in_range": 0.8}
    later = {**start, "step": 5, "volume": 0.75}
    result = FinetuneResult(Path("n.safetensors"), Path("n.png"), Path("n.json"), start, start, 9, 60.0)
    assert "holds those" in _told(result)[1] and "volume 0.700 -> 0.700" in _told(result)[2]
    assert not any("holds those" in line for line in _told(replace(result, best=later)))
