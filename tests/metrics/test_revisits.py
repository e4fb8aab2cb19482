"""Returns of the camera are found in its path, and the frames there are compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import resnet18

from tests.golden import seeded
from visionzoo.errors import InputError
from visionzoo.metrics import RandomFeatures, find_revisits, psnr, revisit, scene_return_consistency, ssim


def path(*positions: float) -> np.ndarray:
    return np.array(positions, dtype=np.float64)[:, None]


@pytest.mark.parametrize(
    ("positions", "pairs"),
    [
        ((0, 1, 2, 3), []),
        ((0, 1, 2, 1, 0), [(1, 3), (0, 4)]),
        ((0, 0, 1, 1, 1, 0, 0), [(0, 5)]),  # waiting is one visit
        ((0, 5, 0, 5, 0), [(0, 2), (1, 3), (0, 4)]),  # always against the first visit
    ],
)
def test_exact_returns(positions, pairs):
    assert find_revisits(path(*positions)) == pairs


def test_the_nearest_frame_of_a_visit_represents_it():
    positions = path(0, 10, 20, 1.9, 0.4, 1.5, 20)
    assert find_revisits(positions, tolerance=2) == [(0, 4), (2, 6)]


def test_trembling_at_the_edge_of_a_place_is_no_revisit():
    positions = path(0, 1.1, 0.9, 1.1, 0.9, 50, 0)
    assert find_revisits(positions, tolerance=1) == [(0, 6)]
    # 1.1 begins a place of its own; with away=1 the camera leaves the first one twice
    assert (0, 2) in find_revisits(positions, tolerance=1, away=1)


def test_away_asks_for_a_real_excursion():
    positions = path(0, 1, 2, 1, 0, 5, 9, 5, 0)
    assert (0, 4) in find_revisits(positions)
    assert [pair for pair in find_revisits(positions, away=4) if pair[0] == 0] == [(0, 8)]


def test_each_component_has_its_tolerance():
    cameras = np.array([[0, 1.0], [30, 1.0], [3, 1.0], [30, 1.0], [0, 1.5]])
    assert find_revisits(cameras, tolerance=[4, 0.1]) == [(0, 2), (1, 3)]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=25), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_path_and_its_reverse_visits_everything_again(places, far):
    there = path(*places)
    cameras = np.concatenate([there, path(100 * far), there[::-1]])
    pairs = find_revisits(cameras)
    assert all(first < later and cameras[first] == cameras[later] for first, later in pairs)
    assert all(first == np.flatnonzero(cameras[:, 0] == cameras[first, 0])[0] for first, _ in pairs)
    again = {float(cameras[later, 0]) for _, later in pairs if later > len(places)}
    assert again == set(map(float, places))


def test_frames_of_visits_are_compared():
    random = np.random.default_rng(0)
    frames = random.random((5, 12, 14, 3))
    frames[4] = frames[0]
    frames[3] = 0.9 * frames[1]
    found = revisit(iter(frames), path(0, 1, 2, 1, 0))
    assert found.pairs == ((1, 3), (0, 4))
    np.testing.assert_allclose(found.psnr, [psnr(frames[3], frames[1]), math.inf])
    np.testing.assert_allclose(found.ssim, [ssim(frames[3], frames[1]), 1])
    assert found.mean_ssim == pytest.approx(found.ssim.mean())
    assert found.mean_psnr == math.inf
    bytes_ = (frames * 255).round().astype(np.uint8)
    assert revisit(torch.from_numpy(bytes_).permute(0, 3, 1, 2), path(0, 1, 2, 1, 0)).psnr[0] == pytest.approx(
        found.psnr[0], abs=0.1
    )


def test_what_moved_between_visits_can_be_masked():
    frames = np.random.default_rng(0).random((5, 12, 14, 3))
    masks = np.ones((5, 12, 14), bool)
    frames[4] = frames[0]
    frames[4, 2:6, 3:8] = 0
    masks[4, 2:6, 3:8] = False  # a character came in
    masks[1], masks[3] = False, True
    cameras = path(0, 1, 2, 1, 0)
    found = revisit(iter(frames), cameras, masks=iter(masks))
    assert np.isnan(found.psnr[0])
    assert np.isnan(found.ssim[0])
    assert found.mean_psnr == math.inf
    assert found.mean_ssim == pytest.approx(1)
    assert revisit(frames, cameras).psnr[1] < 20
    with pytest.raises(InputError, match="there are 4 masks but more frames"):
        revisit(frames, cameras, masks=masks[:4])


def test_scene_return_consistency_of_the_seeded_resnet18():
    """The score that was recorded with torchvision's ResNet-18 on seeded weights and frames."""
    network = resnet18(weights=None)
    network.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    network.load_state_dict(seeded.fill(network.state_dict(), seed=0))
    network.eval()

    @torch.no_grad()
    def resnet(pixels: torch.Tensor) -> torch.Tensor:
        return network(pixels.movedim(-1, 1))

    frames = seeded.tensor("frames", (8, 3, 64, 64), seed=0)
    visits = {"a": [0, 3, 6], "b": [1, 4], "c": [2, 5, 7]}
    pairs = [(first, later) for first, *others in visits.values() for later in others]
    found = scene_return_consistency(frames, pairs, resnet, batch=3)
    assert found.score == pytest.approx(99.48034882545471, rel=1e-6)
    expected = [0.9943819046020508, 0.9945496916770935, 0.9952852725982666, 0.995526909828186, 0.9942736625671387]
    np.testing.assert_allclose(found.cosines, expected, rtol=1e-6)
    assert found.extractor.endswith("resnet")


def test_a_place_that_looks_the_same_scores_higher():
    random = np.random.default_rng(0)
    frames = random.random((4, 16, 16, 3))
    frames[2] = frames[0]
    frames[3] = 0.1 * frames[1]
    found = scene_return_consistency(iter(frames), [(0, 2), (1, 3)], RandomFeatures(0))
    assert found.cosines[0] == pytest.approx(1)
    assert found.cosines[1] < 0.99
    assert found.extractor == "random convolutions, seed 0"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_revisits(np.zeros(4)), r"cameras have shape \(4,\)"),
        (lambda: find_revisits(path(0, math.nan)), "expected finite numbers"),
        (lambda: find_revisits(path(0, 1), tolerance=-1), "tolerance must be a number"),
        (lambda: find_revisits(path(0, 1), tolerance=[1, 2]), "or 1 of them"),
        (lambda: find_revisits(path(0, 1), tolerance=2, away=1), "away must be at least the tolerance"),
        (lambda: revisit(np.zeros((3, 12, 12, 3)), path(0, 1, 2)), "comes back to no place"),
        (lambda: revisit(np.zeros((2, 12, 12, 3)), path(0, 1, 0)), "the video has 2 frames, but frame 2 is needed"),
        (lambda: revisit(np.zeros((3, 8, 8, 3)), path(0, 1, 0)), "SSIM needs 11 x 11"),
        (lambda: scene_return_consistency([], [], RandomFeatures(0)), "no pairs of visits"),
        (lambda: scene_return_consistency(np.zeros((2, 8, 8, 3)), [(-1, 1)], RandomFeatures(0)), "counted from 0"),
        (lambda: scene_return_consistency(np.ones((2, 8, 8, 3)), [(0, 1)], lambda x: x[:, 0, 0] * 0), "are all 0"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(InputError, match=message):
        call()
