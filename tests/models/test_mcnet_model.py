"""MCNet as a network: the fused form, sizes, batches, noise, precision, and refused inputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import visionzoo as vz
from tests.golden import seeded
from visionzoo.errors import InputError
from visionzoo.memory import LearnedBank
from visionzoo.models.mcnet import MCNet, MCNetConfig, transfer_motion
from visionzoo.models.mcnet.blocks import UpBlock, antialias_downsample, coordinate_grid, gaussian_kernel
from visionzoo.models.mcnet.fused import PhaseUpBlock
from visionzoo.models.mcnet.memory import MemoryUnit
from visionzoo.models.mcnet.memory_fused import FusedMemoryUnit, _conv_each

SMALL: dict[str, Any] = {
    "num_keypoints": 4,
    "detector_channels": 8,
    "detector_max_channels": 32,
    "detector_blocks": 3,
    "motion_channels": 8,
    "motion_max_channels": 32,
    "motion_blocks": 3,
    "channels": 8,
    "max_channels": 32,
    "memory_channels": 24,
    "identity_channels": 24,
    "memory_side": 8,
    "style_channels": 16,
}


def network(**changes: object) -> MCNet:
    """A small network with weights with which every part matters."""
    model = MCNet(MCNetConfig(**{**SMALL, **changes})).eval().requires_grad_(False)
    state = seeded.fill(model.state_dict())
    for key in ("mb", "key_value.weight", "key_value.expand.weight"):
        state[f"generator.memory.{key}"] *= 20  # else the attention is flat
    state["generator.memory.style_conv.modulation.weight"] *= 5
    state["detector.jacobian.bias"] += torch.tensor([1.0, 0, 0, 1]).repeat(model.config.num_keypoints)
    state["detector.jacobian.weight"] *= 0.1
    model.load_state_dict(state)
    return model


def images(name: str, count: int, height: int = 64, width: int = 64) -> Tensor:
    coarse = seeded.tensor(name, (count, 3, 8, 8))
    return F.interpolate(coarse, (height, width), mode="bilinear")


def difference(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / one.double().norm())


@pytest.fixture(scope="module")
def model() -> MCNet:
    return network()


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 32)])
def test_fused_is_the_same(model: MCNet, size: tuple[int, int]) -> None:
    source, driving = images("source", 1, *size), images("driving", 3, *size)
    plain, fused = model.reenact(source, driving), model.fuse().reenact(source, driving)
    assert plain.prediction.shape == (3, 3, *size)
    assert plain.motion.flow.shape == (3, size[0] // 4, size[1] // 4, 2)
    # after residual blocks channels are in another order
    pairs = zip((plain.prediction, *plain.decoded[1::2]), (fused.prediction, *fused.decoded[1::2]), strict=True)
    assert max(difference(one, other) for one, other in pairs) < 1e-5
    assert len(plain.memory) == 3
    assert not fused.memory


@pytest.mark.parametrize(
    "changes",
    [
        {"residual_blocks": 1, "memory_kernels": 2, "memory_side": 5},
        {"num_down_blocks": 2, "scale_factor": 0.5, "detector_blocks": 2, "motion_blocks": 2},
        {"channels": 6, "max_channels": 12},
    ],
    ids=["residual", "levels", "widths"],
)
def test_other_configurations(changes: dict[str, Any]) -> None:
    model = network(**changes)
    source, driving = images("source", 2), images("driving", 2)
    assert difference(model(source, driving), model.fuse()(source, driving)) < 1e-5


def test_published_network_fused_at_another_size() -> None:
    """The grids depend on the image: 26 x 58 positions of keypoints at 128 x 256."""
    model = vz.create_model("mcnet").requires_grad_(False)
    assert isinstance(model, MCNet)
    assert model.config.size_multiple == model.config.smallest_side == 128
    torch.nn.init.normal_(model.generator.memory.mb, 0, 1, torch.Generator().manual_seed(0))  # pyright: ignore[reportArgumentType]
    source, driving = images("source", 1, 128, 256), images("driving", 1, 128, 256)
    assert model.detector.detect(driving).heatmap.shape == (1, 15, 26, 58)
    plain = model(source, driving)
    assert difference(plain, model.fuse()(source, driving)) < 1e-5


@pytest.mark.parametrize("fuse", [False, True])
def test_a_batch_equals_single_frames(model: MCNet, fuse: bool) -> None:
    net = model.fuse() if fuse else model
    source, driving = images("source", 5), images("driving", 5)
    cache, points = net.encode_source(source[:1]), net.detect(driving)
    together = net.animate(cache, points)
    alone = torch.cat([net.animate(cache, points.at(slice(i, i + 1))) for i in range(5)])
    assert difference(alone, together) < 1e-5
    many = net(source, driving)  # a source each; five frames of three levels are more than go at once
    assert difference(net(source[3:4], driving[3:4]), many[3:4]) < 1e-5


def test_first_frame_of_relative_motion_is_the_source(model: MCNet) -> None:
    cache, driving = model.encode_source(images("source", 1)), model.detect(images("driving", 3))
    moved = transfer_motion(cache.keypoints, driving, driving.at(slice(0, 1)))
    still = model.render(cache, cache.keypoints)
    assert torch.equal(model.animate(cache, moved.at(slice(0, 1))), still.prediction)
    assert not torch.equal(model.animate(cache, moved)[1:2], still.prediction)


def test_noise() -> None:
    model = network()
    source, driving = images("source", 1), images("driving", 2)
    cache, points = model.encode_source(source), model.detect(driving)

    def run(noise: Any, seed: int | None = None, net: MCNet = model) -> Tensor:
        rng = None if seed is None else torch.Generator().manual_seed(seed)
        return net.animate(net.encode_source(source), points, noise=noise, rng=rng)

    silent = model.animate(cache, points)
    assert torch.equal(run("none"), silent)
    assert torch.equal(run("fixed"), run("fixed"))
    assert not torch.equal(run("fixed"), run("fixed", 5))
    assert torch.equal(run("random", 1), run("random", 1))
    assert not torch.equal(run("random", 1), run("random", 2))
    assert not torch.equal(run("fixed"), silent)
    maps = [torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3)) for _ in range(3)]
    assert difference(run(maps), run(maps, net=model.fuse())) < 1e-5
    assert difference(run("fixed"), run("fixed", net=model.fuse())) < 1e-5
    model.generator.memory.style_conv.noise_strength.zero_()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert torch.equal(run("random", 1), silent)
    for wrong in ("loud", maps[:2], [maps[0][:, :, :4]] * 3):
        with pytest.raises(InputError, match="noise must be"):
            run(wrong)


@pytest.mark.parametrize(
    "shape", [(1, 3, 64, 60), (1, 3, 16, 64), (3, 64, 64), (1, 4, 64, 64), (0, 3, 64, 64)], ids=str
)
def test_refuses_images(model: MCNet, shape: tuple[int, ...]) -> None:
    for call in (model.detect, model.encode_source):
        with pytest.raises(InputError, match=r"\(B, 3, H, W\).*multiples of 32.*got \("):
            call(torch.zeros(shape))


def test_refuses_bytes_and_options_that_exclude_each_other(model: MCNet) -> None:
    with pytest.raises(InputError, match="uint8"):
        model.detect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    cache, points = model.encode_source(images("source", 2)), model.detect(images("driving", 3))
    with pytest.raises(InputError, match="2 sources for 3 driving frames"):
        model.animate(cache, points)
    with pytest.raises(InputError, match=r"expected keypoints \(B, 4, 2\)"):
        model.animate(cache, points._replace(value=points.value[:, :3]))
    with pytest.raises(InputError, match="no field 'num_kp'"):
        vz.create_model("mcnet", num_kp=10)
    with pytest.raises(InputError, match="scale_factor"):
        MCNetConfig(scale_factor=0.3)


def test_memory_is_learned_through_its_bank() -> None:
    model = network().requires_grad_(True)
    source, driving = images("source", 1), images("driving", 2)
    animated = model.reenact(source, driving)
    loss = animated.prediction.square().mean()
    (gradient,) = torch.autograd.grad(loss, [model.generator.memory.mb])  # pyright: ignore[reportArgumentType]
    assert gradient.abs().sum() > 0
    twin = copy.deepcopy(model)
    assert isinstance(twin.generator.memory, MemoryUnit)
    assert isinstance(twin.generator.memory.bank, LearnedBank)
    assert len(twin.generator.memory.bank) == 64
    assert twin.generator.memory.bank.values()[0] is twin.generator.memory.mb
    with torch.no_grad():
        twin.generator.memory.mb.zero_()
        assert not torch.equal(twin(source, driving), model(source, driving))


def test_trains_in_training_mode() -> None:
    model = network().requires_grad_(True).train()
    model.reenact(images("source", 2), images("driving", 2), noise="random").prediction.mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    assert not model.fuse().training
    assert model.training


def test_half_precision_keeps_positions(model: MCNet) -> None:
    source, driving = images("source", 1), images("driving", 2)
    full, fused = model.reenact(source, driving), model.fuse().compute_in(torch.bfloat16)
    half = fused.reenact(source, driving)
    assert half.prediction.dtype == half.motion.flow.dtype == half.motion.occlusion.dtype == torch.float32
    assert half.decoded[0].dtype == torch.bfloat16
    assert difference(full.prediction, half.prediction) < 0.05
    for exact, found in zip(model.detect(driving), fused.detect(driving), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half.motion.flow, full.motion.flow, rtol=1e-5, atol=1e-5)


def test_singular_jacobian_stays_finite(model: MCNet) -> None:
    cache, points = model.encode_source(images("source", 1)), model.detect(images("driving", 1))
    points.jacobian[0, 1] = 0
    assert model.animate(cache, points).isfinite().all()


def test_one_convolution_for_four_phases() -> None:
    block = UpBlock(3, 5).eval().requires_grad_(False)
    x = torch.rand(2, 3, 4, 7)
    want = block(x)
    torch.nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.norm)
    block.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.norm)
    assert torch.allclose(PhaseUpBlock(block)(x), want, atol=1e-6)


def test_kernel_for_each_item_is_the_same_as_a_product_of_matrices() -> None:
    """The code path for GPUs, run here."""
    x, kernels, biases = torch.rand(3, 4, 5, 6), torch.rand(3, 2, 36), torch.rand(3, 2)
    product = torch.baddbmm(biases.unsqueeze(2), kernels, F.unfold(x, 3, padding=1)).view(3, 2, 5, 6)
    assert torch.allclose(_conv_each(x, kernels, biases), product, atol=1e-5)


@pytest.mark.parametrize(("scale", "size"), [(0.5, 5), (0.25, 13), (0.125, 29), (1.0, 1)])
def test_antialias_filter(scale: float, size: int) -> None:
    kernel = gaussian_kernel(scale)
    assert kernel.shape == (size, size)
    assert kernel.sum().item() == pytest.approx(1)
    flat = antialias_downsample(torch.ones(1, 3, 64, 64), scale)
    assert flat.shape == (1, 3, 64 * scale, 64 * scale)
    assert flat[0, 0, flat.shape[2] // 2, flat.shape[3] // 2].item() == pytest.approx(1)


def test_grid_ends_at_centres() -> None:
    grid = coordinate_grid(3, 5, like=torch.zeros(1))
    assert grid[0, 0].tolist() == [-1, -1]
    assert grid[2, 4].tolist() == [1, 1]
    assert grid[1, 3].tolist() == [0.5, 0]


def test_fused_twice_is_fused_once(model: MCNet) -> None:
    fused = model.fuse()
    assert fused.is_fused
    assert not model.is_fused
    assert fused.fuse() is fused
    assert isinstance(fused.generator.memory, FusedMemoryUnit)
    assert not any(p.requires_grad for p in fused.parameters())
