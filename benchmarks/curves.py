"""A chart of curves with bands as a PNG, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
SIZE, MARGINS = (960, 540), (70, 40, 130, 60)
"""Pixels: width and height; left, top, right, bottom."""
SMOOTH = 2
"""The chart is drawn this many times larger."""


Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points of a curve, (N,) each: their places, means, and the ends of their intervals. NaN leaves a gap."""

    at: Values
    mean: Values
    low: Values
    high: Values


def draw_curves(curves: Mapping[str, Curve], path: Path, *, title: str, across: str, up: str) -> None:
    """Draw curves over an axis that begins at 0.

    Args:
        curves: by the names that the legend shows.
        path: of the PNG.
        title: above the chart.
        across, up: names of the axes.
    """
    width, height = (SMOOTH * side for side in SIZE)
    left, top, right, bottom = (SMOOTH * side for side in MARGINS)
    most = max(float(np.nanmax(curve.high)) for curve in curves.values())
    marks = round_marks(most)
    first, last = (pick(float(pick(curve.at)) for curve in curves.values()) for pick in (min, max))

    def place(x: float, y: float) -> tuple[float, float]:
        across_px = left + (x - first) / max(last - first, 1e-9) * (width - left - right)
        return across_px, height - bottom - y / marks[-1] * (height - top - bottom)

    def points_of(values: Values, at: Values, run: NDArray[np.intp]) -> list[tuple[float, float]]:
        return [place(float(at[k]), float(values[k])) for k in run]

    chart = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(chart), ImageFont.load_default(15 * SMOOTH)
    for mark in marks:
        y = place(first, mark)[1]
        pen.line([(left, y), (width - right, y)], "#dddddd", SMOOTH)
        pen.text((left - 8 * SMOOTH, y), f"{mark:g}", "black", font, anchor="rm")
    for x in round_marks(last):
        if first <= x <= last:
            pen.text((place(x, 0)[0], height - bottom + 8 * SMOOTH), f"{x:g}", "black", font, anchor="ma")
    for curve, color in zip(curves.values(), COLORS, strict=False):
        band = Image.new("L", chart.size)
        for run in _runs(curve):
            ends = points_of(curve.high, curve.at, run) + points_of(curve.low, curve.at, run)[::-1]
            if len(run) > 1:
                ImageDraw.Draw(band).polygon(ends, 38)
        chart.paste(color, mask=band)
    for number, ((name, curve), color) in enumerate(zip(curves.items(), COLORS, strict=False)):
        for run in _runs(curve):
            points = points_of(curve.mean, curve.at, run)
            if len(points) > 1:
                pen.line(points, color, 2 * SMOOTH, joint="curve")
            else:
                pen.circle(points[0], 2 * SMOOTH, color)
        y = top + 24 * SMOOTH * (number + 1)
        pen.line([(width - right + 12 * SMOOTH, y), (width - right + 36 * SMOOTH, y)], color, 3 * SMOOTH)
        pen.text((width - right + 42 * SMOOTH, y), name, "black", font, anchor="lm")
    pen.text((width / 2, 8 * SMOOTH), title, "black", font, anchor="ma")
    pen.text((width / 2, height - 8 * SMOOTH), across, "black", font, anchor="md")
    pen.text((8 * SMOOTH, 8 * SMOOTH), up, "black", font, anchor="la")
    chart.resize(SIZE, Image.Resampling.LANCZOS).save(path)


def round_marks(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`, 5 to 11 of them."""
    if not most > 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(most))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1.0) if most / (step * part) <= 10)
    return [step * k for k in range(math.ceil(most / step - 1e-9) + 1)]


def _runs(curve: Curve) -> list[NDArray[np.intp]]:
    """The numbers of the points between gaps."""
    known = np.flatnonzero(~np.isnan(curve.mean))
    return [run for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(run)]
