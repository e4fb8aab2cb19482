"""The fields of MoDec-GS: the fast form equals the plain one, values and gradients, with fewer calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import modecgs
from visionzoo.models.modecgs import blocks
from visionzoo.models.modecgs.deformation import Field, gate
from visionzoo.models.modecgs.hexplane import AXES, HexPlane
from visionzoo.models.modecgs.spawn import AnchorNetworks


class Calls(TorchDispatchMode):
    """Counts the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def planes(resolution: tuple[int, ...] = (5, 5, 5, 4), levels: tuple[int, ...] = (1, 2), channels: int = 3) -> HexPlane:
    torch.manual_seed(0)
    field = HexPlane(resolution, channels, levels).double()
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, 1.0, 0.3)
    field.box.copy_(torch.tensor([[1.0, 2.0, 0.5], [-1.0, -0.5, -3.0]]))
    return field


@pytest.mark.parametrize("time", [-0.3, 0.0, 0.43, 1.0, 1.5])
@pytest.mark.parametrize("resolution", [(5, 5, 5, 4), (3, 4, 5, 6), (4, 4, 6, 6), (6, 4, 4, 4)])
def test_stacked_planes_equal_the_plain_form(resolution: tuple[int, ...], time: float) -> None:
    field = planes(resolution)
    points = (4 * torch.rand(40, 3, dtype=torch.double) - 2).requires_grad_()
    weight = torch.rand(40, field.out_dim, dtype=torch.double)
    results = []
    for features in (field(points, time), field.plain_features(points, torch.full((40,), time, dtype=torch.double))):
        results.append([features, *torch.autograd.grad((features * weight).sum(), [points, *field.parameters()])])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


def test_a_level_takes_two_lookups_instead_of_six() -> None:
    field, points = planes(), torch.rand(7, 3, dtype=torch.double)
    with Calls() as fast:
        field.stacked_features(field.normalized(points), 0.2)
    with Calls() as plain:
        field.plain_features(points, torch.full((7,), 0.2, dtype=torch.double))
    assert (fast.counts["grid_sampler_2d"], plain.counts["grid_sampler_2d"]) == (4, 12)


@pytest.mark.parametrize("time", [-0.3, 0.43, 1.0])
@pytest.mark.parametrize(("levels", "channels"), [((1,), 16), ((1, 2, 4), 3), ((1, 2, 4), 8)])
def test_compiled_lookup_equals_torch(levels: tuple[int, ...], channels: int, time: float) -> None:
    """Values and all gradients, inside the box, outside and on its border."""
    pytest.importorskip("numba")
    field = planes((5, 5, 5, 4), levels, channels).float()
    points = 5 * torch.rand(200, 3) - 2.5
    points[:2] = field.box
    weight = torch.rand(200, field.out_dim)
    results = []
    for form in (field, lambda points, time: field.stacked_features(field.normalized(points), time)):
        given = points.clone().requires_grad_()
        features = form(given, time)
        results.append([features, *torch.autograd.grad((features * weight).sum(), [given, *field.parameters()])])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    with Calls() as calls, torch.no_grad():
        field(points, time)
    assert not calls.counts["grid_sampler_2d"]


def test_compiled_lookup_takes_any_memory_order() -> None:
    pytest.importorskip("numba")
    field, points = planes().float(), torch.rand(20, 3)
    wanted = field(points, 0.3)
    state = {key: value.contiguous() for key, value in field.state_dict().items()}
    other = planes().float()
    other.planes = torch.nn.ModuleList(
        torch.nn.ParameterList(state[f"planes.{level}.{group}"].clone() for group in range(2)) for level in range(2)
    )
    assert torch.equal(other(points, 0.3), wanted)
    assert other(points[:0], 0.3).shape == (0, 6)


