"""MTCNN: a cascade of three small networks that detect faces with five points each (Zhang et al. 2016, arXiv 1604.02878).

P-Net proposes boxes over an image pyramid, R-Net rejects most of them, and O-Net makes the final decision and locates the points.
The weights are the published ones (visionzoo/assets/weights/mtcnn/README.md), 0.5 million parameters. The network is
implemented here because the packages that contain it pin old versions of torch and Pillow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from ..boxes import box_iou, nms, roi_align
from ..errors import InputError
from .face import Face, check_image

__all__ = ["MTCNN", "WEIGHTS"]

WEIGHTS = Path(__file__).parent.parent / "assets" / "weights" / "mtcnn" / "mtcnn.safetensors"
CELL, STRIDE = 12, 2
"""Receptive field (12 x 12 pixels) and stride of P-Net."""
PYRAMID_STEP = 0.709
"""Ratio of the sides of consecutive pyramid levels: half the area."""
MOST_PROPOSALS = 512
"""Maximum number of boxes kept from each level and in total; an image of foliage or noise has thousands."""


class PNet(nn.Module):
    """(B, 3, H, W) -> face probability (B, h, w) and box offsets (B, 4, h, w), with h about H / 2 - 5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x).softmax(1)[:, 1], self.conv4_2(x)


class RNet(nn.Module):
    """(B, 3, 24, 24) -> face probability (B,) and box offsets (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(_columns_first(x)))
        return self.dense5_1(x).softmax(1)[:, 1], self.dense5_2(x)


class ONet(nn.Module):
    """(B, 3, 48, 48) -> face probability (B,), box offsets (B, 4), points (B, 10): five x, then five y, within the box."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.dense5(_columns_first(x)))
        return self.dense6_1(x).softmax(1)[:, 1], self.dense6_2(x), self.dense6_3(x)


