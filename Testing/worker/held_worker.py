"""`python -m Testing.worker.held_worker`: a worker with the real engine whose runs wait.

A test that kills or cancels amid a run needs a run that is there, however busy the machine is. The
environment variable SAM2PROPAGATE_HOLD is a JSON object as `hold` in the scripts of `fake_engine`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.worker.command import WorkerCommand
from SAM2PropagateLib.worker.engine_adapter import ServedEngine
from SAM2PropagateLib.worker.engine_port import Crop, Engine, Mask, ServedSession
from Testing.worker.fake_engine import wait_for_file
from Testing.worker.helpers import command_of
from Testing.worker.small_worker import SmallEngine, serve_engine

HOLD_VARIABLE = "SAM2PROPAGATE_HOLD"


def held_command(after: int, until: Path, is_small: bool = False) -> WorkerCommand:
    """The command of a real worker. Its runs wait after `after` masks until the file `until` exists.

    Args:
        is_small: the model's input is smaller, as in `small_worker`.
    """
    hold = json.dumps({"after": after, "until": str(until), "is_small": is_small})
    return command_of("Testing.worker.held_worker", **{HOLD_VARIABLE: hold})


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
    hold = json.loads(os.environ[HOLD_VARIABLE])
    engine = SmallEngine() if hold.pop("is_small") else ServedEngine()
    serve_engine(_HeldEngine(engine, **hold))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
