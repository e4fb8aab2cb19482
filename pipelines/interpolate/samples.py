"""Videos with few frames per second, to try frame interpolation: a cartoon character who walks, and a moving view of a photo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionzoo.errors import require
from visionzoo.io.files import bundled, check_output, make_folder
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoWriter

FPS = 6


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the videos into a folder, which is made if it does not exist.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists.
    """
    require("cv2", extra="toy", purpose="drawing the toy world")
    folder = make_folder(folder)
    clips = {folder / "walk.mp4": _walk, folder / "temple.mp4": _view}
    for path in clips:
        check_output(path, overwrite=overwrite)
    for path, frames in clips.items():
        with VideoWriter(path, fps=FPS, crf=14, overwrite=True) as writer:
            for frame in frames():
                writer.write(frame)
    return list(clips)


def _walk() -> Iterator[NDArray[np.uint8]]:
    """Every second frame of a clip of the toy world's test split."""
    from visionzoo.data.toy_world import ToyWorld

    clip = ToyWorld.create(3, "test", places=2).film(
        48, size=(256, 256), actions=("go right", "wait", "zoom in"), hold=16
    )
    for number, frame in enumerate(clip.frames(motion=False)):
        if number % 2 == 0:
            yield frame.rgb


def _view(count: int = 18, size: tuple[int, int] = (320, 240)) -> Iterator[NDArray[np.uint8]]:
    """A view that moves over a photo and comes closer."""
    photo = Image.fromarray(load_image(bundled("photos", "temple_1.jpg")))
    width, height = photo.size
    for number in range(count):
        place = number / (count - 1)
        wide = width * (0.8 - 0.25 * place)
        high = wide * size[1] / size[0]
        left, top = (width - wide) * (0.1 + 0.8 * place), (height - high) * 0.5
        yield np.asarray(photo.resize(size, Image.Resampling.LANCZOS, (left, top, left + wide, top + high)))


__all__ = ["write_samples"]
