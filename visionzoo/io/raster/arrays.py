"""Read and write zarr arrays and .npy files by windows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from .base import (
    MOST_BANDS,
    BlockRaster,
    Layout,
    Raster,
    RasterError,
    UnreadableError,
    Window,
    one_line,
    plain_dtype,
    size_words,
)
from .metadata import RasterProfile
from .raw import HeldPixels, RawPixels, RawRaster

LARGEST_CHUNK = 512 << 20
"""Maximum size of a decoded chunk in bytes."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_zarr(path: Path) -> Raster:
    """Open a folder that is a single zarr array, (H, W), (H, W, C) or (C, H, W).

    The no-data value is the attribute _FillValue, or else a fill value other than 0 (which is the default).

    Raises:
        RasterError: damaged, a group, or an unsupported shape.
    """
    zarr = require("zarr", extra="raster", purpose="reading zarr")
    try:
        array = zarr.open(store=str(path), mode="r")
        if isinstance(array, zarr.Group):
            names = sorted(name for name, _ in array.arrays())
            raise RasterError(
                f"{path}: is a group of arrays, expected one array; "
                + (f"name one of them: {', '.join(str(path / name) for name in names[:4])}" if names else "it is empty")
            )
        shape, chunks, attributes = tuple(array.shape), tuple(array.chunks), dict(array.attrs)
        fill, stored = array.fill_value, array.dtype
        names = getattr(array.metadata, "dimension_names", None)
    except RasterError:
        raise
    except Exception as error:  # store, metadata and codecs each raise their own errors
        raise RasterError(f"{path}: cannot be read as zarr ({one_line(error) or type(error).__name__})") from error
    first = _bands_first(path, shape, names)
    dtype = np.dtype(np.uint8) if stored == np.bool_ else plain_dtype(path, stored)
    height, width, bands = _sizes(shape, first)
    high, wide, _ = _sizes(chunks, first)
    block = (min(high, height), min(wide, width))
    block_bytes = block[0] * block[1] * bands * dtype.itemsize
    if block_bytes > LARGEST_CHUNK:
        raise RasterError(
            f"{path}: has chunks of {' x '.join(map(str, chunks))} ({size_words(block_bytes)}); the limit is "
            f"{size_words(LARGEST_CHUNK)}; save it again with smaller chunks"
        )
    nodata = attributes.get("_FillValue", fill if stored != np.bool_ else None)
    if not isinstance(nodata, int | float | np.number) or ("_FillValue" not in attributes and nodata == 0):
        nodata = None
    nodata = None if nodata is None else float(nodata)
    alpha = attributes.get("alpha")
    layout = Layout(
        height,
        width,
        bands,
        dtype,
        block,
        nodata=nodata,
        alpha=alpha if isinstance(alpha, int) and 0 <= alpha < bands else None,
        profile=RasterProfile(nodata=nodata, attributes=attributes, compression="zarr"),
        convert=(lambda pixels: pixels * np.uint8(255)) if stored == np.bool_ else None,
    )
    return _ZarrRaster(path, layout, array, first)


class _ZarrRaster(BlockRaster):
    def __init__(self, path: Path, layout: Layout, array: Any, bands_first: bool) -> None:
        super().__init__(path, layout)
        self._array, self._bands_first = array, bands_first

    def _decode(self, row: int, column: int) -> NDArray[Any]:
        high, wide = self._layout.block
        part = (slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide))
        try:
            block = np.asarray(self._array[(slice(None), *part) if self._bands_first else part])
        except Exception as error:  # every codec raises its own errors
            raise UnreadableError(f"a chunk is damaged ({one_line(error) or type(error).__name__})") from error
        block = np.moveaxis(block, 0, 2) if self._bands_first else block.reshape(*block.shape[:2], -1)
        return np.ascontiguousarray(block, self._layout.dtype)


