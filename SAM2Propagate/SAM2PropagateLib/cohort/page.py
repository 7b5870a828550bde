"""Writes the page of a cohort: pictures of every segment, the most doubtful first, in one file without
scripts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import BinaryIO

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cohort.table import DONE, FAILED, WAITING, Line
from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.files.segmentation import SUFFIX
from SAM2PropagateLib.frame_kinds import DOUBTFUL

MOST_PICTURES = 5000
"""More pictures would make a page that browsers open too slowly; later lines have none."""

PAGE_START = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="SAM2 Propagate">
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c33; --faint: #888; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; max-width: 48rem; }
table { border-collapse: collapse; width: 100%; margin-top: 1rem; }
th { text-align: left; position: sticky; top: 0; background: Canvas; border-bottom: 2px solid var(--line);
     padding: .4rem .6rem; z-index: 1; }
td { border-bottom: 1px solid var(--line); padding: .4rem .6rem; vertical-align: middle; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.what { overflow-wrap: anywhere; }
td.picture { width: 458px; }
img { display: block; width: 458px; height: 150px; object-fit: contain; object-position: left; }
small { color: var(--faint); display: block; }
.failed, .nothing { color: var(--bad); }
meter { width: 5rem; }
"""
_HEAD = (
    PAGE_START
    + """\
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<p>{reading}</p>
<table>
<thead><tr><th>Volume and segment</th><th>Slices, with the outline</th><th class="number">ml</th>
<th class="number">Slices</th><th class="number">Doubt</th></tr></thead>
<tbody>
"""
)
_FOOT = """</tbody>
</table>
<p><small>SAM2 Propagate {version}. Not a medical device.</small></p>
</body>
</html>
"""


def write_page(
    path: Path,
    title: str,
    lines: Sequence[Line],
    picture: Callable[[Line], bytes],
    most_pictures: int = MOST_PICTURES,
) -> None:
    """Write the page, whole or not at all.

    Args:
        title: of the cohort.
        lines: in their order.
        picture: returns the JPEG of a line of a finished volume; empty if there is none.

    Raises:
        InputError, SAM2PropagateError: as `atomic_output`.
    """
    with atomic_output(path, True) as file:
        _write(
            file,
            _HEAD.format(
                title=escape(title),
                style=_STYLE,
                summary=escape(_summary(lines)),
                reading=escape(_reading(lines, most_pictures)),
            ),
        )
        shown = 0
        for line in lines:
            content = b""
            if line.row is not None and shown < most_pictures:
                content = picture(line)
                shown += 1
            _write(file, _table_row(line, content))
        _write(file, _FOOT.format(version=escape(__version__)))


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode("utf-8", "replace"))


def _summary(lines: Sequence[Line]) -> str:
    done = [line for line in lines if line.state == DONE]
    volumes = len({line.name for line in done})
    failed = sum(line.state == FAILED for line in lines)
    waiting = sum(line.state == WAITING for line in lines)
    parts = [f"{_some(volumes, 'volume')} with {_some(len(done), 'segment')} done"]
    if failed:
        parts.append(f"{failed} failed")
    if waiting:
        parts.append(f"{waiting} not done yet")
    return ", ".join(parts) + "."


def _reading(lines: Sequence[Line], most_pictures: int) -> str:
    text = (
        "Sorted: what failed, what was not found, then by doubt. Doubt is the mean of the worst tenth of the "
        f"slices, from 0 to 1; slices of {DOUBTFUL:g} or more count as doubtful. The pictures show a slice "
        "with prompts, the most doubtful one and the one with the largest area, in the order of the slices."
    )
    if sum(line.row is not None for line in lines) > most_pictures:
        text += f" Only the first {most_pictures} segments have pictures."
    return text


def _some(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _meter(doubt: float) -> str:
    """Return a bar that turns from green through yellow to red."""
    scale = f'min="0" max="1" low="{DOUBTFUL / 2:g}" high="{DOUBTFUL:g}" optimum="0"'
    return f'<meter {scale} value="{doubt:.3f}"></meter>'


def _table_row(line: Line, content: bytes) -> str:
    row = line.row
    if row is None:
        kind = "failed" if line.state == FAILED else ""
        message = line.message or line.state
        return (
            f'<tr><td class="what"><b>{escape(line.name or line.volume)}</b>'
            f"<small>{escape(line.volume)}</small></td>"
            f'<td colspan="4" class="{kind}">{escape(message)}</td></tr>\n'
        )
    slices = ", ".join(str(frame + 1) for frame in row.shown)
    image = ""
    if content:
        source = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
        told = escape(f"{line.name}, {row.segment}: slices {slices}", quote=True)
        image = f'<img loading="lazy" src="{source}" alt="{told}"><small>slices {slices}</small>'
    note = f"<small>{escape(line.message)}</small>" if line.message else ""
    doubtful = f"<small>{_some(row.doubtful, 'slice')} doubtful</small>" if row.doubtful else ""
    doubt = "" if row.doubt is None else f"{row.doubt:.2f}<br>{_meter(row.doubt)}"
    kind = "number" if row.voxels else "number nothing"
    amount = f"{row.ml:.1f}" if row.voxels else "nothing found"
    return (
        f'<tr><td class="what"><b>{escape(line.name)}</b><br>{escape(row.segment)}'
        f"<small>{escape(line.volume)}</small><small>{escape(line.name + SUFFIX)}</small>{note}</td>"
        f'<td class="picture">{image}</td><td class="{kind}">{amount}</td>'
        f'<td class="number">{row.slices}</td><td class="number">{doubt}{doubtful}</td></tr>\n'
    )
