"""Classes of images, and their output files: sheets, tables, vectors."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.console import counted
from visionzoo.errors import InputError
from visionzoo.io.bar_sheet import Bar, Card, save_bar_sheet
from visionzoo.io.extensions import SHEETS_WRITTEN
from visionzoo.io.files import atomic_path, write_text
from visionzoo.jobs import check_result, write_sidecar

from .frames import clock, decoded

ENDINGS = (*SHEETS_WRITTEN, ".json", ".csv", ".npz")


@dataclass(frozen=True)
class Prediction:
    """A class that an image may show.

    Attributes:
        rank: place among the image's classes, from 1.
        label: name of the class.
        index: its number in the network's output, from 0.
        probability: in [0, 1]; those of all classes add up to 1.
    """

    rank: int
    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class FrameClasses:
    """The predictions for a frame of a video.

    Attributes:
        time: time at which it is shown, in seconds.
        predictions: the most probable class first.
        thumbnail: the frame as a small JPEG file.
    """

    time: float
    predictions: tuple[Prediction, ...]
    thumbnail: bytes = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {"time": self.time, "predictions": [asdict(p) for p in self.predictions]}


@dataclass(frozen=True)
class ClassificationResult:
    """The predictions for an image or video.

    Attributes:
        source: the file, or "image 3".
        predictions: the most probable class first; for a video, those of the mean over its frames. Empty if there is an error.
        error: why there are no predictions.
        frames: frames of a video in the order of their times; empty for an image.
    """

    source: str
    predictions: tuple[Prediction, ...]
    error: str | None = None
    frames: tuple[FrameClasses, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        facts = {"source": self.source, "predictions": [asdict(p) for p in self.predictions], "error": self.error}
        return {**facts, "frames": [frame.to_dict() for frame in self.frames]} if self.frames else facts


def check_outputs(
    path_out: str | Path | None, features: str | Path | None, overwrite: bool
) -> tuple[Path | None, Path | None]:
    """(output, file of features), after checking that they and the sidecar can be written.

    Raises:
        InputError: an unknown extension, two files of features, or a file that exists already.
    """
    out, store = (None if path is None else Path(path) for path in (path_out, features))
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise InputError(f"{out}: results are written as {', '.join(ENDINGS)}; give -o one of these extensions")
    if store is not None and store.suffix.lower() != ".npz":
        raise InputError(f"{store}: features are written as .npz; give --features this extension")
    if out is not None and out.suffix.lower() == ".npz":
        if store is not None and store != out:
            raise InputError(
                f"{out} and {store}: features are written to one file; give -o another extension, or omit --features"
            )
        store = out
    for path in {path for path in (out, store) if path is not None}:
        check_result(path, overwrite=overwrite)
    return out, store


def write_results(path: Path, results: Sequence[ClassificationResult], options: Mapping[str, Any]) -> None:
    """Write the sheet or table at `path`, and its sidecar with the results and all settings."""
    suffix, readable = path.suffix.lower(), [result for result in results if result.error is None]
    if suffix in SHEETS_WRITTEN:
        subtitle = (
            f"{count_words(readable)} · {options['model']} · {options['image_size']} x {options['image_size']} pixels"
        )
        cards = [sheet_card(result) for result in readable]
        videos = sum(bool(result.frames) for result in readable)
        what = "images" if not videos else "videos" if videos == len(readable) else "images and videos"
        save_bar_sheet(path, cards, heading=f"Classes of the {what}", subtitle=subtitle)
    elif suffix == ".csv":
        write_text(path, table(readable))
    write_sidecar(path, {"results": [result.to_dict() for result in results]}, options)


def count_words(results: Sequence[ClassificationResult]) -> str:
    """ "3 images, 1 video"."""
    videos = sum(bool(result.frames) for result in results)
    counts = {"image": len(results) - videos, "video": videos}
    return ", ".join(counted(count, what) for what, count in counts.items() if count)


def table(results: Sequence[ClassificationResult]) -> str:
    """Results as CSV. If there are videos, a last column holds the time of a frame in seconds; it is empty for means and images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    videos = any(result.frames for result in results)
    writer.writerow(["source", "rank", "label", "index", "probability", *(["time"] if videos else [])])
    for result in results:
        parts = [("", result.predictions), *((frame.time, frame.predictions) for frame in result.frames)]
        for time, predictions in parts:
            last = [time] if videos else []
            writer.writerows([result.source, p.rank, p.label, p.index, p.probability, *last] for p in predictions)
    return text.getvalue()


def sheet_card(result: ClassificationResult) -> Card:
    """A result as a card of a sheet; that of a video shows the mean, and has a part for each frame if there are several."""
    name = Path(result.source).name
    if not result.frames:
        return Card(result.source, name, _bars(result.predictions))
    best = result.predictions[0].index
    shown = max(result.frames, key=lambda frame: sum(p.probability for p in frame.predictions if p.index == best))
    several = len(result.frames) > 1
    parts = [Card(decoded(frame.thumbnail), clock(frame.time), _bars(frame.predictions)) for frame in result.frames]
    return Card(
        decoded(shown.thumbnail),
        f"{name}, mean of {len(result.frames)} frames" if several else f"{name}, 1 frame",
        _bars(result.predictions),
        file=result.source,
        parts=parts if several else (),
    )


def _bars(predictions: Sequence[Prediction]) -> list[Bar]:
    return [Bar(prediction.label, prediction.probability) for prediction in predictions]


def write_features(path: Path, vectors: Sequence[np.ndarray], paths: Sequence[str]) -> None:
    """An `.npz` file: `features` (N, C) float32, and `paths`."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=np.stack(vectors), paths=np.array(paths))


__all__ = [
    "ClassificationResult",
    "FrameClasses",
    "Prediction",
    "check_outputs",
    "sheet_card",
    "table",
    "write_features",
    "write_results",
]
