"""Options, and what they leave to the model."""

from __future__ import annotations

from typing import Any

import pytest

from visionzoo.pipelines.colorize import ColorizeOptions, LongAnimationPipeline
from visionzoo.pipelines.colorize.settings import settings_for

PUBLISHED = LongAnimationPipeline.published_settings()
NANO = {
    **PUBLISHED,
    "steps": 12,
    "segment_frames": 17,
    "overlap": 9,
    "fusion_start": 7,
    "memory_frames": 40,
    "over_limit": "evict",
}


def test_the_published_ones() -> None:
    found = settings_for(ColorizeOptions(), PUBLISHED)
    assert (found.steps, found.guidance, found.segment_frames, found.overlap) == (50, 6.0, 81, 16)
    assert (found.memory, found.memory_frames, found.over_limit, found.local_frames) == ("both", 650, "resample", 20)
    assert found.fusion is not None
    assert (found.fusion.first_step, found.fusion.weights) == (31, (0.2, 0.4, 0.6, 0.8))


@pytest.mark.parametrize(("latent_frames", "fused"), [(4, 2), (2, 4), (1, 9)])
def test_all_latents_of_the_overlap_are_fused(latent_frames: int, fused: int) -> None:
    found = settings_for(ColorizeOptions(), NANO, latent_frames)
    assert (found.memory_frames, found.over_limit, found.latent_frames) == (40, "evict", latent_frames)
    assert found.fusion is not None
    assert found.fusion.weights == pytest.approx([k / (fused + 1) for k in range(1, fused + 1)])


@pytest.mark.parametrize(
    ("name", "value"), [("memory_frames", 7), ("over_limit", "grow"), ("local_frames", 3), ("memory", "none")]
)
def test_options_replace_those_of_the_model(name: str, value: Any) -> None:
    found = settings_for(ColorizeOptions(**{name: value}), NANO, 1)
    assert getattr(found, name) == value
    assert found.to_dict()[name] == value
