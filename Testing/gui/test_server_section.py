"""The computer that the model runs on: chosen in the panel, kept in the settings, tested, set up and used."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer.util
from PySide6 import QtCore, QtWidgets

from Headless.fake_session import AnsweringSession
from SAM2PropagateLib import __version__
from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.gui import install
from SAM2PropagateLib.gui.install import PACKAGES
from SAM2PropagateLib.gui.server_section import installCommand
from SAM2PropagateLib.worker.library_files import own_version
from Testing.gui.conftest import MODULE_FILE, ROOT
from Testing.gui.test_panel import ScriptedDialogs
from Testing.worker.helpers import soon
from Testing.worker.sshd import HOST, Sshd


@pytest.fixture
def dialogs(module: Any) -> ScriptedDialogs:
    made = module.widget.panel.messages.dialogs = ScriptedDialogs()
    return made


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    monkeypatch.setenv("PATH", server.env["PATH"])
    yield server
    server.stop()


def choose(module: Any, host: str = "gpu1", python: str = "") -> None:
    """What the user does in the panel."""
    module.ui.computerComboBox.setCurrentIndex(1)
    module.ui.hostLineEdit.setText(host)
    module.ui.remotePythonLineEdit.setText(python)
    module.ui.remotePythonLineEdit.editingFinished.emit()


def work_on_sample(module: Any) -> Any:
    """The sample, an empty segment, and the positive tool."""
    volume = slicer.util.loadVolume(str(ROOT / "Resources" / "Sample" / "abdomen_ct.nii.gz"))
    module.ui.volumeSelector.setCurrentNode(volume)
    module.ui.segmentationSelector.addNode()
    module.widget.logic.controller.chooseTool("positive")
    return module.widget.logic.controller


def click(controller: Any) -> bool:
    ras = controller.workspace.geometry.ras_of_pixel(86, 49, 103, 2)
    return bool(controller.point("positive", ras, (0, 0, 1)))


def status(module: Any) -> str:
    return str(module.ui.serverStatusLabel.text)


def test_this_computer_is_the_default_and_is_named(module: Any) -> None:
    assert module.ui.modelCollapsibleButton.text == "Model and computer: this computer"
    assert module.ui.serverFrame.isHidden()
    assert module.widget.logic.computer.remote() is None


def test_the_choice_is_kept_in_the_settings_and_not_in_the_scene(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE).open()
    choose(module, "me@gpu1", "~/env/bin/python")
    assert module.ui.modelCollapsibleButton.text == "Model and computer: me@gpu1"
    assert not module.ui.serverFrame.isHidden()
    assert "starts on me@gpu1 with the first prompt" in module.ui.workerStatusLabel.text
    node = module.widget.logic.getParameterNode().parameterNode
    assert "gpu1" not in str([node.GetParameter(name) for name in node.GetParameterNames()])
    module.close()
    slicer.mrmlScene.Clear()
    other = ModuleInSlicer(MODULE_FILE).open()
    try:
        remote = other.widget.logic.computer.remote()
        assert remote is not None and (remote.host, remote.python) == ("me@gpu1", "~/env/bin/python")
        assert other.ui.hostLineEdit.text == "me@gpu1"
        assert other.ui.remotePythonLineEdit.text == "~/env/bin/python"
        other.ui.computerComboBox.setCurrentIndex(0)
        assert other.widget.logic.computer.remote() is None
        assert other.ui.modelCollapsibleButton.text == "Model and computer: this computer"
    finally:
        other.close()


@pytest.mark.parametrize(
    ("host", "text"), [("", "No server is named."), ("-oX=y", "not a host that ssh can reach")]
)
def test_a_server_that_cannot_be_used_is_not_replaced_by_this_computer(
    host: str, text: str, module: Any
) -> None:
    choose(module, host)
    assert text in module.ui.testServerButton.toolTip and not module.ui.testServerButton.enabled
    controller = work_on_sample(module)
    assert not click(controller) or not controller.workspace.hasPreview
    assert text in module.ui.messageLabel.text
    # Nothing was computed anywhere: not on this computer either.
    assert controller.device == "" and not controller.isWaiting
    module.ui.computerComboBox.setCurrentIndex(0)
    assert module.ui.messageFrame.isHidden()


def test_a_name_that_is_still_being_typed_can_be_tested(module: Any, dialogs: ScriptedDialogs) -> None:
    module.ui.computerComboBox.setCurrentIndex(1)
    assert not module.ui.installCommandButton.enabled
    module.ui.hostLineEdit.setText("gpu1")
    module.ui.hostLineEdit.textEdited.emit("gpu1")
    assert module.ui.installCommandButton.enabled and module.ui.testServerButton.enabled
    module.ui.installCommandButton.click()
    assert dialogs.copied == installCommand("gpu1") and module.widget.logic.computer.host == "gpu1"
    # What is no host is refused in words.
    module.ui.hostLineEdit.setText("-oX=y")
    module.ui.hostLineEdit.textEdited.emit("-oX=y")
    module.ui.testServerButton.click()
    assert not module.widget.logic.server.isRunning and "not a host that ssh can reach" in status(module)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package that the worker needs is installed in this Python."""
    monkeypatch.setattr(install, "missing", lambda find, version: PACKAGES)


