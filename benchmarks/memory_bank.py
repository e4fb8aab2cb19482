"""The memory bank at 1 thousand to 1 million slots: writing into a full bank and reading all of it.

    visionzoo bench memory-bank

The peer keeps its keys and values as XMem's store does: it calls `torch.cat` on every write, and drops the oldest by slicing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionzoo.attention import attention
from visionzoo.benchmark import Contestant, Grid, Measurement, compare
from visionzoo.memory import Fifo, TensorBank

WIDTH, NEW, QUERIES, TOP = 64, 64, 64, 32


class JoinedStore:
    """Keys and values as one tensor each, concatenated again on every write."""

    def __init__(self, slots: int, device: str) -> None:
        self.slots = slots
        self.keys = torch.randn(1, 1, slots, WIDTH, device=device)
        self.values = torch.randn(1, 1, slots, WIDTH, device=device)

    def write(self, key: Tensor, value: Tensor) -> None:
        self.keys = torch.cat([self.keys, key], 2)[:, :, -self.slots :]
        self.values = torch.cat([self.values, value], 2)[:, :, -self.slots :]

    def read(self, query: Tensor) -> Tensor:
        return attention(query, self.keys, self.values)


def benchmark(rounds: int = 5, command: str = "", sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)) -> Grid:
    """The table, with a row for each number of slots."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, environment = [], {}
    for slots in sizes:
        bank = TensorBank(WIDTH, WIDTH, capacity=slots, policy=Fifo(slots), device=device)
        half = TensorBank(WIDTH, WIDTH, capacity=slots, policy=Fifo(slots), device=device, storage_dtype=torch.bfloat16)
        joined = JoinedStore(slots, device)
        for store in (bank, half):
            store.write(joined.keys, joined.values)
        key, value, query = (torch.randn(1, 1, n, WIDTH, device=device) for n in (NEW, NEW, QUERIES))
        many = max(1, 1000 // (1 + slots // 10_000))  # writes per run, so that a run is long enough to time

        def write(store: TensorBank | JoinedStore, times: int, key: Tensor = key, value: Tensor = value) -> None:
            for _ in range(times):
                store.write(key, value)

        writes = compare(
            "",
            [
                Contestant("joined", lambda s=joined: write(s, 3)),
                Contestant("bank", lambda s=bank, n=many: write(s, n)),
            ],
            rounds=rounds,
            command=command,
        )
        reads = compare(
            "",
            [
                Contestant("joined", lambda s=joined, q=query: s.read(q)),
                Contestant("bank", lambda s=bank, q=query: s.read(q).output),
                Contestant("bank, bfloat16", lambda s=half, q=query: s.read(q).output),
                Contestant("top", lambda s=bank, q=query: s.read(q, top_k=TOP).output),
            ],
            rounds=rounds,
            command=command,
        )
        environment = reads.environment
        rows.append(
            [
                f"{slots:,}",
                f"{bank.nbytes / 2**20:.1f} MB",
                _rate(writes.rows[1], many),
                _rate(writes.rows[0], 3),
                *(_rate(row, 1, row.peak_mb) for row in (reads.rows[1], reads.rows[0], reads.rows[2], reads.rows[3])),
            ]
        )
    columns = [
        "slots",
        "bank",
        "writes/s",
        "writes/s, concatenated again",
        "reads/s; extra memory",
        "reads/s of one joined tensor",
        "reads/s, stored in bfloat16",
        f"reads/s of the best {TOP}",
    ]
    title = f"Memory bank on {device}: width {WIDTH}, {NEW} elements per write, {QUERIES} queries per read"
    return Grid(title, columns, rows, environment, command)


def _rate(row: Measurement, times: int, peak: float | None = None) -> str:
    rate = f"{times / row.seconds:,.0f}" if times / row.seconds >= 10 else f"{times / row.seconds:.2g}"
    return rate if peak is None else f"{rate}; {peak:.0f} MB"
