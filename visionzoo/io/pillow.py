"""Image files opened by Pillow, whose many kinds of errors become one line that names the file."""

from __future__ import annotations

import threading
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import InputError

_pillow_limit = threading.Lock()


class ImageError(InputError):
    """An image that cannot be used. The message names the file and the fix."""


def opened(source: Any, name: str) -> Image.Image:
    """An image of any size, of which only the header has been read.

    Args:
        source: a path or an open binary file.
        name: what errors call it.

    Raises:
        ImageError: not an image, missing, or damaged.
    """
    try:
        with _pillow_limit:  # our own limit is checked by the caller, with our own words
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(source)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read (wrong type, or damaged at its start)") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own, about the file's content
            raise ImageError(f"{name}: damaged or truncated image ({error})") from error
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
    except (SyntaxError, ValueError, MemoryError, OverflowError) as error:
        raise ImageError(f"{name}: damaged image ({error})") from error
