"""Quality of dehazed files of any size compared with the clear ones, and the published numbers (table 2 of the paper)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.console import counted
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.io.raster import Window, open_raster
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.restoration import quality

from .rasters import RasterImage
from .streaming import StreamedDehaze

PUBLISHED = {
    "8KDehaze": (32.35, 0.9863, 4.617),
    "4KID": (26.62, 0.9073, 0.59),
    "O-HAZE": (21.49, 0.7348, 0.86),
}
"""PSNR (dB), SSIM, seconds per image. The authors resized the images to squares and did not name their device."""


@dataclass(frozen=True)
class FileScore:
    """Scores of one dehazed file, and of its hazy input, against the clear file.

    Attributes:
        psnr, ssim: scores of the result, rounded to 8 bits, at full size.
        lpips: LPIPS, if requested.
        hazy_psnr, hazy_ssim: scores of the hazy input.
        seconds: time for reading, the network and writing.
    """

    name: str
    psnr: float
    ssim: float
    lpips: float | None
    hazy_psnr: float
    hazy_ssim: float
    seconds: float


@dataclass
class Report:
    """Scores of a test set, as a table with the published numbers of `benchmark`."""

    benchmark: str | None = None
    files: list[FileScore] = field(default_factory=list)

    def mean(self, name: str) -> float | None:
        values = [getattr(score, name) for score in self.files]
        return None if not values or None in values else float(np.mean(values))

    def as_dict(self) -> dict[str, Any]:
        names = ("psnr", "ssim", "lpips", "hazy_psnr", "hazy_ssim", "seconds")
        published = dict(zip(("psnr", "ssim", "seconds"), PUBLISHED.get(self.benchmark or "", ()), strict=False))
        return {
            "files": [asdict(score) for score in self.files],
            "mean": {name: self.mean(name) for name in names},
            "published": published or None,
        }

    def __str__(self) -> str:
        rows = [("", "PSNR", "SSIM", "LPIPS", "seconds")]
        rows += [_row(score.name, score.psnr, score.ssim, score.lpips, score.seconds) for score in self.files]
        count = counted(len(self.files), "file")
        rows.append(_row(f"mean of {count}", *(self.mean(name) for name in ("psnr", "ssim", "lpips", "seconds"))))
        rows.append(_row("hazy input, unchanged", self.mean("hazy_psnr"), self.mean("hazy_ssim"), None, None))
        if self.benchmark in PUBLISHED:
            psnr, ssim, seconds = PUBLISHED[self.benchmark]
            rows.append(_row(f"published, {self.benchmark}", psnr, ssim, None, seconds))
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _row(
    name: str, psnr: float | None, ssim: float | None, lpips: float | None, seconds: float | None
) -> tuple[str, ...]:
    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return name, cell(psnr, 2), cell(ssim, 4), cell(lpips, 4), cell(seconds, 2)


class _EightBits:
    """A sink in a file that holds the result as it would be saved."""

    def __init__(self, path: Path, height: int, width: int):
        self.pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (height, width, 3))

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        values = to_uint8(pixels)
        self.pixels[top : top + values.shape[0], left : left + values.shape[1]] = values

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return to_float(np.array(self.pixels[top : top + height, left : left + width]))

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        self.pixels[top : top + height, left : left + width] = 0


def score_file(stream: StreamedDehaze, hazy: Path, clear: Path, lpips: Lpips | None = None) -> FileScore:
    """Dehaze a file and compare it with the clear one, both read by windows.

    Protocol: 8 bits, full size, PSNR over all values; SSIM gaussian 11, sigma 1.5, per channel; LPIPS as the mean over tiles of at
    most 1024 pixels.

    Raises:
        InputError: a file that cannot be read or is not 8-bit RGB, or two sizes.
    """
    started = time.monotonic()
    with open_raster(hazy) as haze, open_raster(clear) as truth, tempfile.TemporaryDirectory() as folder:
        for raster in (haze, truth):
            if raster.dtype != np.uint8 or raster.bands < 3:
                raise InputError(f"{raster.path}: is {raster.dtype} with {raster.bands} bands; testing needs 8-bit RGB")
        height, width = haze.height, haze.width
        if (height, width) != (truth.height, truth.width):
            raise InputError(f"{hazy}: is {width} x {height}, but {clear} is {truth.width} x {truth.height}")
        sink = _EightBits(Path(folder) / "result.npy", height, width)
        stream(RasterImage(haze, (0, 1, 2)), sink)
        seconds = time.monotonic() - started

        def result(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
            return np.array(sink.pixels[top : top + height, left : left + width])

        ours = quality(result, _reader(truth), height, width)
        nothing = quality(_reader(haze), _reader(truth), height, width)
        distance = None if lpips is None else _mean_lpips(lpips, result, _reader(truth), height, width)
    return FileScore(hazy.name, ours.psnr, ours.ssim, distance, nothing.psnr, nothing.ssim, seconds)


def _reader(raster: Any) -> Callable[[int, int, int, int], NDArray[np.uint8]]:
    def read(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(raster.read(Window(top, left, height, width))[..., :3])

    return read


def _mean_lpips(lpips: Lpips, first: Callable, second: Callable, height: int, width: int, tile: int = 1024) -> float:
    """Mean over tiles of equal size that cover the image, with sides of at most `tile` pixels."""
    rows, columns = (np.linspace(0, side, -(-side // tile) + 1).astype(int) for side in (height, width))
    device = next(lpips.parameters()).device
    found, areas = [], []
    with torch.inference_mode():
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                window = (int(top), int(left), int(bottom - top), int(right - left))
                pair = [to_float(read(*window), device=device)[None] for read in (first, second)]
                found.append(float(lpips(*pair)))
                areas.append(window[2] * window[3])
    return float(np.average(found, weights=areas))
