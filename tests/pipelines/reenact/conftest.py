"""A tiny network, a face, and a clip in which it moves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from visionzoo.io.video import VideoWriter
from visionzoo.models.mcnet import MCNet
from visionzoo.pipelines.reenact import ReenactPipeline

from .clips import moving


@pytest.fixture(scope="session")
def network() -> MCNet:
    model = tiny.mcnet()
    assert isinstance(model, MCNet)
    return model


@pytest.fixture(scope="session")
def pipe(network: MCNet) -> ReenactPipeline:
    return ReenactPipeline(network, device="cpu", size=128)


@pytest.fixture(scope="session")
def weights(pipe: ReenactPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    pipe.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The astronaut's, with room around it."""
    from skimage import data

    path = tmp_path_factory.mktemp("face") / "face.png"
    Image.fromarray(data.astronaut()[:320, 60:420]).save(path)
    return path


@pytest.fixture(scope="session")
def talk(face: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    with VideoWriter(path, fps=Fraction(25)) as writer:
        for frame in moving(face):
            writer.write(frame)
    return path
