"""The configuration of an MCNet (arXiv 2307.09906); the defaults are those of the published network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from visionzoo.errors import InputError


def widths(base: int, most: int, levels: int) -> tuple[int, ...]:
    """Channels at each of `levels` + 1 resolutions, the finest first: doubled at each halving, at most `most`."""
    return tuple(min(most, base << level) for level in range(levels + 1))


@dataclass(frozen=True)
class MCNetConfig:
    """Keypoint detector, dense motion, generator and facial memory.

    Attributes:
        num_keypoints: keypoints that the detector finds.
        scale_factor: size at which keypoints and motion are estimated, relative to the size of the images; 1 / a power of two.
        detector_channels: channels of the detector's hourglass at its finest level.
        detector_max_channels: largest number of channels at deeper levels.
        detector_blocks: number of halvings in the detector.
        temperature: temperature of the softmax that turns the detector's maps into positions.
        motion_channels, motion_max_channels, motion_blocks: the same for the dense motion network's hourglass.
        keypoint_variance: variance of the Gaussian that represents a keypoint, in units of half the image.
        channels: channels of the generator's encoder at full resolution.
        max_channels: largest number of channels at deeper levels.
        num_down_blocks: number of halvings in the encoder; every level but the finest reads the memory.
        residual_blocks: number of residual blocks per level of the decoder.
        memory_channels: channels of the facial memory, and the width of its keys, values and queries.
        memory_side: height and width of the memory: it has `memory_side`^2 elements.
        memory_kernels: number of kernels that the dynamic convolution mixes.
        style_channels: hidden width of the MLP that makes the identity code.
        identity_channels: width of that code; 512 in the published code for any `memory_channels`.
    """

    num_keypoints: int = 15
    scale_factor: float = 0.25
    detector_channels: int = 32
    detector_max_channels: int = 1024
    detector_blocks: int = 5
    temperature: float = 0.1
    motion_channels: int = 64
    motion_max_channels: int = 1024
    motion_blocks: int = 5
    keypoint_variance: float = 0.01
    channels: int = 64
    max_channels: int = 512
    num_down_blocks: int = 3
    residual_blocks: int = 2
    memory_channels: int = 512
    memory_side: int = 32
    memory_kernels: int = 4
    style_channels: int = 128
    identity_channels: int = 512

    def __post_init__(self) -> None:
        whole = [name for name, value in vars(self).items() if isinstance(value, int) and value < 1]
        if whole:
            raise InputError(
                f"{', '.join(whole)} must be at least 1, got {', '.join(str(getattr(self, n)) for n in whole)}"
            )
        if not 0 < self.scale_factor <= 1 or not math.log2(1 / self.scale_factor).is_integer():
            raise InputError(f"scale_factor must be 1 / a power of two, such as 0.25, got {self.scale_factor}")
        if self.temperature <= 0 or self.keypoint_variance <= 0:
            raise InputError(
                f"temperature and keypoint_variance must be positive, got {self.temperature} and {self.keypoint_variance}"
            )
        if any(width % 2 for width in self.encoder_channels):
            raise InputError(f"channels and max_channels must be even, got {self.channels} and {self.max_channels}")

    @property
    def encoder_channels(self) -> tuple[int, ...]:
        """Channels of the generator's maps, the deepest (smallest) first: 512, 256, 128, 64."""
        return widths(self.channels, self.max_channels, self.num_down_blocks)[::-1]

    @property
    def size_multiple(self) -> int:
        """Sides of images are multiples of this: 128 for the published network."""
        return max(
            round(1 / self.scale_factor) << max(self.detector_blocks, self.motion_blocks), 1 << self.num_down_blocks
        )

    @property
    def smallest_side(self) -> int:
        """Smallest side of an image: the detector's last kernel, 7 x 7 without padding, must fit into its map at two positions."""
        return math.ceil(8 / self.scale_factor / self.size_multiple) * self.size_multiple


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The configuration of the discriminator, to which the published recipe gives the weight 0.

    Attributes:
        num_keypoints: number of Gaussian maps of keypoints that are concatenated with the image.
        channels: half the channels of the first block.
        max_channels: largest number of channels in later blocks.
        num_blocks: number of blocks, of which all but the last halve the resolution.
        keypoint_variance: variance of the Gaussians.
    """

    num_keypoints: int = 15
    channels: int = 32
    max_channels: int = 512
    num_blocks: int = 4
    keypoint_variance: float = 0.01
