"""PlayCanvas's compressed `.ply`: chunks of 256 Gaussians, each number packed into few bits over the range of its chunk.

| | bits | range |
|---|---|---|
| centre, logarithm of scale | 11, 10, 11 | of the chunk |
| rotation | 2 for the largest component, 10 for each other | ±sqrt(1/2) |
| constant colour | 8 each | of the chunk |
| opacity | 8 | 0 to 1 |
| other harmonics | 8 | ±4 |

Packed by hand, since the writers in reach are not right: gsplat 1.5.3 sorts the Gaussians with the largest coordinates into the first
chunk, whose centres become inexact, and writes no Gaussians at all if one logit is infinite; gsply 0.4.6 does not sort, rounds down,
and compiles for half a minute first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path

from ..fourdgs import SH_ZERO
from .stored import Stored, Values, logit

CHUNK = 256

_BOUNDS = ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b")
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
"""The components of a quaternion besides the largest one."""

Packed = NDArray[np.uint32]


def write_compressed(path: Path, stored: Stored) -> None:
    """Write a compressed `.ply`, atomically; neighbours come into the same chunk."""
    stored = stored.take(chunk_order(stored.means))
    constant = stored.harmonics[:, 0] * SH_ZERO + 0.5
    places, columns = np.arange(len(stored)) // CHUNK, (stored.means, stored.scales, constant)
    starts = np.arange(0, len(stored), CHUNK)
    ranges = [(np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)) for values in columns]
    shares = [_share(values, low[places], high[places]) for values, (low, high) in zip(columns, ranges, strict=True)]
    packed = np.stack(
        [
            _join(shares[0], (11, 10, 11)),
            _pack_rotations(stored.quats),
            _join(shares[1], (11, 10, 11)),
            _join(np.concatenate([shares[2], stored.alphas[:, None]], axis=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    bounds = np.concatenate([side for pair in ranges for side in pair], axis=1)
    rest = stored.harmonics[:, 1:].transpose(0, 2, 1).reshape(len(stored), -1)
    names = [f"{side}_{name}" for first in (0, 3, 6) for side in ("min", "max") for name in _BOUNDS[first : first + 3]]
    header = [
        "ply", "format binary_little_endian 1.0", f"element chunk {len(bounds)}", *(f"property float {name}" for name in names),
        f"element vertex {len(stored)}", *(f"property uint {name}" for name in _PACKED),
    ]  # fmt: skip
    if rest.shape[1]:
        header += [f"element sh {len(stored)}", *(f"property uchar f_rest_{i}" for i in range(rest.shape[1]))]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*header, "end_header", ""]).encode())
        file.write(bounds.astype("<f4").tobytes())
        file.write(packed.astype("<u4").tobytes())
        file.write(np.clip(np.trunc((rest / 8 + 0.5) * 256), 0, 255).astype("u1").tobytes())


def is_compressed(elements: dict[str, Any]) -> bool:
    """Whether the elements of a `.ply` are those of a compressed one."""
    return "vertex" in elements and set(_PACKED) <= set(elements["vertex"].dtype.names or ())


def read_compressed(path: Path, elements: dict[str, Any]) -> Stored:
    """The Gaussians of a compressed `.ply`.

    Args:
        elements: as `ply.read_elements` returns them.

    Raises:
        InputError: chunks or harmonics are missing or of another number.
    """
    vertices, chunks, rest = elements["vertex"], elements.get("chunk"), elements.get("sh")
    count = len(vertices)
    places = np.arange(count) // CHUNK
    names = set(() if chunks is None else chunks.dtype.names or ())
    if not {f"{side}_{name}" for side in ("min", "max") for name in _BOUNDS[:6]} <= names:
        raise InputError(f"{path}: is a compressed .ply without the ranges of its chunks; export it again")
    assert chunks is not None
    if len(chunks) != -(-count // CHUNK):
        raise InputError(
            f"{path}: has {len(chunks)} chunks of {CHUNK} for {count} Gaussians; it is damaged, export it again"
        )

    def spread(shares: Values, first: int) -> Values:
        """Values of three columns from their shares of the range of their chunk."""
        low, high = (
            np.stack([chunks[f"{side}_{name}"] for name in _BOUNDS[first : first + 3]], axis=1)[places]
            for side in ("min", "max")
        )
        return (low + shares * (high - low)).astype(np.float32)

    position, rotation, scale, color = (np.asarray(vertices[name]).astype(np.uint32) for name in _PACKED)
    colors = _split(color, (8, 8, 8, 8))
    # files of 2023 have no ranges of colours: theirs is 0 to 1
    constant = spread(colors[:, :3], 6) if {"min_r", "max_b"} <= names else colors[:, :3]
    harmonics = (constant[:, None] - 0.5) / SH_ZERO
    columns = 0 if rest is None else len(rest.dtype.names or ())
    if rest is not None and columns:
        if columns not in (9, 24, 45) or len(rest) != count:
            raise InputError(f"{path}: has {columns} harmonics for {len(rest)} of {count} Gaussians; export it again")
        values = np.stack([np.asarray(rest[f"f_rest_{i}"]) for i in range(columns)], axis=1).astype(np.float32)
        values = (values - 127.5) / 32
        harmonics = np.concatenate([harmonics, values.reshape(count, 3, -1).transpose(0, 2, 1)], axis=1)
    return Stored(
        spread(_split(position, (11, 10, 11)), 0),
        spread(_split(scale, (11, 10, 11)), 3),
        _unpack_rotations(rotation),
        logit(colors[:, 3]),
        harmonics.astype(np.float32),
    )


def chunk_order(means: Values) -> NDArray[np.intp]:
    """(N,): an order in which each 256 Gaussians lie close together, by halving along the longest axis."""
    parts, order = [np.arange(len(means))], []
    while parts:
        rows = parts.pop()
        if len(rows) <= CHUNK:
            order.append(rows)
            continue
        values = means[rows]
        axis = int(np.argmax(np.ptp(values, axis=0)))
        half = CHUNK * max(round(len(rows) / CHUNK / 2), 1)
        rows = rows[np.argpartition(values[:, axis], half)]
        parts += [rows[half:], rows[:half]]
    return np.concatenate(order) if order else np.zeros(0, np.intp)


def _share(values: Values, low: Values, high: Values) -> Values:
    """Values in [low, high] -> [0, 1]."""
    return ((values - low) / np.where(high > low, high - low, 1)).astype(np.float32)


def _join(shares: Values, bits: tuple[int, ...]) -> Packed:
    """Numbers in [0, 1] (N, count) -> (N,), the first in the highest bits."""
    result = np.zeros(len(shares), np.uint32)
    for column, size in zip(shares.T, bits, strict=True):
        top = (1 << size) - 1
        result = (result << np.uint32(size)) | np.clip(np.round(column * top), 0, top).astype(np.uint32)
    return result


def _split(packed: Packed, bits: tuple[int, ...]) -> Values:
    """The reverse of `_join`."""
    columns, shift = [], sum(bits)
    for size in bits:
        shift -= size
        top = (1 << size) - 1
        columns.append((packed >> np.uint32(shift) & np.uint32(top)).astype(np.float32) / np.float32(top))
    return np.stack(columns, axis=1)


def _pack_rotations(quats: Values) -> Packed:
    rows, largest = np.arange(len(quats)), np.abs(quats).argmax(axis=1)
    upright = quats * np.where(quats[rows, largest] < 0, -1, 1)[:, None]
    others = upright[rows[:, None], _OTHERS[largest]]
    return (largest.astype(np.uint32) << np.uint32(30)) | _join(others * np.float32(0.5**0.5) + 0.5, (10, 10, 10))


def _unpack_rotations(packed: Packed) -> Values:
    rows, largest = np.arange(len(packed)), (packed >> np.uint32(30)).astype(np.intp)
    others = (_split(packed & np.uint32((1 << 30) - 1), (10, 10, 10)) - 0.5) * np.float32(2**0.5)
    quats = np.empty((len(packed), 4), np.float32)
    quats[rows[:, None], _OTHERS[largest]] = others
    quats[rows, largest] = np.sqrt(np.maximum(1 - np.square(others).sum(axis=1), 0))
    return quats


__all__ = ["CHUNK", "chunk_order", "is_compressed", "read_compressed", "write_compressed"]
