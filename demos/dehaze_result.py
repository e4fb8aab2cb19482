"""What the haze page makes of an upload: the image before and after, as a download, and in words."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionzoo.errors import writing
from visionzoo.io.image import ImageError, load_image

from ..models.dehazexl.placement import StreamOptions
from ..models.dehazexl.tiles import SHIFT, Grid
from ..pipelines.dehaze.pipeline import DehazePipeline
from .uploads import path_of, without_path
from .words import duration, plain

MIN_SIDE = 16
"""Pixels of the shorter side of an upload; the network has one token per 32 x 32."""
Report = Callable[[int, int, str], object]
"""Called with (tiles done, of, what is being done)."""
SHOWN_SIDE = 2048
"""Longest side of the pictures in the slider."""


@dataclass(frozen=True)
class Removed:
    """A picture before and after.

    Attributes:
        hazy, clear: (H, W, 3) uint8.
        name: of the download, without ending.
        tiles: that went through the network; all of both grids with blending.
        seconds: that took.
    """

    hazy: np.ndarray
    clear: np.ndarray
    name: str
    tiles: int
    seconds: float


def read(upload: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8 of an upload. Raises `ImageError`, without a path, if it cannot be used."""
    path = path_of(upload)
    try:
        picture = load_image(path)
    except ImageError as error:
        raise ImageError(without_path(str(error), str(path))) from error
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{width} x {height} pixels is too small to recognise haze; each side needs at least {MIN_SIDE} pixels"
        )
    return picture


def remove(pipe: DehazePipeline, upload: dict[str, Any], blend: bool, report: Report | None = None) -> Removed:
    """Remove the haze of an upload.

    Args:
        report: see `Report`.

    Raises:
        InputError: the upload cannot be used.
    """
    picture = read(upload)
    height, width = picture.shape[:2]
    grids = tuple(Grid(height, width, offset).count for offset in ((0, SHIFT) if blend else (0,)))
    started = time.perf_counter()
    clear = pipe.restore(picture, StreamOptions(blend=blend), TileCount(grids, report or (lambda done, of, what: None)))
    seconds = time.perf_counter() - started
    stem = Path(str(upload.get("orig_name") or "picture")).stem
    name = "".join(letter for letter in stem if letter.isalnum() or letter in " -_.()")[:80].strip(" .")
    return Removed(picture, clear, f"{name or 'picture'}_clear", sum(grids), seconds)


class TileCount:
    """Reports the tiles that are done over both passes and all grids; a tile counts when it has been encoded and decoded.

    Args:
        grids: tiles of each grid.
    """

    def __init__(self, grids: tuple[int, ...], report: Report):
        self.grids, self.report = grids, report
        self._grid = -1

    def __call__(self, step: str, done: int, of: int) -> None:
        self._grid += step == "encode" and done == 0
        before, here, total = sum(self.grids[: self._grid]), self.grids[self._grid], sum(self.grids)
        if step == "encode":
            self.report(before + done // 2, total, "tiles: reading")
        elif step == "attend":
            self.report(before + here // 2, total, "tiles: joining")
        else:
            self.report(before + (here + done) // 2, total, "tiles: clearing")


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 with at most `side` pixels a side."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def save(removed: Removed, folder: str | Path) -> Path:
    """The full-size result as a PNG file in a new folder within `folder`, whose name nobody can guess."""
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=folder)) / f"{removed.name}.png"
        Image.fromarray(removed.clear).save(path, compress_level=3)
    return path


def show(removed: Removed, pipe: DehazePipeline) -> str:
    """What was done, as HTML."""
    height, width = removed.clear.shape[:2]
    megapixels = width * height / 1e6
    device = "the CPU" if pipe.device.type == "cpu" else "the GPU"
    small = (
        f" The slider shows both reduced to {SHOWN_SIDE} pixels; the download has full size."
        if max(height, width) > SHOWN_SIDE
        else ""
    )
    return (
        f'<div class="vz-done"><strong>{width} x {height} pixels</strong> <span>{megapixels:.2f} megapixels in '
        f"{duration(removed.seconds)} on {device} ({duration(removed.seconds / megapixels)} per megapixel), "
        f"{removed.tiles} {'tile' if removed.tiles == 1 else 'tiles'}, by {plain(pipe.name)}</span>"
        f"<p>Left of the line: before. Right: after.{small}</p></div>"
    )


__all__ = ["MIN_SIDE", "SHOWN_SIDE", "Removed", "read", "reduced", "remove", "save", "show"]
