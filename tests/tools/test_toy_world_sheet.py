"""Pictures of the toy world's truths."""

from __future__ import annotations

import numpy as np

from tools.toy_world_sheet import flow_colors, truths
from visionzoo.data.toy_world import ToyWorld


def test_flow_of_all_frames_is_shown_in_the_same_colours():
    still, right, fast = (flow_colors(np.full((2, 2, 2), (x, 0), np.float32), 8)[0, 0] for x in (0, 8, 80))
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == fast.tolist() == [255, 0, 0]
    left, down = (flow_colors(np.full((1, 1, 2), flow, np.float32), 8)[0, 0] for flow in ((-8, 0), (0, 4)))
    assert np.abs(left.astype(int) - [0, 255, 255]).max() < 8
    assert down.min() in (127, 128)


def test_every_instance_has_a_colour_of_its_own():
    clip = ToyWorld.create(2, "test", characters=2).film(3, size=(64, 96))
    shown = dict(truths(clip, 1))
    pairs = {
        (int(number), *color)
        for number, color in zip(clip[1].instances.ravel(), shown["instances"].reshape(-1, 3).tolist(), strict=True)
    }
    assert len(pairs) == len({number for number, *_ in pairs}) == len({tuple(color) for _, *color in pairs})
