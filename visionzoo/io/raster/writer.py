"""Write images by windows in any order, and resume after an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...errors import InputError, require
from ..files import atomic_path, check_output, write_json
from . import arrays, encode, encode_tiff
from .base import RasterError, Window, check_inside, plain_dtype, writing_raster
from .decoded import SMALL_PIXELS
from .formats import Format, SidecarPlan, format_of, plan_sidecars, warn_lost
from .metadata import RasterProfile
from .missing import as_held, equals
from .raw import HeldPixels, RawPixels, allocate
from .unpack import vips


class RasterWriter:
    """Writes an image by windows, in any order; a context manager.

    The windows are staged, uncompressed, in a file in `work`; `finish` encodes them to `path`, in the format of its extension:
    .tif, .tiff, .zarr, .npy, .png, .jpg, .jpeg or .webp. Metadata that the format cannot hold are written to sidecar files (see
    `formats.py`). A new writer with the same `work` and the same kind of image resumes with the pixels staged there. Without
    `work`, the windows are kept in memory. Windows that are never written are zeros.

    Args:
        path: the output file.
        height, width, bands, dtype: of the image.
        profile: metadata of the source; those that the format can hold are kept.
        nodata: the no-data value; by default that of the profile.
        alpha: index of the alpha band, which comes after the colours.
        work: a folder, created if it does not exist, with room for all pixels; the caller deletes it after `finish`. None: all
            pixels are kept in memory, and an interrupted run cannot be resumed.
        overwrite: `path` may exist.

    Attributes:
        resumed: whether `work` already held staged pixels.

    Raises:
        RasterError: the format cannot hold such an image, `work` holds another one, the disk is full, or `path` cannot be
            written.
        MissingDependencyError: the package for this format is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        bands: int,
        dtype: DTypeLike,
        profile: RasterProfile | None = None,
        nodata: float | None = None,
        alpha: int | None = None,
        work: str | Path | None,
        overwrite: bool = False,
    ) -> None:
        self.path, self._overwrite = Path(path), overwrite
        self.work = None if work is None else Path(work)
        self.height, self.width, self.bands, self.dtype = height, width, bands, plain_dtype(self.path, dtype)
        self.profile = profile or RasterProfile()
        self.nodata = self.profile.nodata if nodata is None else nodata
        self.alpha = alpha
        self._format = self._check()
        self._beside = self._plan_sidecars()
        kind: dict[str, Any] = {"width": width, "bands": bands, "dtype": self.dtype}
        self._pixels: RawPixels | HeldPixels
        if self.work is None:
            self._staged, self.resumed = self.path, False
            self._pixels = HeldPixels(height=height, **kind)
        else:
            self._staged = self.work / "pixels.raw"
            self.resumed = self._stage(self.work)
            with writing_raster(self._staged):
                self._pixels = RawPixels(self._staged, **kind, mode="r+b")

    def write(self, top: int, left: int, pixels: NDArray[Any]) -> None:
        """Stage a window.

        Args:
            top, left: position of its upper left corner.
            pixels: (h, w, bands) of the image's dtype.

        Raises:
            RasterError: the window is not within the image, or has a wrong type or number of bands, or the disk is full.
        """
        if pixels.ndim != 3 or pixels.shape[2] != self.bands or pixels.dtype != self.dtype:
            raise RasterError(
                f"{self.path}: got a window of shape {pixels.shape} and type {pixels.dtype}, expected (h, w, {self.bands}) "
                f"and {self.dtype}"
            )
        check_inside(self.path, Window(top, left, *pixels.shape[:2]), self.height, self.width)
        with writing_raster(self._staged):
            self._pixels.write(top, left, pixels)

    def read(self, window: Window) -> NDArray[Any]:
        """Read staged pixels as (h, w, bands); 0 where nothing was written yet."""
        check_inside(self.path, window, self.height, self.width)
        with writing_raster(self._staged):
            return self._pixels.read(window)

    def flush(self) -> None:
        """Write staged pixels to the disk, so that they survive a power cut."""
        with writing_raster(self._staged):
            self._pixels.flush()

    def finish(self) -> None:
        """Encode the staged pixels to a temporary file, and rename it to `path`.

        Raises:
            RasterError: the disk is full, or `path` cannot be written.
        """
        self.flush()
        self._write_sidecars()
        if self._format.name == "zarr":
            with writing_raster(self.path):
                self._write_folder()
            return
        encode_to = self._encoder()
        with (
            writing_raster(self.path),
            atomic_path(self.path) as temporary,
        ):  # the caller decides whether `work` is kept
            encode_to(temporary)

    def close(self) -> None:
        """Close without finishing; staged pixels are kept."""
        self._pixels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> Format:
        """The format, after checking that it can hold the image and its packages are installed."""
        ending = self.path.suffix.lower()
        form = format_of(self.path, height=self.height, width=self.width, bands=self.bands, dtype=self.dtype)
        self._check_alpha(form, ending)
        try:
            if form.name == "zarr":
                if self.path.exists() and not self._overwrite:
                    raise RasterError(f"{self.path}: exists already; choose another name or add --overwrite")
                if not self.path.absolute().parent.is_dir():
                    raise RasterError(
                        f"{self.path}: the folder {self.path.absolute().parent} does not exist; create it first"
                    )
            else:
                check_output(self.path, overwrite=self._overwrite)
        except RasterError:
            raise
        except InputError as error:
            raise RasterError(str(error)) from error
        if form.name == "tiff":
            require("tifffile", extra="raster", purpose="writing .tif")
            require("imagecodecs", extra="raster", purpose="writing .tif")
        elif form.name == "zarr":
            require("zarr", extra="raster", purpose="writing zarr")
        elif form.name != "npy" and not self._by_pillow(form):
            vips(f"writing a large {ending}")
        return form

    def _check_alpha(self, form: Format, ending: str) -> None:
        colours = encode.colour_bands(self.bands, self.alpha, self.profile)
        if self.alpha is not None and not colours <= self.alpha < self.bands:
            raise RasterError(
                f"{self.path}: band {self.alpha} cannot be alpha; of {self.bands} bands it is one after the {colours} of colour"
            )
        if form.name not in ("png", "webp"):
            return
        if self.bands in (2, 4) and self.alpha is None:
            raise RasterError(
                f"{self.path}: band {self.bands - 1} would be shown as alpha in {ending}, but is none; choose .tif"
            )
        if self.alpha is not None and self.profile.premultiplied:
            raise RasterError(f"{self.path}: {ending} holds no premultiplied alpha; choose .tif")

    def _plan_sidecars(self) -> SidecarPlan:
        """Plan the sidecar files, and warn about lost metadata. Raises `RasterError` if a file of another result exists."""
        with writing_raster(self.path):
            plan = plan_sidecars(
                self.path,
                self._format,
                self.profile,
                nodata=self.nodata,
                dtype=self.dtype,
                bands=self.bands,
                alpha=self.alpha,
            )
        if plan.mask is not None:
            require("tifffile", extra="raster", purpose="writing a mask")
            require("imagecodecs", extra="raster", purpose="writing a mask")
        if not self._overwrite:
            # files named exactly like a result that does not exist are leftovers; others may belong to another raster
            taken = [
                file
                for file, content in plan.files.items()
                if not file.name.startswith(self.path.name) and file.exists() and file.read_bytes() != content
            ]
            if taken:
                raise RasterError(f"{taken[0]}: exists already; choose another name or add --overwrite")
        warn_lost(self.path, plan, self.profile)
        return plan

    def _write_sidecars(self) -> None:
        """Write the sidecar files, and delete those of an earlier result of the same name."""
        plan = self._beside
        notes = self.path.with_name(f"{self.path.name}.aux.xml")
        mask = self.path.with_name(f"{self.path.name}.msk")
        if self._overwrite and self.path.exists():
            for file in (notes, mask, self.path.with_name(f"{self.path.name}.ovr")):
                if file not in plan.files and file != plan.mask:
                    with writing_raster(file):
                        file.unlink(missing_ok=True)
        for file, content in plan.files.items():
            if not file.exists() or file.read_bytes() != content:
                with writing_raster(file), atomic_path(file) as temporary:
                    temporary.write_bytes(content)
        if plan.mask is not None:
            with writing_raster(plan.mask), atomic_path(plan.mask) as temporary, self._open_mask() as there:
                encode_tiff.write_mask(temporary, self.height, self.width, there)

    @contextlib.contextmanager
    def _open_mask(self) -> Iterator[Callable[[Window], NDArray[np.bool_]]]:
        """Yield a function from a window to the result's mask, (h, w) bool: True where there is data."""
        held = None if self.nodata is None else as_held(self.nodata, self.dtype)
        if self.profile.mask is not None:
            with self.profile.mask() as source:
                yield source.read_mask
        else:
            assert held is not None  # otherwise there is no mask
            colours = [band for band in range(self.bands) if band != self.alpha]
            yield lambda window: np.logical_not(equals(self._pixels.read(window)[..., colours], held).all(axis=-1))

    def _by_pillow(self, form: Format) -> bool:
        small = self.height * self.width <= SMALL_PIXELS
        return small and (self.dtype == np.uint8 or self.bands == 1)

    def _stage(self, work: Path) -> bool:
        """Create the staged file, or check an existing one. Returns whether it existed."""
        about = {"height": self.height, "width": self.width, "bands": self.bands, "dtype": self.dtype.str}
        notes = work / "pixels.json"
        size = self.height * self.width * self.bands * self.dtype.itemsize
        with writing_raster(work):
            work.mkdir(parents=True, exist_ok=True)
            if notes.exists():  # written last: without it, the file may be incomplete
                fix = "delete that folder to start again, or name another one"
                try:
                    found = json.loads(notes.read_text())
                    found_size = self._staged.stat().st_size
                except (ValueError, FileNotFoundError) as error:
                    raise RasterError(f"{work}: the unfinished image in it is damaged; {fix}") from error
                if found != about:
                    raise RasterError(
                        f"{work}: holds another unfinished image ({_kind(found)}, not {_kind(about)}); {fix}"
                    )
                if found_size != size:
                    raise RasterError(f"{work}: the unfinished image in it is damaged; {fix}")
                return True
            try:
                allocate(self._staged, size)
            except OSError:
                self._staged.unlink(missing_ok=True)
                raise
            write_json(notes, about)
        return False

    def _encoder(self) -> Callable[[Path], None]:
        raw = None if self.work is None else self._staged
        staged = encode.StagedImage(self.path, raw, self._pixels, self.height, self.profile, self.nodata, self.alpha)
        name = self._format.name
        if name == "npy":
            return lambda path: arrays.write_npy(path, self._pixels, self.height)
        if name == "tiff":
            return lambda path: self._write_tiff(path, staged)
        if self._by_pillow(self._format):
            return lambda path: encode.write_small(path, staged, name)
        return lambda path: encode.write_large(path, staged, name)

    def _write_tiff(self, path: Path, staged: encode.StagedImage) -> None:
        if not self._beside.masked:
            encode_tiff.write_tiff(path, staged, None)
            return
        with self._open_mask() as there:
            encode_tiff.write_tiff(path, staged, there)

    def _write_folder(self) -> None:
        fill = None if self.nodata is None else as_held(self.nodata, self.dtype)
        with _beside(self.path) as folder:
            arrays.write_zarr(
                folder,
                self._pixels,
                self.height,
                nodata=self.nodata,
                fill=0 if fill is None else fill,
                alpha=self.alpha,
                attributes=self.profile.attributes,
            )


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`, which replaces it if the block succeeds."""
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name[:40]}.", dir=path.absolute().parent, ignore_cleanup_errors=True
    ) as temporary:
        made = Path(temporary) / "new"
        made.mkdir()
        yield made
        if path.exists() or path.is_symlink():
            os.replace(path, Path(temporary) / "old")
        os.replace(made, path)


def _kind(about: dict[str, Any]) -> str:
    """Describe the image of a `pixels.json`."""
    try:
        return (
            f"{about['width']} x {about['height']} pixels of {about['bands']} bands of {np.dtype(about['dtype']).name}"
        )
    except (KeyError, TypeError):
        return "of an unknown kind"
