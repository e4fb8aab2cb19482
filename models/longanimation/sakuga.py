"""Clips of Sakuga-42M (arXiv 2405.07425), the data set that LongAnimation was trained on: a table in a parquet file, and cut videos.

The clip with the identifier "video:clip" is the file ROOT/video/video-Scene-FIRST.mp4, where FIRST is its first frame in the video it
was cut from: the start in seconds times the frame rate, rounded down; one more or less is accepted.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError, require

__all__ = ["COLUMNS", "SakugaClip", "find_clips", "read_sakuga"]

COLUMNS = (
    "identifier",
    "scene_start_time",
    "scene_end_time",
    "fps",
    "text_description",
    "aesthetic_score",
    "dynamic_score",
)
"""Columns that are read."""

_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True)
class SakugaClip:
    """A clip.

    Attributes:
        file: the video.
        caption: its description.
        frames: its length, from the table.
    """

    file: Path
    caption: str
    frames: int


def read_sakuga(
    table: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    min_frames: int = 89,
    aesthetic: float = 0.0,
    dynamic: float = 0.0,
) -> list[SakugaClip]:
    """The clips of a parquet file whose videos exist.

    The published training takes clips of 89 frames or more; the published test those of 300 or more with an aesthetic score from
    0.8 and a dynamic score from 0.4.

    Args:
        table: the parquet file.
        root: folder of the videos.
        min_frames: shorter clips are left out, and so are rows with empty cells.
        aesthetic, dynamic: smallest scores.

    Raises:
        InputError: a file or folder is missing, damaged, lacks a column, or no clip is left.
        MissingDependencyError: pyarrow is not installed.
    """
    file, place = Path(table), Path(root)
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected a parquet file of Sakuga-42M")
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; expected the cut clips, as VIDEO/VIDEO-Scene-FIRST.mp4")
    clips, complete = find_clips(_rows(file), place, min_frames=min_frames, aesthetic=aesthetic, dynamic=dynamic)
    if not clips:
        raise InputError(
            f"{file}: none of its {complete} complete rows of at least {min_frames} frames has a video in {place}; expected e.g. "
            "VIDEO/VIDEO-Scene-120.mp4"
        )
    return clips


def find_clips(
    rows: Iterable[Mapping[str, Any]], root: Path, *, min_frames: int = 89, aesthetic: float = 0.0, dynamic: float = 0.0
) -> tuple[list[SakugaClip], int]:
    """The clips of a table's rows whose videos exist, and the number of rows that fit the other conditions.

    Raises:
        InputError: an identifier or a time of another form.
    """
    clips, complete = [], 0
    for number, row in enumerate(rows):
        values = [row[name] for name in COLUMNS]
        if any(value is None or (isinstance(value, float) and math.isnan(value)) for value in values):
            continue
        if float(row["aesthetic_score"]) < aesthetic or float(row["dynamic_score"]) < dynamic:
            continue
        fps = float(row["fps"])
        start, end = (_seconds(row[name], number) for name in ("scene_start_time", "scene_end_time"))
        frames = round((end - start) * fps)
        if frames < min_frames:
            continue
        complete += 1
        video, colon, _ = str(row["identifier"]).partition(":")
        if not video or not colon or "/" in video or "\\" in video or video in (".", ".."):
            raise InputError(f"row {number}: the identifier is {row['identifier']!r}; expected VIDEO:CLIP")
        first = int(start * fps)
        for near in (first, first - 1, first + 1):
            file = root / video / f"{video}-Scene-{near}.mp4"
            if file.is_file():
                clips.append(SakugaClip(file, " ".join(str(row["text_description"]).split()), frames))
                break
    return clips, complete


def _seconds(time: Any, row: int) -> float:
    found = _TIME.fullmatch(str(time))
    if found is None:
        raise InputError(f"row {row}: the time is {time!r}; expected HH:MM:SS.fff")
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file, `COLUMNS` only."""
    parquet: Any = require("pyarrow.parquet", extra="sakuga", purpose="reading Sakuga-42M")
    try:
        _check_columns(file, parquet.read_schema(file).names)
        return parquet.read_table(file, columns=list(COLUMNS)).to_pylist()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is no parquet file ({str(error).splitlines()[0]})") from error


def _check_columns(file: Path, known: list[str]) -> None:
    if missing := [name for name in COLUMNS if name not in known]:
        raise InputError(f"{file}: has no column {missing[0]}; expected {', '.join(COLUMNS)}")
