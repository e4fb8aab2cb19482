"""The mark is invisible, is found after encoding, and is not found in unmarked images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, read_frames
from visionzoo.watermark import PAYLOAD, THRESHOLD, add_label, add_watermark, read_watermark

PHOTOS = ["astronaut", "coffee", "cat", "camera", "rocket"]


def psnr(a, b) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def at_256(image):
    return np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("name", PHOTOS)
def test_it_is_invisible_and_survives_encoding(real_photo, tmp_path: Path, name) -> None:
    photo = at_256(real_photo(name))
    marked = add_watermark(photo)
    assert psnr(photo, marked) >= 42
    assert read_watermark(marked).score > 20
    with VideoWriter(tmp_path / "marked.mp4", fps=25) as video:
        for _ in range(3):
            video.write(marked)
    frames = [frame.pixels for frame in read_frames(tmp_path / "marked.mp4")]
    assert all(read_watermark(frame).present for frame in frames)
    assert read_watermark(frames).score > 12


def test_it_is_not_found_in_real_photos(real_photo) -> None:
    """Many crops of real photos: the score is approximately standard normal, as the threshold assumes."""
    rng = np.random.default_rng(0)
    scores = []
    for name in (*PHOTOS, "brick", "grass", "gravel", "moon", "page"):
        photo = real_photo(name)
        for _ in range(30):
            y, x = (int(rng.integers(0, side - 128)) for side in photo.shape[:2])
            scores.append(read_watermark(np.ascontiguousarray(photo[y : y + 128, x : x + 128])).score)
    assert np.max(scores) < THRESHOLD - 1
    assert 0.7 < np.std(scores) < 1.4
    assert abs(np.mean(scores)) < 0.4


def test_not_in_images_that_repeat(real_photo) -> None:
    tile = real_photo("brick")
    for size in (8, 16, 64):
        assert abs(read_watermark(np.tile(tile[:size, :size], (512 // size, 512 // size, 1))).score) < 5


def test_it_survives_encoding_of_a_real_clip(carphone, tmp_path: Path) -> None:
    frames = [frame.pixels for frame in read_frames(carphone, stop=30)]
    assert not read_watermark(frames).present
    with VideoWriter(tmp_path / "marked.mp4", fps=25) as video:
        for frame in frames:
            video.write(add_watermark(frame))
    assert read_watermark(frame.pixels for frame in read_frames(tmp_path / "marked.mp4")).score > 1.5 * THRESHOLD


def test_it_carries_64_bits(real_photo) -> None:
    marked = add_watermark(real_photo("coffee"), b"\x00another")
    read = read_watermark(marked)
    assert read.payload == b"\x00another"
    assert not read.present or read.score < read_watermark(marked, b"\x00another").score / 2
    assert read_watermark(add_watermark(real_photo("coffee"))).payload == PAYLOAD


GOLDEN_BLOCK = [
    [3, 1, 0, 0, 0, 0, 0, 0],
    [1, 0, -1, -1, 0, 0, 0, 0],
    [0, -1, -1, -1, 0, 0, 0, 0],
    [0, -1, -1, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 1],
]


def test_the_mark_is_the_same_wherever_and_whenever_it_is_made() -> None:
    """A file marked by one release is read by the next: these values never change."""
    change = add_watermark(np.full((16, 16, 3), 100, np.uint8)).astype(int)[..., 0] - 100
    assert change[:8, :8].tolist() == GOLDEN_BLOCK


def test_a_larger_frame_begins_with_the_same_mark(astronaut) -> None:
    small = add_watermark(np.ascontiguousarray(astronaut[:128, :160]))
    np.testing.assert_array_equal(add_watermark(astronaut)[:128, :160], small)
    assert read_watermark(np.ascontiguousarray(add_watermark(astronaut)[:256, :256])).present


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 255))
def test_any_size_and_shade(height, width, shade) -> None:
    frame = np.full((height, width, 3), shade, np.uint8)
    before = frame.copy()
    marked = add_watermark(frame)
    np.testing.assert_array_equal(frame, before)
    assert marked.shape == frame.shape
    assert np.abs(marked.astype(int) - frame).max() <= 4
    assert np.isfinite(read_watermark(marked).score)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_watermark_keeps_42_db_on_any_image(seed) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert psnr(noise, add_watermark(noise)) >= 42


def test_bad_values_are_named(astronaut) -> None:
    with pytest.raises(InputError, match="8 bytes"):
        add_watermark(astronaut, b"short")
    with pytest.raises(InputError, match="a different size"):
        read_watermark([astronaut, astronaut[:64]])
    with pytest.raises(InputError, match="at least one frame"):
        read_watermark([])
    with pytest.raises(InputError, match="image"):
        read_watermark(astronaut[None, ..., 0])


# The label


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_the_label_is_in_its_corner(astronaut, corner) -> None:
    labelled = add_label(astronaut, corner=corner)
    y, x = np.nonzero((labelled != astronaut).any(-1))
    assert (x.max() < 256) == corner.endswith("left")
    assert (y.max() < 256) == corner.startswith("top")
    assert np.ptp(y) < 512 / 10
    assert labelled[y.min() : y.max() + 1, x.min() : x.max() + 1].max() == 255


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (200, 8), (2000, 1500)])
def test_the_label_fits_any_frame(size) -> None:
    frame = np.full((*size, 3), 120, np.uint8)
    assert add_label(frame).shape == frame.shape


def test_no_such_corner(astronaut) -> None:
    with pytest.raises(InputError, match="bottom right, got 'middle'"):
        add_label(astronaut, corner="middle")
