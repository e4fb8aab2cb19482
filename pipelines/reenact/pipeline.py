"""Make a still face move like the one in a video.

pipe = visionzoo.pipeline("reenact", checkpoint="00000099-checkpoint.pth.tar")
result = pipe("face.jpg", "talk.mp4")                # .frames (N, 256, 256, 3) uint8
pipe.run("face.jpg", "out.mp4", driving="talk.mp4")  # with the driver's sound
live = pipe.live("face.jpg")                         # live(frame) -> frame, for a webcam
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visionzoo.config import configure
from visionzoo.devices import has_fast_bfloat16
from visionzoo.errors import InputError
from visionzoo.faces import CropBox, FaceDetector, centre_box, choose_face, concerns, crop_face, face_box, open_detector
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.jobs import Progress, silent
from visionzoo.stored import Stored
from visionzoo.task_pipeline import CUSTOM, TaskPipeline

from ...models.mcnet import Keypoints, MCNet, SourceCache, transfer_motion
from .driver import DrivingVideo
from .live import Live
from .motion import Motion, batches, nearest_frame, repair_keypoints
from .options import DrivingCrop, Mode, ReenactOptions, SourceCrop

SMALL_MODEL = "mcnet_nano"
"""The network whose weights come with visionzoo; it was trained on rendered heads."""
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Portrait:
    """A source image, cropped and encoded.

    Attributes:
        frame: the image, (H, W, 3) uint8.
        box: the part of it that the network sees; None for all of it.
        crop: this part, (S, S, 3) uint8.
        cache: its encoding.
    """

    frame: Pixels
    box: CropBox | None
    crop: Pixels
    cache: SourceCache


@dataclass(frozen=True)
class ReenactResult:
    """An animated face.

    Attributes:
        frames: (N, S, S, 3) uint8 RGB.
        fps: frames per second.
        motion: the driver's motion, which can be reused.
    """

    frames: Pixels
    fps: Fraction
    motion: Motion


class ReenactPipeline(TaskPipeline):
    """Animates faces with MCNet (arXiv 2307.09906).

    Args:
        model: the network; it stays unchanged, as a fused copy runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what precision the network runs. On a CPU "auto" is bfloat16 if it has instructions for
            it, else float32; see `MCNet.compute_in` for what stays in float32.
        checkpoint: the weights file that was loaded, recorded with results.
        size: side of the crops in pixels; the published network was trained at 256.
        detector: name of the face detector; see `visionzoo.faces.open_detector`.

    Raises:
        InputError: the network cannot work at this size.
    """

    task = "reenact"
    kind = "reenactment"
    default_model = "mcnet"
    networks = (MCNet,)
    files = "visionzoo.pipelines.reenact.files:ReenactJob"

    def __init__(
        self,
        model: MCNet,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
        size: int = 256,
        detector: str = "auto",
    ):
        if size % model.config.size_multiple or size < model.config.smallest_side:
            raise InputError(
                f"size must be a multiple of {model.config.size_multiple} and at least {model.config.smallest_side}, got {size}"
            )
        super().__init__(model, name, device, dtype, checkpoint)
        if dtype == "auto" and has_fast_bfloat16(self.device):
            self.dtype = torch.bfloat16
        self.size = size
        self.model = model.fuse().to(self.device).compute_in(self.dtype)
        self.detector_name = detector
        self._detector: FaceDetector | None = None

    @classmethod
    def stored_settings(cls, stored: Stored) -> dict[str, Any]:
        return {"size": stored.image_size} if stored.image_size else {}

    @classmethod
    def instead(cls, model: str) -> str:
        if cls.variant(model) == SMALL_MODEL:
            return ""
        return (
            f"; to try it without them, run visionzoo reenact samples -o talking, then use --model {SMALL_MODEL}, which was "
            "trained on rendered heads like those of the samples"
        )

    def settings(self) -> dict[str, Any]:
        return {"image_size": self.size}

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "size": self.size, "detector": self.detector_name}

    # Faces

    @property
    def detector(self) -> FaceDetector:
        if self._detector is None:
            found = open_detector(self.detector_name)
            if found is None:
                raise InputError("no face detector works here; see `visionzoo doctor`, or use --crop centre")
            self._detector = found
        return self._detector

    def portrait(self, source: Any, *, crop: SourceCrop = "auto", face: int | str = "largest") -> Portrait:
        """A source image, cropped and encoded.

        Args:
            source: whatever `load_image` takes.
            crop: see `SourceCrop`.
            face: "largest", or its number counted from the left, from 1; with `crop` "auto".

        Raises:
            InputError: the image cannot be read, or does not show this face.
        """
        frame = load_image(source)
        name = str(source) if isinstance(source, str | Path) else "the image"
        box = self._still_box(frame, crop, face, name)
        pixels = self.cut(frame, box)
        with torch.inference_mode():
            cache = self.model.encode_source(self.tensor([pixels]))
        return Portrait(frame, box, pixels, cache)

    def _still_box(self, frame: Pixels, crop: SourceCrop, face: int | str, name: str) -> CropBox | None:
        if not isinstance(crop, str):
            return crop
        height, width = frame.shape[:2]
        if crop != "auto":
            return None if crop == "none" else centre_box(height, width)
        try:
            found = choose_face(self.detector(frame), face)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if found is None:
            raise InputError(
                f"{name}: no face found; use an image that shows a face from the front, or use --crop centre"
            )
        box = face_box(found, frame=(height, width))
        for concern in concerns(found, box, height, width, size=self.size):
            warnings.warn(f"{name}: {concern}", stacklevel=3)
        return box

    def cut(self, frame: Pixels, box: CropBox | None) -> Pixels:
        """The part of a frame that the network sees: (H, W, 3) -> (S, S, 3)."""
        if box is not None:
            return crop_face(frame, box, self.size)
        return np.asarray(Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def tensor(self, crops: list[Pixels]) -> Tensor:
        """Crops (S, S, 3) uint8 -> the network's input (B, 3, S, S) in [0, 1], on its device."""
        return to_float(np.stack(crops), device=self.device)

    # Motion

    def motion(
        self,
        driving: str | Path,
        *,
        crop: DrivingCrop = "auto",
        face: int | str = "largest",
        batch_size: int = 8,
        keep_crops: bool = False,
        progress: Progress = silent,
    ) -> Motion:
        """The driver's keypoints, frame by frame.

        The video is decoded once. With `crop` "auto" and "follow" its frames are needed twice, and are kept in memory up to
        `driver.KEPT_BYTES`; a longer video is decoded twice.

        Args:
            driving: a video, or a motion template of this network.
            crop: see `DrivingCrop`; "auto" is around all positions of the face, "follow" removes its movement across the frame.
            face: as in `portrait`.
            keep_crops: keep what the network sees of each frame in the result.

        Raises:
            InputError: the file cannot be read, shows no face, or is a template of another network.
        """
        driving = Path(driving)
        if driving.suffix == ".safetensors":
            return self._own(Motion.load(driving), driving)
        video = DrivingVideo(driving, keep=crop in ("auto", "follow"))
        box_of = video.boxes(crop, face, lambda: self.detector, progress)
        found: list[Keypoints] = []
        times: list[float] = []
        boxes: list[CropBox | None] = []
        crops: list[Pixels] = []
        for part in batches(video, batch_size):
            here = [box_of(frame.number) for frame in part]
            cut = [self.cut(frame.pixels, box) for frame, box in zip(part, here, strict=True)]
            with torch.inference_mode():
                points = self.model.detect(self.tensor(cut))
            found.append(Keypoints(points.value.float().cpu(), points.jacobian.float().cpu()))
            times += [frame.time_s for frame in part]
            boxes += here
            crops += cut if keep_crops else []
            progress("keypoints", len(times), video.count(len(times)))
        keypoints = Keypoints(torch.cat([part.value for part in found]), torch.cat([part.jacobian for part in found]))
        return Motion(
            repair_keypoints(keypoints, driving),
            np.array(times),
            video.info.fps,
            self.fingerprint,
            self.size,
            tuple(boxes),
            np.stack(crops) if keep_crops else None,
        )

    def _own(self, motion: Motion, path: Path) -> Motion:
        if motion.weights != self.fingerprint:
            raise InputError(
                f"{path}: holds keypoints of other weights; make it again from the video with these weights"
            )
        return motion

    # Animation

    def transfer(
        self,
        portrait: Portrait,
        motion: Motion,
        *,
        mode: Mode = "relative",
        adapt_scale: bool = True,
        start: int | str = "best",
    ) -> Keypoints:
        """The target keypoints of the source in each frame.

        Args:
            mode, adapt_scale, start: see `ReenactOptions`.

        Raises:
            InputError: there is no such frame or mode.
        """
        source = Keypoints(portrait.cache.keypoints.value.cpu(), portrait.cache.keypoints.jacobian.cpu())
        if start == "best":
            first = nearest_frame(source.value[0], motion)
        else:
            first = 0 if start == "first" else int(start)
        if not 0 <= first < len(motion):
            raise InputError(f"start must be a frame from 0 to {len(motion) - 1}, got {first}")
        initial = motion.keypoints.at(slice(first, first + 1))
        moved = transfer_motion(source, motion.keypoints, initial, mode=mode, adapt_scale=adapt_scale)
        return repair_keypoints(moved, "the motion")

    def animate(
        self,
        portrait: Portrait,
        keypoints: Keypoints,
        *,
        batch_size: int = 8,
        noise: Literal["none", "fixed", "random"] = "none",
        seed: int = 0,
        rng: torch.Generator | None = None,
    ) -> Iterator[Pixels]:
        """Frames (S, S, 3) uint8, one by one, with a batch of them in memory.

        Args:
            keypoints: result of `transfer`.
            noise: noise in the network's memory; the published code draws it at random in every frame.
            seed: random seed for the noise.
            rng: generator to use instead of one with this seed, for motions that are animated in pieces.
        """
        rng = torch.Generator().manual_seed(seed) if rng is None else rng
        for start in range(0, len(keypoints.value), batch_size):
            part = keypoints.at(slice(start, start + batch_size))
            here = Keypoints(part.value.to(self.device), part.jacobian.to(self.device))
            with torch.inference_mode():
                made = self.model.animate(portrait.cache, here, noise=noise, rng=rng)
            if not made.isfinite().all():
                raise InputError(f"the network gives no finite numbers in {self.dtype}; try dtype='float32'")
            yield from to_uint8(made)

    def __call__(
        self, source: Any, driving: str | Path | Motion, options: ReenactOptions | None = None, **settings: Any
    ) -> ReenactResult:
        """The source animated by the driver: all frames in memory; see `run` for files.

        Args:
            source: an image, whatever `load_image` takes.
            driving: a video, a motion template, or the `motion` of a result of this pipeline.
            options: see `ReenactOptions`; those of files (view, sound, marks) have no effect here.
            **settings: fields of the options, e.g. mode="absolute".

        Raises:
            InputError: a file that cannot be read or used, or a setting that does not exist.
        """
        how = configure(options or ReenactOptions(), settings)
        portrait = self.portrait(source, crop=how.crop, face=how.face)
        if not isinstance(driving, Motion):
            driving = self.motion(driving, crop=how.crop_driving, face=how.face_driving, batch_size=how.batch_size)
        even = driving.even()
        steady = even.smooth(how.smooth)
        keypoints = self.transfer(portrait, steady, mode=how.mode, adapt_scale=how.adapt_scale, start=how.start)
        made = self.animate(portrait, keypoints, batch_size=how.batch_size, noise=how.noise, seed=how.seed)
        return ReenactResult(np.stack(list(made)), even.fps, driving)

    def live(
        self, source: Any, *, mode: Mode = "relative", adapt_scale: bool = True, crop: SourceCrop = "auto"
    ) -> Live:
        """Reenactment frame by frame in constant memory, for a webcam. Arguments as in `ReenactOptions`."""
        return Live(self, self.portrait(source, crop=crop), mode=mode, adapt_scale=adapt_scale)


__all__ = ["Live", "Portrait", "ReenactPipeline", "ReenactResult"]
