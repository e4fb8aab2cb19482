"""One writer at a time: advisory locks on open files."""

from __future__ import annotations

from types import ModuleType
from typing import IO, Any

try:
    import fcntl as _fcntl
except ImportError:  # Windows does not have these advisory locks
    _fcntl = None
fcntl: ModuleType | None = _fcntl

__all__ = ["lock_file"]


def lock_file(file: IO[Any]) -> bool:
    """Lock a file that is open for writing; False if another program holds the lock.

    The lock is released when the file is closed or the process dies. Where there are no locks (Windows, some file systems),
    nothing is locked.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the file system has no locks
    return True
