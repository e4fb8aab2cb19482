"""RetinaNet and Mask R-CNN with SHViT, based on torchvision's detectors, for the published mmdetection weights.

torchvision differs from mmdetection 2.25: its anchors are rounded and their strides follow from the padded
image, its boxes may shrink without limit, its RoIAlign is half a pixel off, resized sides are rounded down, and masks are
pasted at whole pixels. The classes here follow mmdetection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, roi_align

from visionzoo.config import configure
from visionzoo.errors import InputError

from .config import SHViTConfig
from .detection import MASK_RCNN, RETINANET, DetectionBackbone, DetectionConfig, NeckConfig

RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors."""


@dataclass(frozen=True)
class DetectorConfig:
    """The configuration of a detector; the defaults are published for S4, except for the neck, which differs between detectors.

    Attributes:
        backbone, neck: see `detection.DetectionConfig`.
        num_classes: number of classes without background; 80 for COCO.
        min_size, max_size: images are resized so that the short side is `min_size`, or the long one `max_size` if less.
        score_threshold, nms_threshold, max_detections: limits for the detections in an image.
    """

    backbone: SHViTConfig = field(default_factory=lambda: DetectionConfig().backbone)
    neck: NeckConfig = RETINANET
    num_classes: int = 80
    min_size: int = 800
    max_size: int = 1333
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        if self.num_classes < 1 or not 1 <= self.min_size <= self.max_size or self.max_detections < 1:
            raise InputError(
                f"num_classes and max_detections must be at least 1, and 1 <= min_size <= max_size, got {self}"
            )


