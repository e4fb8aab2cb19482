"""The CUDA renderer is gsplat: compared with the reference on a GPU; without one, calls are checked against its signature."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from visionzoo.splatting import cuda, render

from .scenes import cameras, gaussians, gradients, relative


def test_gsplat_is_called_as_its_signature_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat = pytest.importorskip("gsplat")
    signature = inspect.signature(gsplat.rasterization)
    seen: dict[str, Any] = {}

    def rasterization(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        seen.update(signature.bind(*args, **kwargs).arguments)
        image = torch.arange(4.0).expand(1, 2, 3, 4)
        return image, torch.ones(1, 2, 3, 1), {"means2d": torch.zeros(1, 5, 2), "radii": torch.ones(1, 5, 2)}

    monkeypatch.setattr(
        "visionzoo.splatting.cuda.require", lambda *_, **__: SimpleNamespace(rasterization=rasterization)
    )
    drawn = cuda.render(
        *gaussians(5).values(), **cameras(1, 3, 2), background=torch.zeros(1, 3), near_plane=0.2, far_plane=9.0,
        radius_clip=0.5, eps2d=0.1, sh_degree=None, antialiased=True, absgrad=True,
    )  # fmt: skip
    assert drawn.colors[0, 0, 0].tolist() == [0, 1, 2]
    assert drawn.depths[0, 0, 0].tolist() == [3]
    assert seen["render_mode"] == "RGB+D"
    assert seen["absgrad"] is True
    assert seen["rasterize_mode"] == "antialiased"
    assert (seen["near_plane"], seen["far_plane"], seen["radius_clip"], seen["eps2d"]) == (0.2, 9.0, 0.5, 0.1)
    assert (seen["width"], seen["height"], seen["packed"]) == (3, 2, False)


@pytest.mark.parametrize("absgrad", [False, True])
def test_densification_of_gsplat_runs_on_a_cpu(absgrad: bool) -> None:
    strategies = pytest.importorskip("gsplat.strategy")
    scene, view = gaussians(50, size=0.1), cameras(2)
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in scene.items()})
    with torch.no_grad():
        params["scales"].log_()
        params["opacities"].logit_()
    optimizers = {name: torch.optim.Adam([value], lr=1e-3) for name, value in params.items()}
    strategy = strategies.DefaultStrategy(
        refine_start_iter=1, refine_every=2, grow_grad2d=1e-6, verbose=False, absgrad=absgrad
    )
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in range(6):
        drawn = render(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            params["colors"],
            **view,
            absgrad=absgrad,
        )
        info = drawn.info
        strategy.step_pre_backward(params, optimizers, state, step, info)
        drawn.colors.square().mean().backward()
        strategy.step_post_backward(params, optimizers, state, step, info)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    assert len(params["means"]) > 50


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_reference() -> None:
    scene, view = gaussians(300, size=0.05), cameras(2, 45, 37)
    moved = {name: value.cuda() for name, value in scene.items()}
    there: dict[str, Any] = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in view.items()
    }
    drawn, found = gradients(moved, there)
    dense, wanted = gradients(moved, there, backend="reference")
    torch.testing.assert_close(drawn.colors, dense.colors, atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn.depths, dense.depths, atol=1e-3, rtol=0)
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 1e-3, name