def test_planes_that_change_before_the_backward_pass_are_noticed() -> None:
    pytest.importorskip("numba")
    field = planes(channels=8).float()  # other numbers of channels are padded, which copies the planes
    features = field(torch.rand(20, 3), 0.3)
    with torch.no_grad():
        field.planes[0][0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features.sum().backward()


@pytest.mark.parametrize("count", [0, 1, 130])
@pytest.mark.parametrize("depth", [1, 3])
def test_blocks_equal_the_plain_layers(depth: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, of which the first two keep their hidden values."""
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    monkeypatch.setattr(blocks, "KEPT", 2000)
    torch.manual_seed(0)
    field = Field((4, 4, 4, 3), 2, (1,), 8, depth, {"a": 3, "b": 5, "c": 1}).double()
    features = torch.randn(count, 2, dtype=torch.double, requires_grad=True)
    layers = [value for name, value in field.named_parameters() if "planes" not in name]
    results = []
    for found in (field.layers(features), field.changes(field.hidden(features))):
        loss = sum(((place + 1) * value.sin()).sum() for place, value in enumerate(found.values()))
        results.append([*found.values(), *torch.autograd.grad(loss, [features, *layers])])  # pyright: ignore
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_space_is_mirrored_and_time_is_not_rescaled() -> None:
    """The published code puts the box's maximum at -1 and reads times in [0, 1] from a grid over [-1, 1]."""
    field = planes(levels=(1,))
    places = field.normalized(field.box)
    assert places.tolist() == [[-1.0] * 3, [1.0] * 3]
    with torch.no_grad():
        for index, axes in enumerate(AXES):
            if 3 in axes:
                field.plane(0, index)[:, :, :2] = (
                    1e6  # the half of the time axis below 0.0 is never read beyond its border
                )
    assert float(field(torch.zeros(1, 3, dtype=torch.double), 1.0).detach().abs().max()) < 1e3


def test_heads_are_computed_together() -> None:
    torch.manual_seed(0)
    field = Field((4, 4, 4, 3), 2, (1,), 8, 2, {"a": 3, "b": 5, "c": 1}).double()
    hidden = torch.randn(6, 8, dtype=torch.double)
    with Calls() as fast:
        together = field.changes(hidden)
    for name, head in field.heads.items():
        torch.testing.assert_close(together[name], head(hidden))
    assert fast.counts["addmm"] == 4  # one for all first layers, and one per output


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_a_mask_is_exact_and_has_the_gradient_of_its_activation(activation: str) -> None:
    values = torch.tensor([[-9.0], [-4.7], [-4.5], [0.005], [0.3], [3.0]], requires_grad=True)
    mask = gate(values, "mask", activation)
    assert set(mask.flatten().tolist()) <= {0.0, 1.0}
    assert mask[:, 0].tolist() == (getattr(torch, activation)(values[:, 0]) > 0.01).float().tolist()
    (found,) = torch.autograd.grad(mask.sum(), values)
    (wanted,) = torch.autograd.grad(gate(values, "mul", activation).sum(), values)
    assert torch.equal(found, wanted)


# Spawning


def plain_spawn(networks: AnchorNetworks, scaffold: Any, center: Tensor) -> list[Tensor]:
    """As Scaffold-GS does it: one network after the other, all columns of all Gaussians side by side, then the mask."""
    k = networks.config.num_offsets
    away = scaffold.positions - center
    distance = away.norm(dim=1, keepdim=True)
    inputs = torch.cat([networks.mixed(scaffold.features, away / distance, distance), away / distance], dim=1)
    rows = networks.appearance[:1].expand(len(inputs), -1)
    alphas = networks.opacity(inputs).tanh().reshape(-1, 1)
    covariance = networks.covariance(inputs).reshape(-1, 7)
    colors = networks.color(torch.cat([inputs, rows], dim=1)).sigmoid().reshape(-1, 3)
    repeated = torch.cat([scaffold.positions, scaffold.scaling], dim=1).repeat_interleave(k, dim=0)
    table = torch.cat([repeated, scaffold.offsets.reshape(-1, 3), colors, covariance, alphas], dim=1)
    table = table[alphas[:, 0] > 0]
    positions, units, base, offsets, colors, scales, quats, alphas = table.split([3, 3, 3, 3, 3, 3, 4, 1], dim=1)
    return [positions + offsets * units, base * scales.sigmoid(), quats, alphas[:, 0], colors]


def test_spawning_equals_the_plain_form() -> None:
    model = modecgs()
    center = torch.tensor([0.3, 0.2, -2.0])
    scaffold = model.anchors.scaffold()
    found = model.networks(scaffold, center)
    wanted = plain_spawn(model.networks, scaffold, center)
    for value, plain in zip(found[:5], wanted, strict=True):
        torch.testing.assert_close(value, plain)
    parameters = [value for value in model.networks.parameters() if value.requires_grad]
    gradients = [
        torch.autograd.grad(
            torch.stack([value.square().sum() for value in values]).sum(), parameters, retain_graph=True
        )
        for values in (found[:5], wanted)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_dense_spawning_waits_for_nothing_and_gives_the_same_gaussians() -> None:
    model = modecgs()
    center = torch.tensor([0.3, 0.2, -2.0])
    with torch.no_grad(), Calls() as calls:
        dense = model(center, 0.4, dense=True)
    waits = ("nonzero", "_local_scalar_dense", "item")
    assert not [name for name in waits if calls.counts[name]]
    with torch.no_grad(), Calls() as calls:
        chosen = model(center, 0.4)
    assert calls.counts["nonzero"] == 1
    drawn = dense.opacities > 0
    assert 0 < len(chosen) < len(dense) == model.anchors.rows * model.config.num_offsets
    assert torch.equal(dense.slots[drawn], chosen.slots)  # pyright: ignore[reportOptionalSubscript]
    for name in ("means", "scales", "quats", "colors"):
        torch.testing.assert_close(getattr(dense, name)[drawn], getattr(chosen, name))


def test_no_value_of_all_gaussians_has_more_columns_than_needed() -> None:
    """The published form makes a table of 22 columns of all N * k Gaussians; here 7 columns, the covariance, are the widest."""
    model = modecgs()
    every = model.anchors.rows * model.config.num_offsets
    widest = 0

    class Widest(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal widest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                widest = max(widest, result.numel() // every)
            return result

    with torch.no_grad(), Widest():
        model.networks(model.anchors.scaffold(), torch.tensor([0.3, 0.2, -2.0]))
    assert widest <= 7


def test_visible_anchors_alone_spawn() -> None:
    model = modecgs()
    center = torch.tensor([0.3, 0.2, -2.0])
    visible = torch.arange(model.anchors.rows) % 3 == 0
    with torch.no_grad():
        everything, part = model(center, 0.4), model(center, 0.4, visible=visible)
    kept = visible[everything.slots // model.config.num_offsets]
    assert torch.equal(everything.slots[kept], part.slots)
    torch.testing.assert_close(everything.means[kept], part.means)
    assert torch.equal(part.anchors, visible.nonzero()[:, 0])


def test_normalized_quaternions() -> None:
    with torch.no_grad():
        gaussians = modecgs()(torch.tensor([0.3, 0.2, -2.0]), None)
    torch.testing.assert_close(gaussians.quats, F.normalize(gaussians.quats, dim=-1))


def test_the_published_structure_gives_the_same_gaussians() -> None:
    """What the benchmark measures against: every frame, written out, with the same weights."""
    from benchmarks.modecgs_networks import Published, seeded_model

    model = seeded_model()
    center = torch.tensor([0.0, 0.0, -3.0])
    with torch.no_grad():
        for time in (0.05, 0.47):
            for found, wanted in zip(model(center, time).tensors, Published(model)(center, time), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
