"""The reader of Sakuga-42M: columns, file names, filters, and what is wrong with a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.models.longanimation import read_sakuga
from visionzoo.models.longanimation.sakuga import COLUMNS

ROW: dict[str, Any] = {
    "identifier": "12:0",
    "scene_start_time": "00:00:05.005",
    "scene_end_time": "00:00:10.010",
    "fps": 24.0,
    "text_description": "a  girl\nruns",
    "aesthetic_score": 0.9,
    "dynamic_score": 0.5,
}


def save(folder: Path, *rows: dict[str, Any], without: str = "") -> Path:
    names = [name for name in (*COLUMNS, "unused") if name != without]
    table = {name: [{**ROW, "unused": 1, **row}[name] for row in rows] for name in names}
    pq.write_table(pa.table(table), folder / "clips.parquet")
    return folder / "clips.parquet"


def put(folder: Path, video: str, first: int) -> Path:
    file = folder / video / f"{video}-Scene-{first}.mp4"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    return file


def test_clips_are_found_by_their_first_frame(tmp_path: Path) -> None:
    table = save(
        tmp_path, {}, {"identifier": "7:3", "scene_start_time": "00:01:00.000", "scene_end_time": "00:01:30.0"}
    )
    exact, near = put(tmp_path / "clips", "12", 120), put(tmp_path / "clips", "7", 1439)
    first, second = read_sakuga(table, tmp_path / "clips")
    assert (first.file, first.caption, first.frames) == (exact, "a girl runs", 120)
    assert (second.file, second.frames) == (near, 720)


@pytest.mark.parametrize(
    "row",
    [
        {"scene_end_time": "00:00:08.000"},  # 72 frames
        {"text_description": None},
        {"fps": float("nan")},
        {"aesthetic_score": 0.1},
        {"dynamic_score": 0.1},
        {"identifier": "13:0"},  # no file
    ],
)
def test_clips_that_are_left_out(tmp_path: Path, row: dict[str, Any]) -> None:
    put(tmp_path / "clips", "12", 120)
    limits: dict[str, Any] = {"aesthetic": 0.8, "dynamic": 0.4}
    assert len(read_sakuga(save(tmp_path, {}, row), tmp_path / "clips", **limits)) == 1
    with pytest.raises(InputError, match="none of its . complete rows of at least 89 frames"):
        read_sakuga(save(tmp_path, row), tmp_path / "clips", **limits)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"scene_start_time": "5 s"}, "row 0: the time is '5 s'; expected HH:MM:SS.fff"),
        ({"identifier": "12"}, "row 0: the identifier is '12'; expected VIDEO:CLIP"),
        ({"identifier": "../12:0"}, "row 0: the identifier is '../12:0'"),
    ],
)
def test_damaged_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "clips").mkdir()
    with pytest.raises(InputError, match=message):
        read_sakuga(save(tmp_path, row), tmp_path / "clips")


def test_tables_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clips").mkdir()
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        read_sakuga(tmp_path / "none.parquet", tmp_path / "clips")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        read_sakuga(save(tmp_path, {}), tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"clips\.parquet: has no column fps; expected identifier"):
        read_sakuga(save(tmp_path, {}, without="fps"), tmp_path / "clips")
    (tmp_path / "text.parquet").write_text("identifier,fps\n")
    with pytest.raises(InputError, match=r"text\.parquet: is no parquet file"):
        read_sakuga(tmp_path / "text.parquet", tmp_path / "clips")
    table = save(tmp_path, {})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match="sakuga"):
        read_sakuga(table, tmp_path / "clips")
