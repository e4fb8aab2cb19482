"""CIEDE2000 gives the published differences; regions are measured without their ink lines; named colours are recognised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from visionzoo.errors import InputError
from visionzoo.metrics import (
    ciede2000,
    color_difference,
    color_distance,
    color_hit,
    nearest_color,
    region_color,
    region_colors,
    srgb_to_lab,
)

# Table 1 of Sharma, Wu and Dalal (2005): L, a, b twice, and their difference.
PUBLISHED = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""

PALETTE = {
    "red": (200, 30, 40), "orange": (240, 140, 30), "yellow": (245, 220, 60), "green": (50, 150, 70), "blue": (40, 80, 190),
    "purple": (120, 50, 150), "brown": (110, 70, 40), "black": (25, 25, 30), "white": (245, 245, 245), "grey": (128, 128, 128),
}  # fmt: skip

unit = st.floats(0, 1)
labs = st.tuples(st.floats(0, 100), st.floats(-128, 128), st.floats(-128, 128)).map(np.array)


def disk(
    side: int = 64, fill: tuple[float, ...] = (0.8, 0.2, 0.3), line_px: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """A disk with a soft black outline centred on its border, drawn 8 times larger and averaged, and its mask."""
    fine = (np.arange(side * 8) + 0.5) / 8 - side / 2
    radius = np.hypot(fine, fine[:, None])
    image = np.where(radius[..., None] < 20, np.array(fill), np.array([0.5, 0.7, 0.9]))
    image[np.abs(radius - 20) < line_px / 2] = 0.05
    image = image.reshape(side, 8, side, 8, 3).mean((1, 3))
    coarse = np.arange(side) + 0.5 - side / 2
    return image, np.hypot(coarse, coarse[:, None]) < 20


def test_the_published_pairs():
    table = np.array([line.split() for line in PUBLISHED.split("\n") if line], dtype=np.float64)
    assert table.shape == (34, 7)
    first, second, expected = table[:, :3], table[:, 3:6], table[:, 6]
    np.testing.assert_allclose(ciede2000(first, second), expected, atol=5e-5)
    np.testing.assert_allclose(ciede2000(second, first), expected, atol=5e-5)


def test_equals_scikit_image_on_random_colors():
    random = np.random.default_rng(0)
    first, second = random.random((2, 20_000, 3))
    own = srgb_to_lab(first)
    np.testing.assert_allclose(own, rgb2lab(first), atol=0.02)  # its matrix has more digits, and its white is not grey
    lab1, lab2 = rgb2lab(first), rgb2lab(second)
    np.testing.assert_allclose(ciede2000(lab1, lab2), deltaE_ciede2000(lab1, lab2), atol=1e-9)
    tensors = ciede2000(torch.from_numpy(lab1), torch.from_numpy(lab2))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors.numpy(), ciede2000(lab1, lab2))


@given(labs, labs)
@settings(max_examples=200, deadline=None)
def test_differences_are_symmetric_and_zero_for_equal_colors(one, other):
    there, back = float(ciede2000(one, other)), float(ciede2000(other, one))
    assert there >= 0
    assert there == pytest.approx(back, abs=1e-6)  # exactly opposite hues turn either way
    assert float(ciede2000(one, one)) == 0


@given(unit)
@settings(max_examples=50, deadline=None)
def test_greys_have_no_chroma(value):
    light, a, b = srgb_to_lab(np.full(3, value))
    assert 0 <= light <= 100 + 1e-9
    assert a == pytest.approx(0, abs=1e-9)
    assert b == pytest.approx(0, abs=1e-9)


def test_leading_axes_are_broadcast_and_bytes_equal_floats():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(srgb_to_lab(image), srgb_to_lab(image / 255))
    assert ciede2000(srgb_to_lab(image), srgb_to_lab(np.array([0.2, 0.3, 0.4]))).shape == (5, 7)


def test_erosion_keeps_soft_lines_out_of_the_mean():
    image, mask = disk()
    true = np.array([0.8, 0.2, 0.3])
    np.testing.assert_allclose(region_color(image, mask, erode=2), true, atol=1e-12)
    assert np.abs(region_color(image, mask) - true).max() > 0.02
    assert color_distance(image, mask, (0.8, 0.2, 0.3), erode=2) == pytest.approx(0, abs=1e-5)
    assert color_distance(image, mask, (0.8, 0.2, 0.3)) > 1


def test_the_border_of_the_image_does_not_erode():
    image = np.full((6, 8, 3), 0.5)
    image[:, 3] = 0
    mask = np.zeros((6, 8), bool)
    mask[:, :4] = True
    np.testing.assert_allclose(region_color(image, mask, erode=1), 0.5)
    assert np.isnan(region_color(image, mask[:, ::-1] & mask, erode=1)).all()


def test_zero_mean_errors_cancel():
    noisy = np.full((40, 40, 3), 0.1)
    noisy[::2] += 0.08
    noisy[1::2] -= 0.08
    np.testing.assert_allclose(region_color(noisy, np.ones((40, 40), bool)), 0.1)


@pytest.mark.parametrize("kind", ["array", "bytes", "tensor"])
def test_images_of_all_kinds(kind):
    image, mask = disk(fill=(0.8, 0.2, 0.4))
    bytes_ = (image * 255).round().astype(np.uint8)
    given_ = {"array": bytes_ / 255, "bytes": bytes_, "tensor": torch.from_numpy(bytes_).permute(2, 0, 1)}[kind]
    masks = torch.from_numpy(mask) if kind == "tensor" else mask
    np.testing.assert_allclose(region_color(given_, masks, erode=2) * 255, [204, 51, 102])


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_ids_and_masks_measure_alike(seed, erode):
    random = np.random.default_rng(seed)
    ids = np.kron(random.integers(0, 4, (4, 5)), np.ones((5, 5), np.int64))
    image = random.random((*ids.shape, 3))
    names = [3, 0, 7, 1]
    by_ids = region_colors(image, ids, names, erode=erode)
    masks = {name: ids == name for name in names if name != 7}
    np.testing.assert_allclose(by_ids, region_colors(image, masks, names, erode=erode), atol=1e-12)
    assert np.isnan(by_ids[2]).all()
    for row, name in zip(by_ids, names, strict=True):
        np.testing.assert_allclose(row, region_color(image, ids == name, erode=erode), atol=1e-12)


@given(st.sampled_from(sorted(PALETTE)), st.tuples(*[st.integers(-6, 6)] * 3))
@settings(max_examples=60, deadline=None)
def test_slightly_changed_colors_keep_their_name(name, change):
    rgb = np.clip(np.array(PALETTE[name]) + change, 0, 255)
    assert nearest_color(rgb, PALETTE) == name


def test_hits():
    image, mask = disk(fill=tuple(np.array(PALETTE["red"]) / 255))
    assert color_hit(image, mask, "red", PALETTE, erode=2) is True
    assert color_hit(image, mask, "orange", PALETTE, erode=2) is False
    assert color_hit(image, np.zeros_like(mask), "red", PALETTE) is None
    assert math.isnan(color_distance(image, np.zeros_like(mask), (0, 0, 0)))


def test_integers_and_floats_are_told_apart():
    assert color_difference((255, 0, 0), (1.0, 0.0, 0.0)) == 0
    assert color_difference((1, 0, 0), (0, 0, 0)) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: color_difference((256, 0, 0), (0, 0, 0)), r"\(256, 0, 0\) is not a color; expected three integers"),
        (lambda: color_difference((0.5, 0.5), (0, 0, 0)), "is not a color"),
        (lambda: color_difference((0.5, 1.5, 0.0), (0, 0, 0)), "is not a color"),
        (lambda: ciede2000(np.zeros((4, 2)), np.zeros((4, 3))), r"lab1 has shape \(4, 2\)"),
        (lambda: srgb_to_lab(np.array([0.0, 2.0, 0.0])), "divide by 255"),
        (lambda: srgb_to_lab(np.array([0, 2, 0])), "int64, expected uint8"),
        (lambda: region_color(disk()[0], disk()[1].astype(np.uint8)), "torch.uint8, expected bool; compare it"),
        (lambda: region_color(disk()[0], disk()[1][:5]), r"the mask has shape \(5, 64\)"),
        (lambda: region_color(disk()[0] * 255, disk()[1]), "the image: pixels range from"),
        (lambda: region_color([[0]], disk()[1]), "the image is a list"),
        (lambda: region_color(*disk(), erode=-1), "erode must be a whole number"),
        (lambda: region_colors(disk()[0], disk()[1].astype(float), [0]), "expected integers"),
        (lambda: nearest_color((0, 0, 0), {}), "the palette is empty"),
        (lambda: nearest_color((math.nan, 0.0, 0.0), PALETTE), "is NaN, so it has no nearest one"),
        (lambda: color_hit(*disk(), "reed", PALETTE), "there is no color 'reed'; did you mean red"),
    ],
)  # fmt: skip
def test_errors_name_the_value(call, message):
    with pytest.raises(InputError, match=message):
        call()
