"""PSNR and SSIM equal scikit-image's, streamed or not; LPIPS equals torchmetrics'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from visionzoo.errors import InputError
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.masked import masked_lpips
from visionzoo.metrics.restoration import psnr, quality, ssim
from visionzoo.weights import WeightsError


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A part of a photo with its flat background and its textures, noisy and clean: (H, W, 3) uint8."""
    clean = np.tile(data.astronaut(), (2, 2, 1))[40 : 40 + height, 130 : 130 + width]
    noise = np.random.default_rng(0).normal(0, 9, clean.shape) * np.linspace(0, 2, width)[:, None]
    return np.clip(clean + noise, 0, 255).astype(np.uint8), clean


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


def reader(image: np.ndarray, asked: list[tuple[int, int]] | None = None):
    def read(top: int, left: int, height: int, width: int) -> np.ndarray:
        if asked is not None:
            asked.append((height, width))
        return image[top : top + height, left : left + width]

    return read


def skimage_ssim(one: np.ndarray, other: np.ndarray, data_range: float) -> float:
    """scikit-image's mean already excludes a border of 5 pixels."""
    value: Any = structural_similarity(
        one, other, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range
    )
    return float(value)


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (97, 131), (512, 300)])
def test_equals_scikit_image(size):
    noisy, clean = images(*size)
    expected = skimage_ssim(noisy, clean, 255)
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-5)
    assert ssim(planes(noisy), planes(clean)) == pytest.approx(expected, abs=1e-5)
    assert psnr(noisy, clean) == pytest.approx(peak_signal_noise_ratio(clean, noisy), abs=1e-5)
    dimmer, bright = noisy.astype(np.float32) / 300, clean.astype(np.float32) / 255
    assert ssim(dimmer, bright) == pytest.approx(skimage_ssim(dimmer, bright, 1.0), abs=1e-5)
    wanted = peak_signal_noise_ratio(bright, dimmer, data_range=1.0)
    assert psnr(dimmer, bright) == pytest.approx(wanted, abs=1e-5)


def test_equal_images():
    clean = images(40, 50)[1]
    assert psnr(clean, clean) == math.inf
    assert ssim(clean, clean) == pytest.approx(1, abs=1e-12)
    flat = torch.full((3, 20, 20), 0.3)
    assert ssim(flat, flat) == pytest.approx(1, abs=1e-12)


def test_ssim_with_reflected_borders_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    noisy, clean = images(40, 52)
    pair = (torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255 for image in (noisy, clean))
    theirs: Any = structural_similarity_index_measure(*pair, data_range=1.0)
    assert ssim(noisy, clean, borders="reflected") == pytest.approx(float(theirs), abs=1e-7)
    assert ssim(planes(noisy), planes(clean), borders="reflected") == pytest.approx(float(theirs), abs=1e-6)
    with pytest.raises(InputError, match="borders must be 'inside' or 'reflected', got 'outside'"):
        ssim(noisy, clean, borders=cast(Any, "outside"))
    with pytest.raises(InputError, match="SSIM needs 11 x 11 pixels"):
        ssim(noisy[:8], clean[:8], borders="reflected")


def test_a_batch_is_the_mean_of_its_images():
    noisy, clean = (planes(image) for image in images(40, 60))
    dark = clean * 0.7
    batch, references = torch.stack([noisy, dark]), torch.stack([clean, clean])
    assert psnr(batch, references) == pytest.approx((psnr(noisy, clean) + psnr(dark, clean)) / 2)
    assert ssim(batch, references) == pytest.approx((ssim(noisy, clean) + ssim(dark, clean)) / 2)


@pytest.mark.parametrize("size", [(11, 11), (128, 64), (131, 97), (66, 201)])
@pytest.mark.parametrize("tile", [1, 7, 32, 64, 1024])
def test_tiles_equal_the_whole(size, tile):
    if tile == 1 and size != (11, 11):
        size = (17, 13)  # each pixel is a tile of its own
    noisy, clean = images(*size)
    got = quality(reader(noisy), reader(clean), *size, tile=tile)
    assert got.psnr == pytest.approx(peak_signal_noise_ratio(clean, noisy), abs=1e-6)
    assert got.ssim == pytest.approx(skimage_ssim(noisy.astype(np.float64), clean.astype(np.float64), 255), abs=1e-6)


def test_windows_are_no_larger_than_tile_and_halo():
    noisy, clean = images(131, 97)
    asked = []
    streamed = quality(reader(noisy, asked), reader(clean.astype(np.float32) / 255), 131, 97, tile=32)
    assert streamed.psnr == pytest.approx(psnr(noisy, clean))
    assert streamed.ssim == pytest.approx(ssim(noisy, clean))
    assert max(map(max, asked)) == 42
    assert len(asked) == 5 * 4


