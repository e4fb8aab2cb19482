"""Frames equal the network's results, and pipelines are saved and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

import visionzoo
from visionzoo.errors import InputError
from visionzoo.faces import CropBox
from visionzoo.io.image import load_image
from visionzoo.io.video import read_frames
from visionzoo.models.mcnet import MCNet
from visionzoo.pipelines.reenact import ReenactPipeline
from visionzoo.pipelines.reenact.motion import nearest_frame

from ...command import run
from .clips import moving


def test_frames_are_the_networks(pipe: ReenactPipeline, network: MCNet, face: Path, talk: Path) -> None:
    result = pipe(face, talk, mode="absolute", crop="centre", crop_driving="none", batch_size=3)
    assert result.frames.shape == (7, 128, 128, 3)
    assert result.fps == 25
    portrait = pipe.portrait(face, crop="centre")
    source, driver = (
        torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        for pixels in (portrait.crop, pipe.cut(list(read_frames(talk))[4].pixels, None))
    )
    with torch.no_grad():
        want = (network(source, driver)[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(result.frames[4] - want).max() <= 1


def test_relative_motion_starts_from_the_unchanged_source(pipe: ReenactPipeline, face: Path, talk: Path) -> None:
    portrait, motion = pipe.portrait(face), pipe.motion(talk)
    still = next(pipe.animate(portrait, portrait.cache.keypoints))
    for start in ("first", 3):
        moved = pipe.transfer(portrait, motion, start=start)
        frames = list(pipe.animate(portrait, moved))
        assert np.array_equal(frames[0 if start == "first" else 3], still)
        assert not np.array_equal(frames[5], still)
    best = nearest_frame(portrait.cache.keypoints.value[0], motion)
    assert np.array_equal(list(pipe.animate(portrait, pipe.transfer(portrait, motion)))[best], still)
    with pytest.raises(InputError, match="a frame from 0 to 6, got 7"):
        pipe.transfer(portrait, motion, start=7)


def test_faces_are_cropped(pipe: ReenactPipeline, face: Path) -> None:
    portrait = pipe.portrait(face)
    assert portrait.box is not None
    assert abs(portrait.box.left + portrait.box.side / 2 - 165) < 25  # of the face's middle
    assert portrait.crop.shape == (128, 128, 3)
    own = pipe.portrait(face, crop=CropBox(10, 20, 128))
    assert np.array_equal(own.crop, load_image(face)[20:148, 10:138])


def test_pipelines_are_saved_and_loaded(pipe: ReenactPipeline, weights: Path, face: Path, talk: Path) -> None:
    want = pipe(face, talk).frames
    for other in (
        ReenactPipeline.from_pretrained(weights.parent, device="cpu"),
        visionzoo.pipeline("reenact", checkpoint=weights, device="cpu"),
    ):
        assert other.size == 128
        assert np.array_equal(other(face, talk).frames, want)


def test_live_frames_are_those_of_the_clip(pipe: ReenactPipeline, face: Path) -> None:
    live = pipe.live(face, adapt_scale=False)
    images = moving(face)
    first = live(images[0])
    assert np.array_equal(first, next(pipe.animate(live.portrait, live.portrait.cache.keypoints)))
    moved = live(images[6])
    assert not np.array_equal(moved, first)
    live.reset()
    assert np.array_equal(live(np.full((200, 200, 3), 90, np.uint8)), moved), "without a face the last result stays"
    assert np.array_equal(live(images[6]), first), "after a reset the next pose is the source's"


def test_without_weights_it_says_what_to_do(
    face: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    code, _, err = run(capsys, "reenact", face, talk, "-o", tmp_path / "out.mp4")
    assert code == 2
    assert "00000099-checkpoint.pth.tar" in err