class Anchors(AnchorGenerator):
    """Anchors with exact sizes on a grid with fixed strides, around each cell's upper left corner.

    Args:
        strides: strides of the levels.
        scales: sizes of the square anchors, in strides.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float]):
        self.strides = tuple(strides)
        super().__init__(
            tuple(tuple(stride * scale for scale in scales) for stride in strides), (RATIOS,) * len(strides)
        )

    def generate_anchors(
        self,
        scales: Any,
        aspect_ratios: Any,
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (torchvision's signature)
    ) -> Tensor:
        """Boxes around the origin, (ratios * scales, 4), ratios first; like torchvision's, but not rounded."""
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        widths, heights = (sizes / roots).flatten(), (sizes * roots).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        sizes = [list(x.shape[-2:]) for x in feature_maps]
        strides = [[torch.tensor(stride, device=feature_maps[0].device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors for _ in image_list.image_sizes]


class LimitedBoxCoder(BoxCoder):
    """torchvision's box coder, with the change of size limited in both directions to a factor of 1000 / 16."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        codes = rel_codes.unflatten(-1, (-1, 4))
        limits = codes.new_tensor([-torch.inf, -torch.inf, *(-self.bbox_xform_clip * w for w in self.weights[2:])])
        return super().decode_single(codes.maximum(limits).flatten(-2), boxes)


class AlignedRoIPool(MultiScaleRoIAlign):
    """RoIAlign with correct pixel centres, from the level that fits the box: 56 pixels belong to the finest level."""

    def __init__(self, size: int, strides: Sequence[int]):
        super().__init__([str(level) for level in range(len(strides))], size, sampling_ratio=0)
        self.strides = tuple(strides)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps by level, and boxes (n_i, 4) of each image -> (sum of n_i, C, size, size)."""
        maps = [x[name] for name in self.featmap_names]
        rois = torch.cat([torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)])
        side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp_min(0).sqrt()
        levels = torch.log2(side / 56 + 1e-6).floor().clamp(0, len(maps) - 1)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for level, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
            chosen = torch.where(levels == level)[0]
            part = roi_align(features, rois[chosen].to(features.dtype), self.output_size, 1 / stride, 0, aligned=True)
            pooled = pooled.index_copy(0, chosen, part)
        return pooled


class Transform(GeneralizedRCNNTransform):
    """Normalises, resizes and pads to multiples of 32; sizes are rounded, and masks are sampled at pixel centres."""

    def __init__(self, config: DetectorConfig):
        super().__init__(config.min_size, config.max_size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.short_side = config.min_size

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        if target is not None:
            return super().resize(image, target)
        height, width = image.shape[-2:]
        scale = min(self.max_size / max(height, width), self.short_side / min(height, width))
        size = [max(1, int(side * scale + 0.5)) for side in (height, width)]
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0], None

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: Any, original_image_sizes: Any
    ) -> list[dict[str, Tensor]]:
        masks = [None if self.training else one.pop("masks", None) for one in result]
        result = super().postprocess(result, image_shapes, original_image_sizes)
        for one, mask, size in zip(result, masks, original_image_sizes, strict=True):
            if mask is not None:
                one["masks"] = paste_masks(mask, one["boxes"], size)
        return result


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, 1, m, m) of boxes (n, 4) -> (n, 1, H, W) in an image of `size` (H, W), zero outside the boxes."""
    pasted = masks.new_zeros(len(masks), 1, *size)
    rows, columns = (torch.arange(side, device=masks.device, dtype=boxes.dtype) + 0.5 for side in size)
    for index, (x0, y0, x1, y1) in enumerate(boxes.unbind()):
        x, y = (columns - x0) / (x1 - x0) * 2 - 1, (rows - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        pasted[index] = F.grid_sample(masks[index : index + 1], grid[None].to(masks.dtype), align_corners=False)[0]
    return pasted


def _backbone(config: DetectorConfig) -> DetectionBackbone:
    return DetectionBackbone(DetectionConfig(config.backbone, config.neck))


class SHViTRetinaNet(RetinaNet):
    """RetinaNet: a list of images (3, H, W), RGB in [0, 1], any sizes -> per image a dictionary of boxes, scores and labels.

    Boxes (n, 4) are x1, y1, x2, y2 in pixels of the image as given; labels 0 to 79 count the 80 COCO classes in their
    official order, without gaps and without background. The network normalises and resizes the images. In training it takes
    `targets` and returns torchvision's losses.
    """

    def __init__(self, config: DetectorConfig):
        backbone = _backbone(config)
        super().__init__(
            backbone,
            config.num_classes,
            min_size=config.min_size,
            max_size=config.max_size,
            anchor_generator=Anchors(backbone.strides, [4 * 2 ** (i / 3) for i in range(3)]),
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.max_detections,
            topk_candidates=1000,
        )
        self.config = config
        self.box_coder = LimitedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.transform = Transform(config)


class SHViTMaskRCNN(MaskRCNN):
    """Mask R-CNN: like `SHViTRetinaNet`, with masks (n, 1, H, W) in [0, 1]; 0.5 is the published threshold.

    Labels are 1 to 80 here: 0 is torchvision's background.
    """

    def __init__(self, config: DetectorConfig):
        backbone = _backbone(config)
        strides = backbone.strides
        super().__init__(
            backbone,
            config.num_classes + 1,
            min_size=config.min_size,
            max_size=config.max_size,
            rpn_anchor_generator=Anchors(strides, [8]),
            rpn_pre_nms_top_n_test=1000,
            rpn_post_nms_top_n_test=1000,
            rpn_nms_thresh=0.7,
            box_roi_pool=AlignedRoIPool(7, strides[:4]),
            mask_roi_pool=AlignedRoIPool(14, strides[:4]),
            box_score_thresh=config.score_threshold,
            box_nms_thresh=config.nms_threshold,
            box_detections_per_img=config.max_detections,
        )
        self.config = config
        self.transform = Transform(config)
        self.rpn.box_coder = LimitedBoxCoder((1.0, 1.0, 1.0, 1.0))  # pyright: ignore[reportArgumentType]
        self.roi_heads.box_coder = LimitedBoxCoder((10.0, 10.0, 5.0, 5.0))  # pyright: ignore[reportArgumentType]


def retinanet(**overrides: Any) -> SHViTRetinaNet:
    """The published RetinaNet with S4, random weights, in eval mode; `overrides` are fields of `DetectorConfig`.

    >>> detector = visionzoo.load_checkpoint(retinanet(), "retinanet_shvit_s4_1x_coco.pth")
    """
    return SHViTRetinaNet(configure(DetectorConfig(), overrides)).eval()


def mask_rcnn(**overrides: Any) -> SHViTMaskRCNN:
    """The published Mask R-CNN with S4, random weights, in eval mode; `overrides` are fields of `DetectorConfig`."""
    return SHViTMaskRCNN(configure(replace(DetectorConfig(), neck=MASK_RCNN), overrides)).eval()
