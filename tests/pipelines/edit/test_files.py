"""Edits from files to files: size, times, sound, interruption, controls and masks from files, and what cannot be edited."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipelines.edit.test_pipeline import BLUE, RED, pipe
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.models.lovecon import control
from visionzoo.pipelines.edit import LOVEConPipeline
from visionzoo.pipelines.edit.files import EditJob
from visionzoo.pipelines.edit.parts import open_smoother
from visionzoo.pipelines.edit.pipeline import LOVEConPipeline as Pipeline
from visionzoo.pipelines.edit.source import resized
from visionzoo.pipelines.interpolate import InterpolatePipeline
from visionzoo.registry import create_model
from visionzoo.watermark import read_watermark

__all__ = ["pipe"]

TEXTS: dict[str, Any] = {"prompt": BLUE, "source_prompt": RED, "phrase": "", "steps": 2, "window": 2, "guidance": 1.0}


def clip(path: Path, frames: int = 5, height: int = 64, width: int = 65, times: list[float] | None = None) -> Path:
    """A video of noise."""
    with VideoWriter(path, fps=Fraction(10), variable=times is not None, lossless=path.suffix == ".mkv") as writer:
        for number in range(frames):
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
            end = {} if times is None else {"time": times[number], "duration": times[number + 1] - times[number]}
            writer.write(pixels, **end)
    return path


def damaged(path: Path) -> Path:
    """Overwrite one frame in the middle of a video."""
    import av

    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = packets[len(packets) // 2]
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    return path


def edit(pipe: LOVEConPipeline, source: Path, target: Path, **settings: Any) -> Any:
    (result,) = pipe.run(source, target, progress=False, **{**TEXTS, **settings})
    return result


def shown(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in read_frames(path)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("height", "width", "working"), [(50, 71, (64, 96)), (92, 63, (96, 64))])
def test_size_and_rate_are_those_of_the_source(
    pipe: LOVEConPipeline, tmp_path: Path, height: int, width: int, working: tuple[int, int]
) -> None:
    """Odd sizes and portrait; the frames carry the mark of synthetic ones, and nothing is left beside the output."""
    clip(tmp_path / "a.mp4", 2, height, width)
    result = edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4")
    found = probe(tmp_path / "b.mp4")
    assert (found.height, found.width, found.frames, found.fps) == (height, width, 2, 10)
    assert (result.frames, result.height, result.width) == (2, height, width)
    assert names(tmp_path) == ["a.mp4", "b.mp4", "b.mp4.json"]
    assert read_watermark(shown(tmp_path / "b.mp4")).present
    record = json.loads((tmp_path / "b.mp4.json").read_text())["options"]
    assert (record["prompt"], record["control"], record["size"]) == (BLUE, "canny", list(working))
    edit(pipe, tmp_path / "a.mp4", tmp_path / "c.mkv", working_size=True, watermark=False)
    assert (probe(tmp_path / "c.mkv").height, probe(tmp_path / "c.mkv").width) == working
    assert not read_watermark(shown(tmp_path / "c.mkv")).present


def test_times_and_sound_are_kept(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    import av

    times = [0.0, 0.1, 0.35, 0.4, 0.9, 1.0]
    clip(tmp_path / "silent.mp4", 5, times=times)
    with av.open(str(tmp_path / "tone.wav"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.ones((1, 8000), np.int16), layout="mono")
        frame.rate = 8000
        sound.mux(stream.encode(frame))
    with VideoWriter(tmp_path / "a.mp4", fps=5, variable=True, audio_from=tmp_path / "tone.wav") as writer:
        for frame in read_frames(tmp_path / "silent.mp4"):
            writer.write(frame.pixels, time=frame.time, duration=frame.duration)
    edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert probe(tmp_path / "b.mp4").is_variable
    assert [frame.time_s for frame in read_frames(tmp_path / "b.mp4")] == pytest.approx(times[:-1], abs=1e-4)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert len(container.streams.audio) == 1
    edit(pipe, tmp_path / "a.mp4", tmp_path / "c.mp4", sound=False)
    with av.open(str(tmp_path / "c.mp4")) as container:
        assert not container.streams.audio


@pytest.mark.parametrize("stop", ["inverting", "editing", "frames"])
def test_an_interrupted_file_resumes_bit_for_bit(
    pipe: LOVEConPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    from visionzoo.pipelines.edit import files

    monkeypatch.setattr(files, "PART_FRAMES", 2)
    clip(tmp_path / "a.mp4")
    edit(pipe, tmp_path / "a.mp4", tmp_path / "whole.mp4")
    job = EditJob(pipe, **TEXTS)
    calls: list[str] = []

    def report(what: str, done: int, of: int) -> None:
        calls.append(what)
        if calls.count(stop) == 3:
            raise KeyboardInterrupt

    if stop == "frames":
        written = VideoWriter.write

        def write(writer: Any, pixels: Any, **more: Any) -> None:
            if writer.frames == 3:
                raise KeyboardInterrupt
            written(writer, pixels, **more)

        monkeypatch.setattr(VideoWriter, "write", write)
    with pytest.raises(
        KeyboardInterrupt, match=r"finished work is kept in .*\.b\.mp4\.edit: run the same command again"
    ):
        job.convert(tmp_path / "a.mp4", tmp_path / "b.mp4", report)
    assert not (tmp_path / "b.mp4").exists()
    if stop == "frames":
        monkeypatch.setattr(VideoWriter, "write", written)
    again: list[str] = []
    job.convert(tmp_path / "a.mp4", tmp_path / "b.mp4", lambda what, done, of: again.append(what))
    assert len(again) < 1 + 6 + 6
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_work_of_other_settings_is_not_resumed(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 3)

    def stop(what: str, done: int, of: int) -> None:
        if what == "editing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EditJob(pipe, **TEXTS).convert(tmp_path / "a.mp4", tmp_path / "b.mp4", stop)
    other = EditJob(pipe, **TEXTS, canny_thresholds=(10, 20))
    other.convert(tmp_path / "a.mp4", tmp_path / "b.mp4", lambda *_: None)
    other.convert(tmp_path / "a.mp4", tmp_path / "c.mp4", lambda *_: None)
    assert np.array_equal(shown(tmp_path / "b.mp4"), shown(tmp_path / "c.mp4"))


def test_work_with_masks_that_have_changed_is_not_resumed(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 3)
    (tmp_path / "masks").mkdir()

    def fill(level: int) -> None:
        for number in range(3):
            Image.new("L", (65, 64), level).save(tmp_path / "masks" / f"{number}.png")

    def stop(what: str, done: int, of: int) -> None:
        if what == "editing":
            raise KeyboardInterrupt

    fill(0)
    job = EditJob(pipe, mask=tmp_path / "masks", **TEXTS)
    with pytest.raises(KeyboardInterrupt):
        job.convert(tmp_path / "a.mp4", tmp_path / "b.mp4", stop)
    fill(255)
    edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", mask=tmp_path / "masks")
    edit(pipe, tmp_path / "a.mp4", tmp_path / "fresh.mp4", mask=tmp_path / "masks")
    assert np.array_equal(shown(tmp_path / "b.mp4"), shown(tmp_path / "fresh.mp4"))


def test_a_smoother_is_of_the_model_that_its_file_states(tmp_path: Path) -> None:
    network = create_model("rife_nano")
    InterpolatePipeline(network, "rife_nano", "cpu", "float32").save_pretrained(tmp_path)
    loaded = open_smoother(str(tmp_path / "model.safetensors"))
    assert loaded is not None
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())
    assert open_smoother("none") is None


def test_a_preview_is_the_first_window(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4")
    assert edit(pipe, tmp_path / "a.mp4", tmp_path / "look.mkv", preview=True).frames == 2
    assert edit(pipe, tmp_path / "a.mp4", tmp_path / "three.mkv", frames=3).frames == 3
    look, three = shown(tmp_path / "look.mkv").astype(int), shown(tmp_path / "three.mkv")
    assert abs(look - three[:2]).mean() < 0.5 * abs(look - three[1:]).mean()


def test_one_frame_is_enough(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 1)
    assert edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4").frames == 1


def test_frames_behind_a_damaged_place_are_edited(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    damaged(clip(tmp_path / "a.mp4", 6))
    assert 2 < len(shown(tmp_path / "a.mp4")) < 6
    edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4")
    times = [[frame.time for frame in read_frames(tmp_path / name)] for name in ("a.mp4", "b.mp4")]
    assert set(times[0]) <= set(times[1])


# Controls and masks from files


def test_ready_made_controls_are_used(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    """Images in the order of their numbers give the same edit as the control that made them; other sizes are resized."""
    clip(tmp_path / "a.mkv", 3)
    (tmp_path / "images").mkdir()
    (tmp_path / "large").mkdir()
    for number, frame in enumerate(read_frames(tmp_path / "a.mkv")):
        image = Image.fromarray(control("canny")(resized(frame.pixels, (64, 64))))
        image.save(tmp_path / "images" / f"{number + 8}.png")  # 10.png comes after 9.png
        image.resize((130, 128)).save(tmp_path / "large" / f"{number}.png")
    edit(pipe, tmp_path / "a.mkv", tmp_path / "b.mkv", save_control=tmp_path / "control.mkv")
    edit(pipe, tmp_path / "a.mkv", tmp_path / "c.mkv", control=str(tmp_path / "images"))
    edit(pipe, tmp_path / "a.mkv", tmp_path / "d.mkv", control=str(tmp_path / "large"))
    first, again, other = (shown(tmp_path / f"{name}.mkv") for name in "bcd")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert shown(tmp_path / "control.mkv").shape == (3, 64, 64, 3)


def test_controls_of_another_length(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4")
    clip(tmp_path / "control.mp4", 3)
    with pytest.raises(
        InputError, match=r"control\.mp4: holds 3 control frames, but .*a\.mp4 has 5 frames; give one for each"
    ):
        edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", control=str(tmp_path / "control.mp4"))
    assert names(tmp_path) == ["a.mp4", "control.mp4"]
    assert (
        edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", control=str(tmp_path / "control.mp4"), frames=3).frames == 3
    )


def test_a_mask_keeps_what_is_outside(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    """An image or a video of masks; the saved mask is the given one."""
    clip(tmp_path / "a.mp4", 3)
    white = np.zeros((64, 65), np.uint8)
    white[:, :32] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    with VideoWriter(tmp_path / "mask.mp4", fps=10) as writer:
        for _ in range(3):
            writer.write(np.repeat(white[..., None], 3, 2))
    for mask in ("mask.png", "mask.mp4"):
        edit(
            pipe,
            tmp_path / "a.mp4",
            tmp_path / f"{mask}.mkv",
            mask=tmp_path / mask,
            save_mask=tmp_path / f"{mask}_saved.mp4",
        )
        saved = shown(tmp_path / f"{mask}_saved.mp4")
        assert saved.shape == (3, 64, 65, 3)
        assert saved[:, :, :28].min() > 200
        assert saved[:, :, 40:].max() < 50
    assert abs(shown(tmp_path / "mask.png.mkv").astype(int) - shown(tmp_path / "mask.mp4.mkv")).mean() < 3
    with pytest.raises(InputError, match=r"mask\.mp4: holds 3 masks, but .*longer\.mp4 has 4 frames"):
        edit(pipe, clip(tmp_path / "longer.mp4", 4), tmp_path / "b.mp4", mask=tmp_path / "mask.mp4")


def test_other_outputs_replace_no_input_and_no_output(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 2)
    (tmp_path / "masks").mkdir()
    for number in range(2):
        Image.new("L", (65, 64), 255).save(tmp_path / "masks" / f"{number}.png")
    clip(tmp_path / "control.mp4", 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for settings, reason in (
        ({"save_mask": "b.mp4"}, r"b\.mp4: would be written twice; choose different names"),
        ({"save_mask": "m.mp4", "save_control": "m.mp4"}, r"m\.mp4: would be written twice"),
        ({"save_mask": "a.mp4"}, r"a\.mp4: is an input, which is never overwritten"),
        ({"save_control": "control.mp4", "control": str(tmp_path / "control.mp4")}, r"control\.mp4: is an input"),
    ):
        given = {key: tmp_path / value if key.startswith("save") else value for key, value in settings.items()}
        with pytest.raises(InputError, match=reason):
            edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", overwrite=True, mask=tmp_path / "masks", **given)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_masks_are_counted_against_the_frames_that_can_be_decoded(
    pipe: LOVEConPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before anything is encoded; and the damage is logged once, although the file is read several times."""
    damaged(clip(tmp_path / "a.mp4", 6))
    readable = len(shown(tmp_path / "a.mp4"))
    assert 2 < readable < 6
    caplog.clear()
    clip(tmp_path / "masks.mp4", 6)
    with pytest.raises(
        InputError, match=rf"masks\.mp4: holds 6 masks, but .* has {readable} frames that can be decoded"
    ):
        edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", mask=tmp_path / "masks.mp4")
    assert names(tmp_path) == ["a.mp4", "masks.mp4"]
    clip(tmp_path / "fit.mp4", readable)
    caplog.clear()
    edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", mask=tmp_path / "fit.mp4")
    assert [record.message for record in caplog.records if "can be decoded" in record.message] == [
        f"{tmp_path / 'a.mp4'}: is damaged in 1 place (Invalid data found when processing input); the {readable} frames that can be "
        "decoded are used"
    ]


