"""The revisited Oxford and Paris benchmark as files: images, ground truth, and the list of a million distractors.

    <root>/<name>/jpg/<image>.jpg        database and query images
    <root>/<name>/gnd_<name>.json|.pkl   ground truth; the published one is a pickle
    <root>/revisitop1m/…                 distractors, named line by line in revisitop1m.txt

with <name> roxford5k or rparis6k (Radenovic et al., CVPR 2018, arXiv 1803.11285). The
published pickle is read without running anything in it (`visionzoo.io.plain_pickle`).
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path, write_json
from visionzoo.io.plain_pickle import read_pickle
from visionzoo.metrics.ranking import GroundTruth


@dataclass(frozen=True)
class Benchmark:
    """One data set of the benchmark.

    Attributes:
        name: "roxford5k", "rparis6k", or the name of a set in the same layout.
        folder: <root>/<name>.
        images: names of the N database images, without folder and extension.
        queries: names of the Q query images.
        boxes: (x0, y0, x1, y1) in pixels per query: the part of the image that is the query.
        truths: per query, the database images that show its landmark.
    """

    name: str
    folder: Path
    images: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    truths: tuple[GroundTruth, ...]

    def path(self, image: str) -> Path:
        return self.folder / "jpg" / f"{image}.jpg"

    def check_files(self) -> None:
        """Raise `InputError` if images are missing, before hours are spent on the others."""
        missing = [self.path(image) for image in (*self.images, *self.queries) if not self.path(image).is_file()]
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            total = len(self.images) + len(self.queries)
            raise InputError(
                f"{missing[0]}{others} of {total} images are missing; "
                f"unpack the images of {self.name} into {self.folder / 'jpg'}"
            )


def read_benchmark(root: str | Path, name: str) -> Benchmark:
    """Read the ground truth of `name` below `root`: gnd_<name>.json if it is there, else gnd_<name>.pkl.

    Raises:
        InputError: nothing there, or damaged, or not what the benchmark publishes; the message names the file.
    """
    folder = Path(root) / name
    files = [folder / f"gnd_{name}{suffix}" for suffix in (".json", ".pkl")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(
            f"{files[1]}: no such file; expected the ground truth there and the images in {folder / 'jpg'}"
        )
    content = _read_json(found) if found.suffix == ".json" else read_pickle(found)
    return _benchmark(content, name, folder, found)


def convert_ground_truth(pickled: str | Path, to: str | Path | None = None) -> Path:
    """Write a published gnd_<name>.pkl as gnd_<name>.json (in the same folder, or to `to`) and return the new path."""
    pickled = Path(pickled)
    target = pickled.with_suffix(".json") if to is None else Path(to)
    content = read_pickle(pickled)
    _benchmark(content, pickled.stem.removeprefix("gnd_"), pickled.parent, pickled)  # refuses what is not ground truth
    write_json(target, content)
    return target


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); convert the published pickle again") from error


def _benchmark(content: Any, name: str, folder: Path, path: Path) -> Benchmark:
    def wrong(what: str) -> InputError:
        return InputError(
            f"{path}: {what}; expected the ground truth of the revisited benchmark (imlist, qimlist, gnd)"
        )

    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(k), list) for k in ("imlist", "qimlist", "gnd")
    ):
        raise wrong("has no lists imlist, qimlist and gnd")
    images, queries, entries = content["imlist"], content["qimlist"], content["gnd"]
    if not images or not queries or len(queries) != len(entries):
        raise wrong(f"has {len(images)} images, {len(queries)} queries and {len(entries)} entries of ground truth")
    for image in (*images, *queries):
        if not isinstance(image, str) or not _inside(image):
            raise wrong(f"names an image {str(image)[:60]!r}, which is not the name of a file in the jpg folder")
    boxes, truths = [], []
    for i, entry in enumerate(entries):
        try:
            boxes.append(_box(entry["bbx"]))
            truths.append(GroundTruth(*(_indices(entry[label], len(images)) for label in ("easy", "hard", "junk"))))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else f"is wrong ({error})"
            raise wrong(f"the entry of query {i} {problem}") from error
    return Benchmark(name, folder, tuple(images), tuple(queries), tuple(boxes), tuple(truths))


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and "\\" not in name and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def _box(values: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in values)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("its box is not finite")
    return x0, y0, x1, y1


def _indices(values: Any, count: int) -> np.ndarray:
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise ValueError("a list of image numbers is not a list of whole numbers")
    indices = np.array(values, dtype=np.int64)
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise ValueError(f"an image number is outside 0..{count - 1}")
    if len(np.unique(indices)) != len(indices):
        raise ValueError("an image is named twice")
    return indices


def read_image_list(path: str | Path) -> list[str]:
    """The lines of a list of images (`revisitop1m.txt`): relative paths with extensions.

    Raises:
        InputError: missing, empty, or a line that points outside the folder.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of images ({error})") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path}: names no images")
    for number, name in enumerate(names, 1):
        if not _inside(name):
            raise InputError(f"{path}, entry {number}: {name[:60]!r} points outside the image folder")
    return names


def write_ground_truth(path: str | Path, content: Mapping[str, Sequence[Any]]) -> None:
    """Write ground truth as a pickle, like the published one (for synthetic data sets)."""
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        pickle.dump(dict(content), file, protocol=2)
