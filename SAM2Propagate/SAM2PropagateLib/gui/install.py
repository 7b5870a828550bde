"""Finds missing packages and installs them: from where, in which order, and with a reason if it fails.

The caller hands in how packages are installed (`PackageTools`), and the user has agreed to `consentText`
before. Packages are looked for without being imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.releases import OLDEST_TORCH, release
from SAM2PropagateLib.texts import tr as _

TORCH, REGISTRY, SAM2 = "torch", "registry", "sam2"

# Published by a third party; its code under sam2/ is identical to Meta's last public version (2024-12-15).
SAM2_REQUIREMENT = (
    "sam2==1.1.0 --hash=sha256:7e0ea252d43c10d853e3acfce0b5770ac683c30481bd6de311300e9d44f45b74"
)
SAM2_OPTIONS = ("--no-build-isolation", "--no-deps", "--require-hashes")
# Without this its build looks for a CUDA compiler, and downloads a second torch.
SAM2_ENVIRONMENT = {"SAM2_BUILD_CUDA": "0"}
TORCH_VERSION = f">={OLDEST_TORCH}"

# Beginnings of pip's lines that say why it failed, and of lines that never do.
_WRONG = re.compile(r"(?:error:|×)\s*", re.IGNORECASE)
_BESIDES = ("pip install ", "[notice]", "warning:", "note:", "hint:", "command ", "calledprocesserror")

Log = Callable[[str], None]
Completed = Callable[[bool], None]


@dataclass(frozen=True)
class Package:
    """A package that the worker needs.

    Attributes:
        module: what is imported. requirement: as pip takes it. way: how it is installed: `TORCH`, `REGISTRY`
            or `SAM2`. megabytes: to download, about.
        found: the version that is there and too old; "" if there is none.
    """

    module: str
    requirement: str
    way: str
    megabytes: int
    found: str = ""

    @property
    def name(self) -> str:
        """The package's name as pip knows it."""
        return re.split(r"[<>=]", self.requirement, maxsplit=1)[0]

    @property
    def wanted(self) -> str:
        """The package as the user reads it, with the version if another one is there."""
        if not self.found:
            return self.name
        return _("{name} {version} or newer").format(name=self.name, version=OLDEST_TORCH)


PACKAGES = (
    Package("torch", "torch" + TORCH_VERSION, TORCH, 200),
    Package("hydra", "hydra-core>=1.3.2", REGISTRY, 1),
    Package("iopath", "iopath>=0.1.10", REGISTRY, 1),
    Package("tqdm", "tqdm>=4.66", REGISTRY, 1),
    Package("PIL", "pillow>=9.4", REGISTRY, 7),
    Package("safetensors", "safetensors>=0.4.3", REGISTRY, 1),
    Package("scipy", "scipy>=1.10", REGISTRY, 40),
    Package("cv2", "opencv-python-headless>=4.8", REGISTRY, 60),
    Package("setuptools", "setuptools>=61", REGISTRY, 2),
    Package("wheel", "wheel", REGISTRY, 1),
    Package("sam2", SAM2_REQUIREMENT, SAM2, 1),
)


def findPackage(name: str) -> Any:
    """Returns a package's import spec, without importing it; None if it is not installed."""
    return importlib.util.find_spec(name)


def missing(
    find: Callable[[str], Any] = findPackage,
    version: Callable[[str], str] = importlib.metadata.version,
) -> tuple[Package, ...]:
    """Returns the packages that this Python lacks, and torch if it is too old, without importing any.

    Args:
        find: returns a module's spec, or None. version: returns a package's version, or raises
            PackageNotFoundError.
    """
    needed = []
    for one in PACKAGES:
        if not _isThere(one.module, find):
            needed.append(one)
        elif one.way == TORCH and (found := _tooOld(one.name, version)):
            needed.append(replace(one, found=found))
    # Packages that only build SAM 2 are not needed once it is installed.
    if not any(one.way == SAM2 for one in needed):
        needed = [one for one in needed if one.module not in ("setuptools", "wheel")]
    return tuple(needed)


def _tooOld(package: str, version: Callable[[str], str]) -> str:
    """Returns torch's version if it is too old; "" if it is new enough, or the version is unknown."""
    try:
        found = version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""  # it may have been built on this computer
    return found if release(found) < release(OLDEST_TORCH) else ""


