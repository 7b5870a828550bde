"""The training loop: draw clips, carry them through the model, learn, save, measure now and then.

A run that is killed and taken up again gives the weights that it would have given without that: everything
that is drawn depends on the seed and the step alone, and the state is saved whole or not at all. (With a
limit of minutes the learning rate follows the time that was spent, which no two runs share.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.errors import Cancelled, InputError
from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.training.clips import Clip, ClipPlan, draw_clip, draw_plan, draw_prompt
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.looks import Look, coarse_target
from SAM2PropagateLib.training.losses import answer_loss, is_present
from SAM2PropagateLib.training.parts import HEADS, MEMORY, Learning
from SAM2PropagateLib.training.pool import LookPool
from SAM2PropagateLib.training.precision import mixed_precision
from SAM2PropagateLib.training.recipe import Recipe
from SAM2PropagateLib.training.rollout import Answer, Rollout
from SAM2PropagateLib.training.validation import Score, Validation

_LEAST_RATE = 0.02  # of the highest one, at the end
STATE_FILE = "training.pt"


@dataclass
class TrainingProgress:
    """How far a run is: steps done, seconds spent in them, the loss of each, and the scores on the way."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0


class Listener(Protocol):
    """A listener of a run. What its methods raise ends the run, which can be resumed."""

    def stepped(self, progress: TrainingProgress, share_done: float) -> None:
        """Note that another step is done."""

    def measured(self, progress: TrainingProgress, score: Score) -> None:
        """Note that the model was measured."""

    def check(self) -> None:
        """Stop the run by raising, if it is to stop; called often during long work."""


@dataclass(frozen=True)
class TrainingRun:
    """A run, to be taken up again where it stopped.

    Attributes:
        recipe: how it is trained. folder: where the state is saved.
        about: what it is of (cases, model, ...), in what `torch.save` writes without code; a state of another
            run is not taken up.
    """

    recipe: Recipe
    folder: Path
    about: Mapping[str, Any]


