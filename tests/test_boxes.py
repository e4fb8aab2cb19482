"""Overlap, non-maximum suppression and RoIAlign equal torchvision's, whose kernels are used."""

from __future__ import annotations

import torch
from torchvision import ops

from visionzoo.boxes import box_iou, nms, roi_align


def some_boxes(count: int, seed: int = 0) -> torch.Tensor:
    """Boxes that overlap, some of them beyond a map of 40 x 50, and one twice."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=rng) * 50 - 8
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=rng) * 25], 1)
    boxes[-1] = boxes[0]
    return boxes


def test_as_torchvision() -> None:
    boxes, others = some_boxes(60), some_boxes(7, seed=1)
    torch.testing.assert_close(box_iou(boxes, others), ops.box_iou(boxes, others), rtol=0, atol=0)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(2))
    assert nms(boxes, scores, 0.3).tolist() == ops.nms(boxes, scores, 0.3).tolist()
    x = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(3))
    wanted = ops.roi_align(x, [boxes], 6, sampling_ratio=4, aligned=True)
    torch.testing.assert_close(roi_align(x, boxes, 6, sampling_ratio=4), wanted, rtol=0, atol=0)


def test_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert box_iou(none, some_boxes(2)).shape == (0, 2)
    assert nms(none, torch.zeros(0), 0.5).shape == (0,)
