"""What all demo pages promise."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio")

LIVE = {"vz-reenact-live"}
"""Frames of a webcam, where speed counts more."""


def test_results_are_shown_without_loss(home: Path) -> None:
    """gradio sends images as lossy WebP unless it is told otherwise."""
    from visionzoo.demos.app import build, pages

    del home
    seen = 0
    for task in pages():
        if task == "retrieve":  # its results are HTML with the photos inside; building it indexes the samples
            continue
        with build(task) as blocks:
            shown = [
                block
                for block in blocks.blocks.values()
                if getattr(block, "format", None) and getattr(block, "interactive", None) is False
                and type(block).__name__ in ("Image", "ImageSlider", "Gallery")
            ]  # fmt: skip
        seen += len(shown)
        for block in shown:
            assert block.format == "png" or block.elem_id in LIVE, f"{task}: {block.elem_id} shows {block.format}"
    assert seen > 5
