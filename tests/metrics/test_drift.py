"""Colour drift is found where colours move away from the true ones, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError
from visionzoo.metrics import color_difference, color_drift

TRUE = {1: (0.8, 0.2, 0.2), 5: (0.2, 0.3, 0.8)}


def ids() -> np.ndarray:
    regions = np.zeros((16, 24), np.int32)
    regions[2:12, 2:10], regions[4:14, 13:22] = 1, 5
    return regions


def painted(regions: np.ndarray, colors: dict) -> np.ndarray:
    image = np.full((*regions.shape, 3), 0.5)
    for name, color in colors.items():
        image[regions == name] = color
    return image


def test_no_drift_without_change():
    drift = color_drift((painted(ids(), TRUE) for _ in range(6)), [ids()] * 6, TRUE)
    assert drift.regions == (1, 5)
    assert drift.distances.shape == (6, 2)
    assert drift.mean == pytest.approx(0, abs=1e-9)
    assert drift.slope == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(drift.measured[0], [TRUE[1], TRUE[5]])


def test_a_region_that_drifts_is_told_from_one_that_does_not():
    drifting = [{1: (0.8, 0.2 + 0.02 * t, 0.2), 5: TRUE[5]} for t in range(8)]
    drift = color_drift([painted(ids(), colors) for colors in drifting], [ids()] * 8, TRUE)
    assert drift.distances[:, 1].max() == pytest.approx(0, abs=1e-9)
    for t in (0, 3, 7):
        assert drift.distances[t, 0] == pytest.approx(color_difference((0.8, 0.2 + 0.02 * t, 0.2), TRUE[1]), abs=1e-9)
    expected = np.polyfit(np.arange(8), drift.distances[:, 0], 1)[0]
    np.testing.assert_allclose(drift.slopes, [expected, 0], atol=1e-12)
    assert drift.slope == pytest.approx(expected / 2)
    np.testing.assert_allclose(drift.means, drift.distances.mean(0))
    segments = drift.by_segment(3)
    assert segments.shape == (3, 2)
    np.testing.assert_allclose(
        segments[:, 0], [drift.distances[s, 0].mean() for s in (slice(3), slice(3, 6), slice(6, 8))]
    )


def test_regions_that_leave_are_nan_and_do_not_count():
    hidden = np.where(ids() == 5, 0, ids())
    maps = [ids() if t < 3 else hidden for t in range(6)]
    wrong = {1: TRUE[1], 5: (0.2, 0.6, 0.8)}
    drift = color_drift([painted(regions, wrong) for regions in maps], maps, TRUE)
    assert np.isnan(drift.distances[3:, 1]).all()
    assert drift.slope == pytest.approx(0, abs=1e-12)  # region 5 has a constant offset while it is visible
    assert drift.mean == pytest.approx(drift.distances[0, 1] * 3 / 9)
    never = color_drift([painted(hidden, TRUE)] * 2, [hidden] * 2, {5: TRUE[5]})
    assert np.isnan([never.mean, never.slope, *never.slopes]).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_ids_of_all_integer_types(kind):
    drift = color_drift([painted(ids(), TRUE)], [ids().astype(kind)], TRUE, erode=1)
    assert drift.mean == pytest.approx(0, abs=1e-9)


def test_masks_by_name_and_tensors():
    image = torch.from_numpy(painted(ids(), TRUE)).permute(2, 0, 1)
    masks = {"shirt": ids() == 1}
    drift = color_drift([image] * 2, [masks, {}], {"shirt": (204, 51, 51)}, erode=1)
    assert drift.distances[0, 0] == pytest.approx(0, abs=1e-9)
    assert np.isnan(drift.distances[1, 0])


@pytest.mark.parametrize(
    ("frames", "maps", "colors", "message"),
    [
        (3, 2, TRUE, "there are 2 maps of regions but more frames"),
        (2, 3, TRUE, "there are 2 frames but more maps"),
        (0, 0, TRUE, "no frames"),
        (2, 2, {}, "no true colors"),
        (2, 2, {1: (300, 0, 0)}, "is not a color"),
    ],
)
def test_errors(frames, maps, colors, message):
    with pytest.raises(InputError, match=message):
        color_drift([painted(ids(), TRUE)] * frames, [ids()] * maps, colors)


def test_frames_of_two_sizes_are_named():
    frames = [painted(ids(), TRUE), np.zeros((8, 8, 3))]
    with pytest.raises(InputError, match="frame 1 is 8 x 8 pixels, frame 0 24 x 16"):
        color_drift(frames, [ids()] * 2, TRUE)
