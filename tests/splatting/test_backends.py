"""The compiled renderer equals the dense reference, including gradients, for any scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.golden import seeded
from tests.golden.case import HERE, Case
from tests.golden.modecgs import raster
from visionzoo.splatting import render

from .scenes import NAMES, cameras, gaussians, gradients, relative


@pytest.mark.parametrize("path", sorted((HERE / "modecgs").glob("raster_*.json")), ids=lambda path: path.stem)
def test_the_reference_meets_the_golden_cases(path: Path) -> None:
    case = Case.read(path)
    found = raster.compute(case, "reference")
    assert found.keys() == case.outputs.keys()
    for name, wanted in case.outputs.items():
        assert seeded.compare(found[name], wanted) < 1e-5, name


@pytest.mark.parametrize("rules", ["gsplat", "inria"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_equal_those_of_the_reference(rules: str, antialiased: bool) -> None:
    scene, view = gaussians(300, size=0.05), cameras(2, 45, 37)
    options = {"rules": rules, "antialiased": antialiased, "background": torch.tensor([0.2, 0.5, 0.9])}
    drawn, found = gradients(scene, view, **options)
    dense, wanted = gradients(scene, view, backend="reference", **options)
    torch.testing.assert_close(drawn.colors, dense.colors, atol=2e-5, rtol=0)
    torch.testing.assert_close(drawn.alphas, dense.alphas, atol=2e-5, rtol=0)
    torch.testing.assert_close(drawn.depths, dense.depths, atol=1e-4, rtol=0)
    assert torch.equal(drawn.radii, dense.radii)
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 2e-5, name


def test_absolute_gradients() -> None:
    """Pixels on both sides of a centre pull in opposite directions; their absolute values add up."""
    scene, view = gaussians(200, size=0.05), cameras(2, 45, 37)
    found = []
    for backend in ("cpu", "reference"):
        drawn, grads = gradients(scene, view, absgrad=True, backend=backend)
        found.append(drawn.means2d.absgrad)  # pyright: ignore[reportAttributeAccessIssue]
        assert (found[-1] >= grads["means2d"].abs() - 1e-4).all()
    assert relative(*found) < 2e-5
    assert not hasattr(gradients(scene, view)[0].means2d, "absgrad")


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict, dict]:
    """Scenes with Gaussians behind the camera, outside the image, of any size and opacity."""
    count, seed = draw(st.integers(0, 40)), draw(st.integers(0, 10_000))
    scene = gaussians(count, seed, size=10 ** draw(st.floats(-4, 1)), channels=draw(st.sampled_from([3, 5])))
    scene["means"] = scene["means"] * draw(st.sampled_from([1.0, 1.0, 4.0]))
    scene["opacities"] = scene["opacities"] * draw(st.sampled_from([1.0, 1.0, 0.05]))
    if count:
        opaque = draw(st.lists(st.integers(0, count - 1), max_size=4))
        scene["opacities"][opaque] = 1.0
        scene["opacities"][draw(st.lists(st.integers(0, count - 1), max_size=4))] = 0.0
        thin = draw(st.lists(st.integers(0, count - 1), max_size=4))
        scene["scales"][thin, 0] = 0.0
    view = cameras(draw(st.integers(1, 2)), draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    return scene, view, {"rules": draw(st.sampled_from(["gsplat", "inria"])), "antialiased": draw(st.booleans())}


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_any_scene(case: tuple[dict[str, Tensor], dict, dict]) -> None:
    scene, view, options = case
    drawn, found = gradients(scene, view, **options)
    dense, wanted = gradients(scene, view, backend="reference", **options)
    for name in ("colors", "alphas", "depths"):
        different = (getattr(drawn, name) - getattr(dense, name)).abs()
        assert different.isfinite().all()
        # an alpha of exactly 1/255 may be drawn by only one of them
        assert (different > 1e-4).sum() <= 2 * different.shape[-1], name
        assert different.max() < 0.03 if different.numel() else True, name
    for name, gradient in wanted.items():
        assert found[name].isfinite().all(), name
        assert relative(found[name], gradient) < 2e-3 or (found[name] - gradient).abs().max() < 1e-4, name


def test_gradcheck_of_the_reference() -> None:
    scene, view = gaussians(4, seed=3, size=0.3), cameras(1, 6, 5)
    scene["opacities"] = scene["opacities"].clamp(0.3, 0.7)
    inputs = [value.double().requires_grad_() for value in (*scene.values(), view["viewmats"])]
    background = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64, requires_grad=True)

    def values(*tensors: Tensor) -> tuple[Tensor, ...]:
        *parts, viewmats, behind = tensors
        changed: dict[str, Any] = dict(zip(NAMES, parts, strict=True)) | {
            "viewmats": viewmats,
            "Ks": view["Ks"].double(),
        }
        drawn = render(**{**view, **changed}, background=behind, antialiased=True, backend="reference")
        return drawn.colors, drawn.alphas, drawn.depths

    assert torch.autograd.gradcheck(values, (*inputs, background), eps=1e-7, atol=1e-5, rtol=1e-4)


def test_gradients_with_respect_to_cameras_and_background() -> None:
    scene, view = gaussians(200, size=0.05), cameras(2)
    results = []
    for backend in ("cpu", "reference"):
        leaves = [
            view["viewmats"].clone(),
            view["Ks"].clone(),
            torch.rand(3, generator=torch.Generator().manual_seed(1)),
        ]
        poses, intrinsics, background = (leaf.requires_grad_() for leaf in leaves)
        moved = {**view, "viewmats": poses, "Ks": intrinsics}
        drawn = render(**scene, **moved, background=background, backend=backend)
        drawn.colors.square().sum().backward()
        results.append((poses.grad, intrinsics.grad, background.grad))
    for found, wanted in zip(*results, strict=True):
        assert found is not None
        assert wanted is not None
        assert relative(found, wanted) < 2e-5


@pytest.mark.parametrize("output", ["colors", "alphas", "depths"])
def test_a_loss_of_one_output_alone(output: str) -> None:
    scene, view = gaussians(100), cameras()
    grads = []
    for backend in ("cpu", "reference"):
        leaves: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in scene.items()}
        # the gradient of a sum has a stride of 0
        getattr(render(**leaves, **view, backend=backend), output).sum().backward()
        grads.append([leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves.values()])
    for name, found, wanted in zip(NAMES, *grads, strict=True):
        assert relative(found, wanted) < 5e-5, name


def test_many_opaque_layers_end_early_without_a_difference() -> None:
    """Pixels close at different depths; one renderer skips Gaussians behind them by tiles, the other by pixels."""
    scene, view = gaussians(600, size=0.3), cameras(1, 50, 40)
    scene["opacities"][:] = 0.95
    drawn, found = gradients(scene, view)
    dense, wanted = gradients(scene, view, backend="reference")
    torch.testing.assert_close(drawn.colors, dense.colors, atol=1e-4, rtol=0)
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 1e-3, name
