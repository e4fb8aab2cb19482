"""Model cards of the toy world's networks (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

CARDS = (
    ModelCard(
        name="toy_vae",
        task="toy-world",
        summary="A small autoencoder of the kind that Stable Diffusion has (diffusers' AutoencoderKL), for frames of the toy world: 8 "
        "times smaller latents with 8 channels. The toy world's diffusion models share it.",
        inputs="(B, 3, H, W) float32, RGB in [-1, 1], sides multiples of 8",
        outputs="(B, 3, H, W) float32, RGB, not clamped; latents (B, 8, H / 8, W / 8)",
        params=1_729_091,
        weights=(
            WeightSource(
                name="toy_vae.worlds",
                file="toy_vae.safetensors",
                license="Apache-2.0",
                bundled="weights/toy_world/vae/diffusion_pytorch_model.safetensors",
                sha256="fa91fcbd6f681cbd3a018ba625dedb6f4cb90b7a20d59ca971f670e7f8294065",
                size_mb=3.5,
                note="Trained by visionzoo on one CPU core for 54 minutes (visionzoo fit --config toy_world/vae). On 400 frames "
                "of held-out worlds it reaches 30.9 dB / 0.982 SSIM; of every part of a character, 98 % or more keep their colour.",
            ),
        ),
        limits="It knows the toy world only: photos come out as flat colours with dark lines.",
    ),
    ModelCard(
        name="toy_text_to_image",
        task="toy-world",
        summary="A small latent text-to-image network of the kind that Stable Diffusion has: diffusers' UNet2DConditionModel "
        "and a CLIP text encoder of two layers, trained together on captions of the toy world.",
        inputs="noisy latents (B, 8, 16, 16) of toy_vae, timesteps (B,) from 0 to 999, text states (B, 77, 96)",
        outputs="velocity (B, 8, 16, 16) (v-prediction)",
        params=4_462_280,
        limits="It knows the toy world only, at 128 x 128 pixels, and only the words of its captions.",
    ),
    ModelCard(
        name="toy_parts",
        task="toy-world",
        summary="A small U-Net of our own that finds the parts of characters (skin, hair, shirt, trousers, skirt, shoes, hat, bag) "
        "in images of the toy world by their shapes. The measures of generated images use it.",
        inputs="(B, 3, H, W) float32, RGB in [-1, 1], any size; characters as large as in frames of 128 x 128",
        outputs="(B, 10, H, W) logits of background, line, skin and the parts",
        params=145_656,
        weights=(
            WeightSource(
                name="toy_parts.drawn",
                file="toy_parts.drawn.safetensors",
                license="Apache-2.0",
                bundled="weights/toy_parts.drawn.safetensors",
                sha256="bcd784da56a0d0a2ee6b625c00482eaf2270050bb4bb866c0b43cb48568170c7",
                size_mb=0.3,
                note="Trained by visionzoo on one CPU core, on frames of the toy world alone "
                "(visionzoo fit --config toy_world/parts). In 400 frames of the test split 98.6 % of the pixels are right, mean IoU "
                "0.911; colours measured with it are right for 97.8 % of the visible parts (bag 85 %, others 97 % or more).",
            ),
        ),
        limits="It knows the toy world only. It does not tell one character from another, and it misses one bag in seven.",
    ),
)
