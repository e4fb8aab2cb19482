"""Model cards of the registered variants (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

_PAPER = (
    "Tokenize Image Patches: Global Context Fusion for Effective Haze Removal in Large Images, CVPR 2025, "
    "https://arxiv.org/abs/2504.09621"
)
_CODE = "https://github.com/CastleChen339/DehazeXL"
_INPUTS = "(B, 3, H, W) float32, RGB in [0, 1], any size; best multiples of 256, others are padded by mirroring"
_OUTPUTS = "(B, 3, H, W) float32, RGB, not clamped"
_LIMITS = (
    "Trained by its authors on 2048 x 2048 crops: global context and positions beyond that are extrapolated. Patches of 256 x 256 "
    "are joined without overlap, so their borders can show, above all after training on small crops."
)
_CITATION = "Chen, Yan, Xu, Li. Tokenize Image Patches: Global Context Fusion for Effective Haze Removal in Large Images. CVPR 2025"

CARDS = (
    ModelCard(
        name="dehazexl",
        task="dehaze",
        summary="Haze removal in very large aerial and camera images: patches are encoded and decoded one by one and "
        "connected by attention over one token per 32 x 32 pixels of the whole image.",
        inputs=_INPUTS,
        outputs=_OUTPUTS,
        params=125_484_996,
        paper=_PAPER,
        code=_CODE,
        code_license="none stated",
        published={
            "8KDehaze, 8192 x 8192, PSNR / SSIM": "32.35 dB / 0.9863",
            "8KDehaze, seconds an image (device not stated)": "4.617",
            "4KID, PSNR / SSIM": "26.62 dB / 0.9073",
            "O-HAZE, PSNR / SSIM": "21.49 dB / 0.7348",
        },
        limits=f"The weights that gave these numbers were not published: the authors lost them and advise training again. {_LIMITS}",
        citation=_CITATION,
    ),
    ModelCard(
        name="dehazexl_dam",
        task="dehaze",
        summary="An earlier DehazeXL, with LayerNorms instead of transposed convolutions in its upsamplers; the "
        "only published weights are for this network.",
        inputs=_INPUTS,
        outputs=_OUTPUTS,
        params=125_485_728,
        paper=_PAPER,
        code="https://github.com/fengyanzi/DehazingAttributionMap",
        code_license="MIT",
        weights=(
            WeightSource(
                name="dehazexl_dam.test",
                file="weightforDAMtest.pth",
                license="MIT (of the repository; none stated for the weights alone)",
                url="https://github.com/fengyanzi/DehazingAttributionMap/releases/download/weight/weightforDAMtest.pth",
                size_mb=502,
                note="Trained briefly by the authors on a small data set, to try out their attribution maps.",
                caution="trained briefly, for tests of attribution maps; its quality is far from the paper's",
            ),
        ),
        limits=f"Its weights do not give the paper's numbers. {_LIMITS}",
        citation=_CITATION,
    ),
    ModelCard(
        name="dehazexl_nano",
        task="dehaze",
        summary="A narrow DehazeXL of our own that predicts optical depth and airlight of the haze, smoothed by "
        "a guided filter, instead of "
        "a residual; the only DehazeXL with bundled weights.",
        inputs=_INPUTS,
        outputs=_OUTPUTS,
        params=5_224_764,
        paper=_PAPER,
        code=_CODE,
        code_license="none stated",
        weights=(
            WeightSource(
                name="dehazexl_nano.drawn",
                file="dehazexl_nano.drawn.safetensors",
                license="Apache-2.0",
                bundled="weights/dehazexl_nano.drawn.safetensors",
                sha256="3f8ff05cd37a81937a757aedc2e69ef8fbde7136f8a9386307c0f014128f6b19",
                size_mb=10.5,
                note="Trained by visionzoo on one CPU core for about three hours, on synthetic haze over tiles of free photos and "
                "synthetic aerial scenes (visionzoo fit --config dehazexl/nano). On other photos with synthetic haze it reaches "
                "20.9 dB / 0.826 SSIM; the hazy images have 13.8 / 0.680, the dark channel prior reaches 16.4 / 0.762.",
            ),
        ),
        limits="It was trained briefly, in crops of 512 x 512, on synthetic haze only: it makes dense haze "
        "thinner but does not remove it. "
        "Without blending (--no-blend), borders of tiles are visible in sky and water. The full network would be far better.",
        citation=_CITATION,
    ),
)
