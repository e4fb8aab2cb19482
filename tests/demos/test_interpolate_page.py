"""The demo page of frame interpolation: what its function returns and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, probe
from visionzoo.pipelines.interpolate import InterpolatePipeline

from .conftest import upload

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return InterpolatePipeline(tiny.ifnet(), device="cpu", dtype="float32")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps=10) as video:
        for number in range(3):
            video.write(np.full((40, 48, 3), 60 + 10 * number, np.uint8))
    return path


@pytest.mark.parametrize(("slow", "fps", "seconds"), [(False, 20, 0.3), (True, 10, 0.6)])
def test_a_video_with_new_frames_comes_out(
    pipe: Any, clip: Path, tmp_path: Path, slow: bool, fps: int, seconds: float
) -> None:
    from visionzoo.demos.interpolate import add_frames

    video, text = add_frames(pipe, upload(clip), 2, slow, tmp_path)
    assert (video.name, probe(video).fps, float(probe(video).duration)) == ("clip_2x.mp4", fps, seconds)
    assert "6 frames instead of 3" in text
    assert str(tmp_path) not in text
    assert not list(tmp_path.glob("*.json"))


def test_what_cannot_be_done_is_said(pipe: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import interpolate

    monkeypatch.setattr(interpolate, "MAX_PIXELS", 10_000)
    with pytest.raises(InputError, match="3 frames of 48 x 40 pixels, 2 times as many, are too much"):
        interpolate.add_frames(pipe, upload(clip), 2, False, tmp_path)
