"""The losses of MCNet's training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.test_mcnet_model import images, network
from visionzoo.errors import InputError
from visionzoo.models.mcnet import Discriminator, DiscriminatorConfig, Keypoints, ThinPlateTransform, VGG19Features
from visionzoo.models.mcnet.losses import (
    Deformed,
    LossWeights,
    discriminator_loss,
    equivariance_losses,
    feature_matching_loss,
    generator_loss,
    keypoint_distance_loss,
    memory_loss,
    perceptual_loss,
    pyramid,
    reenactment_loss,
)


@pytest.fixture(scope="module")
def vgg() -> VGG19Features:
    from torchvision.models import vgg19

    torch.manual_seed(0)
    return VGG19Features({k: v for k, v in vgg19().state_dict().items() if not k.startswith("classifier")})


def plane(batch: int, seed: int = 0) -> ThinPlateTransform:
    return ThinPlateTransform.random(batch, rng=torch.Generator().manual_seed(seed))


def test_jacobian_is_the_derivative() -> None:
    transform = plane(2)
    transform = ThinPlateTransform(transform.theta.double(), transform.control.double())
    points = (torch.rand(2, 6, 2, dtype=torch.float64) - 0.5).requires_grad_()
    rows = [torch.autograd.grad(transform.warp_coordinates(points)[..., i].sum(), points)[0] for i in range(2)]
    assert torch.allclose(transform.jacobian(points), torch.stack(rows, 2))
    assert torch.autograd.gradcheck(transform.jacobian, points)


def test_no_deformation_changes_nothing() -> None:
    still = ThinPlateTransform(torch.eye(2, 3)[None], torch.zeros(1, 25))
    points = Keypoints(torch.rand(1, 5, 2) - 0.5, torch.eye(2) + 0.1 * torch.randn(1, 5, 2, 2))
    value, jacobian = equivariance_losses(points, points, still)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert jacobian.item() == pytest.approx(0, abs=1e-5)
    value, _ = equivariance_losses(points, Keypoints(points.value + 0.1, points.jacobian), still)
    assert value.item() == pytest.approx(0.1, abs=1e-6)
    assert plane(3).transform_frame(images("driving", 3)).shape == (3, 3, 64, 64)


def test_transform_is_seeded() -> None:
    assert torch.equal(plane(2, 1).theta, plane(2, 1).theta)
    assert not torch.equal(plane(2, 1).control, plane(2, 2).control)


def test_keypoints_too_near() -> None:
    apart = torch.tensor([[[0.0, 0], [1, 0], [0, 1]]])
    assert keypoint_distance_loss(apart).item() == 0
    near = torch.tensor([[[0.0, 0], [0.1, 0], [0, 1]]])
    assert keypoint_distance_loss(near).item() == pytest.approx(2 * 2 / 9)


def test_image_loss(vgg: VGG19Features) -> None:
    one, other = images("source", 1), images("driving", 1).requires_grad_()
    assert [x.shape[2] for x in pyramid(one)] == [64, 32, 16, 8]
    assert perceptual_loss(vgg, one, one, (1.0, 0.5)).item() == 0
    loss = perceptual_loss(vgg, other, one, (1.0, 0.5))
    (gradient,) = torch.autograd.grad(loss, other)
    assert loss > 0
    assert gradient.abs().sum() > 0
    assert not any(p.requires_grad for p in vgg.parameters())
    with pytest.raises(InputError, match="VGG-19 do not fit: 26 of 26 keys are missing"):
        VGG19Features({"layer1.weight": torch.zeros(1)})


def test_the_whole_objective_trains_every_trainable_part(vgg: VGG19Features) -> None:
    model = network().requires_grad_(True)
    source, driving, transform = images("source", 2), images("driving", 2), plane(2)
    cache, points = model.encode_source(source), model.detect(driving)
    transformed = model.detect(transform.transform_frame(driving))
    animated = model.render(cache, points)
    deformed = Deformed(transform, transformed)
    given = (animated, driving, cache.keypoints, points)
    terms = reenactment_loss(*given, deformed=deformed, features=vgg, scales=(0.5,))
    torch.stack(list(terms.values())).sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert idle == {"generator.memory.style_conv.noise_strength"}  # because of noise that was not requested
    only = reenactment_loss(*given, weights=LossWeights(0, 0, 0, 0, 0, 20))
    assert set(only) == {"memory"}
    assert only["memory"].item() == pytest.approx(2 * terms["memory"].item(), rel=1e-5)
    for weights, needs in ((LossWeights(), "VGG19Features"), (LossWeights(perceptual=0), "deformed")):
        with pytest.raises(InputError, match=needs):
            reenactment_loss(*given, weights=weights)
    with pytest.raises(InputError, match="not fused"):
        memory_loss(model.fuse().reenact(source, driving).memory)


def test_memory_loss_leaves_features_alone() -> None:
    model = network().requires_grad_(True)
    memory_loss(model.reenact(images("source", 1), images("driving", 1)).memory).backward()
    gradient = model.generator.memory.mb.grad
    assert isinstance(gradient, Tensor)
    assert gradient.abs().sum() > 0
    assert model.generator.memory.query.weight.grad is None  # pyright: ignore[reportAttributeAccessIssue]


def test_adversarial() -> None:
    judge = Discriminator(DiscriminatorConfig(num_keypoints=4, channels=4, max_channels=16))
    points = torch.rand(2, 4, 2) - 0.5
    real, maps = judge(images("source", 2), points)
    fake, others = judge(images("driving", 2), points)
    assert real.shape == (2, 1, 2, 2)
    assert [x.shape[1] for x in maps] == [8, 16, 16, 16]
    assert generator_loss(torch.ones_like(fake)).item() == 0
    assert discriminator_loss(torch.ones_like(real), torch.zeros_like(fake)).item() == 0
    assert feature_matching_loss(maps, maps).item() == 0
    assert feature_matching_loss(maps, others) > 0
