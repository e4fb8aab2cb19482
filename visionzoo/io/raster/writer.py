"""Writing pictures by windows in any order, and going on after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...errors import InputError, require
from ..files import atomic_path, check_output, write_json
from . import arrays, encode
from .base import RasterError, Window, check_inside, plain_dtype, writing_raster
from .metadata import RasterProfile
from .missing import as_held
from .pictures import SMALL_PIXELS
from .raw import RawPixels, allocate
from .tiff_tags import GEOREFERENCE
from .unpack import vips


@dataclass(frozen=True)
class _Format:
    """What a format can hold. `bands` None: any number; `dtypes` None: any; `side` is the longest in pixels."""

    name: str
    bands: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    side: int | None = None


_FORMATS = {
    ".tif": _Format("tiff"),
    ".tiff": _Format("tiff"),
    ".zarr": _Format("zarr"),
    ".npy": _Format("npy"),
    ".png": _Format("png", (1, 2, 3, 4), ("uint8", "uint16"), 2**31 - 1),
    ".jpg": _Format("jpeg", (1, 3), ("uint8",), 65500),
    ".jpeg": _Format("jpeg", (1, 3), ("uint8",), 65500),
    ".webp": _Format("webp", (1, 3, 4), ("uint8",), 16383),
}


class RasterWriter:
    """A picture that is written by windows, in any order; a context manager.

    The windows are staged, uncompressed, in a file in `work`; `finish` encodes them to `path` by the ending of its name:
    .tif, .tiff, .zarr, .npy, .png, .jpg, .jpeg or .webp. A new writer with the same `work` and the same kind of picture
    goes on with what is staged there. Windows that are never written are zeros.

    Args:
        path: what `finish` writes.
        height, width, bands, dtype: of the picture.
        profile: of the source; what the format can hold of it is kept.
        nodata: the value that stands for "no data here"; by default the profile's.
        alpha: index of the band that is alpha; it comes after the colours.
        work: a folder, made if it does not exist, with room for all pixels. `finish` leaves it to the caller to delete.
        overwrite: `path` may exist.

    Attributes:
        resumed: whether `work` held staged pixels already.

    Raises:
        RasterError: the format cannot hold such a picture, `work` holds another one, the disk is full, or `path` cannot be
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
        work: str | Path,
        overwrite: bool = False,
    ) -> None:
        self.path, self.work, self._overwrite = Path(path), Path(work), overwrite
        self.height, self.width, self.bands, self.dtype = height, width, bands, plain_dtype(self.path, dtype)
        self.profile = profile or RasterProfile()
        self.nodata = self.profile.nodata if nodata is None else nodata
        self.alpha = alpha
        self._format = self._check()
        self._raw = self.work / "pixels.raw"
        self.resumed = self._stage()
        with writing_raster(self._raw):
            self._pixels = RawPixels(self._raw, width=width, bands=bands, dtype=self.dtype, mode="r+b")

    def write(self, top: int, left: int, pixels: NDArray[Any]) -> None:
        """Stage a window.

        Args:
            top, left: where its upper left corner goes.
            pixels: (h, w, bands) of the picture's dtype.

        Raises:
            RasterError: not within the picture, of another type or number of bands, or the disk is full.
        """
        if pixels.ndim != 3 or pixels.shape[2] != self.bands or pixels.dtype != self.dtype:
            raise RasterError(
                f"{self.path}: got a window of shape {pixels.shape} and type {pixels.dtype}, expected (h, w, {self.bands}) "
                f"and {self.dtype}"
            )
        check_inside(self.path, Window(top, left, *pixels.shape[:2]), self.height, self.width)
        with writing_raster(self._raw):
            self._pixels.write(top, left, pixels)

    def read(self, window: Window) -> NDArray[Any]:
        """(h, w, bands), what is staged; 0 where nothing was written yet."""
        check_inside(self.path, window, self.height, self.width)
        with writing_raster(self._raw):
            return self._pixels.read(window)

    def flush(self) -> None:
        """Put what is staged on the disk: it is there even after a power cut."""
        with writing_raster(self._raw):
            self._pixels.flush()

    def finish(self) -> None:
        """Encode the staged pixels to `path`, under a temporary name, which is then renamed.

        Raises:
            RasterError: the disk is full, or `path` cannot be written.
        """
        self.flush()
        keeps = f"the pixels are kept in {self.work}"
        if self._format.name == "zarr":
            with writing_raster(self.path, keeps):
                self._write_folder()
            return
        encode_to = self._encoder()
        with writing_raster(self.path), atomic_path(self.path) as temporary, writing_raster(self.path, keeps):
            encode_to(temporary)

    def close(self) -> None:
        """Close without finishing; what is staged stays."""
        self._pixels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> _Format:
        """The format, if it can hold the picture and its packages are there."""
        ending = self.path.suffix.lower()
        if ending not in _FORMATS:
            raise RasterError(f"{self.path}: unknown ending {ending or '(none)'}; choose one of {', '.join(_FORMATS)}")
        form = _FORMATS[ending]
        if self.height < 1 or self.width < 1 or self.bands < 1:
            raise RasterError(
                f"{self.path}: {self.width} x {self.height} pixels of {self.bands} bands are no picture; expected 1 or more"
            )
        if form.dtypes and self.dtype.name not in form.dtypes:
            raise RasterError(
                f"{self.path}: {ending} holds {' or '.join(form.dtypes)}, the picture is {self.dtype}; choose .tif"
            )
        if form.bands and self.bands not in form.bands:
            raise RasterError(
                f"{self.path}: {ending} holds {_one_of(form.bands)} bands, the picture has {self.bands}; choose .tif"
            )
        if form.side and max(self.height, self.width) > form.side:
            raise RasterError(
                f"{self.path}: {ending} holds up to {form.side} pixels a side, the picture has {self.width} x {self.height}; "
                "choose .tif"
            )
        self._check_alpha(form, ending)
        self._check_lost(form, ending)
        try:
            if form.name == "zarr":
                if self.path.exists() and not self._overwrite:
                    raise RasterError(f"{self.path}: exists already; choose another name or add --overwrite")
                if not self.path.absolute().parent.is_dir():
                    raise RasterError(
                        f"{self.path}: the folder {self.path.absolute().parent} does not exist; make it first"
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

    def _check_alpha(self, form: _Format, ending: str) -> None:
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

    def _check_lost(self, form: _Format, ending: str) -> None:
        lost = []
        if form.name != "tiff" and any(code in GEOREFERENCE for code, *_ in self.profile.tags):
            lost.append("georeference")
        if form.name not in ("tiff", "zarr") and self.nodata is not None:
            lost.append(f"no-data value ({self.nodata:g})")
        if form.name == "npy" and self.alpha is not None:
            lost.append("mark of the alpha band")
        if lost:
            warnings.warn(
                f"{self.path}: {ending} cannot hold the {' and the '.join(lost)}; choose .tif to keep it", stacklevel=4
            )

    def _by_pillow(self, form: _Format) -> bool:
        small = self.height * self.width <= SMALL_PIXELS
        return small and (self.dtype == np.uint8 or self.bands == 1)

    def _stage(self) -> bool:
        """Make the staged file, or check the one that is there. True: it was there."""
        about = {"height": self.height, "width": self.width, "bands": self.bands, "dtype": self.dtype.str}
        notes = self.work / "pixels.json"
        size = self.height * self.width * self.bands * self.dtype.itemsize
        with writing_raster(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
            if notes.exists():  # written last: without it the file may not be whole
                mend = "delete that folder to begin anew, or name another one"
                try:
                    found = json.loads(notes.read_text())
                    found_size = self._raw.stat().st_size
                except (ValueError, FileNotFoundError) as error:
                    raise RasterError(f"{self.work}: the unfinished picture in it is damaged; {mend}") from error
                if found != about:
                    raise RasterError(
                        f"{self.work}: holds another unfinished picture ({_kind(found)}, not {_kind(about)}); {mend}"
                    )
                if found_size != size:
                    raise RasterError(f"{self.work}: the unfinished picture in it is damaged; {mend}")
                return True
            try:
                allocate(self._raw, size)
            except OSError:
                self._raw.unlink(missing_ok=True)
                raise
            write_json(notes, about)
        return False

    def _encoder(self) -> Callable[[Path], None]:
        picture = encode.Picture(self.path, self._raw, self._pixels, self.height, self.profile, self.nodata, self.alpha)
        name = self._format.name
        if name == "npy":
            return lambda path: arrays.write_npy(path, self._pixels, self.height)
        if name == "tiff":
            return lambda path: encode.write_tiff(path, picture)
        if self._by_pillow(self._format):
            return lambda path: encode.write_small(path, picture, name)
        return lambda path: encode.write_large(path, picture, name)

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
    """A temporary folder beside `path`, renamed onto it when the block ends well; what was there is deleted then."""
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name[:40]}.", dir=path.absolute().parent, ignore_cleanup_errors=True
    ) as temporary:
        made = Path(temporary) / "new"
        made.mkdir()
        yield made
        if path.exists() or path.is_symlink():
            os.replace(path, Path(temporary) / "old")
        os.replace(made, path)


def _one_of(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"


def _kind(about: dict[str, Any]) -> str:
    """A picture of `pixels.json` in words."""
    try:
        return (
            f"{about['width']} x {about['height']} pixels of {about['bands']} bands of {np.dtype(about['dtype']).name}"
        )
    except (KeyError, TypeError):
        return "of an unknown kind"