def open_npy(path: Path) -> Raster:
    """Open a .npy file, (H, W), (H, W, C) or (C, H, W).

    Raises:
        RasterError: damaged, truncated, in Fortran order, or an unsupported shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # reads only the header
        stored, shape, offset, in_order = mapped.dtype, mapped.shape, mapped.offset, mapped.flags.c_contiguous
        del mapped
    except Exception as error:  # the header is a Python literal, which fails in many ways if damaged
        raise RasterError(f"{path}: is not a .npy file, or is truncated ({one_line(error)}); save it again") from error
    first = _bands_first(path, shape, None)
    if not in_order:
        raise RasterError(f"{path}: is in Fortran order; save it with np.ascontiguousarray")
    dtype = np.dtype(np.uint8) if stored == np.bool_ else plain_dtype(path, stored)
    height, width, bands = _sizes(shape, first)
    pixels = RawPixels(
        path,
        width=width,
        bands=bands,
        dtype=dtype if stored == np.bool_ else stored,
        planes=_npy_planes(offset, height, width, bands, dtype.itemsize, first),
    )
    convert = (lambda values: values * np.uint8(255)) if stored == np.bool_ else None
    layout = Layout(height, width, bands, dtype, (1, width), profile=RasterProfile(compression="none"), convert=convert)
    return RawRaster(path, layout, pixels)


def _npy_planes(
    offset: int, height: int, width: int, bands: int, size: int, first: bool
) -> list[Callable[[int], int | None]]:
    if not first:
        return [lambda row: offset + row * width * bands * size]
    return [lambda row, band=band: offset + (band * height + row) * width * size for band in range(bands)]


def _bands_first(path: Path, shape: tuple[int, ...], names: Any) -> bool:
    """Whether an array of this shape has its bands on the first axis.

    Raises:
        RasterError: the shape is not that of an image.
    """
    if 0 not in shape:
        if len(shape) == 2:
            return False
        if len(shape) == 3:
            named = names is not None and names[0] in ("band", "bands", "c", "channel")
            if shape[2] <= MOST_BANDS and not named:
                return False
            if shape[0] <= MOST_BANDS:
                return True
    raise RasterError(
        f"{path}: has the shape {' x '.join(map(str, shape)) or '()'}, expected rows x columns, rows x columns x bands or "
        f"bands x rows x columns with at most {MOST_BANDS} bands"
    )


def _sizes(shape: tuple[int, ...], bands_first: bool) -> tuple[int, int, int]:
    """(height, width, bands)."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return (shape[1], shape[2], shape[0]) if bands_first else (shape[0], shape[1], shape[2])


def write_npy(path: Path, pixels: RawPixels | HeldPixels, height: int) -> None:
    """Write a .npy file: (H, W) for one band, else (H, W, bands)."""
    shape = (height, pixels.width) if pixels.bands == 1 else (height, pixels.width, pixels.bands)
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(pixels.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for top in range(0, height, 64):
            file.write(pixels.read(Window(top, 0, min(64, height - top), pixels.width)).data)


def write_zarr(
    folder: Path,
    pixels: RawPixels | HeldPixels,
    height: int,
    *,
    nodata: float | None,
    fill: float,
    alpha: int | None,
    attributes: Mapping[str, Any],
) -> None:
    """Write a zarr 3 array: (H, W) for one band, else (H, W, bands), in chunks of 512 x 512 pixels.

    Args:
        nodata: the no-data value to declare.
        fill: value of chunks that are not stored.
    """
    zarr = require("zarr", extra="raster", purpose="writing zarr")
    about = {key: value for key, value in attributes.items() if key not in ("_FillValue", "alpha")}
    if nodata is not None and np.isfinite(nodata):
        about["_FillValue"] = int(nodata) if float(nodata).is_integer() and abs(nodata) < 2**53 else nodata
    if alpha is not None:
        about["alpha"] = alpha
    single = pixels.bands == 1
    array = zarr.create_array(
        store=str(folder),
        shape=(height, pixels.width) if single else (height, pixels.width, pixels.bands),
        chunks=(min(512, height), min(512, pixels.width), pixels.bands)[: 2 if single else 3],
        dtype=pixels.dtype,
        fill_value=pixels.dtype.type(fill),
        dimension_names=("y", "x") if single else ("y", "x", "band"),
        attributes=about,
        overwrite=True,
    )
    for top in range(0, height, 512):
        for left in range(0, pixels.width, 512):
            window = Window(top, left, min(512, height - top), min(512, pixels.width - left))
            block = pixels.read(window)
            array[top : top + window.height, left : left + window.width] = block[..., 0] if single else block
