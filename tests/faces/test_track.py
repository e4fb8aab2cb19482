"""The same person through a clip, and crops that neither shake nor lose the head."""

from __future__ import annotations

import numpy as np
import pytest

from visionzoo.errors import InputError
from visionzoo.faces import CropBox, Face, FaceTrack, fixed_box, follow_face, moving_boxes, open_detector
from visionzoo.faces.track import LOST_AFTER, overlap

FRAME = np.zeros((4, 4, 3), np.uint8)


class Scripted:
    """A fake detector that finds the given faces: one list of (left, top, side) per call."""

    name = "scripted"

    def __init__(self, script: list[list[tuple[float, float, float]]]) -> None:
        self.script, self.calls = script, 0

    def __call__(self, image) -> list[Face]:
        found = self.script[self.calls]
        self.calls += 1
        return [Face((left, top, left + side, top + side), 0.9) for left, top, side in found]


def frames(count: int, fps: float = 25.0):
    return ((number / fps, FRAME) for number in range(count))


def track_of(boxes) -> FaceTrack:
    return FaceTrack(np.arange(len(boxes)) / 25, np.array(boxes, float), None)


def test_it_stays_with_the_person_chosen_first() -> None:
    script = [[(0.0 + n, 0.0, 50.0), (200.0, 0.0, 40.0 + 5 * n)] for n in range(10)]
    track = follow_face(frames(10), Scripted(script))
    np.testing.assert_array_equal(track.boxes[:, 0], np.arange(10))
    right = follow_face(frames(10), Scripted(script), 2)
    assert (right.boxes[:, 0] == 200).all()
    assert right.first is not None
    assert right.first.width == 40


def test_a_lost_face_is_waited_for_and_then_replaced() -> None:
    other = [(300.0, 0.0, 50.0)]
    script = [[(0.0, 0.0, 50.0)]] + [other] * (LOST_AFTER + 3)
    track = follow_face(frames(len(script)), Scripted(script))
    assert track.found.tolist() == [True] + [False] * LOST_AFTER + [True] * 3


def test_frames_between_searches_count_as_not_found() -> None:
    detector = Scripted([[(0.0, 0.0, 50.0)]] * 4)
    track = follow_face(frames(10), detector, every=3)
    assert detector.calls == 4
    assert np.flatnonzero(track.found).tolist() == [0, 3, 6, 9]


def test_small_faces_are_ignored() -> None:
    track = follow_face(frames(2), Scripted([[(0.0, 0.0, 10.0)], [(0.0, 0.0, 30.0)]]))
    assert track.found.tolist() == [False, True]


def test_a_clip_without_a_face() -> None:
    track = follow_face(frames(3), Scripted([[]] * 3))
    assert track.first is None
    for make in (fixed_box, moving_boxes):
        with pytest.raises(InputError, match="no face was found in 3 frames"):
            make(track)


def test_bad_values_are_named() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        follow_face(frames(0), Scripted([]))
    with pytest.raises(InputError, match="every must be at least 1"):
        follow_face(frames(1), Scripted([[]]), every=0)


def test_the_fixed_crop_holds_the_head_wherever_it_goes() -> None:
    boxes = [(10 + n, 20, 60 + n, 80) for n in range(40)]
    assert fixed_box(track_of(boxes), 1.0) == pytest.approx((10 + 0.5, 6.5, 87), abs=2)
    assert fixed_box(track_of(boxes)).side == pytest.approx(1.2 * fixed_box(track_of(boxes), 1.0).side)


def test_one_false_face_does_not_blow_it_up() -> None:
    boxes = [(10, 20, 60, 80)] * 99 + [(0, 0, 600, 600)]
    assert fixed_box(track_of(boxes), 1.0) == CropBox(5, 20, 60)


def test_moving_crops_are_steadier_and_stay_with_the_face() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 100, 100)
    boxes = np.stack([x, x * 0, x + 50, x * 0 + 60], 1) + rng.normal(0, 1, (100, 4))
    moving = moving_boxes(track_of(boxes))
    centres = np.array([box.left + box.side / 2 for box in moving])
    raw = (boxes[:, 0] + boxes[:, 2]) / 2
    assert np.abs(np.diff(centres, 2)).mean() < 0.3 * np.abs(np.diff(raw, 2)).mean()
    assert np.abs(centres - (x + 25)).max() < 0.15 * 90
    assert np.std([box.side for box in moving]) < 1.5


def test_gaps_are_bridged() -> None:
    boxes = np.array([(10, 10, 60, 60)] * 10, float)
    boxes[[0, 4, 5, 9]] = np.nan
    assert moving_boxes(track_of(boxes), 1.0) == [pytest.approx((10, 10, 50))] * 10


@pytest.mark.parametrize(
    ("other", "share"),
    [((0, 0, 10, 10), 1), ((5, 0, 15, 10), 1 / 3), ((10, 0, 20, 10), 0), ((3, 3, 3, 3), 0), ((2, 2, 4, 4), 0.04)],
)
def test_overlap(other, share) -> None:
    assert overlap([(0, 0, 10, 10)], other).tolist() == pytest.approx([share])
    assert overlap([(3, 3, 3, 3)], (3, 3, 3, 3)) == [0]


def test_a_real_face_that_moves(astronaut) -> None:
    detector = open_detector()
    assert detector is not None
    shifted = [(n / 25, np.ascontiguousarray(np.roll(astronaut, 10 * n, axis=1))) for n in range(4)]
    track = follow_face(shifted, detector)
    assert np.diff(track.boxes[:, 0]) == pytest.approx([10, 10, 10], abs=3)
