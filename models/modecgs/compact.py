"""The compact scene file `.vzgs`: a whole scene in one file that holds nothing but numbers.

It is a safetensors file. Each of its tensors is the compressed bytes of one table of the model. The text `vzgs` among its metadata is
JSON: the version of the format, the model's configuration, how each table is stored, and facts about the scene.

| table | stored as | error |
|---|---|---|
| positions of anchors | 32-bit multiples of the voxel, sorted, as differences | none but rounding (1e-7 relative) |
| features, offsets, scaling; planes | 8 to 16 `bits` per number, over the range of its channel | range / (2^(bits + 1) - 2) |
| dynamics; networks | half precision; never across the threshold of a "mask" gate | 5e-4 relative |
| borders of segments, boxes of fields; means of plain Gaussians | single precision | none |

Times of a scene are in [0, 1], and fields read only the part of their time axis that belongs to them, about half of it. The other
rows of planes over time are stored as copies of the first one that is read, so that earlier times, which no frame has, read as time 0.

Anchors are sorted by their cell, since their order has no meaning. Bytes of numbers wider than one byte are stored plane by plane
(all first bytes, then all second ones) before they are compressed by zlib. Levels of more than 8 bits are 16-bit integers, which only
version 2 of the format has; files without them are written as version 1.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from visionzoo.config import as_dict, configure
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path
from visionzoo.io.head import read_head

from .config import MoDecGSConfig, check_bits
from .deformation import is_open
from .fourdgs import FourDGaussians, FourDGaussiansConfig
from .hexplane import AXES, TIME
from .model import MoDecGS

VERSION = 2
KINDS = {"modecgs": (MoDecGS, MoDecGSConfig), "4dgaussians": (FourDGaussians, FourDGaussiansConfig)}

MOST_EXPANSION = 1100
"""zlib makes its input at most 1032 times smaller; a file that promises more is refused before memory is taken."""

_ROWS = {"anchors.": "num_anchors", "table.": "num_gaussians"}
_EXACT = ("intervals.borders", "planes.box", "table.means")
_QUANTIZED = ("anchors.features", "anchors.offsets", "anchors.scaling", ".planes.planes.", "table.")


@dataclass(frozen=True)
class Scene:
    """What a `.vzgs` holds.

    Attributes:
        model: the network in eval mode.
        facts: what was stored with it, such as times, cameras, or the training's options; plain JSON values.
    """

    model: MoDecGS | FourDGaussians
    facts: dict[str, Any] = field(default_factory=dict)


def write_scene(
    model: MoDecGS | FourDGaussians, path: str | Path, *, bits: int = 8, facts: Mapping[str, Any] | None = None
) -> int:
    """Write a scene; returns the size of the file in bytes.

    Args:
        bits: 8 to 16 bits per number of features, offsets, scaling and planes: 2^bits levels over the range of each channel.
        facts: plain JSON values to store with it.

    Raises:
        InputError: other bits, weights that are not finite, or facts that JSON does not know.
    """
    check_bits("bits", bits)
    kind = next(name for name, (network, _) in KINDS.items() if isinstance(model, network))
    state = {key: value.detach().float().cpu() for key, value in model.state_dict().items()}
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: not written, because {', '.join(broken[:3])} are not finite; load an earlier checkpoint"
        )
    if isinstance(model, MoDecGS):
        state = _sorted(state)
    state = _without_unread_rows(state, model)
    tables, blobs = {}, {}
    for key, value in state.items():
        tables[key], blobs[key] = _encode(key, value.numpy(), model.config, bits)
    header = {
        "version": 2 if any(table["form"] == "uint16" for table in tables.values()) else 1,
        "kind": kind,
        "config": as_dict(replace(model.config, **_count(state))),
        "tables": tables,
        "facts": dict(facts or {}),
    }
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not written, because the facts are not plain JSON values ({error})") from error
    with atomic_path(path) as temporary:
        save_file(blobs, temporary, {"vzgs": text})
    return Path(path).stat().st_size


def read_scene(path: str | Path, *, most_numbers: int | None = None) -> Scene:
    """Read a scene. Nothing in the file is run, and no more memory is taken than its size allows for.

    Args:
        most_numbers: refuse scenes of more numbers, before memory is taken: a small file can hold a large scene of zeros.

    Raises:
        InputError: missing, no `.vzgs`, damaged, truncated, too large, or of a newer version.
    """
    path = Path(path)
    read_head(path, "a .vzgs scene")
    try:
        with safe_open(path, "np") as file:
            header = _header(path, (file.metadata() or {}).get("vzgs"))
            model = _empty_model(path, header, most_numbers)
            shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
            if header["tables"].keys() != shapes.keys() or set(file.keys()) != shapes.keys():
                raise InputError(
                    f"{path}: is a damaged scene, as its tables do not match its configuration; copy it again"
                )
            state = {
                key: _decode(header["tables"][key], file.get_tensor(key), shapes[key], model.config) for key in shapes
            }
    except SafetensorError as error:
        raise InputError(f"{path}: is not a .vzgs scene, or is truncated ({error}); copy or export it again") from error
    except (KeyError, TypeError, ValueError, OverflowError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: is a damaged scene ({type(error).__name__}: {str(error)[:120]}); copy or export it again"
        ) from error
    found = KINDS[header["kind"]][0](model.config)
    found.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return Scene(found.eval(), header["facts"])


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise InputError(
            f"{path}: is a safetensors file, but not a .vzgs scene, such as `visionzoo reconstruct` writes"
        )
    header = json.loads(text)
    if not isinstance(header, dict) or type(header.get("version")) is not int:
        raise ValueError("its header has no version")
    if header["version"] > VERSION:
        raise InputError(
            f"{path}: has version {header['version']} of the format, and this visionzoo reads up to {VERSION}; "
            "update it: pip install -U visionzoo"
        )
    if header.get("kind") not in KINDS:
        raise ValueError(f"no kind {str(header.get('kind'))[:40]!r}")
    for name in ("config", "tables", "facts"):
        if not isinstance(header.get(name), dict):
            raise ValueError(f"its header has no {name}")
    return header


def _empty_model(path: Path, header: dict[str, Any], most: int | None) -> MoDecGS | FourDGaussians:
    """The model of a header without memory for its weights, once the file can hold them."""
    network, config = KINDS[header["kind"]]
    try:
        with torch.device("meta"):
            model = network(configure(config(), header["config"]))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"a configuration that cannot be built: {error}") from error
    numbers = sum(value.numel() for value in model.state_dict().values())
    if numbers > MOST_EXPANSION * path.stat().st_size:
        raise ValueError(f"it claims {numbers} numbers in {path.stat().st_size} bytes")
    if most is not None and numbers > most:
        raise InputError(
            f"{path}: is a scene of {numbers:,} numbers, over the limit of {most:,}; reconstruct a smaller one"
        )
    return model


def _count(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The field of the configuration that counts the rows of the table in `state`."""
    name, counted = next(
        (name, counted) for name, counted in _ROWS.items() if any(key.startswith(name) for key in state)
    )
    return {counted: len(next(value for key, value in state.items() if key.startswith(name)))}


