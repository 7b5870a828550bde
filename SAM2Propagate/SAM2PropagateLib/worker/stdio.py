"""Takes stdin and stdout for the protocol before anything else can use them. Standard library only.

Afterwards, whatever Python or compiled code writes to descriptor 1 goes to stderr, and descriptor 0 is at its
end.
"""

from __future__ import annotations

import io
import os
import sys


def claim_streams() -> tuple[io.BufferedReader, io.BufferedWriter]:
    """Return the binary streams of the protocol: (from the client, to the client)."""
    inbound = os.dup(0)
    outbound = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if sys.stdout is not None:
        sys.stdout.flush()
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (inbound, outbound):
            msvcrt.setmode(descriptor, os.O_BINARY)
    # Not inherited by children, as the client would wait for their end, too.
    for descriptor in (inbound, outbound):
        os.set_inheritable(descriptor, False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    return open(inbound, "rb"), open(outbound, "wb")  # noqa: PTH123
