"""A classifier of colours, its weights in a file, and images for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from visionzoo.pipelines.classify import ClassifyPipeline
from visionzoo.weights import save_safetensors

from .networks import COLOURS, colour_network, facts


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "colours.safetensors"
    save_safetensors(colour_network().state_dict(), path, facts(classes=3) | {"classes": json.dumps(COLOURS)})
    return path


@pytest.fixture(scope="session")
def classifier(weights: Path) -> ClassifyPipeline:
    return ClassifyPipeline.create(checkpoint=weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red, green and blue images, nine of them, in the order of their names."""
    path = tmp_path / "images"
    path.mkdir()
    for number in range(9):
        Image.new("RGB", (80 + number, 70), COLOURS[number % 3]).save(path / f"{number}.png")
    return path
