"""Line art: the network of informative-drawings (Chan et al., arXiv 2203.12691), and sketches as `SketchDiT` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

__all__ = ["LineartConfig", "LineartExtractor", "LineartGenerator", "is_line_art", "sketch_of_lines", "sketches_from"]

THRESHOLD = 0.78
"""Brightness above which a pixel is paper."""


@dataclass(frozen=True)
class LineartConfig:
    """Sizes of `LineartGenerator`; the defaults are those of `sk_model.pth`.

    Attributes:
        width: channels at the full size; twice and four times as many at half and a quarter of it.
        residuals: number of residual blocks.
    """

    width: int = 64
    residuals: int = 3


class LineartGenerator(nn.Module):
    """Images -> line drawings. Its norms treat every image for itself, so that results do not depend on the batch."""

    def __init__(self, config: LineartConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LineartConfig()
        one, two, four = config.width, 2 * config.width, 4 * config.width
        self.stem = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, one, 7), *_normed(one))
        self.down = nn.Sequential(
            nn.Conv2d(one, two, 3, stride=2, padding=1), *_normed(two),
            nn.Conv2d(two, four, 3, stride=2, padding=1), *_normed(four),
        )  # fmt: skip
        self.residuals = nn.Sequential(*(_Residual(four) for _ in range(config.residuals)))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(four, two, 3, stride=2, padding=1, output_padding=1), *_normed(two),
            nn.ConvTranspose2d(two, one, 3, stride=2, padding=1, output_padding=1), *_normed(one),
        )  # fmt: skip
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(one, 1, 7), nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1] -> (B, 1, H, W) in (0, 1): dark lines on bright paper.

        Raises:
            InputError: a side that is below 8 or no multiple of 4.
        """
        height, width = images.shape[2:]
        if height % 4 or width % 4 or min(height, width) < 8:
            raise InputError(f"line art needs images whose sides are multiples of 4 from 8, got {height} x {width}")
        return self.head(self.up(self.residuals(self.down(self.stem(images)))))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_normed(width),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _normed(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(width), nn.ReLU()


def sketch_of_lines(lines: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Line drawings (F, 1, H, W), from 0 for lines to 1 for paper -> sketches (F, 3, H, W): lines are 1, paper is -1.

    Args:
        threshold: above it, a pixel is paper.
    """
    return torch.where(lines > threshold, -1.0, 1.0).expand(-1, 3, -1, -1)


class LineartExtractor:
    """Sketches from frames in colour.

    Args:
        network: a `LineartGenerator`, e.g. `create_model("longanimation_lineart", pretrained=True)`.
        threshold: see `sketch_of_lines`.
        batch: frames that the network sees at once; results do not depend on it.

    Raises:
        InputError: a threshold outside (0, 1) or a batch below 1.
    """

    def __init__(self, network: nn.Module, threshold: float = THRESHOLD, batch: int = 8) -> None:
        if not 0 < threshold < 1 or batch < 1:
            raise InputError(f"threshold must be in (0, 1) and batch at least 1, got {threshold} and {batch}")
        self.network, self.threshold, self.batch = network, threshold, batch

    @torch.inference_mode()
    def lines(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W) uint8 -> line drawings (F, 1, H, W) float32 in (0, 1) on the CPU."""
        _check_frames(frames)
        like = next(self.network.parameters())
        made = [self.network(part.to(like) / 255).float().cpu() for part in frames.split(self.batch)]
        return torch.cat(made)

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W) uint8 -> sketches (F, 3, H, W) float32 on the CPU: lines are 1, paper is -1.

        Raises:
            InputError: other frames, or sides that are no multiples of 4.
        """
        return sketch_of_lines(self.lines(frames), self.threshold)


def sketches_from(
    drawings: Tensor, threshold: float = THRESHOLD, *, inverted: bool = False, check: bool = True
) -> Tensor:
    """One's own line drawings (F, 3, H, W) uint8 -> sketches (F, 3, H, W) float32: lines are 1, paper is -1.

    Args:
        threshold: brightness in (0, 1) above which a pixel is paper.
        inverted: whether the drawings have bright lines on dark paper.
        check: whether to refuse what is no line drawing, e.g. for the first frames of a video, whose later ones may be dark.

    Raises:
        InputError: other frames, frames in colour, or more lines than paper.
    """
    _check_frames(drawings)
    if check and not is_line_art(drawings, inverted=inverted):
        if is_line_art(drawings, inverted=not inverted):
            kind = "dark lines on bright paper" if inverted else "bright lines on dark paper"
            option = "leave out --inverted" if inverted else "--inverted"
            raise InputError(f"the sketches have {kind}; pass inverted={not inverted} ({option})")
        raise InputError(
            "the sketches are no line drawings: too many pixels are coloured or of a middle grey; give a video in colour as "
            "the video, so that its lines are extracted"
        )
    lines = _brightness(drawings)
    return sketch_of_lines(1 - lines if inverted else lines, threshold)


def is_line_art(frames: Tensor, *, inverted: bool = False) -> bool:
    """Whether frames (F, 3, H, W) uint8 are drawings of lines: at least half of the pixels are paper, and few are coloured.

    Paper is within a tenth of white, or of black with `inverted`. Coloured pixels, whose channels differ by more than an eighth of
    the range, may be a tenth of all, so that coloured pencils are accepted. Up to 16 frames are examined.

    Raises:
        InputError: other frames.
    """
    _check_frames(frames)
    sample = frames[torch.linspace(0, len(frames) - 1, min(16, len(frames))).round().long()]
    brightness = _brightness(sample)
    paper = brightness < 0.1 if inverted else brightness > 0.9
    coloured = (sample.amax(1).int() - sample.amin(1).int()) > 32
    return bool(paper.float().mean() >= 0.5 and coloured.float().mean() <= 0.1)


def _brightness(frames: Tensor) -> Tensor:
    """(F, 3, H, W) uint8 -> (F, 1, H, W) float32 in [0, 1], weighted as in ITU-R BT.601."""
    parts: Sequence[float] = (0.299, 0.587, 0.114)
    return sum(weight * frames[:, i : i + 1].float() for i, weight in enumerate(parts)) / 255  # pyright: ignore[reportReturnType]


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not len(frames):
        raise InputError(f"frames must be (F, 3, H, W) uint8, got {tuple(frames.shape)} {frames.dtype}")
