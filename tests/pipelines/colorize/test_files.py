"""Colouring from files to files: which frames are written, times and sound, interruption, and what cannot be coloured."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.io.test_video_writer import sound, with_sound
from tests.pipelines.colorize.clips import colored, drawings, reference, shown, write
from visionzoo.errors import InputError
from visionzoo.io.video import probe
from visionzoo.jobs.run import build_worker
from visionzoo.models.longanimation import plan_segments
from visionzoo.pipelines.colorize import LongAnimationPipeline
from visionzoo.pipelines.colorize import files as module
from visionzoo.pipelines.colorize.files import Arrived, ColorizeJob
from visionzoo.watermark import read_watermark

QUICK: dict[str, Any] = {
    "prompt": "a girl with a red shirt",
    "steps": 2,
    "guidance": 1.0,
    "fusion_start": 1,
}


def silent(*_: object) -> None:
    """No progress bars."""


@pytest.fixture(scope="module")
def pipe() -> LongAnimationPipeline:
    return tiny.colorize()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return reference(tmp_path / "r.png")


def length(pipe: LongAnimationPipeline) -> int:
    """Number of frames of a segment."""
    return pipe.config["segment_frames"]


def overlap(pipe: LongAnimationPipeline) -> int:
    return pipe.config["overlap"]


def frames(pipe: LongAnimationPipeline, remainder: int = 3) -> int:
    """Number of frames of three segments and a remainder."""
    return length(pipe) + 2 * (length(pipe) - overlap(pipe)) + remainder


@pytest.fixture
def clip(pipe: LongAnimationPipeline, tmp_path: Path) -> Path:
    """Line art of three segments and a remainder."""
    return write(tmp_path / "a.mkv", drawings(frames(pipe)))


def convert(pipe: LongAnimationPipeline, source: Path, target: Path, image: Path, **settings: Any) -> Any:
    return ColorizeJob(pipe, image, **{**QUICK, **settings}).convert(source, target, silent)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_published_plan_and_its_alternative(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path
) -> None:
    """As published, the first frame and the remainder are lost; otherwise every frame is written. Both have the clip's rate."""
    arrived: list[Arrived] = []
    job = ColorizeJob(pipe, image, on_segment=arrived.append, **QUICK)
    result = job.convert(clip, tmp_path / "b.mp4", silent)
    plan = plan_segments(frames(pipe), length=length(pipe), overlap=overlap(pipe))
    found = probe(tmp_path / "b.mp4")
    assert (found.height, found.width, found.frames, found.fps) == (32, 32, plan[-1].last - plan[0].first, 10)
    assert (result.width, result.height, result.frames) == (32, 32, found.frames)
    assert [(one.number, one.count, len(one.frames)) for one in arrived] == [
        (number, 3, one.last - one.first) for number, one in enumerate(plan, start=1)
    ]
    tokens = [one.memory["global_tokens"] for one in arrived]
    assert 0 == tokens[0] < tokens[1] < tokens[2]
    assert all(one.memory["global_bytes"] > 0 for one in arrived)
    assert names(tmp_path) == ["a.mkv", "b.mp4", "b.mp4.json", "r.png"]
    assert read_watermark(shown(tmp_path / "b.mp4")).present
    record = json.loads((tmp_path / "b.mp4.json").read_text())
    assert [one["first"] for one in record["segments"]] == [one.first for one in plan]
    assert record["segments"][1]["memory"] == arrived[1].memory
    assert record["options"]["prompt"] == QUICK["prompt"]
    convert(pipe, clip, tmp_path / "c.mkv", image, drop_remainder=False, watermark=False)
    assert probe(tmp_path / "c.mkv").frames == frames(pipe)
    assert not read_watermark(shown(tmp_path / "c.mkv")).present


