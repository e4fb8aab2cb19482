"""The options of a coloured video, with the model's own values where the user gave none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from visionzoo.console import counted
from visionzoo.errors import InputError

from ...models.longanimation import ClipSegment, ColorFusion, plan_segments
from .options import LEAST_OVERLAP, SHORTEST, ColorizeOptions, Memory, OverLimit

__all__ = ["Settings", "plan", "settings_for"]

OWN = ("steps", "guidance", "segment_frames", "overlap", "memory", "memory_frames", "over_limit", "local_frames")
"""Options that the model has values for."""

FUSED_FRAMES = 16
"""Frames whose latents are fused at most: four latents of CogVideoX."""


@dataclass(frozen=True)
class Settings:
    """What a coloured video depends on besides its networks, its frames and its reference.

    Attributes:
        options: as given.
        steps, guidance, segment_frames, overlap, memory, memory_frames, over_limit, local_frames: as given, or the model's own.
        fusion: when and how latents are blended; None: never.
        prompt_suffix: words of quality that the model expects after a prompt.
        latent_frames: frames per latent of the autoencoder.
    """

    options: ColorizeOptions
    steps: int
    guidance: float
    segment_frames: int
    overlap: int
    memory: Memory
    memory_frames: int
    over_limit: OverLimit
    local_frames: int
    fusion: ColorFusion | None
    prompt_suffix: str
    latent_frames: int = 4

    @property
    def seed(self) -> int:
        return self.options.seed

    def prompt(self, segment: int) -> str:
        """The prompt of a segment. As published, the suffix is appended once more in each."""
        repeats = segment + 1 if self.options.repeat_suffix else 1
        return self.options.prompt + self.prompt_suffix * repeats

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        start = None if self.fusion is None else self.fusion.first_step
        return {**self.options.to_dict(), **{name: getattr(self, name) for name in OWN}, "fusion_start": start}


def settings_for(options: ColorizeOptions, model: Mapping[str, Any], latent_frames: int = 4) -> Settings:
    """Fill in what the options leave to the model.

    Args:
        model: configuration of the pipeline: steps, guidance, segment_frames, overlap, memory, memory_frames, over_limit,
            local_frames, fusion_start and prompt_suffix.
        latent_frames: frames per latent of the autoencoder.

    Raises:
        InputError: a segment and an overlap that allow no plan.
    """
    own = {name: model[name] if (value := getattr(options, name)) is None else value for name in OWN}
    settings = Settings(options, **own, fusion=None, prompt_suffix=model["prompt_suffix"], latent_frames=latent_frames)
    most = settings.segment_frames - 2
    if settings.overlap > most:
        raise InputError(
            f"segments of {settings.segment_frames} frames can share {LEAST_OVERLAP} to {most} frames, not {settings.overlap}; give "
            f"another overlap (--overlap) or longer segments (--segment-frames)"
        )
    plan(settings, settings.segment_frames)  # raises for numbers that allow none
    fusion = None
    if options.fusion:
        start = options.fusion_start
        if start is None:  # as late in relation to the number of steps as in the model's own setting
            start = round(model["fusion_start"] * settings.steps / model["steps"])
        # the latents whose frames both segments have, as published four: weights of 0.2, 0.4, 0.6 and 0.8
        count = min(FUSED_FRAMES, settings.overlap + options.aligned_overlap) // latent_frames
        fusion = ColorFusion(start, tuple(k / (count + 1) for k in range(1, count + 1)))
    return replace(settings, fusion=fusion)


def plan(settings: Settings, total: int) -> tuple[ClipSegment, ...]:
    """The segments of a clip of `total` frames.

    Raises:
        InputError: the clip is shorter than a segment, and the remainder is dropped as published; or numbers that allow no plan.
    """
    options = settings.options
    found = plan_segments(
        total,
        length=settings.segment_frames,
        overlap=settings.overlap,
        aligned_overlap=options.aligned_overlap,
        drop_remainder=options.drop_remainder,
    )
    if not found:
        shorter = 8 * max(0, (total - 1) // 8) + 1
        fits = shorter >= SHORTEST and shorter > settings.overlap + 1
        hint = f", or shorter segments: segment_frames={shorter} (--segment-frames {shorter})" if fits else ""
        raise InputError(
            f"the video has {counted(total, 'frame')}, but a segment has {settings.segment_frames}, and what is left over is dropped "
            f"as published; use drop_remainder=False (--no-drop-remainder), which repeats the last frame{hint}"
        )
    return found
