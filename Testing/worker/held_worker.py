"""`python -m Testing.worker.held_worker`: a worker with the real engine whose runs wait.

A test that kills or cancels amid a run needs a run that is there, however busy the machine is. The
environment variable SAM2PROPAGATE_HOLD is a JSON object as `hold` in the scripts of `fake_engine`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER, WorkerCommand, worker_command
from SAM2PropagateLib.worker.engine_port import Crop, Engine, Mask, ServedSession
from Testing.worker.fake_engine import wait_for_file

HOLD_VARIABLE = "SAM2PROPAGATE_HOLD"


def held_command(after: int, until: Path) -> WorkerCommand:
    """Start a real worker whose runs wait after `after` masks until the file `until` exists."""
    root = LIBRARY_FOLDER.parent
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(LIBRARY_FOLDER), str(root)]),
        HOLD_VARIABLE: json.dumps({"after": after, "until": str(until)}),
    }
    command = worker_command(sys.executable, module="Testing.worker.held_worker", base_env=env)
    return WorkerCommand(command.argv, command.env, root)


class _HeldEngine:
    """Pass all on to an engine; its sessions wait."""

    def __init__(self, engine: Engine, after: int, until: str) -> None:
        self._engine = engine
        self._after = after
        self._until = until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def open(self, frames: FrameStack, crop: Crop) -> ServedSession:
        return _HeldSession(self._engine.open(frames, crop), self)  # type: ignore[return-value]

    def wait(self, done: int, between: Callable[[float], None]) -> None:
        """Wait if this is the moment, cancellable and served as between any two frames."""
        if done >= self._after:
            wait_for_file(self._until, lambda: between(done))


class _HeldSession:
    def __init__(self, session: ServedSession, engine: _HeldEngine) -> None:
        self._session = session
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def propagate(
        self, run: RunRequest, on_frame: Callable[[Mask], None], between: Callable[[float], None]
    ) -> Mapping[str, Any]:
        done = 0

        def held(mask: Mask) -> None:
            nonlocal done
            on_frame(mask)
            done += 1
            self._engine.wait(done, between)

        return self._session.propagate(run, held, between)


def main() -> None:
    """Serve with the real engine, held."""
    from SAM2PropagateLib.worker.stdio import claim_streams

    inbound, outbound = claim_streams()
    from SAM2PropagateLib.worker.engine_adapter import ServedEngine
    from SAM2PropagateLib.worker.server import serve

    code = serve(_HeldEngine(ServedEngine(), **json.loads(os.environ[HOLD_VARIABLE])), inbound, outbound)  # type: ignore[arg-type]
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
