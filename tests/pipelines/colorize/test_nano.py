"""The bundled small LongAnimation: it colours clips of worlds that it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from visionzoo.data.toy_world import ToyWorld
from visionzoo.metrics import psnr
from visionzoo.models.longanimation import sees_one_frame
from visionzoo.pipelines.colorize import ColorizeOptions, LongAnimationPipeline
from visionzoo.registry import create_model

MEGABYTES = 16
"""Largest size of all files together."""
LEAST = 17.0
"""PSNR that the colours of a short clip must reach, in dB; a grey video has 10.8."""


@pytest.fixture(scope="module")
def pipe() -> LongAnimationPipeline:
    return LongAnimationPipeline.create(device="cpu")


def test_it_is_the_default_and_small(pipe: LongAnimationPipeline) -> None:
    assert pipe.name == LongAnimationPipeline.default() == "longanimation_nano"
    folder = LongAnimationPipeline.published("longanimation_nano")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MEGABYTES * 2**20
    assert pipe.lineart is None
    assert sees_one_frame(pipe.vae)
    own = LongAnimationPipeline.model_settings()
    assert (own["segment_frames"], own["over_limit"]) == (17, "evict")


def test_the_registered_network_has_its_shapes(pipe: LongAnimationPipeline) -> None:
    network: Any = create_model("longanimation_nano")
    shapes = {name: weight.shape for name, weight in pipe.transformer.state_dict().items()}
    assert {name: weight.shape for name, weight in network.state_dict().items()} == shapes


@pytest.mark.slow
def test_it_colours_a_clip_of_a_new_world(pipe: LongAnimationPipeline) -> None:
    """Two segments. The second one looks at the memory of the first."""
    clip = list(
        ToyWorld.create(5, "test", places=3, characters=2)
        .film(25, size=(128, 128), returns=True, speed=0.3)
        .frames(motion=False)
    )
    lines = [np.repeat(frame.ink[..., None], 3, 2) for frame in clip]
    made = {}
    for memory in ("both", "none"):
        options = ColorizeOptions(seed=0, memory=memory, line_source="drawings")
        video = pipe(iter(lines), clip[0].rgb, options=options, frames=len(lines), size=(128, 128))
        assert (video.first, len(video.frames)) == (1, 16)
        made[memory] = video.frames
        quality = np.mean([psnr(frame, true.rgb) for frame, true in zip(video.frames, clip[1:], strict=False)])
        assert quality > LEAST
    assert np.array_equal(made["both"][:8], made["none"][:8])
    assert not np.array_equal(made["both"][8:], made["none"][8:])
