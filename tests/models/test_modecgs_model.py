"""MoDec-GS as a whole: what is kept per segment, when it is forgotten, segments, settings, and wrong values."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import visionzoo as vz
from tests.golden import seeded
from tests.golden.case import HERE
from tests.models.test_modecgs_fields import Calls
from tests.tiny import MODECGS, modecgs
from visionzoo.errors import InputError
from visionzoo.models.modecgs import (
    FourDGaussians,
    FourDGaussiansConfig,
    Intervals,
    IntervalStatistics,
    MoDecGS,
    MoDecGSConfig,
    parameter_groups,
    scaffold_config,
)
from visionzoo.models.modecgs.anchors import camera_extent, initial_anchors, voxel_size_of, voxelized
from visionzoo.models.modecgs.schedules import RATES

CENTER = torch.tensor([0.3, 0.2, -2.0])


def count_deformations(model: MoDecGS) -> list[float]:
    """Times at which the global field is asked, as they come."""
    seen: list[float] = []
    deformation = model.global_deformation
    assert deformation is not None
    deformation.register_forward_pre_hook(lambda _module, given: seen.append(given[2]))
    return seen


def test_inference_deforms_anchors_once_per_segment() -> None:
    model = copy.deepcopy(modecgs())
    seen = count_deformations(model)
    with torch.no_grad():
        frames = [model(CENTER, time / 20).means for time in range(21)]
        again = [model(CENTER, time / 20).means for time in range(21)]
    assert len(seen) == len(set(seen)) <= 2 * model.config.num_segments
    model.train()
    with torch.no_grad():
        plain = [model(CENTER, time / 20).means for time in range(21)]
    assert len(seen) > 21
    for one, other, third in zip(frames, again, plain, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


@pytest.mark.parametrize("what", ["optimizer", "loading", "growing", "plane", "borders"])
def test_kept_anchors_are_forgotten_when_a_weight_changes(what: str) -> None:
    model = copy.deepcopy(modecgs())
    with torch.no_grad():
        before = model(CENTER, 0.3).means
        assert torch.equal(model(CENTER, 0.3).means, before)
    if what == "optimizer":
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        model(CENTER, 0.3).means.square().sum().backward()
        optimizer.step()
    elif what == "loading":
        model.load_state_dict({key: value * 1.1 for key, value in model.state_dict().items()})
    elif what == "growing":
        model.anchors["positions"] = nn.Parameter(model.anchors["positions"] + 0.1, requires_grad=False)
    elif what == "plane":
        with torch.no_grad():
            model.global_deformation.field.planes.planes[0][0].add_(0.1)  # pyright: ignore[reportOptionalMemberAccess]
    else:
        model.intervals.set_borders(np.array([0.0, 0.31, 0.5, 0.75]))
    with torch.no_grad():
        after = model(CENTER, 0.3).means
        model.clear_cache()
        assert torch.equal(model(CENTER, 0.3).means, after)
    assert after.shape != before.shape or not torch.equal(after, before)


def test_kept_anchors_are_forgotten_after_a_fused_optimizer() -> None:
    """torch does not count what it writes (findings/torch_fused_optimizers_hide_writes.sh)."""
    model = copy.deepcopy(modecgs())
    with torch.no_grad():
        before = model(CENTER, 0.3).means
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    model.train()
    model(CENTER, 0.3).means.square().sum().backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        after = model(CENTER, 0.3).means
        model.clear_cache()
        assert torch.equal(model(CENTER, 0.3).means, after)
    assert after.shape != before.shape or not torch.equal(after, before)


def test_kept_anchors_follow_the_model_to_another_precision() -> None:
    model = copy.deepcopy(modecgs())
    with torch.no_grad():
        before = model(CENTER, 0.3).means
        after = model.double()(CENTER.double(), 0.3).means
    assert after.dtype == torch.float64
    torch.testing.assert_close(after.float(), before)


def test_training_reaches_every_parameter() -> None:
    model = copy.deepcopy(modecgs()).train()
    gaussians = model(CENTER, 0.3)
    loss = sum(getattr(gaussians, name).square().sum() for name in ("means", "scales", "opacities", "colors"))
    (loss + (gaussians.quats * torch.tensor([1.0, 2, 3, 4])).sum()).backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not missing
    assert not model.anchors["positions"].requires_grad


def test_learning_rates_cover_every_parameter_once() -> None:
    model = MoDecGS(MoDecGSConfig(**MODECGS, feature_bank=True))
    groups = parameter_groups(model)
    held = [id(value) for values in groups.values() for value in values]
    assert sorted(held) == sorted(id(value) for value in model.parameters() if value.requires_grad)
    assert groups.keys() == RATES.keys()
    names = {id(value): name for name, value in model.named_parameters()}
    assert {names[id(value)].split(".heads.")[1].split(".")[0] for value in groups["planes"] if ".heads." in names[id(value)]} == {
        "offsets", "scaling"
    }  # fmt: skip
    assert RATES["deformation"].at(20000, extent=2.0) == pytest.approx(0.00032)
    assert RATES["planes"].at(30000, extent=3.0) == pytest.approx(0.00048)


def test_rates_are_the_published_ones() -> None:
    case = json.loads((HERE / "modecgs" / "lr_schedule.json").read_text(encoding="utf-8"))
    wanted = {name.split(" ")[0]: tuple(numbers) for name, numbers in case["config"]["init,final,max_steps"].items()}
    groups = {
        "offset": "offsets", "mlp_opacity": "opacity", "mlp_cov": "covariance", "mlp_color": "color",
        "mlp_featurebank": "bank", "embedding_appearance": "appearance", "grid": "planes",
    }  # fmt: skip
    for theirs, ours in groups.items():
        assert (RATES[ours].initial, RATES[ours].final, RATES[ours].steps) == wanted[theirs]
    constant = {"features": 0.0075, "scaling": 0.007, "dynamics": 0.002, "deformation": 0.00016}
    assert {name: (RATES[name].at(0), RATES[name].at(30000)) for name in constant} == {
        name: (pytest.approx(rate), pytest.approx(rate)) for name, rate in constant.items()
    }
    assert {name for name, rate in RATES.items() if rate.spatial} == {"offsets", "planes", "deformation"}


# Segments


def test_released_lookup_can_leave_the_list() -> None:
    intervals = Intervals(4)
    assert [intervals.canonical_time(t) for t in (0, 0.1, 0.13, 0.24, 0.26, 1.0)] == [0, 0, 0, 0, 0.25, 0.75]
    intervals.set_borders(np.array([0.1, 0.26, 0.5, 0.75]))
    assert intervals.canonical_time(0.02) == pytest.approx(-0.15)
    assert intervals.canonical_time(0.2) == pytest.approx(0.01)
    paper = Intervals(4, "paper")
    paper.set_borders(np.array([0.0, 0.26, 0.5, 0.75]))
    assert [paper.canonical_time(t) for t in (-1, 0.02, 0.25, 0.27, 2.0)] == pytest.approx([0, 0, 0, 0.26, 0.75])


def test_lookups_ask_the_device_once_per_adjustment() -> None:
    intervals = Intervals(8)
    intervals.canonical_time(0.4)
    with Calls() as calls:
        for frame in range(100):
            intervals.canonical_time(frame / 100)
    assert not calls.counts


def test_paper_intervals_stay_sorted_and_shrink_strained_segments() -> None:
    intervals = Intervals(8, "paper")
    statistics = IntervalStatistics(intervals, step=0.05)
    for _ in range(5):
        for frame in range(64):
            statistics.add(intervals, frame / 64, 5.0 if 0.4 < frame / 64 < 0.45 else 0.1)
        statistics.adjust(intervals)
        borders = intervals.host()
        assert borders[0] == 0
        assert (np.diff(borders) > 0).all()
        assert borders[-1] < 1
    borders = intervals.host()
    place = int(np.searchsorted(borders, 0.42, side="right")) - 1
    assert borders[place + 1] - borders[place] < 1 / 8


def test_first_segment_counts_in_the_paper_form_only() -> None:
    for kind, wanted in (("released", 0.0), ("paper", 2.0)):
        intervals = Intervals(8, kind)
        statistics = IntervalStatistics(intervals)
        statistics.add(intervals, 0.01, 2.0)
        assert float(statistics.gradients.sum()) == wanted


@pytest.mark.parametrize("segments", [1, 2, 3, 5])
def test_few_segments_never_move(segments: int) -> None:
    intervals = Intervals(segments)
    statistics = IntervalStatistics(intervals, step=0.3)
    for frame in range(64):
        statistics.add(intervals, frame / 64, 100.0 if frame > 40 else 0.0)
    assert not statistics.adjust(intervals)


# Settings, initialisation


def test_scaffold_gs_is_a_setting() -> None:
    model = MoDecGS(scaffold_config(voxel_size=0.1, num_offsets=3, feature_dim=8))
    model.initialize(seeded.tensor("points", (200, 3)).numpy())
    gaussians = model.eval()(CENTER, 0.7)
    assert torch.equal(gaussians.means, model(CENTER, None).means)
    assert not [name for name, _ in model.named_parameters() if "deformation" in name]
    assert "dynamics" not in model.anchors


def test_fourdgaussians_move_with_time() -> None:
    torch.manual_seed(0)
    model = FourDGaussians(FourDGaussiansConfig(resolution=(6, 6, 6, 5), levels=(1,), channels=4, width=8, sh_degree=1))
    colors = seeded.tensor("colors", (50, 3))
    model.initialize(seeded.tensor("points", (50, 3)).numpy(), colors.numpy())
    rest, moved = model(None, None), model(None, 0.5)
    torch.testing.assert_close(0.5 + 0.28209479 * rest.colors[:, 0], colors)
    assert rest.colors.shape == (50, 4, 3)
    assert rest.sh_degree == 1
    torch.testing.assert_close(rest.opacities, torch.full((50,), 0.1))
    assert not torch.allclose(rest.means, moved.means)
    each = model.deformed(torch.full((50,), 0.5))
    torch.testing.assert_close(each["means"], moved.means)


def test_halves_are_rounded_to_even_and_rows_are_sorted() -> None:
    points = np.array([[0.5, 0, 0], [1.5, 0, 0], [2.5, 0, 0], [-0.5, 0, 1.0], [0.4, -3, 0]])
    assert voxelized(points, 1.0).tolist() == [[0, -3, 0], [0, 0, 0], [0, 0, 1], [2, 0, 0]]


def test_voxel_size_from_points() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3)
    assert voxel_size_of(0.2 * grid) == pytest.approx(0.04)
    model = MoDecGS(MoDecGSConfig(**{**MODECGS, "voxel_size": 0}))
    model.initialize(0.2 * grid)
    assert model.config.voxel_size == pytest.approx(0.04)
    assert model.anchors.rows == 125
    assert model.local_deformation.field.planes.box.tolist() == [[pytest.approx(0.8)] * 3, [0.0] * 3]  # pyright: ignore


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (np.zeros((10, 2)), "must be numbers"),
        (np.zeros((2, 3)), "must be at least 4 points to start from, got 2"),
        (np.full((10, 3), 3.0), "in one place"),
        (
            np.where(np.arange(30).reshape(10, 3) == 4, np.inf, np.arange(30).reshape(10, 3)),
            "1 of 10 points are not finite",
        ),
        (np.random.default_rng(0).random((50, 3)) * 1e-3, "leaves 1 anchors"),
    ],
)
def test_points_that_cannot_start_a_scene(points: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        initial_anchors(points, 0.1)


def test_camera_extent() -> None:
    assert camera_extent(np.array([[0, 0, 0], [2, 0, 0.0]])) == pytest.approx(1.1)
    with pytest.raises(InputError, match="camera centres"):
        camera_extent(np.array([[np.nan, 0, 0]]))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"position_gate": "both"}, "position_gate must be one of mask, mul"),
        ({"global_resolution": (8, 8, 8)}, "four integers"),
        ({"local_levels": ()}, "local_levels must be one to 16 integers"),
        ({"voxel_size": -1.0}, "voxel_size must be a finite number"),
        ({"feature_bank": True, "feature_dim": 6}, "multiple of 4"),
        ({"segments": 3}, "no field 'segments'"),
    ],
)
def test_wrong_settings_are_named(overrides: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        vz.create_model("modecgs", **overrides)


def test_wrong_calls_are_named() -> None:
    model = modecgs()
    with pytest.raises(InputError, match="time must be .*got nan"):
        model(CENTER, float("nan"))
    with pytest.raises(InputError, match=r"visible must have shape .*got \(3,\)"):
        model(CENTER, 0.5, visible=torch.ones(3, dtype=torch.bool))


def test_create_model_by_name() -> None:
    model: Any = vz.create_model("modecgs", num_anchors=3)
    assert isinstance(model, MoDecGS)
    assert model.config.num_segments == 8
    assert model.anchors.rows == 3
    assert "modecgs" in vz.list_models(task="reconstruct")
