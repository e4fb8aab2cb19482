"""The study of colour drift: rows are paired by clip, finished videos are not made again, and the measures have the right signs."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.color_drift import AWAY, Colored, LeavingClip, curves_of, leaving_clips, measure, report, run
from benchmarks.curves import Curve, draw_curves, round_marks
from benchmarks.revisits import Records, read_records
from visionzoo.errors import InputError

FRAMES, FIRST, BORDERS = 300, 1, (72, 137)
SETTINGS = {"weights": "none", "frames": FRAMES, "size": 64}


@pytest.fixture(scope="module")
def clips() -> list[LeavingClip]:
    return list(islice(leaving_clips(FRAMES, 64), 2))


class Maker:
    """The truth, which becomes darker from segment to segment, less with a memory; without the first and the last frames."""

    def __init__(self, fail_at: int | None = None):
        self.made: list[tuple[int, str]] = []
        self.fail_at = fail_at

    def __call__(self, leaving: LeavingClip, row: str) -> Colored:
        self.made.append((leaving.number, row))
        if len(self.made) == self.fail_at:
            raise KeyboardInterrupt
        loss = {"none": 0.1, "both": 0.02}[row]
        frames = [
            (frame.rgb * (1 - loss * sum(number >= border for border in BORDERS))).astype(np.uint8)
            for number, frame in enumerate(leaving.clip.frames(FIRST, FRAMES - 7, motion=False))
        ]
        return Colored(FIRST, BORDERS, frames)


def test_characters_leave_and_come_back(clips) -> None:
    assert len({each.number for each in clips}) == 2
    for leaving in clips:
        assert leaving.absences
        for character, gone, back in leaving.absences:
            assert back - gone >= AWAY
            around = [
                (leaving.clip[number].instances == character).sum() for number in (gone - 1, gone, back - 1, back)
            ]
            assert around[0] >= 12 > around[1]
            assert around[2] < 12 <= around[3]


@pytest.mark.slow
def test_an_interrupted_study_continues_and_is_paired(clips, tmp_path: Path) -> None:
    file, rows = tmp_path / "clips.jsonl", ["none", "both"]
    with pytest.raises(KeyboardInterrupt):
        run(Records(file, SETTINGS), Maker(fail_at=3), clips, rows)
    with file.open("a") as half:
        half.write('{"path": 99, "ro')
    again = Maker()
    run(Records(file, SETTINGS), again, clips, rows)
    assert len(again.made) == 2  # the other two were finished
    settings, records = read_records(file)
    assert [each["row"] for each in records] == rows * 2
    json.dumps(records, allow_nan=False)
    text = report(settings, records)
    (row,) = (line for line in text.splitlines() if line.startswith("| both | -"))
    assert "2 of 2 clips" in row
    assert "| CIEDE2000 by segment | 1 | 2 | 3 |" in text
    curves = curves_of(records)
    assert list(curves) == rows
    assert len(curves["both"].mean) == len(records[0]["curve"]) == 30
    assert (curves["none"].mean >= curves["both"].mean - 1e-9).all()
    draw_curves(curves, tmp_path / "clips.png", title="a", across="frame", up="CIEDE2000")
    with Image.open(tmp_path / "clips.png") as chart:
        assert chart.size == (960, 540)
        assert len(np.unique(np.asarray(chart.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    with pytest.raises(InputError, match=r"was made with other settings \(size\)"):
        Records(file, {**SETTINGS, "size": 96})


def test_the_measures_have_the_right_signs(clips) -> None:
    made = {row: measure(clips[0], Maker()(clips[0], row)) for row in ("none", "both")}
    for found in made.values():
        first, second, third = found["by_segment"]
        assert first < 0.5 < second < third
        assert found["slope"] > 0
        assert found["returns"] > 0
        assert found["seam"] > found["true_seam"]
    assert made["none"]["distance"] > made["both"]["distance"]
    assert made["none"]["slope"] > made["both"]["slope"]
    assert made["none"]["returned"] > made["both"]["returned"] > 0
    assert made["none"]["psnr"] < made["both"]["psnr"]


def test_the_truth_does_not_drift(clips) -> None:
    for leaving in clips:
        true = [frame.rgb for frame in leaving.clip.frames(motion=False)]
        found = measure(leaving, Colored(0, (), true))
        assert found["distance"] < 0.5
        assert found["returned"] < 1
        assert found["seam"] is None
        assert found["psnr"] == 99
        with pytest.raises(InputError, match=f"clip {leaving.number}: 300 frames from frame 1 on are more than 300"):
            measure(leaving, Colored(1, (), true))


def test_marks_of_axes_are_round() -> None:
    assert round_marks(7.3) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert round_marks(0.06) == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert round_marks(0) == [0, 1]


def test_gaps_of_curves_are_left_out(tmp_path: Path) -> None:
    at, mean = np.arange(6.0), np.array([1, 2, np.nan, 3, np.nan, 1])
    draw_curves({"a": Curve(at, mean, mean - 0.5, mean + 0.5)}, tmp_path / "a.png", title="", across="", up="")
    with Image.open(tmp_path / "a.png") as chart:
        pixels = np.asarray(chart.convert("RGB"))[40:480, 70:830].astype(int)
    blue = (pixels[..., 2] > pixels[..., 0] + 100).any(axis=0)
    assert blue[:150].any()
    assert blue[450:462].any()  # a single point
    assert not blue[300:440].any()  # the third point, and the way to it