def test_an_edit_without_a_mask_says_that_none_is_saved(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 2)
    with pytest.warns(UserWarning, match=r"m\.mp4: was not written, as this edit has no mask; name what to edit"):
        edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", save_mask=tmp_path / "m.mp4")
    assert names(tmp_path) == ["a.mp4", "b.mp4", "b.mp4.json"]


def test_what_cannot_be_used_is_said_before_any_work(
    pipe: LOVEConPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "stream", lambda *_, **__: pytest.fail("work was begun"))
    clip(tmp_path / "a.mp4", 2)
    for settings, reason in (
        ({"prompt": " "}, "no prompt: describe the edited video"),
        ({"source_prompt": ""}, "no source prompt"),
        ({"control": "cany"}, "no control 'cany'; did you mean canny"),
        ({"control": "gone.mp4"}, r"gone\.mp4: no such file or folder, expected control frames"),
        ({"mask": "gone.png"}, r"gone\.png: no such file or folder, expected masks"),
        ({"canny_thresholds": (3, 1)}, "thresholds of canny"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"edit": "background", "phrase": None}, "a background edit keeps what its mask covers"),
        ({"short_side": 100_000}, "short_side must be at most 4096 pixels, got 100000"),
        ({"control": ""}, "control is empty; name a control such as canny"),
        ({"short_side": 8}, "the shorter side must be at least 16 pixels for this model, got 8"),
        ({"save_mask": "mask.png"}, r"mask\.png: is written as a video"),
        ({"colour": "red"}, "an edit has no setting 'colour'"),
    ):
        with pytest.raises(InputError, match=reason):
            edit(pipe, tmp_path / "a.mp4", tmp_path / "b.mp4", **settings)
    assert names(tmp_path) == ["a.mp4"]
