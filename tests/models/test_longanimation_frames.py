"""LongAnimation's segments, frames, line art and fusion of latents."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import seeded
from visionzoo.errors import InputError
from visionzoo.models.longanimation import (
    ColorFusion,
    LineartConfig,
    LineartExtractor,
    LineartGenerator,
    check_size,
    is_line_art,
    plan_segments,
    prepare_frames,
    sketches_from,
    written_frames,
)


@given(st.integers(0, 700), st.booleans(), st.booleans())
def test_segments_write_every_frame_once_in_order(total: int, aligned: bool, drop: bool) -> None:
    plan = plan_segments(total, aligned_overlap=aligned, drop_remainder=drop)
    frames = [frame for each in plan for frame in range(each.start, each.stop)[each.written]]
    assert frames == list(written_frames(plan))
    assert all(0 <= each.start < each.stop <= total and each.length == 81 for each in plan)
    if not drop:
        assert frames == list(range(total))
    elif total >= 81:
        assert frames[0] == 1
        assert total - frames[-1] <= 9 + (64 if aligned else 65)
    else:
        assert plan == ()


@given(st.integers(82, 700), st.booleans(), st.sampled_from([2, 4]))
def test_fused_latents_are_of_the_same_frames(total: int, aligned: bool, count: int) -> None:
    """The latents that are fused differ by at most two frames from those of the segment before; by none if aligned."""
    plan = plan_segments(total, aligned_overlap=aligned, drop_remainder=False)
    for before, segment in pairwise(plan):
        place = segment.fused_latent(count)
        kept = before.start + 81 - 4 * count  # first frame of the last latents of the segment before
        own = segment.start + 1 + 4 * (place - 2)  # first frame of latent `place`, which is not the first
        assert place >= 2 - (count == 4 and segment.shared < 17)
        assert place + count <= 22
        assert abs(kept - own) <= 2
        if aligned and segment is not plan[-1]:
            assert kept == own


def test_published_overlap_is_a_frame_off_and_the_aligned_one_is_not() -> None:
    second, aligned = plan_segments(200)[1], plan_segments(200, aligned_overlap=True)[1]
    assert (second.start, second.shared, second.fused_latent()) == (65, 16, 2)
    assert (aligned.start, aligned.shared, aligned.fused_latent()) == (64, 17, 2)
    assert plan_segments(200, overlap=9)[1].fused_latent(2) == 2


def test_without_compression_of_time_fused_latents_are_of_the_same_frames() -> None:
    before, segment = plan_segments(60, length=17, overlap=9)[:2]
    place = segment.fused_latent(9, latent_frames=1)
    assert place == 1  # after the padding latent
    assert segment.start + place - 1 == before.stop - 9


@pytest.mark.parametrize("settings", [{"length": 80}, {"overlap": 8}, {"overlap": 80}, {"total": -1}])
def test_impossible_plans_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be 8 k|needs a number of frames"):
        plan_segments(**{"total": 200, **settings})


def test_frames_keep_their_size_and_centre() -> None:
    frames = np.zeros((2, 32, 96, 3), np.uint8)
    frames[:, :, 40:56] = 200
    same = prepare_frames(frames, 32, 96)
    assert torch.equal(same, torch.from_numpy(frames).movedim(-1, 1))
    narrow = prepare_frames(frames, 32, 32)
    assert torch.equal(narrow, same[..., 32:64])
    assert prepare_frames(frames[:, :, :30], 48, 80).shape == (2, 3, 48, 80)


def test_sizes_and_frames_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 16, got 100 x 64; the nearest are 96 x 64"):
        check_size(100, 64)
    with pytest.raises(InputError, match=r"\(F, H, W, 3\) uint8, got \(2, 32, 32\)"):
        prepare_frames(np.zeros((2, 32, 32), np.uint8), 32, 32)


def lineart() -> LineartGenerator:
    network = LineartGenerator(LineartConfig(width=4, residuals=1))
    network.load_state_dict(seeded.fill(network.state_dict()))
    return network.eval()


def test_extracted_sketches_do_not_depend_on_the_batch() -> None:
    frames = (255 * seeded.tensor("frames", (5, 3, 24, 32))).to(torch.uint8)
    one, many = (LineartExtractor(lineart(), 0.5, batch=batch)(frames) for batch in (1, 5))
    assert torch.equal(one, many)
    assert one.shape == frames.shape
    assert set(one.unique().tolist()) == {-1.0, 1.0}
    with pytest.raises(InputError, match="multiples of 4 from 8, got 30 x 32"):
        LineartExtractor(lineart())(torch.zeros(1, 3, 30, 32, dtype=torch.uint8))


def drawing() -> torch.Tensor:
    paper = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    paper[:, :, 8] = torch.tensor([20, 20, 90], dtype=torch.uint8)[:, None]  # a line in dark blue
    return paper


def test_own_drawings_become_sketches() -> None:
    sketches = sketches_from(drawing())
    assert torch.equal(sketches == 1, drawing() < 200)
    assert torch.equal(sketches_from(255 - drawing(), inverted=True), sketches)


def test_drawings_of_another_kind_are_named() -> None:
    with pytest.raises(InputError, match="bright lines on dark paper; pass inverted=True"):
        sketches_from(255 - drawing())
    with pytest.raises(InputError, match="dark lines on bright paper; pass inverted=False"):
        sketches_from(drawing(), inverted=True)
    colours = (255 * seeded.tensor("colours", (2, 3, 16, 16))).to(torch.uint8)
    with pytest.raises(InputError, match="give a video in colour as the video"):
        sketches_from(colours)
    assert not is_line_art(colours)


def test_fusion_moves_from_the_previous_latents_to_the_own_ones() -> None:
    fusion = ColorFusion()
    own, before = torch.ones(1, 22, 2, 1, 1), torch.zeros(1, 4, 2, 1, 1)
    fused = fusion.fuse(own, before, 40)
    assert fused[0, :7, 0, 0, 0].tolist() == pytest.approx([1, 1, 0.2, 0.4, 0.6, 0.8, 1])
    assert fusion.fuse(own, before, 30) is own
    assert fusion.fuse(own, None, 40) is own
    assert list(fusion.steps(34)) == [31, 32, 33]
    assert len(fusion.steps(50)) == 19
    assert not fusion.steps(20)


def test_kept_latents_do_not_change_with_the_segment() -> None:
    latents = torch.ones(1, 22, 2, 1, 1)
    kept = ColorFusion().tail(latents)
    latents.zero_()
    assert kept.sum() == 8


def test_latents_that_do_not_fit_are_not_fused() -> None:
    with pytest.raises(InputError, match="fused from index 2"):
        ColorFusion().fuse(torch.ones(1, 22, 2, 1, 1), torch.zeros(1, 3, 2, 1, 1), 40)
    with pytest.raises(InputError, match="fused from index 19"):
        ColorFusion().fuse(torch.ones(1, 22, 2, 1, 1), torch.zeros(1, 4, 2, 1, 1), 40, place=19)
    with pytest.raises(InputError, match=r"weights in \[0, 1\]"):
        ColorFusion(weights=(2.0,))