class Trainer:
    """One training run.

    Args:
        loaded: the model, in float32; its weights change.
        learning: which of its weights learn.
        pool: the looks to learn from.
        validation: measures the model; the weights that did best at it are the run's result.
        run: how, and where its state is saved.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        learning: Learning,
        pool: LookPool,
        validation: Validation,
        run: TrainingRun,
    ) -> None:
        recipe = run.recipe
        self.loaded = loaded
        self.recipe = recipe
        self.progress = TrainingProgress()
        self._learning = learning
        self._weights = learning.by_name
        self._pool = pool
        self._validation = validation
        self._folder = run.folder
        self._about = dict(run.about)
        self._rollout = Rollout(loaded)
        rates = {MEMORY: recipe.memory_rate, HEADS: recipe.head_rate}
        groups = [
            {"params": list(part.values()), "rate": rates.get(name, recipe.image_rate)}
            for name, part in learning.parts.items()
            if part
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=recipe.memory_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
        )
        self._mean = self._copied()
        self.best = self._copied()

    def run(self, listener: Listener) -> None:
        """Train to the end of the recipe; afterwards the model has the weights that did best.

        Raises:
            Cancelled: by the listener; the state is saved as it is then.
            InputError, SAM2PropagateError: as `LookPool.prepare` and `save`.
        """
        try:
            self._run(listener)
        except Cancelled:
            self.save()
            raise
        self._put(self.best)

    def _run(self, listener: Listener) -> None:
        progress = self.progress
        saved_at = -math.inf
        is_prepared = False
        while True:
            if self._is_due:
                # Measuring takes long: what was learned until here is not risked.
                self.save()
                self._measure(listener)
                saved_at = time.monotonic()
            if self.share_done >= 1:
                return
            if not is_prepared:
                # Before the clock starts: the first looks are many.
                self._pool.prepare(progress.step, listener.check)
                is_prepared = True
            started = time.perf_counter()
            self._pool.prepare(progress.step, listener.check)
            progress.losses.append(self.step(progress.step))
            progress.step += 1
            progress.seconds += time.perf_counter() - started
            if time.monotonic() - saved_at > self.recipe.save_minutes * 60:
                self.save()
                saved_at = time.monotonic()
            listener.stepped(progress, self.share_done)

    @property
    def _is_due(self) -> bool:
        """Whether the model is to be measured before it goes on."""
        scores = self.progress.scores
        if scores and scores[-1]["step"] == self.progress.step:
            return False
        return self.share_done * (self.recipe.validations + 1) >= len(scores)

    @property
    def share_done(self) -> float:
        """How much of the recipe is done, 0 to 1."""
        by_time = self.progress.seconds / (self.recipe.minutes * 60) if self.recipe.minutes else 0.0
        by_steps = self.progress.step / self.recipe.steps if self.recipe.steps else 0.0
        return min(1.0, max(by_time, by_steps))

    # --- one step -----------------------------------------------------------------------------------

    def step(self, number: int) -> float:
        """Learn from one batch of clips; returns its loss before that."""
        recipe, model = self.recipe, self.loaded.model
        numbers = self._pool.numbers(number)
        rng = np.random.default_rng([recipe.seed, 2, number])
        plan = draw_plan(recipe, rng, model.num_maskmem, model.max_obj_ptrs_in_encoder)
        chosen = [self._pool.look(numbers[n]) for n in rng.choice(len(numbers), recipe.batch, replace=False)]
        clips = [draw_clip(look, plan, _of_others(chosen, look), rng) for look in chosen]
        prompts = [draw_prompt(plan.prompt, clip.masks[0].numpy(), rng) for clip in clips]
        frames = [
            FrameStock.join([clip.frames.pick([n]) for clip in clips]).to(self.loaded.device)
            for n in range(1 + plan.warm + plan.length)
        ]
        targets = [self._target(clips, n) for n in range(len(frames))]
        present = torch.stack([is_present(target) for target in targets])
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * self._rate(number)
        with mixed_precision(self.loaded.device):
            answers = self._rollout.run(
                frames, prompts, plan, present if rng.random() < recipe.told else None
            )
        loss = self._loss(answers, targets, clips, plan)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self._weights.values()), recipe.clip_norm)
        self._optimizer.step()
        self._average(number)
        return float(loss.detach())

    def _target(self, clips: Sequence[Clip], n: int) -> torch.Tensor:
        """Return what the masks of the n-th frames should be: float32 (batch, 4h, 4w) on the device."""
        side = self.loaded.input_size // 4
        return coarse_target(torch.stack([clip.masks[n] for clip in clips]), side).to(self.loaded.device)

    def _loss(
        self,
        answers: Sequence[Answer],
        targets: Sequence[torch.Tensor],
        clips: Sequence[Clip],
        plan: ClipPlan,
    ) -> torch.Tensor:
        learned = [0, *range(1 + plan.warm, 1 + plan.warm + plan.length)]
        losses = []
        for n, answer in zip(learned, answers, strict=True):
            counts = torch.tensor([clip.weights[n] for clip in clips], device=self.loaded.device)
            losses.append(answer_loss(answer, targets[n], counts, self.recipe.loss))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _average(self, number: int) -> None:
        # In the beginning over fewer steps: the first weights are not worth remembering for long.
        kept = min(self.recipe.average, (1 + number) / (10 + number))
        for name, weight in self._weights.items():
            self._mean[name].lerp_(weight.detach().cpu(), 1 - kept)

    def _rate(self, number: int) -> float:
        rise = min(1.0, (number + 1) / max(1, self.recipe.warm_up))
        return rise * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * self.share_done)) / 2)

    # --- measuring and saving -----------------------------------------------------------------------

    def _measure(self, listener: Listener) -> None:
        learned = self._copied()
        self._put(self._mean)
        try:
            score = self._validation.score(self.loaded, listener.check)
        finally:
            self._put(learned)
        progress = self.progress
        progress.scores.append(
            {"step": progress.step, "seconds": round(progress.seconds, 1), **score.to_dict()}
        )
        if score.volume > progress.best:
            progress.best = score.volume
            self.best = {name: weight.clone() for name, weight in self._mean.items()}
        self.save()
        listener.measured(progress, score)

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().cpu().clone() for name, weight in self._weights.items()}

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(weights[name])

    def save(self) -> None:
        """Save the state: whole or not at all.

        Raises:
            SAM2PropagateError: `disk_full`.
        """
        state = {
            "about": self._about,
            "recipe": _plain(asdict(self.recipe)),
            "progress": asdict(self.progress),
            "weights": self._copied(),
            "mean": self._mean,
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
        }
        with atomic_output(self._folder / STATE_FILE, True) as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Go on where a run in the same folder was saved last.

        Raises:
            InputError: `nothing_to_resume`; `resume_mismatch`: that run was of other cases, another model or
                another recipe.
        """
        path = self._folder / STATE_FILE
        if not path.is_file():
            raise InputError(
                "nothing_to_resume",
                f"There is no training to resume in “{self._folder}”.",
                "Leave out --resume.",
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        mine = {"recipe": _plain(asdict(self.recipe)), **self._about}
        for what, value in {"recipe": state["recipe"], **state["about"]}.items():
            if mine.get(what) != value:
                raise InputError(
                    "resume_mismatch",
                    f"The training in “{self._folder}” was started with another {what}.",
                    "Repeat the options it was started with, or start again with --overwrite.",
                )
        self._put(state["weights"])
        self._mean = state["mean"]
        self.best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])


def _of_others(looks: Sequence[Look], one: Look) -> list[Look]:
    return [look for look in looks if look.owner != one.owner]


def _plain(value: Any) -> Any:
    """Return tuples as lists, as they come back from a file."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
