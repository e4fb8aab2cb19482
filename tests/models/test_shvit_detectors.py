"""The detectors compute the same as mmdetection from weights with its names, compared with a step-by-step reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

from tests.golden import seeded
from visionzoo import load_checkpoint
from visionzoo.errors import InputError
from visionzoo.models.shvit import SHViTConfig, mask_rcnn, retinanet
from visionzoo.models.shvit.checkpoint import to_official
from visionzoo.models.shvit.detection import MASK_RCNN, RETINANET, NeckConfig
from visionzoo.models.shvit.detectors import DetectorConfig, LimitedBoxCoder, SHViTMaskRCNN, SHViTRetinaNet, paste_masks

TINY = SHViTConfig(embed_dim=(16, 24, 32), partial_dim=(8, 8, 8), depth=(1, 1, 1), types=("i", "s", "s"))
SMALL = {"backbone": TINY, "num_classes": 5, "min_size": 288, "max_size": 320}
ONE = SMALL | {"neck": NeckConfig(32)}
TWO = SMALL | {"neck": NeckConfig(32, finer=2, coarser=0)}
HEIGHT, WIDTH = 288, 300  # needs padding but no resizing, and 288 is not a multiple of the coarsest stride
CLIP = math.log(1000 / 16)


def convolve(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def anchors(size: tuple[int, int], stride: int, scales: list[float]) -> Tensor:
    """Anchors one by one: cells in rows, then ratios, then scales."""
    boxes = []
    for row in range(size[0]):
        for column in range(size[1]):
            for ratio in (0.5, 1.0, 2.0):
                for scale in scales:
                    w, h = stride * scale / math.sqrt(ratio) / 2, stride * scale * math.sqrt(ratio) / 2
                    x, y = column * stride, row * stride
                    boxes.append([x - w, y - h, x + w, y + h])
    return torch.tensor(boxes)


def decode(deltas: Tensor, boxes: Tensor, stds: tuple[float, ...]) -> Tensor:
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(-1)
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + w / 2 + dx * w, boxes[:, 1] + h / 2 + dy * h
    w, h = w * dw.clamp(-CLIP, CLIP).exp(), h * dh.clamp(-CLIP, CLIP).exp()
    out = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    return torch.stack([out[:, i].clamp(0, (WIDTH, HEIGHT)[i % 2]) for i in range(4)], -1)


def flat(x: Tensor, width: int) -> Tensor:
    return x[0].permute(1, 2, 0).reshape(-1, width)


def prepared(image: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = (image - mean[:, None, None]) / std[:, None, None]
    return F.pad(image, (0, -WIDTH % 32, 0, -HEIGHT % 32))[None]


def loaded(model: SHViTRetinaNet | SHViTMaskRCNN, gains: dict[str, float]) -> dict[str, Tensor]:
    """Seeded weights in mmdetection's names, loaded into `model`; `gains` scale layers, so that boxes differ in size and class."""
    state = seeded.fill(to_official(model.state_dict()))
    for name, gain in gains.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] * gain
    load_checkpoint(model, {"meta": {}, "state_dict": state})
    return state


