"""Reenactment from files to files: videos with the driver's sound, one or many sources, pasted back or side by side."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from visionzoo.errors import InputError
from visionzoo.faces import paste_face
from visionzoo.io.extensions import IMAGES, VIDEOS_WRITTEN
from visionzoo.io.files import check_output, record, write_json
from visionzoo.io.image import list_images
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.watermark import add_label, add_watermark

from .motion import Motion
from .pipeline import Crop, DrivingCrop, Mode, Pixels, Portrait, Progress, ReenactPipeline

View = Literal["face", "whole", "side-by-side"]
"""What a video shows: the animated crop, the source picture with the crop pasted back, or source, driver and result in a row."""


@dataclass(frozen=True)
class ReenactedFile:
    """What became of one source.

    Attributes:
        source, output: the files.
        width, height, frames: of the video.
        seconds: of work; 0 where the output was there already.
        error: why there is no output, or None.
    """

    source: str
    output: str | None = None
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ReenactJob:
    """Animates picture files with one driver.

    Attributes:
        driving: a video, or a motion template.
        mode, adapt_scale, start: see `ReenactPipeline.transfer`.
        crop, face: of the sources; crop_driving, face_driving: of the driver.
        smooth: takes jitter off the motion, from 0 to below 1.
        view: see `View`.
        watermark: mark frames invisibly as synthetic (`visionzoo.watermark.read_watermark` finds it).
        label: also write "synthetic" into a corner.
        sound: take the driver's along.
        save_motion: also write the driver's motion template here.
        batch_size: frames that go through the network together.
        noise, seed: see `ReenactPipeline.animate`.
        overwrite: make existing outputs anew.
    """

    pipe: ReenactPipeline
    driving: Path | str = ""
    mode: Mode = "relative"
    adapt_scale: bool = True
    start: int | Literal["best", "first"] = "best"
    crop: Crop = "auto"
    crop_driving: DrivingCrop = "auto"
    face: int | str = "largest"
    face_driving: int | str = "largest"
    smooth: float = 0.0
    view: View = "face"
    watermark: bool = True
    label: bool = False
    sound: bool = True
    save_motion: Path | None = None
    batch_size: int = 8
    noise: Literal["none", "fixed", "random"] = "none"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not str(self.driving):
            raise InputError("give the driving video, or a motion template")
        if not 0 <= self.smooth < 1:
            raise InputError(f"smooth is at least 0 and below 1, got {self.smooth:g}")
        if self.batch_size < 1:
            raise InputError(f"batch_size is at least 1, got {self.batch_size}")
        if self.view not in ("face", "whole", "side-by-side"):
            raise InputError(f"view is face, whole or side-by-side, got {self.view!r}")
        if self.save_motion is not None and self.save_motion.suffix != ".safetensors":
            raise InputError(f"{self.save_motion}: motion templates are written as .safetensors")

    @property
    def template(self) -> bool:
        """Whether the driver is a template, without pictures and sound."""
        return Path(self.driving).suffix == ".safetensors"

    def run(self, path_in: Any, path_out: Path, progress: bool = True) -> list[ReenactedFile]:
        """One picture to a video file, or several, a folder or a glob pattern to a folder.

        In a folder, outputs that are there already are left alone (unless `overwrite`); sources that cannot be used are warned
        of and noted in the results.

        Raises:
            InputError: the driver cannot be used, no source can, or an output cannot be written.
        """
        todo = plan(path_in, path_out)
        many = len(todo) > 1 or todo[0][1] != path_out
        if not many:
            check_output(path_out, overwrite=self.overwrite)
        elif not path_out.exists():
            path_out.mkdir(parents=True)
        if self.save_motion is not None:
            check_output(self.save_motion, overwrite=self.overwrite)
        left = [pair for pair in todo if not (many and pair[1].exists() and not self.overwrite)]
        if not left:
            return [ReenactedFile(str(source), str(target)) for source, target in todo]
        with _Bars(progress) as bars:
            motion = self._motion(bars.show)
            results = []
            for source, target in todo:
                if (source, target) not in left:
                    results.append(ReenactedFile(str(source), str(target)))
                    continue
                try:
                    results.append(self._one(source, target, motion, bars.show))
                except InputError as error:
                    if not many:
                        raise
                    warnings.warn(str(error), stacklevel=2)
                    results.append(ReenactedFile(str(source), error=str(error)))
        if all(result.error for result in results):
            raise InputError(f"none of {len(results)} pictures could be animated, e.g. {results[0].error}")
        return results

    def animate(self, source: Any, target: Path, tell: Progress) -> ReenactedFile:
        """One picture, whatever `load_image` takes, to a video file."""
        return self._one(source, target, self._motion(tell), tell)

    def _motion(self, tell: Progress) -> Motion:
        motion = self.pipe.motion(
            self.driving, crop=self.crop_driving, face=self.face_driving, batch_size=self.batch_size, progress=tell
        )
        if self.save_motion is not None:
            motion.save(self.save_motion)
        if len(motion) == 1 and self.mode == "relative":
            warnings.warn(
                f"{self.driving}: has one frame, so nothing moves; --mode absolute takes its pose", stacklevel=3
            )
        return motion.even().steadied(self.smooth)

    def _one(self, source: Any, target: Path, motion: Motion, tell: Progress) -> ReenactedFile:
        started = time.monotonic()
        portrait = self.pipe.portrait(source, crop=self.crop, face=self.face)
        keypoints = self.pipe.transfer(portrait, motion, mode=self.mode, adapt_scale=self.adapt_scale, start=self.start)
        frames = self.pipe.animate(portrait, keypoints, batch_size=self.batch_size, noise=self.noise, seed=self.seed)
        sound = Path(self.driving) if self.sound and not self.template else None
        height = width = 0
        with VideoWriter(target, fps=motion.fps, audio_from=sound, overwrite=self.overwrite) as writer:
            for frame in self._composed(portrait, frames, motion):
                if self.watermark:
                    frame = add_watermark(frame)
                if self.label:
                    frame = add_label(frame)
                height, width = frame.shape[:2]
                writer.write(frame)
                tell(f"frames of {target.name}", writer.frames, len(motion))
        seconds = round(time.monotonic() - started, 3)
        name = str(source) if isinstance(source, str | Path) else "picture"
        result = ReenactedFile(name, str(target), width, height, writer.frames, seconds)
        write_json(f"{target}.json", {"result": result.to_dict(), **record({**self.pipe.facts(), **self.facts()})})
        return result

    def _composed(self, portrait: Portrait, frames: Iterator[Pixels], motion: Motion) -> Iterator[Pixels]:
        """The frames as the video shows them."""
        if self.view == "face":
            yield from frames
        elif self.view == "whole":
            height, width = portrait.frame.shape[:2]
            for frame in frames:
                if portrait.box is None:
                    yield np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
                else:
                    yield paste_face(portrait.frame, frame, portrait.box)
        elif self.template:
            for frame in frames:
                yield np.hstack([portrait.crop, frame])
        else:
            for driver, frame in zip(self._drivers(motion), frames, strict=False):
                yield np.hstack([portrait.crop, driver, frame])

    def _drivers(self, motion: Motion) -> Iterator[Pixels]:
        """The driver's crops at the motion's times."""
        box_of = self.pipe.driving_boxes(Path(self.driving), self.crop_driving, self.face_driving, lambda *_: None)
        source = read_frames(self.driving)
        frame = next(source)
        following = next(source, None)
        for time_s in motion.times:
            while following is not None and following.time_s <= time_s + 1e-6:
                frame, following = following, next(source, None)
            yield self.pipe.cut(frame.pixels, box_of(frame.number))

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        kept = {key: value for key, value in vars(self).items() if key not in ("pipe", "overwrite", "batch_size")}
        return {key: str(value) if isinstance(value, Path) else value for key, value in kept.items()}


class _Bars:
    """A bar for every kind of work, one after the other."""

    def __init__(self, shown: bool):
        self.shown = shown
        self._what, self._bar = "", None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, what: str, done: int, of: int) -> None:
        if self._bar is None or what != self._what:
            self.__exit__()
            self._what, self._bar = what, tqdm(total=of, desc=what, unit="frame", disable=None if self.shown else True)
        self._bar.total = max(of, done)
        self._bar.update(done - self._bar.n)


def plan(path_in: Any, path_out: Path) -> list[tuple[Path, Path]]:
    """Sources and the videos that they become.

    Raises:
        InputError: nothing found, or an output that does not fit.
    """
    given = [Path(path_in)] if isinstance(path_in, str | os.PathLike) else [Path(path) for path in path_in]
    paths = list_images(given)
    ending = path_out.suffix.lower()
    single = len(given) == 1 and given[0].is_file()
    if single and ending and not path_out.is_dir():
        if ending not in VIDEOS_WRITTEN:
            raise InputError(f"{path_out}: videos are written as {', '.join(VIDEOS_WRITTEN)}")
        return [(paths[0], path_out)]
    if ending in VIDEOS_WRITTEN or ending in IMAGES or path_out.is_file():
        raise InputError(f"{path_out}: several sources need a folder as the output; leave the ending away")
    targets: dict[Path, Path] = {}
    for path in paths:
        target = path_out / f"{path.stem}.mp4"
        if target in targets:
            raise InputError(f"{path} and {targets[target]} would both become {target}; animate one of them elsewhere")
        targets[target] = path
    return [(path, target) for target, path in targets.items()]


def check_driver(driving: Path) -> None:
    """Raise `InputError` for a driver that cannot be opened, before weights are loaded."""
    if driving.suffix == ".safetensors":
        Motion.load(driving)
    else:
        probe(driving)


__all__ = ["ReenactJob", "ReenactedFile", "check_driver", "plan"]
