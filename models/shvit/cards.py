"""Model cards of the registered variants (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

_PAPER = "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design, CVPR 2024, https://arxiv.org/abs/2401.16456"
_CODE = "https://github.com/ysj9909/SHViT"
_RELEASE = "https://github.com/ysj9909/SHViT/releases/download/v1.0"


def _card(
    name: str,
    params: int,
    size: int,
    top1: str,
    images_per_second: str,
    size_mb: float,
    more: dict[str, str] | None = None,
) -> ModelCard:
    return ModelCard(
        name=name,
        task="classify",
        summary="Small and fast image classifier and backbone: strides of 16, 32 and 64, and attention with a single head on a "
        "part of the channels.",
        inputs=f"(B, 3, H, W) float32, RGB, normalised with the ImageNet statistics; trained at {size} x {size}, any size works",
        outputs="(B, 1000) float32 logits of ImageNet-1k; maps of three stages with features_only=True",
        params=params,
        paper=_PAPER,
        code=_CODE,
        code_license="MIT",
        weights=(
            WeightSource(
                name=f"{name}.in1k",
                file=f"{name}.in1k.safetensors",
                license="MIT",
                hub=(f"timm/{name}.in1k", "model.safetensors"),
                size_mb=size_mb,
                note="ImageNet-1k, trained by the authors, converted by timm",
            ),
            WeightSource(
                name=f"{name}.official",
                file=f"{name}.pth",
                license="MIT (of the repository; none stated for the weights alone)",
                url=f"{_RELEASE}/{name}.pth",
                note="ImageNet-1k, the authors' own file",
            ),
        ),
        published={
            f"ImageNet-1k top-1 at {size} x {size}": f"{top1} %",
            "images/s, A100, batch 256, fused, float16": images_per_second,
            **(more or {}),
        },
        limits="The published accuracy has not been measured again with this code. Attention sees all positions at once through "
        "its norm: padding or tiling an image changes every value, so do not batch images of different size by padding.",
        citation="Yun, Ro. SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design. CVPR 2024",
    )


_XS = ModelCard(
    name="shvit_xs",
    task="classify",
    summary="A narrower SHViT than the published ones, trained by visionzoo for an hour on one CPU core: describes photos for "
    "`visionzoo retrieve` faster and less well than the default; too weak to use as a classifier.",
    inputs="(B, 3, H, W) float32, RGB, normalised with the ImageNet statistics; trained at 128 x 128, any size works",
    outputs="(B, 1000) float32 logits of ImageNet-1k; maps of three stages with features_only=True",
    params=4_028_996,
    paper=_PAPER,
    code=_CODE,
    code_license="MIT",
    weights=(
        WeightSource(
            name="shvit_xs.lite0",
            file="shvit_xs.lite0.safetensors",
            license="Apache-2.0",
            bundled="weights/shvit_xs.lite0.safetensors",
            sha256="cfbe2abe0783fe287d673ddda1f374ed309ba4c3edcc0e19373cb07c0a80c0a0",
            size_mb=8.2,
            note="Distilled from an EfficientNet-Lite0 on 240,000 views of about 600 free photos and cut-out objects, without "
            "labels (visionzoo fit --config shvit/xs_lite0). Measured by visionzoo: it agrees with its teacher in 11.7 % of held-out "
            "images (within five: 28.7 %), among 1000 classes.",
            caution="its classes are mostly wrong, because it was trained too little to classify; use efficientnet_lite0, which "
            "comes with visionzoo, too",
        ),
    ),
    limits="It was trained at 128 x 128 on few images; nothing about it is published.",
)


CARDS = (
    _XS,
    _card("shvit_s1", 6_330_808, 224, "72.8", "33489", 25.4),
    _card("shvit_s2", 11_483_072, 224, "75.2", "26878", 46.0),
    _card("shvit_s3", 14_245_273, 224, "77.4", "20522", 57.1),
    _card(
        "shvit_s4",
        16_588_484,
        256,
        "79.4",
        "14283",
        66.5,
        {
            "ImageNet-1k top-1, distilled / fine-tuned at 512": "80.2 % / 82.0 % (from a summary of the paper)",
            "COCO, RetinaNet": "38.8 AP",
            "COCO, Mask R-CNN": "39.0 box AP, 35.9 mask AP",
        },
    ),
)
