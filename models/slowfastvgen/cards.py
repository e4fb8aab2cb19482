"""Model cards of SlowFast-VGen's networks (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard, WeightSource

_TITLE = "SlowFast-VGen: Slow-Fast Learning for Action-Driven Long Video Generation"

CARDS = (
    ModelCard(
        name="slowfastvgen_nano",
        task="generate",
        summary="A small video UNet of ModelScope's kind, trained on the toy world, that continues its videos by actions such as "
        "go left on a CPU.",
        inputs="latents (B, 8, frames, 12, 12) of toy_vae, clean past frames before noisy new ones, timesteps (B,) from 0 to 999, "
        "text states (B, 77, 96)",
        outputs="velocity (B, 8, frames, 12, 12) (v-prediction); only that of the new frames is used",
        params=6_085_224,
        paper=f"{_TITLE}, ICLR 2025, https://arxiv.org/abs/2410.23277",
        weights=(
            WeightSource(
                name="slowfastvgen_nano.walks",
                file="slowfastvgen_nano",
                license="Apache-2.0",
                bundled="weights/slowfastvgen",
                size_mb=15.6,
                note="A folder in diffusers' layout, trained by visionzoo on a shared CPU core in three hours, on walks through 2,500 "
                "worlds of the toy world (visionzoo fit --config slowfastvgen/nano).",
            ),
        ),
        limits="It knows the toy world only, at 96 x 96 pixels, and only its seven actions. Details dissolve after a chunk or two; "
        "colours and layout last longer.",
    ),
    ModelCard(
        name="toy_actions",
        task="toy-world",
        summary="A small ResNet of our own that reads the camera's action off two consecutive frames of the toy world: the inverse "
        "dynamics network of SlowFast-VGen's planning, whose architecture the paper does not give.",
        inputs="(B, 2, 3, H, W) float32, two consecutive RGB frames in [-1, 1], trained at 96 x 96",
        outputs="(B, 7) logits of go left, go right, go in, go out, zoom in, zoom out and wait",
        params=143_047,
        weights=(
            WeightSource(
                name="toy_actions.drawn",
                file="toy_actions.drawn.safetensors",
                license="Apache-2.0",
                bundled="weights/toy_actions.drawn.safetensors",
                sha256="dd3706c32cc8407e1408c08bc8b5bbd83498841c420881f53832f08fdc5dc090",
                size_mb=0.3,
                note="Trained by visionzoo on one CPU core, on frames of the toy world alone "
                "(visionzoo fit --config slowfastvgen/inverse_dynamics), at two speeds of the camera. Of 1,400 actions between frames "
                "of 200 held-out worlds, it reads 97.3 % rightly: go out 88.9 %, go in 93.9 %, the others 96.9 % or more.",
            ),
        ),
        paper=f"{_TITLE}, ICLR 2025, https://arxiv.org/abs/2410.23277",
        limits="It knows the toy world only, and one action between two frames; slow steps in and out are sometimes read as waiting.",
    ),
)
