"""What every page does with uploads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.io.image import ImageError, image_format, image_size

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
"""Pillow's names of the formats that an upload may have: pixels only, nothing that is drawn by running it (EPS)."""


def path_of(upload: dict[str, Any]) -> Path:
    """The file of an upload, if it is an image of a format and size that a page takes.

    Raises:
        ImageError: it is not; the message names no path of this machine.
    """
    try:
        path = Path(upload["path"])
        width, height = image_size(path)
    except ImageError as error:
        raise ImageError(without_path(str(error), str(upload["path"]))) from error
    except (KeyError, TypeError) as error:
        raise ImageError("the upload no longer exists; upload it again") from error
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels is over this page's limit of {MAX_PIXELS / 1e6:.0f} million; shrink it first"
        )
    if image_format(path) not in FORMATS:
        raise ImageError("not of a format that this page takes; save it as JPEG, PNG or WebP")
    return path


def without_path(message: str, path: str) -> str:
    """An error about an upload, without its path."""
    return message.removeprefix(f"{path}: ").replace(path, "the upload")


def refuse_addresses(component: Any, what: str) -> None:
    """Let `component` take files only, not addresses that a client wants this server to fetch.

    Args:
        what: of the message, e.g. "photo".
    """
    vars(component)["async_move_resource_to_block_cache"] = partial(_refuse, component, what)


async def _refuse(component: Any, what: str, place: Any) -> str | None:
    if str(place).startswith(("http:", "https:")):
        raise gr.Error(f"upload the {what} itself; addresses are not downloaded", print_exception=False)
    return await type(component).async_move_resource_to_block_cache(component, place)


__all__ = ["FORMATS", "MAX_PIXELS", "path_of", "refuse_addresses", "without_path"]
