"""Passes a video through a memory: its content at every moment, the attention of a read, and a frame rebuilt from it.

    python -m visionzoo.demos.memory_images VIDEO -o FOLDER --design working-and-long-term

Every step reads the memory with the tokens of a frame (features of a small network, 8 x 8 pixels each) and then writes
them. The value of a token is its patch of pixels, so that the output of a read is an image: the frame rebuilt from memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.io.image import list_images, load_image
from visionzoo.io.pixels import floats_to_bytes
from visionzoo.io.video import probe, read_frames
from visionzoo.memory import AnchorsAndRecent, EvenSample, Fifo, Prototypes, TensorBank, TieredBank, Usage
from visionzoo.registry import create_model

__all__ = ["DESIGNS", "Design", "Extractor", "LiteFeatures", "Moment", "Walk", "sample_frames", "video_frames"]

PATCH = 8  # pixels of a token's side
LONGEST = 256  # pixels of a frame's longer side
SHARPNESS = 25.0  # scale of the attention over unit vectors
MAX_STEPS = 120

Pixels = NDArray[np.uint8]
Extractor = Callable[[Pixels], Tensor]
"""(H, W, 3) uint8, H and W multiples of `PATCH` -> (H / 8 * W / 8, D) unit vectors, row by row."""


@dataclass(frozen=True)
class Design:
    """How a memory is built, given the tokens of a frame and the number of frames that it may hold."""

    label: str
    about: str
    build: Callable[[int, int, int], TensorBank | TieredBank]


def _single(policy: Callable[[int, int], Any]) -> Callable[[int, int, int], TensorBank]:
    def build(width: int, tokens: int, frames: int) -> TensorBank:
        return TensorBank(width, 3 * PATCH**2, policy=policy(tokens, frames))

    return build


def _tiered(width: int, tokens: int, frames: int) -> TieredBank:
    """Half of the room is for the last frames, half for prototypes of evicted ones (XMem, arXiv:2207.07115)."""
    near, patch = max(2, frames // 2), 3 * PATCH**2
    working = TensorBank(width, patch, policy=Fifo(near * tokens, hysteresis=(near // 2) * tokens))
    room = max(1, frames - near) * tokens
    long_term = TensorBank(width, patch, policy=Usage(room, hysteresis=room // 5))
    return TieredBank([working, long_term], [Prototypes(max(1, tokens // 2), scale=SHARPNESS)])


DESIGNS = {
    "working-and-long-term": Design(
        "Working and long-term", "the last frames; the most used of what leaves them become prototypes", _tiered
    ),
    "recent": Design("Recent frames", "first in, first out", _single(lambda tokens, frames: Fifo(frames * tokens))),
    "anchor-and-recent": Design(
        "Anchor and recent", "the first frame stays, the others pass", _single(lambda _, n: AnchorsAndRecent(1, n - 1))
    ),
    "even": Design("Even sample", "frames spread evenly over all that was seen", _single(lambda _, n: EvenSample(n))),
    "most-used": Design(
        "Most used", "the tokens that reads look at", _single(lambda t, n: Usage(n * t, hysteresis=max(1, n // 4) * t))
    ),
}


class LiteFeatures:
    """Features of EfficientNet-Lite0 (ImageNet), finer and coarser stages joined: 40 numbers at 8 pixels, 112 at 16."""

    def __init__(self) -> None:
        self.net: Any = create_model("superglobal_lite0", pretrained=True).backbone.net  # type: ignore[union-attr]

    @torch.inference_mode()
    def __call__(self, image: Pixels) -> Tensor:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        x = self.net.bn1(self.net.conv_stem(x))
        stages = []
        for block in self.net.blocks[:5]:
            x = block(x)
            stages.append(x)
        size = (image.shape[0] // PATCH, image.shape[1] // PATCH)
        parts = [F.normalize(F.interpolate(s, size=size, mode="bilinear"), dim=1) for s in (stages[2], stages[4])]
        joined = torch.cat(parts, 1) * 0.5**0.5
        return joined[0].flatten(1).T.contiguous()


# Frames


def video_frames(path: str | Path, steps: int = 90) -> list[Pixels]:
    """At most `steps` frames spread over a video, small, their sides multiples of the patch. Errors as `read_frames`."""
    count = probe(path).frames
    step = max(1, -(-count // max(1, min(steps, MAX_STEPS))))
    frames = (frame.pixels for frame in read_frames(path, step=step, longest=LONGEST))
    return [_fitted(pixels) for pixels in itertools.islice(frames, MAX_STEPS)]


def sample_frames(assets: Path, steps: int = 90) -> list[Pixels]:
    """A walk over five of the bundled photos: slow pans, hard cuts, and back to the first one."""
    wanted = ("temple", "cat", "coffee", "astronaut", "rocket")
    files = {path.stem: path for path in list_images(assets / "queries")}
    found = [files[name] for name in wanted if name in files] or list(files.values())[:5]
    scenes = [*found, found[0]]
    frames = []
    for number, path in enumerate(scenes):
        photo = load_image(path, max_side=420)
        height, width = 144, 256
        tall, wide = max(0, photo.shape[0] - height), max(0, photo.shape[1] - width)
        length = steps // len(scenes)
        for t in np.linspace(0, 1, length):
            way = t if number % 2 == 0 else 1 - t
            y, x = round(tall * (0.3 + 0.4 * way)), round(wide * way)
            frames.append(_fitted(photo[y : y + height, x : x + width]))
    return frames


def _fitted(pixels: Pixels) -> Pixels:
    height, width = (side - side % PATCH for side in pixels.shape[:2])
    if height == 0 or width == 0:
        raise InputError(
            f"frames of {pixels.shape[1]} x {pixels.shape[0]} pixels are too small; at least 8 x 8 when shrunk"
        )
    return np.ascontiguousarray(pixels[:height, :width])


# Passing frames


@dataclass(frozen=True)
class Moment:
    """The memory that the frame of this step reads, before the frame is written.

    Attributes:
        number: number of the step.
        held: for each tier the steps of origin (N,) of its elements, their use per life (N,), patches (N, 192) and keys (N, D).
        weights: (T, N) attention of each token of the frame over all elements, tier after tier.
        rebuilt: the frame as rebuilt by a read, or None while the memory is empty.
    """

    number: int
    held: tuple[tuple[NDArray[np.int64], NDArray[np.float64], Tensor, Tensor], ...]
    weights: Tensor
    rebuilt: Pixels | None


@dataclass
class Walk:
    """Frames and their features, and the record of a memory of one design.

    Attributes:
        source: where the frames come from; for the caller.
        shares: for each tier (steps, steps) the share of each frame's tokens that was held after each step.
        psnr: PSNR of the rebuilt frame at each step, in dB; NaN while the memory was empty.
        bytes: size of the memory after each step.
    """

    frames: Sequence[Pixels]
    features: Sequence[Tensor]
    design: Design
    room: int
    source: str = ""
    shares: list[NDArray[np.float64]] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    @classmethod
    def describe(cls, frames: Iterable[Pixels], extract: Extractor, design: str, room: int = 8) -> Walk:
        """Compute the features of all frames.

        Raises:
            InputError: no frames, frames of different sizes, an unknown design, or room for fewer than 2 frames.
        """
        images = list(frames)
        if not images:
            raise InputError("there are no frames to walk through")
        if len({image.shape for image in images}) > 1:
            raise InputError("the frames differ in size; a memory of patches needs one size")
        if design not in DESIGNS:
            raise InputError(f"design must be one of {', '.join(DESIGNS)}, got {design!r}")
        if room < 2:
            raise InputError(f"room must be at least 2 frames, got {room}")
        return cls(images, [extract(image) for image in images], DESIGNS[design], room)

    def with_design(self, design: str, room: int) -> Walk:
        """The same frames and features for another memory."""
        known = iter(self.features)
        return Walk.describe(self.frames, lambda _: next(known), design, room)

    def run(self) -> Iterator[int]:
        """Pass all frames through the memory and record; yields the number of each finished step."""
        steps = len(self.frames)
        bank = self._bank()
        tiers = _tiers(bank)
        self.shares = [np.zeros((steps, steps)) for _ in tiers]
        self.psnr, self.bytes = [], []
        for number in range(steps):
            rebuilt = self._step(bank, number)
            self.psnr.append(float("nan") if rebuilt is None else _psnr(rebuilt, self.frames[number]))
            for share, tier in zip(self.shares, tiers, strict=True):
                times = tier.view().times.numpy().round().astype(np.int64)
                share[number] = np.bincount(times, minlength=steps) / self.tokens
            self.bytes.append(bank.nbytes)
            yield number

    def at(self, number: int) -> Moment:
        """The memory that frame `number` reads: passes all earlier frames again (about a second per hundred frames)."""
        bank = self._bank()
        for earlier in range(number):
            self._step(bank, earlier)
        held, keys = [], []
        for tier in _tiers(bank):
            view = tier.view()
            uses = (view.uses / view.lives.clamp(min=1)).numpy()
            keys.append(view.keys.flatten(0, 2))
            held.append((view.times.numpy().round().astype(np.int64), uses, view.value.flatten(0, 2), keys[-1]))
        joined = torch.cat(keys)
        weights = torch.softmax(SHARPNESS * self.features[number] @ joined.T, -1)
        rebuilt = None
        if len(joined):
            rebuilt = unpatched(weights @ torch.cat([patches for _, _, patches, _ in held]), self.frames[number].shape)
        return Moment(number, tuple(held), weights, rebuilt)

    @property
    def tokens(self) -> int:
        """Number of tokens in a frame."""
        return len(self.features[0])

    def _bank(self) -> TensorBank | TieredBank:
        return self.design.build(self.features[0].shape[1], self.tokens, self.room)

    def _step(self, bank: TensorBank | TieredBank, number: int) -> Pixels | None:
        query = self.features[number][None, None]
        rebuilt = None
        if len(bank):
            rebuilt = unpatched(bank.read(query, scale=SHARPNESS).output[0, 0], self.frames[number].shape)
        bank.write(query, patches_of(self.frames[number])[None, None], time=number)
        return rebuilt


def _tiers(bank: TensorBank | TieredBank) -> list[TensorBank]:
    return bank.tiers if isinstance(bank, TieredBank) else [bank]


def patches_of(image: Pixels) -> Tensor:
    """(T, 192) float32 in [0, 1]: the patches row by row."""
    x = torch.from_numpy(image).float() / 255
    return x.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).reshape(-1, 3 * PATCH**2)


def unpatched(patches: Tensor, shape: Sequence[int]) -> Pixels:
    """The image of (T, 192) patches; `shape` is its (H, W, 3)."""
    rows, columns = shape[0] // PATCH, shape[1] // PATCH
    x = patches.reshape(rows, columns, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2).reshape(shape[0], shape[1], 3)
    return floats_to_bytes(x.numpy())


def _psnr(a: Pixels, b: Pixels) -> float:
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
