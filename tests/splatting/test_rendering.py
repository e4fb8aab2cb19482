"""Behaviour that users of `render` rely on: shapes, colours, culling, and errors that say what to do."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.splatting import cpu, project, render, rotation_matrices, spherical_harmonics

from .scenes import NAMES, cameras, gaussians, gradients


def test_one_gaussian_by_hand() -> None:
    """In the middle of the image, alpha is the opacity, and one standard deviation away it has fallen by exp(-1/2)."""
    view = cameras(1, 65, 65)
    sigma_px = 8.0
    sigma = sigma_px * 3 / 65
    drawn = render(
        torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), sigma), torch.tensor([0.8]),
        torch.tensor([[1.0, 0.5, 0.0]]), **view, background=torch.tensor([0.0, 0.0, 1.0]), eps2d=0.0,
    )  # fmt: skip
    alpha = drawn.alphas[0, 32, :, 0]
    assert alpha[32].item() == pytest.approx(0.8, rel=1e-5)
    assert alpha[40].item() == pytest.approx(0.8 * math.exp(-0.5), rel=1e-4)
    torch.testing.assert_close(drawn.colors[0, 32, 32], torch.tensor([0.8, 0.4, 0.2]), atol=1e-5, rtol=0)
    assert drawn.depths[0, 32, 32, 0].item() == pytest.approx(0.8 * 3, rel=1e-5)
    assert drawn.expected_depths[0, 32, 32, 0].item() == pytest.approx(3, rel=1e-5)
    torch.testing.assert_close(drawn.means2d[0], torch.tensor([[32.5, 32.5]]))
    assert drawn.visible.all()


def test_the_nearer_one_covers_the_other() -> None:
    scene: dict[str, Any] = {
        "means": torch.tensor([[0, 0, 0.5], [0, 0, -0.5]]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        "scales": torch.full((2, 3), 0.5),
        "opacities": torch.tensor([1.0, 0.9]),
        "colors": torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]),
    }
    middle = render(**scene, **cameras()).colors[0, 16, 16]
    assert middle[1].item() == pytest.approx(0.9, abs=0.01)
    assert middle[0].item() == pytest.approx(0.1, abs=0.01)


def test_batches_and_cameras_equal_single_renders() -> None:
    scenes, view = [gaussians(50, seed) for seed in range(2)], cameras(3, 20, 24)
    batch: dict[str, Any] = {name: torch.stack([scene[name] for scene in scenes]) for name in scenes[0]}
    drawn = render(
        **batch, viewmats=view["viewmats"].repeat(2, 1, 1, 1), Ks=view["Ks"].repeat(2, 1, 1, 1), width=20, height=24
    )
    assert drawn.colors.shape == (2, 3, 24, 20, 3)
    assert drawn.alphas.shape == drawn.depths.shape == (2, 3, 24, 20, 1)
    assert drawn.means2d.shape == drawn.radii.shape == (2, 3, 50, 2)
    assert drawn.visible.shape == (2, 3, 50)
    for b in range(2):
        for c in range(3):
            one = {**view, "viewmats": view["viewmats"][c : c + 1], "Ks": view["Ks"][c : c + 1]}
            assert torch.equal(render(**scenes[b], **one).colors[0], drawn.colors[b, c])


def test_colours_by_camera_and_any_number_of_channels() -> None:
    scene, view = gaussians(50), cameras(2)
    colours = torch.rand(2, 50, 5)
    drawn = render(**{**scene, "colors": colours}, **view).colors
    assert drawn.shape == (2, 32, 32, 5)
    for c in range(2):
        assert torch.equal(drawn[c], render(**{**scene, "colors": colours[c]}, **view).colors[c])


def test_background_by_camera() -> None:
    view = cameras(2, 4, 4)
    background = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    drawn = render(**gaussians(0), **view, background=background).colors
    assert torch.equal(drawn, background[:, None, None].expand(2, 4, 4, 3))


def test_harmonics_are_orthonormal() -> None:
    z, weights = torch.linspace(-1, 1, 401, dtype=torch.float64), torch.full((401,), 2 / 400, dtype=torch.float64)
    weights[[0, -1]] /= 2
    angle = torch.arange(64, dtype=torch.float64) * 2 * math.pi / 64
    ring = (1 - z * z).sqrt()
    directions = torch.stack([ring[:, None] * angle.cos(), ring[:, None] * angle.sin(), z[:, None].expand(-1, 64)], -1)
    values = torch.stack(
        [spherical_harmonics(3, directions, torch.eye(16, dtype=torch.float64)[i, :, None]) for i in range(16)], -1
    ).squeeze(-2)
    products = torch.einsum("zai,zaj,z->ij", values, values, weights) * 2 * math.pi / 64
    torch.testing.assert_close(products, torch.eye(16, dtype=torch.float64), atol=2e-3, rtol=0)


def test_harmonics_have_the_signs_of_splat_files() -> None:
    """Constants of the published format: 0.28209 for all, -0.48860 y, 0.48860 z, -0.48860 x, 1.09255 xy, -1.09255 yz, …"""
    x, y, z = direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    wanted = [0.28209479, -0.48860251 * y, 0.48860251 * z, -0.48860251 * x, 1.09254843 * x * y, -1.09254843 * y * z,
              0.31539157 * (2 * z * z - x * x - y * y), -1.09254843 * x * z, 0.54627422 * (x * x - y * y),
              -0.59004359 * y * (3 * x * x - y * y), 2.89061144 * x * y * z, -0.45704579 * y * (4 * z * z - x * x - y * y),
              0.37317633 * z * (2 * z * z - 3 * x * x - 3 * y * y), -0.45704579 * x * (4 * z * z - x * x - y * y),
              1.44530572 * z * (x * x - y * y), -0.59004359 * x * (x * x - 3 * y * y)]  # fmt: skip
    for i, value in enumerate(wanted):
        found = spherical_harmonics(3, 7 * direction, torch.eye(16)[i, :, None])
        assert found.item() == pytest.approx(float(value), abs=1e-6), i


def test_harmonics_in_a_render() -> None:
    """The direction is from the camera to the Gaussian, 0.5 is added, and negative colours are cut off."""
    scene, view = gaussians(30, size=0.02), cameras(2)
    coefficients = torch.randn(30, 16, 3, generator=torch.Generator().manual_seed(2))
    eyes = -(view["viewmats"][:, :3, :3].mT @ view["viewmats"][:, :3, 3:]).squeeze(-1)
    directions = scene["means"] - eyes[:, None]
    for degree in range(4):
        colours = (spherical_harmonics(degree, directions, coefficients) + 0.5).clamp(min=0)
        wanted = render(**{**scene, "colors": colours}, **view).colors
        found = render(**{**scene, "colors": coefficients}, **view, sh_degree=degree).colors
        torch.testing.assert_close(found, wanted)
    drawn, grads = gradients({**scene, "colors": coefficients}, view, sh_degree=3)
    dense, wanted_grads = gradients({**scene, "colors": coefficients}, view, sh_degree=3, backend="reference")
    torch.testing.assert_close(drawn.colors, dense.colors, atol=1e-5, rtol=0)
    torch.testing.assert_close(grads["colors"], wanted_grads["colors"], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in NAMES for value in (math.nan, math.inf, -math.inf)),
        *((name, 1e30) for name in ("means", "quats", "scales")),
    ],
)
def test_gaussians_that_are_not_finite_are_left_out(name: str, value: float, backend: str) -> None:
    scene, view = gaussians(30), cameras(2)
    spoiled = {key: tensor.clone() for key, tensor in scene.items()}
    spoiled[name][7] = value
    others = torch.arange(30) != 7
    drawn, found = gradients(spoiled, view, backend=backend)
    clean, wanted = gradients({key: tensor[others] for key, tensor in scene.items()}, view, backend=backend)
    assert torch.equal(drawn.colors, clean.colors)
    assert not drawn.visible[:, 7].any()
    for key, gradient in found.items():
        place = (slice(None), others) if key == "means2d" else others
        assert torch.equal(gradient[place], wanted[key]), key
        assert not gradient[:, 7].any() if key == "means2d" else not gradient[7].any(), key


def test_a_gaussian_without_a_rotation_is_not_drawn() -> None:
    scene = gaussians(3)
    scene["quats"][1] = 0
    assert render(**scene, **cameras()).visible.tolist() == [[True, False, True]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_empty_view(backend: str) -> None:
    scene = gaussians(20)
    scene["means"][:, 2] -= 10
    for none in (scene, gaussians(0), {**gaussians(20), "opacities": torch.zeros(20)}):
        drawn, found = gradients(none, cameras(1, 1, 1), backend=backend)
        assert not drawn.colors.any()
        assert not drawn.alphas.any()
        assert not any(gradient.any() for gradient in found.values())


def test_planes_and_small_radii_cull() -> None:
    scene, view = gaussians(40), cameras()
    depths = scene["means"][:, 2] + 3
    seen = render(**scene, **view, near_plane=2.9, far_plane=3.2).visible[0]
    assert torch.equal(seen, (depths > 2.9) & (depths < 3.2))
    large = render(**scene, **view).radii[0].amax(-1) > 6
    assert torch.equal(render(**scene, **view, radius_clip=6).visible[0], large)


def test_long_thin_gaussians_keep_their_digits() -> None:
    """At 45 degrees, 1000 pixels long and less than one wide: the usual inverse of the covariance loses all digits in float32."""
    angle = math.pi / 8
    scene: dict[str, Any] = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[math.cos(angle), 0, 0, math.sin(angle)]]),
        "scales": torch.tensor([[30.0, 1e-4, 1e-4]]),
        "opacities": torch.tensor([0.9]),
        "colors": torch.ones(1, 3),
    }
    view = cameras(1, 100, 100)
    exact: dict[str, Any] = {
        name: value.double() if isinstance(value, Tensor) else value for name, value in (scene | view).items()
    }
    wanted = render(**exact, backend="reference").alphas
    torch.testing.assert_close(render(**scene, **view).alphas.double(), wanted, atol=2e-3, rtol=0)


def test_projection_is_that_of_a_pinhole_camera() -> None:
    scene, view = gaussians(20, size=0.01), cameras(2)
    seen = project(scene["means"], scene["quats"], scene["scales"], **view, eps2d=0.0)
    for c in range(2):
        points = scene["means"] @ view["viewmats"][c, :3, :3].T + view["viewmats"][c, :3, 3]
        pixels = points @ view["Ks"][c].T
        torch.testing.assert_close(seen.means2d[c], pixels[:, :2] / pixels[:, 2:], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(seen.depths[c], points[:, 2])
    axes = rotation_matrices(scene["quats"]) * scene["scales"].unsqueeze(-2)
    assert torch.allclose(rotation_matrices(scene["quats"]).det(), torch.ones(20), atol=1e-5)
    # a small Gaussian's ellipse is the image of its axes
    moved = project(scene["means"] + 1e-3 * axes[..., 0], scene["quats"], scene["scales"], **view).means2d
    a, k, q = seen.ellipses.unbind(-1)
    dx, dy = ((moved - seen.means2d) / 1e-3).unbind(-1)
    assert ((a * (dx - k * dy) ** 2 + q * dy**2) < 1.02).all()


BAD = [
    ({"means": torch.zeros(5, 2)}, "means must be"),
    ({"quats": torch.zeros(5, 3)}, r"quats must be \(5, 4\)"),
    ({"opacities": torch.zeros(5, 1)}, "opacities must be"),
    ({"colors": torch.zeros(4, 3)}, "colors must be"),
    ({"colors": torch.zeros(5, 9, 3), "sh_degree": 3}, "needs 16 coefficients"),
    ({"colors": torch.zeros(5, 25, 3), "sh_degree": 4}, "sh_degree must be 0 to 3"),
    ({"viewmats": torch.eye(4)}, "viewmats must be"),
    ({"viewmats": torch.full((1, 4, 4), math.nan)}, "viewmats must be finite"),
    ({"Ks": torch.ones(1, 3, 3)}, "skew"),
    ({"width": 0}, "width must be"),
    ({"height": 2.5}, "height must be"),
    ({"scales": torch.ones(5, 3, dtype=torch.float64)}, "dtype and device"),
    ({"background": torch.zeros(4)}, "background must be"),
    ({"rules": "nerf"}, "set of rules 'nerf'"),
    ({"backend": "numba"}, "splatting backend 'numba'"),
    ({"backend": "gsplat"}, "needs tensors on CUDA"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_errors_name_the_argument(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(**{**gaussians(5), **cameras(), **change})


def test_double_precision_is_for_the_reference() -> None:
    scene: dict[str, Any] = {
        name: value.double() if isinstance(value, Tensor) else value
        for name, value in (gaussians(5) | cameras()).items()
    }
    with pytest.raises(ValueError, match="backend='reference'"):
        render(**scene)
    assert render(**scene, backend="reference").colors.dtype == torch.float64


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu.loops.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r"visionzoo\[gs\]"):
        render(**gaussians(5), **cameras())
    monkeypatch.undo()
    cpu.loops.cache_clear()
    render(**gaussians(5), **cameras())


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, visionzoo.splatting; assert not {'torch', 'numba', 'gsplat'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_input_errors() -> None:
    with pytest.raises(InputError, match="known"):
        render(**gaussians(1), **cameras(), rules="zzz")
