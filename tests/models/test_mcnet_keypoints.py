"""Transfer of movement from driver to source."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.models.mcnet import Keypoints, movement_scale, transfer_motion
from visionzoo.models.mcnet.keypoints import hull_area, inverse_2x2
from visionzoo.models.mcnet.motion import candidate_flows


def random_keypoints(batch: int, seed: int) -> Keypoints:
    rng = torch.Generator().manual_seed(seed)
    value = torch.rand(batch, 15, 2, generator=rng) * 1.6 - 0.8
    return Keypoints(value, torch.eye(2) + 0.2 * torch.randn(batch, 15, 2, 2, generator=rng))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), adapt=st.booleans())
def test_no_movement_is_the_source_exactly(seed: int, adapt: bool) -> None:
    source, initial = random_keypoints(1, seed), random_keypoints(1, seed + 1)
    moved = transfer_motion(source, initial, initial, adapt_scale=adapt)
    assert torch.equal(moved.value, source.value)
    assert torch.equal(moved.jacobian, source.jacobian)


def test_relative_motion_over_many_frames() -> None:
    source, driving = random_keypoints(1, 0), random_keypoints(7, 1)
    initial = driving.at(slice(2, 3))
    moved = transfer_motion(source, driving, initial)
    assert moved.value.shape == (7, 15, 2)
    want = driving.jacobian @ torch.linalg.inv(initial.jacobian) @ source.jacobian
    assert torch.allclose(moved.jacobian, want, atol=1e-5)
    assert torch.allclose(moved.value - source.value, driving.value - initial.value, atol=1e-6)
    plain = transfer_motion(source, driving, initial, relative_jacobian=False)
    assert torch.equal(plain.jacobian, driving.jacobian)
    assert transfer_motion(source, driving, mode="absolute") is driving
    scaled = transfer_motion(source, driving, initial, adapt_scale=True)
    ratio = movement_scale(source, initial)
    assert torch.allclose(scaled.value - source.value, ratio * (driving.value - initial.value), atol=1e-6)


def test_relative_motion_needs_a_first_frame() -> None:
    points = random_keypoints(1, 0)
    with pytest.raises(InputError, match="needs `initial`"):
        transfer_motion(points, points)
    with pytest.raises(InputError, match="got 'mixed'"):
        transfer_motion(points, points, mode="mixed")  # pyright: ignore[reportArgumentType]


def test_hull() -> None:
    square = torch.tensor([[0, 0], [2, 0], [2, 1], [0, 1], [1, 0.5], [1, 0]], dtype=torch.float32)
    assert hull_area(square) == pytest.approx(2)
    assert hull_area(square.flip(0)) == pytest.approx(2)
    assert hull_area(torch.tensor([[0.0, 0], [1, 1], [2, 2]])) == 0
    assert hull_area(torch.zeros(15, 2)) == 0
    points = random_keypoints(1, 3)
    doubled = Keypoints(2 * points.value, points.jacobian)
    assert movement_scale(doubled, points) == pytest.approx(2)
    assert movement_scale(points, Keypoints(0 * points.value, points.jacobian)) == 1


def test_inverse() -> None:
    matrices = random_keypoints(2, 4).jacobian
    assert torch.allclose(inverse_2x2(matrices), torch.linalg.inv(matrices), atol=1e-5)


def test_candidates_bring_the_source_to_the_keypoint() -> None:
    """Near a driving keypoint, the flow points to the source's keypoint; the first candidate has zero flow."""
    source, driving = random_keypoints(1, 5), random_keypoints(1, 6)
    driving.value[0, 0] = torch.tensor([0.5, -0.5])  # a place of the grid
    flows = candidate_flows(source, driving, 5, 9)
    assert flows.shape == (1, 16, 5, 9, 2)
    assert flows[0, 0, 0, 0].tolist() == [-1, -1]
    assert torch.allclose(flows[0, 1, 1, 6], source.value[0, 0], atol=1e-6)
