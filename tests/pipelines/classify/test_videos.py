"""Videos: a row for every second, the mean over them, and results of every kind."""

from __future__ import annotations

import csv
import json
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, sample_frames
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline
from visionzoo.pipelines.classify.frames import clock

from ...command import run

pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of red, two of green, one of blue, at 10 frames a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, fps=10) as writer:
        for colour, frames in (("red", 10), ("green", 20), ("blue", 10)):
            for _ in range(frames):
                writer.write(np.asarray(Image.new("RGB", (96, 64), colour)))
    return path


def best(result: ClassificationResult) -> list[str]:
    return [frame.predictions[0].label for frame in result.frames]


def test_a_row_for_every_second_and_their_mean(classifier: ClassifyPipeline, clip: Path) -> None:
    result = classifier(clip, top=3)
    assert isinstance(result, ClassificationResult)
    assert [frame.time for frame in result.frames] == [0, 1, 2, 3]
    assert best(result) == ["red", "green", "green", "blue"]
    assert result.predictions[0].label == "green"
    for prediction in result.predictions:
        shares = [p.probability for frame in result.frames for p in frame.predictions if p.index == prediction.index]
        assert prediction.probability == pytest.approx(sum(shares) / 4, abs=1e-5)
    halves = classifier(clip, every=0.5, batch_size=3)
    assert isinstance(halves, ClassificationResult)
    assert best(halves) == ["red"] * 2 + ["green"] * 4 + ["blue"] * 2
    once = classifier(clip, every=60)
    assert isinstance(once, ClassificationResult)
    assert best(once) == ["red"]
    with pytest.raises(InputError, match=r"at least 0\.001 seconds, got 0"):
        classifier(clip, every=0)


def test_sampled_frames_come_at_the_times_they_are_shown(clip: Path) -> None:
    found = list(sample_frames(clip, 0.25))
    assert [time for time, _ in found] == [number / 4 for number in range(16)]
    for time, frame in found:
        assert frame.time <= Fraction(time) < frame.time + frame.duration
    assert len(list(sample_frames(clip, 0.05))) == 80, "a frame that is shown for longer comes again"
    with pytest.raises(InputError, match="must be above 0 seconds"):
        next(sample_frames(clip, 0))


def test_videos_among_images(classifier: ClassifyPipeline, clip: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "4b.mp4").write_bytes(clip.read_bytes())
    results = classifier.run(folder, tmp_path / "r.csv", progress=False, top=1, features=tmp_path / "f.npz")
    assert [Path(result.source).name for result in results].index("4b.mp4") == 5
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    video = [(row["time"], row["label"]) for row in rows if row["source"].endswith("4b.mp4")]
    assert video == [("", "green"), ("0.0", "red"), ("1.0", "green"), ("2.0", "green"), ("3.0", "blue")]
    assert all(not row["time"] for row in rows if row["source"].endswith(".png"))
    saved = json.loads((tmp_path / "r.csv.json").read_text())
    assert saved["options"]["every"] == 1.0
    assert [frame["time"] for frame in saved["results"][5]["frames"]] == [0, 1, 2, 3]
    assert "frames" not in saved["results"][0]
    vectors = np.load(tmp_path / "f.npz")["features"]
    means = classifier.features([folder / f"{number}.png" for number in (0, 1, 1, 2)]).mean(0)
    assert np.linalg.norm(vectors[5] - means) < 0.05 * np.linalg.norm(means)


def test_sheets_show_frames(classifier: ClassifyPipeline, clip: Path, tmp_path: Path) -> None:
    classifier.run(clip, tmp_path / "r.html", progress=False)
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5, "the mean and four frames"
    for words in ("Classes of the videos", "mean of 4 frames<", "<h2>0:03<"):
        assert words in page
    assert f'href="{os.path.relpath(clip, tmp_path)}">clip.mp4, mean of 4 frames' in page, "a video's name links to it"
    classifier.run(clip, tmp_path / "one.html", progress=False, every=60)
    page = (tmp_path / "one.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1, "the only frame is not shown twice"
    assert "clip.mp4, 1 frame" in page
    with pytest.raises(InputError, match="images do not fit into one .webp image"):
        classifier.run(clip, tmp_path / "r.webp", progress=False, every=0.003)


def test_an_interrupted_run_keeps_finished_videos(
    classifier: ClassifyPipeline, clip: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "0a.mp4").write_bytes(clip.read_bytes())
    fresh = classifier.run(folder, None, progress=False)
    with pytest.raises(KeyboardInterrupt, match="2 of 10 files are done and kept"):
        classifier.run(folder, tmp_path / "r.html", progress=False, on_result=_Stop(2))
    from visionzoo.pipelines.classify import pipeline

    monkeypatch.setattr(pipeline, "shots", lambda *_: pytest.fail("the video is read again"))
    assert classifier.run(folder, tmp_path / "r.html", progress=False) == fresh
    assert "0a.mp4, mean of 4 frames" in (tmp_path / "r.html").read_text()


class _Stop:
    """Press Ctrl-C after this many results."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, result: ClassificationResult) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_the_command(capsys: pytest.CaptureFixture, weights: Path, clip: Path) -> None:
    code, out, _ = run(capsys, "classify", clip, "--checkpoint", weights, "--top", 1)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["0:00", "0:01", "0:02", "0:03"]
    assert [line.split()[-1] for line in lines[:4]] == ["red", *["green"] * 2, "blue"]
    assert lines[5] == "mean of 4 frames:"
    assert lines[6].endswith("green")


def test_a_broken_video(
    capsys: pytest.CaptureFixture, weights: Path, clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single one is an error, among others it is reported; so is every video without the extra."""
    (folder / "words.mp4").write_text("words")
    code, _, err = run(capsys, "classify", folder / "words.mp4", "--checkpoint", weights)
    assert (code, "cannot be read as a video" in err) == (2, True)
    code, out, err = run(capsys, "classify", folder, "--checkpoint", weights)
    assert (code, len(out.splitlines())) == (1, 9)
    assert "1 of 10 files could not be read" in err
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run(capsys, "classify", clip, "--checkpoint", weights)
    assert (code, "pip install 'visionzoo[video]'" in err) == (2, True)
    (folder / "words.mp4").write_bytes(clip.read_bytes())
    code, out, err = run(capsys, "classify", folder, "--checkpoint", weights)
    assert (code, len(out.splitlines())) == (1, 9)
    assert "pip install 'visionzoo[video]'" in err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (63, "1:03"), (3723, "1:02:03"), (0.5, "0:00.50")])
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text
