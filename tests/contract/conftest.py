"""A motion template and an index, made by the tiny networks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from . import setting
from .cases import Material, material
from .setting import SETTINGS, draw, made


@pytest.fixture(scope="session")
def stuff(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material(tmp_path_factory.mktemp("stuff"))


@pytest.fixture(scope="session")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A motion template of the tiny MCNet, two frames long."""
    from fractions import Fraction

    from visionzoo.io.video import VideoWriter

    folder = tmp_path_factory.mktemp("motion")
    with VideoWriter(folder / "talk.mkv", fps=Fraction(25)) as writer:
        for number in range(2):
            writer.write(np.random.default_rng(number).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    pipe = made("reenact", SETTINGS["reenact"])
    pipe.motion(folder / "talk.mkv", crop="none").save(folder / "talk.safetensors")
    return folder / "talk.safetensors"


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    (folder / "photos").mkdir()
    for number in range(3):
        draw(folder / "photos" / f"{number}.png", number)
    made("retrieve", SETTINGS["retrieve"]).index(folder / "photos", folder / "i", progress=False)
    return folder / "i"


@pytest.fixture(scope="session")
def busy() -> Iterator[int]:
    """A port of this machine at which something else listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setting.capture(tmp_path_factory.mktemp("capture") / "scene")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> Path:
    """A scene file with the cameras of `capture`."""
    from tests import tiny
    from visionzoo.models.modecgs.captures.reading import read_capture
    from visionzoo.models.modecgs.compact import write_scene
    from visionzoo.models.modecgs.facts import facts_of

    path = tmp_path_factory.mktemp("scene") / "a.vzgs"
    write_scene(tiny.modecgs(), path, facts=facts_of(read_capture(capture)).to_dict())
    return path
