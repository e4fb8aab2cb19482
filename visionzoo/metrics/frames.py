"""Read what video measures take: frames one at a time, in step with masks, maps or flows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError, check_items, described

from .restoration import image_planes

Pixels = Any
"""One image: array (H, W, 3) or tensor (3, H, W), uint8 or float in [0, 1]; or a `visionzoo.io.video.read.Frame`."""


def video_planes(frames: Iterable[Pixels], name: str = "frame") -> Iterator[Tensor]:
    """Each frame as (3, H, W) float64 in [0, 1]. Errors call them by `name` and number.

    Raises:
        InputError: `frames` are no images; or one of them is none, or has another size than the first, which the message numbers.
    """
    check_items(f"{name}s", frames, "images, one after another (of a video file: visionzoo.io.video.read_frames)")
    size = None
    for number, frame in enumerate(frames):
        planes = image_planes(getattr(frame, "pixels", frame), f"{name} {number}")
        size = size or tuple(planes.shape)
        if tuple(planes.shape) != size:
            raise InputError(
                f"{name} {number} is {planes.shape[2]} x {planes.shape[1]} pixels, {name} 0 {size[2]} x {size[1]}; "
                "resize the frames to one size"
            )
        yield planes


def bool_mask(mask: Tensor | np.ndarray, like: Tensor, name: str = "the mask") -> Tensor:
    """`mask` as a bool tensor (H, W) on the device of the image `like`, (C, H, W).

    Raises:
        InputError: it is not bool, or has another size than the image.
    """
    values = as_tensor(mask, name, "an array (H, W) of bool")
    if values.dtype != torch.bool:
        raise InputError(f"{name} is {values.dtype}, expected bool; compare it with a number, e.g. mask > 127")
    return map_like(values, like, name)


def as_tensor(values: Any, name: str, expected: str) -> Tensor:
    """`values` as a tensor; raises `InputError` if they are no numbers.

    Args:
        name: what the error calls them.
        expected: what they must be, e.g. "an array (H, W)".
    """
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be {expected}, got {described(values)}") from error


def as_numbers(values: Any, name: str, expected: str) -> NDArray[np.float64]:
    """`values` as an array of float64; arguments and errors as for `as_tensor`."""
    try:
        return np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be {expected}, got {described(values)}") from error


def map_like(values: Tensor | np.ndarray, like: Tensor, name: str) -> Tensor:
    """A map of one value per pixel, (H, W), as a tensor on the device of the image `like`, (C, H, W)."""
    values = as_tensor(values, name, "an array (H, W)")
    if values.shape != like.shape[1:]:
        raise InputError(f"{name} has shape {tuple(values.shape)}, expected (H, W) = {tuple(like.shape[1:])}")
    return values.to(like.device)


def in_step(
    first: Iterable[Any], second: Iterable[Any], names: tuple[str, str], *, spare: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Pairs of two iterables of one length.

    Args:
        names: what the two hold, for the error.
        spare: allow one more in the second, which is ignored.

    Raises:
        InputError: one of them cannot be iterated, or ends early.
    """
    for name, values in zip(names, (first, second), strict=True):
        check_items(name, values, "an iterable, with one for each frame")
    end = object()
    ours, theirs, count = iter(first), iter(second), 0
    while True:
        one, other = next(ours, end), next(theirs, end)
        if one is end and (other is end or (spare and next(theirs, end) is end)):
            return
        if one is end or other is end:
            short, long = names if one is end else names[::-1]
            raise InputError(f"there are {count} {short} but more {long}; give equal numbers")
        yield one, other
        count += 1


def mean_of_known(values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Mean of the values that are not NaN; NaN without any, and no warning about it."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, axis=axis) / np.sum(~np.isnan(values), axis=axis))


__all__ = ["Pixels", "as_numbers", "as_tensor", "bool_mask", "in_step", "map_like", "mean_of_known", "video_planes"]
