"""The picture of a training: its loss, and what the model could do on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.training.trainer import TrainingProgress

_SMOOTH_STEPS = 25


def draw_plot(progress: TrainingProgress, path: Path, title: str) -> None:
    """Write loss and validation Dice over the steps as a PNG; a file that is there is replaced.

    Raises:
        InputError, SAM2PropagateError: as `atomic_output`.
    """
    # Late and without pyplot: no window system is asked for, and nothing is kept between plots.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)
    losses = np.array(progress.losses)
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color="0.8", linewidth=0.8, label="each step")
    # Of a short training a third at most: otherwise nothing would be left of its course.
    width = min(_SMOOTH_STEPS, len(losses) // 3)
    if width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        left.plot(steps[width - 1 :], smooth, color="C0", label=f"mean of {width} steps")
    left.set(xlabel="step", ylabel="loss", ylim=(0, None))
    left.legend()
    at = [score["step"] for score in progress.scores]
    for name, label in (
        ("preview", "prompted slice"),
        ("in_range", "volume, ends given"),
        ("volume", "volume"),
    ):
        right.plot(at, [score[name] for score in progress.scores], marker="o", label=label)
    right.set(xlabel="step", ylabel="mean Dice, validation", ylim=(0, 1))
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_output(path, True) as file:
        figure.savefig(file, format="png", dpi=110)