def _isThere(module: str, find: Callable[[str], Any]) -> bool:
    try:
        return find(module) is not None
    except (ImportError, ValueError):
        return False


def bannerText(needed: Sequence[Package]) -> str:
    """Returns the banner's sentences; "" when nothing is missing."""
    absent = [one for one in needed if not one.found]
    texts = []
    if absent:
        texts.append(_("Not installed yet: {names}.").format(names=", ".join(one.name for one in absent)))
    for one in needed:
        if one.found:
            texts.append(
                _(
                    "{name} {found} is too old; {oldest} or newer is needed. Install gets it "
                    "through the extension “PyTorch”; if that fails, uninstall and install it in "
                    "the module “PyTorch Util”. Then restart Slicer."
                ).format(name=one.name, found=one.found, oldest=OLDEST_TORCH)
            )
    return " ".join(texts)


def consentText(needed: Sequence[Package]) -> str:
    """Returns what will be installed, from where and how large, for the user to agree to."""
    lines = [_("This will be installed into Slicer's own Python:"), ""]
    if any(one.way == TORCH for one in needed):
        lines.append(
            _(
                "• PyTorch, through the extension “PyTorch”, which chooses the build for this computer: "
                "about 200 MB for the processor alone, up to 3 GB with CUDA"
            )
        )
    lines += [
        _("  (replaces version {version}, for all of Slicer)").format(version=one.found)
        for one in needed
        if one.found
    ]
    registry = [one for one in needed if one.way == REGISTRY]
    if registry:
        lines.append(
            _("• {names}, and what these need, from the Python Package Index: about {mb} MB").format(
                names=", ".join(one.name for one in registry), mb=sum(one.megabytes for one in registry)
            )
        )
    if any(one.way == SAM2 for one in needed):
        lines.append(
            _(
                "• SAM 2 (Meta, Apache License 2.0), from the Python Package Index, checked by its SHA-256: "
                "less than 1 MB"
            )
        )
    lines += ["", _("The model comes with the extension. Nothing else is downloaded.")]
    return "\n".join(lines)


class PackageTools(Protocol):
    """Installs packages. A call returns at once or when it has finished, and calls `completed` at the end,
    with whether it succeeded.
    """

    def installTorch(self, version: str, log: Log, completed: Completed) -> None:
        """Installs torch through the PyTorch extension.

        Raises:
            SAM2PropagateError: `no_pytorch_extension`.
        """
        ...

    def pipInstall(
        self, arguments: list[str], environment: dict[str, str], log: Log, completed: Completed
    ) -> None:
        """Runs `pip install` with these arguments and environment variables."""
        ...


@dataclass(frozen=True)
class InstallEnd:
    """The end of an installation.

    Attributes:
        isComplete: whether everything is installed now. text: for the user. log: all lines.
    """

    isComplete: bool
    text: str
    log: tuple[str, ...]


