"""Read a TIFF of any kind as one array, for `load_image` and other readers of whole images."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import RasterError, Window
from .opening import open_raster


@dataclass(frozen=True)
class WholeImage:
    """An image in memory, and the meaning of its values.

    Attributes:
        pixels: (H, W, bands), upright, of the file's type in native byte order. Palette, CMYK, YCbCr and Lab are converted to
            RGB, inverted grey is inverted back, and 1 to 7 bits are scaled to uint8.
        colours: number of colour bands, which come first: 3 (RGB) or 1 (grey). Further bands are alpha or others.
        alpha: index of the alpha band, or None.
        premultiplied: whether the colours are premultiplied by alpha.
        white: the value of white, e.g. 255, 65535, or 4095 for 12 bits in uint16; None for floats and signed integers, where
            the file does not state it.
        icc: ICC profile of the colours, or None.
        missing: (H, W) bool, True where the file declares that there is no data; None: nowhere.
    """

    pixels: NDArray[Any]
    colours: int
    alpha: int | None
    premultiplied: bool
    white: float | None
    icc: bytes | None
    missing: NDArray[np.bool_] | None


def read_whole(
    source: str | Path | bytes,
    *,
    max_side: int | None = None,
    max_pixels: int | None = None,
    name: str = "the uploaded image",
) -> WholeImage:
    """Read a whole TIFF (or another file that `open_raster` reads).

    Args:
        source: a path, or the content of a file.
        max_side: if the file has overviews, read the smallest one whose longer side is at least this many pixels.
        max_pixels: maximum number of pixels; larger images are refused.
        name: name in errors for content that has no path.

    Raises:
        RasterError: the file cannot be read, is damaged, or is too large.
        MissingDependencyError: the package that reads such a file is not installed.
    """
    if isinstance(source, bytes):
        with tempfile.TemporaryDirectory(prefix="raster-") as folder:
            path = Path(folder) / "content"
            path.write_bytes(source)
            try:
                return _read(path, max_side, max_pixels)
            except RasterError as error:
                raise RasterError(str(error).replace(str(path), name)) from error
    return _read(Path(source), max_side, max_pixels)


def _read(path: Path, max_side: int | None, max_pixels: int | None) -> WholeImage:
    with open_raster(path, at_least=max_side) as raster:
        if max_pixels is not None and raster.height * raster.width > max_pixels:
            raise RasterError(
                f"{path}: {raster.width} x {raster.height} pixels is over the limit of {max_pixels / 1e6:.0f} million; "
                "shrink it, or raise VISIONZOO_MAX_PIXELS if the file is trusted"
            )
        try:
            pixels, missing = raster.read_with_missing(Window(0, 0, raster.height, raster.width))
        except MemoryError:
            raise RasterError(f"{path}: {raster.width} x {raster.height} pixels do not fit in memory") from None
        plain = raster.bands if raster.alpha is None else raster.alpha  # alpha follows the colours
        colours = 3 if plain >= 3 else 1  # for satellite or microscope images, the first three bands
        nowhere = np.asarray(missing[..., :colours].all(axis=-1))
        return WholeImage(
            pixels,
            colours=colours,
            alpha=raster.alpha,
            premultiplied=raster.profile.premultiplied,
            white=raster.white,
            icc=raster.profile.icc,
            missing=nowhere if nowhere.any() else None,
        )
