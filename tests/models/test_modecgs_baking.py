"""A moving scene at one time as static Gaussians: what baking keeps of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.golden import seeded
from tests.models.gaussians import CENTER, image, psnr, some
from tests.models.test_modecgs_fit import TINY
from tests.tiny import modecgs
from visionzoo.errors import InputError
from visionzoo.models.modecgs import Fit, FourDGaussians, FourDGaussiansConfig, MoDecGS, Recipe, batches, draw
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture
from visionzoo.models.modecgs.data import Frames
from visionzoo.models.modecgs.splats import bake
from visionzoo.models.modecgs.splats.moments import fit_harmonics, mean_shape, quaternions
from visionzoo.models.modecgs.splats.views import fibonacci_sphere
from visionzoo.splatting import rotation_matrices
from visionzoo.splatting.harmonics import basis


def test_for_one_camera_it_is_exactly_what_that_camera_sees() -> None:
    model = modecgs()
    for time in (0.0, 0.37, 1.0, None):
        with torch.no_grad():
            own = model(CENTER, time)
        baked = bake(model, time, camera=CENTER)
        drawn = own.opacities > 1 / 255
        torch.testing.assert_close(baked.means, own.means[drawn])
        torch.testing.assert_close(baked.scales, own.scales[drawn].abs())
        torch.testing.assert_close(baked.opacities, own.opacities[drawn])
        torch.testing.assert_close((baked.quats * own.quats[drawn]).sum(-1).abs(), torch.ones(len(baked)))
        assert psnr(image(baked), image(own)) > 70


def test_a_scene_that_looks_the_same_from_everywhere_loses_nothing() -> None:
    """Without the direction among the networks' inputs, one set of Gaussians is right for every camera."""
    model = modecgs_without_views()
    baked = bake(model, 0.6, centers=CENTER + 0.3 * fibonacci_sphere(12))
    for center in (CENTER, CENTER + torch.tensor([0.5, 0.1, 0.2])):
        with torch.no_grad():
            assert psnr(image(baked, center), image(model(center, 0.6), center)) > 60


def test_colours_follow_the_view_only_with_harmonics() -> None:
    model = modecgs_without_views(but_color=True)
    centers = CENTER + torch.tensor([[x, y, 0.0] for x in (-1.5, 0, 1.5) for y in (-1.5, 0, 1.5)])
    scores = []
    for degree in range(4):
        baked = bake(model, 0.25, centers=centers, sh_degree=degree)
        assert baked.colors.shape[1:] == ((degree + 1) ** 2, 3)
        assert baked.sh_degree == degree
        with torch.no_grad():
            scores.append(np.mean([psnr(image(baked, c), image(model(c, 0.25), c)) for c in centers]))
    assert scores == sorted(scores)
    assert scores[3] > scores[0] + 10
    assert scores[3] > 50


def modecgs_without_views(but_color: bool = False) -> MoDecGS:
    """A model whose networks do not read the direction, except that of the colours if so wanted."""
    model = MoDecGS(modecgs().config)
    model.load_state_dict(modecgs().state_dict())
    f = model.config.feature_dim
    with torch.no_grad():
        for name in ("opacity", "covariance", "color"):
            if not (but_color and name == "color"):
                getattr(model.networks, name)[0].weight[:, f : f + 3] = 0
    return model.eval()


def test_gaussians_are_those_of_a_file() -> None:
    baked = bake(modecgs(), 0.5)
    assert 0 < len(baked) <= modecgs().anchors.rows * modecgs().config.num_offsets
    assert all(value.isfinite().all() for value in baked.tensors)
    torch.testing.assert_close(baked.quats.norm(dim=-1), torch.ones(len(baked)))
    assert (baked.scales > 0).all()
    assert (baked.opacities > 1 / 255).all()
    assert (baked.opacities <= 1).all()


