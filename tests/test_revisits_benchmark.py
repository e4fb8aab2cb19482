"""The study of revisits: rows are paired by path, finished videos are not made again, and the report has the right signs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.revisits import Records, joined, paired, read_records, report, run, walks
from visionzoo.errors import InputError
from visionzoo.metrics import RandomFeatures, revisit

SETTINGS = {"chunks": 6, "window": 8, "src": "random"}


class Maker:
    """The truth with noise: "local" has nearly the same noise at the same place, "off" a new one in every frame."""

    def __init__(self, fail_at: int | None = None):
        self.made: list[tuple[int, str]] = []
        self.fail_at = fail_at

    def __call__(self, walk, row: str):
        self.made.append((walk.number, row))
        if len(self.made) == self.fail_at:
            raise KeyboardInterrupt

        def frames():
            for number, frame in enumerate(walk.clip.frames(1)):
                seed = int(np.round(1e6 * frame.camera).sum()) if row == "local" else number
                noise = np.random.default_rng(seed).normal(0, 12, frame.rgb.shape)
                noise += np.random.default_rng(number).normal(0, 2, noise.shape)
                yield np.clip(frame.rgb + noise, 0, 255).astype(np.uint8)

        return frames(), [[0.5]]


def study(path: Path, maker: Maker, paths: int = 2) -> None:
    chosen = [walk for walk, _ in zip(walks(6, 6, 64, speed=1.0), range(paths), strict=False)]
    run(Records(path, SETTINGS), maker, chosen, ["off", "local"], window=8, src=RandomFeatures(), network=None)


def test_an_interrupted_study_continues_and_is_paired(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "walks.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study(file, Maker(fail_at=3))
    with file.open("a") as half:
        half.write('{"path": 99, "ro')
    again = Maker()
    study(file, again)
    assert len(again.made) == 2  # the other two were finished
    settings, records = read_records(file)
    assert [each["row"] for each in records] == ["off", "local"] * 2
    assert len({each["path"] for each in records}) == 2
    walk = next(iter(walks(6, 6, 64, speed=1.0)))
    assert walk.actions == walk.clip.actions[1::6]
    assert np.array_equal(walk.clip.cameras[0], walk.clip.cameras[-1])
    frames = [walk.clip[0].rgb, *Maker()(walk, "off")[0]]
    expected = revisit(frames, walk.clip.cameras)
    far = [later - first >= 8 for first, later in expected.pairs]
    assert records[0]["revisit_psnr"] == pytest.approx(expected.psnr[far].mean())
    assert records[0]["revisits"] == sum(far) < len(far)
    text = report(settings, records)
    row = next(line for line in text.splitlines() if line.startswith("| local | +"))
    assert "better in" in text
    assert "2 of 2 paths" in row
    assert "| off (without TEMP-LORA) |" in text
    assert "1.88, 89.04" in text
    with pytest.raises(InputError, match=r"was made with other settings \(chunks\)"):
        Records(file, {**SETTINGS, "chunks": 8})
    json.dumps(records, allow_nan=False)


def test_paths_too_short_to_leave_the_picture_are_refused() -> None:
    with pytest.raises(InputError, match=r"4 chunks of 6 frames go 0\.36 far at most.*at least 12 chunks"):
        next(walks(4, 6, 64))


def test_intervals_are_of_paired_differences() -> None:
    random = np.random.default_rng(1)
    paths = random.normal(20, 5, 40)
    better = paired(paths + random.normal(1, 0.5, 40), paths)
    assert better.low < 1 < better.high
    assert better.low > 0.5
    same = paired(paths, paths)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert str(better).startswith("+")


def test_files_of_several_processes_are_reported_together(tmp_path: Path) -> None:
    numbers = dict.fromkeys(("revisits", "cuts", "revisit_psnr", "revisit_ssim", "src", "color_slope"), 1.0)
    lines = {"a": [{"path": 0, "row": "off"}, {"path": 0, "row": "local"}, {"path": 0, "row": "global"}]}
    lines["b"] = [{"path": 1, "row": "off"}, {"path": 1, "row": "local"}]
    for name, found in lines.items():
        rows = [
            {"settings": SETTINGS},
            *({**each, **numbers, "psnr": [1.0], "color_distance": [1.0]} for each in found),
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings, records = joined([tmp_path / "a", tmp_path / "b"])
    assert report(settings, records).startswith("1 path of")  # the one that has all rows
    assert report(settings, records, ["off", "local"]).startswith("2 paths of")
    (tmp_path / "b").write_text(json.dumps({"settings": {**SETTINGS, "chunks": 8}}) + "\n")
    with pytest.raises(InputError, match=r"b: was made with other settings than .*a; report it by itself"):
        joined([tmp_path / "a", tmp_path / "b"])
