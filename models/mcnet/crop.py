"""Finds where to crop a face in a video: boxes of one face over time form a tube, and a square surrounds the tube.

Boxes are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionzoo.boxes import box_iou

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FrameCrop:
    """A rectangle of whole pixels within the frame."""

    left: int
    top: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.width, self.top + self.height


@dataclass(frozen=True)
class Tube:
    """One face from frame `start` to frame `end`."""

    start: int
    end: int
    first: Box
    """The box in which it was first seen."""
    box: Box
    """The box around all positions where it was seen."""


def iou(boxes: Sequence[Box], other: Box) -> Tensor:
    """Intersection over union of N boxes with another one, (N,); right and lower edges are pixels that belong to the box."""
    edges = torch.tensor([0, 0, 1, 1], dtype=torch.float64)
    these = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
    return box_iou(these + edges, torch.tensor([other], dtype=torch.float64) + edges)[:, 0]


def union(a: Box, b: Box) -> Box:
    """The smallest box around both."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def square_crop(box: Box, frame_height: int, frame_width: int, margin: float = 0.1) -> FrameCrop:
    """A square around a box, wider than its longer side by `margin` on each side, clipped to the frame.

    As published, edges are truncated towards zero, and a clipped square is not made square again.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    more_x = max(margin, ((1 + 2 * margin) * height - width) / (2 * width)) * width
    more_y = max(margin, ((1 + 2 * margin) * width - height) / (2 * height)) * height
    left, top = max(0, int(left - more_x)), max(0, int(top - more_y))
    right, bottom = min(frame_width, int(right + more_x)), min(frame_height, int(bottom + more_y))
    return FrameCrop(left, top, right - left, bottom - top)


def link_tubes(detections: Iterable[Sequence[Box]], *, least_iou: float = 0.25, least_frames: int = 150) -> list[Tube]:
    """The faces of a video, sorted by their first frame.

    A box belongs to the tube whose first box it overlaps most, by more than `least_iou`; else it begins a new tube. A tube ends
    at the first frame that has no box for it.

    Args:
        detections: the boxes found in each frame.
        least_frames: shorter tubes are ignored.
    """
    running: list[Tube] = []
    ended: list[Tube] = []
    number = -1
    for number, boxes in enumerate(detections):
        seen: dict[int, Tube] = {}
        begun: list[Tube] = []
        for box in boxes:
            shares = iou([tube.first for tube in running], box)
            best = int(shares.argmax()) if running else 0
            if not running or shares[best] <= least_iou:
                begun.append(Tube(number, number + 1, box, box))
            else:
                tube = seen.get(best, running[best])
                seen[best] = Tube(tube.start, number + 1, tube.first, union(tube.box, box))
        ended += [tube for i, tube in enumerate(running) if i not in seen]
        running = [*seen.values(), *begun]
    tubes = [tube for tube in ended + running if tube.end - tube.start >= least_frames]
    return sorted(tubes, key=lambda tube: (tube.start, tube.first))
