"""The compiled projection equals the one in torch in double precision: results, and gradients of Gaussians and cameras."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from visionzoo.splatting import cpu_projection, project, projection, render
from visionzoo.splatting.rules import RULES

from .scenes import cameras, gaussians, relative

OUTPUTS = ("means2d", "depths", "ellipses", "compensations")


def _projected(module: Any, inputs: dict[str, Tensor], rules: str) -> tuple[Any, dict[str, Tensor]]:
    """A projection, and the gradients of one number that depends on all of its differentiable tensors."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    opacities = leaves.pop("opacities").detach()
    seen = module.project_usable(
        torch.ones(opacities.shape, dtype=torch.bool), **leaves, opacities=opacities,
        settings=projection.ProjectionSettings(60, 40, RULES[rules], None, 1e10, 0.0, 0.3, antialiased=True),
    )  # fmt: skip
    drawn = (seen.radii > 0).all(-1)
    loss = torch.zeros((), dtype=opacities.dtype)
    for number, name in enumerate(OUTPUTS):
        value = getattr(seen, name)
        weights = torch.linspace(0, 9 + number, value.numel(), dtype=value.dtype).cos().view_as(value)
        loss = loss + (value * weights * drawn.view(*drawn.shape, *(1,) * (value.dim() - drawn.dim()))).sum()
    loss.backward()
    return seen, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize("rules", ["gsplat", "inria"])
def test_results_and_gradients(rules: str) -> None:
    """Two scenes seen by two cameras; many Gaussians are outside the image, where slopes are limited."""
    scenes, view = [gaussians(200, seed, size=0.2) for seed in (0, 1)], cameras(2, 60, 40)
    inputs: dict[str, Tensor] = {name: torch.stack([scene[name] for scene in scenes]) for name in scenes[0]}
    inputs["means"] = inputs["means"] * 2
    inputs = {name: inputs[name] for name in ("means", "quats", "scales", "opacities")}
    inputs |= {name: view[name].repeat(2, 1, 1, 1) for name in ("viewmats", "Ks")}
    seen, found = _projected(cpu_projection, inputs, rules)
    exact, wanted = _projected(projection, {name: value.double() for name, value in inputs.items()}, rules)
    assert torch.equal(seen.radii, exact.radii)
    assert torch.equal(seen.rectangles, exact.rectangles)
    drawn = (seen.radii > 0).all(-1)
    assert 0.2 < drawn.float().mean() < 0.9
    for name in OUTPUTS:
        assert relative(getattr(seen, name)[drawn], getattr(exact, name)[drawn]) < 1e-6, name
    assert set(found) == {"means", "quats", "scales", "viewmats", "Ks"}
    for name, gradient in found.items():
        assert relative(gradient, wanted[name]) < 1e-5, name


def test_project_can_be_differentiated_twice() -> None:
    """Only where a gradient is needed does it leave the compiled loops, whose results are the same."""
    scene, view = gaussians(5), cameras()
    means = scene["means"].requires_grad_()
    inputs = (scene["quats"], scene["scales"])
    drawn = project(means, *inputs, **view)
    (first,) = torch.autograd.grad(drawn.means2d.square().sum(), means, create_graph=True)
    first.square().sum().backward()
    assert means.grad is not None
    assert means.grad.isfinite().all()
    torch.testing.assert_close(project(means.detach(), *inputs, **view).means2d, drawn.means2d.detach())


def test_forward_mode_derivatives_are_not_lost() -> None:
    scene, view = gaussians(5), cameras()
    inputs, step = (scene["quats"], scene["scales"]), torch.ones_like(scene["means"])

    def centres(means: Tensor) -> Tensor:
        return project(means, *inputs, **view).means2d

    _, found = torch.func.jvp(centres, (scene["means"],), (step,))
    difference = (centres(scene["means"] + 1e-2 * step) - centres(scene["means"] - 1e-2 * step)) / 2e-2
    torch.testing.assert_close(found, difference, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="no forward-mode derivatives; use backend='reference'"):
        torch.func.jvp(lambda means: render(**{**scene, "means": means}, **view).colors, (scene["means"],), (step,))
