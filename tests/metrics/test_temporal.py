"""Seams and warp errors have the known values of synthetic moves."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.metrics import seam, seam_of_changes, warp_error


def ramp(offset: float, side: int = 24) -> np.ndarray:
    """A plane that grows along x and y, shifted by `offset` pixels along x: bilinear sampling is exact on it."""
    x, y = np.arange(side), np.arange(side)[:, None]
    return np.repeat(((x - offset + 2 * y) / 100 + 0.2)[..., None], 3, axis=2)


def flow_of(dx: float, dy: float = 0.0, side: int = 24) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32), (side, side, 2)).copy()


def test_seams_of_a_steady_fade():
    levels = np.concatenate([0.01 * np.arange(8), 0.01 * np.arange(8, 16) + 0.05, 0.01 * np.arange(16, 24) + 0.05])
    frames = np.broadcast_to(levels[:, None, None, None], (24, 6, 7, 3))
    found = seam(frames, [8, 16])
    np.testing.assert_allclose(found.across, [0.06, 0.01])
    assert found.inside == pytest.approx(0.01)
    assert found.ratio == pytest.approx(3.5)
    assert seam(frames, [16]).ratio == pytest.approx(1)
    assert seam(torch.from_numpy(frames.copy()).permute(0, 3, 1, 2), [16, 8, 8]).ratio == pytest.approx(3.5)


def test_a_cut_inside_a_window_does_not_hide_a_seam():
    changes = np.full(20, 0.02)
    changes[4], changes[9] = 0.9, 0.06
    assert seam_of_changes(changes, [10]).ratio == pytest.approx(3)


def test_still_videos_have_no_ratio():
    assert math.isnan(seam_of_changes([0, 0, 0], [2]).ratio)
    assert seam_of_changes([0, 0.1, 0], [2]).ratio == math.inf


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ([], "no borders were given"),
        ([0], "no border before frame 0 in a video of 4 frames"),
        ([4], "no border before frame 4 in a video of 4 frames"),
        ([1, 2, 3], "every pair of frames is a border"),
        ([1.5], "borders must be a list of whole numbers"),
    ],
)
def test_wrong_borders(borders, message):
    with pytest.raises(InputError, match=message):
        seam(np.zeros((4, 5, 5, 3)), borders)


@given(st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_known_moves_have_no_error(dx, dy):
    # a feature at x moves to x + dx, y + dy
    frames = [ramp(0), ramp(dx + 2 * dy)]
    found = warp_error(frames, [flow_of(dx, dy)])
    assert found.mean == pytest.approx(0, abs=1e-12)
    moved = (1 - abs(np.float32(dx)) / 23) * (1 - abs(np.float32(dy)) / 23)
    assert 0.6 < found.compared[0] <= 1
    assert found.compared[0] <= moved + 0.1


def test_direction_of_the_flow():
    random = np.random.default_rng(0).random((24, 24, 3))
    right = np.roll(random, 2, axis=1)  # everything moves 2 pixels to the right
    down = np.roll(random, 3, axis=0)
    assert warp_error([random, right], [flow_of(2)]).mean == pytest.approx(0, abs=1e-12)
    assert warp_error([random, down], [flow_of(0, 3)]).mean == pytest.approx(0, abs=1e-12)
    assert warp_error([random, right], [flow_of(-2)]).mean > 0.1
    assert warp_error([random, right], [flow_of(2)]).compared[0] == pytest.approx(22 / 24)


def test_only_valid_pixels_count():
    frames = [ramp(0), ramp(0)]
    frames[1][:5] = 1
    mask = np.ones((24, 24), bool)
    mask[:5] = False
    flow = flow_of(0)
    flow[20] = np.nan  # unknown motion
    assert warp_error(frames, [flow]).mean > 0.01
    found = warp_error(frames, [flow], [mask])
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.compared[0] == pytest.approx(18 / 24)
    with pytest.raises(InputError, match="flow 1 is NaN or infinite at every pixel; leave that pair of frames out"):
        warp_error([*frames, frames[0]], [flow, np.full_like(flow, np.nan)])
    nothing = warp_error(frames, [flow_of(100)])
    assert math.isnan(nothing.mean)
    assert nothing.compared.tolist() == [0]


def test_squared_and_absolute_means():
    frames = [np.full((4, 6, 3), value) for value in (0.1, 0.4, 0.4)]
    flows = [np.zeros((4, 6, 2), np.float32)] * 2
    np.testing.assert_allclose(warp_error(frames, flows).per_pair, [0.09, 0])
    np.testing.assert_allclose(warp_error(frames, flows, error="absolute").per_pair, [0.3, 0])
    assert warp_error(frames, flows).mean == pytest.approx(0.045)


def test_the_flow_of_the_last_frame_is_ignored():
    frames = [np.full((4, 6, 3), value) for value in (0.1, 0.4, 0.4)]
    flows, masks = [np.zeros((4, 6, 2), np.float32)] * 3, [np.ones((4, 6), bool)] * 3
    np.testing.assert_allclose(warp_error(frames, iter(flows), iter(masks)).per_pair, [0.09, 0])


def test_bytes_and_tensors():
    random = np.random.default_rng(0).integers(0, 256, (3, 9, 8, 3), dtype=np.uint8)
    flows = np.random.default_rng(1).normal(0, 1, (2, 9, 8, 2)).astype(np.float32)
    expected = warp_error(random / 255, flows)
    tensors = warp_error(torch.from_numpy(random).permute(0, 3, 1, 2), torch.from_numpy(flows))
    np.testing.assert_allclose(tensors.per_pair, expected.per_pair)
    np.testing.assert_allclose(warp_error(iter(random), iter(flows)).per_pair, expected.per_pair)


def test_long_videos_are_streamed():
    tracemalloc.start()  # sees numpy's arrays: all 60 frames would be 44 MB
    frames = (np.full((160, 192, 3), t / 60) for t in range(60))
    seam(frames, [30])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


@pytest.mark.parametrize(
    ("frames", "flows", "masks", "message"),
    [
        (np.zeros((1, 4, 6, 3)), [], None, "at least two frames"),
        (np.zeros((3, 4, 6, 3)), [np.zeros((4, 6, 2))], None, "there are 1 flows but more pairs of frames"),
        (np.zeros((2, 4, 6, 3)), [np.zeros((4, 6, 2))] * 3, None, "there are 1 pairs of frames but more flows"),
        (np.zeros((2, 4, 6, 3)), [np.zeros((6, 4, 2))], None, r"flow 0 has shape \(6, 4, 2\)"),
        (np.zeros((2, 4, 6, 3)), [np.zeros((4, 6, 2), int)], None, "expected floats"),
        (np.zeros((2, 4, 6, 3)), [np.zeros((4, 6, 2))], [], "there are 0 masks of valid pixels but more flows"),
        (np.zeros((2, 4, 6, 3)), [np.zeros((4, 6, 2))], [np.ones((4, 6))], "mask 0 is torch.float64, expected bool"),
        (np.zeros((4, 6, 3)), [], None, r"frame 0 has shape \(6, 3\), expected \(H, W, 3\)"),
    ],
)
def test_wrong_inputs_are_named(frames, flows, masks, message):
    with pytest.raises(InputError, match=message):
        warp_error(frames, flows, masks)


def test_unknown_errors_are_refused():
    with pytest.raises(InputError, match="must be squared or absolute"):
        warp_error(np.zeros((2, 4, 6, 3)), [np.zeros((4, 6, 2))], error="cubed")  # pyright: ignore[reportArgumentType]
