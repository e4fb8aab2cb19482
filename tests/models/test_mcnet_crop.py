"""Suggested crops of faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import face_tubes
from visionzoo.errors import InputError
from visionzoo.faces import Face
from visionzoo.io.video import VideoWriter
from visionzoo.models.mcnet.crop import iou, link_tubes, square_crop, union
from visionzoo.models.mcnet.data import ClipReader, find_clips


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
    # a face that moved away from where it was first seen starts a new tube
    walker = [tube for tube in tubes if tube.first != still]
    assert walker[0].first == moving[0]
    assert walker[0].end < 40
    assert walker[1].end < 80
    assert walker[1].start == walker[0].end
    assert link_tubes(frames, least_frames=81) == []
    assert link_tubes([]) == []


def test_faces_of_a_video_become_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tools.face_tubes`: every face that stays in view becomes a clip, cropped at its position; TalkingHeads finds the clips."""
    video = tmp_path / "two faces.mp4"
    with VideoWriter(video, fps=25, crf=1) as writer:
        for number in range(30):
            pixels = np.zeros((240, 480, 3), np.uint8)
            pixels[60:180, 60 + number : 180 + number] = (200, 30, 30)  # visible all the time
            if number < 20:
                pixels[60:180, 300:420] = (30, 30, 200)
            writer.write(pixels)
    monkeypatch.setattr(face_tubes, "MTCNN", lambda: _squares)
    made = face_tubes.cut_faces([video], tmp_path / "train", size=128, least_frames=10)
    assert [path.name for path in made] == ["two faces#000#0#29.mp4", "two faces#001#0#19.mp4"]
    clips = find_clips(tmp_path / "train")
    assert {clip.identity for clip in clips} == {"two faces"}
    reader = ClipReader(128)
    assert [reader.count(clip) for clip in clips] == [30, 20]
    red, blue = (reader.read(clip, [5])[0].astype(int) for clip in clips)
    assert np.abs(blue[64, 64] - (30, 30, 200)).max() < 12
    assert np.abs(red[64, 64] - (200, 30, 30)).max() < 12
    assert blue[4].max() < 30, "a tenth of margin around the face"
    assert face_tubes.cut_faces([video], tmp_path / "none", least_frames=31) == []
    with pytest.raises(InputError, match="two faces: two videos have this name"):
        face_tubes.cut_faces([video, tmp_path / "two faces.mov"], tmp_path / "train")


def _squares(pixels: np.ndarray) -> list[Face]:
    """The coloured squares of a frame, as faces."""
    faces = []
    for channel in (0, 2):
        rows, columns = np.nonzero(pixels[..., channel] > 120)
        if len(rows):
            faces.append(Face((columns.min(), rows.min(), columns.max(), rows.max()), 1.0))
    return faces
