"""The results of the haze page: the image before and after, the download, and the summary."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionzoo.errors import writing
from visionzoo.io.image import ImageError, image_size, load_image
from visionzoo.jobs import Progress, silent

from ..models.dehazexl.placement import StreamOptions
from ..pipelines.dehaze.pipeline import DehazePipeline
from ..pipelines.dehaze.tile_count import TileCount
from .page import summary
from .uploads import IMAGE, check_image, checked_path, name_of
from .words import duration, file_stem

MIN_SIDE = 16
"""Smallest side of an upload in pixels; the network has one token per 32 x 32."""
ENOUGH_MEGAPIXELS = 0.25
"""Size from which the time per megapixel is shown; smaller ones are padded to whole tiles."""
SHOWN_SIDE = 2048
"""Longest side of the images in the slider."""


@dataclass(frozen=True)
class Removed:
    """An image before and after.

    Attributes:
        hazy, clear: (H, W, 3) uint8.
        name: name of the download without extension.
        tiles: number of tiles that went through the network; with blending, those of both grids.
        seconds: time that this took.
    """

    hazy: np.ndarray
    clear: np.ndarray
    name: str
    tiles: int
    seconds: float


def read(upload: Any) -> np.ndarray:
    """(H, W, 3) uint8 of an upload. Raises `InputError` if it cannot be used."""
    path = checked_path(upload, HAZY)
    return load_image(path)


def check_size(path: Path) -> None:
    """Raises `ImageError` unless the network can recognise haze in an image of this size."""
    check_image(path)
    width, height = image_size(path)
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{path}: {width} x {height} pixels is too small to recognise haze; each side needs at least {MIN_SIDE} pixels"
        )


HAZY = replace(IMAGE, check=check_size)


def remove(pipe: DehazePipeline, upload: Any, blend: bool, report: Progress = silent) -> Removed:
    """Remove the haze of an upload.

    Raises:
        InputError: the upload cannot be used.
    """
    image = read(upload)
    height, width = image.shape[:2]
    tiles = TileCount(height, width, blend, report, "removing haze from tiles")
    started = time.perf_counter()
    clear = pipe.restore(image, StreamOptions(blend=blend), tiles)
    seconds = time.perf_counter() - started
    return Removed(image, clear, f"{file_stem(name_of(upload), 'image')}_clear", tiles.total, seconds)


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 with at most `side` pixels a side."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def save(removed: Removed, folder: Path) -> Path:
    """The full-size result as a PNG file in a folder."""
    path = folder / f"{removed.name}.png"
    with writing(path):
        Image.fromarray(removed.clear).save(path, compress_level=3)
    return path


def show(removed: Removed, pipe: DehazePipeline) -> str:
    """The summary, as HTML."""
    height, width = removed.clear.shape[:2]
    megapixels = width * height / 1e6
    device = "the CPU" if pipe.device.type == "cpu" else "the GPU"
    small = (
        f" The slider shows both reduced to {SHOWN_SIDE} pixels; the download has full size."
        if max(height, width) > SHOWN_SIDE
        else ""
    )
    took = f"in {duration(removed.seconds)} on {device}"
    if megapixels >= ENOUGH_MEGAPIXELS:
        took = f"{megapixels:.2f} megapixels {took} ({duration(removed.seconds / megapixels)} per megapixel)"
    return summary(
        f"{width} x {height} pixels",
        took,
        f"{removed.tiles} {'tile' if removed.tiles == 1 else 'tiles'}",
        f"by {pipe.name}",
        below=f"Left of the line: before. Right: after.{small}",
    )


__all__ = ["HAZY", "MIN_SIDE", "SHOWN_SIDE", "Removed", "read", "reduced", "remove", "save", "show"]
