"""Groups what the worker needs, on this computer and on a server."""

from __future__ import annotations

from dataclasses import dataclass

from SAM2PropagateLib.app.server_jobs import ServerJobs
from SAM2PropagateLib.gui.install import Installer
from SAM2PropagateLib.gui.model_list import ModelList


@dataclass(frozen=True)
class Provision:
    """Models, packages and servers.

    Attributes:
        models: lists and downloads models. installer: installs packages on this computer.
        server: has the choice of the computer, and sets up a server.
    """

    models: ModelList
    installer: Installer
    server: ServerJobs
