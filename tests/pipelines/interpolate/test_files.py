"""Interpolated video files: times, speed, sound, cuts, resuming, and videos without pairs of frames."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.pipelines.interpolate import InterpolatePipeline
from visionzoo.pipelines.interpolate import files as job_module
from visionzoo.pipelines.interpolate.files import InterpolateJob

from ...command import run
from .blending import blending_network

pytest.importorskip("av")


@pytest.fixture(scope="module")
def pipe() -> InterpolatePipeline:
    return InterpolatePipeline(blending_network(), device="cpu", dtype="float32")


def write(path: Path, levels: list[int], times: list[Fraction] | None = None, fps: int = 10) -> Path:
    """A video of flat frames; with times, at a variable rate."""
    with VideoWriter(path, fps=fps, variable=times is not None, lossless=True) as video:
        for number, level in enumerate(levels):
            frame = np.full((22, 34, 3), level, np.uint8)
            if times is None:
                video.write(frame)
            else:
                video.write(frame, time=times[number], duration=times[number + 1] - times[number])
    return path


def shown(path: Path) -> list[tuple[float, int]]:
    """Time and level of each frame; levels are multiples of 10, which encoding may change by 1."""
    return [(round(frame.time_s, 3), 10 * round(float(frame.pixels.mean()) / 10)) for frame in read_frames(path)]


def convert(pipe: InterpolatePipeline, source: Path, target: Path, **options: Any) -> Path:
    pipe.run(source, target, progress=False, cut=1.0, **options)
    return target


def test_speed_is_kept_and_the_rate_grows(pipe: InterpolatePipeline, tmp_path: Path) -> None:
    """The last frame has no next one, so it is shown as long as before."""
    source = write(tmp_path / "a.mkv", [0, 40, 80])
    made = convert(pipe, source, tmp_path / "b.mkv", factor=4)
    info = probe(made)
    assert (info.fps, info.width, info.height, info.duration) == (40, 34, 22, probe(source).duration)
    assert [level for _, level in shown(made)] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 80, 80, 80]
    assert json.loads((tmp_path / "b.mkv.json").read_text())["options"]["factor"] == 4


def test_another_rate_changes_the_speed(pipe: InterpolatePipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", [0, 40, 80])
    made = convert(pipe, source, tmp_path / "b.mkv", factor=2, fps=10)
    assert (probe(made).fps, probe(made).duration) == (10, 2 * probe(source).duration)
    assert [level for _, level in shown(made)] == [0, 20, 40, 60, 80, 80]


def test_frames_at_a_variable_rate_get_new_ones_halfway_in_time(pipe: InterpolatePipeline, tmp_path: Path) -> None:
    times = [Fraction(n, 100) for n in (0, 10, 40, 50, 60, 70, 100)]
    source = write(tmp_path / "a.mkv", [0, 40, 80, 120, 160, 200], times)
    assert probe(source).is_variable
    made = shown(convert(pipe, source, tmp_path / "b.mkv"))
    assert made[:6] == [(0.0, 0), (0.05, 20), (0.1, 40), (0.25, 60), (0.4, 80), (0.45, 100)]
    assert len(made) == 11


def sounding(path: Path) -> Path:
    """A video with half a second of sound."""
    import av

    silent = write(path.with_stem("silent"), [0, 40, 80, 120, 160])
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("ffv1", rate=10), out.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt = 34, 22, "bgr0"
        for frame in read_frames(silent):
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")))
        wave = av.AudioFrame.from_ndarray(np.arange(4000, dtype=np.int16)[None], format="s16", layout="mono")
        wave.rate = 8000
        out.mux(sound.encode(wave))
        for stream in (video, sound):
            out.mux(stream.encode(None))
    return path


def test_sound_is_kept_unless_the_speed_changes(pipe: InterpolatePipeline, tmp_path: Path) -> None:
    import av

    source = sounding(tmp_path / "a.mkv")
    counts = []
    for name, options in (("b", {}), ("c", {"fps": 10})):
        with av.open(str(convert(pipe, source, tmp_path / f"{name}.mkv", **options))) as made:
            counts.append(len(made.streams.audio))
    assert counts == [1, 0]


def test_an_interrupted_video_is_finished_as_if_it_had_not_been(
    pipe: InterpolatePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "PART_FRAMES", 8)
    source = write(tmp_path / "a.mkv", list(range(0, 240, 12)))
    job = InterpolateJob(pipe, cut=1, batch_size=2)
    job.convert(source, tmp_path / "straight.mp4", lambda *_: None)

    def stop(what: str, done: int, of: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"frames of out\.mp4 are kept; run it again to resume"):
        job.convert(source, tmp_path / "out.mp4", stop)
    reported: list[int] = []
    job.convert(source, tmp_path / "out.mp4", lambda what, done, of: reported.append(done))
    assert reported[0] > 16
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "straight.mp4").read_bytes()


def test_a_video_of_two_frames_and_one_of_one(pipe: InterpolatePipeline, tmp_path: Path) -> None:
    made = convert(pipe, write(tmp_path / "two.mkv", [0, 100]), tmp_path / "out.mkv")
    assert [level for _, level in shown(made)] == [0, 50, 100, 100]
    with pytest.raises(InputError, match=r"one\.mkv: has one frame; frames can be added between two or more"):
        convert(pipe, write(tmp_path / "one.mkv", [0]), tmp_path / "none.mkv")
    assert not list(tmp_path.glob("*none*"))


def test_rates_that_no_video_has(pipe: InterpolatePipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", [0, 40, 80], fps=60)
    with pytest.raises(InputError, match=r"a\.mkv: has 60 frames a second, and 32 times as many are too many"):
        convert(pipe, source, tmp_path / "b.mkv", factor=32)
    with pytest.raises(InputError, match="fps must be above 0 and at most 1000, got 0"):
        InterpolateJob(pipe, fps=0)


def test_the_command_writes_samples_and_interpolates_them(
    pipe: InterpolatePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("net")
    assert run(capsys, "interpolate", "samples", "-o", "clips")[0] == 0
    code, _, err = run(
        capsys, "interpolate", "clips/temple.mp4", "-o", "out.mp4", "--checkpoint", "net/model.safetensors",
        "--device", "cpu",
    )  # fmt: skip
    assert (code, probe("clips/temple.mp4").fps, probe("out.mp4").fps) == (0, 6, 12), err
    assert probe("out.mp4").frames == 2 * probe("clips/temple.mp4").frames
