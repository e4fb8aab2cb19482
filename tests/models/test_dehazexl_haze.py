"""Synthetic haze: a field without seams, the physics of the scattering model, and different levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.models.dehazexl.haze import (
    LEVELS,
    Haze,
    band_transmission,
    draw_distance,
    draw_haze,
    lattice_noise,
)


def haze(**changes: object) -> Haze:
    facts = {
        "seed": 3, "density": 0.6, "base": 0.3, "cell": 90.0, "persistence": 0.5, "contrast": 2.0,
        "slope": (0.1, -0.2), "airlight": (0.7, 0.72, 0.75),
    }  # fmt: skip
    return Haze(**{**facts, **changes})  # pyright: ignore[reportArgumentType]


@settings(max_examples=30, deadline=None)
@given(top=st.integers(0, 10**6), left=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_window_is_part_of_the_whole(top: int, left: int, height: int, width: int) -> None:
    whole = haze().pattern(top, left, 40, 40)
    part = haze().pattern(top + 40 - height, left + 40 - width, height, width)
    assert np.allclose(part, whole[40 - height :, 40 - width :], atol=1e-6)


def test_noise_depends_on_the_seed_and_is_smooth() -> None:
    one, other = lattice_noise(1, 0, 0, 200, 200, 50), lattice_noise(2, 0, 0, 200, 200, 50)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.4
    assert np.abs(np.diff(one, axis=0)).max() < 0.1
    assert 0.05 < one.std() < 0.6


def test_thin_haze_is_blue_and_thick_haze_grey() -> None:
    thin, thick = (
        band_transmission(np.array([[0.9]], np.float32))[0, 0],
        band_transmission(np.array([[0.1]], np.float32))[0, 0],
    )
    assert thin[0] > thin[1] > thin[2] > 0.9  # red has the highest transmission
    assert np.ptp(thick) < 0.02 + np.ptp(thin)
    clear = band_transmission(np.ones((1, 1), np.float32))
    assert np.allclose(clear, 1)


def test_no_haze_changes_nothing_and_full_haze_is_airlight() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert np.allclose(haze(density=0.0)(image), image / 255, atol=1e-5)
    lost = haze(density=0.9999, base=1.0, slope=(0.0, 0.0))(image)
    assert np.allclose(lost, np.array([0.7, 0.72, 0.75]) ** (1 / 2.2), atol=0.02)


def test_farther_is_hazier() -> None:
    image = np.full((10, 10, 3), 40, np.uint8)
    near, far = (haze()(image, distance=np.full((10, 10), d, np.float32)) for d in (0.3, 3.0))
    assert (far > near + 0.05).all()
    steps = np.diff(draw_distance(np.random.default_rng(0), 200, 100).mean(1))
    assert (steps <= 1e-6).all()  # lower in the image, the scene is nearer
    assert draw_distance(np.random.default_rng(1), 50, 60).shape == (50, 60)


def test_levels_are_in_order_and_drawn_from_the_generator() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    means = []
    for level in LEVELS:
        drawn = [draw_haze(np.random.default_rng(seed), level, side=64) for seed in range(12)]
        assert all(LEVELS[level][0] <= one.density <= LEVELS[level][1] for one in drawn)
        means.append(np.mean([one(image).mean() for one in drawn]))
    assert means == sorted(means)
    assert draw_haze(np.random.default_rng(5)) == draw_haze(np.random.default_rng(5))
    with pytest.raises(InputError, match="got 'foggy'"):
        draw_haze(np.random.default_rng(0), "foggy")  # pyright: ignore[reportArgumentType]
