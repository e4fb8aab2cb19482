"""Attention: backends over the shapes that the systems ask for, very long inputs, and pieces compared with one joined tensor.

visionzoo bench attention
visionzoo bench attention-long
visionzoo bench attention-segments
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from visionzoo.attention import attention, segment_attention
from visionzoo.attention.call import prepare
from visionzoo.attention.select import backend_named, choose
from visionzoo.benchmark import Contestant, Grid, Measurement, Report, Table, compare

__all__ = ["backends", "long", "segments"]

_LARGEST = 1 << 27  # largest number of scores that `math` has to hold


@dataclass(frozen=True)
class Shape:
    """The shapes of a system's attention: (batch, heads, queries, keys, key width, value width)."""

    what: str
    sizes: tuple[int, int, int, int, int, int]
    kv_heads: int | None = None
    mask: tuple[int, ...] | None = None  # shape of an additive mask
    scale: float | None = None

    def inputs(self, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        batch, heads, queries, keys, width, value_width = self.sizes
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw).to(device, dtype)

        kv_heads = self.kv_heads or heads
        mask = None if self.mask is None else normal(*self.mask)
        return (
            normal(batch, heads, queries, width),
            normal(batch, kv_heads, keys, width),
            normal(batch, kv_heads, keys, value_width),
            mask,
        )

    @property
    def operations(self) -> int:
        batch, heads, queries, keys, width, value_width = self.sizes
        return 2 * batch * heads * queries * keys * (width + value_width)


SHAPES = (
    Shape("SHViT-S1, 14 x 14", (16, 1, 196, 196, 16, 48)),
    Shape("SHViT-S4, 1050 tokens", (4, 1, 1050, 1050, 16, 96)),
    Shape("DehazeXL windows, bias", (64, 6, 256, 256, 32, 32), mask=(1, 6, 256, 256)),
    Shape("DehazeXL bottleneck", (1, 8, 4096, 4096, 96, 96)),
    Shape("MCNet memory", (1, 1, 4096, 1024, 512, 512), scale=0.25),
    Shape("LOVECon frames", (2, 8, 1024, 3072, 80, 80)),
    Shape("SlowFast-VGen time", (1024, 5, 16, 16, 64, 64)),
    Shape("LongAnimation memory", (1, 8, 2048, 1700, 96, 96)),
    Shape("Video-XL, grouped", (1, 28, 512, 4096, 128, 128), kv_heads=4),
)


def backends(rounds: int = 5, command: str = "") -> Report:
    """A table for each dtype: time, peak extra memory and relative error of every backend that supports the shape."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = ["math", "sdpa", "chunked", *(["triton", "flex"] if device == "cuda" else [])]
    return Report([_grid(dtype, device, names, rounds, command) for dtype in (torch.float32, torch.bfloat16)])


def _grid(dtype: torch.dtype, device: str, names: Sequence[str], rounds: int, command: str) -> Grid:
    rows, environment = [], {}
    for shape in SHAPES:
        q, k, v, mask = shape.inputs(dtype, device)
        call = prepare(q, k, v, mask, shape.scale, needs_lse=False)
        taken = [name for name in names if _takes(name, shape, call)]
        table = compare(
            shape.what,
            [Contestant(name, _run(q, k, v, mask, shape.scale, name)) for name in taken],
            rounds=rounds,
            command=command,
            judge=partial(_errors, _exact(shape, q, k, v, mask)),
        )
        environment = table.environment
        found = {row.name: row for row in table.rows}
        best = min(row.seconds for row in table.rows)
        cells = [_cell(found[name]) if name in found else "-" for name in names]
        folded = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # the form in which grouped heads reach a backend
        auto = choose(prepare(folded, k, v, mask, shape.scale, needs_lse=False)).name
        rows.append([shape.what, _size(q, k, v), *cells, auto, f"{shape.operations / best / 1e9:.0f}"])
    title = f"{str(dtype).removeprefix('torch.')} on {device}"
    columns = ["", "q; keys; widths", *names, "auto takes", "GFLOP/s of the best"]
    return Grid(title, columns, rows, environment, command)


def _cell(row: Measurement) -> str:
    return f"{row.seconds * 1e3:.2f} ms, {row.peak_mb:.0f} MB, {row.note}"


def _exact(shape: Shape, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same inputs in float64."""
    wide = None if mask is None else mask.double()
    return attention(q.double(), k.double(), v.double(), mask=wide, scale=shape.scale, backend="chunked")