def test_images_that_cannot_be_compared():
    image = torch.rand(3, 20, 20)
    with pytest.raises(InputError, match=r"11 x 11 pixels or more, got 10 x 20"):
        ssim(image[:, :10], image[:, :10])
    with pytest.raises(InputError, match=r"\(3, 20, 20\) and reference \(3, 20, 19\)"):
        psnr(image, image[..., :19])
    with pytest.raises(InputError, match=r"shape \(1, 20, 20\), expected \(3, H, W\)"):
        psnr(image[:1], image[:1])
    with pytest.raises(InputError, match=r"to 255, expected \[0, 1\]; clamp them, or divide by 255"):
        psnr(image, torch.full((3, 20, 20), 255.0))
    with pytest.raises(InputError, match="from nan"):
        psnr(image, torch.full((3, 20, 20), math.nan))
    with pytest.raises(InputError, match="pixels are uint16"):
        psnr(np.zeros((20, 20, 3), np.uint16), np.zeros((20, 20, 3), np.uint16))
    with pytest.raises(InputError, match=r"reference's window at row 0, column 0 has shape \(20, 9, 3\)"):
        quality(reader(np.zeros((20, 20, 3), np.uint8)), reader(np.zeros((20, 9, 3), np.uint8)), 20, 20)


# LPIPS

TORCHVISION = {"alex": "alexnet", "vgg": "vgg16"}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory):
    """torchmetrics' network with seeded weights, and those weights in a file like torchvision's: `peers("alex")`."""
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    made = {}

    def make(network: str) -> tuple[torch.nn.Module, Path]:
        if network not in made:
            torch.manual_seed(5)
            peer = lpips._LPIPS(pretrained=True, net=network, pnet_rand=True).eval()
            path = tmp_path_factory.mktemp("weights") / f"{TORCHVISION[network]}.pth"
            slices = [peer.net.slice1, peer.net.slice2, peer.net.slice3, peer.net.slice4, peer.net.slice5]
            state = {f"features.{key}": value for part in slices for key, value in part.state_dict().items()}
            torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, path)
            made[network] = peer, path
        return made[network]

    return make


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_equals_torchmetrics(peers, network):
    peer, path = peers(network)
    ours = Lpips(network, backbone=path)
    noisy, clean = (planes(image) for image in images(80, 111))
    batch, references = torch.stack([noisy, clean, clean * 0.5]), torch.stack([clean] * 3)
    with torch.no_grad():
        expected = peer(batch, references, normalize=True).flatten()
        got = ours(batch, references)
    assert got.shape == (3,)
    assert expected[0] > 1e-5
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-9)
    assert got[1] == 0


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_per_pixel_equals_torchmetrics(peers, network):
    peer, path = peers(network)
    ours = Lpips(network, backbone=path)
    noisy, clean = (planes(image)[None] for image in images(80, 111))
    peer.spatial = True
    try:
        with torch.no_grad():
            expected = peer(noisy, clean, normalize=True)[:, 0]
    finally:
        peer.spatial = False
    got = ours.spatial(noisy, clean)
    assert got.shape == (1, 80, 111)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-8)


def test_masked_lpips_is_the_mean_over_the_mask_of_black_surroundings(peers):
    """As DyCheck's `compute_lpips`."""
    peer, path = peers("alex")
    noisy, clean = (planes(image) for image in images(80, 111))
    mask = torch.zeros(80, 111)
    mask[10:50, 20:90] = 1
    peer.spatial = True
    try:
        with torch.no_grad():
            distances = peer((noisy * mask)[None], (clean * mask)[None], normalize=True)[0, 0]
    finally:
        peer.spatial = False
    got = masked_lpips(Lpips("alex", backbone=path), noisy, clean, mask)
    assert got == pytest.approx(float((distances * mask).sum() / mask.sum()), rel=1e-4)
    outside = torch.where(mask.bool(), noisy, 1 - noisy)
    assert masked_lpips(Lpips("alex", backbone=path), outside, clean, mask) == pytest.approx(got, rel=1e-6)


def test_lpips_is_frozen_and_differentiable(peers):
    ours = Lpips("alex", backbone=peers("alex")[1])
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    noisy, clean = (planes(image)[None] for image in images(40, 40))
    noisy.requires_grad_()
    ours(noisy, clean).sum().backward()
    assert noisy.grad is not None
    assert torch.isfinite(noisy.grad).all()
    assert noisy.grad.any()


def test_lpips_names_missing_files(peers, tmp_path):
    with pytest.raises(
        WeightsError, match=r"download https://download.pytorch.org/models/alexnet-\S+ and pass .* backbone="
    ):
        Lpips("alex")
    with pytest.raises(WeightsError, match=r"no file nowhere.pth; download \S+/vgg16-"):
        Lpips("vgg", backbone="nowhere.pth")
    with pytest.raises(WeightsError, match="does not fit the features of vgg16"):
        Lpips("vgg", backbone=peers("alex")[1])
    heads = tmp_path / "heads.pth"
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, heads)
    with pytest.raises(WeightsError, match="heads.pth does not fit the heads of LPIPS alex: 4 of 5 keys are missing"):
        Lpips("alex", backbone=peers("alex")[1], heads=heads)
    with pytest.raises(InputError, match="'squeeze' is unknown; choose one of alex, vgg"):
        Lpips("squeeze")


@pytest.mark.parametrize(("network", "smallest"), [("alex", 31), ("vgg", 16)])
def test_lpips_of_small_images(peers, network, smallest):
    ours = Lpips(network, backbone=peers(network)[1])
    image = torch.rand(1, 3, smallest, smallest + 5)
    assert ours(image, image) == 0
    with pytest.raises(InputError, match=f"sides of {smallest} or more"):
        ours(image[:, :, 1:], image[:, :, 1:])