def _sorted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Anchors in the order of x, then y, then z: neighbours have similar numbers."""
    positions = state["anchors.positions"].numpy()
    order = torch.from_numpy(np.lexsort(positions.T[::-1]))
    return {key: value[order] if key.startswith("anchors.") else value for key, value in state.items()}


def _without_unread_rows(state: dict[str, Tensor], model: MoDecGS | FourDGaussians) -> dict[str, Tensor]:
    """Planes over time whose rows before the scene's first time are copies of the first one that is read."""
    if isinstance(model, FourDGaussians):
        fields = {"field.": (model.field, 0.0)}
    else:
        earliest = float(model.intervals.host().min())
        if model.intervals.kind == "released":
            earliest -= 1 / model.intervals.num_segments
        sides = (
            ("global_deformation.", model.global_deformation, earliest),
            ("local_deformation.", model.local_deformation, 0.0),
        )
        fields = {f"{name}field.": (side.field, time) for name, side, time in sides if side is not None}
    result = dict(state)
    for prefix, (found, time) in fields.items():
        over_time = [place for place, group in enumerate(found.planes.groups) if TIME in AXES[group[0]]]
        for level, place in itertools.product(range(len(found.planes.levels)), over_time):
            key = f"{prefix}planes.planes.{level}.{place}"
            planes = state[key].clone()
            first = max(math.floor((time + 1) / 2 * (planes.shape[2] - 1)), 0)
            planes[:, :, :first] = planes[:, :, first : first + 1]
            result[key] = planes
    return result


# Tables