def _errors(exact: Tensor, outputs: Sequence[Tensor]) -> list[str]:
    return [f"{((out.double() - exact).norm() / exact.norm()).item():.0e}" for out in outputs]


def _takes(name: str, shape: Shape, call) -> bool:
    batch, heads, queries, keys = shape.sizes[:4]
    if name == "math":
        return batch * heads * queries * keys <= _LARGEST
    backend = backend_named(name)
    return (backend.unavailable() or backend.supports(call)) is None


def _run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, name: str) -> Callable[[], Tensor]:
    return lambda: attention(q, k, v, mask=mask, scale=scale, backend=name)


def _size(q: Tensor, k: Tensor, v: Tensor) -> str:
    batch, heads, queries, width = q.shape
    return f"{batch} x {heads} x {queries}; {k.shape[2]}; {width}, {v.shape[3]}"


def long(rounds: int = 3, command: str = "", length: int = 1 << 16) -> Table:
    """All scores of 65,536 x 65,536 would take 16 GB in float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v, _ = Shape("", (1, 1, length, length, 64, 64)).inputs(torch.float32, device)
    contestants = [
        Contestant("sdpa, float32", lambda: attention(q, k, v, backend="sdpa")),
        Contestant("chunked, float32", lambda: attention(q, k, v, backend="chunked")),
        Contestant("chunked, bfloat16", lambda: attention(*(t.bfloat16() for t in (q, k, v)), backend="chunked")),
    ]
    title = f"{length} queries over {length} keys, one head of 64"
    return compare(title, contestants, rounds=rounds, command=command, judge=_distances)


def _distances(outputs: Sequence[Tensor]) -> list[str]:
    first = outputs[0].double()
    return [f"{((o.double() - first).norm() / first.norm()).item():.1e} from the first" for o in outputs]


def segments(rounds: int = 7, command: str = "") -> Grid:
    """Pieces compared with the same keys and values already joined, and with joining them first."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, environment = [], {}
    for sizes, pieces in (
        ((1, 8, 2048, 16384, 64, 64), (1, 4, 16, 64)),
        ((2, 8, 1024, 3072, 80, 80), (3,)),
        ((1, 8, 2048, 11700, 96, 96), (65,)),
    ):
        q, k, v, _ = Shape("", sizes).inputs(torch.float32, device)
        contestants = [Contestant("already joined", lambda q=q, k=k, v=v: attention(q, k, v))]
        for count in pieces:
            parts = [
                (a.clone(), b.clone()) for a, b in zip(k.tensor_split(count, 2), v.tensor_split(count, 2), strict=True)
            ]
            contestants.append(Contestant(f"{count} pieces", lambda q=q, parts=parts: segment_attention(q, parts)))
            contestants.append(Contestant(f"{count} pieces, joined first", lambda q=q, parts=parts: _join(q, parts)))
        table = compare("", contestants, rounds=rounds, command=command, judge=_distances)
        environment = table.environment
        rows += [_segments_row(_size(q, k, v), row) for row in table.rows]
    columns = ["q; keys; widths", "", "ms", "relative to already joined", "peak extra memory", "error"]
    return Grid(f"Pieces, float32 on {device}", columns, rows, environment, command)


def _join(q: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return attention(q, torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2))


def _segments_row(size: str, row: Measurement) -> list[str]:
    ms, times = f"{row.seconds * 1e3:.1f}", f"{1 / row.ratio:.2f}"
    return [size, row.name, ms, times, f"{row.peak_mb:.1f} MB", row.note]