class Installer:
    """Installs missing packages step by step.

    Args:
        tools: install the packages.
        folder: for a temporary requirements file, which holds the checksum.
        find, version: see `missing`.
        isElsewhere: whether the worker runs on a server, where this Python does not matter.

    Signals:
        progress (a sentence), logged (a line), finished (`InstallEnd`).
    """

    def __init__(
        self,
        tools: PackageTools,
        folder: Path,
        find: Callable[[str], Any] = findPackage,
        version: Callable[[str], str] = importlib.metadata.version,
        isElsewhere: Callable[[], bool] = lambda: False,
    ) -> None:
        self.progress: Signal[str] = Signal()
        self.logged: Signal[str] = Signal()
        self.finished: Signal[InstallEnd] = Signal()
        self._tools = tools
        self._folder = folder
        self._missing = lambda: missing(find, version)
        self._isElsewhere = isElsewhere
        self._steps: list[tuple[str, Callable[[], None]]] = []
        self._log: list[str] = []
        self._begun = 0
        self._isRunning = False
        self._isComplete = False
        self._count = 0

    def needed(self) -> tuple[Package, ...]:
        """Returns the packages that the worker needs and this Python lacks. Once nothing is missing, it does
        not look again."""
        if self._isElsewhere():
            return ()
        needed = () if self._isComplete else self._missing()
        self._isComplete = not needed
        return needed

    @property
    def isRunning(self) -> bool:
        """Whether an installation is under way."""
        return self._isRunning

    def start(self) -> None:
        """Begins the installation; the user has agreed to `consentText`. Does nothing while one is
        running."""
        if self._isRunning:
            return
        needed = self._missing()
        self._log, self._steps = [], []
        if any(one.way == TORCH for one in needed):
            self._steps.append((_("Installing PyTorch …"), self._torch))
        registry = [one.requirement for one in needed if one.way == REGISTRY]
        if registry:
            self._steps.append(
                (_("Installing small packages …"), lambda: self._pip(["--prefer-binary", *registry], {}))
            )
        if any(one.way == SAM2 for one in needed):
            self._steps.append((_("Installing SAM 2 …"), self._sam2))
        self._count = len(self._steps)
        self._isRunning = True
        self._next()

    def _next(self) -> None:
        if not self._steps:
            self._end()
            return
        text, step = self._steps.pop(0)
        number = self._count - len(self._steps)
        self._begun = len(self._log)
        self.progress.emit(
            _("{text} (step {number} of {count})").format(text=text, number=number, count=self._count)
        )
        try:
            step()
        except SAM2PropagateError as error:
            self._fail(str(error))
        except Exception as error:  # an error of pip or another extension must not leave the panel stuck
            self._line(f"{type(error).__name__}: {error}")
            self._completed(False)

    def _torch(self) -> None:
        self._tools.installTorch(TORCH_VERSION, self._line, self._completed)

    def _pip(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._tools.pipInstall(arguments, environment, self._line, self._completed)

    def _sam2(self) -> None:
        file = self._folder / "SAM2PropagateRequirements.txt"
        file.write_text(SAM2_REQUIREMENT + "\n", encoding="utf-8")

        def completed(isDone: bool) -> None:
            file.unlink(missing_ok=True)
            self._completed(isDone)

        try:
            self._tools.pipInstall(
                [*SAM2_OPTIONS, "-r", str(file)], dict(SAM2_ENVIRONMENT), self._line, completed
            )
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _completed(self, isDone: bool) -> None:
        if not self._isRunning:
            return
        if isDone:
            self._next()
            return
        self._fail(_("The installation failed: {reason}").format(reason=self._reason()))

    def _reason(self) -> str:
        """Returns pip's last reason for the failure of the present step."""
        lines = [line.strip() for line in self._log[self._begun :] if line.strip()]
        wrong = [line[match.end() :] for line in lines if (match := _WRONG.match(line))]
        telling = [line for line in lines if not line.lower().startswith(_BESIDES)]
        return next((said[-1] for said in (wrong, telling, lines) if said), _("no reason was given"))

    def _replaced(self) -> str:
        """Returns a sentence on replaced packages, whose old versions Slicer may have loaded."""
        found = [re.match(r"\s*Successfully uninstalled (\S+)-\d", line) for line in self._log]
        names = sorted({match.group(1) for match in found if match is not None})
        if not names:
            return ""
        return _("Replaced: {names}. Restart Slicer.").format(names=", ".join(names))

    def _line(self, line: str) -> None:
        self._log.append(line)
        self.logged.emit(line)

    def _fail(self, text: str) -> None:
        hint = _(
            "Slicer keeps working. Check the network and the disk space, then press Install again to "
            "continue with what is missing. The log says more."
        )
        self._finish(InstallEnd(False, f"{text.rstrip('.')}. {hint}", tuple(self._log)))

    def _end(self) -> None:
        importlib.invalidate_caches()
        left = self._missing()
        if left:
            names = ", ".join(one.wanted for one in left)
            self._fail(_("Still missing after the installation: {names}").format(names=names))
            return
        text = _("Everything is installed. The first click starts the worker.")
        text = f"{text} {self._replaced()}".rstrip()
        self._finish(InstallEnd(True, text, tuple(self._log)))

    def _finish(self, end: InstallEnd) -> None:
        self._isRunning = False
        self._steps.clear()
        self.finished.emit(end)
