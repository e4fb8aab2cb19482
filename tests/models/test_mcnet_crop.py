"""Suggested crops of faces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionzoo.models.mcnet.crop import iou, link_tubes, square_crop, union


@given(
    left=st.integers(0, 400),
    top=st.integers(0, 400),
    width=st.integers(8, 200),
    height=st.integers(8, 200),
    margin=st.floats(0, 0.5),
)
def test_crop_is_square_around_the_face_unless_cut_off(
    left: int, top: int, width: int, height: int, margin: float
) -> None:
    box = (left, top, left + width, top + height)
    crop = square_crop(box, 600, 600, margin)
    assert crop.left <= left
    assert crop.top <= top
    assert 0 <= crop.box[0] < crop.box[2] <= 600
    assert 0 <= crop.box[1] < crop.box[3] <= 600
    if crop.left > 0 and crop.top > 0 and crop.box[2] < 600 and crop.box[3] < 600:
        assert abs(crop.width - crop.height) <= 2  # truncated at four edges
        assert crop.width == pytest.approx((1 + 2 * margin) * max(width, height), abs=2)


def test_boxes() -> None:
    others = [(0, 0, 9, 9), (10, 0, 19, 9), (5, 0, 14, 9)]
    assert iou(others, (0, 0, 9, 9)).tolist() == pytest.approx([1, 0, 50 / 150])
    assert iou([], (0, 0, 9, 9)).tolist() == []
    assert union((0, 0, 9, 9), (5, 2, 14, 7)) == (0, 0, 14, 9)


def test_tubes() -> None:
    still, moving = (10, 10, 50, 50), [(100 + i, 10, 150 + i, 60) for i in range(80)]
    frames = [[still, moving[i]] if i < 20 else [moving[i]] for i in range(80)]
    tubes = link_tubes(frames, least_frames=10)
    assert [(tube.start, tube.end, tube.box) for tube in tubes if tube.first == still] == [(0, 20, still)]
    # a face that moved away from where it was first seen begins anew
    walker = [tube for tube in tubes if tube.first != still]
    assert walker[0].first == moving[0]
    assert walker[0].end < 40
    assert walker[1].end < 80
    assert walker[1].start == walker[0].end
    assert link_tubes(frames, least_frames=81) == []
    assert link_tubes([]) == []
