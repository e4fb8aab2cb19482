"""The course of a colouring as HTML: frames of the segments that have arrived, and what the memory holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from ..pipelines.colorize.files import Arrived
from .words import image_tag, plain

COLUMNS, LATEST = 4, 6
"""Frames of a segment, and segments, that are shown."""
SHOWN = 320
"""Longest side of a shown frame, in pixels."""

STYLE = """<style>
.vz-segments { display: grid; gap: 1.1rem; }
.vz-segments h3 { font-size: 1rem; font-weight: 650; margin: 0 0 .4rem; font-variant-numeric: tabular-nums; }
.vz-segments .vz-strip { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .5rem; }
.vz-segments img { width: 100%; display: block; background: var(--vz-wash); }
.gradio-container .vz-held { width: 100%; border: 0; border-collapse: collapse; font-size: var(--text-sm);
                             font-variant-numeric: tabular-nums; }
.gradio-container .vz-held :is(th, td) { text-align: right; padding: .3rem .5rem; border: 0; background: none;
                                         border-bottom: 1px solid var(--border-color-primary); color: var(--body-text-color); }
.gradio-container .vz-held th:first-child { text-align: left; }
.gradio-container .vz-held thead th { color: var(--body-text-color-subdued); font-weight: 400; }
</style>"""
"""What the HTML of a course needs; once per page."""

STORES = {"global": "all frames", "local": "the last frames"}


class Course:
    """The segments that have arrived."""

    def __init__(self) -> None:
        self._strips: list[str] = []
        self.held: dict[str, int] = {}

    def add(self, arrived: Arrived) -> None:
        """Show a segment, too."""
        numbers = np.linspace(0, len(arrived.frames) - 1, COLUMNS).round().astype(int)
        label = f"Segment {arrived.number} of {arrived.count}"
        images = "".join(image_tag(_small(np.asarray(arrived.frames[n])), f"{label}, frame {n + 1}") for n in numbers)
        self._strips = self._strips[1 - LATEST :]
        self._strips.append(f'<div><h3>{plain(label)}</h3><div class="vz-strip">{images}</div></div>')
        self.held = arrived.memory

    def html(self) -> str:
        """The memory, and the last segments, the latest first."""
        return f'<div class="vz-segments">{memory_html(self.held)}{"".join(reversed(self._strips))}</div>'


def memory_html(held: Mapping[str, int]) -> str:
    """What the memory holds, as a table.

    Args:
        held: the fields of `MemoryFacts`.
    """
    rows = "".join(
        f"<tr><th>{plain(words)}</th><td>{held.get(f'{name}_tokens', 0):,}</td>"
        f"<td>{megabytes(held.get(f'{name}_bytes', 0))}</td></tr>"
        for name, words in STORES.items()
    )
    return (
        f'<table class="vz-held"><thead><tr><th>Memory of {held.get("frames", 0):,} frames</th><th>tokens that the segment saw</th>'
        f"<th>megabytes</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def megabytes(count: int) -> str:
    """A number of bytes: "0.03", "1.5", "278"."""
    value = count / 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 or not value else f"{value:.2g}"


def _small(frame: np.ndarray) -> Image.Image:
    image = Image.fromarray(frame)
    image.thumbnail((SHOWN, SHOWN))
    return image


__all__ = ["STYLE", "Course", "megabytes", "memory_html"]