class MTCNN:
    """Detects faces with five points each.

    Args:
        device: where the networks run.
        longest: larger images are searched at this many pixels along their longer side.
        min_face: size of the smallest face to find, as a fraction of the longer side, in (0, 1]; at least 20 pixels of the
            searched image.
        thresholds: minimum face probability at which P-Net, R-Net and O-Net accept a box. The paper's code has 0.6, 0.7,
            0.7; the last is higher here, as a false face harms a crop more than a missed frame.
    """

    name = "mtcnn"

    def __init__(
        self,
        *,
        device: torch.device | str = "cpu",
        longest: int = 640,
        min_face: float = 0.05,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9),
    ) -> None:
        if longest < 64 or not 0 < min_face <= 1:
            raise InputError(
                f"longest must be at least 64 and min_face must be in (0, 1], got {longest} and {min_face}"
            )
        self.device = torch.device(device)
        self.longest, self.min_face, self.thresholds = longest, min_face, thresholds
        nets = nn.ModuleDict({"pnet": PNet(), "rnet": RNet(), "onet": ONet()})
        nets.load_state_dict(load_file(WEIGHTS))
        nets.requires_grad_(False).eval().to(self.device)
        self.pnet, self.rnet, self.onet = nets["pnet"], nets["rnet"], nets["onet"]

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Find the faces of `image`, (H, W, 3) uint8 RGB, highest score first. Raises InputError for a wrong shape or type."""
        check_image(image)
        # the networks were trained on (value - 127.5) / 128
        x = (torch.tensor(image, device=self.device).permute(2, 0, 1)[None].float() - 127.5) / 128
        height, width = image.shape[:2]
        shrink = min(1.0, self.longest / max(height, width))
        if shrink < 1:
            x = _resized(x, round(height * shrink), round(width * shrink))
        boxes = self._propose(x)
        boxes = self._refine(x, boxes)
        boxes, scores, points = self._decide(x, boxes)
        # per axis, as the sides were rounded
        stretch = torch.tensor([width / x.shape[3], height / x.shape[2]], device=self.device)
        boxes, points = boxes * stretch.repeat(2), points * stretch
        faces = zip(boxes.tolist(), scores.tolist(), points.cpu().numpy(), strict=True)
        return [Face((left, top, right, bottom), score, of) for (left, top, right, bottom), score, of in faces]

    def _propose(self, x: Tensor) -> Tensor:
        """Square candidate boxes (N, 4) from P-Net over the pyramid."""
        height, width = x.shape[2:]
        scale = CELL / max(20.0, self.min_face * max(height, width))
        boxes, scores, offsets, level = [], [], [], x
        while min(height, width) * scale >= CELL:
            level = _resized(
                level, round(height * scale), round(width * scale)
            )  # from the previous level: antialiased, and cheaper
            probability, offset = self.pnet(level)
            probability, offset = probability[0], offset[0].permute(1, 2, 0)
            hits = probability > self.thresholds[0]
            rows, columns = hits.nonzero(as_tuple=True)
            corner = torch.stack([columns, rows], 1) * float(STRIDE)
            to_image = torch.tensor([width / level.shape[3], height / level.shape[2]], device=x.device)
            cells = torch.cat([corner * to_image, (corner + CELL) * to_image], 1)
            keep = nms(cells, probability[hits], 0.5)[:MOST_PROPOSALS]
            boxes.append(cells[keep])
            scores.append(probability[hits][keep])
            offsets.append(offset[hits][keep])
            scale *= PYRAMID_STEP
        if not boxes:
            return x.new_zeros(0, 4)
        found = torch.cat(boxes)
        keep = nms(found, torch.cat(scores), 0.7)[:MOST_PROPOSALS]
        return _squares(_moved(found, torch.cat(offsets))[keep])

    def _refine(self, x: Tensor, boxes: Tensor) -> Tensor:
        """The boxes (N, 4) that R-Net accepts, adjusted and made square again."""
        probability, offset = self.rnet(_cut(x, boxes, 24))
        passed = probability > self.thresholds[1]
        boxes, probability, offset = boxes[passed], probability[passed], offset[passed]
        keep = nms(boxes, probability, 0.7)
        return _squares(_moved(boxes, offset)[keep])

    def _decide(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4), probabilities (N,) and points (N, 5, 2) of the faces, highest score first."""
        probability, offset, points = self.onet(_cut(x, boxes, 48))
        passed = probability > self.thresholds[2]
        boxes, probability, offset, points = boxes[passed], probability[passed], offset[passed], points[passed]
        sides = boxes[:, 2:] - boxes[:, :2]
        points = boxes[:, None, :2] + points.view(-1, 2, 5).transpose(1, 2) * sides[:, None]
        boxes = _moved(boxes, offset)
        keep = _outermost(boxes, probability)
        return boxes[keep], probability[keep], points[keep]


def _columns_first(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, W * H * C): the order of the published weights, which come from column-major code."""
    return x.permute(0, 3, 2, 1).flatten(1)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (max(1, height), max(1, width)), mode="bilinear", antialias=True, align_corners=False)


def _cut(x: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop the boxes of `x` (1, 3, H, W) and average each to (size, size), grey outside the image: (N, 3, size, size)."""
    if not len(boxes):
        return x.new_zeros(0, 3, size, size)
    return roi_align(x, boxes, size, sampling_ratio=4)


def _moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Boxes (N, 4) with their sides moved by offsets (N, 4) relative to the box size."""
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _squares(boxes: Tensor) -> Tensor:
    """Squares with the same centres, as wide as the longer sides."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], 1)


def _outermost(boxes: Tensor, scores: Tensor) -> list[int]:
    """Indices of the boxes to keep, highest score first: of two boxes that share 70 % of the smaller one's area, the better one."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    both, iou = area[:, None] + area[None], box_iou(boxes, boxes)
    shared = iou * both / (1 + iou) / torch.minimum(area[:, None], area[None]).clamp(min=1e-6)
    kept: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        if all(float(shared[number, other]) <= 0.7 for other in kept):
            kept.append(number)
    return kept
