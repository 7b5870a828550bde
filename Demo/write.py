"""What the demonstration leaves behind: the segmentation, the scene, the report and the sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from Demo import case
from Demo.canvas import GROUND
from Demo.desk import DemoDesk
from Demo.montage import surface_size, write_sheet
from Demo.pictures import strips
from Demo.report import closing_lines, report, sheet
from Demo.saved import check_saved, save
from Demo.story import Story
from Demo.surface import render_surfaces, segment_surfaces
from Demo.terminal import Terminal
from SAM2PropagateLib.segment_report import write_report


def write_all(desk: DemoDesk, story: Story, files: Mapping[str, Path], terminal: Terminal) -> None:
    """Writes everything, and loads the saved files again to see that nothing was lost.

    Args:
        files: paths of "segmentation", "scene", "report" and "picture".

    Raises:
        SAM2PropagateError: something could not be written, or came back changed.
    """
    terminal.step("Writing the segmentation, the scene, the picture and the report")
    surfaces = segment_surfaces(desk.segmentationNode)
    save(desk, files["segmentation"], files["scene"])
    pictures = strips(desk, story.reference)
    surface = render_surfaces(
        surfaces,
        {one.name: one.color for one in case.STRUCTURES},
        desk.volume.array,
        desk.volume.geometry,
        surface_size(len(pictures)),
        (GROUND[0] / 255, GROUND[1] / 255, GROUND[2] / 255),
    )
    write_sheet(sheet(story, desk, pictures, surface), files["picture"])
    write_report(files["report"], report(story, desk, terminal.seconds, files), overwrite=True)
    terminal.step("Loading the saved scene and segmentation again")
    check_saved(desk, files["segmentation"], files["scene"])
    terminal.say("the CT, the prompts and the segments are all there, unchanged")
    for line in closing_lines(story, files, terminal.seconds):
        terminal.plain(line)
