"""What a video autoencoder keeps of the toy world: PSNR of clips and of sketches, and the colour of every part of the characters."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.data.toy_world.characters import PARTS
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_uint8

from ..toy_world import PartScore, part_colors
from .toy_clips import KINDS, clip_pixels, toy_clip

__all__ = ["VideoReconstructionReport", "video_reconstruction_report"]


@dataclass(frozen=True)
class VideoReconstructionReport:
    """Quality of reconstructed clips; `str` is a table.

    Attributes:
        clips, frames: number of clips, and of frames in each.
        psnr: mean over the clips in colour, in dB.
        lowest_psnr: of one clip in colour.
        drawing_psnr: mean over the same clips as dark lines on white paper.
        sketch_psnr: mean over the same clips as sketches.
        sketch_agreement: share of the sketches' pixels that are on the right side of the middle between line and paper.
        parts: how well the parts of the characters keep their colours.
    """

    clips: int
    frames: int
    psnr: float
    lowest_psnr: float
    drawing_psnr: float
    sketch_psnr: float
    sketch_agreement: float
    parts: tuple[PartScore, ...]

    @property
    def lowest_hit(self) -> float:
        """Share of frames in which the worst part keeps its colour."""
        return min((score.hit for score in self.parts), default=math.nan)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.clips} clips of {self.frames} frames: {self.psnr:.2f} dB (lowest {self.lowest_psnr:.2f}), "
            f"drawings {self.drawing_psnr:.2f} dB, sketches {self.sketch_psnr:.2f} dB "
            f"({self.sketch_agreement:.2%} of the pixels right)"
        ]
        lines += [
            f"{score.part:9} {score.hit:7.1%} of {score.count} (true frames {score.own_hit:.1%}), CIEDE2000 {score.difference:.2f}"
            for score in self.parts
        ]
        return "\n".join(lines)


@torch.inference_mode()
def video_reconstruction_report(
    vae: Any, *, clips: int = 40, frames: int = 17, size: int = 128, split: str = "test"
) -> VideoReconstructionReport:
    """Encode and decode clips of a split (with the mode of the latents), in colour, as drawings and as sketches.

    Args:
        vae: an AutoencoderKLCogVideoX, in eval mode.
        clips: their number; each is from a world of its own.
        frames: of each clip, 8 n + 1.
        size: side of the frames in pixels.

    Raises:
        InputError: no clips, or another number of frames.
    """
    if clips < 1 or frames % 8 != 1:
        raise InputError(f"a report needs clips of 8 n + 1 frames, got {clips} of {frames}")
    like = next(vae.parameters())

    def rebuild(pixels: Tensor) -> Tensor:
        latents = vae.encode(pixels.to(like)).latent_dist.mode()
        return vae.decode(latents).sample.float().clamp(-1, 1).cpu()

    quality: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[tuple[bool, bool, float]]] = {part: [] for part in PARTS}
    for number in range(clips):
        clip = toy_clip(split, number, frames, size)
        drawn = list(clip.frames(motion=False))
        kinds = torch.stack([clip_pixels(drawn, kind) for kind in KINDS])  # together: torch is slow with batches of one
        for kind, pixels, rebuilt in zip(KINDS, kinds, rebuild(kinds), strict=True):
            quality[kind].append(float(-10 * torch.log10(((rebuilt - pixels) / 2).square().mean())))
            if kind == "sketch":
                quality["agreement"].append(float(((rebuilt > 0) == (pixels > 0)).float().mean()))
            if kind == "colour":
                images = to_uint8((rebuilt.transpose(0, 1) + 1) / 2)
                for frame, image in zip(drawn, images, strict=True):
                    for part, hit, own, difference in part_colors(clip, frame, image, size):
                        found[part].append((hit, own, difference))
    parts = []
    for part, scores in found.items():
        if scores:
            hit, own, difference = (float(np.mean(column)) for column in zip(*scores, strict=True))
            parts.append(PartScore(part, len(scores), hit, own, difference))
    means = {name: float(np.mean(values)) for name, values in quality.items()}
    return VideoReconstructionReport(
        clips,
        frames,
        means["colour"],
        min(quality["colour"]),
        means["drawing"],
        means["sketch"],
        means["agreement"],
        tuple(parts),
    )
