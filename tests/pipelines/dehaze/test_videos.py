"""Dehazing videos: frames keep their times and their shape, and an interrupted video is finished as if it had not been."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.pipelines.dehaze.files import DehazeJob
from visionzoo.pipelines.dehaze.pipeline import DehazePipeline

from ...command import run

pytest.importorskip("av")


class Flickering:
    """A fake pipeline that brightens each frame by another amount, so that smoothing has an effect."""

    gpus = 0.0

    def __init__(self, stops_at: int | None = None) -> None:
        self.calls, self.stops_at = 0, stops_at

    def restore_tensor(self, image: Tensor, stream: object) -> Tensor:
        del stream
        if self.stops_at is not None and self.calls >= self.stops_at:
            raise KeyboardInterrupt
        self.calls += 1
        return image * (0.5 + 0.3 * float(image.mean())) + 0.1

    def resolve_options(self, stream: object) -> SimpleNamespace:
        del stream
        return SimpleNamespace(blend=0)

    def facts(self) -> dict[str, Any]:
        return {"model": "flickering"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 small frames: the first 20 at 10 a second, the others at 30."""
    path = tmp_path_factory.mktemp("clip") / "uneven.mkv"
    rng = np.random.default_rng(0)
    with VideoWriter(path, fps=24, variable=True) as video:
        for number in range(80):
            time = Fraction(number, 10) if number < 20 else 2 + Fraction(number - 20, 30)
            pixels = np.full((16, 24, 3), rng.integers(60, 200), np.uint8)
            video.write(pixels, time=time, duration=Fraction(1, 10 if number < 20 else 30))
    return path


def job(**options: Any) -> DehazeJob:
    return DehazeJob(cast(DehazePipeline, Flickering(**options)), smooth=0.5)


def test_every_frame_is_shown_when_it_was(tmp_path: Path, clip: Path) -> None:
    shown: list[int] = []
    result = job().convert(clip, tmp_path / "out.mp4", lambda what, done, of: shown.append(of))
    assert set(shown) == {80}
    assert (result.width, result.height, result.frames) == (24, 16, 80)
    before, after = ([frame.time_s for frame in read_frames(path)] for path in (clip, tmp_path / "out.mp4"))
    assert after == pytest.approx(before, abs=1e-3)
    assert probe(tmp_path / "out.mp4").duration == pytest.approx(4, abs=0.02)
    assert json.loads((tmp_path / "out.mp4.json").read_text())["result"]["frames"] == 80


def test_an_interrupted_video_is_finished_identically(tmp_path: Path, clip: Path) -> None:
    job().convert(clip, tmp_path / "whole.mp4", lambda *_: None)
    with pytest.raises(KeyboardInterrupt, match="the first 50 frames of out.mp4 are kept"):
        job(stops_at=67).convert(clip, tmp_path / "out.mp4", lambda *_: None)
    rest = job()
    rest.convert(clip, tmp_path / "out.mp4", lambda *_: None)
    assert cast(Flickering, rest.pipe).calls == 30
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.fixture
def gif(tmp_path: Path) -> Path:
    """Three frames, the second of which is shown for twice the time."""
    path = tmp_path / "moves.gif"
    frames = [Image.fromarray(np.full((64, 96, 3), level, np.uint8)) for level in (60, 120, 180)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 200, 100])
    return path


def test_all_frames_of_an_animation_become_a_video(
    gif: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "clear.mp4"
    code, _, err = run(capsys, "dehaze", gif, "-o", out, "--checkpoint", weights)
    assert code == 0
    assert "warning" not in err
    info = probe(out)
    assert (info.width, info.height) == (96, 64)
    levels = [float(frame.pixels.mean()) for frame in read_frames(out)]
    times = [float(frame.time) for frame in read_frames(out)]
    assert levels == sorted(levels)
    assert len(set(np.round(levels))) == 3
    assert times[-1] == pytest.approx(0.3, abs=0.02)


def test_an_animation_that_becomes_an_image_is_a_warning(
    gif: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    code, _, err = run(capsys, "dehaze", gif, "-o", tmp_path / "clear.png", "--checkpoint", weights)
    assert code == 0
    says = "moves.gif: is an animation of 3 frames, of which only the first is dehazed; to dehaze all of them, write a video"
    assert err.count(says) == 1
    Image.open(gif).save(tmp_path / "still.gif")
    Image.open(gif).save(tmp_path / "moves.webp", save_all=True)
    for name, count in {"still.gif": 0, "moves.webp": 1}.items():
        code, _, err = run(capsys, "dehaze", tmp_path / name, "-o", tmp_path / f"{name}.png", "--checkpoint", weights)
        assert (code, err.count("is an animation")) == (0, count)
        assert "write a video" not in err
