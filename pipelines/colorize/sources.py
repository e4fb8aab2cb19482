"""What is coloured, and after what: frames of drawings or in colour, and the reference image."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visionzoo.errors import InputError, check_items
from visionzoo.io.image import load_image
from visionzoo.io.video import read_frames

from ...models.longanimation import LineartExtractor, is_line_art, prepare_frames, sketches_from
from .clip import frame_files
from .options import ColorizeOptions

__all__ = ["SketchMaker", "frames_of", "prepare_reference", "reference_sketch", "warn_of_grey"]

Pixels = NDArray[np.uint8]

ASPECT = 0.02
"""Relative difference of two aspects that nobody sees."""

GREY = 0.002
"""Share of coloured pixels below which an image has no colours; a small figure on paper has more."""

NO_LINEART = (
    "the video is in colour, and this pipeline has no line-art network that extracts its lines; give line drawings, or the part "
    "lineart, e.g. lineart=open_lineart('sk_model.pth') (lllyasviel/Annotators on the Hugging Face hub)"
)


def frames_of(source: Any) -> tuple[Iterable[Pixels], int | None]:
    """The frames (H, W, 3) uint8 of a video or of images, and their number if it is known without reading them.

    Args:
        source: path of a video or of a folder of images, an array (N, H, W, 3), or an iterable of images: arrays, PIL images or paths.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = frame_files(Path(source))
    elif isinstance(source, (str, Path)):
        return (frame.pixels for frame in read_frames(source)), None
    if isinstance(source, Image.Image) or (hasattr(source, "ndim") and source.ndim != 4):
        raise InputError("expected a video: a path, an array (N, H, W, 3), or images one after another; got one image")
    check_items("the video", source, "a path, an array (N, H, W, 3), or images one after another")
    return _images(source), len(source) if hasattr(source, "__len__") else None


def _images(source: Iterable[Any]) -> Iterator[Pixels]:
    for number, image in enumerate(source):
        try:
            yield load_image(getattr(image, "pixels", image))
        except InputError as error:
            raise InputError(f"frame {number} of the video: {error}") from error


def prepare_reference(image: Any, size: tuple[int, int], fit: str) -> Tensor:
    """A reference image in the size (height, width) of the video, (1, 3, height, width) uint8.

    Resizing is Lanczos with fit "stretch", as published, which distorts an image of another aspect (a warning says so), and that of
    the frames (cover and crop) with "crop".

    Raises:
        InputError: it cannot be read.
    """
    pixels = load_image(image)
    height, width = size
    if fit == "crop":
        return prepare_frames(pixels[None], height, width)
    if abs(pixels.shape[1] / pixels.shape[0] * height / width - 1) > ASPECT:
        warnings.warn(
            f"the reference image has {pixels.shape[1]} x {pixels.shape[0]} pixels and is stretched to {width} x {height} as "
            "published; reference_fit='crop' (--reference-fit crop) keeps its proportions",
            stacklevel=4,
        )
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).movedim(-1, 0)[None]


def warn_of_grey(reference: Tensor) -> None:
    """Warn of a reference image (1, 3, H, W) uint8 without colours, e.g. line art that was given instead of it."""
    coloured = reference.amax(1).int() - reference.amin(1).int() > 32
    if coloured.float().mean() < GREY:
        warnings.warn(
            "the reference image has almost no colours, and the result gets its colours from it; give an image in colour",
            stacklevel=4,
        )


def reference_sketch(drawing: Tensor, threshold: float) -> Tensor:
    """The sketch (1, 3, H, W) of a line drawing of the reference, (1, 3, H, W) uint8, with dark or bright lines.

    Raises:
        InputError: it is no line drawing.
    """
    inverted = is_line_art(drawing, inverted=True)
    if not inverted and not is_line_art(drawing):
        raise InputError(
            "the line drawing of the reference (reference_sketch) is none: too many pixels are coloured or of a middle grey; leave it "
            "out, so that the line-art network makes it"
        )
    return sketches_from(drawing, threshold, inverted=inverted, check=False)


class SketchMaker:
    """Turns the frames of one video into sketches: drawings directly, frames in colour by the line-art network.

    Args:
        lineart: a LineartGenerator, or None.
        options: line_source, inverted, line_threshold and batch_size.
        kind: "drawings" or "color", if it is known from an interrupted run.

    Attributes:
        kind: None before the first frames.
    """

    def __init__(self, lineart: Any, options: ColorizeOptions, kind: str | None = None):
        self._options, self.kind = options, kind
        self._extract = None
        if lineart is not None:
            self._extract = LineartExtractor(lineart, options.line_threshold, options.batch_size)

    @property
    def extracts(self) -> bool:
        """Whether there is a line-art network."""
        return self._extract is not None

    def look(self, frames: Tensor) -> str:
        """Whether frames (F, 3, H, W) uint8 are "drawings" or in "color", by the options.

        Raises:
            InputError: they cannot be used: colour without a line-art network, or bright lines without `inverted`.
        """
        options, drawn = self._options, is_line_art(frames, inverted=self._options.inverted)
        found = ("drawings" if drawn else "color") if options.line_source == "auto" else options.line_source
        if found == "color":
            if options.line_source == "auto" and is_line_art(frames, inverted=not options.inverted):
                sketches_from(frames, options.line_threshold, inverted=options.inverted)  # raises for bright lines
            if self._extract is None:
                raise InputError(NO_LINEART)
            if drawn and options.line_source == "color":
                warnings.warn(
                    "the video looks like line drawings; lines are extracted from it again, as line_source is 'color'",
                    stacklevel=3,
                )
        else:
            sketches_from(
                frames, options.line_threshold, inverted=options.inverted
            )  # raises for others, with the reason
        return found

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W) uint8 -> sketches (F, 3, H, W) float32: lines are 1, paper is -1.

        What the video is, is decided by its first frames; later ones may have large dark areas.
        """
        if self.kind is None:
            self.kind = self.look(frames)
        if self.kind == "drawings":
            return sketches_from(frames, self._options.line_threshold, inverted=self._options.inverted, check=False)
        return self.extract(frames)

    def extract(self, frames: Tensor) -> Tensor:
        """Sketches of frames in colour. Raises `InputError` without a line-art network."""
        if self._extract is None:
            raise InputError(NO_LINEART)
        return self._extract(frames)
