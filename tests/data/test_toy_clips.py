"""Clips of the toy world on disk, and the command that writes them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.command import run
from visionzoo.data.toy_world import ClipSettings, ToyWorld, read_clip, read_clips, write_clip, write_clips
from visionzoo.data.toy_world.clips import main_caption, segments
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, probe
from visionzoo.jobs.resume import Interrupted

SMALL = ClipSettings(frames=5, size=(64, 80), places=("park", "room"), truth=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_clips(folder, 2, SMALL)
    return folder


def test_everything_but_the_colours_comes_back_exactly(written: Path):
    clip, stored = SMALL.film(1), read_clips(written)[1]
    parts = {part for part in clip.characters[0].colors if part in stored.masks}
    assert set(stored.masks) == {"character", *clip.characters[0].colors} == {"character", *parts}
    masks = {name: stored.mask(name) for name in stored.masks}
    for number, (frame, video, lines, truth) in enumerate(
        zip(clip, stored.video(), stored.lines(), stored.truths(), strict=True)
    ):
        assert np.abs(video.astype(int) - frame.rgb).mean() < 6
        np.testing.assert_array_equal(lines, frame.ink)
        for name in ("regions", "instances", "flow", "valid"):
            np.testing.assert_array_equal(getattr(truth, name), getattr(frame, name), err_msg=name)
            assert getattr(truth, name).dtype == getattr(frame, name).dtype
        for name, shown in ((name, next(mask)) for name, mask in masks.items()):
            wanted = [r.number for r in clip.regions if r.instance == 1 and name in ("character", r.part)]
            np.testing.assert_array_equal(shown, np.isin(frame.regions, wanted), err_msg=name)
        assert (stored.caption_at(number), stored.action_at(number)) == (frame.caption, frame.action)
        np.testing.assert_array_equal(stored.cameras[number], frame.camera)
    assert (stored.regions, stored.characters) == (tuple(clip.regions), clip.characters)
    assert (stored.height, stored.width, stored.frames, stored.fps) == (64, 80, 5, 12)
    assert (stored.seed, stored.split, stored.places) == (1, "train", ("park", "room"))


def test_frames_can_be_read_from_the_middle(written: Path):
    clip, stored = SMALL.film(0), read_clip(written / "000000")
    np.testing.assert_array_equal(list(stored.lines(3)), [frame.ink for frame in clip.frames(3)])
    assert [len(list(part(1, 3))) for part in (stored.video, stored.truths)] == [2, 2]
    with pytest.raises(InputError, match="has frames 0 to 4, not 2 to 8"):
        stored.video(2, 9)
    with pytest.raises(InputError, match=r"has no mask of 'tail'; there are: character, hair"):
        stored.mask("tail")


def test_lossless_videos_keep_every_colour(tmp_path: Path):
    clip = ToyWorld.create(3, characters=0).film(3, size=(65, 64))
    write_clip(clip, tmp_path / "one", lossless=True)
    stored = read_clip(tmp_path / "one")
    np.testing.assert_array_equal(list(stored.video()), [frame.rgb for frame in clip])
    assert stored.masks == ()
    with pytest.raises(InputError, match="holds no regions and flow; write the clips again with --truth"):
        next(stored.truths())


def test_segments_cover_all_frames_and_join_equal_neighbours(written: Path):
    found = [(one.start_frame, one.end_frame, one.text) for one in segments("aabca")]
    assert found == [(0, 2, "a"), (2, 3, "b"), (3, 4, "c"), (4, 5, "a")]
    rows = [json.loads(line) for line in (written / "000000" / "captions.jsonl").read_text().splitlines()]
    assert rows[0]["start_frame"] == 0
    assert rows[-1]["end_frame"] == 5
    assert set(rows[0]) == {"start_frame", "end_frame", "text"}


def test_the_caption_of_a_clip_is_the_most_frequent_one_that_names_its_first_character():
    clip = ToyWorld.create(1).film(8)
    who = clip.characters[0].text()
    captions = segments(["in a park"] * 4 + [f"{who} walks"] + [f"{who} turns"] * 2 + [f"{who} walks"] * 2)
    assert main_caption(clip, captions) == f"{who} walks"
    assert main_caption(clip, captions[:1]) == "in a park"


def test_an_interrupted_run_resumes(tmp_path: Path):
    folder, settings = tmp_path / "clips", ClipSettings(frames=4, size=(64, 64))

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="1 clip is kept in .*clips: run the same command again to resume"):
        write_clips(folder, 3, settings, progress=interrupt)
    assert sorted(path.name for path in folder.iterdir()) == ["000000", "clips.jsonl"]
    first = (folder / "000000" / "video.mp4").stat().st_mtime_ns
    (folder / ".000001.part" / "masks").mkdir(parents=True)  # as after a power failure
    rows = write_clips(folder, 3, settings)
    assert [row["skipped"] for row in rows] == [True, False, False]
    assert (folder / "000000" / "video.mp4").stat().st_mtime_ns == first
    assert sorted(path.name for path in folder.iterdir()) == ["000000", "000001", "000002", "clips.jsonl"]
    assert [clip.seed for clip in read_clips(folder)] == [0, 1, 2]


def test_the_camera_has_a_speed(tmp_path: Path):
    moved = {}
    for speed in (1.0, 0.5):
        settings = ClipSettings(frames=9, size=(64, 64), actions=("go right",), speed=speed)
        write_clips(tmp_path / str(speed), 1, settings)
        places = settings.film(0).cameras[:, 0]
        moved[speed] = places[-1] - places[0]
    assert moved[0.5] == pytest.approx(moved[1.0] / 2)
    about = tmp_path / "1.0" / "000000" / "clip.json"
    about.write_text(about.read_text().replace('"speed": 1.0', '"note": 1'))  # as written before there was a speed
    assert [row["skipped"] for row in write_clips(tmp_path / "1.0", 1, dataclasses.replace(settings, speed=1.0))] == [
        True
    ]
    with pytest.raises(InputError, match=r"other settings \(speed was 1.0, not 0.5\)"):
        write_clips(tmp_path / "1.0", 1, settings)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    words = ("data", "toy-world", "-o", tmp_path / "clips", "--frames", 3, "--size", 64, "--clips")
    assert run(capsys, *words, 1)[0] == 0
    monkeypatch.setattr(VideoWriter, "_take", _full)
    code, _, err = run(capsys, *words, 2)
    assert code == 2
    assert re.search(
        r"^visionzoo: error: \S*mp4: the disk is full; free some space and run the command again; 1 clip is kept in \S+clips$",
        err.strip(),
    )
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["000000", "clips.jsonl"]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_command_writes_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture):
    words = ("data", "toy-world", "-o", tmp_path / "clips", "--clips", 1, "--size", "64x96", "--split", "test")
    words += ("--places", "park, beach", "--frames", 6, "--hold", 2, "--actions", "go right,  zoom in", "--fps", 8)
    words += ("--characters", 2, "--seed", 5)
    code, out, err = run(capsys, *words)
    assert (code, out, err) == (0, "", f"1 clip written to {tmp_path / 'clips'}\n")
    clip = read_clip(tmp_path / "clips" / "000000")
    assert (clip.height, clip.width, clip.fps, clip.split, clip.seed) == (64, 96, 8, "test", 5)
    assert (clip.places, len(clip.characters), clip.has_truth) == (("park", "beach"), 2, False)
    shown = [(one.start_frame, one.end_frame, one.text) for one in clip.actions]
    assert shown == [(0, 1, "wait"), (1, 3, "go right"), (3, 5, "zoom in"), (5, 6, "wait")]
    info = probe(tmp_path / "clips" / "000000" / "video.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (96, 64, 6, 8)
    assert json.loads((tmp_path / "clips.json").read_text())["options"]["actions"] == ["go right", "zoom in"]
    code, out, _ = run(capsys, *words, "--json")
    assert (code, [row["skipped"] for row in json.loads(out)]) == (0, [True])
    code, _, err = run(capsys, *words, "--truth")
    assert code == 2
    assert "000000: was made with other settings (truth was False, not True); choose another folder, or add" in err
    assert run(capsys, *words, "--truth", "--overwrite", "--quiet") == (0, "", "")
    assert read_clip(tmp_path / "clips" / "000000").has_truth


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "63"), "height of a frame must be from 64 to 1920 pixels, got 63"),
        (("--size", "64x2000"), "width of a frame must be from 64 to 1920 pixels, got 2000"),
        (("--size", "64*64"), r"--size must be a number of pixels, or HEIGHTxWIDTH, e.g. 128 or 128x192, got '64\*64'"),
        (("--places", "parc"), "there is no kind of place 'parc'; did you mean park"),
        (("--places", "moon"), r"'moon'; did you mean room\? known: beach, forest, harbour, park, room, street"),
        (("--places", "25"), "1 to 24 places, got 25"),
        (("--characters", "7"), "0 to 6 characters, got 7"),
        (("--actions", "go left, jump"), "action 2 is 'jump'; the actions are: go left, go right"),
        (("--actions", "go left", "--returns"), "returns is for random actions"),
        (("--split", "tests"), "train"),
        (("--frames", "0"), "frames must be from 1"),
        (("--clips", "0"), "number of clips must be from 1 to 1,000,000, got 0"),
        (("--fps", "0"), "fps must be above 0 and at most 1000, got 0"),
        (("--fps", "nan"), "fps must be above 0 and at most 1000, got nan"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, words: tuple[str, ...], message: str
):
    code, out, err = run(capsys, "data", "toy-world", "-o", tmp_path / "clips", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.search(message, err)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "clips" / "000003").mkdir(parents=True)
    (tmp_path / "new.json").write_text("mine")
    for name, message in (("taken", "is a file"), ("clips", "000003: exists and is not a clip"), ("new", "new.json")):
        code, _, err = run(capsys, "data", "toy-world", "-o", tmp_path / name, "--size", 64, "--frames", 1)
        assert (code, message in err) == (2, True), err
    assert (tmp_path / "taken").read_text() == (tmp_path / "new.json").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_without_opencv_the_command_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, err = run(capsys, "data", "toy-world", "-o", tmp_path / "clips")
    assert (code, "pip install 'visionzoo[toy]'" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clip.json", "{", "clip.json: is damaged"),
        ("clip.json", "{}", "clip.json: is damaged"),
        ("clip.json", "[]", "holds no JSON object"),
        ("clip.json", None, "is not a clip of the toy world"),
        ("captions.jsonl", '{"text": "a"}\n', "captions.jsonl: expected start_frame, end_frame and text"),
        ("actions.jsonl", None, "actions.jsonl: no such file"),
        ("truth.npz", "PK", "truth.npz: is damaged"),
        ("lines.mp4", None, "lines.mp4: no such file"),
    ],
)
def test_a_damaged_clip_is_named(written: Path, tmp_path: Path, name: str, content: str | None, message: str):
    folder = shutil.copytree(written / "000000", tmp_path / "clip")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)

    with pytest.raises(InputError, match=message):
        read_everything(folder)
    read_everything(written / "000000")


def read_everything(folder: Path) -> None:
    clip = read_clip(folder)
    for part in (clip.video(), clip.lines(), clip.truths()):
        list(part)


def test_a_folder_of_clips_is_not_a_clip(written: Path):
    with pytest.raises(InputError, match="is not a clip of the toy world; expected a clip in it, e.g. .*000000"):
        read_clip(written)
    with pytest.raises(InputError, match="no such file"):
        read_clips(written / "000000")
