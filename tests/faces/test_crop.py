"""Crops are square, keep the image's proportions at every border, and their pixels can be found again in the frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.faces import CropBox, Face, centre_box, choose_face, concerns, crop_face, face_box
from visionzoo.faces.crop import square_box

boxes = st.builds(
    CropBox,
    st.floats(-300, 300, allow_nan=False),
    st.floats(-300, 300, allow_nan=False),
    st.floats(1, 500, allow_nan=False),
)


def face(left: float, top: float, width: float, height: float, points=None) -> Face:
    return Face((left, top, left + width, top + height), 0.99, points)


@given(
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.floats(1, 300),
    st.floats(1, 300),
    st.floats(0.5, 4),
)
def test_the_square_is_around_the_face(left, top, width, height, scale) -> None:
    box = face_box(face(left, top, width, height), scale)
    assert box.side == pytest.approx(scale * max(width, height))
    assert (box.left + box.right) / 2 == pytest.approx(left + width / 2, abs=1e-6)
    assert (box.top + box.bottom) / 2 == pytest.approx(top + height / 2, abs=1e-6)


def test_ten_percent_on_each_side_as_published() -> None:
    assert square_box((10, 20, 50, 100), 1.2) == pytest.approx((-18, 12, 96))


@given(boxes, st.integers(1, 512), st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1))
def test_points_round_trip_between_frame_and_crop(box, size, points) -> None:
    np.testing.assert_allclose(box.to_frame(box.to_crop(points, size), size), points, atol=1e-6)
    np.testing.assert_allclose(box.to_crop([(box.left, box.top), (box.right, box.bottom)], size), [(0, 0), (size,) * 2])


@given(st.floats(0, 1), st.floats(0, 1), st.integers(20, 300), st.integers(20, 300), st.floats(0.05, 1))
def test_a_crop_stays_in_the_image_if_it_can(x, y, height, width, share) -> None:
    side = share * min(height, width)
    found = face(x * (width - side), y * (height - side), side * 0.8, side)
    box = face_box(found, frame=(height, width))
    assert 1.2 * side - 1e-6 <= box.side <= 1.5 * side + 1e-6
    assert box.left <= found.box[0] + 1e-6
    assert box.top <= found.box[1] + 1e-6
    assert box.right >= found.box[2] - 1e-6
    assert box.bottom >= found.box[3] - 1e-6
    if 1.2 * side <= min(height, width):
        assert box.outside(height, width) == pytest.approx(0, abs=1e-9)
    free = face_box(found)
    if free.outside(height, width) < 1e-12:
        assert box == pytest.approx(free)


@given(boxes, st.integers(1, 400), st.integers(1, 400))
def test_the_share_outside(box, height, width) -> None:
    share = box.outside(height, width)
    assert -1e-9 <= share <= 1
    inside = box.left >= 0 and box.top >= 0 and box.right <= width and box.bottom <= height
    if inside:
        assert share == pytest.approx(0, abs=1e-9)


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_middle_square_is_inside(height, width) -> None:
    box = centre_box(height, width)
    assert box.side == min(height, width)
    assert box.outside(height, width) == pytest.approx(0, abs=1e-9)


def test_a_crop_of_whole_pixels_is_exact(astronaut) -> None:
    np.testing.assert_array_equal(crop_face(astronaut, CropBox(100, 40, 256)), astronaut[40:296, 100:356])


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        (CropBox(-32, 10, 64), slice(10, 74), [0] * 32 + list(range(32))),
        (CropBox(480, 10, 64), slice(10, 74), list(range(480, 512)) + [511] * 32),
        (CropBox(10, -32, 64), [0] * 32 + list(range(32)), slice(10, 74)),
        (CropBox(10, 480, 64), list(range(480, 512)) + [511] * 32, slice(10, 74)),
    ],
    ids=["left", "right", "top", "bottom"],
)
def test_beyond_the_border_the_edge_is_repeated(astronaut, box, rows, columns) -> None:
    np.testing.assert_array_equal(crop_face(astronaut, box, 64), astronaut[rows][:, columns])


def test_an_image_is_not_squashed(astronaut) -> None:
    """The same face with and without the rest of the image around it: the crop shows it at the same size."""
    box = CropBox(150, 20, 150)
    whole = crop_face(astronaut, box)
    cut = crop_face(np.ascontiguousarray(astronaut[60:]), CropBox(150, -40, 150))
    rows = round(40 * 256 / 150) + 8
    assert np.abs(whole[rows:].astype(int) - cut[rows:]).max() <= 1


def test_between_pixels() -> None:
    """A ramp cut half a pixel further is brighter by half its step."""
    ramp = np.repeat(np.repeat((np.arange(64, dtype=np.uint8) * 2)[None, :, None], 64, 0), 3, 2)
    here, there = crop_face(ramp, CropBox(16, 16, 32), 32), crop_face(ramp, CropBox(16.5, 16, 32), 32)
    assert (there.astype(int) - here == 1).all()


@settings(max_examples=30, deadline=None)
@given(boxes, st.integers(1, 96), st.integers(1, 40), st.integers(1, 40))
def test_any_box_gives_a_crop(box, size, height, width) -> None:
    image = np.full((height, width, 3), (10, 200, 90), np.uint8)
    if box.side > 16 * max(height, width, size):
        with pytest.raises(InputError, match="too large"):
            crop_face(image, box, size)
    else:
        result = crop_face(image, box, size)
        assert result.shape == (size, size, 3)
        assert (result == (10, 200, 90)).all()


@pytest.mark.parametrize("box", [CropBox(0, 0, 0), CropBox(0, 0, -3), CropBox(np.nan, 0, 5), CropBox(0, np.inf, 5)])
def test_invalid_boxes(astronaut, box) -> None:
    with pytest.raises(InputError, match="side above 0"):
        crop_face(astronaut, box)


def test_bad_values_are_named(astronaut) -> None:
    with pytest.raises(InputError, match="at least 1 pixel"):
        crop_face(astronaut, CropBox(0, 0, 10), 0)
    with pytest.raises(InputError, match="box must have an area"):
        square_box((10, 10, 10, 20), 1.5)
    with pytest.raises(InputError, match="scale must be above 0"):
        face_box(face(0, 0, 10, 10), 0)
    with pytest.raises(InputError, match="frame must have at least one pixel"):
        centre_box(0, 10)


# Which face


FACES = [face(200, 10, 40, 50), face(10, 30, 60, 70), face(400, 0, 30, 30), face(300, 5, 8, 9)]


def test_the_largest_or_by_number_from_the_left() -> None:
    assert choose_face(FACES) is FACES[1]
    assert [choose_face(FACES, number) for number in (1, 2, 3)] == [FACES[1], FACES[0], FACES[2]]
    assert choose_face([]) is None
    assert choose_face(FACES, min_size_px=100) is None


@pytest.mark.parametrize("which", [0, 4, -1])
def test_no_face_of_that_number(which) -> None:
    with pytest.raises(InputError, match=r"3 found \(1 smaller than 24 pixels skipped\)"):
        choose_face(FACES, which)


@pytest.mark.parametrize("which", ["left", 1.0, True, None])
def test_an_invalid_choice(which) -> None:
    with pytest.raises(InputError, match="must be .largest. or the number of a face"):
        choose_face(FACES, which)


# Warnings


FRONT = np.array([[60, 70], [100, 70], [80, 95], [65, 115], [95, 115]], np.float32)


def test_a_good_face_has_no_concerns(mtcnn, astronaut) -> None:
    [found] = mtcnn(astronaut)
    assert concerns(found, face_box(found), 512, 512) == []


def test_a_small_face(mtcnn) -> None:
    small = face(100, 100, 30, 40)
    [line] = concerns(small, face_box(small), 400, 400)
    assert "30 x 40 pixels" in line
    assert "4.3 times" in line


def test_a_face_that_fills_the_image() -> None:
    huge = face(0, 0, 300, 300)
    [line] = concerns(huge, face_box(huge), 300, 300)
    assert "56% of the crop is outside" in line


def test_turned_and_tilted_heads() -> None:
    def about(points) -> list[str]:
        some = face(40, 40, 80, 100, np.float32(points))
        return concerns(some, face_box(some, 2), 400, 400)

    assert about(FRONT) == []
    turned = FRONT.copy()
    turned[2, 0] += 25
    assert "turned to the side" in about(turned)[0]
    narrow = FRONT.copy()
    narrow[1, 0] = 68
    assert "turned to the side" in about(narrow)[0]
    angle = np.radians(40)
    tilted = (FRONT - 80) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 80
    assert "tilted" in about(tilted)[0]
