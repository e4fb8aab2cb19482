"""Growing and pruning: rows and optimizer moments change together, in the interface of gsplat's strategies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny import modecgs
from visionzoo.errors import InputError
from visionzoo.models.modecgs import AnchorStrategy, GrowthRules, MoDecGS, Statistics, adjust
from visionzoo.models.modecgs.growth import cell_keys

RULES = GrowthRules(voxel_size=0.1, interval=10, levels=1, coarsest=1)
CENTER = torch.tensor([0.3, 0.2, -2.0])


def trained() -> tuple[MoDecGS, dict[str, torch.optim.Optimizer]]:
    """A scene one step of Adam into its training."""
    model = copy.deepcopy(modecgs()).train()
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([value], 1e-3) for name, value in model.anchors.items() if value.requires_grad
    }
    gaussians = model(CENTER, 0.3)
    names = ("means", "scales", "opacities", "colors")
    torch.stack([getattr(gaussians, name).square().sum() for name in names]).sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return model, optimizers


def busy(model: MoDecGS) -> Statistics:
    """All Gaussians drawn often; the first twenty anchors strained, the last five transparent."""
    count, k = model.anchors.rows, model.config.num_offsets
    statistics = Statistics.empty(count, k)
    statistics.visits += 20
    statistics.opacity += 10
    statistics.opacity[-5:] = 0
    statistics.draws += 20
    statistics.gradient[: 20 * k] = 20 * 0.01
    return statistics


def test_rows_and_moments_change_together() -> None:
    model, optimizers = trained()
    before = {name: value.detach().clone() for name, value in model.anchors.items()}
    moments = {name: optimizer.state[model.anchors[name]]["exp_avg"].clone() for name, optimizer in optimizers.items()}
    statistics = busy(model)
    done = adjust(model.anchors, optimizers, statistics, RULES, generator=torch.Generator().manual_seed(0))
    count = len(before["positions"])
    assert done.added > 0
    assert done.removed == 5
    assert model.anchors.rows == count + done.added - 5
    for name, value in model.anchors.items():
        torch.testing.assert_close(value[: count - 5], before[name][:-5].clamp(max=0.05 if name == "scaling" else 1e9))
        assert value.requires_grad == (name != "positions")
    for name, optimizer in optimizers.items():
        assert [value for group in optimizer.param_groups for value in group["params"]] == [model.anchors[name]]
        assert len(optimizer.state) == 1
        state = optimizer.state[model.anchors[name]]
        assert torch.equal(state["exp_avg"][: count - 5], moments[name][:-5])
        assert not state["exp_avg"][count - 5 :].any()
        assert float(state["step"]) == 1
    sizes = {len(statistics.visits), len(statistics.opacity), len(statistics.draws) // 4, len(statistics.gradient) // 4}
    assert sizes == {model.anchors.rows}
    assert not statistics.draws.any()  # everything was judged
    new = model.anchors["positions"][count - 5 :]
    torch.testing.assert_close((new / 0.1).round() * 0.1, new)
    model(CENTER, 0.3).means.sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()


def test_no_cell_gets_a_second_anchor() -> None:
    model, _ = trained()
    for seed in range(3):
        adjust(model.anchors, {}, busy(model), RULES, generator=torch.Generator().manual_seed(seed))
    cells = (model.anchors["positions"] / 0.1).round()
    assert len(torch.unique(cells, dim=0)) == len(cells)


def test_the_same_random_numbers_give_the_same_anchors() -> None:
    found = []
    for _ in range(2):
        model, optimizers = trained()
        adjust(model.anchors, optimizers, busy(model), RULES, generator=torch.Generator().manual_seed(4))
        found.append(model.anchors["features"].detach())
    assert torch.equal(*found)


def test_a_scene_does_not_vanish() -> None:
    model, optimizers = trained()
    statistics = busy(model)
    statistics.opacity.zero_()
    statistics.gradient.zero_()
    with pytest.raises(InputError, match="anchors have become transparent"):
        adjust(model.anchors, optimizers, statistics, RULES)


def test_nothing_happens_before_there_are_statistics() -> None:
    model, optimizers = trained()
    done = adjust(model.anchors, optimizers, Statistics.empty(model.anchors.rows, 4), RULES)
    assert (done.added, done.removed) == (0, 0)


CELLS = st.lists(st.tuples(*[st.integers(-50, 50)] * 3), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(CELLS, CELLS)
def test_keys_of_cells_are_equal_and_ordered_as_the_cells_are(one: list, other: list) -> None:
    keys = [value.tolist() for value in cell_keys(torch.tensor(one), torch.tensor(other))]
    for place, cell in enumerate(one):
        for beside, second in enumerate(other):
            assert (keys[0][place] < keys[1][beside]) == (cell < second)
            assert (keys[0][place] == keys[1][beside]) == (cell == second)


def test_cells_without_number_are_refused() -> None:
    far = torch.tensor([[0, 0, 0], [2**40, 2**40, 2**40]])
    with pytest.raises(InputError, match="remove points far outside"):
        cell_keys(far, far)


# As a strategy


def rendered(model: MoDecGS, time: float) -> dict[str, Any]:
    """What a renderer would say: here, a pinhole without an image."""
    gaussians = model(CENTER, time)
    away = gaussians.means - CENTER
    means2d = (16 + 20 * away[:, :2] / away[:, 2:])[None]
    radii = torch.ones(1, len(gaussians), 2, dtype=torch.int32)
    radii[0, ::7] = 0
    return {"means2d": means2d, "radii": radii, "width": 32, "height": 24, "gaussians": gaussians}


def step(strategy: AnchorStrategy, model: MoDecGS, optimizers: dict, state: dict, number: int, cameras: int = 2) -> Any:
    infos = [rendered(model, time / cameras) for time in range(cameras)]
    strategy.step_pre_backward(model.anchors, optimizers, state, number, infos)
    loss: Tensor = torch.stack([info["means2d"].square().mean() for info in infos]).mean()
    loss.backward()
    done = strategy.step_post_backward(model.anchors, optimizers, state, number, infos)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    return done


def test_strategy_in_a_training_loop() -> None:
    model, optimizers = trained()
    rules = GrowthRules(voxel_size=0.1, interval=5, success=0.5, gradient=1e-4, levels=1, coarsest=1)
    strategy = AnchorStrategy(rules, start=0, adjust_from=4, until=12, generator=torch.Generator().manual_seed(0))
    strategy.check_sanity(model.anchors, optimizers)
    state = strategy.initialize_state(model.anchors)
    count = model.anchors.rows
    done = [step(strategy, model, optimizers, state, number) for number in range(1, 14)]
    assert [place + 1 for place, one in enumerate(done) if one is not None] == [5, 10]
    assert model.anchors.rows == count + sum(one.added - one.removed for one in done if one is not None) > count
    strategy.check_sanity(model.anchors, optimizers)


def test_statistics_of_one_camera_or_of_all() -> None:
    found = {}
    for every, scaled in ((False, False), (True, False), (True, True)):
        model, _ = trained()
        strategy = AnchorStrategy(RULES, start=0, all_cameras=every, scale_by_cameras=scaled)
        state = strategy.initialize_state(model.anchors)
        step(strategy, model, {}, state, 1)
        found[every, scaled] = state["statistics"]
    last, both, scaled = found.values()
    assert last.visits.unique().tolist() == [1]
    assert both.visits.unique().tolist() == [2]
    torch.testing.assert_close(scaled.gradient, 2 * both.gradient)
    assert (both.gradient >= last.gradient).all()


def test_gradients_on_screen_are_in_ndc_and_of_drawn_gaussians() -> None:
    model, _ = trained()
    strategy = AnchorStrategy(RULES, start=0)
    state = strategy.initialize_state(model.anchors)
    info = rendered(model, 0.5)
    strategy.step_pre_backward(model.anchors, {}, state, 1, info)
    (3 * info["means2d"][..., 0] + 4 * info["means2d"][..., 1]).sum().backward()
    strategy.step_post_backward(model.anchors, {}, state, 1, info)
    slots = info["gaussians"].slots
    drawn = (info["radii"][0] > 0).all(-1)
    wanted = (3 * 16) ** 2 + (4 * 12) ** 2
    assert state["statistics"].gradient[slots[drawn]].square().round().unique().tolist() == [wanted]
    assert not state["statistics"].draws[slots[~drawn]].any()


def test_strategy_names_what_is_wrong() -> None:
    model, optimizers = trained()
    strategy = AnchorStrategy(RULES, start=0)
    with pytest.raises(InputError, match="lacks features, offsets, positions, scaling"):
        strategy.check_sanity({}, {})
    with pytest.raises(InputError, match="'offsets' does not hold the parameter"):
        strategy.check_sanity(model.anchors, {"offsets": optimizers["scaling"]})
    with pytest.raises(InputError, match="call step_pre_backward"):
        strategy.step_post_backward(
            model.anchors, {}, strategy.initialize_state(model.anchors), 1, rendered(model, 0.1)
        )
