"""`python -m SAM2PropagateLib.worker`: a worker that speaks the protocol on stdin and stdout."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Serve with the real engine until the client is done or gone."""
    from SAM2PropagateLib.worker.stdio import claim_streams

    inbound, outbound = claim_streams()
    # Only now, when nothing that these print can reach the client.
    from SAM2PropagateLib.worker.engine_adapter import SAM2Engine
    from SAM2PropagateLib.worker.server import serve

    code = serve(SAM2Engine(), inbound, outbound)
    sys.stderr.flush()
    # Threads of libraries must not keep a finished worker alive.
    os._exit(code)


if __name__ == "__main__":
    main()
