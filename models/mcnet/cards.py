"""Model cards of the registered variants (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

_CODE = "https://github.com/harlanhong/ICCV2023-MCNET"
_TITLE = "Implicit Identity Representation Conditioned Memory Compensation Network for Talking Head Video Generation"
_PAPER = f"{_TITLE}, ICCV 2023, https://arxiv.org/abs/2307.09906"
_CITATION = f"Hong, Xu. {_TITLE}. ICCV 2023"

CARDS = (
    ModelCard(
        name="mcnet",
        task="reenact",
        summary="Animates a still face with the movements of a face in a video: keypoints learned without "
        "labels, dense flow between them, "
        "and a learned memory of faces that fills in what the flow cannot provide.",
        inputs="source (1 or B, 3, H, W) and driving frames (B, 3, H, W) float32, RGB in [0, 1], H and W multiples of 128; trained at "
        "256 x 256 on cropped faces",
        outputs="(B, 3, H, W) float32, RGB in [0, 1]",
        params=101_841_273,
        paper=_PAPER,
        code=_CODE,
        code_license="none stated",
        weights=(
            WeightSource(
                name="mcnet.official",
                file="00000099-checkpoint.pth.tar",
                license="none stated",
                page=f"{_CODE} (OneDrive folder linked in its README; needs a browser)",
                note="Trained by the authors for 100 epochs on VoxCeleb1. The optimizers' state in the file is not read.",
                caution="no licence is stated for these weights: ask the authors before any use other than research",
            ),
        ),
        published={
            "VoxCeleb1, same identity, SSIM": "82.5 %",
            "VoxCeleb1, same identity, PSNR (for a data range of 2)": "31.94 dB",
            "VoxCeleb1, same identity, LPIPS": "0.174",
            "VoxCeleb1, same identity, L1": "0.0331",
            "VoxCeleb1, same identity, AKD / AED": "1.203 / 0.1065",
        },
        limits="For faces only, cropped like the training data: most bad results come from bad crops. Sizes other than "
        "256 x 256 work but were not trained. Large turns of the head and hands in front of the face fail.",
        citation=_CITATION,
    ),
    ModelCard(
        name="mcnet_nano",
        task="reenact",
        summary="A small MCNet of our own, trained on rendered heads like those of the samples, to try everything out; the "
        "only MCNet with bundled weights.",
        inputs="as for mcnet; trained at 128 x 128",
        outputs="(B, 3, H, W) float32, RGB in [0, 1]",
        params=3_227_585,
        paper=_PAPER,
        code=_CODE,
        code_license="none stated",
        weights=(
            WeightSource(
                name="mcnet_nano.heads",
                file="mcnet_nano.heads.safetensors",
                license="Apache-2.0",
                bundled="weights/mcnet_nano.heads.safetensors",
                sha256="09717863df89f8a94cb09b0ff6c144c29bf57777ab0da9606e233ea3227088da",
                size_mb=6.5,
                note="Trained by visionzoo for 800 steps on one CPU core, on clips of ten rendered heads made from CC0 data of "
                "MakeHuman (visionzoo fit --config mcnet/nano). No real person is in the training data. Held-out "
                "performances of two of these heads, reconstructed from their first frames: 22.1 dB / 0.660 SSIM (that frame "
                "unchanged: 17.4 / 0.441); of two heads that it was not trained on: 21.7 / 0.632 (20.0 / 0.535).",
            ),
        ),
        limits="It was trained briefly and only on rendered heads. The head turns and moves, but eyes, brows and mouths are blurred "
        "and hardly move; real faces follow only roughly. It works at 128 x 128 pixels.",
        citation=_CITATION,
    ),
)
