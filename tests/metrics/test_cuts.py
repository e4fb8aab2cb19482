"""Scene cuts are those of PySceneDetect on a video file, and the result says how they were found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.io.video import VideoWriter, read_frames
from visionzoo.metrics import scene_cuts


def scenes(*lengths: int, size: tuple[int, int] = (24, 32)) -> list[np.ndarray]:
    """Scenes of random blocks that move by a pixel per frame."""
    random = np.random.default_rng(0)
    frames = []
    for length in lengths:
        picture = np.kron(random.integers(0, 255, (size[0] // 8, size[1] // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        frames += [np.roll(picture, number, axis=1) for number in range(length)]
    return frames


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_the_cuts_of_a_file_are_those_of_the_package(tmp_path: Path, detector) -> None:
    import scenedetect

    path = tmp_path / "wide.mkv"
    with VideoWriter(path, fps=8.0, lossless=True) as video:
        for frame in scenes(17, 9, 21, size=(96, 320)):  # wider than 256 pixels: the package scales such frames down
            video.write(frame)
    for shortest in (15, 4):
        made = {"adaptive": scenedetect.AdaptiveDetector, "content": scenedetect.ContentDetector}[detector]
        found = scenedetect.detect(str(path), made(min_scene_len=shortest))
        theirs = [start.frame_num for start, _ in found[1:]]
        assert list(scene_cuts(read_frames(path), detector=detector, min_scene_len=shortest).cuts) == theirs
        assert theirs == ([17] if shortest == 15 and detector == "adaptive" else theirs)
    assert theirs == [17, 26]


def test_a_result_says_how_it_was_found() -> None:
    import scenedetect

    found = scene_cuts(scenes(6, 7, 8), detector="content", threshold=20, min_scene_len=3)
    assert (found.cuts, found.count, found.frames) == ((6, 13), 2, 21)
    assert found.settings == (
        f"ContentDetector, threshold 20, min_scene_len 3 frames, scenedetect {scenedetect.__version__}"
    )
    assert scene_cuts(scenes(6, 7, 8), min_scene_len=30).count == 0
    assert scene_cuts(scenes(30)).count == 0


def test_mistakes_are_named() -> None:
    for settings, says in (
        ({"detector": "hash"}, "the detector must be one of adaptive, content, got 'hash'"),
        ({"threshold": 0.0}, "the threshold must be above 0, got 0"),
        ({"min_scene_len": 0}, "min_scene_len must be at least 1 frame, got 0"),
    ):
        with pytest.raises(InputError, match=says):
            scene_cuts(scenes(2), **settings)
    with pytest.raises(InputError, match="the video has no frames"):
        scene_cuts([])


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'visionzoo\[cuts\]'"):
        scene_cuts(scenes(2))
