"""`python -m Testing.worker.fake_worker`: a real worker process with the fake engine.

The environment variable SAM2PROPAGATE_FAKE holds its script, see `fake_engine`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

SCRIPT_VARIABLE = "SAM2PROPAGATE_FAKE"


def main(engine: Callable[[Any, Any], Any] | None = None) -> None:
    """Serves until the end of the requests.

    Args:
        engine: makes the engine from its script and the stream of events; None: `FakeEngine`.
    """
    from SAM2PropagateLib.worker.stdio import claim_streams

    if os.environ.get("SAM2PROPAGATE_BANNER"):
        print(os.environ["SAM2PROPAGATE_BANNER"], flush=True)
    inbound, outbound = claim_streams()
    from SAM2PropagateLib.worker.remote import REMOTE_OPTION, SILENCE_SECONDS
    from SAM2PropagateLib.worker.server import serve
    from Testing.worker.fake_engine import FakeEngine

    script = json.loads(os.environ.get(SCRIPT_VARIABLE, "{}"))
    code = serve(
        (engine or FakeEngine)(script, outbound),
        inbound,
        outbound,
        is_remote=REMOTE_OPTION in sys.argv,
        silence_seconds=float(os.environ.get("SAM2PROPAGATE_SILENCE", SILENCE_SECONDS)),
    )
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
