"""The comparison table: every contestant runs, memory is measured, and the note states the difference of the results."""

from __future__ import annotations

import json

import pytest
import torch

from visionzoo.benchmark import Contestant, compare, list_benchmarks, run_benchmark
from visionzoo.errors import InputError


def test_compare_counts_memory_and_judges() -> None:
    calls = {"small": 0, "large": 0}

    def work(name: str, rows: int) -> float:
        calls[name] += 1
        return float(torch.ones(rows, 1 << 18).sum())  # rows MB

    table = compare(
        "sums",
        [Contestant("small", lambda: work("small", 4)), Contestant("large", lambda: work("large", 64))],
        rounds=2,
        command="test",
        judge=lambda outputs: [f"{value / outputs[0]:g} times" for value in outputs],
    )
    assert calls["small"] == calls["large"] == 4  # warm-up, memory, two rounds
    small, large = table.rows
    if not torch.cuda.is_available():
        assert 4 <= small.peak_mb < 6
        assert 64 <= large.peak_mb < 66
    assert large.note == "16 times"
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["name"] == "small"
    assert "| large |" in table.to_markdown()
    with pytest.raises(InputError, match="at least 1"):
        compare("x", [], rounds=0, command="")


def test_rerank_benchmark_compares_the_same_thing() -> None:
    """A small run of the real benchmark: the published form and ours give one ranking, ours in far less memory."""
    from benchmarks.superglobal_rerank import benchmark

    published, ours = benchmark(rounds=1, queries=2, rows=900, dim=64).rows
    assert ours.note.startswith("0 of 800 places differ")
    if not torch.cuda.is_available():
        assert ours.peak_mb * 5 < published.peak_mb


def test_names() -> None:
    assert "superglobal-rerank" in list_benchmarks()
    with pytest.raises(InputError, match="compared with 'published', not 'faiss'"):
        run_benchmark("superglobal-rerank", vs="faiss")
    with pytest.raises(InputError, match="superglobal-rerank"):
        run_benchmark("superglobal-rarank")
