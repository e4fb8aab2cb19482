"""Side-by-side measurements: ours and a peer alternate in one process; the medians are reported in a common table format."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, util
from typing import Any

from .console import counted
from .errors import InputError, unknown
from .registry import Bench, pipeline_entries

OWN = (
    Bench("attention", "benchmarks.attention:backends", "backends over the shapes that the systems ask for", "math"),
    Bench("attention-long", "benchmarks.attention:long", "65,536 queries over as many keys", "sdpa"),
    Bench("attention-segments", "benchmarks.attention:segments", "keys and values in pieces", "concatenated"),
    Bench(
        "memory-bank", "benchmarks.memory_bank:benchmark", "writes and reads of 1 thousand to 1 million slots", "joined"
    ),
    Bench(
        "splatting", "benchmarks.splatting:benchmark", "20,000 Gaussians on 256 x 256 pixels, on a CPU", "torch-tiles"
    ),
    Bench("toy-world", "benchmarks.cartoon_drawing:benchmark", "frames of 128 x 128 with all truths", "opencv"),
    Bench(
        "toy-training", "benchmarks.toy_training:benchmark", "training steps of the toy world's networks", "plain-loop"
    ),
)
"""Benchmarks of the base package; tasks register their own."""


@dataclass(frozen=True)
class Contestant:
    """One implementation: `run()` does the work once and returns an output to compare."""

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Measurement:
    """Medians over the rounds, in seconds per run; `peak_mb` is the peak memory of a run beyond what was allocated before."""

    name: str
    seconds: float
    cpu_seconds: float
    per_second: float
    peak_mb: float
    ratio: float
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Measurements of one benchmark, the peer first."""

    title: str
    rows: Sequence[Measurement]
    environment: dict[str, Any]
    command: str
    unit: str = "runs"
    notes: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> str:
        lines = [
            f"### {self.title}",
            "",
            f"| | seconds | CPU seconds | {self.unit}/s | times as fast | peak extra memory | |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            lines.append(
                f"| {row.name} | {row.seconds:.4g} | {row.cpu_seconds:.4g} | {row.per_second:.4g} | {row.ratio:.2f} "
                f"| {row.peak_mb:.1f} MB | {row.note} |"
            )
        return "\n".join([*lines, "", *_origin(self.command, self.environment), *self.notes])


@dataclass(frozen=True)
class Grid:
    """A table with a row for each case and named columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    environment: dict[str, Any]
    command: str
    notes: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *_origin(self.command, self.environment), *self.notes])


@dataclass(frozen=True)
class Report:
    """Several tables printed by one command."""

    tables: Sequence[Table | Grid]

    def to_dict(self) -> dict[str, Any]:
        return {"tables": [table.to_dict() for table in self.tables]}

    def to_markdown(self) -> str:
        return "\n\n".join(table.to_markdown() for table in self.tables)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _origin(command: str, environment: dict[str, Any]) -> list[str]:
    """The command that printed a table, and its environment."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    processor = f"{environment['processor']}, {counted(environment['threads'], 'thread')}"
    where = environment["gpus"][0] if environment["gpus"] else processor
    return [f"`{command}` on {where}; Python {environment['python']}, {versions}."]


def compare(
    title: str,
    contestants: Sequence[Contestant],
    *,
    rounds: int = 5,
    command: str,
    items: int = 1,
    unit: str = "runs",
    judge: Callable[[Sequence[Any]], Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Run the contestants alternately and tabulate the medians; the first is the peer, the reference for ratios.

    Args:
        items, unit: work done by one run, for the throughput, e.g. 8, "queries".
        judge: called with every contestant's first output; returns a note for each, e.g. its difference from the peer's.
    """
    from .devices import environment

    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    outputs = [contestant.run() for contestant in contestants]  # a warm-up that also shows they agree
    remarks = judge(outputs) if judge else [""] * len(contestants)
    del outputs
    wall: list[list[float]] = [[] for _ in contestants]
    cpu: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for place, contestant in enumerate(contestants):
            gc.collect()
            started, used = time.perf_counter(), time.process_time()
            contestant.run()
            _synchronise()
            wall[place].append(time.perf_counter() - started)
            cpu[place].append(time.process_time() - used)
    # last, as the memory profiler slows down later runs in the same process
    peaks = [peak_memory_mb(contestant.run) for contestant in contestants]
    base = statistics.median(wall[0])
    rows = [
        Measurement(
            c.name,
            statistics.median(w),
            statistics.median(p),
            items / statistics.median(w),
            peak,
            base / statistics.median(w),
            remark,
        )
        for c, w, p, peak, remark in zip(contestants, wall, cpu, peaks, remarks, strict=True)
    ]
    return Table(title, rows, environment(), command, unit, notes)


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb(run: Callable[[], Any]) -> float:
    """Peak memory of one run in MB beyond what was allocated before: CUDA's own count, else torch's CPU allocations."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler logs messages about missing GPUs
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            peak = max(peak, held)
    return peak / 2**20


def benchmarks() -> dict[str, Bench]:
    """All benchmarks by name, those of the tasks first."""
    return {bench.name: bench for bench in (*(b for entry in pipeline_entries() for b in entry.benches), *OWN)}


def list_benchmarks() -> dict[str, str]:
    """Name -> what is measured."""
    return {name: f"{bench.summary}, compared with: {bench.peer}" for name, bench in benchmarks().items()}


def run_benchmark(name: str, *, vs: str | None = None, rounds: int = 5) -> Table | Grid | Report:
    """Run a benchmark by name.

    Raises:
        InputError: an unknown name or peer, or the scripts are missing (they are part of the source checkout).
    """
    known = benchmarks()
    if name not in known:
        raise unknown("benchmark", name, known)
    if rounds < 1:
        raise InputError(f"--rounds must be at least 1, got {rounds}")
    bench = known[name]
    if vs not in (None, bench.peer):
        raise InputError(f"{name} is compared with {bench.peer!r}, not {vs!r}")
    module, _, function = f"visionzoo.{bench.place}".partition(":")
    if util.find_spec("visionzoo.benchmarks") is None:
        raise InputError(f"the benchmark {name} is part of the source checkout; clone the repository and run it there")
    return getattr(import_module(module), function)(rounds=rounds, command=f"visionzoo bench {name}")


__all__ = [
    "Contestant",
    "Grid",
    "Measurement",
    "Report",
    "Table",
    "benchmarks",
    "compare",
    "list_benchmarks",
    "peak_memory_mb",
    "run_benchmark",
]
