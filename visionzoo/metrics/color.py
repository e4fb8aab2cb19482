"""Colours of regions, and how different two colours look: sRGB to CIELAB, CIEDE2000, the nearest named colour.

CIEDE2000 as in Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
mathematical observations" (Color Research and Application 30(1), 2005). A difference of 1 is about what can just be seen side by
side; different names of colours are usually more than 20 apart. Everything is computed in float64.

The colour of a region is the mean of its sRGB values, not of linear light: networks are trained on sRGB values and renderers
blend them, so zero-mean errors cancel there, while a mean of linear light makes every noisy region appear brighter.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError, check_items, described, unknown

from .frames import Pixels, as_tensor, bool_mask, map_like
from .restoration import image_planes

Array = TypeVar("Array", Tensor, np.ndarray)

Color = Sequence[float] | NDArray[Any]
"""An sRGB colour: three integers from 0 to 255, or three floats in [0, 1]. The type decides: (1, 0, 0) is nearly black."""

Regions = Tensor | NDArray[np.integer[Any]] | Mapping[Hashable, Tensor | NDArray[np.bool_]]
"""The regions of one frame: ids (H, W) of integers, or a bool mask (H, W) for each name; a name without a mask is not visible."""

# IEC 61966-2-1, linear sRGB to XYZ under D65. White is the sum of each row, so that every grey has a = b = 0.
_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def srgb_to_lab(rgb: Array) -> Array:
    """CIELAB (D65, 2 degrees) of sRGB colours.

    Args:
        rgb: (..., 3), uint8 or float in [0, 1]; NaN gives NaN.

    Returns:
        (..., 3) float64 of the same kind (tensor or array): L in [0, 100], a, b.

    Raises:
        InputError: the last axis is not 3, or values are of another type or range.
    """
    values = _triples(rgb, "colors")
    if values.dtype == torch.uint8:
        values = values.double() / 255
    elif values.is_floating_point():
        values = values.double()
        if bool((values < 0).any()) or bool((values > 1).any()):
            raise InputError(
                f"colors range from {float(values.min()):.6g} to {float(values.max()):.6g}, expected [0, 1]; divide by 255"
            )
    else:
        raise InputError(f"colors are {values.dtype}, expected uint8, or floats in [0, 1]; convert them first")
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = values.new_tensor(_TO_XYZ)
    xyz = linear @ matrix.T / matrix.sum(1)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(0) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.unbind(-1)
    return _same_kind(torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1), rgb)


def ciede2000(lab1: Array, lab2: Array) -> Array:
    """The CIEDE2000 difference of CIELAB colours, with all weights k = 1. It is symmetric, and 0 for equal colours.

    Args:
        lab1: (..., 3): L, a, b.
        lab2: the same; the leading axes are broadcast.

    Returns:
        (...) float64 of the kind of `lab1` (tensor or array); NaN where a colour is NaN.

    Raises:
        InputError: a last axis is not 3.
    """
    first, second = (_triples(lab, name).double() for lab, name in ((lab1, "lab1"), (lab2, "lab2")))
    (light1, a1, b1), (light2, a2, b2) = first.unbind(-1), second.to(first.device).unbind(-1)
    # a is stretched where chroma is low, then chroma C and hue h (degrees) follow: equations 2 to 7
    stretch = 1.5 - 0.5 * _saturation((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    hue1, hue2 = (torch.rad2deg(torch.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    # differences and means; a grey has no hue: equations 8 to 14
    grey = chroma1 * chroma2 == 0
    turn = hue2 - hue1
    turn = torch.where(turn > 180, turn - 360, torch.where(turn < -180, turn + 360, turn))
    turn = torch.where(grey, 0.0, turn)
    hue_difference = 2 * (chroma1 * chroma2).sqrt() * torch.sin(torch.deg2rad(turn / 2))
    total = hue1 + hue2
    apart = (hue1 - hue2).abs() > 180
    mean_hue = torch.where(apart, torch.where(total < 360, total + 360, total - 360), total) / 2
    mean_hue = torch.where(grey, total, mean_hue)
    mean_light, mean_chroma = (light1 + light2) / 2, (chroma1 + chroma2) / 2
    # weights of lightness, chroma and hue, and the rotation in the blue: equations 15 to 22
    t = (
        1 - 0.17 * _cosine(mean_hue - 30) + 0.24 * _cosine(2 * mean_hue)
        + 0.32 * _cosine(3 * mean_hue + 6) - 0.20 * _cosine(4 * mean_hue - 63)
    )  # fmt: skip
    off_middle = (mean_light - 50).square()
    light = (light2 - light1) / (1 + 0.015 * off_middle / (20 + off_middle).sqrt())
    chroma = (chroma2 - chroma1) / (1 + 0.045 * mean_chroma)
    hue = hue_difference / (1 + 0.015 * mean_chroma * t)
    angle = 60 * torch.exp(-((mean_hue - 275) / 25).square())
    rotation = -2 * _saturation(mean_chroma) * torch.sin(torch.deg2rad(angle))
    squared = light.square() + chroma.square() + hue.square() + rotation * chroma * hue
    return _same_kind(squared.clamp_min(0).sqrt(), lab1)


def color_difference(rgb1: Color, rgb2: Color) -> float:
    """CIEDE2000 between two sRGB colours; NaN if one of them is NaN.

    Raises:
        InputError: one of them is not a colour.
    """
    return float(ciede2000(srgb_to_lab(as_color(rgb1)), srgb_to_lab(as_color(rgb2))))


def region_color(image: Pixels, mask: Tensor | np.ndarray, *, erode: int = 0) -> NDArray[np.float64]:
    """Mean colour of a region.

    Args:
        image: array (H, W, 3) or tensor (3, H, W), uint8 or float in [0, 1].
        mask: (H, W) bool.
        erode: pixels nearer than this to a pixel outside the region do not count, so that lines drawn along its border do
            not darken it: 2 for soft lines of up to 2 pixels. The border of the image does not erode a region.

    Returns:
        (3,) float64 in [0, 1]; NaN if the region has no pixels, or none after erosion.

    Raises:
        InputError: wrong shapes or types, values outside [0, 1], or a negative `erode`.
    """
    planes = image_planes(image)
    return region_colors(planes, {0: bool_mask(mask, planes)}, [0], erode=erode)[0]


def region_colors(image: Pixels, regions: Regions, names: Sequence[Hashable], *, erode: int = 0) -> NDArray[np.float64]:
    """Mean colours (R, 3) of several regions; rows are NaN where a region is not visible. See `region_color`.

    Args:
        regions: ids (H, W) of integers, or a mapping from names to bool masks.
        names: the R ids or names to measure.
    """
    planes = image_planes(image)
    check_items("names", names, "a list of the ids or names of regions")
    if erode < 0 or int(erode) != erode:
        raise InputError(f"erode must be a whole number of pixels, 0 or more, got {erode}")
    found = torch.full((len(names), 3), math.nan, dtype=torch.float64, device=planes.device)
    if isinstance(regions, Mapping):
        for row, name in enumerate(names):
            if name in regions:
                mask = bool_mask(regions[name], planes, f"the mask of {name!r}")
                mask = mask & _inner(mask, erode)
                if bool(mask.any()):
                    found[row] = planes[:, mask].mean(1)
        return found.cpu().numpy()
    ids = map_like(regions, planes, "the map of regions")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"the map of regions is {ids.dtype}, expected integers")
    wanted, order = torch.as_tensor(list(names), dtype=torch.int64, device=ids.device).sort()
    if not len(wanted):
        return found.cpu().numpy()
    ids = ids.to(torch.int64)
    place = torch.searchsorted(wanted, ids).clamp_max(len(wanted) - 1)
    known = ((wanted[place] == ids) & _inner(ids, erode)).flatten()
    place = order[place.flatten()[known]]
    count = torch.bincount(place, minlength=len(names)).double()
    for channel, plane in enumerate(planes.flatten(1)):
        found[:, channel] = torch.bincount(place, plane[known], minlength=len(names)) / count  # 0 / 0 is NaN
    return found.cpu().numpy()


def color_distance(image: Pixels, mask: Tensor | np.ndarray, rgb: Color, *, erode: int = 0) -> float:
    """CIEDE2000 between the mean colour of a region and the colour `rgb`; NaN if the region is not visible.

    Arguments and errors as for `region_color`; `rgb` is three integers from 0 to 255 or three floats in [0, 1].
    """
    return color_difference(region_color(image, mask, erode=erode), rgb)


def nearest_color(rgb: Color, palette: Mapping[str, Color]) -> str:
    """The name of the colour in `palette` that is nearest to `rgb` by CIEDE2000; of equally near ones, the first.

    Raises:
        InputError: `rgb` or an entry is not a colour, or is NaN; the palette is empty.
    """
    _check_palette(palette)
    if not palette:
        raise InputError("the palette is empty; give at least one named color")
    own = as_color(rgb)
    known = np.stack([as_color(color) for color in palette.values()])
    for name, color in (("rgb", own), *zip(palette, known, strict=True)):
        if np.isnan(color).any():
            raise InputError(f"the color {name!r} is NaN, so it has no nearest one; measure visible regions only")
    return list(palette)[int(np.argmin(ciede2000(srgb_to_lab(own), srgb_to_lab(known))))]


def color_hit(
    image: Pixels, mask: Tensor | np.ndarray, asked: str, palette: Mapping[str, Color], *, erode: int = 0
) -> bool | None:
    """Whether the colour of a region is nearest to the one asked for, of all colours in `palette`.

    Returns:
        None if the region is not visible: such a frame counts neither as a hit nor as a miss.

    Raises:
        InputError: `asked` is not in the palette; else as for `region_color` and `nearest_color`.
    """
    _check_palette(palette)
    if asked not in list(palette):
        raise unknown("color", asked, palette)
    color = region_color(image, mask, erode=erode)
    return None if np.isnan(color).any() else nearest_color(color, palette) == asked


def as_color(rgb: Color) -> NDArray[np.float64]:
    """An sRGB colour as (3,) float64 in [0, 1]; NaN stays.

    Raises:
        InputError: not three integers from 0 to 255, or three floats in [0, 1].
    """
    values = np.asarray(rgb.cpu() if isinstance(rgb, Tensor) else rgb)
    whole = values.dtype.kind in "iu"
    if (
        values.shape != (3,)
        or values.dtype.kind not in "iuf"
        or (values < 0).any()
        or (values > (255 if whole else 1)).any()
    ):
        raise InputError(f"{rgb!r} is not a color; expected three integers from 0 to 255, or three floats from 0 to 1")
    return values / 255 if whole else values.astype(np.float64)


def _inner(regions: Tensor, erode: int) -> Tensor:
    """(H, W) bool: pixels with no other region within `erode` pixels, diagonals included."""
    if not erode:
        return torch.ones_like(regions, dtype=torch.bool)
    values = regions.double()[None, None]  # exact up to 2 ** 53
    most, least = values, -values
    for window, padding in (((2 * erode + 1, 1), (erode, 0)), ((1, 2 * erode + 1), (0, erode))):
        most, least = (F.max_pool2d(extreme, window, 1, padding) for extreme in (most, least))
    return (most == -least)[0, 0]


def _check_palette(palette: Mapping[str, Color]) -> None:
    if not isinstance(palette, Mapping):
        raise InputError(f"the palette must be a dictionary of names and colors, got {described(palette)}")


def _saturation(chroma: Tensor) -> Tensor:
    power = chroma**7
    return (power / (power + 25.0**7)).sqrt()


def _cosine(degrees: Tensor) -> Tensor:
    return torch.cos(torch.deg2rad(degrees))


def _triples(values: Any, name: str) -> Tensor:
    """Colours (..., 3) as a tensor."""
    tensor = values if isinstance(values, Tensor) else as_tensor(np.asarray(values), name, "numbers (..., 3)")
    if tensor.ndim < 1 or tensor.shape[-1] != 3:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected (..., 3)")
    return tensor


def _same_kind(result: Tensor, like: Array) -> Array:
    return cast("Array", result if isinstance(like, Tensor) else result.numpy())


__all__ = [
    "Color",
    "Regions",
    "as_color",
    "ciede2000",
    "color_difference",
    "color_distance",
    "color_hit",
    "nearest_color",
    "region_color",
    "region_colors",
    "srgb_to_lab",
]
