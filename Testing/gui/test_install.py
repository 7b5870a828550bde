"""Installing: what is told before, in which order, and what a failure leaves."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.gui import install
from SAM2PropagateLib.gui.install import PACKAGES, Installer


class Tools:
    """Package tools that install into a set."""

    def __init__(self):
        self.there = {"setuptools", "scipy", "cv2", "PIL"}
        self.calls = []
        self.failing = ""
        self.waiting = []
        self.torch = self.torchAfter = "2.5.1"

    def version(self, package):
        assert package == "torch", "only its version is asked for"
        if self.torch is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return self.torch

    def find(self, module):
        return object() if module in self.there else None

    def installTorch(self, version, log, completed):  # noqa: N802
        self.calls.append(("torch", version))
        if self.failing == "extension":
            raise SAM2PropagateError("no_pytorch_extension", "The PyTorch extension is missing.", "Get it.")
        log("Collecting torch")
        self.there.add("torch")
        self.torch = self.torchAfter
        completed(self.failing != "torch")

    def pipInstall(self, arguments, environment, log, completed):  # noqa: N802
        requirements = [one for one in arguments if not one.startswith("-")]
        if "-r" in arguments:
            requirements = [Path(arguments[-1]).read_text(encoding="utf-8")]
        self.calls.append((arguments, environment, requirements))
        if self.failing and self.failing in str(requirements):
            log("ERROR: No matching distribution found")
            log("WARNING: and more")
            completed(False)
            return
        for package in PACKAGES:
            if any(package.requirement in text for text in requirements):
                self.there.add(package.module)
        self.waiting.append(lambda: completed(True))

    def finish(self):
        while self.waiting:
            self.waiting.pop(0)()


@pytest.fixture
def tools():
    return Tools()


def installing(tools, folder):
    installer = Installer(tools, folder, tools.find, tools.version)
    ends, progress = [], []
    installer.finished.connect(ends.append)
    installer.progress.connect(progress.append)
    return installer, ends, progress


def test_missing_packages_are_looked_for_and_not_imported(tools):
    import sys

    before = set(sys.modules)
    assert [one.module for one in install.missing(tools.find)] == [
        "torch",
        "hydra",
        "iopath",
        "tqdm",
        "safetensors",
        "wheel",
        "sam2",
    ]
    install.missing()
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("torch", "sam2")}


def test_what_only_builds_sam2_is_not_missing_once_that_is_there(tools):
    tools.there |= {"torch", "hydra", "iopath", "tqdm", "safetensors", "sam2"}
    assert install.missing(tools.find) == ()
    assert install.bannerText(()) == ""


@pytest.mark.parametrize(
    ("found", "isOld"),
    [
        ("2.4.1+cu121", True),
        ("2.5", True),
        ("1.13.1", True),
        ("2.5.1", False),
        ("2.5.1+cpu", False),
        ("2.10.0", False),
        ("3.0.0a0+gitabc", False),
        ("unknown", False),
        (None, False),
    ],
)
def test_a_torch_that_is_too_old_is_told_without_importing_it(tools, found, isOld):  # noqa: N803
    tools.there |= {package.module for package in PACKAGES}
    tools.torch = found
    needed = install.missing(tools.find, tools.version)
    assert [one.wanted for one in needed] == (["torch 2.5.1 or newer"] if isOld else [])
    banner = install.bannerText(needed)
    if isOld:
        assert banner.startswith(f"torch {found} is too old; 2.5.1 or newer is needed.")
        assert "“PyTorch”" in banner and "Not installed" not in banner
        assert f"replaces version {found}" in install.consentText(needed)
        tools.there.remove("hydra")
        both = install.bannerText(install.missing(tools.find, tools.version))
        assert both.startswith("Not installed yet: hydra-core. torch")
    else:
        assert banner == ""


@pytest.mark.parametrize("after", ["2.8.0", "2.4.1"])
def test_a_torch_that_is_too_old_is_replaced_through_its_extension(tools, tmp_path, after):
    tools.there |= {package.module for package in PACKAGES}
    tools.torch, tools.torchAfter = "2.4.1", after
    installer, ends, _ = installing(tools, tmp_path)
    installer.start()
    assert tools.calls == [("torch", ">=2.5.1")]
    assert ends[0].isComplete == (after == "2.8.0")
    assert ends[0].isComplete or "Still missing after the installation: torch 2.5.1 or newer" in ends[0].text


def test_the_user_is_told_what_from_where_and_how_large(tools):
    text = install.consentText(install.missing(tools.find))
    for words in ("PyTorch", "3 GB", "hydra-core, iopath", "SAM 2", "SHA-256", "Package Index", "MB"):
        assert words in text
    assert "hydra-core" in install.bannerText(install.missing(tools.find))


def test_packages_have_the_names_that_pip_knows():
    assert {"torch", "hydra-core", "pillow", "opencv-python-headless", "wheel", "sam2"} < {
        one.name for one in PACKAGES
    }


def test_everything_is_installed_in_order(tools, tmp_path):
    installer, ends, progress = installing(tools, tmp_path)
    installer.start()
    assert installer.isRunning and ends == []
    installer.start()  # pressed twice
    tools.finish()
    assert ends[0].isComplete and not installer.isRunning and len(ends) == 1
    assert progress == [
        "Installing PyTorch … (step 1 of 3)",
        "Installing small packages … (step 2 of 3)",
        "Installing SAM 2 … (step 3 of 3)",
    ]
    assert tools.calls[0] == ("torch", ">=2.5.1")
    assert all(">=" in one or one == "wheel" for one in tools.calls[1][2])
    assert not any("torch" in str(call[2]) for call in tools.calls[1:]), "torch only through its extension"


def test_sam2_is_built_without_cuda_without_a_second_torch_and_checked(tools, tmp_path):
    installer, _, _ = installing(tools, tmp_path)
    installer.start()
    tools.finish()
    arguments, environment, requirements = tools.calls[-1]
    assert environment == {"SAM2_BUILD_CUDA": "0"}
    assert {"--no-build-isolation", "--no-deps", "--require-hashes"} <= set(arguments)
    assert "sam2==1.1.0 --hash=sha256:" in requirements[0]
    assert list(tmp_path.iterdir()) == []


def test_the_pin_is_that_of_the_tests():
    pinned = Path(__file__).resolve().parents[2] / "requirements" / "sam2.txt"
    assert install.SAM2_REQUIREMENT in pinned.read_text(encoding="utf-8")


@pytest.mark.parametrize("failing", ["extension", "torch", "hydra", "sam2=="])
def test_a_failure_says_why_and_can_be_tried_again(tools, tmp_path, failing):
    tools.failing = failing
    installer, ends, _ = installing(tools, tmp_path)
    installer.start()
    tools.finish()
    (end,) = ends
    assert not end.isComplete and not installer.isRunning
    assert "Slicer keeps working" in end.text and "press Install again" in end.text
    if failing in ("hydra", "sam2=="):
        assert "No matching distribution" in end.text and end.log
    assert list(tmp_path.iterdir()) == []
    tools.failing = ""
    installer.start()
    tools.finish()
    assert ends[-1].isComplete


def test_a_tool_that_throws_anything_leaves_a_panel_that_works(tools, tmp_path):
    installer, ends, _ = installing(tools, tmp_path)
    tools.installTorch = lambda *_: 1 / 0
    installer.start()
    assert "division by zero" in ends[0].text and not installer.isRunning


def test_what_is_still_missing_afterwards_is_named(tools, tmp_path):
    tools.installTorch = lambda version, log, completed: completed(True)
    installer, ends, _ = installing(tools, tmp_path)
    installer.start()
    tools.finish()
    assert "Still missing" in ends[0].text and "torch" in ends[0].text


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            (
                "ERROR: Could not find a version that satisfies the requirement wheel (from versions: none)",
                "ERROR: No matching distribution found for wheel",
                "[notice] A new release of pip is available",
                "Command '['PythonSlicer', '-m', 'pip']' returned non-zero exit status 1.",
            ),
            "failed: No matching distribution found for wheel. Slicer",
        ),
        (
            (
                "  error: subprocess-exited-with-error",
                "error: metadata-generation-failed",
                "× Encountered error while generating package metadata.",
                "note: This is an issue with the package mentioned above, not pip.",
                "hint: See above for details.",
            ),
            "failed: Encountered error while generating package metadata. Slicer",
        ),
        (
            ("OSError: [Errno 28] No space left on device", "Command 'pip' returned non-zero exit status 2."),
            "failed: OSError: [Errno 28] No space left on device. Slicer",
        ),
        (("Command 'pip' returned non-zero exit status 2.",), "non-zero exit status 2. Slicer"),
        ((), "failed: no reason was given. Slicer"),
    ],
)
def test_the_reason_is_what_pip_said_last_of_it(tools, tmp_path, lines, reason):
    def pip(arguments, environment, log, completed):
        for line in lines:
            log(line)
        completed(False)

    tools.pipInstall = pip
    installer, ends, _ = installing(tools, tmp_path)
    # What went well before is no reason.
    tools.installTorch = lambda version, log, completed: (log("ERROR: a conflict"), completed(True))
    installer.start()
    assert reason in ends[0].text
    assert ends[0].log[-len(lines) :] == lines or not lines


def test_replaced_packages_ask_for_a_new_start_of_slicer(tools, tmp_path):
    installer, ends, _ = installing(tools, tmp_path)
    torch = tools.installTorch

    def install_torch(version, log, completed):
        log("    Found existing installation: numpy 1.26.4")
        log("      Successfully uninstalled numpy-1.26.4")
        torch(version, log, completed)

    tools.installTorch = install_torch
    installer.start()
    tools.finish()
    assert ends[0].isComplete
    assert "Replaced: numpy. Restart Slicer." in ends[0].text
