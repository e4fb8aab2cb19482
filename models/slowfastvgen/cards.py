"""Model cards of SlowFast-VGen's networks (data only; nothing heavy is imported here)."""

from __future__ import annotations

from visionzoo.cards import ModelCard

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
        params=6_087_656,
        paper=f"{_TITLE}, ICLR 2025, https://arxiv.org/abs/2410.23277",
        limits="It knows the toy world only, at 96 x 96 pixels, and only its seven actions.",
    ),
)
