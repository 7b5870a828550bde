"""A slow line for ssh: `ProxyCommand python slow_line.py HOST PORT --round-trip-ms 20 --mbit 20`.

It passes bytes on between its streams and a connection, each way late by half the round trip and at most so
many bits a second, as a line of that kind does; what is on its way is bounded, so that a sender has to wait.
"""

from __future__ import annotations

import argparse
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable

_PIECE_BYTES = 8 << 10
# What may wait for its turn, each way; a router's buffer.
_PIECES = 32


class OneWay:
    """One direction.

    Args:
        read: gives the next bytes, b"" at the end. write: takes them.
        delay: in seconds. rate: in bytes a second.
    """

    def __init__(
        self, read: Callable[[], bytes], write: Callable[[bytes], None], delay: float, rate: float
    ) -> None:
        self._read = read
        self._write = write
        self._delay = delay
        self._rate = rate
        self._waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_PIECES)

    def run(self) -> None:
        """Pass everything on until the end."""
        threading.Thread(target=self._take, daemon=True).start()
        while True:
            due, piece = self._waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._write(piece)
            if not piece:
                return

    def _take(self) -> None:
        free = time.monotonic()
        while True:
            piece = self._read()
            # The line carries one piece after the other.
            free = max(free, time.monotonic()) + len(piece) / self._rate
            time.sleep(max(0.0, free - time.monotonic()))
            self._waiting.put((free + self._delay, piece))
            if not piece:
                return


def main() -> None:
    """Be the line."""
    parser = argparse.ArgumentParser(description="A slow line.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--round-trip-ms", type=float, default=20.0)
    parser.add_argument("--mbit", type=float, default=20.0)
    given = parser.parse_args()
    delay, rate = given.round_trip_ms / 2e3, given.mbit * 1e6 / 8
    far = socket.create_connection((given.host, given.port))
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def to_far(piece: bytes) -> None:
        far.sendall(piece) if piece else far.shutdown(socket.SHUT_WR)

    def to_near(piece: bytes) -> None:
        while piece:
            piece = piece[os.write(1, piece) :]

    out = OneWay(lambda: os.read(0, _PIECE_BYTES), to_far, delay, rate)
    back = OneWay(lambda: far.recv(_PIECE_BYTES), to_near, delay, rate)
    threading.Thread(target=out.run, daemon=True).start()
    back.run()


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(str(error))
