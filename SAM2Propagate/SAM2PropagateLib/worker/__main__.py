"""`python -m SAM2PropagateLib.worker`: a worker that speaks the protocol on stdin and stdout.

With `--remote` (`remote.REMOTE_OPTION`) its client is on another computer. The worker then ends itself after
a long silence, as a connection may break without either end noticing.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Serve with the real engine until the client has finished or is gone."""
    if sys.version_info < (3, 10):  # noqa: UP036  pip refuses it, a copied library does not
        sys.stderr.write("Python {}.{}, 3.10 or newer is needed\n".format(*sys.version_info[:2]))
        sys.exit(98)  # remote.OLD_PYTHON, which cannot be imported then
    from SAM2PropagateLib.worker.stdio import claim_streams

    inbound, outbound = claim_streams()
    # Imported only now, so that nothing that they print can reach the client.
    from SAM2PropagateLib.worker.engine_adapter import ServedEngine
    from SAM2PropagateLib.worker.remote import REMOTE_OPTION
    from SAM2PropagateLib.worker.server import serve

    code = serve(ServedEngine(), inbound, outbound, is_remote=REMOTE_OPTION in sys.argv[1:])
    sys.stderr.flush()
    # Threads of libraries must not keep a finished worker alive.
    os._exit(code)


if __name__ == "__main__":
    main()
