"""Fréchet distances have their known values, and extractors open only what they should."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchvision.models import inception_v3, resnet18

from tests.golden import seeded
from visionzoo.errors import InputError, WeightsError
from visionzoo.metrics import (
    RandomFeatures,
    TorchScriptFeatures,
    clip_features,
    fid,
    frechet_distance,
    fvd,
    image_features,
    inception_features,
    resnet18_features,
)


def normal(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def test_the_recorded_distance():
    """Recorded with another implementation, by eigenvalues, and checked there with SciPy's square root."""
    real = seeded.tensor("features_real", (40, 12), seed=0, kind="normal")
    fake = 1.3 * seeded.tensor("features_fake", (32, 12), seed=0, kind="normal") + 0.4
    assert frechet_distance(real, fake) == pytest.approx(7.14633101515534, rel=1e-6)


def test_equals_the_formula_with_a_matrix_root():
    first, second = normal(50, 6), normal(70, 6, seed=1) @ normal(6, 6, seed=2) + 0.3
    covariances = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@given(st.integers(2, 30), st.integers(1, 12), st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_scaled_and_shifted_features(count, width, scale, shift, seed):
    """Also where the covariance is singular: tr(S)(1 - s)^2 + |(1 - s) m - c|^2 for s x + c."""
    features = normal(count, width, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there, back = (
            frechet_distance(*pair)
            for pair in ((features, scale * features + shift), (scale * features + shift, features))
        )
        same = frechet_distance(features, features)
    mean, trace = features.mean(0), features.var(0, ddof=1).sum()
    expected = trace * (1 - scale) ** 2 + np.square((1 - scale) * mean - shift).sum()
    assert there == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert back == pytest.approx(there, rel=1e-9, abs=1e-9)
    assert same == pytest.approx(0, abs=1e-9)


def test_few_samples_come_with_a_warning():
    with pytest.warns(UserWarning, match="8 samples of 8 features"):
        frechet_distance(normal(8, 8), normal(20, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(normal(9, 8), normal(20, 8))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (normal(1, 3), normal(5, 3), r"features1 has shape \(1, 3\)"),
        (normal(5, 3), normal(5, 3)[0], r"features2 has shape \(3,\)"),
        (normal(5, 3), normal(5, 4), "use one extractor for both"),
        (normal(5, 3), np.full((5, 3), np.nan), "features2 contains values that are not finite"),
    ],
)
def test_wrong_features(first, second, message):
    with pytest.raises(InputError, match=message):
        frechet_distance(first, second)


def videos(count: int, speed: float, seed: int, frames: int = 12) -> list[np.ndarray]:
    """Waves of random phase and hue that move to the right."""
    random = np.random.default_rng(seed)
    x, t = np.arange(16), np.arange(frames)[:, None, None]
    return [
        np.repeat((0.5 + 0.4 * np.sin((x - speed * t) / 2 + random.uniform(0, 7)))[..., None], 3, axis=3)
        * random.uniform(0.5, 1, 3) * np.ones((1, 16, 1, 1))
        for _ in range(count)
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*samples of 64 features")
def test_random_features_tell_distributions_apart():
    real, alike, faster = videos(20, 1, 0), videos(20, 1, 1), videos(20, 4, 2)
    extractor = RandomFeatures(3)
    near, far = (fvd(other, real, extractor, length=8, stride=4) for other in (alike, faster))
    assert far.distance > 2 * near.distance
    assert near.samples == (40, 40)
    assert near.extractor == "random convolutions, seed 3"
    darker = fid((0.5 * video[0] for video in alike), (video[0] for video in real), extractor)
    assert darker.distance > 2 * fid((v[0] for v in alike), (v[0] for v in real), extractor).distance


def test_random_features_depend_on_the_seed_alone():
    image = torch.from_numpy(np.random.default_rng(0).random((2, 9, 7, 3))).float()
    torch.manual_seed(1)
    first = RandomFeatures(5)(image)
    torch.manual_seed(2)
    assert torch.equal(RandomFeatures(5)(image), first)
    assert not torch.allclose(RandomFeatures(6)(image), first)
    still = image[:, None].expand(-1, 4, -1, -1, -1)  # an image is a clip in which nothing moves
    torch.testing.assert_close(RandomFeatures(5)(still), first)


def test_batches_and_clips():
    video = np.random.default_rng(0).random((21, 6, 5, 3))
    seen: list[tuple[int, ...]] = []

    def means(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return pixels.flatten(1, -2).mean(1)

    features = image_features(iter(video), means, batch=8)
    np.testing.assert_allclose(features, video.mean((1, 2)), atol=1e-6)
    assert seen == [(8, 6, 5, 3), (8, 6, 5, 3), (5, 6, 5, 3)]
    seen.clear()
    clips = clip_features(iter(video), means, length=8, stride=5, batch=2)
    np.testing.assert_allclose(clips, [video[s : s + 8].mean((0, 1, 2)) for s in (0, 5, 10)], atol=1e-6)
    assert seen == [(2, 8, 6, 5, 3), (1, 8, 6, 5, 3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clip_features(np.zeros((5, 4, 4, 3)), RandomFeatures(0)), "5 frames, fewer than a clip of 16"),
        (lambda: clip_features(np.zeros((5, 4, 4, 3)), RandomFeatures(0), length=0), "must be at least 1"),
        (lambda: image_features([], RandomFeatures(0)), "no images to describe"),
        (lambda: image_features(np.zeros((5, 4, 4, 3)), lambda x: x), r"returned \(5, 4, 4, 3\) for 5 inputs"),
        (lambda: image_features(np.zeros((5, 4, 4, 3)), lambda x: x[:, 0, 0] / 0), "not finite"),
        (lambda: fvd([], [], RandomFeatures(0)), "no generated videos"),
        (lambda: RandomFeatures(-1), "seed must be at least 0"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    """A state dict like torchvision's old files: with the classifier, without counters of batches."""
    file = tmp_path_factory.mktemp("weights") / "resnet18-old.pth"
    state = seeded.fill(resnet18(weights=None).state_dict(), seed=0)
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, file)
    return file


def test_resnet18_by_path(resnet_file):
    images = torch.from_numpy(np.random.default_rng(0).random((2, 40, 56, 3))).float()
    found = resnet18_features(resnet_file, size=64)(images)
    network = resnet18(weights=None).eval()
    network.load_state_dict(torch.load(resnet_file, weights_only=True))
    network.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    resized = torch.nn.functional.interpolate(images.movedim(-1, 1), size=(64, 64), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = network((resized - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(found, expected)
    assert resnet18_features(resnet_file).name == "ResNet-18, resnet18-old.pth, 224 x 224"
    with pytest.raises(InputError, match=r"describes images \(N, H, W, 3\)"):
        resnet18_features(resnet_file)(images[None])


# Means of 16 groups of 128 features of pytorch-fid 0.3.0, with seeded weights, for a seeded image of 64 x 96.
INCEPTION = [
    0.07111672, 0.09447069, 0.06234053, 0.08039576, 0.0604328, 0.0742577, 0.06360505, 0.08687149,
    0.07827453, 0.0715749, 0.0851186, 0.07535608, 0.07376469, 0.06973464, 0.07706402, 0.08031336,
]  # fmt: skip


def test_inception_of_fid_and_of_torchvision(tmp_path):
    with torch.device("meta"):
        network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    state = seeded.fill({key: value for key, value in network.state_dict().items() if "num_batches" not in key}, seed=0)
    image = seeded.tensor("images", (1, 3, 64, 96), seed=0).movedim(1, -1)
    found = {}
    for classes in (1008, 1000):
        file = tmp_path / f"{classes}.safetensors"
        save_file({key: value[:classes] if key.startswith("fc.") else value for key, value in state.items()}, file)
        extractor = inception_features(file)
        found[extractor.name] = extractor(image).double().view(16, 128).mean(1)
    published, other = (
        found["Inception-v3 of FID, 1008.safetensors"],
        found["Inception-v3 of torchvision, 1000.safetensors"],
    )
    np.testing.assert_allclose(published, INCEPTION, rtol=1e-4)
    assert float((other / published - 1).abs().max()) > 1e-3  # torchvision pools otherwise


def test_files_that_do_not_fit_are_named(resnet_file, tmp_path):
    with pytest.raises(WeightsError, match="resnet18-old.pth does not fit torchvision's inception_v3"):
        inception_features(resnet_file)
    with pytest.raises(WeightsError, match="no such file"):
        resnet18_features(tmp_path / "missing.pth")


def test_torchscript_is_opened_only_on_request(tmp_path):
    class Speed(torch.nn.Module):
        def forward(self, clips: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return scale * (clips[:, :, 1:] - clips[:, :, :-1]).mean((2, 3, 4))

    file = tmp_path / "speed.pt"
    torch.jit.script(Speed()).save(str(file))
    with pytest.raises(WeightsError, match="pass unsafe=True"):
        TorchScriptFeatures(file)
    with pytest.raises(WeightsError, match="is a TorchScript archive"):
        resnet18_features(file)
    clips = torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1).expand(2, 5, 8, 6, 3)
    for size in (None, 4):
        found = TorchScriptFeatures(file, unsafe=True, size=size, scale=2.0)
        assert found.name == "TorchScript, speed.pt"
        torch.testing.assert_close(found(clips), torch.full((2, 3), 2 * 2 / 4))  # values in [-1, 1]
    with pytest.raises(InputError, match=r"does not take an input of shape \(2, 3, 8, 6\)"):
        TorchScriptFeatures(file, unsafe=True)(clips[:, 0])
