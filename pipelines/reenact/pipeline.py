"""Make a still face move like the one in a video.

pipe = visionzoo.pipeline("reenact", checkpoint="00000099-checkpoint.pth.tar")
result = pipe("face.jpg", "talk.mp4")                # .frames (N, 256, 256, 3) uint8
pipe.run("face.jpg", "out.mp4", driving="talk.mp4")  # with the driver's sound
live = pipe.live("face.jpg")                         # live(frame) -> frame, for a webcam
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from visionzoo.config import as_dict
from visionzoo.devices import pick_device, pick_dtype
from visionzoo.errors import InputError
from visionzoo.faces import (
    CropBox,
    FaceDetector,
    centre_box,
    choose_face,
    concerns,
    crop_face,
    face_box,
    fixed_box,
    follow_face,
    moving_boxes,
    open_detector,
)
from visionzoo.io.files import write_json
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.io.video import probe, read_frames
from visionzoo.registry import create_model, list_models, model_entry, weight_source
from visionzoo.stored import read_stored
from visionzoo.weights import WeightsError, fetch, fingerprint, save_safetensors

from ...models.mcnet import Keypoints, MCNet, SourceCache, transfer_motion
from .live import Live
from .motion import Motion, batches, nearest_frame, whole

DEFAULT_MODEL = "mcnet"
SMALL_MODEL = "mcnet_nano"
"""Knows two people, and comes with visionzoo."""
TO_TRY = (
    "to try it without: visionzoo reenact samples -o talking, then --model mcnet_nano, which knows the people in them"
)
Pixels = NDArray[np.uint8]
Crop = Literal["auto", "centre", "none"] | CropBox
"""Which square of a picture the network sees: around the face, the largest in the middle, all of it (squeezed), or this one."""
DrivingCrop = Crop | Literal["follow"]
"""The same of a video: "auto" and the others stay where they are, "follow" keeps the face in the middle of every frame."""
Mode = Literal["relative", "absolute"]
Progress = Callable[[str, int, int], object]
"""Called with (what is being done, done, of)."""
SEARCH_EVERY = 5
"""In videos a face is searched for in every fifth frame, for a crop that stays."""


@dataclass(frozen=True)
class Portrait:
    """A source picture made ready.

    Attributes:
        frame: the picture, (H, W, 3) uint8.
        box: what the network sees of it; None for all of it.
        crop: that, (S, S, 3) uint8.
        cache: what the network made of it.
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
        fps: frames a second.
        motion: the driver's, to use again.
    """

    frames: Pixels
    fps: Fraction
    motion: Motion


class ReenactPipeline:
    """Animates faces with MCNet (arXiv 2307.09906).

    Args:
        model: the network; it stays as it is, its fused form runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what the network runs.
        checkpoint: the weights file that was loaded, recorded beside results.
        size: side of the crops in pixels; the published network was trained at 256.
        detector: of faces, by name; see `visionzoo.faces.open_detector`.
    """

    def __init__(
        self,
        model: MCNet,
        name: str = "custom",
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
        size: int = 256,
        detector: str = "auto",
    ):
        if size % model.config.size_multiple or size < model.config.smallest_side:
            raise InputError(
                f"size is a multiple of {model.config.size_multiple} from {model.config.smallest_side} on, got {size}"
            )
        self.name, self.config, self.size = name, model.config, size
        self.checkpoint = None if checkpoint is None else str(Path(checkpoint).absolute())
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.fingerprint = fingerprint(model)
        self.network = model
        self.model = model.fuse().to(self.device, self.dtype)
        self.detector_name = detector
        self._detector: FaceDetector | None = None

    @classmethod
    def create(
        cls,
        model: str | nn.Module | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        size: int | None = None,
        detector: str = "auto",
        **config_overrides: Any,
    ) -> ReenactPipeline:
        """A pipeline for `model`, with the weights of `checkpoint` or else the model's own.

        Args:
            model: a registered name or an `MCNet`; None is the checkpoint's, or `mcnet`.
            checkpoint: published or own key names; a file that `visionzoo fit` wrote says which model it is for.
            size: side of crops; None is what the checkpoint was trained for, or 256.
            detector: of faces, by name: auto, mtcnn or centerface.
            **config_overrides: fields of `MCNetConfig`.

        Raises:
            InputError: a name, file or setting that cannot be used, or a model without weights here.
        """
        if isinstance(model, nn.Module):
            if not isinstance(model, MCNet):
                raise InputError(f"expected an MCNet network or a name, got {type(model).__name__}")
            if checkpoint is not None or config_overrides:
                raise InputError("a network has its weights and configuration; a checkpoint and fields go with a name")
            return cls(model, "custom", device, dtype, size=size or 256, detector=detector)
        known = list_models(task="reenact")
        if model is not None and model_entry(model).card.name not in known:
            raise InputError(f"{model} animates no faces; use {', '.join(known)}")
        if checkpoint is None:
            source = weight_source(model or DEFAULT_MODEL)
            try:
                path = fetch(source)
            except WeightsError as error:
                if model is None:
                    raise WeightsError(f"{error}; {TO_TRY}") from error
                raise
            if source.caution:
                warnings.warn(f"{model or DEFAULT_MODEL}: {source.caution}", stacklevel=2)
        else:
            path = Path(checkpoint)
        stored = read_stored(path)
        if stored.model is not None and stored.model not in known:
            raise InputError(f"{path}: is for {stored.model!r}, which animates no faces; see `visionzoo models`")
        name = model or stored.model or DEFAULT_MODEL
        network = create_model(name, checkpoint=path, **{**stored.config, **config_overrides})
        assert isinstance(network, MCNet)
        return cls(network, name, device, dtype, checkpoint, size or stored.image_size or 256, detector)

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "auto", dtype: str = "auto") -> ReenactPipeline:
        """The pipeline that `save_pretrained` wrote to `directory`, or the one of a registered model's name."""
        folder = Path(directory)
        if not folder.is_dir():
            return cls.create(str(directory), device, dtype)
        try:
            saved = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
            name, config, size = str(saved["model"]), dict(saved["config"]), int(saved["size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: holds no saved reenactment pipeline (pipeline.json: {error})") from error
        base = DEFAULT_MODEL if name == "custom" else name  # every field is in the file
        if model_entry(base).card.task != "reenact":
            raise InputError(f"{folder}: holds no saved reenactment pipeline (its model is {name})")
        network = create_model(base, checkpoint=folder / "model.safetensors", **config)
        assert isinstance(network, MCNet)
        return cls(network, name, device, dtype, size=size)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model's weights (not fused) and settings to a folder; `model.safetensors` in it is a checkpoint of its own."""
        if self.network.is_fused:
            raise InputError("a fused network cannot be saved to be loaded again; save the one that it was made of")
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = as_dict(self.config)
        metadata = {"config": json.dumps(config), "image_size": str(self.size)}
        metadata["model"] = DEFAULT_MODEL if self.name == "custom" else model_entry(self.name).card.name
        save_safetensors(self.network.state_dict(), folder / "model.safetensors", metadata)
        write_json(folder / "pipeline.json", {"model": self.name, "config": config, "size": self.size})

    def to(self, device: str | torch.device) -> ReenactPipeline:
        """Move the network; returns the pipeline."""
        self.device = pick_device(device)
        self.model.to(self.device)
        return self

    def facts(self) -> dict[str, Any]:
        """What results depend on, for records."""
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "weights": self.fingerprint,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "size": self.size,
        }

    # Faces

    @property
    def detector(self) -> FaceDetector:
        if self._detector is None:
            found = open_detector(self.detector_name)
            if found is None:
                raise InputError("no face detector works here; see `visionzoo doctor`, or give --crop centre")
            self._detector = found
        return self._detector

    def portrait(self, source: Any, *, crop: Crop = "auto", face: int | str = "largest") -> Portrait:
        """A source picture, cropped and encoded.

        Args:
            source: whatever `load_image` takes.
            crop: see `Crop`.
            face: "largest", or its number from the left, from 1; with `crop` "auto".

        Raises:
            InputError: the picture cannot be read, or shows no such face.
        """
        frame = load_image(source)
        name = str(source) if isinstance(source, str | Path) else "the picture"
        box = self._still_box(frame, crop, face, name)
        pixels = self.cut(frame, box)
        with torch.inference_mode():
            cache = self.model.encode_source(self.tensor([pixels]))
        return Portrait(frame, box, pixels, cache)

    def _still_box(self, frame: Pixels, crop: Crop, face: int | str, name: str) -> CropBox | None:
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
                f"{name}: no face found; take a picture that shows one from the front, or give --crop centre"
            )
        box = face_box(found, frame=(height, width))
        for concern in concerns(found, box, height, width, size=self.size):
            warnings.warn(f"{name}: {concern}", stacklevel=3)
        return box

    def cut(self, frame: Pixels, box: CropBox | None) -> Pixels:
        """What the network sees of a frame: (H, W, 3) -> (S, S, 3)."""
        if box is not None:
            return crop_face(frame, box, self.size)
        return np.asarray(Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def tensor(self, crops: list[Pixels]) -> Tensor:
        """Crops (S, S, 3) uint8 as the network takes them: (B, 3, S, S) in [0, 1], on its device."""
        return to_float(np.stack(crops), device=self.device)

    # Motion

    def motion(
        self,
        driving: str | Path,
        *,
        crop: DrivingCrop = "auto",
        face: int | str = "largest",
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Motion:
        """The driver's keypoints, frame by frame; the video is read frame by frame (twice with `crop` "auto").

        Args:
            driving: a video, or a motion template of this network.
            crop: see `DrivingCrop`; "auto" is around the whole way of the face, "follow" takes its way across the frame out.
            face: as of `portrait`.

        Raises:
            InputError: the file cannot be read, shows no face, or is a template of another network.
        """
        driving = Path(driving)
        if driving.suffix == ".safetensors":
            return self._own(Motion.load(driving), driving)
        tell = progress or (lambda what, done, of: None)
        info = probe(driving)
        box_of = self.driving_boxes(driving, crop, face, tell)
        found: list[Keypoints] = []
        times: list[float] = []
        for part in batches(read_frames(driving), batch_size):
            with torch.inference_mode():
                points = self.model.detect(
                    self.tensor([self.cut(frame.pixels, box_of(frame.number)) for frame in part])
                )
            found.append(Keypoints(points.value.float().cpu(), points.jacobian.float().cpu()))
            times += [frame.time_s for frame in part]
            tell("keypoints", len(times), max(info.frames, len(times)))
        keypoints = Keypoints(torch.cat([part.value for part in found]), torch.cat([part.jacobian for part in found]))
        keypoints = _mended(keypoints, driving)
        return Motion(keypoints, np.array(times), info.fps, self.fingerprint, self.size)

    def _own(self, motion: Motion, path: Path) -> Motion:
        if motion.weights != self.fingerprint:
            raise InputError(f"{path}: holds keypoints of other weights; make it again from the video with these")
        return motion

    def driving_boxes(
        self, driving: Path, crop: DrivingCrop, face: int | str, tell: Progress
    ) -> Callable[[int], CropBox | None]:
        """Number of a video's frame -> the square of it that the network sees; None for all of it."""
        if crop == "none" or not isinstance(crop, str):
            return lambda number: None if isinstance(crop, str) else crop
        info = probe(driving)
        if crop == "centre":
            return lambda number: centre_box(info.height, info.width)

        def frames() -> Iterator[tuple[float, Pixels]]:
            for frame in read_frames(driving):
                tell("faces", frame.number + 1, max(info.frames, frame.number + 1))
                yield frame.number / float(info.fps), frame.pixels

        try:
            track = follow_face(frames(), self.detector, face, every=SEARCH_EVERY)
        except InputError as error:
            raise InputError(f"{driving}: {error}" if str(driving) not in str(error) else str(error)) from error
        if not track.found.any():
            raise InputError(
                f"{driving}: no face found; take a video that shows one from the front, or give --crop-driving centre"
            )
        if crop == "follow":
            boxes = moving_boxes(track)
            return lambda number: boxes[min(number, len(boxes) - 1)]
        box = fixed_box(track)
        return lambda number: box

    # Animation

    def transfer(
        self,
        portrait: Portrait,
        motion: Motion,
        *,
        mode: Mode = "relative",
        adapt_scale: bool = True,
        start: int | Literal["best", "first"] = "best",
    ) -> Keypoints:
        """The keypoints that the source shall have in each frame.

        Args:
            mode: "relative" keeps the source's shape and place, and moves it as the driver moved since frame `start`; "absolute"
                takes the driver's keypoints as they are.
            adapt_scale: relative: fit movements to the size of the source's face.
            start: relative: the frame that is taken to have the source's pose: "best" finds it, "first", or a number from 0.

        Raises:
            InputError: no such frame, or mode.
        """
        source = Keypoints(portrait.cache.keypoints.value.cpu(), portrait.cache.keypoints.jacobian.cpu())
        if start == "best":
            first = nearest_frame(source.value[0], motion)
        else:
            first = 0 if start == "first" else start
        if not 0 <= first < len(motion):
            raise InputError(f"start is a frame from 0 to {len(motion) - 1}, got {first}")
        initial = motion.keypoints.at(slice(first, first + 1))
        moved = transfer_motion(source, motion.keypoints, initial, mode=mode, adapt_scale=adapt_scale)
        return _mended(moved, "the motion")

    def animate(
        self,
        portrait: Portrait,
        keypoints: Keypoints,
        *,
        batch_size: int = 8,
        noise: Literal["none", "fixed", "random"] = "none",
        seed: int = 0,
    ) -> Iterator[Pixels]:
        """Frames (S, S, 3) uint8, one by one, with a batch of them in memory.

        Args:
            keypoints: of `transfer`.
            noise: in the network's memory; the published code draws it at random in every frame.
            seed: of it.
        """
        rng = torch.Generator().manual_seed(seed)
        for start in range(0, len(keypoints.value), batch_size):
            part = keypoints.at(slice(start, start + batch_size))
            here = Keypoints(part.value.to(self.device), part.jacobian.to(self.device))
            with torch.inference_mode():
                made = self.model.animate(portrait.cache, here, noise=noise, rng=rng)
            if not made.isfinite().all():
                raise InputError(f"the network gives no finite numbers in {self.dtype}; try dtype='float32'")
            yield from to_uint8(made)

    def __call__(
        self,
        source: Any,
        driving: str | Path | Motion,
        *,
        mode: Mode = "relative",
        adapt_scale: bool = True,
        start: int | Literal["best", "first"] = "best",
        crop: Crop = "auto",
        crop_driving: DrivingCrop = "auto",
        face: int | str = "largest",
        smooth: float = 0.0,
        batch_size: int = 8,
    ) -> ReenactResult:
        """The source animated by the driver: all frames in memory; see `run` for files.

        Args:
            source: a picture, whatever `load_image` takes.
            driving: a video, a motion template, or the `motion` of a result of this pipeline.
            mode, adapt_scale, start: see `transfer`.
            crop, face: of the source, see `portrait`; crop_driving: of the driver, see `DrivingCrop`.
            smooth: takes jitter off the motion, from 0 to below 1.

        Raises:
            InputError: a file that cannot be read or used.
        """
        portrait = self.portrait(source, crop=crop, face=face)
        if not isinstance(driving, Motion):
            driving = self.motion(driving, crop=crop_driving, batch_size=batch_size)
        steady = driving.even().steadied(smooth)
        keypoints = self.transfer(portrait, steady, mode=mode, adapt_scale=adapt_scale, start=start)
        frames = np.stack(list(self.animate(portrait, keypoints, batch_size=batch_size)))
        return ReenactResult(frames, driving.fps, driving)

    def live(self, source: Any, *, mode: Mode = "relative", adapt_scale: bool = True, crop: Crop = "auto") -> Live:
        """Frame in, frame out, in constant memory: for a webcam. Arguments as of `__call__`."""
        return Live(self, self.portrait(source, crop=crop), mode, adapt_scale)

    def run(self, path_in: Any, path_out: str | Path, progress: bool = True, **options: Any) -> list[Any]:
        """Animate pictures into video files; see `visionzoo.pipelines.reenact.files.ReenactJob` for the options."""
        from .files import ReenactJob

        return ReenactJob(self, **options).run(path_in, Path(path_out), progress=progress)


def _mended(keypoints: Keypoints, name: object) -> Keypoints:
    """Frames without finite keypoints get those of the frame before (the first ones, of the first that has some)."""
    good = whole(keypoints)
    if bool(good.all()):
        return keypoints
    if not bool(good.any()):
        raise InputError(f"{name}: no frame has finite keypoints; try dtype='float32'")
    warnings.warn(f"{name}: {int((~good).sum())} frames without finite keypoints repeat the one before", stacklevel=3)
    number = torch.arange(len(good))
    last = torch.where(good, number, -1).cummax(0).values
    return keypoints.at(torch.where(last < 0, int(number[good][0]), last))


__all__ = ["Live", "Portrait", "ReenactPipeline", "ReenactResult"]
