"""Classes of images, and what is written of them: sheets, tables, vectors."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.console import counted
from visionzoo.errors import InputError
from visionzoo.io.bar_sheet import Bar, Card, save_bar_sheet
from visionzoo.io.extensions import SHEETS_WRITTEN
from visionzoo.io.files import atomic_path, write_text
from visionzoo.jobs import check_result, write_sidecar

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
class ClassificationResult:
    """What one image shows, the most probable class first; or, with no predictions, the error that says why not."""

    source: str
    predictions: tuple[Prediction, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "predictions": [asdict(p) for p in self.predictions], "error": self.error}


def check_outputs(
    path_out: str | Path | None, features: str | Path | None, overwrite: bool
) -> tuple[Path | None, Path | None]:
    """(output, file of features), if they and the sidecar of the first may be written.

    Raises:
        InputError: an extension that is not written, two files of features, or a file that exists already.
    """
    out, store = (None if path is None else Path(path) for path in (path_out, features))
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise InputError(f"{out}: results are written as {', '.join(ENDINGS)}; give -o such a name")
    if store is not None and store.suffix.lower() != ".npz":
        raise InputError(f"{store}: features are written as .npz; give --features such a name")
    if out is not None and out.suffix.lower() == ".npz":
        if store is not None and store != out:
            raise InputError(
                f"{out} and {store}: features go into one file; give -o another extension, or leave --features out"
            )
        store = out
    for path in {path for path in (out, store) if path is not None}:
        check_result(path, overwrite=overwrite)
    return out, store


def write_results(path: Path, results: Sequence[ClassificationResult], options: Mapping[str, Any]) -> None:
    """The sheet or table at `path`, and its sidecar with the results and everything that made them."""
    ending, readable = path.suffix.lower(), [result for result in results if result.error is None]
    if ending in SHEETS_WRITTEN:
        subtitle = f"{counted(len(readable), 'image')} · {options['model']} · {options['image_size']} x {options['image_size']} pixels"
        save_bar_sheet(
            path, [sheet_card(result) for result in readable], heading="Classes of the images", subtitle=subtitle
        )
    elif ending == ".csv":
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["source", "rank", "label", "index", "probability"])
        for result in readable:
            writer.writerows([result.source, p.rank, p.label, p.index, p.probability] for p in result.predictions)
        write_text(path, table.getvalue())
    write_sidecar(path, {"results": [result.to_dict() for result in results]}, options)


def sheet_card(result: ClassificationResult) -> Card:
    """A result as a card of a sheet."""
    bars = [Bar(prediction.label, prediction.probability) for prediction in result.predictions]
    return Card(result.source, Path(result.source).name, bars)


def write_features(path: Path, vectors: Sequence[np.ndarray], paths: Sequence[str]) -> None:
    """An `.npz` file: `features` (N, C) float32, and `paths`."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=np.stack(vectors), paths=np.array(paths))


__all__ = ["ClassificationResult", "Prediction", "check_outputs", "sheet_card", "write_features", "write_results"]
