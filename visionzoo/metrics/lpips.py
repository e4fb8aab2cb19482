"""LPIPS 0.1, the learned perceptual distance of Zhang et al. (CVPR 2018, arXiv 1801.03924).

LPIPS takes the features of a classifier after five of its layers and scales each pixel's vector to length 1. The squared
differences are weighted per channel by a learned head, averaged over the pixels and summed over the layers.

Only the heads come from torchmetrics. Its network is private and creates the backbone itself, either with random weights or
with a download; here the backbone comes from a file, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.cards import WeightSource
from visionzoo.errors import InputError
from visionzoo.weights import WeightsError, fetch, find_state_dict, misfit, read_checkpoint

NETWORKS: dict[str, tuple[str, str, tuple[int, ...], tuple[int, ...], int]] = {
    "alex": ("alexnet", "AlexNet_Weights", (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31),
    "vgg": ("vgg16", "VGG16_Weights", (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16),
}
"""Network -> (torchvision's name, its enum of weights, compared layers, their channels, smallest side in pixels)."""

# Mean and deviation of the published metric: those of ImageNet, rounded for values in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Perceptual distance of two images: 0 for equal images, rarely above 1. It is frozen; gradients reach the images.

    Args:
        network: "alex", which most published numbers use, or "vgg", which is preferred as a loss.
        backbone: file with torchvision's ImageNet weights of AlexNet (alexnet-owt-7be5be79.pth) or VGG16
            (vgg16-397923af.pth). Nothing is downloaded.
        heads: file with the learned heads under their published keys (`lin0.model.1.weight`, …); None uses those of
            torchmetrics (the extra `train`).

    Raises:
        InputError: the network is unknown.
        WeightsError: a file is missing or does not fit.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        network: str = "alex",
        *,
        backbone: str | PathLike[str] | None = None,
        heads: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise InputError(f"LPIPS network {network!r} is unknown; choose one of {', '.join(NETWORKS)}")
        self.name = f"LPIPS 0.1, {network}"
        *_, self.layers, channels, self.smallest = NETWORKS[network]
        self.features = _features(network, backbone)
        self.heads = nn.ParameterList(_heads(network, heads, channels))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, prediction: Tensor, reference: Tensor) -> Tensor:
        """Distances (B,) of two batches (B, 3, H, W) in [0, 1].

        Raises:
            InputError: wrong or different shapes, or sides below 31 (alex) or 16 (vgg) pixels.
        """
        return torch.stack([layer.mean((1, 2, 3)) for layer in self._distances(prediction, reference)]).sum(0)

    def spatial(self, prediction: Tensor, reference: Tensor) -> Tensor:
        """(B, 3, H, W) twice, in [0, 1] -> (B, H, W): the distance at every pixel, each layer's enlarged bilinearly.

        Raises:
            InputError: as for a call.
        """
        size = tuple(prediction.shape[2:])
        layers = [
            F.interpolate(layer, size=size, mode="bilinear", align_corners=False)
            for layer in self._distances(prediction, reference)
        ]
        return torch.cat(layers, dim=1).sum(1)

    def _distances(self, prediction: Tensor, reference: Tensor) -> Iterator[Tensor]:
        """Per layer, the weighted distance at every place of its map (B, 1, h, w)."""
        shape = tuple(prediction.shape)
        if shape != tuple(reference.shape):
            raise InputError(
                f"prediction has shape {shape} and reference {tuple(reference.shape)}; crop or resize one of them"
            )
        if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < self.smallest:
            raise InputError(f"images have shape {shape}, expected (B, 3, H, W) with sides of {self.smallest} or more")
        for ours, theirs, head in zip(self._maps(prediction), self._maps(reference), self.heads, strict=True):
            difference = (F.normalize(ours, eps=1e-10) - F.normalize(theirs, eps=1e-10)).square()
            yield F.conv2d(difference, head)

    def _maps(self, image: Tensor) -> list[Tensor]:
        x = (2 * image - 1 - self.shift) / self.scale
        maps = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.layers:
                maps.append(x)
        return maps


def _features(network: str, backbone: str | PathLike[str] | None) -> nn.Sequential:
    """The classifier with its weights, up to the last compared layer."""
    import torchvision.models

    name, enum, layers, *_ = NETWORKS[network]
    url: str = getattr(torchvision.models, enum).IMAGENET1K_V1.url
    if backbone is None or not Path(backbone).exists():
        problem = "needs the weights of its backbone" if backbone is None else f"found no file {backbone}"
        raise WeightsError(f"LPIPS {problem}; download {url} and pass the file as backbone=…")
    with torch.device("meta"):  # saves the time and memory of the classifier's large layers
        features: Any = getattr(torchvision.models, name)(weights=None).features[: layers[-1] + 1]
    own = features.state_dict()
    found = find_state_dict(read_checkpoint(backbone), str(backbone))
    state = {key.removeprefix("features."): value for key, value in found.items() if key.startswith("features.")}
    state = {key: value for key, value in state.items() if key in own}
    if problem := misfit(own, state):
        raise WeightsError(f"{backbone} does not fit the features of {name}: {problem}; download {url}")
    features.load_state_dict(state, assign=True)
    return features


def _heads(network: str, path: str | PathLike[str] | None, channels: tuple[int, ...]) -> list[Tensor]:
    """Five weights (1, C, 1, 1), in the order of the layers."""
    if path is None:
        path = fetch(
            WeightSource(
                name=f"lpips.{network}",
                file=f"lpips_{network}.pth",
                license="BSD-2-Clause",
                package=("torchmetrics", f"functional/image/lpips_models/{network}.pth", "train"),
            )
        )
    own = {
        f"lin{place}.model.1.weight": torch.empty(1, count, 1, 1, device="meta") for place, count in enumerate(channels)
    }
    state = find_state_dict(read_checkpoint(path), str(path))
    if problem := misfit(own, state):
        raise WeightsError(f"{path} does not fit the heads of LPIPS {network}: {problem}")
    return [state[key] for key in own]
