"""The losses of MCNet's training: image, equivariance, keypoint, memory, and the adversarial ones that the recipe omits.

Every loss is a mean over the batch, not yet weighted. Shapes: B frames, K keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.devices import without_autocast
from visionzoo.errors import InputError
from visionzoo.weights import find_state_dict, misfit

from .blocks import antialias_downsample, coordinate_grid
from .generator import Animated
from .keypoints import Keypoints, inverse_2x2
from .memory import MemoryTrace

SCALES = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses, as in the command of the authors' README (not their configuration file); losses of weight 0 are skipped.

    Attributes:
        pixel: weight of `pixel_loss`, which the published recipe does not have.
    """

    perceptual: float = 10.0
    pixel: float = 0.0
    equivariance_value: float = 10.0
    equivariance_jacobian: float = 10.0
    keypoint_distance: float = 10.0
    memory: float = 10.0


class Deformed(NamedTuple):
    """Driving images under a random deformation, which their keypoints should follow."""

    transform: ThinPlateTransform
    keypoints: Keypoints
    """Keypoints detected in `transform.transform_frame(driving)`."""


def reenactment_loss(
    animated: Animated,
    driving: Tensor,
    source_keypoints: Keypoints,
    driving_keypoints: Keypoints,
    *,
    deformed: Deformed | None = None,
    features: VGG19Features | None = None,
    weights: LossWeights | None = None,
    scales: Sequence[float] = SCALES,
) -> dict[str, Tensor]:
    """The weighted terms of the published objective, by the names of their weights. The loss is their sum.

    Args:
        animated: result of `MCNet.render` with the driver's own keypoints.
        driving: the target images (B, 3, H, W).
        source_keypoints, driving_keypoints: detected keypoints.
        deformed: deformed images for the equivariance terms.
        features: network whose features the perceptual term compares.
        scales: scales of the perceptual loss; the smallest image must have sides of at least 16 pixels.

    Raises:
        InputError: `deformed` or `features` is missing although a term with a weight needs it.
    """
    w = weights or LossWeights()
    found: dict[str, Tensor] = {}
    if w.perceptual:
        if features is None:
            raise InputError("the perceptual loss needs features=VGG19Features(…), or a weight of 0")
        found["perceptual"] = perceptual_loss(features, animated.prediction, driving, scales)
    if w.pixel:
        found["pixel"] = pixel_loss(animated.prediction, driving)
    if w.equivariance_value or w.equivariance_jacobian:
        if deformed is None:
            raise InputError("the equivariance losses need deformed=…, or weights of 0")
        with without_autocast(driving.device):  # positions in [-1, 1] need more than the 8 bits of bfloat16
            value, jacobian = equivariance_losses(driving_keypoints, deformed.keypoints, deformed.transform)
        found |= {"equivariance_value": value, "equivariance_jacobian": jacobian}
    if w.keypoint_distance:
        near = [keypoint_distance_loss(points.value) for points in (source_keypoints, driving_keypoints)]
        found["keypoint_distance"] = near[0] + near[1]
    if w.memory:
        found["memory"] = memory_loss(animated.memory)
    given = {name: getattr(w, name) for name in found}
    return {name: given[name] * value for name, value in found.items() if given[name]}


# Images


