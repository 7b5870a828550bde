"""Render the module's panel as it looks without a model's run: python Tools/render_panel.py OUTPUT.png

    --dark          in dark colors
    --scale 1.5     on a display with larger pixels
    --missing       as before the installation
    --server        with a server as the computer that the model runs on

Slicer's own widgets are stood in for by simple ones (Headless/qt_standins.py), so what is seen is the
layout and the texts, not Slicer's style.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the module's panel.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--scale", default="1")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--server", action="store_true")
    chosen = parser.parse_args()
    os.environ["QT_SCALE_FACTOR"] = chosen.scale
    module = ROOT / "SAM2Propagate"
    sys.path[:0] = [str(ROOT), str(module), str(module / "Testing" / "Python")]
    from Headless import qt_standins, slicer_modules
    from Headless.boot import boot

    headless = boot()
    with qt_standins.installed() as qt, slicer_modules.installed():
        if chosen.dark:
            _darken(qt)
        module = slicer_modules.ModuleInSlicer(ROOT / "SAM2Propagate" / "SAM2Propagate.py").open()
        try:
            _fill(module, headless, chosen.missing)
            panel = module.panel
            if chosen.server:
                _use_server(module)
            panel.show()
            qt.QCoreApplication.processEvents()
            panel.resize(400, panel.layout().totalHeightForWidth(400))
            qt.QCoreApplication.processEvents()
            chosen.output.parent.mkdir(parents=True, exist_ok=True)
            if not panel.grab().save(str(chosen.output)):
                raise SystemExit(f"{chosen.output} could not be written")
        finally:
            module.close()


def _darken(qt: Any) -> None:
    palette = qt.QPalette()
    roles = qt.QPalette.ColorRole
    for role, color in (
        (roles.Window, "#353535"),
        (roles.WindowText, "#e8e8e8"),
        (roles.Base, "#242424"),
        (roles.Text, "#e8e8e8"),
        (roles.Button, "#404040"),
        (roles.ButtonText, "#e8e8e8"),
        (roles.Midlight, "#4a4a4a"),
        (roles.Mid, "#6a6a6a"),
    ):
        palette.setColor(role, qt.QColor(color))
    for role in (roles.ButtonText, roles.WindowText, roles.Text):
        palette.setColor(qt.QPalette.ColorGroup.Disabled, role, qt.QColor("#8a8a8a"))
    qt.QApplication.setPalette(palette)


def _fill(module: Any, headless: Any, missing: bool) -> None:
    """Make a scene: the project's CT, three segments, a click, and the outcome of a run."""
    import numpy as np
    import slicer.util

    from Headless.fake_session import AnsweringSession
    from SAM2PropagateLib.app.events import UserMessage
    from SAM2PropagateLib.app.strip import FrameFacts, strip
    from SAM2PropagateLib.frame_kinds import PROPAGATED
    from SAM2PropagateLib.gui.install import PACKAGES

    ui, panel = module.ui, module.widget.panel
    if missing:
        module.widget.logic.installer.needed = lambda: PACKAGES
    volume = slicer.util.loadVolume(str(ROOT / "Resources" / "Sample" / "abdomen_ct.nii.gz"))
    ui.volumeSelector.setCurrentNode(volume)
    if missing:
        panel.say(UserMessage("info", "A message looks like this. The cross takes it away."))
        return
    ui.takeWindowButton.click()
    node = ui.segmentationSelector.addNode()
    names = (("liver", (0.87, 0.51, 0.4)), ("left kidney", (0.73, 0.4, 0.28)), ("spleen", (0.62, 0.42, 0.61)))
    for index, (name, color) in enumerate(names):
        if index:
            node.GetSegmentation().AddEmptySegment("", "")
        # Slicer draws colors by lot; the picture is to be the same each time.
        node.GetSegmentation().GetNthSegment(index).SetName(name)
        node.GetSegmentation().GetNthSegment(index).SetColor(*color)
    controller = module.widget.logic.controller
    module.widget.logic.makeSession = AnsweringSession
    controller.chooseTool("positive")
    controller.point("positive", controller.workspace.geometry.ras_of_pixel(86, 49, 103, 2), (0, 0, 1))
    controller.wait(5)
    controller.discard()
    doubt = 0.2 + 0.4 * np.sin(np.arange(112) / 9) ** 16
    facts = {n: FrameFacts(PROPAGATED, float(doubt[n]), 0.8, 3.0) for n in range(112)}
    sets = {"keyframes": {103}, "edited": {64}, "absent": {5}, "locked": {30}}
    found = strip(112, facts, **{name: frozenset(frames) for name, frames in sets.items()})
    controller._situation.strip = lambda *_: found
    panel.refresh()


def _use_server(module: Any) -> None:
    """Show the test of a server that lacks something."""
    from SAM2PropagateLib.app.server_jobs import ServerJobEnd, wordsOf
    from SAM2PropagateLib.worker.library_files import own_version
    from SAM2PropagateLib.worker.remote import Remote
    from SAM2PropagateLib.worker.server_check import report

    logic = module.widget.logic
    module.ui.modelCollapsibleButton.collapsed = False
    logic.computer.choose(isServer=True, host="me@gpu1")
    found = report(
        Remote("me@gpu1"),
        {
            "computer": "gpu1",
            "python": "3.11.2",
            "executable": "/usr/bin/python3",
            "torch": "2.6.0+cu124",
            "devices": [{"name": "NVIDIA RTX A6000", "total": 48 << 30, "free": 45 << 30}],
            "missing": ["cv2"],
            "library": own_version(),
            "has_model": True,
        },
    )
    logic.server.finished.emit(ServerJobEnd(found.works, wordsOf(found)))


if __name__ == "__main__":
    main()
