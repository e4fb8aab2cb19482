"""Motion of a driving video: it is followed, smoothed, resampled, saved and used again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.jobs import silent
from visionzoo.models.mcnet import Keypoints, MCNet
from visionzoo.pipelines.reenact import ReenactPipeline
from visionzoo.pipelines.reenact.driver import DrivingVideo
from visionzoo.pipelines.reenact.files import ReenactJob
from visionzoo.pipelines.reenact.motion import Motion, nearest_frame

from .clips import frames_of, moving


def test_the_best_frame_has_the_same_pose() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(5, 10, 2, generator=generator)
    motion = Motion(Keypoints(value, torch.eye(2).expand(5, 10, 2, 2)), np.arange(5) / 25, Fraction(25), "w", 128)
    assert nearest_frame(0.3 * value[3] - 0.1, motion) == 3, "wherever it is, and however large"


def test_a_crop_follows_the_driver(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    """A face that moves to the right by 8 pixels a frame: a fixed crop shows it, one that follows does not."""
    image = load_image(face)
    with VideoWriter(tmp_path / "walk.mp4", fps=25) as writer:
        for number in range(11):
            writer.write(
                np.ascontiguousarray(np.pad(image[:300, :320], ((0, 0), (8 * number, 80 - 8 * number), (0, 0))))
            )
    boxes = {
        crop: [
            DrivingVideo(tmp_path / "walk.mp4", keep=False).boxes(crop, "largest", lambda: pipe.detector, silent)(n)
            for n in (0, 5, 10, 99)
        ]
        for crop in ("auto", "follow")
    }
    assert len(set(boxes["auto"])) == 1
    first, middle, last, beyond = (box.left + box.side / 2 for box in boxes["follow"] if box is not None)
    assert 25 < middle - first < 55
    assert 50 < last - first < 100
    assert beyond == last
    fixed, follows = (pipe.motion(tmp_path / "walk.mp4", crop=crop) for crop in ("auto", "follow"))
    assert len(fixed) == len(follows) == 11
    assert not torch.equal(fixed.keypoints.value, follows.keypoints.value)


def test_motion_is_saved_and_used_again(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path) -> None:
    first = pipe(face, talk)
    first.motion.save(tmp_path / "talk.safetensors")
    again = pipe(face, tmp_path / "talk.safetensors")
    assert np.array_equal(again.frames, first.frames)
    assert again.motion.fps == 25
    assert np.array_equal(pipe(face, first.motion).frames, first.frames)
    with torch.random.fork_rng():
        other = ReenactPipeline(MCNet(pipe.network.config).eval(), device="cpu", size=128)
    with pytest.raises(InputError, match="keypoints of other weights"):
        other.motion(tmp_path / "talk.safetensors")


def test_uneven_frames_become_even() -> None:
    times = np.array([0, 0.12, 0.24, *(0.36 + n / 25 for n in range(8))])
    value = torch.arange(11.0)[:, None, None].expand(11, 3, 2)
    motion = Motion(Keypoints(value, torch.eye(2).expand(11, 3, 2, 2)), times, Fraction(16), "w", 128)
    even = motion.even()
    assert even.fps == motion.even_fps == 25
    assert even.keypoints.value[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, *range(3, 11)]
    assert np.allclose(np.diff(even.times), 0.04)
    assert even.even() is even


def test_smoothing_removes_jitter_and_keeps_movement() -> None:
    generator = torch.Generator().manual_seed(0)
    path = torch.linspace(0, 0.5, 100)[:, None, None].expand(100, 3, 2)
    shaken = path + 0.01 * torch.randn(100, 3, 2, generator=generator)
    motion = Motion(Keypoints(shaken, torch.eye(2).expand(100, 3, 2, 2)), np.arange(100) / 25, Fraction(25), "w", 128)
    steady = motion.smooth(0.9).keypoints.value
    assert (steady[20:].diff(dim=0)).std() < 0.4 * (shaken[20:].diff(dim=0)).std()
    assert (steady - path)[20:].abs().mean() < 0.08
    assert motion.smooth(0) is motion


def test_a_driver_with_a_varying_rate(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    """Each of its frames becomes one frame with the same time; .avi, which has no times, repeats longer ones."""
    times = [0, 0.12, 0.24, 0.28, 0.32, 0.36, 0.4]
    with VideoWriter(tmp_path / "uneven.webm", fps=16, variable=True) as writer:
        for frame, time, end in zip(moving(face), times, [*times[1:], 0.44], strict=True):
            writer.write(frame[:128, :128], time=time, duration=end - time)
    job = ReenactJob(pipe, tmp_path / "uneven.webm", crop="none", crop_driving="none")
    for name in ("out.mp4", "out.avi"):
        result = job.convert(face, tmp_path / name, lambda *_: None)
        assert (result.frames, probe(tmp_path / name).is_variable) == ((7, True) if name == "out.mp4" else (11, False))
    shown = list(read_frames(tmp_path / "out.mp4"))
    assert [frame.time_s for frame in shown] == pytest.approx(times, abs=2e-3)
    repeated = frames_of(tmp_path / "out.avi")
    for number, place in enumerate([0, 0, 0, 1, 1, 1, *range(2, 7)]):
        assert np.abs(repeated[number].astype(int) - shown[place].pixels).mean() < 3


def test_faces_are_followed_by_the_times_of_the_frames(
    pipe: ReenactPipeline, face: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0, 0.5, 1, 1.04, 1.08]
    with VideoWriter(tmp_path / "uneven.mp4", fps=5, variable=True) as writer:
        for frame, time, end in zip(moving(face, 5), times, [*times[1:], 1.12], strict=True):
            writer.write(frame, time=time, duration=end - time)
    seen: list[float] = []

    def follow(frames: Any, *_: Any, **__: Any) -> Any:
        seen.extend(time for time, _ in frames)
        return SimpleNamespace(found=np.array([False]))

    monkeypatch.setattr("visionzoo.pipelines.reenact.driver.follow_face", follow)
    with pytest.raises(InputError, match="no face found"):
        pipe.motion(tmp_path / "uneven.mp4", crop="follow")
    assert seen == pytest.approx(times, abs=1e-3)
