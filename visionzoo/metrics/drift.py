"""Colour drift: how far the colours of regions move away from their true colours in the course of a video."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError, described

from .color import Color, Regions, as_color, ciede2000, region_colors, srgb_to_lab
from .frames import Pixels, in_step, mean_of_known, video_planes

Table = NDArray[np.float64]


@dataclass(frozen=True)
class ColorDrift:
    """Colours of R regions in T frames, and their distances from the true colours. NaN where a region is not visible.

    Attributes:
        regions: ids or names of the regions.
        measured: (T, R, 3) mean colours, sRGB in [0, 1].
        distances: (T, R), CIEDE2000 from the true colour.
    """

    regions: tuple[Hashable, ...]
    measured: Table
    distances: Table

    @property
    def mean(self) -> float:
        """Mean distance over all frames and visible regions."""
        return float(mean_of_known(self.distances.ravel()))

    @property
    def means(self) -> Table:
        """(R,): mean distance of each region over the frames in which it is visible."""
        return mean_of_known(self.distances)

    @property
    def slopes(self) -> Table:
        """(R,): least-squares slope of each region's distance in CIEDE2000 per frame; NaN below two visible frames."""
        products, squares = self._moments()
        return _ratio(products, squares)

    @property
    def slope(self) -> float:
        """Least-squares slope common to all regions, each with an offset of its own, in CIEDE2000 per frame.

        The offsets make it independent of which regions are visible when: a region that is badly coloured throughout and appears
        late does not count as drift.
        """
        products, squares = self._moments()
        return float(_ratio(products.sum(), squares.sum()))

    def by_segment(self, length: int) -> Table:
        """(S, R): mean distances in consecutive segments of `length` frames; the last one may be shorter.

        Raises:
            InputError: `length` is below 1.
        """
        if length < 1:
            raise InputError(f"segments need at least 1 frame, got {length}")
        starts = range(0, len(self.distances), length)
        return np.stack([mean_of_known(self.distances[start : start + length]) for start in starts])

    def _moments(self) -> tuple[Table, Table]:
        """Per region, the sums of time x distance and of time squared, both centred on the visible frames."""
        visible = ~np.isnan(self.distances)
        time = np.where(visible, np.arange(len(visible), dtype=np.float64)[:, None], math.nan)
        centred = np.where(visible, time - mean_of_known(time), 0)
        distances = np.where(visible, self.distances - self.means, 0)
        return (centred * distances).sum(0), np.square(centred).sum(0)


def color_drift(
    frames: Iterable[Pixels], regions: Iterable[Regions], colors: Mapping[Hashable, Color], *, erode: int = 0
) -> ColorDrift:
    """Measure the colours of regions in every frame of a video against their true colours. One frame is in memory at a time.

    Args:
        frames: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        regions: for each frame, ids (H, W) of integers, or a mapping from names to bool masks (H, W). Lines drawn inside regions
            can have an id of their own, so that they count to none.
        colors: id or name -> true colour, three integers from 0 to 255 or three floats in [0, 1]. Other regions are ignored.
        erode: see `region_color`; 2 keeps soft ink lines of up to 2 pixels out of the means.

    Raises:
        InputError: no frames, no colours, unequal numbers of frames and regions, or wrong shapes, types or values.
    """
    if colors is not None and not isinstance(colors, Mapping):
        raise InputError(f"colors must be a dictionary of regions and their true colors, got {described(colors)}")
    if not colors:
        raise InputError("no true colors were given, so there is nothing to compare with")
    names = tuple(colors)
    true = srgb_to_lab(np.stack([as_color(colors[name]) for name in names]))
    pairs = in_step(video_planes(frames), regions, ("frames", "maps of regions"))
    rows = [region_colors(planes, maps, names, erode=erode) for planes, maps in pairs]
    if not rows:
        raise InputError("the video has no frames")
    measured = np.stack(rows)
    return ColorDrift(names, measured, ciede2000(srgb_to_lab(measured), true))


def _ratio(above: Table, below: Table) -> Table:
    with np.errstate(invalid="ignore"):
        return np.asarray(above) / np.asarray(below)


__all__ = ["ColorDrift", "color_drift"]