def test_chunks_of_anchors_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    whole = bake(modecgs(), 0.5)
    monkeypatch.setattr("visionzoo.models.modecgs.splats.baking.CHUNK", 100)
    parts = bake(modecgs(), 0.5, progress=lambda *done: seen.append(done))
    for one, other in zip(whole.tensors, parts.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    slots = modecgs().anchors.rows * modecgs().config.num_offsets
    assert seen[0] == ("bake", 100, slots)
    assert seen[-1] == ("bake", slots, slots)


def test_a_camera_inside_an_anchor_spoils_nothing() -> None:
    model = modecgs()
    inside = model.anchors["positions"][7]
    baked = bake(model, None, centers=torch.stack([CENTER, inside]))
    assert all(value.isfinite().all() for value in baked.tensors)


def test_harmonics_of_4dgaussians_are_kept_or_cut() -> None:
    model = FourDGaussians(FourDGaussiansConfig(resolution=(6, 6, 6, 5), levels=(1,), channels=4, width=8, sh_degree=2))
    points = seeded.tensor("points", (80, 3)).numpy()
    model.initialize(points, np.abs(points) % 1)
    own = model.eval()(None, 0.5)
    assert torch.equal(bake(model, 0.5).colors, own.colors)
    assert torch.equal(bake(model, 0.5, sh_degree=1).colors, own.colors[:, :4])
    assert torch.equal(bake(model, None).means, model.table["means"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"time": 1.5}, r"the time must be in \[0, 1\], got 1.5"),
        ({"time": float("nan")}, r"the time must be in \[0, 1\], got nan"),
        ({"time": 0.5, "sh_degree": 4}, "the degree of harmonics must be between 0 and 3, got 4"),
    ],
)
def test_what_cannot_be_baked(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        bake(modecgs(), **arguments)


def test_an_invisible_scene_is_an_error() -> None:
    model = modecgs_without_views()
    with torch.no_grad():
        model.networks.opacity[2].weight.zero_()
        model.networks.opacity[2].bias.fill_(-1)
    with pytest.raises(InputError, match="no visible Gaussians at this time"):
        bake(model, 0.5)


def test_harmonics_of_a_colour_that_is_one_are_found() -> None:
    directions = fibonacci_sphere(64)[:, None].expand(-1, 5, -1)
    wanted = 0.1 * seeded.tensor("harmonics", (5, 16, 3))
    colors = 0.5 + torch.einsum("vnk,nkc->vnc", basis(3, directions), wanted)
    found = fit_harmonics(directions, colors, torch.ones(64, 5), 3)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-3)
    few = fit_harmonics(
        directions[:3], colors[:3], torch.ones(3, 5), 3
    )  # underdetermined: fits what was seen, stays small
    torch.testing.assert_close(
        0.5 + torch.einsum("vnk,nkc->vnc", basis(3, directions[:3]), few), colors[:3], atol=2e-3, rtol=0
    )
    assert few.abs().max() < 1.5


def test_the_mean_of_one_shape_is_that_shape() -> None:
    gaussians = some(40)
    quats, scales = mean_shape(
        torch.stack([gaussians.quats, -3 * gaussians.quats, torch.full_like(gaussians.quats, torch.nan)]),
        torch.stack([gaussians.scales, -gaussians.scales, gaussians.scales]),
        torch.tensor([1.0, 2.0, 0.0])[:, None].expand(-1, 40),
    )
    torch.testing.assert_close(
        covariances(quats, scales), covariances(gaussians.quats, gaussians.scales), atol=1e-6, rtol=1e-4
    )


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    axes = rotation_matrices(quats) * scales[:, None]
    return axes @ axes.mT


def test_quaternions_of_every_half_turn() -> None:
    wanted = F.normalize(
        torch.cat([torch.eye(4), some(50).quats, torch.tensor([[1e-4, 0, 0, 1], [0, 1, 1, 0.0]])]), dim=-1
    )
    found = quaternions(rotation_matrices(wanted))
    torch.testing.assert_close((found * wanted).sum(-1).abs(), torch.ones(len(wanted)))


@pytest.mark.slow
def test_a_trained_scene_keeps_its_quality_from_new_views(tmp_path: Path) -> None:
    """Of a monocular capture, each time was seen by one camera only: means over views lose detail there, not elsewhere."""
    capture = read_capture(synthetic_capture(tmp_path, SyntheticConfig(frames=6)))
    parts = {name: Frames(views) for name, views in (("train", capture.train), ("test", capture.test))}
    frames = {name: [part.frame(i) for i in range(len(part))] for name, part in parts.items()}
    torch.manual_seed(0)
    model = MoDecGS(TINY)
    model.initialize(capture.points.positions.astype(np.float32))
    recipe = Recipe(
        coarse_steps=40, fine_steps=60, batch_size=2, grow_until=0, decay_steps=60, field_rate=4, start_still=True
    )
    fit = Fit(model, recipe, capture.extent)
    for numbers in batches(len(frames["train"]), recipe):
        fit.step([frames["train"][i] for i in numbers])
    model.eval()
    centers = torch.stack([frame.center for frame in frames["train"]])
    scores: dict[str, list[float]] = {}
    for name, part in frames.items():
        for frame in part[::3]:
            with torch.no_grad():
                own = model(frame.center, frame.time)
            for kind, gaussians in (("own", own), ("baked", bake(model, frame.time, centers=centers))):
                drawn = draw(gaussians, frame.viewmat, frame.K, 64, 64).colors[0].permute(2, 0, 1).clamp(0, 1)
                scores.setdefault(f"{name} {kind}", []).append(psnr(drawn, frame.image))
    found = {name: float(np.mean(values)) for name, values in scores.items()}
    assert found["test baked"] > found["test own"] - 0.5, found
    assert found["train baked"] > found["train own"] - 4, found
