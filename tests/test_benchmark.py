"""The comparison table: every contestant runs, memory is measured, and the note states the difference of the results."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import dehaze_photo, shvit
from tests import tiny
from visionzoo.benchmark import Contestant, compare, list_benchmarks, run_benchmark
from visionzoo.devices import has_fast_bfloat16
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


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Make packages look as if they were not installed to SHViT's benchmark."""
    found = util.find_spec
    monkeypatch.setattr(shvit, "util", SimpleNamespace(find_spec=lambda name: name not in missing and found(name)))


def test_shvit_benchmark_compares_the_same_network_and_names_missing_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small run of the real benchmark."""
    without(monkeypatch, "onnx")
    table = shvit.benchmark("shvit_s1", size=64, batch=1, rounds=1, command="", compiled=False)
    names = [row.name for row in table.rows]
    assert names[-2:] == ["visionzoo, fused, float32", "visionzoo, fused, bfloat16"]
    assert len(names) == 2 + bool(util.find_spec("timm"))
    for row in table.rows[1:]:
        assert float(row.note.removeprefix("relative error ")) < (1e-5 if "float32" in row.name else 0.03), row.name
    assert "onnxruntime and OpenVINO: skipped; pip install 'visionzoo[export]' openvino" in table.to_markdown()


def test_shvit_benchmark_without_timm_says_what_it_compares_with(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "onnx", "timm")
    table = shvit.benchmark("shvit_s1", size=64, batch=1, rounds=1, command="", compiled=False)
    assert table.rows[0].name == "visionzoo, fused, float32"
    assert "timm: skipped, so the first row is the reference; pip install 'visionzoo[retrieval]'" in table.notes


@pytest.mark.skipif(
    not all(map(util.find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra export"
)
def test_other_runtimes_run_the_same_network(tmp_path: Path) -> None:
    network, x, networks = tiny.shvit().fuse(), torch.rand(1, 3, 64, 64), {}
    missing = shvit.add_runtimes(networks, network, x, tmp_path / "network.onnx")
    assert missing == ([] if util.find_spec("openvino") else ["OpenVINO: skipped; pip install openvino"])
    assert len(networks) == (1 if missing else 3)
    want = shvit.repeat(network, x, 1)
    for name, runtime in networks.items():
        error = (shvit.repeat(runtime, x, 1) - want).norm() / want.norm()
        assert error < (0.03 if "bfloat16" in name else 1e-5), name


@pytest.mark.slow
def test_dehaze_photo_benchmark_compares_the_same_image() -> None:
    """A small run of the real benchmark: every form of the network gives the image of the form that was trained."""
    table = dehaze_photo.benchmark(rounds=1, width=256, height=256)
    assert len(table.rows) == 3 + has_fast_bfloat16(torch.device("cpu"))
    for row in table.rows[1:]:
        assert float(row.note.split()[0]) > (45 if "bfloat16" in row.name else 100), row.name


def test_names() -> None:
    assert "superglobal-rerank" in list_benchmarks()
    with pytest.raises(InputError, match="compared with 'published', not 'faiss'"):
        run_benchmark("superglobal-rerank", vs="faiss")
    with pytest.raises(InputError, match="superglobal-rerank"):
        run_benchmark("superglobal-rarank")


def test_counts_of_slowfastvgen() -> None:
    from benchmarks.slowfastvgen_counts import Shape, counts, learning_bytes
    from visionzoo.models.slowfastvgen import SlowFastUNet

    small = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
    }
    found = counts(Shape(past=2, new=3, side=8), small)
    # down 32, middle 64, up twice 32: keys and values of 77 tokens
    assert found.text == 2 * 2 * 77 * 16 * (32 + 64 + 2 * 32)
    assert found.plain_text == found.text * 5
    assert found.plain - found.plain_text == found.adapted - found.text
    assert found.forward < found.adapted
    assert found.guided < found.adapted - found.text
    whole, twice = (learning_bytes(SlowFastUNet, Shape(2, 3, 8), small, checkpointing=on) for on in (False, True))
    assert 0 < twice < whole / 3