@pytest.mark.slow
def test_a_preview_is_the_first_segment(pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path) -> None:
    whole = convert(pipe, clip, tmp_path / "b.mkv", image, watermark=False)
    result = convert(pipe, clip, tmp_path / "c.mkv", image, preview=True, watermark=False)
    assert result.frames == length(pipe) - 9 < whole.frames
    assert np.abs(shown(tmp_path / "c.mkv").astype(int) - shown(tmp_path / "b.mkv")[: result.frames]).mean() < 4
    few = convert(pipe, clip, tmp_path / "d.mkv", image, frames=length(pipe) + 1, drop_remainder=False)
    assert few.frames == length(pipe) + 1


@pytest.mark.parametrize(
    "stop",
    [
        "reading",
        pytest.param((1, 2), marks=pytest.mark.slow),
        (2, 1),
        pytest.param((3, 2), marks=pytest.mark.slow),
        pytest.param("parts", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_clip_resumes_bit_for_bit(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    """Before, in and after a segment, and while the video is written: the file has the same bytes."""
    monkeypatch.setattr(module, "PART_FRAMES", 3)
    convert(pipe, clip, tmp_path / "whole.mp4", image)
    steps: list[str] = []

    def report(what: str, done: int, of: int) -> None:
        steps.append(what)
        if stop == what == "reading" and done == 5:
            raise KeyboardInterrupt
        if isinstance(stop, tuple) and what.startswith(f"segment {stop[0]} of 3") and done == stop[1]:
            raise KeyboardInterrupt

    job = ColorizeJob(pipe, image, **QUICK)
    if stop == "parts":
        monkeypatch.setattr(module, "add_watermark", _fails_at(2 * (length(pipe) - overlap(pipe)) - 2))
    with pytest.raises(KeyboardInterrupt) as caught:
        job.convert(clip, tmp_path / "b.mp4", report)
    monkeypatch.undo()
    monkeypatch.setattr(module, "PART_FRAMES", 3)
    finished = {"reading": 0, (1, 2): 0, (2, 1): 1, (3, 2): 2, "parts": 2}[stop]
    if finished:
        assert "finished work is kept in" in str(caught.value)
        assert "run the same command again to resume" in str(caught.value)
    else:
        assert names(tmp_path) == ["a.mkv", "r.png", "whole.mp4", "whole.mp4.json"]
    steps.clear()
    seen: list[int] = []
    job = ColorizeJob(pipe, image, on_segment=lambda one: seen.append(one.number), **QUICK)
    job.convert(clip, tmp_path / "b.mp4", lambda what, done, of: steps.append(what))
    worked = {what.partition(":")[0] for what in steps if what.startswith("segment")}
    assert worked == {f"segment {number} of 3" for number in range(finished + 1, 4)}
    assert seen == [1, 2, 3]
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def _fails_at(count: int) -> Any:
    numbers = iter(range(count))
    mark = module.add_watermark

    def marked(frame: np.ndarray) -> np.ndarray:
        if next(numbers, None) is None:
            raise KeyboardInterrupt
        return mark(frame)

    return marked


@pytest.mark.slow
def test_work_with_other_settings_is_not_resumed(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path
) -> None:
    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("segment 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ColorizeJob(pipe, image, **QUICK).convert(clip, tmp_path / "b.mp4", stop)
    convert(pipe, clip, tmp_path / "b.mp4", image, seed=7)
    convert(pipe, clip, tmp_path / "c.mp4", image, seed=7)
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


@pytest.mark.slow
def test_frames_of_earlier_segments_are_watched_again_above_the_limit(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path
) -> None:
    """They are read from the work on disk, also after an interruption."""
    few = {"memory_frames": 6, "local_frames": 2}
    convert(pipe, clip, tmp_path / "whole.mp4", image, **few)

    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("segment 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ColorizeJob(pipe, image, **QUICK, **few).convert(clip, tmp_path / "b.mp4", stop)
    convert(pipe, clip, tmp_path / "b.mp4", image, **few)
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_sound_stays_with_the_frames(pipe: LongAnimationPipeline, image: Path, tmp_path: Path) -> None:
    """The first frame is left out as published, and as much of the sound."""
    heard = with_sound(tmp_path / "heard.mp4", seconds=6.0)
    clip = write(tmp_path / "a.mp4", drawings(frames(pipe)), sound=heard)
    convert(pipe, clip, tmp_path / "b.mp4", image, preview=True)
    convert(pipe, clip, tmp_path / "c.mp4", image, preview=True, sound=False)
    found = sound(tmp_path / "b.mp4")
    assert found is not None
    assert found[1] == pytest.approx(0.5 - 0.1, abs=0.03)
    assert sound(tmp_path / "c.mp4") is None


@pytest.mark.slow
def test_uneven_times_are_kept(pipe: LongAnimationPipeline, image: Path, tmp_path: Path) -> None:
    from visionzoo.io.video import VideoWriter, read_frames

    path, clock = tmp_path / "a.mkv", 0.0
    with VideoWriter(path, fps=10, variable=True) as writer:
        for number, frame in enumerate(drawings(length(pipe))):
            writer.write(frame, time=clock, duration=0.1 * (1 + number % 3))
            clock += 0.1 * (1 + number % 3)
    convert(pipe, path, tmp_path / "b.mkv", image)
    times = [frame.time_s for frame in read_frames(path)]
    made = [frame.time_s for frame in read_frames(tmp_path / "b.mkv")]
    assert made == pytest.approx([time - times[1] for time in times[1 : 1 + len(made)]], abs=2e-3)


# What cannot be coloured


def test_a_clip_shorter_than_a_segment(pipe: LongAnimationPipeline, image: Path, tmp_path: Path) -> None:
    short = write(tmp_path / "a.mkv", drawings(length(pipe) - 1))
    reason = rf"a\.mkv: the video has {length(pipe) - 1} frames, but a segment has {length(pipe)}.*--no-drop-remainder"
    with pytest.raises(InputError, match=reason):
        convert(pipe, short, tmp_path / "b.mp4", image)
    assert names(tmp_path) == ["a.mkv", "r.png"]
    assert convert(pipe, short, tmp_path / "b.mp4", image, drop_remainder=False).frames == length(pipe) - 1


def test_drawings_and_colours_are_not_confused(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path
) -> None:
    painted = write(tmp_path / "painted.mkv", colored(length(pipe)))
    with pytest.raises(
        InputError, match=r"painted\.mkv: the sketches are no line drawings.*give a video in colour as the video"
    ):
        convert(pipe, painted, tmp_path / "b.mp4", image, line_source="drawings")
    inverted = write(tmp_path / "dark.mkv", [255 - frame for frame in drawings(length(pipe))])
    with pytest.raises(
        InputError, match=r"dark\.mkv: the sketches have bright lines on dark paper; pass inverted=True"
    ):
        convert(pipe, inverted, tmp_path / "b.mp4", image)
    assert names(tmp_path) == ["a.mkv", "dark.mkv", "painted.mkv", "r.png"]
    convert(pipe, inverted, tmp_path / "b.mkv", image, inverted=True, watermark=False, preview=True)
    convert(pipe, clip, tmp_path / "c.mkv", image, watermark=False, preview=True)
    assert np.abs(shown(tmp_path / "b.mkv").astype(int) - shown(tmp_path / "c.mkv")).mean() < 4


def test_a_reference_of_another_aspect(pipe: LongAnimationPipeline, clip: Path, tmp_path: Path) -> None:
    """It is distorted as published, with a warning, or cropped."""
    tall = reference(tmp_path / "tall.png", (64, 40))
    with pytest.warns(
        UserWarning, match=r"the reference image has 40 x 64 pixels and is stretched to 32 x 32.*--reference-fit crop"
    ):
        convert(pipe, clip, tmp_path / "b.mkv", tall, preview=True, watermark=False)
    convert(pipe, clip, tmp_path / "c.mkv", tall, preview=True, watermark=False, reference_fit="crop")
    assert not np.array_equal(shown(tmp_path / "b.mkv"), shown(tmp_path / "c.mkv"))


def test_sizes(pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path) -> None:
    found = convert(pipe, clip, tmp_path / "b.mkv", image, preview=True, size="48x32", reference_fit="crop")
    assert (found.width, found.height) == (48, 32)
    tall = write(tmp_path / "tall.mkv", drawings(length(pipe), (60, 30)))
    fitting = convert(pipe, tall, tmp_path / "c.mkv", image, preview=True, size="fit", reference_fit="crop")
    assert (fitting.width, fitting.height) == (16, 48)


def test_a_drawing_of_the_reference(pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path) -> None:
    from PIL import Image

    lines = np.full((32, 32, 3), 255, np.uint8)
    lines[10:12] = 0
    Image.fromarray(lines).save(tmp_path / "sketch.png")
    plain = convert(pipe, clip, tmp_path / "b.mkv", image, preview=True, watermark=False)
    drawn = convert(
        pipe, clip, tmp_path / "c.mkv", image, preview=True, watermark=False, reference_sketch=tmp_path / "sketch.png"
    )
    assert plain.frames == drawn.frames
    assert not np.array_equal(shown(tmp_path / "b.mkv"), shown(tmp_path / "c.mkv"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"size": "50x32"}, "size must be multiples of 16, got 50x32; the nearest is 48x32"),
        ({"size": "big"}, "size must be width x height in pixels, e.g. 1024x576, or fit, got 'big'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"memory": "all"}, "memory must be both, global, local or none, got 'all'"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"colour": 1}, "a colouring has no setting 'colour'"),
    ],
)
def test_settings_out_of_range(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        convert(pipe, clip, tmp_path / "b.mp4", image, **settings)
    assert names(tmp_path) == ["a.mkv", "r.png"]


def test_a_missing_or_broken_reference(pipe: LongAnimationPipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        ColorizeJob(pipe, tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(InputError, match=r"text\.png: not an image"):
        ColorizeJob(pipe, tmp_path / "text.png")
    with pytest.raises(InputError, match="no reference: give an image in the colours"):
        ColorizeJob(pipe)


def test_a_process_of_a_cluster_makes_the_same(
    pipe: LongAnimationPipeline, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have another current folder, and gets the job by its recipe."""
    short = write(tmp_path / "a.mkv", drawings(length(pipe)))
    Image.fromarray(drawings(1)[0]).save(tmp_path / "lines.png")
    pipe.save_pretrained(tmp_path / "model")
    own = LongAnimationPipeline.create(checkpoint=tmp_path / "model", device="cpu", memory_placement="host")
    monkeypatch.chdir(tmp_path)
    job = ColorizeJob(own, "r.png", reference_sketch=Path("lines.png"), **QUICK)
    job.convert(short, tmp_path / "b.mp4", silent)
    build, arguments = pickle.loads(pickle.dumps(job.recipe()))
    monkeypatch.chdir("/")
    again = build_worker(build, arguments)((str(short), str(tmp_path / "c.mp4")))
    assert again["error"] is None
    assert (tmp_path / "c.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def test_out_of_memory_is_one_line_and_keeps_what_is_finished(
    pipe: LongAnimationPipeline, clip: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second segment."""
    convert(pipe, clip, tmp_path / "whole.mp4", image)
    forward, calls = pipe.transformer.forward, iter(range(3))

    def full(*given: Any, **more: Any) -> Any:
        if next(calls, None) is None:
            raise RuntimeError(ALLOCATOR)
        return forward(*given, **more)

    monkeypatch.setattr(pipe.transformer, "forward", full)
    reason = (
        r"a\.mkv: cpu is out of memory at 32 x 32 pixels; run the command again with a --size smaller than 32x32; finished work "
        r"is kept in .*\.b\.mp4\.colorize$"
    )
    with pytest.raises(InputError, match=reason):
        convert(pipe, clip, tmp_path / "b.mp4", image)
    monkeypatch.undo()
    monkeypatch.setattr(pipe, "_offload", "model")  # an option that helps does not lose what is finished
    steps: list[str] = []
    ColorizeJob(pipe, image, **QUICK).convert(clip, tmp_path / "b.mp4", lambda what, *_: steps.append(what))
    assert {what for what in steps if what.startswith("segment")} == {"segment 2 of 3", "segment 3 of 3"}
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
