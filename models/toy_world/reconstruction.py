"""What an autoencoder keeps of the toy world: PSNR, and the colour of every part of the characters."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visionzoo.data.toy_world import COLORS, Clip, Frame
from visionzoo.data.toy_world.characters import PARTS
from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_uint8
from visionzoo.jobs.progress import Counter
from visionzoo.metrics.color import ciede2000, region_colors, srgb_to_lab
from visionzoo.metrics.restoration import psnr, ssim

from .frames import random_scene

LEAST = 12
"""Parts count from this many pixels without lines on, at 128 x 128."""

NOWHERE = 65535
"""The region of pixels that a line touches."""

PALETTE = srgb_to_lab(np.array(list(COLORS.values()), np.uint8))


@dataclass(frozen=True)
class PartScore:
    """How well one part of the characters keeps its colour.

    Attributes:
        part: e.g. "shirt".
        count: how often it was visible.
        hit: share whose mean colour is nearest to the right one of the named colours.
        own_hit: the same share, measured in the true frames.
        difference: mean CIEDE2000 between the colours in the result and in the true frame.
    """

    part: str
    count: int
    hit: float
    own_hit: float
    difference: float


@dataclass(frozen=True)
class ReconstructionReport:
    """Quality of reconstructed frames; `str` is a table.

    Attributes:
        frames: number of frames.
        psnr, ssim: means over the frames; PSNR in dB.
        lowest_psnr: of one frame.
        parts: scores of the parts.
    """

    frames: int
    psnr: float
    ssim: float
    lowest_psnr: float
    parts: tuple[PartScore, ...]

    @property
    def lowest_hit(self) -> float:
        """That of the worst part."""
        return min((score.hit for score in self.parts), default=math.nan)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.frames} frames: PSNR {self.psnr:.2f} dB (lowest {self.lowest_psnr:.2f}), SSIM {self.ssim:.4f}",
            "",
            "| part | visible | colour kept | in the true frames | CIEDE2000 |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {each.part} | {each.count} | {each.hit:.1%} | {each.own_hit:.1%} | {each.difference:.2f} |"
            for each in self.parts
        ]
        return "\n".join(lines)


def reconstruction_report(
    vae: Any, *, frames: int = 400, split: str = "test", size: int = 128, batch_size: int = 8, progress: bool = True
) -> ReconstructionReport:
    """Reconstruct frames of random worlds, and compare.

    Args:
        vae: an AutoencoderKL of diffusers, in eval mode.
        frames: how many, each of a world of its own.
        split: of the worlds.
        size: side of the frames in pixels, a multiple of the autoencoder's factor.

    Raises:
        InputError: `frames` is below 1, or a size that does not fit.
    """
    if frames < 1:
        raise InputError(f"frames must be at least 1, got {frames}")
    qualities: list[tuple[float, float]] = []
    found: dict[str, list[tuple[bool, bool, float]]] = {part: [] for part in PARTS}
    with Counter(frames, "reconstructing", "frame", shown=progress, leave=False) as counter:
        for start in range(0, frames, batch_size):
            scenes = [random_scene(split, number, size) for number in range(frames)[start : start + batch_size]]
            drawn = [scene.draw() for scene in scenes]
            rebuilt = to_uint8(decode_latents(vae, encode_frames(vae, np.stack([frame.rgb for frame in drawn]))))
            for scene, frame, image in zip(scenes, drawn, rebuilt, strict=True):
                qualities.append((psnr(image, frame.rgb), ssim(image, frame.rgb)))
                for part, hit, own, difference in part_colors(scene.clip, frame, image, size):
                    found[part].append((hit, own, difference))
            counter.update(len(scenes))
    parts = []
    for part, scores in found.items():
        if scores:
            hit, own, difference = (float(np.mean(column)) for column in zip(*scores, strict=True))
            parts.append(PartScore(part, len(scores), hit, own, difference))
    values = np.array(qualities)
    return ReconstructionReport(
        frames, float(values[:, 0].mean()), float(values[:, 1].mean()), float(values[:, 0].min()), tuple(parts)
    )


def part_colors(clip: Clip, frame: Frame, image: np.ndarray, size: int) -> list[tuple[str, bool, bool, float]]:
    """For each visible part of a character: (part, hit in `image`, hit in the true frame, CIEDE2000 between the two)."""
    regions = np.where(frame.ink < 255, NOWHERE, frame.regions)
    areas = np.bincount(regions.ravel(), minlength=len(clip.regions))
    wanted = [
        region
        for region in clip.regions
        if 0 < region.instance <= len(clip.characters)
        and region.part in PARTS
        and areas[region.number] >= LEAST * (size / 128) ** 2
    ]
    names = [region.number for region in wanted]
    ours, true = (region_colors(pixels, regions, names) for pixels in (image, frame.rgb))
    result = []
    for region, one, other in zip(wanted, ours, true, strict=True):
        lab, own = srgb_to_lab(one), srgb_to_lab(other)
        right = list(COLORS).index(region.color)
        hits = [bool(np.argmin(ciede2000(each, PALETTE)) == right) for each in (lab, own)]
        result.append((region.part, hits[0], hits[1], float(ciede2000(lab, own))))
    return result


__all__ = ["PartScore", "ReconstructionReport", "part_colors", "reconstruction_report"]
