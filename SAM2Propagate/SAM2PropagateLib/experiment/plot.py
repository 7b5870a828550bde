"""The picture of an experiment: Dice against the distance from the prompted slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from SAM2PropagateLib.evaluation.one_slice import TITLES
from SAM2PropagateLib.experiment.table import Bin
from SAM2PropagateLib.files.atomic import atomic_output

_STYLES = {
    "1": ("C0", "o"),
    "3": ("C1", "s"),
    "5": ("C2", "^"),
    "box": ("C3", "D"),
    "mask": ("C4", "v"),
}
_COLUMNS = 3
_LONGEST_NAME = 40


def draw_plot(bins: Sequence[Bin], path: Path, where: str) -> None:
    """Write a PNG with one panel for each model and one line for each kind of prompt; a file that is there is
    replaced.

    Args:
        bins: at least one.
        where: the rule of the prompted slice, for the title.

    Raises:
        InputError, SAM2PropagateError: as `atomic_output`.
    """
    # Late and without pyplot: no window system is asked for, and nothing is kept between plots.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(one.model for one in bins))
    names = short_names(models)
    columns = min(_COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2 + 4.5 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, model in zip(panels, models, strict=False):
        own = [one for one in bins if one.model == model]
        for kind in dict.fromkeys(one.kind for one in own):
            color, marker = _STYLES[kind]
            points = [(one.at, one.dice) for one in own if one.kind == kind]
            style = {"color": color, "marker": marker, "markersize": 4}
            panel.plot(*zip(*points, strict=True), label=TITLES[kind], **style)
        runs = max(one.runs for one in own)
        said = f"{runs} {'run' if runs == 1 else 'runs'} for each prompt"
        panel.set(title=f"{names[model]}\n({said})", ylim=(0, 1.02))
        panel.set(xlabel="distance from the prompted slice in mm", ylabel="mean Dice of the slices")
        panel.grid(alpha=0.3)
    lines = {line.get_label(): line for panel in panels for line in panel.get_lines()}
    figure.legend(list(lines.values()), list(lines), title=f"{where} slice", loc="outside right upper")
    for panel in panels[len(models) :]:
        panel.set_visible(False)
    with atomic_output(path, True) as file:
        figure.savefig(file, format="png", dpi=110)


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return for each model a name that fits above a panel: of a path its end, as much as tells it from the
    others and has room."""
    names: dict[str, str] = {}
    for model in models:
        parts = Path(model).parts
        ends = [str(Path(*parts[-count:])) for count in range(1, len(parts) + 1)]
        others = [other for other in models if other != model]
        name = next((end for end in ends if not any(_ends_with(other, end) for other in others)), model)
        names[model] = name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
    return names


def _ends_with(path: str, end: str) -> bool:
    count = len(Path(end).parts)
    return Path(path).parts[-count:] == Path(end).parts
