"""Frames between two frames: their number and places, sizes, cuts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from visionzoo.errors import InputError
from visionzoo.pipelines.interpolate import InterpolatePipeline
from visionzoo.pipelines.interpolate.fractions import MOST, halvings, places

from .blending import blending_network


@pytest.fixture(scope="module")
def pipe() -> InterpolatePipeline:
    """Its middle frame is the mean of both."""
    return InterpolatePipeline(blending_network(), device="cpu", dtype="float32")


def flat(level: int, height: int = 37, width: int = 45) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_new_frames_of_a_power_of_2_are_evenly_spaced_and_keep_the_size(pipe: InterpolatePipeline) -> None:
    made = pipe(flat(0), flat(160), factor=8, cut=1)
    assert made.frames.shape == (7, 37, 45, 3)
    assert made.frames.mean((1, 2, 3)).tolist() == [20, 40, 60, 80, 100, 120, 140]
    assert not made.is_cut


def test_other_factors_are_rounded_to_a_32nd(pipe: InterpolatePipeline) -> None:
    made = pipe(flat(0), flat(160), factor=3, cut=1)
    assert made.frames.mean((1, 2, 3)).tolist() == [55, 105]  # 11 and 21 of 32


@given(st.integers(2, MOST))
def test_every_frame_is_made_once_from_frames_that_are_there(factor: int) -> None:
    steps, wanted = places(factor)
    assert len(set(wanted)) == factor - 1
    assert all(abs(at / steps - number / factor) <= 1 / 64 for number, at in enumerate(wanted, 1))
    there = {0, steps}
    for level in halvings(steps, wanted):
        assert all({a, b} <= there and a + b == 2 * middle for a, middle, b in level)
        new = [middle for _, middle, _ in level]
        assert not there & set(new)
        there |= set(new)
    assert set(wanted) <= there


def test_many_pairs_are_one_batch_with_equal_results() -> None:
    pipe = InterpolatePipeline(tiny.ifnet(), device="cpu", dtype="float32")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(4)]
    pairs = list(pairwise(frames))
    together = pipe.between(pairs, 4, batch_size=8)
    alone = [pipe.between([pair], 4, batch_size=1)[0] for pair in pairs]
    assert np.abs(np.array(together, int) - np.array(alone, int)).max() <= 1
    assert not np.array_equal(together[0][1], together[1][1])


def test_a_cut_repeats_the_frame_before_it(pipe: InterpolatePipeline) -> None:
    rng = np.random.default_rng(1)
    scenes = [np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((10, 10, 1))).astype(np.uint8) for _ in range(2)]
    video = [scenes[0], np.roll(scenes[0], 1, 1), scenes[1]]
    made = list(pipe.stream(video, 2))
    assert len(made) == 5
    assert np.array_equal(made[3], video[1])
    assert not np.array_equal(made[1], video[0])
    assert pipe(video[1], video[2]).is_cut
    assert not pipe(video[1], video[2], cut=1).is_cut


def test_a_flash_and_fast_motion_are_no_cuts(pipe: InterpolatePipeline) -> None:
    from visionzoo.data.toy_world import ToyWorld

    frames = [frame.rgb for frame in ToyWorld.create(5, "test").film(24).frames(motion=False)]
    assert not any(pipe(a, b).is_cut for a, b in zip(frames, frames[2:], strict=False))
    assert not pipe(frames[0], np.minimum(frames[0].astype(int) + 90, 255).astype(np.uint8)).is_cut


@pytest.mark.parametrize("factor", [1, 0, -2, 33, 2.0, True])
def test_impossible_factors(pipe: InterpolatePipeline, factor: int) -> None:
    with pytest.raises(InputError, match=f"factor must be a whole number from 2 to 32, got {factor}"):
        pipe(flat(0), flat(9), factor=factor)


def test_impossible_arguments(pipe: InterpolatePipeline) -> None:
    with pytest.raises(InputError, match=r"the frames are 45 x 37 pixels and 44 x 37 pixels; resize"):
        pipe(flat(0), flat(0, width=44))
    with pytest.raises(InputError, match="scale must be one of"):
        pipe(flat(0), flat(0), scale=3)
    with pytest.raises(InputError, match="cut must be from 0 to 1, got 2"):
        pipe(flat(0), flat(0), cut=2)