@pytest.mark.usefixtures("lacking")
def test_what_this_computer_lacks_does_not_matter_for_a_server(module: Any) -> None:
    logic = module.widget.logic
    assert logic.missingPackages()
    choose(module)
    assert logic.missingPackages() == [] and module.ui.bannerFrame.isHidden()
    module.ui.modelComboBox.setCurrentIndex(1)
    assert logic.controller.modelProblem() == ""
    module.ui.computerComboBox.setCurrentIndex(0)
    assert not module.ui.bannerFrame.isHidden()
    assert "not on this computer yet" in logic.controller.modelProblem()


def test_another_computer_is_not_chosen_during_a_run_and_ends_the_worker_on_the_former_one(
    module: Any,
) -> None:
    sessions: list[AnsweringSession] = []

    def make() -> AnsweringSession:
        sessions.append(AnsweringSession())
        return sessions[-1]

    module.widget.logic.makeSession = make
    controller = work_on_sample(module)
    assert click(controller)
    controller.wait(60)
    controller.propagate()
    for widget in (module.ui.computerComboBox, module.ui.hostLineEdit, module.ui.remotePythonLineEdit):
        assert not widget.enabled and "Cancel the propagation" in widget.toolTip
    controller.cancel()
    kept = controller.workspace.hasPreview
    prompts = controller.workspace.prompts
    choose(module)
    assert sessions[0].isClosed and controller.workspace.hasPreview == kept
    assert controller.workspace.prompts == prompts
    assert click(controller)
    controller.wait(60)
    assert len(sessions) == 2 and sessions[1].asked


def test_the_title_names_the_computer_and_a_missing_gpu(module: Any) -> None:
    from SAM2PropagateLib.worker.remote import Remote

    def make() -> AnsweringSession:
        session = AnsweringSession()
        session.remote, session.device = Remote("gpu1"), "cpu"
        return session

    module.widget.logic.makeSession = make
    choose(module)
    controller = work_on_sample(module)
    assert click(controller)
    controller.wait(60)
    assert module.ui.modelCollapsibleButton.text == "Model and computer: gpu1 (processor)"
    assert "no GPU on gpu1" in module.ui.messageLabel.text
    module.ui.computerComboBox.setCurrentIndex(0)
    assert module.ui.messageFrame.isHidden()


def test_the_progress_of_sending_a_volume_is_shown_before_a_preview_too(module: Any) -> None:
    from SAM2PropagateLib.app.events import Progress
    from SAM2PropagateLib.app.wording import uploadText
    from SAM2PropagateLib.worker.messages import ProgressEvent

    controller = work_on_sample(module)
    event = ProgressEvent(1, "Sending the volume to gpu1", 12 << 20, 80 << 20, None, 65.0)
    assert uploadText(event) == "Sending the volume to gpu1: 12 MB of 80 MB, 1:05 min left"
    controller.progress.emit(Progress(event.done, event.total, None, 65.0, uploadText(event)))
    assert module.ui.resultLabel.text == uploadText(event)
    controller.progress.emit(Progress(0, 0, None, None, ""))
    assert module.ui.resultLabel.text == ""


def test_the_install_command_is_shown_and_copied(module: Any, dialogs: ScriptedDialogs) -> None:
    choose(module, "me@gpu1")
    module.ui.installCommandButton.click()
    assert dialogs.copied == installCommand("me@gpu1") in status(module)
    assert dialogs.copied.startswith('ssh me@gpu1 "python3 -m venv ~/.sam2propagate/env && ')
    for part in ("torch>=2.5.1", "safetensors", "sam2==1.1.0 --hash=sha256:", "sam2propagate @ git+https://"):
        assert part in dialogs.copied
    # Its long words make the panel no wider.
    assert module.panel.layout().totalMinimumSize().width() <= 390
    # Inside the double quotes nothing may mean anything to the shell here.
    inside = dialogs.copied.split('"', 1)[1].rstrip('"')
    assert not set(inside) & set('"$`!\\')


@pytest.fixture
def smallArea(module: Any) -> Iterator[QtWidgets.QScrollArea]:  # noqa: N802
    """The panel in an area that shows only a part of it."""
    area = QtWidgets.QScrollArea()
    area.setWidgetResizable(True)
    area.setWidget(module.panel)
    area.resize(400, 300)
    area.show()
    module.ui.modelCollapsibleButton.collapsed = False
    choose(module)
    settle()
    yield area
    area.takeWidget()


