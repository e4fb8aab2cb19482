"""Haze removal from files: images of any size, whole folders, videos."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.io.extensions import extension, is_video
from visionzoo.io.image import count_frames
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.io.video import Frame, Window, map_video
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, write_sidecar
from visionzoo.registry import pipeline

from ...models.dehazexl.placement import StreamOptions
from ...models.dehazexl.rasters import check_limits
from .kinds import KINDS, VIDEO
from .pipeline import DehazePipeline

PART_FRAMES = 25
"""Number of frames after which the finished part of a video is saved: a frame takes from 0.1 s to about 10 s on a CPU."""


@dataclass
class DehazeJob(FileJob):
    """Dehazes files with a pipeline.

    Attributes:
        stream: memory and blending, see `StreamOptions`; None leaves all to the pipeline.
        bands, limits: settings for images, see `visionzoo.models.dehazexl.rasters.RasterImage`.
        smooth: for videos, in [0, 1): how much of the change of brightness and colour comes from the previous frames.
    """

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    done: ClassVar[str] = "dehazed"

    pipe: DehazePipeline = field(repr=False)
    stream: StreamOptions | None = None
    bands: tuple[int, ...] | None = None
    limits: tuple[float, float] | None = None
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smooth < 1:
            raise InputError(f"smooth must be at least 0 and below 1, got {self.smooth:g}")
        if self.limits is not None:
            check_limits(self.limits)
        self.gpus = self.pipe.gpus

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Dehaze an image or a video; of an animation all frames if `target` is a video, else the first one."""
        moves = is_video(source) or VIDEO.makes(source, target)
        return self.video(source, target, report) if moves else self.image(source, target, report)

    def image(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Dehaze an image file."""
        if (count := count_frames(source)) > 1:
            all_of_them = (
                "; to dehaze all of them, write a video: -o NAME.mp4" if extension(source) in VIDEO.also else ""
            )
            warnings.warn(
                f"{source}: is an animation of {count} frames, of which only the first is dehazed{all_of_them}",
                stacklevel=2,
            )
        return self.pipe.raster(
            source,
            target,
            options=self.stream,
            bands=self.bands,
            limits=self.limits,
            overwrite=True,  # the plan has been checked
            progress=report,
            facts=self.facts(),
        )

    def video(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Dehaze a video frame by frame; its times and its sound are kept. An interrupted video resumes."""
        started = time.monotonic()
        facts = {**self.pipe.facts(), **self.facts()}
        made = map_video(
            source,
            target,
            _Frames(self),
            settings=facts,
            part_frames=PART_FRAMES,
            overwrite=True,  # the plan has been checked
            progress=lambda done, of: report("frames", done, of),
        )
        seconds = round(time.monotonic() - started, 3)
        result = FileResult(str(source), str(target), made.width, made.height, made.frames, seconds)
        write_sidecar(target, {"result": result.to_dict()}, facts)
        return result

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        settings = {"stream": self.stream, "bands": self.bands, "limits": self.limits, "smooth": self.smooth}
        return build_job, {"create": self.pipe.arguments(), "settings": settings}

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        return {
            "blend": self.pipe.resolve_options(self.stream).blend,
            "smooth": self.smooth,
            "bands": self.bands,
            "limits": self.limits,
        }


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> DehazeJob:
    """Makes the job in a process of a cluster."""
    return DehazeJob(pipeline(**create), **settings)


class _Frames:
    """Dehazes the frames of one video, in order."""

    def __init__(self, job: DehazeJob):
        self._job, self._smoother = job, Smoother(job.smooth)

    def __call__(self, window: Window[Frame]) -> Iterator[NDArray[np.uint8]]:
        for frame in window.items:
            image = to_float(frame.pixels).contiguous()
            yield to_uint8(self._smoother(image, self._job.pipe.restore_tensor(image, self._job.stream)))

    def get_state(self) -> dict[str, NDArray[np.float32]]:
        return self._smoother.get_state()

    def set_state(self, state: dict[str, NDArray[np.float32]]) -> None:
        self._smoother.set_state(state)


class Smoother:
    """Smooths a video: the coarse part of the change of a frame follows the previous frames.

    Haze changes slowly, but the network sees one frame at a time, so the brightness may flicker. Only the change's coarse part
    (over 32 x 32 pixels) is averaged in time, so nothing that moves leaves a trace; at a cut the average starts again.
    """

    def __init__(self, amount: float, cell: int = 32, cut: float = 0.15):
        self.amount, self.cell, self.cut = amount, cell, cut
        self._held: Tensor | None = None
        self._seen: Tensor | None = None

    def __call__(self, hazy: Tensor, clear: Tensor) -> Tensor:
        """(3, H, W) the frame and the network's result -> the smoothed result."""
        if not self.amount:
            return clear
        size = (max(1, hazy.shape[1] // self.cell), max(1, hazy.shape[2] // self.cell))
        coarse = F.adaptive_avg_pool2d((clear - hazy)[None], size)
        view = F.adaptive_avg_pool2d(hazy[None], size)
        if self._held is None or self._seen is None or (view - self._seen).abs().mean() > self.cut:
            self._held = coarse
        self._held = self.amount * self._held + (1 - self.amount) * coarse
        self._seen = view
        move = F.interpolate(self._held - coarse, size=hazy.shape[1:], mode="bilinear", align_corners=False)
        return clear + move[0]

    def get_state(self) -> dict[str, NDArray[np.float32]]:
        """The state that depends on the previous frames."""
        if self._held is None or self._seen is None:
            return {}
        return {"held": self._held.cpu().numpy(), "seen": self._seen.cpu().numpy()}

    def set_state(self, state: dict[str, NDArray[np.float32]]) -> None:
        """Restore the result of `get_state`."""
        self._held, self._seen = (torch.from_numpy(state[name]) if state else None for name in ("held", "seen"))


__all__ = ["KINDS", "DehazeJob", "Smoother"]
