"""Networks compiled ahead of time: the same results, kept in a file, and one-line errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from visionzoo import create_model
from visionzoo.compiled import compile_ahead, load_compiled
from visionzoo.errors import VisionZooError

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_the_network(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = create_model("shvit_s1", embed_dim=(16, 24, 32), partial_dim=(8, 8, 8), depth=(1, 1, 1), num_classes=7)
    fused = network.fuse().to(dtype)  # pyright: ignore[reportCallIssue]
    images = torch.rand(2, 3, 80, 96)
    compiled = compile_ahead(fused, images, tmp_path / "small.pt2")
    again = load_compiled(tmp_path / "small.pt2")
    with torch.inference_mode():
        expected = fused(images).float()
        for run in (compiled, again):
            error = (run(images).float() - expected).norm() / expected.norm()
            assert error < (1e-5 if dtype == torch.float32 else 2e-2)


def test_a_failed_compilation_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(VisionZooError, match="Odd cannot be compiled .*; run it without compiling") as caught:
        compile_ahead(Odd(), torch.rand(3))
    assert "\n" not in str(caught.value)


def test_files_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(VisionZooError, match="no such file; compile"):
        load_compiled(tmp_path / "nothing.pt2")
    (tmp_path / "text.pt2").write_text("no network")
    with pytest.raises(VisionZooError, match="cannot be loaded here"):
        load_compiled(tmp_path / "text.pt2")
