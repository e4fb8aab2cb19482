"""Pasting a crop back changes only the box, and an unchanged crop changes hardly anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.faces import CropBox, crop_face, paste_face


def test_an_unchanged_crop_gives_the_image_back(astronaut) -> None:
    box = CropBox(136.5, 28.25, 172.75)
    result = paste_face(astronaut, crop_face(astronaut, box), box)
    difference = np.abs(result.astype(int) - astronaut)
    assert difference.mean() < 0.15
    inside = difference[29:201, 137:309]
    assert 10 * np.log10(255**2 / (inside.astype(float) ** 2).mean()) > 35


def test_a_crop_of_the_same_size_equals_the_image(astronaut) -> None:
    box = CropBox(100, 50, 256)
    np.testing.assert_array_equal(paste_face(astronaut, crop_face(astronaut, box), box), astronaut)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-150, 150),
    st.floats(-150, 150),
    st.floats(1, 200),
    st.floats(0, 0.5),
    st.sampled_from([1, 16, 64]),
)
def test_outside_the_box_nothing_changes(left, top, side, feather, size) -> None:
    rng = np.random.default_rng(7)
    frame = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    before = frame.copy()
    box = CropBox(left, top, side)
    result = paste_face(frame, np.full((size, size, 3), 255, np.uint8), box, feather=feather)
    np.testing.assert_array_equal(frame, before)
    y, x = np.mgrid[:90, :120]
    inside = (x >= left) & (x + 1 <= box.right) & (y >= top) & (y + 1 <= box.bottom)
    np.testing.assert_array_equal(result[~inside], frame[~inside])
    assert (result >= frame).all()


def test_the_middle_is_the_crop() -> None:
    frame, crop = np.zeros((100, 100, 3), np.uint8), np.full((32, 32, 3), 200, np.uint8)
    result = paste_face(frame, crop, CropBox(20, 20, 60), feather=0.1)
    assert (result[27:73, 27:73] == 200).all()
    row = result[50, :, 0].astype(int)
    assert (np.diff(row[20:30]) >= 0).all()
    assert 0 < row[21] < 100 < row[24]


def test_without_feather_the_whole_box_is_the_crop() -> None:
    result = paste_face(
        np.zeros((50, 50, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8), CropBox(10, 5, 20), feather=0
    )
    assert (result[5:25, 10:30] == 200).all()
    assert result.sum() == 200 * 3 * 400


def test_a_crop_that_sticks_out_does_not_fade_at_the_frame() -> None:
    frame, crop = np.zeros((100, 100, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    result = paste_face(frame, crop, CropBox(-40, -40, 100), feather=0.1)
    assert (result[:40, :40] == 200).all()
    assert (result[60:] == 0).all()


def test_a_crop_beyond_the_frame_changes_nothing(astronaut) -> None:
    for box in (CropBox(600, 0, 50), CropBox(-60, 0, 50), CropBox(0.2, 0.2, 0.5)):
        np.testing.assert_array_equal(paste_face(astronaut, np.zeros((8, 8, 3), np.uint8), box), astronaut)


def test_the_place_of_a_detail_is_kept(astronaut) -> None:
    """A bright dot drawn in the crop appears at the position that `to_frame` returns."""
    box = CropBox(200.0, 100.0, 512.0)
    crop = np.zeros((256, 256, 3), np.uint8)
    crop[100, 60] = 255
    result = paste_face(np.zeros((700, 800, 3), np.uint8), crop, box, feather=0)
    y, x = np.nonzero(result[..., 0])
    weights = result[y, x, 0].astype(float)
    found = (np.average(x + 0.5, weights=weights), np.average(y + 0.5, weights=weights))
    assert found == pytest.approx(tuple(box.to_frame((60.5, 100.5), 256)), abs=0.1)


def test_bad_values_are_named(astronaut) -> None:
    crop = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="square, got 9 x 8"):
        paste_face(astronaut, np.zeros((8, 9, 3), np.uint8), CropBox(0, 0, 5))
    with pytest.raises(InputError, match="from 0 to 0.5"):
        paste_face(astronaut, crop, CropBox(0, 0, 5), feather=0.6)
    with pytest.raises(InputError, match="side above 0"):
        paste_face(astronaut, crop, CropBox(0, 0, 0))
    with pytest.raises(InputError, match="image"):
        paste_face(astronaut[..., 0], crop, CropBox(0, 0, 5))
