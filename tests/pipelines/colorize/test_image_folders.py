"""Folders of numbered images as clips, and frame rates that are no whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny, tiny_animation
from tests.command import run
from tests.pipelines.colorize.clips import drawings, reference, shown, write
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, probe
from visionzoo.pipelines.colorize import LongAnimationPipeline
from visionzoo.pipelines.colorize.file_options import ColorizeFileOptions
from visionzoo.pipelines.colorize.files import ColorizeJob

OPTIONS: dict[str, Any] = {"prompt": "a girl", "steps": 1, "guidance": 1.0, "memory": "none", "drop_remainder": False}
QUICK = {**OPTIONS, "watermark": False}
FILM = Fraction(24000, 1001)


def images(folder: Path, frames: Sequence[np.ndarray], name: str = "a{}.png") -> Path:
    """Frames as images with numbers from 1 that have no leading zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


def convert(source: Path, target: Path, **settings: Any) -> Any:
    image = reference(target.parent / "r.png")
    return ColorizeJob(tiny.colorize(), image, **{**QUICK, **settings}).convert(source, target, lambda *_: None)


def test_images_give_what_their_video_gives(tmp_path: Path) -> None:
    """In the order of their numbers: sorted as text, a10.png would be the second frame."""
    frames = drawings(11)
    with VideoWriter(tmp_path / "a.mkv", fps=FILM, lossless=True) as video:
        for frame in frames:
            video.write(frame)
    convert(tmp_path / "a.mkv", tmp_path / "b.mkv")
    result = convert(images(tmp_path / "a", frames), tmp_path / "c.mkv", fps=23.976)
    assert (result.frames, probe(tmp_path / "c.mkv").fps, probe(tmp_path / "b.mkv").fps) == (11, FILM, FILM)
    assert np.array_equal(shown(tmp_path / "b.mkv"), shown(tmp_path / "c.mkv"))
    convert(tmp_path / "a", tmp_path / "d.mp4", frames=9)
    found = probe(tmp_path / "d.mp4")
    assert (found.frames, found.fps) == (9, 24)  # the model's rate
    from_python = tiny.colorize()(tmp_path / "a", tmp_path / "r.png", **OPTIONS)
    assert from_python.frames.shape == (11, 32, 32, 3)


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".avi"])
def test_the_rate_of_a_film_is_kept_exactly(tmp_path: Path, extension: str) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=FILM) as video:
        for frame in drawings(9):
            video.write(frame)
    convert(tmp_path / "a.mp4", tmp_path / f"b{extension}")
    assert probe(tmp_path / f"b{extension}").fps == FILM


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (12, 12),
        ("12", 12),
        (23.976, FILM),
        ("24000/1001", FILM),
        (29.97, Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_rates(given: Any, expected: Fraction) -> None:
    assert ColorizeFileOptions(fps=given).rate == expected


@pytest.mark.parametrize("given", [0, -1, "quick", "1/0", 1001, float("nan")])
def test_rates_that_do_not_exist(given: Any) -> None:
    with pytest.raises(
        InputError, match=r"fps must be above 0 and at most 1000, e\.g\. 12, 23\.976 or 24000/1001, got"
    ):
        ColorizeFileOptions(fps=given)


def test_the_rate_of_a_folder_is_by_default_the_models(tmp_path: Path) -> None:
    """Which may be a float in its settings, also after saving."""
    pipe = LongAnimationPipeline(**tiny_animation.parts(memory=False), **{**tiny_animation.SETTINGS, "fps": 23.976})
    pipe.save_pretrained(tmp_path / "model")
    pipe = LongAnimationPipeline.create(checkpoint=tmp_path / "model", device="cpu")
    folder, image = images(tmp_path / "a", drawings(9)), reference(tmp_path / "r.png")
    ColorizeJob(pipe, image, **QUICK).convert(folder, tmp_path / "b.mp4", lambda *_: None)
    assert probe(tmp_path / "b.mp4").fps == FILM


def test_the_command_takes_folders(tmp_path: Path, capsys: Any) -> None:
    """One to a file, several to a folder; their names may have dots. A folder with videos is searched for videos, as before."""
    tiny.colorize().save_pretrained(tmp_path / "model")
    image = reference(tmp_path / "r.png")
    first, second = (images(tmp_path / name, drawings(9)) for name in ("cut.1", "cut.2"))
    words = ("--reference", image, "--checkpoint", tmp_path / "model", "--steps", 1, "--guidance", 1, "--no-drop-remainder",
             "--memory", "none", "--device", "cpu", "--quiet")  # fmt: skip
    assert run(capsys, "colorize", first, second, "-o", tmp_path / "out", "--fps", "24000/1001", *words)[::2] == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["cut.1.mp4", "cut.2.mp4"]
    assert probe(tmp_path / "out" / "cut.2.mp4").fps == FILM
    # an earlier result in the folder itself is no input
    write(first / "b.mp4", drawings(3))
    assert run(capsys, "colorize", first, "-o", first / "b.mp4", *words, "--overwrite")[::2] == (0, "")
    assert probe(first / "b.mp4").frames == 9
    write(second / "a.mkv", drawings(10))
    assert run(capsys, "colorize", second, "-o", tmp_path / "more", *words)[::2] == (0, "")
    assert probe(tmp_path / "more" / "a.mp4").frames == 10


def test_folders_that_cannot_be_used(tmp_path: Path, capsys: Any) -> None:
    image = reference(tmp_path / "r.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    mixed = images(tmp_path / "mixed", [*drawings(2), *drawings(1, (32, 48))])
    broken = images(tmp_path / "broken", drawings(2))
    (broken / "a2.png").write_bytes(b"no image at all")
    nested = images(tmp_path / "nested" / "a", drawings(2)).parent
    clip = write(tmp_path / "a.mkv", drawings(2))
    for source, more, reason in (
        (
            tmp_path / "empty",
            (),
            "empty: no videos found, and no images in the folder itself that could be the frames of a clip",
        ),
        (tmp_path / "texts", (), "texts: no videos found, and no images in the folder itself"),
        (nested, (), "nested: no videos found, and no images in the folder itself"),
        (
            mixed,
            (),
            "mixed: holds images of several sizes: a1.png has 32 x 32 pixels, a3.png 48 x 32; export all frames in one size",
        ),
        (broken, (), "a2.png: not an image that can be read"),
        (
            clip,
            ("--fps", 12),
            "a.mkv: is a video with 10 frames a second, which the result keeps; fps (--fps) is for folders",
        ),
    ):
        words = (
            "colorize",
            source,
            "-o",
            tmp_path / "b.mp4",
            "--reference",
            image,
            "--checkpoint",
            tmp_path / "gone",
            *more,
        )
        code, _, err = run(capsys, *words, "--quiet")
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err
    with pytest.raises(InputError, match="empty: holds no images; expected the frames of a clip"):
        tiny.colorize()(tmp_path / "empty", image)
