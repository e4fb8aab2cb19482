"""The motion of a driving video as keypoints per frame: small enough to keep, to save, and to reuse for other faces."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.faces import CropBox, OneEuroFilter
from visionzoo.io.video.times import at_even_times, even_rate, measure_rate
from visionzoo.weights import WeightsError, read_checkpoint, read_metadata, save_safetensors

from ...models.mcnet import Keypoints
from ...models.mcnet.keypoints import hull_area

FORMAT = "visionzoo motion 1"
REST_HZ = 5.0
"""Cutoff of the one-euro filter at rest for the least smoothing."""
SPEED_HZ = 6.0
"""Hz of cutoff per half image a second, so that fast movement is not held back."""


TICK_S = 2e-3
"""Times that differ by less are equal: containers round them to 1 ms."""


@dataclass(frozen=True)
class Moment:
    """The time of one frame of a motion.

    Attributes:
        number: number of the frame, from 0.
        time, duration: when and how long it is shown, in seconds.
    """

    number: int
    time: float
    duration: float


@dataclass(frozen=True)
class Motion:
    """A motion template.

    Attributes:
        keypoints: keypoints of N frames on the CPU, float32: positions (N, K, 2) in [-1, 1] and jacobians (N, K, 2, 2).
        times: (N,) times of the frames in seconds.
        fps: frames per second; the mean if the rate varies.
        weights: fingerprint of the network that found the keypoints; they work only with this network.
        size: side in pixels of the crops that they were found in.
        boxes: what the network saw of each frame; None for all of it. Not saved, nor are the crops.
        crops: (N, S, S, 3) uint8, what the network saw, if it was to be kept.
    """

    keypoints: Keypoints
    times: NDArray[np.float64]
    fps: Fraction
    weights: str
    size: int
    boxes: tuple[CropBox | None, ...] | None = None
    crops: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.times)

    def save(self, path: str | Path) -> None:
        """Write a `.safetensors` file."""
        about = {
            "format": FORMAT,
            "fps": str(self.fps),
            "weights": self.weights,
            "size": str(self.size),
        }
        tensors = {
            "value": self.keypoints.value,
            "jacobian": self.keypoints.jacobian,
            "times": torch.from_numpy(self.times),
        }
        save_safetensors(tensors, path, about)

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """Read what `save` wrote. Raises `InputError` for anything else."""
        try:
            about, tensors = read_metadata(path), read_checkpoint(path)
            if about.get("format") != FORMAT:
                raise ValueError("its format is not recorded")
            value, jacobian, times = (tensors[name] for name in ("value", "jacobian", "times"))
            fps, size = Fraction(about["fps"]), int(about["size"])
            fits = jacobian.shape == (*value.shape, 2) and value.shape[2:] == (2,) and times.shape == value.shape[:1]
            if not fits or not len(times) or fps <= 0 or size <= 0:
                raise ValueError("its tensors do not match")
            if not all(bool(part.isfinite().all()) for part in (value, jacobian, times)):
                raise ValueError("it holds numbers that are not finite")
        except (WeightsError, KeyError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"{path}: is not a motion template that can be read ({error})") from error
        return cls(Keypoints(value.float(), jacobian.float()), times.double().numpy(), fps, about["weights"], size)

    def smooth(self, amount: float) -> Motion:
        """The motion with less jitter: a one-euro filter over keypoints. `amount` is from 0 (none) to below 1."""
        if not 0 <= amount < 1:
            raise InputError(f"smooth must be at least 0 and below 1, got {amount:g}")
        if not amount or len(self) < 2:
            return self
        filters = [OneEuroFilter(REST_HZ * (1 - amount), SPEED_HZ) for _ in self.keypoints]
        times = _increasing(self.times, float(self.fps))
        parts = [
            torch.stack([one.filter(x, float(t)) for x, t in zip(part, times, strict=True)])
            for one, part in zip(filters, self.keypoints, strict=True)
        ]
        return replace(self, keypoints=Keypoints(*parts))

    @property
    def is_variable(self) -> bool:
        """Whether the frames are shown for different lengths of time."""
        return measure_rate(_increasing(self.times, float(self.fps)), TICK_S, [self.fps])[1]

    @property
    def even_fps(self) -> Fraction:
        """A constant rate for formats without times: `fps`, or if it varies, that of the closest frames."""
        return even_rate(_increasing(self.times, float(self.fps)), self.fps) if self.is_variable else self.fps

    def moments(self) -> list[Moment]:
        """The times and durations of the frames."""
        times = _increasing(self.times, float(self.fps))
        last = float(np.median(np.diff(times)[-5:])) if self.is_variable else float(1 / self.fps)
        return [
            Moment(number, float(time), float(length))
            for number, (time, length) in enumerate(zip(times, [*np.diff(times), last], strict=True))
        ]

    def even(self) -> Motion:
        """The motion at a constant rate, for formats without times: if the rate varies, frames are repeated or dropped."""
        if not self.is_variable:
            return self
        moments, fps = self.moments(), self.even_fps
        chosen = at_even_times([moment.time for moment in moments], moments[-1].duration, fps)
        return replace(
            self,
            keypoints=self.keypoints.at(torch.from_numpy(chosen)),
            times=np.arange(len(chosen)) / float(fps),
            fps=fps,
            boxes=None if self.boxes is None else tuple(self.boxes[number] for number in chosen),
            crops=None if self.crops is None else self.crops[chosen],
        )


def _increasing(times: NDArray[np.float64], fps: float) -> NDArray[np.float64]:
    """`times`, or evenly spaced ones if they do not increase (damaged time stamps)."""
    return times if (np.diff(times) > 0).all() else np.arange(len(times)) / fps


def normalised_shape(value: Tensor) -> Tensor:
    """Positions (K, 2) around their centre, in units of the root of their hull's area."""
    area = hull_area(value)
    return (value - value.mean(0)) / (area**0.5 if area > 0 else 1.0)


def nearest_frame(source: Tensor, motion: Motion) -> int:
    """The frame whose keypoints are most like those of the source (K, 2): the best pose to begin relative motion with.

    As published, but with the network's own keypoints instead of the 68 landmarks of another network.
    """
    wanted = normalised_shape(source.cpu())
    apart = [float((normalised_shape(value) - wanted).square().sum()) for value in motion.keypoints.value]
    return int(np.argmin(apart))


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Divide into lists of `size` items; the last may be shorter."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part


def whole(keypoints: Keypoints) -> Tensor:
    """(N,) whether the keypoints of each frame are finite."""
    return keypoints.value.isfinite().flatten(1).all(1) & keypoints.jacobian.isfinite().flatten(1).all(1)


def repair_keypoints(keypoints: Keypoints, name: object) -> Keypoints:
    """Give frames without finite keypoints those of the previous frame (at the start, of the first frame that has some).

    Raises:
        InputError: no frame has finite keypoints.
    """
    good = whole(keypoints)
    if bool(good.all()):
        return keypoints
    if not bool(good.any()):
        raise InputError(f"{name}: no frame has finite keypoints; try dtype='float32'")
    warnings.warn(f"{name}: {int((~good).sum())} frames without finite keypoints repeat the previous one", stacklevel=3)
    number = torch.arange(len(good))
    last = torch.where(good, number, -1).cummax(0).values
    return keypoints.at(torch.where(last < 0, int(number[good][0]), last))


__all__ = ["Moment", "Motion", "batches", "nearest_frame", "normalised_shape", "repair_keypoints", "whole"]
