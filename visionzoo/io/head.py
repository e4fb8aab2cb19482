"""Checks before a file is read: missing, a folder, unreadable, empty, a Git LFS pointer, a web page."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError

HEAD_BYTES = 512

_LFS = b"version https://git-lfs"
_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?(<!doctype\s+html|<html|<head|<body)", re.IGNORECASE | re.DOTALL
)
_SERVER_ERROR = re.compile(rb"(\xef\xbb\xbf)?\s*<\?xml[^>]*\?>\s*(<!DOCTYPE\s+html|<html|<Error\b)", re.IGNORECASE)


_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"jp2 ")
_VIDEOS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\0\0\1\xba", b"\0\0\1\xb3", b"OggS", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")


def content_of(head: bytes) -> str | None:
    """ "image" or "video", judged by the first bytes of a file; None if they do not tell."""
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[4:8] == b"ftyp":
        return "image" if head[8:12] in _IMAGE_BRANDS else "video"
    if head.startswith(_VIDEOS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    return None


def read_head(path: str | os.PathLike[str], expected: str, error: type[InputError] = InputError) -> bytes:
    """The first bytes of a file (at most `HEAD_BYTES`), after checking that it can be what a reader expects.

    Args:
        expected: what the file should be, with an article, e.g. "an image file".
        error: class of the error to raise.

    Raises:
        InputError: (as `error`) the file is missing, a folder, a pipe or device, not readable, empty, a Git LFS pointer, or
            a web page that was saved instead of the file.
    """
    path = Path(path)
    if "\0" in str(path):
        raise error(f"{str(path)!r}: no such file, expected {expected}")
    try:
        if path.is_dir():
            raise error(f"{path}: is a folder, expected {expected}")
        if path.exists() and not path.is_file():  # reading a pipe would block, and consume its content
            raise error(f"{path}: is not a regular file, expected {expected}; save it as a file first")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: no such file, expected {expected}") from None
    except PermissionError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}); check the permissions of the file") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    if not head:
        raise error(f"{path}: the file is empty (0 bytes), expected {expected}; copy or download it again")
    if head.startswith(_LFS):
        raise error(
            f"{path}: is a Git LFS pointer, expected {expected}; run `git lfs pull`, or download the file itself"
        )
    if _PAGE.match(head) or _SERVER_ERROR.match(head):
        raise error(f"{path}: is a web page, expected {expected}; download the file itself")
    return head