class VGG19Features(nn.Module):
    """RGB (B, 3, H, W) in [0, 1] -> maps after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG-19. Never trained.

    Args:
        state: weights under torchvision's names, "features.0.weight" and so on; those of the classifier are ignored.

    Raises:
        InputError: the weights belong to another network.
    """

    ENDS = (1, 6, 11, 20, 29)
    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Any]):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        layers = make_layers(cfgs["E"])[: self.ENDS[-1] + 1]
        known = {f"features.{key}" for key in layers.state_dict()}
        found = {key: value for key, value in find_state_dict(state, "the weights of VGG-19").items() if key in known}
        found = {key.removeprefix("features."): value for key, value in found.items()}
        if problem := misfit(layers.state_dict(), found):
            raise InputError(f"the weights of VGG-19 do not fit: {problem}")
        layers.load_state_dict(found)
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the maps are returned
        self.stages = nn.ModuleList(
            layers[begin + 1 : end + 1] for begin, end in zip((-1, *self.ENDS[:-1]), self.ENDS, strict=True)
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = (image - self.mean) / self.std, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def pyramid(image: Tensor, scales: Sequence[float] = SCALES) -> list[Tensor]:
    """(B, 3, H, W) -> the same at each of `scales`, low-pass filtered."""
    return [antialias_downsample(image, scale) for scale in scales]


def perceptual_loss(
    features: VGG19Features, prediction: Tensor, target: Tensor, scales: Sequence[float] = SCALES
) -> Tensor:
    """Mean absolute difference of each of the five maps at each scale, summed; no gradient for `target`."""
    total = prediction.new_zeros(())
    for ours, theirs in zip(pyramid(prediction, scales), pyramid(target, scales), strict=True):
        with torch.no_grad():
            wanted = features(theirs)
        for got, want in zip(features(ours), wanted, strict=True):
            total = total + (got - want).abs().mean()
    return total


def pixel_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of images (B, 3, H, W), summed over scales 1, 1/2, 1/4 and 1/8 (not published)."""
    pairs = zip(pyramid(prediction), pyramid(target), strict=True)
    return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in pairs]).sum()


# Keypoints


@dataclass(frozen=True)
class ThinPlateTransform:
    """A random smooth deformation of the plane: an affine map plus a thin-plate spline that shifts x and y equally.

    Attributes:
        theta: (B, 2, 3).
        control: (B, P * P), weights of control points on a regular grid over [-1, 1].
    """

    theta: Tensor
    control: Tensor

    @classmethod
    def random(
        cls,
        batch: int,
        *,
        sigma_affine: float = 0.05,
        sigma_spline: float = 0.005,
        points: int = 5,
        rng: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> ThinPlateTransform:
        """Draw deformations with the published spread, on the CPU."""
        theta = torch.eye(2, 3) + sigma_affine * torch.randn(batch, 2, 3, generator=rng)
        return cls(theta.to(device), (sigma_spline * torch.randn(batch, points**2, generator=rng)).to(device))

    def warp_coordinates(self, points: Tensor) -> Tensor:
        """Points (B, N, 2) -> their new positions."""
        distance, _ = self._from_control(points)
        shift = (distance.square() * torch.log(distance + 1e-6) * self.control[:, None]).sum(-1, keepdim=True)
        return points @ self.theta[:, :, :2].mT + self.theta[:, None, :, 2] + shift

    def jacobian(self, points: Tensor) -> Tensor:
        """Derivative of `warp_coordinates` at points (B, N, 2): (B, N, 2, 2), itself differentiable."""
        distance, offset = self._from_control(points)
        slope = 2 * distance * torch.log(distance + 1e-6) + distance.square() / (distance + 1e-6)
        gradient = ((self.control[:, None] * slope).unsqueeze(-1) * offset.sign()).sum(-2)
        return self.theta[:, None, :, :2] + gradient.unsqueeze(-2)

    def transform_frame(self, frame: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the same, sampled at the warped positions; mirrored at the border."""
        height, width = frame.shape[2:]
        grid = coordinate_grid(height, width, like=frame).flatten(0, 1).expand(len(frame), -1, -1)
        places = self.warp_coordinates(grid).unflatten(1, (height, width))
        return F.grid_sample(frame, places, padding_mode="reflection", align_corners=False)

    def _from_control(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance |x| + |y| (B, N, P * P) and offset (B, N, P * P, 2) from each control point."""
        side = round(self.control.shape[1] ** 0.5)
        offset = points.unsqueeze(-2) - coordinate_grid(side, side, like=points).flatten(0, 1)
        return offset.abs().sum(-1), offset


def equivariance_losses(
    driving: Keypoints, transformed: Keypoints, transform: ThinPlateTransform
) -> tuple[Tensor, Tensor]:
    """Losses of positions and jacobians: keypoints of a deformed image, mapped back, should be those of the image.

    Args:
        transformed: keypoints of `transform.transform_frame(image)`, `driving` being those of the image.
    """
    value = (driving.value - transform.warp_coordinates(transformed.value)).abs().mean()
    brought_back = transform.jacobian(transformed.value) @ transformed.jacobian
    unit = torch.eye(2, dtype=brought_back.dtype, device=brought_back.device)
    return value, (unit - inverse_2x2(driving.jacobian) @ brought_back).abs().mean()


def keypoint_distance_loss(value: Tensor, least: float = 0.2) -> Tensor:
    """Twice the share of pairs of keypoints (B, K, 2) nearer than `least`.

    As published, it has no gradient: it is only monitored.
    """
    apart = value.unsqueeze(2) - value.unsqueeze(1)
    apart = apart + least * torch.eye(value.shape[1], device=value.device, dtype=value.dtype)[..., None]
    return (1 - (apart.square().sum(-1).sqrt() - least).sign()).mean()


# Memory


def memory_loss(traces: Sequence[MemoryTrace]) -> Tensor:
    """The memory's values should resemble the warped features: mean absolute difference of values and features, summed over levels.

    Features are reduced to the memory's size and get no gradient.

    Raises:
        InputError: no traces, which a fused network does not give.
    """
    if not traces:
        raise InputError("no traces of the memory: train the network that is not fused")
    terms = [
        (F.interpolate(t.feature.detach(), t.value.shape[2:], mode="bilinear", align_corners=True) - t.value)
        .abs()
        .mean()
        for t in traces
    ]
    return torch.stack(terms).sum()


# Adversarial


def generator_loss(fake: Tensor) -> Tensor:
    """Least squares: the target of the discriminator's map (B, 1, h, w) of predictions is 1."""
    return (1 - fake).square().mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Least squares: 1 for real images, 0 for predictions, which the caller has detached."""
    return ((1 - real).square() + fake.square()).mean()


def feature_matching_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's maps, summed."""
    return torch.stack([(a.detach() - b).abs().mean() for a, b in zip(real, fake, strict=True)]).sum()
