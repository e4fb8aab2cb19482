"""Objects of wrong types as arguments of measures: one line that says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from visionzoo.errors import InputError
from visionzoo.metrics import (
    RandomFeatures,
    ciede2000,
    clip_features,
    color_drift,
    color_hit,
    evaluate,
    fid,
    find_revisits,
    frechet_distance,
    fvd,
    image_features,
    masked_psnr,
    nearest_color,
    psnr,
    region_color,
    scene_return_consistency,
    seam,
    seam_of_changes,
    warp_error,
)

FRAMES = [np.zeros((12, 12, 3), np.uint8)] * 3
IMAGE = FRAMES[0]
FLOWS = [np.zeros((12, 12, 2), np.float32)] * 2
NETWORK = RandomFeatures()
RED: Any = {"red": (255, 0, 0)}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: image_features(FRAMES, None), "the extractor must be a function of images, such as .*, got None"),
        (lambda: fid(FRAMES, FRAMES, "resnet18.pth"), "the extractor must be .*, got 'resnet18.pth'"),
        (lambda: clip_features(FRAMES, {}, length=2), "the extractor must be .*, got an object of class dict"),  # pyright: ignore
        (lambda: scene_return_consistency(FRAMES, [(0, 2)], None), "the extractor must be"),
        (lambda: scene_return_consistency(FRAMES, 3, NETWORK), "pairs must be pairs .* of frame numbers, got 3"),
        (
            lambda: seam("x.mp4", [1]),
            r"frames must be images, one .*\(of a video file: visionzoo.io.video.read_frames\)",
        ),
        (lambda: seam(None, [1]), "frames must be images, .*, got None"),
        (lambda: seam(FRAMES, 1), "borders must be a list of whole numbers of frames, got 1"),
        (lambda: fvd(None, [FRAMES], NETWORK), "generated must be videos, .*, got None"),
        (lambda: warp_error(FRAMES, None), "flows must be an iterable, with one for each frame, got None"),
        (lambda: warp_error(FRAMES, "xy"), "flows must be an iterable, with one for each frame, got 'xy'"),
        (lambda: warp_error(FRAMES, FLOWS, [None, None]), r"mask 0 must be an array \(H, W\) of bool, got None"),
        (
            lambda: warp_error(FRAMES, [object()] * 2),
            r"flow 0 must be an array \(H, W, 2\), got an object of class object",
        ),
        (lambda: seam_of_changes("abc", [1]), r"changes must be numbers \(T - 1,\), got 'abc'"),
        (lambda: psnr(IMAGE, None), "reference is a NoneType, expected an array"),
        (lambda: masked_psnr(None, IMAGE, np.ones((12, 12), bool)), "prediction is a NoneType, expected an array"),
        (lambda: masked_psnr(IMAGE, IMAGE, None), r"the mask must be an array \(H, W\), got None"),
        (lambda: region_color(IMAGE, None), r"the mask must be an array \(H, W\) of bool, got None"),
        (lambda: nearest_color((1, 2, 3), ["red"]), "the palette must be a dictionary of names and colors, got an"),
        (lambda: color_hit(IMAGE, np.ones((12, 12), bool), None, RED), "there is no color None; known: red"),
        (lambda: ciede2000("red", "blue"), r"lab1 must be numbers \(..., 3\)"),
        (lambda: color_drift(FRAMES, FLOWS, "red"), "colors must be a dictionary of regions .*, got 'red'"),
        (lambda: find_revisits("abc"), r"cameras must be numbers \(T, k\), got 'abc'"),
        (lambda: frechet_distance(None, IMAGE), r"features1 must be an array \(N, D\), got None"),
        (lambda: evaluate(None, []), "rankings must be a list of database indices for each query, got None"),
        (lambda: evaluate([[0]], [3]), "the ground truth of a query must have easy, hard and junk images, got 3"),
        (lambda: evaluate([[0]], []), "1 rankings for 0 queries"),
    ],
)
def test_one_line_says_what_was_expected(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
