"""Frames between the frames of a video.

pipe = visionzoo.pipeline("interpolate")
middle = pipe(first, second).frames[0]            # (H, W, 3) uint8
pipe.run("clip.mp4", "smooth.mp4", factor=2)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visionzoo.batching import Batches
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.task_pipeline import CUSTOM, TaskPipeline

from ...models.lovecon import CUT, IFNet, frame_change
from .fractions import halvings, places

Pixels = NDArray[np.uint8]
ImageInput = str | Path | bytes | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class InterpolateResult:
    """Frames between two frames.

    Attributes:
        frames: (factor - 1, H, W, 3) uint8 RGB, in order.
        is_cut: whether the two frames show different scenes, so that the new frames are copies of the first one.
    """

    frames: Pixels
    is_cut: bool


class InterpolatePipeline(TaskPipeline):
    """Frame interpolation with RIFE's IFNet (arXiv 2011.06294).

    The network makes the frame halfway between two others. Factors of 4, 8, … halve again; for other factors, frames are made at
    the nearest 32nd of the interval.

    Args:
        model: the network; it stays unchanged, as a copy runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what precision the network runs.
        checkpoint: the weights file that was loaded, recorded with results.
    """

    task = "interpolate"
    kind = "frame interpolation"
    default_model = "rife_hdv3"
    networks = (IFNet,)
    files = "visionzoo.pipelines.interpolate.files:InterpolateJob"

    def __init__(
        self,
        model: IFNet,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
    ):
        super().__init__(model, name, device, dtype, checkpoint)
        self.model = copy.deepcopy(model).eval().requires_grad_(False).to(self.device, self.dtype)

    def __call__(
        self, first: ImageInput, second: ImageInput, *, factor: int = 2, scale: float = 1.0, cut: float = CUT
    ) -> InterpolateResult:
        """The frames between two images.

        Args:
            first, second: two frames of one size: paths, PIL images, (H, W, 3) uint8 arrays, whatever
                `visionzoo.io.image.load_image` takes.
            factor: 2 gives one new frame, 4 three; a whole number from 2 to 32.
            scale: resolution of the flow, see `IFNet.forward`; 0.5 for large movements in large frames.
            cut: change above which the frames count as different scenes, see `frame_change`; 1 never.

        Raises:
            InputError: an image cannot be read, the sizes differ, or an argument is out of range.
        """
        images = (load_image(first), load_image(second))
        self.check_options(factor, scale, cut)
        if images[0].shape != images[1].shape:
            raise InputError(f"the frames are {_size(images[0])} and {_size(images[1])}; resize them to one size")
        is_cut = frame_change(*images) > cut
        frames = [images[0]] * (factor - 1) if is_cut else self.between([images], factor, scale)[0]
        return InterpolateResult(np.stack(frames), is_cut)

    def check_options(self, factor: int, scale: float, cut: float) -> None:
        """Raise `InputError` for values that `between` and `stream` do not take."""
        places(factor)
        self.network.multiple(scale)
        if not 0 <= cut <= 1:
            raise InputError(f"cut must be from 0 to 1, got {cut:g}")

    @torch.no_grad()
    def between(
        self, pairs: Sequence[tuple[Pixels, Pixels]], factor: int = 2, scale: float = 1.0, batch_size: int = 4
    ) -> list[list[Pixels]]:
        """The `factor - 1` frames between each pair of frames, all of one size, whatever they show.

        Args:
            pairs: of (H, W, 3) uint8.
            factor, scale: see `__call__`.
            batch_size: pairs that the network sees at once; halved when memory runs out.

        Raises:
            InputError: there is not enough memory for a single pair, or an argument is out of range.
        """
        steps, wanted = places(factor)
        levels = halvings(steps, wanted)
        known = [{0: self._planes(a), steps: self._planes(b)} for a, b in pairs]
        batches = Batches(self.device, batch_size)
        try:
            for level in levels:
                tasks = [(made, *triple) for made in known for triple in level]
                results = batches.run(
                    lambda part: self.model.middle_frame(
                        torch.stack([made[a] for made, a, _, _ in part]),
                        torch.stack([made[b] for made, _, _, b in part]),
                        scale,
                    ),
                    tasks,
                )
                for (made, _, middle, _), frame in zip(tasks, (one for batch in results for one in batch), strict=True):
                    made[middle] = frame
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"not enough memory on {self.device} for two frames; choose another device, or shrink the video"
            ) from error
        return [[self._pixels(made[at]) for at in wanted] for made in known]

    def stream(
        self, frames: Iterable[Pixels], factor: int = 2, *, scale: float = 1.0, cut: float = CUT
    ) -> Iterator[Pixels]:
        """All frames of a video with new ones between them; two frames are in memory, besides the new ones.

        Args:
            frames: (H, W, 3) uint8, of one size.
            factor, scale, cut: see `__call__`.

        Yields:
            (n - 1) * factor + 1 frames for n frames.
        """
        self.check_options(factor, scale, cut)
        before: Pixels | None = None
        for frame in frames:
            if before is not None:
                is_cut = frame_change(before, frame) > cut
                yield from ([before] * (factor - 1) if is_cut else self.between([(before, frame)], factor, scale)[0])
            yield frame
            before = frame

    def _planes(self, pixels: Pixels) -> Tensor:
        return to_float(pixels, device=self.device).contiguous()

    def _pixels(self, frame: Tensor) -> Pixels:
        if not frame.isfinite().all():
            raise InputError(f"the network gives no finite numbers in {self.dtype}; try dtype='float32'")
        return to_uint8(frame)


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels"


__all__ = ["InterpolatePipeline", "InterpolateResult"]
