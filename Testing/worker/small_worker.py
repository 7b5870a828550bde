"""`python -m Testing.worker.small_worker`: a worker with the real engine and a small input.

It computes a frame in less than half of the time. For tests of what happens around the engine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from SAM2PropagateLib.worker.engine_adapter import ServedEngine
from SAM2PropagateLib.worker.engine_port import Engine, ReportProgress
from SAM2PropagateLib.worker.messages import LoadModel

INPUT_SIZE = 256


class SmallEngine(ServedEngine):
    """Load models for a small input."""

    def load_model(self, request: LoadModel, progress: ReportProgress) -> Mapping[str, Any]:
        return super().load_model(replace(request, input_size=INPUT_SIZE), progress)


def serve_engine(engine: Engine) -> None:
    """Serve until the client leaves, and end the process."""
    from SAM2PropagateLib.worker.server import serve
    from SAM2PropagateLib.worker.stdio import claim_streams

    code = serve(engine, *claim_streams())
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve_engine(SmallEngine())