_TYPES = {"cells": "<i4", "float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}


def _encode(key: str, values: np.ndarray, config: Any, bits: int) -> tuple[dict[str, Any], np.ndarray]:
    """How a table is stored, and its compressed bytes."""
    if key == "anchors.positions" and config.voxel_size > 0:
        cells = np.round(values.astype(np.float64) / config.voxel_size)
        back = (cells * config.voxel_size).astype(np.float32)
        if np.abs(cells).max(initial=0) < 2**30 and np.allclose(back, values, rtol=1e-6, atol=1e-6 * config.voxel_size):
            return {"form": "cells"}, _pack(np.diff(cells, axis=0, prepend=0).T.astype("<i4"))
    if any(part in key for part in _EXACT) or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        return {"form": "float32"}, _pack(_channels(values).astype("<f4"))
    if key == "anchors.dynamics":
        return {"form": "float16"}, _pack(_channels(_half_dynamics(values, config)))
    if any(part in key for part in _QUANTIZED):
        channels = _channels(values)
        low = channels.min(axis=1, initial=np.inf) if channels.size else np.zeros(len(channels), np.float32)
        high = channels.max(axis=1, initial=-np.inf) if channels.size else low
        top = 2**bits - 1
        step = np.maximum((high.astype(np.float64) - low) / top, 0).astype(np.float32)
        scaled = (channels.astype(np.float64) - low[:, None]) / np.where(step > 0, step, 1)[:, None]
        form = "uint8" if bits == 8 else "uint16"
        stored = {"form": form, "low": _numbers(low), "step": _numbers(step)}
        return stored, _pack(np.clip(np.round(scaled), 0, top).astype(_TYPES[form]))
    return {"form": "float16"}, _pack(_channels(values).astype("<f2"))


def _decode(stored: dict[str, Any], blob: np.ndarray, shape: tuple[int, ...], config: Any) -> np.ndarray:
    """The values of a table (float32), of the shape that the configuration asks for."""
    form, key_channels = stored["form"], _channel_shape(shape)
    packed = _unpack(blob, np.dtype(_TYPES[form]), math.prod(shape)).reshape(key_channels)
    if form == "cells":
        if len(shape) != 2:
            raise ValueError("cells that are not positions")
        values = (np.cumsum(packed.astype(np.int64), axis=1) * float(config.voxel_size)).astype(np.float32)
    elif form in ("uint8", "uint16"):
        with np.errstate(over="ignore"):  # found below
            low, step = (np.asarray(stored[name], dtype=np.float32) for name in ("low", "step"))
        if low.shape != key_channels[:1] or step.shape != key_channels[:1]:
            raise ValueError("ranges that are not one per channel")
        with np.errstate(over="ignore"):  # found below
            values = low[:, None] + packed.astype(np.float32) * step[:, None]
    else:
        values = packed.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    if len(shape) == 4:  # planes
        return np.ascontiguousarray(values.reshape(shape))
    return np.ascontiguousarray(values.T.reshape(shape))


def _channel_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(channels, numbers of each): of stacked planes (g, C, h, w), each C of each g; of other tables, their columns."""
    if len(shape) == 4:
        return shape[0] * shape[1], shape[2] * shape[3]
    rows = shape[0] if shape else 1
    return math.prod(shape[1:]), rows


def _channels(values: np.ndarray) -> np.ndarray:
    """A table as (channels, numbers of each)."""
    channels, numbers = _channel_shape(values.shape)
    return values.reshape(channels, numbers) if values.ndim == 4 else values.reshape(numbers, channels).T


def _half_dynamics(values: np.ndarray, config: MoDecGSConfig) -> np.ndarray:
    """Dynamics in half precision, each on its side of the threshold of a mask."""
    half = values.astype("<f2")
    if "mask" in (config.position_gate, config.attribute_gate):
        wanted, found = (
            is_open(torch.from_numpy(v.astype(np.float32)), config.gate_activation).numpy() for v in (values, half)
        )
        wrong = wanted != found
        towards = np.where(wanted, np.inf, -np.inf).astype("<f2")
        half[wrong] = np.nextafter(half[wrong], towards[wrong])
    return half


def _numbers(values: np.ndarray) -> list[float]:
    """Single-precision numbers in as few digits as tell them apart."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _pack(values: np.ndarray) -> np.ndarray:
    """Compressed bytes of an array, those of wide numbers plane by plane."""
    wide = np.ascontiguousarray(values).view("u1").reshape(-1, values.dtype.itemsize)
    return np.frombuffer(zlib.compress(wide.T.tobytes(), 9), dtype="u1")


def _unpack(blob: np.ndarray, dtype: np.dtype, count: int) -> np.ndarray:
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise ValueError("a table that is not bytes")
    reader = zlib.decompressobj()
    raw = reader.decompress(blob.tobytes(), count * dtype.itemsize + 1)
    if len(raw) != count * dtype.itemsize or (not reader.eof and reader.decompress(reader.unconsumed_tail, 1)):
        raise ValueError(f"a table of another size than {count} numbers")
    return np.frombuffer(raw, "u1").reshape(dtype.itemsize, count).T.copy().view(dtype)[:, 0]


__all__ = ["VERSION", "Scene", "read_scene", "write_scene"]
