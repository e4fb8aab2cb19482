"""The compiled renderer compared with torch: threads, forks, compilation, and repeated calls with other sizes."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from visionzoo.models.modecgs import lookup_kernels
from visionzoo.splatting import cpu, kernels, lanes, render
from visionzoo.splatting.cpu_projection import projection_loops

from .scenes import cameras, gaussians, gradients


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_bit_equal_for_any_number_of_threads() -> None:
    """More Gaussians than are drawn serially, and Gaussians that reach over many bands."""
    scene, view = gaussians(3000, size=0.03), cameras(2, 100, 90)
    scene["scales"][::50] *= 10
    results: list[tuple[Tensor, dict[str, Tensor]]] = []
    for threads in (1, 2, 3, 8, 8):
        torch.set_num_threads(threads)
        drawn, grads = gradients(scene, view)
        assert torch.get_num_threads() == threads
        results.append((drawn.colors, {**grads}))
    first_image, first = results[0]
    for image, grads in results[1:]:
        assert torch.equal(image, first_image)
        for name, gradient in grads.items():
            assert torch.equal(gradient, first[name]), name


def test_gradients_of_cameras_are_bit_equal_for_any_number_of_threads() -> None:
    scene, view, results = gaussians(9000, size=0.01), cameras(2), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        leaves: dict[str, Any] = {name: view[name].clone().requires_grad_() for name in ("viewmats", "Ks")}
        render(**scene, **{**view, **leaves}).colors.square().sum().backward()
        results.append([leaf.grad for leaf in leaves.values()])
    for found in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(found, results[0], strict=True))


@pytest.mark.parametrize("module", [kernels, lookup_kernels], ids=lambda module: module.__name__)
def test_loops_are_compiled_again_when_the_vectors_change(module: Any) -> None:
    """numba's cache only notices that a function's own file has changed, so users of `lanes.py` have its checksum."""
    assert zlib.crc32(Path(lanes.__file__).read_bytes()) == module.LANES_CHECKSUM


def _forked(connection) -> None:
    torch.set_num_threads(1)  # as workers of a DataLoader do; torch's own threads do not survive a fork
    connection.send(render(**gaussians(2500, size=0.03), **cameras()).colors.sum().item())


def test_a_forked_process_can_render() -> None:
    torch.set_num_threads(2)
    wanted = render(**gaussians(2500, size=0.03), **cameras()).colors.sum().item()
    here, there = multiprocessing.get_context("fork").Pipe()
    worker = multiprocessing.get_context("fork").Process(target=_forked, args=(there,))
    worker.start()
    assert here.poll(60)
    assert here.recv() == wanted
    worker.join()


def test_other_sizes_compile_nothing() -> None:
    render(**gaussians(10), **cameras())
    _, bands = cpu.loops()
    loops = (kernels.draw, bands.arrange, projection_loops().project)
    before = [len(f.signatures) for f in loops]
    for count, width, height in ((1, 1, 1), (17, 33, 20), (3000, 64, 50)):
        render(**gaussians(count, size=0.02), **cameras(1, width, height))
    assert [len(f.signatures) for f in loops] == before


def test_inputs_of_any_strides() -> None:
    scene, view = gaussians(60), cameras()
    strided: dict[str, Any] = {name: torch.stack([value, value], -1)[..., 0] for name, value in scene.items()}
    assert not strided["means"].is_contiguous()
    assert torch.equal(render(**strided, **view).colors, render(**scene, **view).colors)


def test_compiles_as_one_graph() -> None:
    scene, view = gaussians(60), cameras()

    def loss(means: Tensor) -> Tensor:
        return render(**{**scene, "means": means}, **view).colors.square().sum()

    means = scene["means"].clone().requires_grad_()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)(means)
    (found,) = torch.autograd.grad(compiled, means)
    (wanted,) = torch.autograd.grad(loss(means), means)
    torch.testing.assert_close(found, wanted)


def test_second_derivatives_are_refused() -> None:
    scene, view = gaussians(20), cameras()
    colours = scene["colors"].requires_grad_()
    (first,) = torch.autograd.grad(render(**scene, **view).colors.square().sum(), colours, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        first.sum().backward()


def test_a_folder_for_the_cache_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    from visionzoo.splatting.compiling import compiled

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @compiled(nogil=True)
    def twice(x: int) -> int:
        return 2 * x

    assert twice(21) == 42


def test_inference_mode() -> None:
    scene, view = gaussians(20), cameras()
    with torch.inference_mode():
        found = render(**scene, **view).colors
    assert torch.equal(found, render(**scene, **view).colors)
