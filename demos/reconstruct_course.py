"""The course of a training as HTML: the PSNR so far as a curve, and views of the capture above those of the scene."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..models.modecgs.captures.capture import View
from ..pipelines.reconstruct.files import recent, thinned
from ..pipelines.reconstruct.fitting import Fitting, evenly
from ..pipelines.reconstruct.scene import Pixels
from .words import image_tag, plain

COLUMNS = 4
MOST_POINTS = 90
"""Of the curve."""
LEAST_RANGE = 6.0
"""Of the axis, in dB."""

STYLE = """<style>
.vz-course { display: grid; gap: 1.4rem; }
.vz-course h3 { font-size: 1rem; font-weight: 650; margin: 0 0 .5rem; font-variant-numeric: tabular-nums; }
.vz-curve { position: relative; height: 7.5rem; margin-left: 3.2rem; border-bottom: 1px solid var(--body-text-color-subdued); }
.vz-curve svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.vz-curve line { stroke: var(--border-color-primary); stroke-width: 1; vector-effect: non-scaling-stroke; }
.vz-curve line.vz-switch { stroke: var(--body-text-color-subdued); stroke-dasharray: 3 4; }
.vz-curve polyline { fill: none; stroke: var(--vz-accent); stroke-width: 2; vector-effect: non-scaling-stroke; }
.vz-curve span { position: absolute; right: 100%; transform: translateY(-50%); padding-right: .5rem; white-space: nowrap; }
.vz-curve em { position: absolute; top: .1rem; padding-left: .4rem; font-style: normal; }
.vz-course :is(.vz-curve span, .vz-curve em, .vz-axis) { font-size: var(--text-sm); color: var(--body-text-color-subdued);
                                            font-variant-numeric: tabular-nums; }
.vz-axis { display: flex; justify-content: space-between; margin: .2rem 0 0 3.2rem; }
.vz-compare { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .4rem .7rem; margin: 0; }
.vz-compare p { grid-column: 1 / -1; margin: .3rem 0 0; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-compare img { width: 100%; display: block; image-rendering: pixelated; background: var(--vz-wash); }
</style>"""
"""What the HTML of a course needs; once per page."""


class Course:
    """The course of a training.

    Args:
        fitting: the training.
        label: what is trained, for screen readers.
    """

    def __init__(self, fitting: Fitting, label: str):
        self.fitting, self.label = fitting, label
        capture = fitting.capture
        self.unseen = bool(capture.test)
        self.views: list[View] = evenly(capture.test or capture.train, COLUMNS)
        self._truth = [self._tag(view.pixels(), view, "the video's image") for view in self.views]

    def html(self) -> str:
        """The curve and the images as they are now."""
        fitting = self.fitting
        scene = fitting.scene()
        shown = [self._tag(fitting.image(view, scene), view, "the scene so far") for view in self.views]
        kind = "Views that the training does not see" if self.unseen else "Views of the video"
        return (
            f'<div class="vz-course"><section>{curve(fitting.history, fitting.recipe.steps, fitting.recipe.coarse_steps)}</section>'
            f'<section><div class="vz-compare"><p>{kind}</p>{"".join(self._truth)}<p>The scene so far</p>{"".join(shown)}'
            "</div></section></div>"
        )

    def _tag(self, pixels: Pixels, view: View, what: str) -> str:
        return image_tag(Image.fromarray(pixels), f"{self.label} at time {view.time:.2f}: {what}")


def curve(history: list[tuple[int, float]], steps: int, coarse_steps: int) -> str:
    """The PSNR of a training as HTML: heading, curve over all of its iterations, axes.

    Args:
        history: (iteration, PSNR in dB) so far; iterations that were skipped are NaN.
        steps: iterations of the whole training.
        coarse_steps: after how many of them the scene starts to move; 0 or `steps` if it never does.
    """
    points = thinned(history, min(MOST_POINTS, max(2, len(history) // 8)))
    if not points:
        return "<h3>PSNR of the training views</h3>"
    values = [value for _, value in points]
    low, high = axis(min(values), max(values))

    def height(value: float) -> float:
        return 100 * (high - value) / (high - low)

    line = " ".join(f"{100 * step / steps:.2f},{height(value):.2f}" for step, value in points)
    marks = ticks(low, high)
    grid = "".join(f'<line x1="0" x2="100" y1="{height(mark):.2f}" y2="{height(mark):.2f}"/>' for mark in marks)
    names = "".join(f'<span style="top: {height(mark):.1f}%">{mark:g} dB</span>' for mark in marks)
    if 0 < coarse_steps < steps:
        share = 100 * coarse_steps / steps
        grid += f'<line class="vz-switch" x1="{share:.2f}" x2="{share:.2f}" y1="0" y2="100"/>'
        names += f'<em style="left: {share:.2f}%">starts to move</em>'
    now = f"PSNR of the training views: {recent(history):.1f} dB"
    label = plain(f"{now}, after {history[-1][0]:,} of {steps:,} iterations")
    return (
        f'<h3>{now}</h3><div class="vz-curve"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{grid}<polyline points="{line}"/></svg>{names}</div>'
        f'<div class="vz-axis"><span>iteration 1</span><span>{steps:,}</span></div>'
    )


def axis(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis around values from `low` to `high` dB."""
    middle = (low + high) / 2
    return (
        math.floor(min(low, middle - LEAST_RANGE / 2)),
        math.ceil(max(high, middle + LEAST_RANGE / 2)),
    )


def ticks(low: float, high: float) -> list[float]:
    """Two to five round values in an axis from `low` to `high`."""
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 5)
    return np.arange(math.ceil(low / step) * step, high + 1e-9, step).tolist()


__all__ = ["STYLE", "Course", "axis", "curve", "ticks"]
