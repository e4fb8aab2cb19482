"""Open image files with Pillow, whose many kinds of errors become one-line errors that name the file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from ..errors import InputError

_pillow_limit = threading.Lock()


class ImageError(InputError):
    """An image that cannot be used. The message names the file and the fix."""


def max_pixels() -> int:
    """Maximum number of pixels of a file, against decompression bombs; `VISIONZOO_MAX_PIXELS` overrides it."""
    return int(os.environ.get("VISIONZOO_MAX_PIXELS", 250_000_000))


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise `ImageError` if an image of this size exceeds `max_pixels()`."""
    if width * height > max_pixels():
        raise ImageError(
            f"{name}: {width} x {height} pixels is over the limit of {max_pixels() / 1e6:.0f} million; "
            "shrink it, or raise VISIONZOO_MAX_PIXELS if the file is trusted"
        )


def opened(source: Path | BinaryIO, name: str) -> Image.Image:
    """Open an image of any size; only the header is read.

    Args:
        source: a path or an open binary file.
        name: the name for the image in errors.

    Raises:
        ImageError: not an image, missing, or damaged.
    """
    with decoding(name):
        try:
            with _pillow_limit:  # the caller checks our own limit
                limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                try:
                    return Image.open(source)
                finally:
                    Image.MAX_IMAGE_PIXELS = limit
        except UnidentifiedImageError:
            raise ImageError(f"{name}: {_refusal(source)}") from None


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn any exception that a decoder raises into an `ImageError` that names the file.

    Every exception is caught: Pillow's plug-ins raise SyntaxError, KeyError, struct.error, zlib.error, NotImplementedError
    and more for damaged or rare files, and one such file must not end a run over a folder.
    """
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except MemoryError as error:
        raise ImageError(f"{name}: its pixels do not fit in memory; shrink it first") from error
    except NotImplementedError as error:
        raise ImageError(
            f"{name}: an image of a kind that Pillow cannot decode ({_message(error)}); save it as PNG"
        ) from error
    except OSError as error:
        if error.errno is None:  # Pillow's own errors about the content have no errno
            raise ImageError(f"{name}: damaged or truncated image ({_message(error)})") from error
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise ImageError(f"{name}: damaged or truncated image ({_message(error)})") from error


def pillow_reads_correctly(image: Image.Image) -> bool:
    """Whether Pillow decodes the values of this TIFF correctly.

    It silently misreads planar 16-bit values (only the low byte), inverted 16-bit grey (a negative), 9 to 15 bits (too dark)
    and more, so only kinds that are known to be right are accepted.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None or 262 not in tags:
        return False
    bits, samples, kind = max(tags.get(258, (1,))), int(tags.get(277, 1)), int(tags[262])
    if set(tags.get(339, (1,))) != {1}:
        return bits == 32 and samples == 1 and kind == 1
    if bits == 16:
        return kind == 1 if samples == 1 else kind == 2 and tags.get(284, 1) == 1
    return bits in (1, 2, 4, 8) and kind in (0, 1, 2, 3, 5, 6, 8)


def _message(error: Exception) -> str:
    """An exception's message on one line; its class if the message is empty or only a key."""
    text = " ".join(str(error).split())
    return text if " " in text else f"{type(error).__name__}: {text}".removesuffix(": ")


_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"avif": "AVIF",
    b"crx ": "a raw photo",
}
"""Major brands of ISO media files that hold images; all others are videos."""


def _refusal(source: Path | BinaryIO) -> str:
    """Why Pillow cannot identify a file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(512)
    else:
        source.seek(0)
        head = source.read(512)
    kind = None
    if head[4:8] == b"ftyp":
        kind = _BRANDS.get(head[8:12], "a video")
    elif head.startswith(b"\x1aE\xdf\xa3") or (head.startswith(b"RIFF") and head[8:11] == b"AVI"):
        kind = "a video"
    elif head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        kind = "JPEG XL"
    elif head.startswith(b"%PDF"):
        kind = "a PDF document"
    elif b"<svg" in head:
        kind = "an SVG drawing"
    if kind is not None:
        return f"is {kind}, which is not read as an image here; convert it to JPEG or PNG"
    return "not an image that can be read (wrong type, or damaged at its start)"
