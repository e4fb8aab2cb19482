"""Windows of animations for training: frames, line drawings and a text, of the toy world or of Sakuga-42M."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.data.augmented import stream_of
from visionzoo.data.toy_world import ToyWorld
from visionzoo.errors import InputError
from visionzoo.io.video import read_frames

from .frames import prepare_frames
from .lineart import LineartExtractor
from .sakuga import SakugaClip
from .videoxl_stream import sampled_frames

__all__ = ["NANO_SPEED", "Window", "sakuga_window", "shrunken", "toy_window"]

NANO_SPEED = 0.25
"""Speed of the camera in clips of the toy world for a small LongAnimation; at 128 x 128, the picture moves by 1.9 pixels per frame."""


@dataclass(frozen=True)
class Window:
    """Frames of a clip. The last ones are to be coloured, the ones before are what is remembered, and the first is the reference.

    Attributes:
        frames: (F, H, W, 3) uint8. Those to be coloured are successive.
        lines: (F, H, W) uint8 line drawings, dark on white.
        caption: describes the last frame, or the clip.
    """

    frames: NDArray[np.uint8]
    lines: NDArray[np.uint8]
    caption: str


def toy_window(
    split: str,
    number: int,
    *,
    frames: int,
    history: int,
    recent: int,
    size: int,
    longest: int,
    speed: float = NANO_SPEED,
    seed: int = 0,
) -> Window:
    """A clip of the toy world in which the camera returns to where it began, so that characters leave and come back.

    Args:
        split: of the world.
        number: which; training worlds also depend on `seed`.
        frames: number of successive frames, anywhere in the clip after the first `history` ones.
        history: number of frames that are remembered: `recent` frames before these, and others, evenly spread over all before,
            from the first frame of the clip on. 0: the clip begins with the frames to be coloured.
        recent: number of them that are successive.
        size: side of the frames, in pixels.
        longest: number of frames of the clip.
        speed: of the camera; see `ToyWorld.film`.
    """
    stream = stream_of(seed, number) if split == "train" else number
    world = ToyWorld.create(stream, split, places=2 + stream // 2 % 2, characters=1 + stream % 2)
    clip = world.film(longest, size=(size, size), speed=speed, returns=True)
    start = history + stream_of(seed, number, 2) % (longest - history - frames + 1) if history else 0
    recent = min(recent, history)
    earlier = sampled_frames(start - recent, history - recent) if history > recent else []
    drawn = [next(clip.frames(index, index + 1, motion=False)) for index in earlier]
    drawn += clip.frames(start - recent, start + frames, motion=False)
    return Window(np.stack([each.rgb for each in drawn]), np.stack([each.ink for each in drawn]), drawn[-1].caption)


def sakuga_window(
    clip: SakugaClip, extractor: LineartExtractor, *, frames: int, height: int, width: int, longest: int, stream: int
) -> Window:
    """Random successive frames of a clip, scaled and cropped, with extracted lines.

    Args:
        frames: their number.
        longest: only the first frames of the clip, up to this number, are considered.
        stream: chooses the window.

    Raises:
        InputError: the video is shorter than `frames`.
        VideoError: it cannot be read.
    """
    found = [frame.pixels for frame in read_frames(clip.file, stop=longest)]
    if len(found) < frames:
        raise InputError(f"{clip.file}: has {len(found)} frames, but a window has {frames}; raise data.min_frames")
    start = stream % (len(found) - frames + 1)
    pixels = prepare_frames(np.stack(found[start : start + frames]), height, width)
    lines = extractor.lines(pixels)[:, 0].mul(255).round().to(torch.uint8).numpy()
    return Window(pixels.movedim(1, -1).contiguous().numpy(), lines, clip.caption)


def shrunken(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The central squares of frames (F, H, W, 3) at `side` pixels, (F, 3, side, side): what a memory encoder sees of them."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = frames[:, top : top + short, left : left + short]
    if short != side:
        how: Any = cv2.INTER_AREA if side < short else cv2.INTER_CUBIC
        square = np.stack([cv2.resize(each, (side, side), interpolation=how) for each in square])
    return np.ascontiguousarray(square.transpose(0, 3, 1, 2))
