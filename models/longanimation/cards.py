"""Model cards of LongAnimation's networks (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

_TITLE = "LongAnimation: Long Animation Generation with Dynamic Global-Local Memory"
_PAPER = f"{_TITLE}, ICCV 2025, https://arxiv.org/abs/2507.01945"
_CODE = "https://github.com/CN-makers/LongAnimation"
_CITATION = f"Chen, Huang, Meng, Mao. {_TITLE}. ICCV 2025"
_LICENSE = (
    "the CogVideoX licence of the weights that it was trained from: free for academic use; commercial use needs a registration "
    "and is limited to a million visits a month"
)
_HUB = "CNcreator0331/LongAnimation"
_DATA = "Trained by the authors on clips of Sakuga-42M (CC BY-NC-SA 4.0)."

CARDS = (
    ModelCard(
        name="longanimation",
        task="colorize",
        summary="The video network of LongAnimation: CogVideoX1.5-5B-I2V with a control signal between its blocks. With SketchDiT, "
        "DGLM, Video-XL and an autoencoder, it colours long line-art animations from one reference image.",
        inputs="noisy and image latents (B, T, 32, h, w), text states (B, 226, 4096), timesteps (B,) from 0 to 999, ofs (1,) of 2.0, "
        "rotary tables, control signal (B, T h w / 8, 3072); T, h and w are even",
        outputs="velocity (B, T, 16, h, w)",
        params=5_571_594_880,
        paper=_PAPER,
        code=_CODE,
        code_license="Apache-2.0",
        weights=(
            WeightSource(
                name="longanimation.official",
                file="longanimation",
                license="the CogVideoX licence: free for academic use; commercial use needs a registration and is limited to a "
                "million visits a month",
                page="https://huggingface.co/CNcreator0331/LongAnimation",
                size_mb=40_300.0,
                note="A folder with control_module.safetensors and glm_module.safetensors, a copy of zai-org/CogVideoX1.5-5B-I2V as "
                "CogVideoX1.5-5B-I2V, the folder VideoXL_weight_8 of sy1998/Video_XL, and sk_model.pth of lllyasviel/Annotators.",
            ),
        ),
        limits="Segments of 81 frames, at sizes near 576 x 1024; about 40 GB of weights in bfloat16. The published weights were not "
        "available here, so no result of theirs was seen.",
        citation=_CITATION,
    ),
    ModelCard(
        name="longanimation_sketchdit",
        task="colorize",
        summary="SketchDiT: six blocks of CogVideoX 1.5 that turn sketches and a reference image into a control signal for the video "
        "network of LongAnimation.",
        inputs="sketch and image latents (B, T, 32, h, w), text states (B, 226, 4096), timesteps (B,) from 0 to 999, ofs (1,) of 2.0, "
        "rotary tables; T, h and w are even",
        outputs="control signal (B, T h w / 8, 3072)",
        params=818_359_808,
        paper=_PAPER,
        code=_CODE,
        code_license="Apache-2.0",
        weights=(
            WeightSource(
                name="longanimation_sketchdit.official",
                file="longanimation/control_module.safetensors",
                license=_LICENSE,
                hub=(_HUB, "control_module.safetensors"),
                note=f"{_DATA} 157 tensors.",
            ),
        ),
        limits="It works with the video network of CogVideoX1.5-5B-I2V only, in segments of 81 frames, at sizes near 576 x 1024.",
        citation=_CITATION,
    ),
    ModelCard(
        name="longanimation_dglm",
        task="colorize",
        summary="DGLM, the dynamic global-local memory: the control signal attends to what Video-XL keeps of all earlier frames, so "
        "that colours stay the same over hundreds of frames.",
        inputs="control signal (B, N, 3072); keys and values of three layers of Video-XL, (1, 2, 3, L, 512)",
        outputs="control signal (B, N, 3072)",
        params=402_782_208,
        paper=_PAPER,
        code=_CODE,
        code_license="Apache-2.0",
        weights=(
            WeightSource(
                name="longanimation_dglm.official",
                file="longanimation/glm_module.safetensors",
                license=_LICENSE,
                hub=(_HUB, "glm_module.safetensors"),
                note=f"{_DATA} 97 tensors.",
            ),
        ),
        limits="It was trained on the memory of Video-XL; another memory encoder needs training.",
        citation=_CITATION,
    ),
    ModelCard(
        name="longanimation_lineart",
        task="colorize",
        summary="The network of informative-drawings that turns images into line drawings. LongAnimation extracts its sketches with "
        "it.",
        inputs="(B, 3, H, W) float32, RGB in [0, 1]; H and W are multiples of 4",
        outputs="(B, 1, H, W) float32, dark lines on bright paper in (0, 1)",
        params=4_290_945,
        paper="Learning to Generate Line Drawings that Convey Geometry and Semantics, CVPR 2022, https://arxiv.org/abs/2203.12691",
        code="https://github.com/carolineec/informative-drawings",
        code_license="MIT",
        weights=(
            WeightSource(
                name="longanimation_lineart.official",
                file="longanimation/sk_model.pth",
                license="MIT",
                hub=("lllyasviel/Annotators", "sk_model.pth"),
                size_mb=17.2,
                note="Trained by the authors of informative-drawings; the fine one of its two styles. 24 tensors.",
            ),
        ),
        limits="It was trained on photos: shading in cartoons can become lines.",
        citation="Chan, Durand, Isola. Learning to Generate Line Drawings that Convey Geometry and Semantics. CVPR 2022",
    ),
    ModelCard(
        name="longanimation_nano",
        task="colorize",
        summary="A small LongAnimation, trained on the toy world: all networks of the published one, with 2.8 million parameters "
        "besides the autoencoder. It colours line art of that world on a CPU.",
        inputs="noisy and image latents (B, T, 16, h, w), text states (B, 24, 64), timesteps (B,) from 0 to 999, ofs (1,) of 2.0, "
        "rotary tables, control signal (B, T h w / 8, 128); T, h and w are even",
        outputs="velocity (B, T, 8, h, w)",
        params=1_263_936,
        paper=_PAPER,
        weights=(
            WeightSource(
                name="longanimation_nano.toys",
                file="longanimation_nano",
                license="Apache-2.0",
                bundled="weights/longanimation",
                size_mb=14.0,
                note="A folder in diffusers' layout, trained by visionzoo on a shared CPU core in an hour and a half, on clips of "
                "2,600 worlds of the toy world (visionzoo fit --config longanimation/nano).",
            ),
        ),
        limits="It knows the toy world only, in segments of 17 frames of 128 x 128 pixels, and texts of at most 23 tokens. "
        "Lines are kept; colours of what the reference image does not show are guesses, as text and memory have little effect yet.",
    ),
    ModelCard(
        name="longanimation_nano_vae",
        task="colorize",
        summary="A small video autoencoder of the kind that CogVideoX has (diffusers' AutoencoderKLCogVideoX), for clips of the toy "
        "world: 8 times smaller, every frame by itself. Inflated from toy_vae, it is a part of longanimation_nano.",
        inputs="(B, 3, F, H, W) float32, RGB in [-1, 1]; F is 8 n + 1, sides are multiples of 8",
        outputs="(B, 3, F, H, W) float32, RGB, not clamped; latents (B, 8, F, H / 8, W / 8)",
        params=4_582_595,
        paper="CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer, ICLR 2025, https://arxiv.org/abs/2408.06072",
        limits="It knows the toy world only. With time_compression=4 and latent_channels=16 it compresses time as CogVideoX does; "
        "that takes hours of training, and no weights come with visionzoo.",
    ),
)
