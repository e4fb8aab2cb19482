"""Quality of an image compared with its reference: PSNR and SSIM, even for images that do not fit into memory.

SSIM is that of Wang et al. (IEEE Transactions on Image Processing 13(4), 2004): a gaussian window of 11 pixels with sigma
1.5, K1 = 0.01, K2 = 0.03, variances weighted by the window, separate channels, and the mean over the pixels whose window
lies inside the image. All sums are float64.

This is our own implementation because scikit-image and torchmetrics need whole images in memory; tests compare it with both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError

WINDOW = 11
"""Side of the SSIM window in pixels."""

HALO = WINDOW // 2
SIGMA, K1, K2 = 1.5, 0.01, 0.03

ReadWindow = Callable[[int, int, int, int], Any]
"""(top, left, height, width) -> that window of an image, (height, width, 3): uint8, or float in [0, 1]."""


@dataclass(frozen=True)
class Quality:
    """How close an image is to its reference.

    Attributes:
        psnr: in dB, infinite for equal images.
        ssim: at most 1, the value of equal images.
    """

    psnr: float
    ssim: float


def psnr(prediction: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal images; for a batch, the mean over its images.

    Args:
        prediction: tensor (3, H, W) or (B, 3, H, W), or array (H, W, 3): uint8, or float in [0, 1].
        reference: same shape and device; one of the two may be uint8 and the other float.

    Raises:
        InputError: wrong shape or type, different sizes, or values outside [0, 1].
    """
    ours, theirs = _pair(prediction, reference)
    values = []
    for one, other in zip(ours, theirs, strict=True):
        height, width = one.shape[-2:]
        total = sum(
            _squared_error(unit(one[:, rows, columns]), unit(other[:, rows, columns]))
            for rows, columns in _tiles(height, width, 1024)
        )
        values.append(_decibel(total / (3 * height * width)))
    return math.fsum(values) / len(values)


def ssim(
    prediction: Tensor | np.ndarray,
    reference: Tensor | np.ndarray,
    *,
    borders: Literal["inside", "reflected"] = "inside",
) -> float:
    """Structural similarity, at most 1; for a batch, the mean over its images.

    Arguments and errors as for `psnr`; in addition, both sides must be at least 11 pixels.

    Args:
        borders: "inside" is the mean over windows that lie inside the image, as published. "reflected" also counts those around
            pixels at the border, which see a reflection of the image, as torchmetrics does.
    """
    if borders not in ("inside", "reflected"):
        raise InputError(f"borders must be 'inside' or 'reflected', got {borders!r}")
    ours, theirs = _pair(prediction, reference)
    if borders == "reflected" and min(ours.shape[-2:]) >= WINDOW:
        ours, theirs = (F.pad(unit(images), (HALO,) * 4, mode="reflect") for images in (ours, theirs))
    height, width = ours.shape[-2:]
    values = [
        quality(_reader(one), _reader(other), height, width).ssim for one, other in zip(ours, theirs, strict=True)
    ]
    return math.fsum(values) / len(values)