def agree(got: dict[str, Tensor], boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    assert len(got["boxes"]) == len(boxes) > 5
    assert torch.allclose(got["scores"], scores, atol=1e-5)
    assert torch.equal(got["labels"], labels)
    assert torch.allclose(got["boxes"], boxes, atol=1e-2)


def test_retinanet() -> None:
    model = retinanet(**ONE)
    state = loaded(model, {"bbox_head.retina_cls": 0.3, "bbox_head.retina_reg": 0.3})
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    boxes, scores, labels = [], [], []
    with torch.no_grad():
        got = model([image])[0]
        levels = model.backbone(prepared(image)).values()
        for x, stride in zip(levels, (8, 16, 32, 64, 128), strict=True):
            cls = reg = x
            for i in range(4):
                cls = F.relu(convolve(state, f"bbox_head.cls_convs.{i}.conv", cls))
                reg = F.relu(convolve(state, f"bbox_head.reg_convs.{i}.conv", reg))
            score = flat(convolve(state, "bbox_head.retina_cls", cls), 5).sigmoid().flatten()
            delta = flat(convolve(state, "bbox_head.retina_reg", reg), 4)
            kept = score.topk(min(1000, int((score > 0.05).sum())))
            where = kept.indices // 5
            grid = anchors((x.shape[2], x.shape[3]), stride, [4 * 2 ** (i / 3) for i in range(3)])
            boxes.append(decode(delta[where], grid[where], (1, 1, 1, 1)))
            scores.append(kept.values)
            labels.append(kept.indices % 5)
    b, s, c = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    keep = batched_nms(b, s, c, 0.5)[:100]
    agree(got, b[keep], s[keep], c[keep])


def test_mask_rcnn() -> None:
    model = mask_rcnn(**TWO)
    head, mask_head = "roi_head.bbox_head", "roi_head.mask_head"
    state = loaded(model, {"rpn_head.rpn_reg": 0.2, f"{head}.fc_cls": 3.0, f"{head}.fc_reg": 0.5})
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = model([image])[0]
        levels = list(model.backbone(prepared(image)).values())
        boxes, scores, level_of = [], [], []
        for level, (x, stride) in enumerate(zip(levels, (4, 8, 16, 32, 64), strict=True)):
            hidden = F.relu(convolve(state, "rpn_head.rpn_conv", x))
            score = flat(convolve(state, "rpn_head.rpn_cls", hidden), 1).flatten()
            delta = flat(convolve(state, "rpn_head.rpn_reg", hidden), 4)
            kept = score.topk(min(1000, len(score)))
            grid = anchors((x.shape[2], x.shape[3]), stride, [8])
            boxes.append(decode(delta[kept.indices], grid[kept.indices], (1, 1, 1, 1)))
            scores.append(kept.values.sigmoid())
            level_of.append(torch.full_like(kept.indices, level))
        b, s, n = torch.cat(boxes), torch.cat(scores), torch.cat(level_of)
        fine = ((b[:, 2:] - b[:, :2]) > 1e-3).all(1)
        b, s, n = b[fine], s[fine], n[fine]
        proposals = b[batched_nms(b, s, n, 0.7)[:1000]]

        def pooled(rois: Tensor, size: int) -> Tensor:
            parts = []
            for roi in rois:
                side = math.sqrt(float((roi[2] - roi[0]) * (roi[3] - roi[1])))
                level = min(3, max(0, math.floor(math.log2(side / 56 + 1e-6))))
                parts.append(roi_align(levels[level], [roi[None]], size, 1 / (4 << level), 0, aligned=True))
            return torch.cat(parts)

        x = pooled(proposals, 7).flatten(1)
        for i in range(2):
            x = F.relu(F.linear(x, state[f"{head}.shared_fcs.{i}.weight"], state[f"{head}.shared_fcs.{i}.bias"]))
        score = F.linear(x, state[f"{head}.fc_cls.weight"], state[f"{head}.fc_cls.bias"]).softmax(-1)[:, :5]
        delta = F.linear(x, state[f"{head}.fc_reg.weight"], state[f"{head}.fc_reg.bias"]).reshape(-1, 5, 4)
        where, label = (score > 0.05).nonzero(as_tuple=True)
        b = decode(delta[where, label], proposals[where], (0.1, 0.1, 0.2, 0.2))
        s = score[where, label]
        fine = ((b[:, 2:] - b[:, :2]) > 1e-2).all(1)
        b, s, label = b[fine], s[fine], label[fine]
        keep = batched_nms(b, s, label, 0.5)[:100]
        agree(got, b[keep], s[keep], label[keep] + 1)

        x = pooled(b[keep], 14)
        for i in range(4):
            x = F.relu(convolve(state, f"{mask_head}.convs.{i}.conv", x))
        up = F.conv_transpose2d(x, state[f"{mask_head}.upsample.weight"], state[f"{mask_head}.upsample.bias"], 2)
        logits = convolve(state, f"{mask_head}.conv_logits", F.relu(up))
        masks = logits[torch.arange(len(keep)), label[keep]].sigmoid()[:, None]
        assert torch.allclose(got["masks"], paste_masks(masks, b[keep], (HEIGHT, WIDTH)), atol=1e-3)


@pytest.mark.parametrize(("make", "settings"), [(retinanet, ONE), (mask_rcnn, TWO)])
def test_published_names_both_ways(make, settings: dict) -> None:
    model = make(**settings)
    model.load_state_dict(seeded.fill(model.state_dict()))
    published = to_official(model.state_dict())
    assert all(key.split(".")[0] in ("backbone", "neck", "bbox_head", "rpn_head", "roi_head") for key in published)
    assert "backbone.patch_embed.0.c.weight" in published
    again = load_checkpoint(make(**settings), published)
    back = to_official(again.state_dict())
    assert back.keys() == published.keys()
    assert all(torch.equal(back[key], value) for key, value in published.items())


def test_images_of_other_sizes_and_without_anything() -> None:
    model = retinanet(**{**ONE, "min_size": 64, "max_size": 96})
    images = [torch.rand(3, 33, 70), torch.rand(3, 1, 1), torch.rand(3, 200, 50)]
    with torch.no_grad():
        for got, image in zip(model(images), images, strict=True):
            assert got["boxes"].shape == (len(got["labels"]), 4)
            assert (got["boxes"] <= torch.tensor(image.shape[:0:-1]).repeat(2) + 1e-3).all()
    with pytest.raises(InputError, match="no field 'classes'"):
        retinanet(classes=3)
    with pytest.raises(InputError, match="min_size"):
        DetectorConfig(min_size=0)
    with pytest.raises(InputError, match="finer and coarser"):
        NeckConfig(finer=5)


def test_published_settings() -> None:
    with torch.device("meta"):
        one, two = SHViTRetinaNet(DetectorConfig()), SHViTMaskRCNN(DetectorConfig(neck=MASK_RCNN))
    assert one.config.neck == RETINANET
    assert one.backbone.strides == (8, 16, 32, 64, 128)
    assert two.backbone.strides == (4, 8, 16, 32, 64)
    assert to_official(one.state_dict())["bbox_head.retina_cls.weight"].shape == (720, 256, 3, 3)
    assert to_official(two.state_dict())["roi_head.bbox_head.fc_cls.weight"].shape == (81, 1024)
    assert to_official(two.state_dict())["roi_head.bbox_head.fc_reg.weight"].shape == (320, 1024)
    assert to_official(two.state_dict())["roi_head.mask_head.conv_logits.weight"].shape == (80, 256, 1, 1)


def test_boxes_shrink_and_grow_by_a_limited_factor() -> None:
    coder = LimitedBoxCoder((10.0, 10.0, 5.0, 5.0))
    codes = torch.tensor([[0.0, 0.0, -99.0, 99.0]])
    wanted = decode(codes, torch.tensor([[99.0, 99.0, 101.0, 101.0]]), (0.1, 0.1, 0.2, 0.2))
    assert torch.allclose(coder.decode_single(codes, torch.tensor([[99.0, 99.0, 101.0, 101.0]])), wanted)
    assert float(wanted[0, 2] - wanted[0, 0]) == pytest.approx(2 * 16 / 1000, abs=1e-4)


def test_masks_fill_their_boxes() -> None:
    pasted = paste_masks(torch.ones(1, 1, 28, 28), torch.tensor([[2.0, 3.0, 8.0, 9.0]]), (12, 12))
    assert pasted[0, 0, 3:9, 2:8].min() > 0.99
    assert pasted.sum() < 50


def test_training_gives_losses() -> None:
    model = retinanet(**{**ONE, "min_size": 64, "max_size": 96}).train()
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([3])}
    losses = model([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert all(math.isfinite(float(loss.detach())) for loss in losses.values())
    assert model.backbone.backbone.stem[0].conv.weight.grad is not None
