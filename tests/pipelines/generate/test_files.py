"""Videos from files to files: what is written, interruption, saved episodes, and what cannot be continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import tiny
from tests.pipelines.generate.test_pipeline import BLUE, RED, video_file
from visionzoo.errors import InputError
from visionzoo.io.video import probe, read_frames
from visionzoo.pipelines.generate import SlowFastVGenPipeline
from visionzoo.pipelines.generate import files as module
from visionzoo.pipelines.generate.files import GenerateJob
from visionzoo.watermark import read_watermark

FAST: dict[str, Any] = {"fast_rank": 2, "fast_lr": 1e-2, "guidance": 1.0, "steps": 2}


def silent(*_: object) -> None:
    """No progress bars."""


@pytest.fixture
def pipe() -> SlowFastVGenPipeline:
    return tiny.generate()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 71, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def convert(pipe: SlowFastVGenPipeline, source: Path, target: Path, *actions: str, **settings: Any) -> Any:
    job = GenerateJob(pipe, actions, **{**FAST, **settings})
    return job.convert(source, target, settings.pop("report", silent))


def shown(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in read_frames(path)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_video_has_the_model_s_size_and_rate(pipe: SlowFastVGenPipeline, image: Path, tmp_path: Path) -> None:
    result = convert(pipe, image, tmp_path / "b.mp4", RED, BLUE)
    found = probe(tmp_path / "b.mp4")
    assert (found.height, found.width, found.frames, found.fps) == (64, 64, 9, 8)
    assert (result.height, result.width, result.frames) == (64, 64, 9)
    assert names(tmp_path) == ["a.png", "b.mp4", "b.mp4.json"]
    assert read_watermark(shown(tmp_path / "b.mp4")).present
    record = json.loads((tmp_path / "b.mp4.json").read_text())
    assert record["options"]["actions"] == [RED, BLUE]
    assert [len(losses) for losses in record["fast_learning"]] == [1, 1]
    convert(pipe, image, tmp_path / "c.mkv", RED, size="96x48", fps=12, show_source=False, watermark=False)
    found = probe(tmp_path / "c.mkv")
    assert (found.height, found.width, found.frames, found.fps) == (48, 96, 4, 12)
    assert not read_watermark(shown(tmp_path / "c.mkv")).present


def test_a_video_keeps_its_rate_and_is_learned_first(pipe: SlowFastVGenPipeline, tmp_path: Path) -> None:
    video_file(tmp_path / "a.mkv", 6, 64, 64)
    convert(pipe, tmp_path / "a.mkv", tmp_path / "b.mkv", RED)
    convert(pipe, tmp_path / "a.mkv", tmp_path / "c.mkv", RED, learn_source=False)
    assert (probe(tmp_path / "b.mkv").frames, probe(tmp_path / "b.mkv").fps) == (10, 10)
    learned, not_learned = shown(tmp_path / "b.mkv"), shown(tmp_path / "c.mkv")
    assert np.array_equal(learned[:6], not_learned[:6])
    assert not np.array_equal(learned[6:], not_learned[6:])


@pytest.mark.parametrize(("stop", "fast"), [(3, False), (5, True)])
def test_an_interrupted_video_resumes_bit_for_bit(
    pipe: SlowFastVGenPipeline, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, fast: bool
) -> None:
    """In a chunk and between chunks, with a finished part of the video on disk."""
    monkeypatch.setattr(module, "PART_FRAMES", 3)
    settings = {"fast_learning": fast, "memory": tmp_path / "mem"}
    convert(pipe, image, tmp_path / "whole.mp4", RED, BLUE, RED, **{**settings, "memory": tmp_path / "whole"})
    job = GenerateJob(pipe, [RED, BLUE, RED], **{**FAST, **settings})
    calls: list[str] = []

    def report(what: str, done: int, of: int) -> None:
        calls.append(what)
        if len(calls) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"finished work is kept in .*\.b\.mp4\.generate: run the same command"):
        job.convert(image, tmp_path / "b.mp4", report)
    assert not (tmp_path / "b.mp4").exists()
    assert not (tmp_path / "mem").exists()
    again: list[str] = []
    job.convert(image, tmp_path / "b.mp4", lambda what, done, of: again.append(what))
    assert len(again) == 6 - 2 * ((stop - 2) // 2)
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    for name in ["past.safetensors", *(["memory/pytorch_lora_weights.safetensors"] if fast else [])]:
        whole, resumed = (load_file(tmp_path / folder / name) for folder in ("whole", "mem"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_work_with_other_actions_is_not_resumed(pipe: SlowFastVGenPipeline, image: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GenerateJob(pipe, [RED, RED], **FAST).convert(image, tmp_path / "b.mp4", stop)
    convert(pipe, image, tmp_path / "b.mp4", BLUE)
    convert(pipe, image, tmp_path / "c.mp4", BLUE)
    assert np.array_equal(shown(tmp_path / "b.mp4"), shown(tmp_path / "c.mp4"))


@pytest.mark.parametrize("fast", [True, False])
def test_an_episode_continues_days_later(pipe: SlowFastVGenPipeline, image: Path, tmp_path: Path, fast: bool) -> None:
    """Two chunks and later two more are the four chunks of one video."""
    memory = {"memory": tmp_path / "mem", "fast_learning": fast}
    convert(pipe, image, tmp_path / "whole.mkv", RED, BLUE, RED, BLUE, fast_learning=fast)
    convert(pipe, image, tmp_path / "first.mkv", RED, BLUE, **memory)
    convert(pipe, tmp_path / "mem", tmp_path / "second.mkv", RED, BLUE, **memory)
    parts = np.concatenate([shown(tmp_path / "first.mkv"), shown(tmp_path / "second.mkv")])
    assert np.abs(parts.astype(int) - shown(tmp_path / "whole.mkv")).mean() < 6  # lossy, encoded separately
    job = GenerateJob(pipe, [RED], **FAST, **memory, size=(96, 64))
    with pytest.raises(InputError, match="the episode has frames of 64 x 64 pixels, not 96 x 64; add --size 64x64"):
        job.convert(tmp_path / "mem", tmp_path / "third.mkv", silent)


def test_an_episode_of_other_networks_is_refused_and_kept(
    pipe: SlowFastVGenPipeline, image: Path, tmp_path: Path
) -> None:
    convert(pipe, image, tmp_path / "b.mp4", RED, memory=tmp_path / "mem")
    before = {path: path.read_bytes() for path in (tmp_path / "mem").rglob("*") if path.is_file()}
    from tests import tiny_diffusion

    other = SlowFastVGenPipeline(
        **{**pipe.components, "unet": tiny_diffusion.video_unet()}, window=8, frames_per_chunk=4
    )
    other.unet.conv_in.bias.data += 1
    with pytest.raises(InputError, match="made with other networks"):
        convert(other, tmp_path / "mem", tmp_path / "c.mp4", RED, memory=tmp_path / "mem", past_frames=4)
    with pytest.raises(InputError, match="rank"):
        convert(pipe, tmp_path / "mem", tmp_path / "c.mp4", RED, memory=tmp_path / "mem", fast_rank=4)
    assert {path: path.read_bytes() for path in (tmp_path / "mem").rglob("*") if path.is_file()} == before
    assert not (tmp_path / "c.mp4").exists()


def test_a_folder_of_other_files_is_no_place_for_an_episode(
    pipe: SlowFastVGenPipeline, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "mem").mkdir()
    (tmp_path / "mem" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="mem: exists and holds no episode; choose another folder"):
        convert(pipe, image, tmp_path / "b.mp4", RED, memory=tmp_path / "mem")
    assert names(tmp_path / "mem") == ["letter.txt"]
    assert not (tmp_path / "b.mp4").exists()
