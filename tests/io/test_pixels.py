"""Pixels keep their values between integers and floats, in both directions and in every layout."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from visionzoo.io.pixels import floats_to_bytes, on_white, quantize, to_float, to_uint8, words_to_bytes

LEVELS = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(16, 16, 1), (4, 32, 2), (2, 8, 4, 4)])
def test_every_level_comes_back(shape: tuple[int, ...]) -> None:
    pixels = LEVELS.reshape(shape)
    image = to_float(pixels)
    assert image.shape == (*shape[:-3], shape[-1], *shape[-3:-1])
    assert image.dtype == torch.float32
    assert image.movedim(-3, -1).is_contiguous()  # channels last, as the networks are fast with
    assert torch.equal(image.movedim(-3, -1), torch.from_numpy(pixels).float() / 255)
    assert np.array_equal(to_uint8(image), pixels)
    assert torch.equal(quantize(image), image)
    assert np.array_equal(floats_to_bytes(image.movedim(-3, -1).numpy()), pixels)


def test_read_only_and_strided_pixels() -> None:
    pixels = np.broadcast_to(LEVELS.reshape(16, 16, 1), (16, 16, 3))[:, ::-1]
    assert np.array_equal(to_uint8(to_float(pixels)), pixels)
    assert np.array_equal(to_uint8(to_float(torch.from_numpy(pixels.copy()))), pixels)


def test_outside_the_range_is_clipped_and_between_levels_rounded() -> None:
    values = np.array([-0.5, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.5], np.float32)
    assert floats_to_bytes(values).tolist() == [0, 0, 1, 255, 255]
    assert to_uint8(torch.from_numpy(values).reshape(1, 1, -1)).ravel().tolist() == [0, 0, 1, 255, 255]
    assert np.allclose(quantize(values) * 255, [0, 0, 1, 255, 255])
    assert np.allclose(quantize(torch.from_numpy(values)).numpy() * 255, [0, 0, 1, 255, 255])


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", ">i8"])
def test_sixteen_bits_in_any_byte_order(dtype: str) -> None:
    words = np.arange(65536).astype(dtype)
    assert np.array_equal(words_to_bytes(words), np.round(np.arange(65536) / 257).astype(np.uint8))
    assert np.array_equal(words_to_bytes(LEVELS.astype(dtype) * 257), LEVELS)


@pytest.mark.parametrize("shape", [(3000, 1200), (1, 2_000_000), (2_500_000,), (7, 3, 100_001)])
def test_large_images_are_converted_whole_in_little_memory(shape: tuple[int, ...]) -> None:
    words = (np.arange(np.prod(shape), dtype=np.int64) % 65536).astype(np.uint16).reshape(shape)
    tracemalloc.start()
    made = words_to_bytes(words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(made, np.round(words / 257).astype(np.uint8))
    if shape[0] > 7:
        assert peak < made.nbytes + (16 << 20)  # at once it would be four times 4 bytes a value
    assert np.array_equal(floats_to_bytes(made / np.float32(255)), made)


def test_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[255, 0, 0, 128], [9, 9, 9, 0], [1, 2, 3, 255]]], np.uint8)
    assert on_white(pixels).tolist() == [[[255, 127, 127], [255, 255, 255], [1, 2, 3]]]
