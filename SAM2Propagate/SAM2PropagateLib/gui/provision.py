"""What the worker needs, on this computer and on a server, and how it is got."""

from __future__ import annotations

from dataclasses import dataclass

from SAM2PropagateLib.app.server_jobs import ServerJobs
from SAM2PropagateLib.gui.install import Installer
from SAM2PropagateLib.gui.model_list import ModelList


@dataclass(frozen=True)
class Provision:
    """Models, packages and servers.

    Attributes:
        models: what can be loaded, and downloads. installer: the packages of this computer.
        server: the chosen computer, and setting up a server.
    """

    models: ModelList
    installer: Installer
    server: ServerJobs
