"""On clips of the toy world, whose truth is known, the measures find no fault, and find the faults that are put in."""

from __future__ import annotations

import numpy as np
import pytest

from visionzoo.data.toy_world import COLORS, Clip, Frame, ToyWorld
from visionzoo.metrics import color_drift, color_hit, revisit, warp_error

INK = 60_000
"""Id of the lines, so that they count to no region."""


@pytest.fixture(scope="module")
def clip() -> Clip:
    return ToyWorld.create(3, "test", characters=1).film(24, actions=["go right", "go left"], hold=12)


@pytest.fixture(scope="module")
def frames(clip: Clip) -> list[Frame]:
    return list(clip)


def without_lines(frame: Frame) -> np.ndarray:
    return np.where(frame.ink > 250, frame.regions, INK)


def test_true_colors_do_not_drift(clip, frames):
    true = {region.number: region.rgb for region in clip.regions}
    drift = color_drift((frame.rgb for frame in frames), map(without_lines, frames), true)
    assert np.nanmax(drift.distances) == pytest.approx(0, abs=1e-6)
    fading = (np.uint8(np.round(frame.rgb * (1 - t / 100))) for t, frame in enumerate(frames))
    assert color_drift(fading, map(without_lines, frames), true).slope > 0.1


def test_named_colors_are_hit(clip, frames):
    named = [region for region in clip.regions if region.color in COLORS]
    frame = frames[0]
    hits = [color_hit(frame.rgb, without_lines(frame) == region.number, region.color, COLORS) for region in named]
    assert True in hits
    assert False not in hits


def test_the_true_flow_explains_the_motion(frames):
    rgb = [frame.rgb for frame in frames]
    moving = warp_error(rgb, (frame.flow for frame in frames), (frame.valid for frame in frames))
    still = warp_error(rgb, (np.zeros_like(frame.flow) for frame in frames))
    assert moving.mean < still.mean / 4
    assert 0.9 < moving.compared.mean() < 1


def test_places_without_characters_look_the_same_again():
    clip = ToyWorld.create(1, "test", characters=0).film(33, actions=["go right", "wait"], hold=8, start=4.0)
    back = ToyWorld.create(1, "test", characters=0).film(
        9, actions=["go left"], hold=8, start=float(clip.cameras[-1, 0])
    )
    views = [*clip.frames(motion=False), *back.frames(motion=False)]
    cameras = np.concatenate([clip.cameras, back.cameras])
    found = revisit((view.rgb for view in views), cameras)
    assert len(found.pairs) > 5
    assert found.psnr.min() > 50
