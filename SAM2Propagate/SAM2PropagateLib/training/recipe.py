"""How to train: every number of it, so that a file can say what was done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """What each part of the loss counts; see `losses`.

    Attributes:
        missed: how much worse it is to call a structure absent that is there than the reverse: the
            propagation ends there, while what is too much can still be erased.
    """

    mask: float = 3.0
    dice: float = 1.0
    iou: float = 0.5
    present: float = 1.0
    missed: float = 2.0


@dataclass(frozen=True)
class Recipe:
    """How to train. The run ends with the first of `steps` and `minutes` (0: no limit) that is reached.

    Attributes:
        seed: of everything that is drawn: step n draws from (seed, n), look n likewise.
        batch: clips per step, each from another look.
        length: frames of a clip that are learned from, after its keyframe.
        warm: how many frames a clip may be tracked before that, without learning; one is drawn.
        told: share of the steps in which the memories are told whether the structure is on their frame (the
            masks are always the model's own). A wrong "absent" would rule all frames after it, from which
            little can be learned; in the other steps it does, as in use.
        warped: share of the looks that are made of a single slice, with anything on it that the image half
            outlines; see `warps`.
        memory_rate, head_rate, image_rate: highest learning rates of the memory half, the mask decoder, and
            what else is unfrozen. They rise over `warm_up` steps and fall along a cosine to the end.
        clip_norm: longest gradient.
        average: how slowly the weights that are measured and kept follow the ones that learn: their running
            mean over about 1 / (1 - average) steps, which is steadier than any of them.
        first_looks: looks encoded before the first step; every `steps_per_look` steps another one comes,
            and of more than `most_looks` the oldest goes.
        validations: how often the model is measured on the way, evenly spread; and once before, once after.
        most_targets: structures that it is measured on at most.
        save_minutes: how often the state is saved.
    """

    seed: int = 1
    steps: int = 0
    minutes: float = 0.0
    batch: int = 8
    length: int = 6
    warm: tuple[int, ...] = (0, 0, 2, 5, 10, 16)
    told: float = 0.75
    warped: float = 0.35
    memory_rate: float = 3e-4
    head_rate: float = 4e-5
    image_rate: float = 1e-5
    weight_decay: float = 0.02
    warm_up: int = 40
    clip_norm: float = 1.0
    average: float = 0.98
    first_looks: int = 24
    steps_per_look: int = 2
    most_looks: int = 220
    validations: int = 6
    most_targets: int = 12
    save_minutes: float = 2.0
    loss: LossWeights = LossWeights()
