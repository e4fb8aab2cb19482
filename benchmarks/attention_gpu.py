"""Our Triton kernel compared with torch's flash attention, on CUDA.

    python -m benchmarks.attention_gpu

One contiguous piece of keys in bfloat16; then keys and values in 8 and in 64 pieces, compared with joining the pieces and
calling flash attention, including the copy. Contestants take turns; CUDA events time a batch of calls that takes about
20 ms; the median is reported. A multiplication and an addition are two operations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from visionzoo.attention import attention, segment_attention
from visionzoo.benchmark import peak_memory_mb
from visionzoo.devices import environment
from visionzoo.errors import InputError, VisionZooError

WIDTHS = (64, 128)
LENGTHS = (4096, 8192, 16384, 32768, 65536)
PIECES = (8, 64)
QUERIES, KEYS = 4096, 32768  # in the attention over pieces
BATCH_MS = 20.0


@dataclass(frozen=True)
class Row:
    """One contestant at one size; the first of its size is the peer."""

    what: str
    name: str
    milliseconds: float
    tera_operations: float
    times_as_fast: float
    peak_mb: float
    difference: float


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v)


def milliseconds(run: Callable[[], Any], calls: int) -> float:
    """Time of one call in a batch of `calls` queued calls."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def measure(
    what: str, operations: int, contestants: Sequence[tuple[str, Callable[[], Tensor]]], rounds: int
) -> list[Row]:
    outputs = [run().float() for _, run in contestants]  # also compiles
    differences = [((out - outputs[0]).norm() / outputs[0].norm()).item() for out in outputs]
    del outputs
    calls = [max(1, round(BATCH_MS / max(milliseconds(run, 3), 1e-3))) for _, run in contestants]
    times: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for place, (_, run) in enumerate(contestants):
            times[place].append(milliseconds(run, calls[place]))
    peaks = [peak_memory_mb(run) for _, run in contestants]
    middle = [statistics.median(of_one) for of_one in times]
    return [
        Row(what, name, ms, operations / ms / 1e9, middle[0] / ms, peak, difference)
        for (name, _), ms, peak, difference in zip(contestants, middle, peaks, differences, strict=True)
    ]


def one_piece(length: int, width: int, heads: int, rounds: int) -> list[Row]:
    q, k, v = (torch.randn(1, heads, length, width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    return measure(
        f"{length} x {length}, width {width}",
        4 * heads * length * length * width,
        [("torch flash", lambda: flash(q, k, v)), ("triton", lambda: attention(q, k, v, backend="triton"))],
        rounds,
    )


def pieces(count: int, width: int, heads: int, rounds: int) -> list[Row]:
    like = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(1, heads, QUERIES, width, **like)
    parts = [
        (torch.randn(1, heads, KEYS // count, width, **like), torch.randn(1, heads, KEYS // count, width, **like))
        for _ in range(count)
    ]

    def joined() -> Tensor:
        return flash(q, torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2))

    return measure(
        f"{QUERIES} x {KEYS} in {count} pieces, width {width}",
        4 * heads * QUERIES * KEYS * width,
        [
            ("join, then torch flash", joined),
            ("triton, one launch", lambda: segment_attention(q, parts, backend="triton")),
            ("sdpa, piece by piece", lambda: segment_attention(q, parts, backend="sdpa")),
        ],
        rounds,
    )


def report(heads: int, longest: int, rounds: int) -> str:
    """The tables as Markdown, with the machine.

    Raises:
        InputError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError("this benchmark needs a GPU: torch sees no CUDA device")
    rows = [
        row
        for width in WIDTHS
        for length in LENGTHS
        if length <= longest
        for row in one_piece(length, width, heads, rounds)
    ]
    rows += [row for width in WIDTHS for count in PIECES for row in pieces(count, width, heads, rounds)]
    lines = [
        "| size | | ms | TFLOP/s | times as fast | peak extra MB | relative difference |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.name} | {row.milliseconds:.3f} | {row.tera_operations:.0f} | {row.times_as_fast:.2f} "
        f"| {row.peak_mb:.1f} | {row.difference:.1e} |"
        for row in rows
    ]
    command = f"python -m benchmarks.attention_gpu --heads {heads} --longest {longest} --rounds {rounds}"
    return "\n".join([*lines, "", f"bfloat16, {heads} heads. `{command}`", "", json.dumps(environment())])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="queries and keys of the largest single piece")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    try:
        print(report(options.heads, options.longest, options.rounds))
    except VisionZooError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