def settle() -> None:
    for _ in range(5):
        QtWidgets.QApplication.processEvents()


def isInView(widget: Any, area: QtWidgets.QScrollArea) -> bool:  # noqa: N802
    viewport = area.viewport()
    top = widget.mapTo(viewport, QtCore.QPoint(0, 0)).y()
    return widget.isVisible() and top >= 0 and top + widget.height <= viewport.height


def test_an_answer_below_the_edge_is_scrolled_into_view(
    module: Any,
    smallArea: QtWidgets.QScrollArea,  # noqa: N803
    dialogs: ScriptedDialogs,
) -> None:
    module.ui.installCommandButton.click()
    settle()
    assert module.ui.serverStatusLabel.height > 50 and isInView(module.ui.serverStatusLabel, smallArea)


@pytest.mark.parametrize(("level", "comes"), [("error", True), ("warning", True), ("info", False)])
def test_what_is_wrong_is_scrolled_into_view(
    level: str,
    comes: bool,
    module: Any,
    smallArea: QtWidgets.QScrollArea,  # noqa: N803
) -> None:
    smallArea.ensureWidgetVisible(module.ui.copyLibraryButton)
    settle()
    module.widget.logic.controller.message.emit(UserMessage(level, "There is no computer named “gpu1”."))
    settle()
    assert module.ui.messageFrame.isVisible() and isInView(module.ui.messageFrame, smallArea) == comes


_PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && cp "$(dirname "$0")/pip" "$3/bin/pip"
"""
_PIP = """#!/bin/sh
echo "$SAM2_BUILD_CUDA:$*" >> "$HOME/said"
case "$*" in *"-r /dev/stdin") cat /dev/stdin >> "$HOME/said";; esac
"""


def test_the_install_command_works_in_a_shell(sshd: Sshd) -> None:
    """With stand-ins for Python and pip on the server, as it would install gigabytes."""
    for name, text in (("python3", _PYTHON), ("pip", _PIP)):
        (sshd.bin / name).write_text(text, encoding="utf-8")
        (sshd.bin / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", installCommand(HOST)], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, pinned, last = (sshd.home / "said").read_text(encoding="utf-8").splitlines()
    assert first.startswith(":install torch>=2.5.1 numpy>=1.26 ") and "safetensors>=" in first
    assert second == "0:install --no-deps --no-build-isolation -r /dev/stdin"
    assert pinned.startswith("sam2==1.1.0 --hash=sha256:")
    assert last.startswith(":install sam2propagate @ git+https://") and last.endswith(f"@v{__version__}")
    assert (sshd.home / ".sam2propagate" / "env" / "bin" / "pip").is_file()


def polled(module: Any, seconds: float = 120.0) -> None:
    jobs, end = module.widget.logic.server, time.monotonic() + seconds
    while jobs.isRunning and time.monotonic() < end:
        jobs.poll()
        time.sleep(0.01)
    assert not jobs.isRunning


def test_a_server_is_tested_set_up_and_used(module: Any, dialogs: ScriptedDialogs, sshd: Sshd) -> None:
    choose(module, HOST, sys.executable)
    module.ui.testServerButton.click()
    assert "Testing the connection" in status(module) and not module.ui.testServerButton.enabled
    polled(module)
    assert f"✗ SAM2 Propagate {own_version()} is not there. Copy the library there" in status(module)
    assert "✓ Logged in on" in status(module) and "✓ PyTorch" in status(module)

    dialogs.answer = False
    module.ui.copyLibraryButton.click()
    assert not module.widget.logic.server.isRunning and "~/.sam2propagate" in dialogs.asked[-1]
    assert list(sshd.home.iterdir()) == []
    dialogs.answer = True
    module.ui.copyLibraryButton.click()
    assert module.ui.copyLibraryButton.text == "Cancel copy"
    polled(module)
    assert status(module).startswith("Copied, and checked by SHA-256.") and "✗" not in status(module)
    assert module.ui.copyLibraryButton.text == "Copy library …"

    controller = work_on_sample(module)
    assert click(controller)
    controller.wait(120)
    assert controller.workspace.hasPreview, module.ui.messageLabel.text
    assert f"Model and computer: {HOST} (" in module.ui.modelCollapsibleButton.text
    assert f"running on {HOST}" in module.ui.workerStatusLabel.text
    # Back on this computer, the worker there ends.
    module.ui.computerComboBox.setCurrentIndex(0)
    assert soon(lambda: not sshd.processes, 30)
    assert controller.workspace.hasPreview
