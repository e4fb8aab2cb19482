"""Classical haze removal, the peer that the networks are measured against: dark channel prior and guided filter.

    python -m benchmarks.dark_channel hazy.jpg clear.png

A hazy image is I = J t + A (1 - t) with the clear image J, the transmission t and the light A of the haze. Nearly
every patch of an outdoor image without haze has a pixel that is dark in one channel, so the brightness of the darkest channel of a
patch is haze (He, Sun and Tang, CVPR 2009). The transmission of patches is fitted to the edges of the image
by the guided filter with a colour guide (He, Sun and Tang, ECCV 2010), which replaces the paper's soft matting.
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8


def dehaze(
    image: Tensor,
    *,
    patch: int = 15,
    omega: float = 0.95,
    floor: float = 0.1,
    radius: int = 60,
    eps: float = 1e-4,
) -> Tensor:
    """Remove haze from one image.

    Args:
        image: (3, H, W) float32 in [0, 1].
        patch: side of the patches in pixels, odd.
        omega: share of the haze that is removed, in [0, 1]; a little remaining haze keeps distance visible.
        floor: least transmission, in (0, 1]: it limits the amplification of noise where the haze is dense.
        radius: radius of the guided filter's boxes in pixels.
        eps: parameter of the guided filter: variance of the guide below which a region counts as flat.

    Returns:
        The clear image, (3, H, W) float32 in [0, 1].
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"the image must be (3, H, W), got shape {tuple(image.shape)}")
    light = atmospheric_light(image, dark_channel(image, patch))
    t = transmission(image, light, patch=patch, omega=omega, radius=radius, eps=eps).clamp(floor, 1)
    return ((image - light) / t + light).clamp(0, 1)


def dark_channel(image: Tensor, patch: int) -> Tensor:
    """The least value of any channel in the patch around each pixel: (3, H, W) -> (1, H, W)."""
    if patch % 2 == 0:
        raise InputError(f"patch must be an odd number of pixels, got {patch}")
    darkest = image.amin(0, keepdim=True)
    for kernel in ((patch, 1), (1, patch)):
        darkest = -F.max_pool2d(-darkest, kernel, 1, (kernel[0] // 2, kernel[1] // 2))
    return darkest


def atmospheric_light(image: Tensor, dark: Tensor) -> Tensor:
    """The colour of the haze, (3, 1, 1): the mean of the 0.1 % of the pixels with the brightest dark channel.

    The paper takes the brightest of these pixels; the mean does not depend on a single one.
    """
    opaque = dark.flatten().topk(max(1, dark.numel() // 1000)).indices
    return image.flatten(1)[:, opaque].mean(1).clamp(min=1e-3)[:, None, None]


def transmission(image: Tensor, light: Tensor, *, patch: int, omega: float, radius: int, eps: float) -> Tensor:
    """The share of the light that comes from the scene itself, (1, H, W); the filter may overshoot [0, 1] a little."""
    return guided_filter(image, 1 - omega * dark_channel(image / light, patch), radius=radius, eps=eps)


def guided_filter(guide: Tensor, source: Tensor, *, radius: int, eps: float) -> Tensor:
    """`source` (1, H, W), smoothed within the edges of the colour image `guide` (3, H, W).

    In every box the result is a linear function of the guide's three channels, fitted to `source` by ridge regression; a
    pixel takes the mean of the functions of the boxes around it.
    """
    mean, mean_source = _box(guide, radius), _box(source, radius)
    covariance = _box(guide * source, radius) - mean * mean_source
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = torch.stack([guide[i] * guide[j] for i, j in pairs])
    products = _box(products, radius) - torch.stack([mean[i] * mean[j] for i, j in pairs])
    rr, rg, rb, gg, gb, bb = products.unbind()
    slope = _solve((rr + eps, rg, rb, gg + eps, gb, bb + eps), covariance)
    offset = mean_source - (slope * mean).sum(0, keepdim=True)
    return (_box(slope, radius) * guide).sum(0, keepdim=True) + _box(offset, radius)


def _solve(matrix: tuple[Tensor, ...], right: Tensor) -> Tensor:
    """The solution x of M x = right, (3, H, W), with a symmetric positive matrix per pixel given by rows of its upper triangle."""
    a, b, c, d, e, f = matrix
    # Cholesky factor, column by column: in float32 it is more stable than quotients of determinants
    l11 = a.sqrt()
    l21, l31 = b / l11, c / l11
    l22 = (d - l21 * l21).sqrt()
    l32 = (e - l31 * l21) / l22
    l33 = (f - l31 * l31 - l32 * l32).sqrt()
    y1 = right[0] / l11
    y2 = (right[1] - l21 * y1) / l22
    y3 = (right[2] - l31 * y1 - l32 * y2) / l33
    x3 = y3 / l33
    x2 = (y2 - l32 * x3) / l22
    return torch.stack([(y1 - l21 * x2 - l31 * x3) / l11, x2, x3])


def _box(values: Tensor, radius: int) -> Tensor:
    """Means over boxes of 2 radius + 1 pixels, cut off at the border: (C, H, W) -> (C, H, W)."""
    for _ in range(2):
        values = values.mT  # first along the columns, then along the rows
        length, side = values.shape[-1], 2 * radius + 1
        place = torch.arange(length, device=values.device)
        count = (place + radius).clamp(max=length - 1) - (place - radius).clamp(min=0) + 1
        sums = F.pad(values, (radius + 1, radius)).contiguous()
        sums = sums.cumsum(-1, dtype=torch.float64)  # float32 would lose the variances of large images
        values = ((sums[..., side:] - sums[..., :-side]) / count).to(values.dtype)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Remove haze from an image with the dark channel prior.")
    parser.add_argument("source", metavar="IN", help="the hazy image")
    parser.add_argument("target", metavar="OUT", help="the file to write, replaced if it exists")
    options = parser.parse_args()
    image = to_float(load_image(options.source))
    with atomic_path(options.target) as temporary:
        Image.fromarray(to_uint8(dehaze(image))).save(temporary)


if __name__ == "__main__":
    main()
