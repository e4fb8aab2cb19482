"""The revisited Oxford and Paris benchmark as files: images, ground truth, and descriptors of a million distractors.

    <root>/<name>/jpg/<image>.jpg        database and query images
    <root>/<name>/gnd_<name>.json|.pkl   ground truth; the published one is a pickle
    <root>/revisitop1m/…                 distractors, named line by line in revisitop1m.txt

with <name> roxford5k or rparis6k (Radenovic et al., CVPR 2018, arXiv 1803.11285). A pickle can run code when it is
read: the reader here knows lists, dictionaries, text, numbers and plain numeric arrays, and refuses everything else.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.files import atomic_path, write_json
from visionzoo.metrics.ranking import GroundTruth

MAX_PICKLE_BYTES = 64 << 20


# Ground truth


@dataclass(frozen=True)
class Benchmark:
    """One data set of the benchmark.

    Attributes:
        name: "roxford5k", "rparis6k", or that of a set in the same layout.
        folder: <root>/<name>.
        images: names of the N database images, without folder and ending.
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
    files = [folder / f"gnd_{name}{ending}" for ending in (".json", ".pkl")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(
            f"{files[1]}: no such file; expected the ground truth there and the images in {folder / 'jpg'}"
        )
    content = _read_json(found) if found.suffix == ".json" else read_pickle(found)
    return _benchmark(content, name, folder, found)


def convert_ground_truth(pickled: str | Path, to: str | Path | None = None) -> Path:
    """Write a published gnd_<name>.pkl as gnd_<name>.json (beside it, or to `to`) and return the new path."""
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
        raise InputError(f"{path}: not valid JSON ({error}); convert the published pickle again") from error


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
            raise wrong(f"names an image {str(image)[:60]!r}, which is no name inside the jpg folder")
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
        raise ValueError("a list of image numbers is no list of whole numbers")
    indices = np.array(values, dtype=np.int64)
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise ValueError(f"an image number is outside 0..{count - 1}")
    if len(np.unique(indices)) != len(indices):
        raise ValueError("an image is named twice")
    return indices


# A pickle reader that runs nothing


def read_pickle(path: str | Path) -> Any:
    """Lists, dictionaries, text, numbers and numeric arrays (as lists) from a pickle; nothing in it is run.

    Raises:
        InputError: missing, too large, damaged, or it asks for anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PICKLE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_PICKLE_BYTES:
        raise InputError(f"{path}: is larger than {MAX_PICKLE_BYTES >> 20} MB; this is no ground truth")
    try:
        return _plain(_PlainUnpickler(io.BytesIO(data), encoding="latin1").load())
    except _RefusedError as error:
        raise InputError(
            f"{path}: asks for {error}, which ground truth never needs; nothing was run: get the file from its authors"
        ) from None
    except Exception as error:  # a damaged pickle fails in any way at all
        raise InputError(f"{path}: not a pickle, or damaged ({type(error).__name__}: {error})") from error


class _RefusedError(VisionZooError):
    pass


class _Dtype:
    """Stands for a pickled numpy dtype: integers, floats and booleans only."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([iu][1248]|f[248]|b1)", code):
            raise _RefusedError(f"an array of type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a pickled numpy array: its bytes are taken as numbers of its dtype."""

    values: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _from_bytes(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _from_bytes(data: bytes | str, dtype: _Dtype) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise _RefusedError("an array without a type")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)


def _new_array(*_: Any) -> _Array:
    return _Array()


def _array_from_buffer(data: bytes, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.values = _from_bytes(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    return array


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    return _from_bytes(data, dtype)[0].item()


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"the codec {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _new_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    """Nothing is ever imported: the few names that numeric arrays need stand for functions of this file."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("an outside object")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.values.tolist()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("latin1")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise _RefusedError(f"a value of type {type(value).__name__}")


# Distractors


def read_image_list(path: str | Path) -> list[str]:
    """The lines of a list of images (`revisitop1m.txt`): relative paths with ending.

    Raises:
        InputError: missing, empty, or a line that leads out of the folder.
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
            raise InputError(f"{path}, entry {number}: {name[:60]!r} leads out of the image folder")
    return names


@dataclass(frozen=True)
class Descriptors:
    """Descriptors in one or several arrays, which may be memory-mapped files; float32 or float16, read as float32."""

    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, *sources: Tensor | np.ndarray | Descriptors) -> Descriptors:
        parts: list[np.ndarray] = []
        for source in sources:
            if isinstance(source, Descriptors):
                parts += source.parts
            else:
                parts.append(source.detach().cpu().numpy() if isinstance(source, Tensor) else source)
        return cls(tuple(parts))

    @cached_property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def chunks(self, size: int = 8192) -> Iterator[Tensor]:
        """(n, D) float32 tensors in the order of the indices, n at most `size`."""
        for part in self.parts:
            for start in range(0, len(part), size):
                yield torch.from_numpy(np.array(part[start : start + size], dtype=np.float32))

    def rows(self, ids: Tensor) -> Tensor:
        """The descriptors of `ids` (...,): (..., D) float32."""
        flat = ids.reshape(-1).cpu().numpy()
        out = np.empty((len(flat), self.parts[0].shape[1]), dtype=np.float32)
        which = np.searchsorted(self.starts, flat, side="right") - 1
        for part in np.unique(which):
            here = which == part
            out[here] = self.parts[part][flat[here] - self.starts[part]]
        return torch.from_numpy(out).reshape(*ids.shape, -1)


def read_descriptors(path: str | Path) -> Descriptors:
    """Descriptors from a .npy file (N, D), or from a folder that `DescriptorShards` filled; memory-mapped.

    Raises:
        InputError: missing, damaged, or not complete; the message says how to go on.
    """
    path = Path(path)
    if path.is_dir():
        return DescriptorShards.open(path).read()
    if not path.is_file():
        raise InputError(f"{path}: no descriptors there; make them with: visionzoo predict --config …")
    return Descriptors((_map(path),))


def _map(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a .npy file of descriptors, or damaged ({error}); make it again") from error
    if array.ndim != 2 or array.dtype not in (np.float32, np.float16):
        raise InputError(
            f"{path}: has {array.dtype} of shape {array.shape}, expected float32 or float16 of shape (N, D)"
        )
    return array


class DescriptorShards:
    """A folder of descriptors that is filled piece by piece, in any order, and resumes.

    Shard i holds the images i * size to (i + 1) * size of a list, in its order, as descriptors-0000i.npy; index.json
    says how many images there are and by what they were described.
    """

    def __init__(self, folder: Path, images: int, size: int, about: Mapping[str, Any]):
        self.folder, self.images, self.size, self.about = folder, images, size, dict(about)

    @classmethod
    def open(cls, folder: Path) -> DescriptorShards:
        """An existing folder. Raises `InputError` if it holds no descriptors."""
        index = folder / "index.json"
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            return cls(folder, int(content["images"]), int(content["shard_size"]), dict(content["about"]))
        except OSError as error:
            raise InputError(
                f"{index}: cannot be read ({error.strerror}); make it with: visionzoo predict --config …"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{index}: damaged ({error}); delete the folder and make it again") from error

    @classmethod
    def create(cls, folder: Path, images: int, size: int, about: Mapping[str, Any]) -> DescriptorShards:
        """A new folder, or an existing one to go on with.

        Raises:
            InputError: the folder holds descriptors of something else: other images, another model or other weights.
        """
        if size < 1:
            raise InputError(f"a shard holds at least one image, got {size}")
        shards = cls(folder, images, size, about)
        if (folder / "index.json").exists():
            old = cls.open(folder)
            old.check({"images": images, "shard_size": size, **about})
            return old
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", {"images": images, "shard_size": size, "about": dict(about)})
        return shards

    def check(self, expected: Mapping[str, Any]) -> None:
        """Raise `InputError` if the descriptors were made with other values of `expected`'s keys."""
        own = {"images": self.images, "shard_size": self.size, **self.about}
        differing = [key for key in sorted(expected) if own.get(key) != expected[key]]
        if differing:
            raise InputError(
                f"{self.folder}: holds descriptors made with other {', '.join(differing)}; "
                "choose another folder, or delete it and make it again"
            )

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def path(self, shard: int) -> Path:
        return self.folder / f"descriptors-{shard:05d}.npy"

    def span(self, shard: int) -> range:
        """The numbers of the images in `shard`."""
        return range(shard * self.size, min((shard + 1) * self.size, self.images))

    def missing(self) -> list[int]:
        return [shard for shard in range(len(self)) if not self.path(shard).is_file()]

    def write(self, shard: int, descriptors: np.ndarray) -> None:
        """Write one whole shard, in one step."""
        with atomic_path(self.path(shard)) as temporary, temporary.open("wb") as file:
            np.save(file, descriptors)

    def read(self) -> Descriptors:
        missing = self.missing()
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(self)} shards are missing, {self.path(missing[0]).name} first; "
                "run visionzoo predict again: it goes on where it stopped"
            )
        parts = tuple(_map(self.path(shard)) for shard in range(len(self)))
        for shard, part in enumerate(parts):
            if len(part) != len(self.span(shard)):
                raise InputError(
                    f"{self.path(shard)}: has {len(part)} descriptors, expected {len(self.span(shard))}; delete it"
                )
        return Descriptors(parts)


def write_ground_truth(path: str | Path, content: Mapping[str, Sequence[Any]]) -> None:
    """Write ground truth the published way, as a pickle (for made-up data sets)."""
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        pickle.dump(dict(content), file, protocol=2)
