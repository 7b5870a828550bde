"""Locks an open file against other processes. The system releases the lock when the file is closed."""

from __future__ import annotations

import errno
import sys
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def try_lock(file: IO[bytes], *, without_locks: bool = False) -> bool:
        """See below; file systems of Windows have locks."""
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(file: IO[bytes], *, without_locks: bool = False) -> bool:
        """Lock a file without waiting; return whether it is locked now, False if another process has it.

        Args:
            without_locks: the answer for a file system without locks, as some network file systems are.
        """
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return without_locks and error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
        return True
