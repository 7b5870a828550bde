"""Fine-tuning: what learns and what stays, going on after a kill, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from SAM2PropagateLib.engine.motion import MotionStore
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.training import finetune as module
from SAM2PropagateLib.training import trainer as trainer_module
from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.encoding import EncodingWork, encode_looks
from SAM2PropagateLib.training.finetune import FinetuneJob, FinetuneResult, finetune, work_folder
from SAM2PropagateLib.training.image_half import ImageHalf
from SAM2PropagateLib.training.looks import Look
from SAM2PropagateLib.training.parts import HEADS, IMAGE, MEMORY, PROMPTS, part_of, unfreeze
from SAM2PropagateLib.training.pool import CaseShelf, LookPool, LookStore, Source
from SAM2PropagateLib.training.recipe import Recipe
from SAM2PropagateLib.training.trainer import Trainer, TrainingProgress, TrainingRun
from SAM2PropagateLib.training.validation import Score, Validation
from Testing.training.samples import CONFIG, SHAPE, loaded, small_model, write_case, write_image

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
    warped=0.6,
)
UNSAVED = replace(QUICK, save_minutes=1e9)
pytestmark = pytest.mark.usefixtures("outlines")


class Killed(BaseException):
    """The process ends here; nothing is done any more."""


class Killer:
    """Ends a run after a step (0: never), or when it asks for the n-th time whether it may go on."""

    def __init__(self, after: int = 0, check: int = 0) -> None:
        self.after = after
        self.check_at = check
        self.checks = 0
        self.steps: list[int] = []
        self.scores: list[Score] = []

    def stepped(self, progress: TrainingProgress, share_done: float) -> None:
        self.steps.append(progress.step)
        if progress.step == self.after:
            raise Killed

    def measured(self, progress: TrainingProgress, score: Score) -> None:
        self.scores.append(score)

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.check_at:
            raise Killed


def job_for(cases: Path, model: Path, out: Path, recipe: Recipe = QUICK) -> FinetuneJob:
    return FinetuneJob(cases=cases, model=model, out=out, device="cpu", recipe=recipe)


def run(job: FinetuneJob, killer: Killer | None = None) -> FinetuneResult:
    return finetune(job, killer or Killer(), lambda text: None)


@pytest.fixture(scope="module")
def straight(
    outlines: None, cases: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinetuneResult:
    """A run that nothing stopped."""
    return run(job_for(cases, model, tmp_path_factory.mktemp("straight") / "new.safetensors", UNSAVED))


@pytest.fixture(scope="module")
def killed(outlines: None, cases: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a run that was killed after its third step, and had saved each."""
    job = job_for(cases, model, tmp_path_factory.mktemp("killed") / "new.safetensors")
    with pytest.raises(Killed):
        run(job, Killer(3))
    assert not job.out.exists()
    return work_folder(job.out)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `straight` draws one: it takes as long as two steps."""
    monkeypatch.setattr(module, "draw_plot", lambda progress, path, title: path.touch())


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return read_state(path)[0]


def test_the_memory_half_and_the_heads_learn_and_the_rest_stays(
    model: Path, straight: FinetuneResult, killed: Path
) -> None:
    before, after = state_of(model), state_of(straight.out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in changed} <= {MEMORY, HEADS}
    # The file holds what did best, which may be the start; the state holds what was learned.
    state = torch.load(killed / "training.pt", weights_only=True)
    learned, mean = state["weights"], state["mean"]
    assert {part_of(name) for name in learned} == {MEMORY, HEADS}
    # What is measured and kept is the running mean, between the start and what was learned.
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
    report = json.loads(straight.report.read_text(encoding="utf-8"))
    assert report["steps"] == len(report["losses"]) == 4 and all(np.isfinite(report["losses"]))
    learned = {case[0] for case in report["trained_on"]}
    assert len(learned) == 2 and not learned & {case[0] for case in report["measured_on"]}
    assert [score["step"] for score in report["scores"]] == [0, 4]
    assert straight.plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not work_folder(straight.out).exists()


def test_looks_that_other_processes_make_give_the_same_weights(
    cases: Path, model: Path, straight: FinetuneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(cases, model, tmp_path / "new.safetensors", UNSAVED)
    made: list[int] = []
    at_once: list[int] = []

    def elsewhere(works: Sequence[EncodingWork]) -> None:
        # As they arrive in a worker: nothing but what can be sent.
        for work in pickle.loads(pickle.dumps(list(works))):
            at_once.append(encode_looks(work))
            made.extend(work.numbers)

    drawn: list[int] = []
    put = LookStore.put

    def counted(store: LookStore, number: int, look: Look) -> None:
        drawn.append(number)
        put(store, number, look)

    monkeypatch.setattr(LookStore, "put", counted)
    result = finetune(job, Killer(), lambda text: None, elsewhere)
    assert made == [0, 1, 2] and at_once == [3]
    # The one that a later step needs is made by the training itself.
    assert drawn == [0, 1, 2, 3]
    before, after = state_of(straight.out), state_of(result.out)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("saves", [True, False])
def test_a_killed_run_goes_on_to_the_same_weights(
    cases: Path, model: Path, straight: FinetuneResult, killed: Path, tmp_path: Path, saves: bool
) -> None:
    recipe = QUICK if saves else UNSAVED
    job = job_for(cases, model, tmp_path / "new.safetensors", recipe)
    if saves:
        shutil.copytree(killed, work_folder(job.out))
    else:
        with pytest.raises(Killed):
            run(job, Killer(2))
        assert not job.out.exists()
    looks = sorted((work_folder(job.out) / "looks").glob("look_*.safetensors"))
    # Among them are some made of one slice: the volumes have ten slices.
    lengths = [len(load_file(path)["masks"]) for path in looks]
    assert 20 in lengths and min(lengths) < 20
    # A file that was being written then.
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
    reports = [json.loads(result.report.read_text(encoding="utf-8")) for result in (straight, resumed)]
    assert reports[0]["losses"] == reports[1]["losses"] and len(reports[1]["losses"]) == 4
    wanted, found = state_of(straight.out), state_of(job.out)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_run_killed_before_it_has_learned_anything(
    cases: Path, model: Path, straight: FinetuneResult, tmp_path: Path
) -> None:
    job = job_for(cases, model, tmp_path / "new.safetensors", replace(QUICK, steps=1))
    folder = work_folder(job.out)
    with pytest.raises(Killed):
        run(job, Killer(check=2))  # while the cases are read
    assert not folder.exists()
    # A folder without a state is of a run that was killed before there was one.
    (folder / "looks").mkdir(parents=True)
    (folder / "looks" / "look_000000.safetensors").write_bytes(b"of another run")
    with pytest.raises(InputError) as error:
        run(replace(job, resume=True))
    assert error.value.code == "nothing_to_resume"
    with pytest.raises(Killed):
        run(job, Killer(check=6))  # while it is measured for the first time
    assert (folder / "training.pt").is_file() and not list((folder / "looks").iterdir())
    killer = Killer()
    result = run(replace(job, resume=True), killer)
    assert killer.steps == [1] and len(killer.scores) == 2 and not folder.exists()
    report = json.loads(result.report.read_text(encoding="utf-8"))
    assert report["losses"] == json.loads(straight.report.read_text(encoding="utf-8"))["losses"][:1]


def test_a_run_killed_while_it_ends(
    cases: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object, **_options: object) -> None:
        raise Killed

    job = job_for(cases, model, tmp_path / "new.safetensors", replace(QUICK, steps=1))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "save", killed)
        run(job)
    assert job.out.with_suffix(".png").is_file() and job.out.with_suffix(".json").is_file()
    assert not job.out.exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "clear_work_folder", killed)
        run(replace(job, resume=True))
    written = job.out.read_bytes()
    killer = Killer()
    result = run(replace(job, resume=True), killer)
    assert not killer.steps and not killer.scores and not work_folder(job.out).exists()
    assert state_of(result.out).keys() and len(result.out.read_bytes()) == len(written)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_with_files_of_the_user_is_refused(
    cases: Path, model: Path, killed: Path, tmp_path: Path, how: dict[str, bool]
) -> None:
    job = replace(job_for(cases, model, tmp_path / "new.safetensors"), **how)
    folder = work_folder(job.out)
    shutil.copytree(killed, folder)
    for mine in (folder / "thesis.txt", folder / "looks" / "mine.safetensors"):
        mine.write_text("years of work", encoding="utf-8")
        with pytest.raises(InputError) as error:
            run(job)
        assert error.value.code == "output_exists" and mine.name in error.value.sentence
        assert mine.read_text(encoding="utf-8") == "years of work"
        mine.unlink()


def test_what_the_user_adds_during_a_training_stays(cases: Path, model: Path, tmp_path: Path) -> None:
    job = job_for(cases, model, tmp_path / "new.safetensors", replace(QUICK, steps=1))
    folder = work_folder(job.out)

    class Adding(Killer):
        def measured(self, progress: TrainingProgress, score: Score) -> None:
            (folder / "notes.txt").write_text("notes", encoding="utf-8")

    run(job, Adding())
    assert job.out.is_file() and [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_two_runs_do_not_share_a_training(cases: Path, model: Path, killed: Path, tmp_path: Path) -> None:
    job = job_for(cases, model, tmp_path / "new.safetensors")
    shutil.copytree(killed, work_folder(job.out))
    before = (work_folder(job.out) / "training.pt").read_bytes()
    with FileLock(work_folder(job.out) / "lock"):
        for how in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError) as error:
                run(replace(job, **how))
            assert error.value.code == "training_running"
    assert (work_folder(job.out) / "training.pt").read_bytes() == before


def test_a_training_that_was_stopped_meanwhile_is_kept(
    cases: Path, model: Path, killed: Path, tmp_path: Path
) -> None:
    job = job_for(cases, model, tmp_path / "new.safetensors")
    state = work_folder(job.out) / "training.pt"

    def another_run(text: str) -> None:
        if text == "Loading the model":
            shutil.copytree(killed, state.parent)

    with pytest.raises(InputError) as error:
        finetune(job, Killer(), another_run)
    assert error.value.code == "training_unfinished" and state.is_file()


def test_a_state_of_something_else_is_not_taken_up(cases: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(cases, tmp_path / "cases")
    job = job_for(tmp_path / "cases", model, tmp_path / "new.safetensors")
    with pytest.raises(Killed):
        run(job, Killer(check=6))
    path = work_folder(job.out) / "training.pt"
    state = torch.load(path, weights_only=True)
    state["about"]["device"] = "cuda:0"

    def refused(job: FinetuneJob) -> str:
        with pytest.raises(InputError) as error:
            run(replace(job, resume=True))
        assert error.value.code == "resume_mismatch"
        return error.value.sentence

    assert "another configuration" in refused(replace(job, config=CONFIG))
    torch.save(state, path)
    assert "another device" in refused(job)
    write_case(tmp_path / "cases", "p1", seed=9)
    assert "another content of the cases" in refused(job)
    assert path.is_file()


def test_time_counts_from_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

        monotonic = perf_counter

    class Slow:
        """A pool whose first looks take longer than the whole training may."""

        is_new = True

        def prepare(self, step: int, between: object) -> None:
            clock.now += 100 if self.is_new else 0
            self.is_new = False

    class Measured:
        def score(self, loaded: object, between: object) -> Score:
            clock.now += 30
            return Score(0.5, 0.5, 0.5, ())

    def step(number: int) -> float:
        clock.now += 1
        return 1.0

    clock = Clock()
    monkeypatch.setattr(trainer_module, "time", clock)
    recipe = replace(QUICK, steps=0, minutes=10 / 60, validations=1, save_minutes=1e9)
    start = small_model()
    trainer = Trainer(start, unfreeze(start.model), Slow(), Measured(), TrainingRun(recipe, tmp_path, {}))  # type: ignore[arg-type]
    monkeypatch.setattr(trainer, "step", step)
    trainer.run(Killer())
    assert trainer.progress.step == 10 and trainer.progress.seconds == pytest.approx(10)
    assert [score["step"] for score in trainer.progress.scores] == [0, 5, 10]


def test_measuring_carries_masks_along_the_motion(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [Source(find_cases(cases)[0], (0,))]
    registered: list[int] = []

    class Watched(MotionStore):
        def close(self) -> None:
            registered.append(self.registered_pairs)
            super().close()

    monkeypatch.setattr("SAM2PropagateLib.engine.session.MotionStore", Watched)
    Validation(sources, CaseShelf(), most=1, keeps_features=True).score(small_model())
    # It is closed at the end: its thread would stay.
    assert len(registered) == 1 and registered[0] > 0


def test_measuring_keeps_features_within_a_budget_and_can_be_ended(cases: Path) -> None:
    found, shelf = find_cases(cases)[:2], CaseShelf()
    sources = [Source(case, (0,)) for case in found]
    roomy = Validation(sources, shelf, most=2, keeps_features=True)
    tight = Validation(sources, shelf, most=2, keeps_features=True, budget=1)
    loaded_model, killer = small_model(), Killer()
    assert roomy.score(loaded_model, killer.check) == tight.score(loaded_model)
    assert roomy.kept_bytes and not tight.kept_bytes
    assert killer.checks > 6  # heard from within a structure, too
    with pytest.raises(Killed):
        roomy.score(loaded_model, Killer(check=3).check)


@pytest.mark.parametrize("part", [PROMPTS, IMAGE])
def test_more_can_be_unfrozen(cases: Path, model: Path, tmp_path: Path, part: str) -> None:
    assert {part_of(name) for name in ("no_mem_embed", "no_mem_pos_enc")} == {IMAGE}
    recipe = replace(QUICK, steps=1, image_rate=1e-3)
    job = replace(job_for(cases, model, tmp_path / "new.safetensors", recipe), further=(part,))
    with pytest.raises(Killed):
        run(job, Killer(1))
    learned = torch.load(work_folder(job.out) / "training.pt", weights_only=True)["weights"]
    assert {part_of(name) for name in learned} == {MEMORY, HEADS, part}
    start = state_of(model)
    assert any(not torch.equal(start[name], one) for name, one in learned.items() if part_of(name) == part)


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
    assert code(job_for(alone, model, out)) == "too_few_cases"
    empty = tmp_path / "empty"
    for name in ("p1", "p2"):
        write_case(empty, name)
        label = np.zeros(SHAPE, np.uint8)
        label[2, 2, 2:5] = 1
        write_image(label, empty / name / "label.nii.gz")
    assert code(job_for(empty, model, out)) == "nothing_to_learn"
    same = replace(job_for(cases, model, out), validation=cases)
    assert code(same) == "patient_on_both_sides"
    assert (
        code(replace(job_for(cases, model, tmp_path / "b.safetensors"), further=("hat",))) == "unknown_part"
    )
    assert (
        code(replace(job_for(cases, model, tmp_path / "c.safetensors"), resume=True)) == "nothing_to_resume"
    )
    (tmp_path / "d.safetensors").write_bytes(b"")
    assert code(job_for(cases, model, tmp_path / "d.safetensors")) == "output_exists"
    # A refusal leaves nothing behind that would be in the way of the next try.
    assert not list(tmp_path.glob("*.training"))


def test_learning_lowers_the_loss(cases: Path, tmp_path: Path) -> None:
    """On one batch again and again."""
    found, shelf, model = find_cases(cases), CaseShelf(), small_model()
    sources = [Source(case, (0,)) for case in found]
    learning = unfreeze(model.model)
    half = ImageHalf.of(model, learning)
    pool = LookPool(sources, shelf, QUICK, half, LookStore(tmp_path / "looks"))
    validation = Validation(sources, shelf, most=1, keeps_features=True)
    trainer = Trainer(model, learning, pool, validation, TrainingRun(QUICK, tmp_path, {}))
    losses = [trainer.step(1) for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]
