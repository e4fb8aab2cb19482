"""The identity of a photo file under any name: its real path, its entry in the file system, and its content.

Size, modification time and change time (`st_ctime`) say that a file is unchanged, at the cost of one call per file and without
reading it: a program can set the modification time back, but not the change time. Only a file of the same size with other times is
read, to compare its content. On Windows, `st_ctime` is the time of creation: a change in place that keeps size and modification time
is not noticed there.
"""

from __future__ import annotations

import hashlib
import os
import stat as modes
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Found", "RealPaths", "content_digest", "is_missing", "looks_unmounted"]


@dataclass(frozen=True)
class Found:
    """A photo file that a run of `index` found.

    Attributes:
        path: its real path.
        source: real path of the folder that was searched, or of the one that contains a file that was named explicitly.
    """

    path: Path
    source: Path


class RealPaths:
    """Real paths of many files: every folder is resolved once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: Path) -> Path:
        folder, name = os.path.split(os.path.abspath(path))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        place = os.path.join(self._folders[folder], name)
        return Path(os.path.realpath(place) if os.path.islink(place) else place)


def content_digest(path: Path) -> bytes:
    """16 bytes that differ if the content of two files does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def is_missing(path: Path) -> bool:
    """Whether there is no such file. A file that cannot be accessed (permissions, a failing disk) does not count as missing."""
    try:
        return not modes.S_ISREG(path.stat().st_mode) and not path.exists()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False


def looks_unmounted(path: Path) -> bool:
    """Whether the nearest folder above a missing file that exists is empty, as that of a disk that is not mounted."""
    for folder in path.parents:
        try:
            with os.scandir(folder) as items:
                return next(items, None) is None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
    return False
