"""MCNet animates a still face like the face in a video (arXiv 2307.09906).

What is special about it, in the order of computation:

1. Keypoints with local affine motion, learned without labels, of the source and of the driving frame (`keypoints.py`).
2. A flow and an occlusion map, mixed from the motions around the keypoints, move the source's features (`motion.py`).
3. What the source does not show, such as another side of the face, comes from a memory of faces in general, one learned map
   for all people. The source's keypoints and features are its identity code, which turns the memory into keys and values that
   the moved features read (`memory.py`).
4. A decoder generates the frame; where nothing is hidden, it shows the moved source itself (`generator.py`).

Shapes: B frames, S sources (1 or B), K keypoints, H x W pixels, multiples of 128 for the published network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.config import configure
from visionzoo.devices import without_autocast
from visionzoo.errors import InputError

from .config import MCNetConfig
from .fused import fuse_detector, fuse_generator
from .generator import Animated, Generator, SourceCache
from .keypoints import KeypointDetector, Keypoints, check_images
from .memory import Noise, draw_noise
from .memory_fused import FusedMemoryUnit


class MCNet(nn.Module):
    """Source and driving images (B, 3, H, W), RGB in [0, 1] -> the source in the driver's pose.

    For a video, encode the source once and animate frame by frame, or many at a time:

        cache = model.encode_source(source)
        driving = model.detect(frames)
        frames = model.animate(cache, transfer_motion(cache.keypoints, driving, driving.at(slice(0, 1))))

    `fuse()` makes a faster copy for this. Keypoints, flow and occlusion are float32 for weights of any precision.
    """

    def __init__(self, config: MCNetConfig):
        super().__init__()
        self.config = config
        self.detector = KeypointDetector(config)
        self.generator = Generator(config)

    def detect(self, frames: Tensor) -> Keypoints:
        """Keypoints of images (B, 3, H, W) in [0, 1].

        Raises:
            InputError: the shape is wrong, or sides are not multiples of `config.size_multiple`.
        """
        return self.detector(frames)

    def encode_source(self, source: Tensor, keypoints: Keypoints | None = None) -> SourceCache:
        """Encode source images (S, 3, H, W) in [0, 1], once for all frames; errors as for `detect`.

        Args:
            keypoints: keypoints of the source, if they have already been detected.
        """
        check_images(source, self.config, "source images")
        return self.generator.encode(source, self.detect(source) if keypoints is None else keypoints)

    def render(
        self, source: SourceCache, driving: Keypoints, *, noise: Noise = "none", rng: torch.Generator | None = None
    ) -> Animated:
        """Frames and intermediate results.

        Args:
            source: result of `encode_source` of this network, for 1 image or B.
            driving: target keypoints in B frames: the driver's, or those of `transfer_motion`.
            noise: noise in the memory: "none", "fixed", "random" or tensors; see `draw_noise`. The published code draws new noise for
                every frame, and trains its strength, which starts at 0.
            rng: generator for the noise.

        Raises:
            InputError: wrong number or shape of keypoints, several sources for another number of frames, or unknown noise.
        """
        batch, count = len(driving.value), self.config.num_keypoints
        if driving.value.shape != (batch, count, 2) or driving.jacobian.shape != (batch, count, 2, 2):
            raise InputError(
                f"expected keypoints (B, {count}, 2) and jacobians (B, {count}, 2, 2), got {tuple(driving.value.shape)} and "
                f"{tuple(driving.jacobian.shape)}"
            )
        if len(source.image) not in (1, batch):
            raise InputError(f"got {len(source.image)} sources for {batch} driving frames; give 1 source or {batch}")
        maps = draw_noise(noise, self.config.num_down_blocks, batch, self.config.memory_side, rng)
        return self.generator(source, driving, maps)

    def animate(
        self, source: SourceCache, driving: Keypoints, *, noise: Noise = "none", rng: torch.Generator | None = None
    ) -> Tensor:
        """Frames (B, 3, H, W), float32 in [0, 1], of the source with the given keypoints; see `render`."""
        return self.render(source, driving, noise=noise, rng=rng).prediction

    def reenact(
        self, source: Tensor, driving: Tensor, *, noise: Noise = "none", rng: torch.Generator | None = None
    ) -> Animated:
        """Like `forward`, with the intermediate results that training needs."""
        return self.render(self.encode_source(source), self.detect(driving), noise=noise, rng=rng)

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """The prediction for sources (S, 3, H, W) and drivers (B, 3, H, W), with the driver's own keypoints: (B, 3, H, W)."""
        return self.reenact(source, driving).prediction

    @property
    def is_fused(self) -> bool:
        return isinstance(self.generator.memory, FusedMemoryUnit)

    def fuse(self) -> MCNet:
        """Return a copy for inference with the same outputs (relative error about 1e-6 in float32); this one is unchanged.

        A `SourceCache` of one form does not fit the other. Fuse in float32, then change the precision (`compute_in`).
        """
        if self.is_fused:
            return self
        fused = copy.deepcopy(self).eval().requires_grad_(False)
        with without_autocast(next(fused.parameters()).device):  # weights are multiplied in full precision
            fuse_detector(fused.detector)
            fuse_generator(fused.generator)
        return fused.requires_grad_(False)

    def compute_in(self, dtype: torch.dtype) -> MCNet:
        """Change the precision for inference, in place. In half precision the networks that find keypoints and motion stay in
        float32: they are a small part of the work, and where a keypoint is rounded a whole part of the face moves."""
        if torch.finfo(dtype).bits >= 32:
            return self.to(dtype)
        for name, part in self.generator.named_children():
            part.to(torch.float32 if name == "motion" else dtype)
        self.detector.to(torch.float32)
        return self


def build(name: str, **overrides: Any) -> MCNet:
    """The registered variant `name`, with random weights."""
    return MCNet(configure(VARIANTS[name], overrides))


VARIANTS: Mapping[str, MCNetConfig] = {
    "mcnet": MCNetConfig(),
    "mcnet_nano": MCNetConfig(
        detector_channels=16,
        detector_max_channels=96,
        motion_channels=16,
        motion_max_channels=96,
        channels=24,
        max_channels=96,
        residual_blocks=1,
        memory_channels=64,
        memory_side=16,
        style_channels=64,
        identity_channels=64,
    ),
}
