"""Remove haze from images of any size and from videos.

pipe = visionzoo.pipeline("dehaze")
clear = pipe("hazy.jpg").image                    # (H, W, 3) uint8
pipe.run("survey.tif", "survey_clear.tif")        # of any size, by windows
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionzoo.config import as_dict
from visionzoo.devices import has_fast_bfloat16
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.io.raster import RasterWriter, open_raster
from visionzoo.jobs import FileResult, Progress, check_result, resumable_folder, write_sidecar
from visionzoo.task_pipeline import CUSTOM, TaskPipeline

from ...models.dehazexl import DehazeXL
from ...models.dehazexl.placement import Restart, StreamOptions
from ...models.dehazexl.rasters import RasterImage, RasterResult
from ...models.dehazexl.streaming import StreamedDehaze
from ...models.dehazexl.tiles import Grid, Held, Sink, Source
from .tile_count import TileCount

SMALL_TILES = 64
"""Images with more patches of 256 x 256 pixels than this can be resumed after an interruption."""
ImageInput = str | Path | bytes | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class DehazeResult:
    """An image without its haze.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        source: the hazy image's file, or a description of it.
    """

    image: np.ndarray
    source: str


class DehazePipeline(TaskPipeline):
    """Haze removal with DehazeXL (arXiv 2504.09621).

    Args:
        model: the network; it stays unchanged, as a fused copy runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what precision the network runs. On a CPU "auto" is float32, except for networks with a
            guided filter, like dehazexl_nano, on a CPU that has instructions for bfloat16: the filter removes most of the
            rounding errors (the PSNR to the float32 result is above 50 dB).
        checkpoint: the weights file that was loaded, recorded with results.
    """

    task = "dehaze"
    kind = "dehazing"
    default_model = "dehazexl_nano"
    networks = (DehazeXL,)
    files = "visionzoo.pipelines.dehaze.files:DehazeJob"

    def __init__(
        self,
        model: DehazeXL,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
    ):
        super().__init__(model, name, device, dtype, checkpoint)
        if dtype == "auto" and self.config.smoothing and has_fast_bfloat16(self.device):
            self.dtype = torch.bfloat16
        self.model = model.fuse().to(self.device, self.dtype)

    def resolve_options(self, options: StreamOptions | None) -> StreamOptions:
        """`options` with `blend` decided if it was None: networks that smooth within patches blend."""
        options = options or StreamOptions(blend=None)
        return options if options.blend is not None else replace(options, blend=self.config.smoothing > 0)

    # Images in memory

    def __call__(
        self, images: ImageInput | list[Any] | tuple[Any, ...], *, blend: bool | None = None
    ) -> DehazeResult | list[DehazeResult]:
        """An image without haze, or each of a list of images.

        Args:
            images: a path, a PIL image, an (H, W, 3) uint8 array, whatever `visionzoo.io.image.load_image` takes; or a list.
            blend: hide the borders of patches, for twice the time; None: see `resolve_options`.

        Raises:
            InputError: an image cannot be read.
        """
        if isinstance(images, (list, tuple)):
            return [self._one(image, blend) for image in images]
        return self._one(images, blend)

    def _one(self, image: ImageInput, blend: bool | None) -> DehazeResult:
        pixels = self.restore(load_image(image), StreamOptions(blend=blend))
        name = str(image) if isinstance(image, (str, Path)) else "image"
        return DehazeResult(pixels, name)

    def restore(
        self,
        pixels: np.ndarray,
        options: StreamOptions | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W, 3) uint8 without haze."""
        image = to_float(pixels).contiguous()
        clear = self.restore_tensor(image, options, progress)
        if not clear.isfinite().all():
            raise InputError(f"the network gives no finite numbers in {self.dtype}; try dtype='float32'")
        return to_uint8(clear)

    def restore_tensor(
        self,
        image: Tensor,
        options: StreamOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """(3, H, W) float32 in [0, 1] -> same, not clamped."""
        held = Held(image)
        self.dehaze(held, held.sink, options, progress)
        return held.out

    def dehaze(
        self,
        source: Source,
        sink: Sink,
        options: StreamOptions | None = None,
        progress: Progress | None = None,
        restart: Restart | None = None,
    ) -> None:
        """Dehaze any source into a sink with this network; see `StreamedDehaze`.

        Raises:
            InputError: there is not enough memory for a single tile.
        """
        try:
            StreamedDehaze(self.model, self.resolve_options(options), progress)(source, sink, restart=restart)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"not enough memory on {self.device}, even for one tile at a time; free some, "
                "or choose dtype bfloat16 or another device"
            ) from error

    # Files

    def raster(
        self,
        path_in: Path,
        path_out: Path,
        *,
        options: StreamOptions | None = None,
        bands: tuple[int, ...] | None = None,
        limits: tuple[float, float] | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        facts: dict[str, Any] | None = None,
    ) -> FileResult:
        """Dehaze one image file of any size and type.

        A large one is processed by windows, and the next call resumes interrupted work, which is kept in the folder
        `<path_out>.part` until the end. A small one stays in memory until the result is written.

        Args:
            bands, limits: see `RasterImage`.
            progress: called with ("tiles", number done, total).
            facts: recorded in `<path_out>.json`.

        Raises:
            InputError: the input cannot be read (finished work is kept), or the output cannot be written.
        """
        started = time.monotonic()
        check_result(path_out, overwrite=overwrite)
        options = self.resolve_options(options)
        work = path_out.with_name(f"{path_out.name}.part")
        with open_raster(path_in) as raster:
            image = RasterImage(raster, bands, limits)
            # repeating a small image is faster than opening the files
            restart = Restart(work) if Grid(raster.height, raster.width).count > SMALL_TILES else None
            staged = restart is not None or work.exists()
            with (
                resumable_folder(work, self._key(path_in, image, options), keep=restart is not None)
                if staged
                else nullcontext(),
                RasterWriter(
                    path_out,
                    height=raster.height,
                    width=raster.width,
                    bands=raster.bands,
                    dtype=raster.dtype,
                    profile=raster.profile,
                    nodata=raster.nodata,
                    alpha=raster.alpha,
                    work=work / "pixels" if staged else None,
                    overwrite=overwrite,
                ) as writer,
            ):
                sink = RasterResult(image, writer)
                if image.shows_something():
                    tiles = progress and TileCount(raster.height, raster.width, bool(options.blend), progress)
                    self.dehaze(image, sink, options, tiles, restart)
                else:
                    sink.keep_all()
                writer.finish()
        seconds = round(time.monotonic() - started, 3)
        result = FileResult(str(path_in), str(path_out), raster.width, raster.height, seconds=seconds)
        scale = {"black": image.scaling.low, "white": image.scaling.high}
        write_sidecar(path_out, {"result": result.to_dict()}, {**self.facts(), **scale, **(facts or {})})
        return result

    def _key(self, path_in: Path, image: RasterImage, options: StreamOptions) -> str:
        """Everything that unfinished work depends on: input, network and settings."""
        about = path_in.stat()
        owner = {
            "input": str(path_in.absolute()),
            "bytes": about.st_size,
            "modified": about.st_mtime_ns,
            "weights": self.fingerprint,
            "config": as_dict(self.config),
            "dtype": str(self.dtype),
            "bands": image.bands,
            "limits": [image.scaling.low, image.scaling.high],
            "blend": options.blend,
        }
        return hashlib.sha256(json.dumps(owner, sort_keys=True).encode()).hexdigest()


__all__ = ["DehazePipeline", "DehazeResult"]
