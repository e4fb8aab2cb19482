"""A tiny network, its weights in a file, and an empty current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from visionzoo.models.dehazexl import DehazeXL
from visionzoo.pipelines.dehaze import DehazePipeline


@pytest.fixture(scope="session")
def network() -> DehazeXL:
    model = tiny.dehazexl()
    assert isinstance(model, DehazeXL)
    return model


@pytest.fixture
def pipe(network: DehazeXL) -> DehazePipeline:
    return DehazePipeline(network)


@pytest.fixture(scope="session")
def weights(network: DehazeXL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    DehazePipeline(network).save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