def quality(
    read_prediction: ReadWindow, read_reference: ReadWindow, height: int, width: int, tile: int = 1024
) -> Quality:
    """PSNR and SSIM of an image that is read tile by tile, equal to those of the whole image.

    It needs about 220 bytes of memory per pixel of a tile.

    Args:
        read_prediction: returns windows of the image, each a tile with up to 5 pixels around it.
        read_reference: returns the same windows of the reference.
        height, width: size of both images in pixels, at least 11.
        tile: side of the tiles in pixels, at least 1.

    Raises:
        InputError: the image is smaller than 11 pixels, a window has the wrong shape or type, or values are outside [0, 1].
    """
    if min(height, width) < WINDOW:
        raise InputError(
            f"SSIM needs {WINDOW} x {WINDOW} pixels or more, got {height} x {width}; compare larger images, or use PSNR alone"
        )
    if tile < 1:
        raise InputError(f"tile must be at least 1, got {tile}")
    error = similarity = 0.0
    for rows, columns in _tiles(height, width, tile):
        top, left = max(rows.start - HALO, 0), max(columns.start - HALO, 0)
        window = (top, left, min(rows.stop + HALO, height) - top, min(columns.stop + HALO, width) - left)
        ours = _window("prediction", read_prediction, window)
        theirs = _window("reference", read_reference, window)
        own = (
            slice(None),
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        error += _squared_error(ours[own], theirs[own])
        if min(window[2:]) >= WINDOW:  # else the tile lies within 5 pixels of the border: no window is centred in it
            similarity += sum(float(_similarity(x, y).sum()) for x, y in zip(ours, theirs, strict=True))
    centres = 3 * (height - 2 * HALO) * (width - 2 * HALO)
    return Quality(_decibel(error / (3 * height * width)), similarity / centres)


def _tiles(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _decibel(mean_squared_error: float) -> float:
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else math.inf


def _squared_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().sum())


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of each pixel whose window lies inside the image: two (H, W) float64 -> (H - 10, W - 10)."""
    luminance, contrast = similarity_terms(x, y)
    return luminance * contrast


def similarity_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of the SSIM, luminance and contrast, of each pixel whose window lies inside.

    Args:
        x, y: (H, W) float64, sides of at least 11.

    Returns:
        Two tensors (H - 10, W - 10).
    """
    mean_x, mean_y = _smooth(x), _smooth(y)
    squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    variances = _smooth(x.square() + y.square()) - squares
    covariance = _smooth(x * y) - product
    c1, c2 = K1**2, K2**2
    return (2 * product + c1) / (squares + c1), (2 * covariance + c2) / (variances + c2)


def gaussian_weights() -> list[float]:
    """The 11 weights of the window along one axis; their sum is 1."""
    weights = [math.exp(-0.5 * (place / SIGMA) ** 2) for place in range(-HALO, HALO + 1)]
    return [weight / sum(weights) for weight in weights]


def _smooth(image: Tensor) -> Tensor:
    """Gaussian means over windows inside the image: (H, W) -> (H - 10, W - 10)."""
    weights = gaussian_weights()
    for axis in (0, 1):  # sums of shifted images: several times faster on a CPU than a convolution in float64
        length = image.shape[axis] - 2 * HALO
        total = image.narrow(axis, 0, length) * weights[0]
        for start, weight in enumerate(weights[1:], start=1):
            total.add_(image.narrow(axis, start, length), alpha=weight)
        image = total
    return image


# Conversion and checks of inputs


def _pair(prediction: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Both images as (B, 3, H, W), with unchanged values."""
    ours, theirs = _batch("prediction", prediction), _batch("reference", reference)
    if ours.shape != theirs.shape:
        raise InputError(
            f"prediction has shape {tuple(prediction.shape)} and reference {tuple(reference.shape)}; crop or resize one of them"
        )
    return ours, theirs


def image_planes(image: Tensor | np.ndarray, name: str = "the image") -> Tensor:
    """One image, array (H, W, 3) or tensor (3, H, W), uint8 or float in [0, 1], as (3, H, W) float64 in [0, 1].

    Raises:
        InputError: wrong shape or type, or values outside [0, 1]; the message starts with `name`.
    """
    check_image(image, name)
    if image.ndim != 3:
        wanted = "(H, W, 3)" if isinstance(image, np.ndarray) else "(3, H, W)"
        raise InputError(f"{name} has shape {tuple(image.shape)}, expected {wanted}")
    planes = _batch(name, image)[0]
    try:
        return unit(planes)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def check_image(image: object, name: str = "the image") -> None:
    """Raise `InputError` unless `image` is an array or a tensor."""
    if not isinstance(image, (Tensor, np.ndarray)):
        raise InputError(f"{name} is a {type(image).__name__}, expected an array (H, W, 3) or a tensor (3, H, W)")


def _batch(name: str, image: Tensor | np.ndarray) -> Tensor:
    check_image(image, name)
    if isinstance(image, np.ndarray):
        values, wanted = _from_numpy(image), "(H, W, 3)"
        values = values.permute(2, 0, 1)[None] if values.ndim == 3 else values
    else:
        values, wanted = image, "(3, H, W) or (B, 3, H, W)"
        values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] != 3 or not values.numel():
        raise InputError(f"{name} has shape {tuple(image.shape)}, expected {wanted}")
    return values


def _reader(image: Tensor) -> ReadWindow:
    """Windows of a (3, H, W) image in memory."""
    return lambda top, left, height, width: image[:, top : top + height, left : left + width].permute(1, 2, 0)


def _window(name: str, read: ReadWindow, window: tuple[int, int, int, int]) -> Tensor:
    """One window as (3, h, w) float64."""
    values = read(*window)
    values = _from_numpy(values) if isinstance(values, np.ndarray) else values
    if tuple(values.shape) != (*window[2:], 3):
        raise InputError(
            f"the {name}'s window at row {window[0]}, column {window[1]} has shape {tuple(values.shape)}, "
            f"expected {(*window[2:], 3)}"
        )
    return unit(values.permute(2, 0, 1))


def _from_numpy(values: np.ndarray) -> Tensor:
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise InputError(f"pixels are {values.dtype}, expected uint8, or floats in [0, 1]; convert them first")
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))


def unit(values: Tensor) -> Tensor:
    """Pixels, uint8 or float in [0, 1], as float64 in [0, 1]. Raises `InputError` for other types and values."""
    if values.dtype == torch.uint8:
        return _double(values) / 255
    if not values.is_floating_point():
        raise InputError(f"pixels are {values.dtype}, expected torch.uint8, or floats in [0, 1]; convert them first")
    low, high = (float(value) for value in values.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise InputError(f"pixels range from {low:.6g} to {high:.6g}, expected [0, 1]; clamp them, or divide by 255")
    return _double(values.detach())


def _double(values: Tensor) -> Tensor:
    return (values.cpu() if values.device.type == "mps" else values).double()  # Apple's GPUs have no float64
