"""A demo server in this process, and a headless Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def assets() -> Path:
    return Path(str(resources.files("visionzoo"))) / "assets"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the demo may write in."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):  # `build` sets them: restored afterwards
            patch.setenv(name, "")
        patch.setenv("VISIONZOO_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def index(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two views of each of six subjects, with names that a page has to escape."""
    pytest.importorskip("gradio")
    from visionzoo.pipelines.retrieve import RetrievePipeline

    folder = tmp_path_factory.mktemp("photos")
    for subject in ("astronaut", "cat", "coffee", "coins", "flower", "temple"):
        for view in (1, 3):
            shutil.copy(assets / "photos" / f"{subject}_{view}.jpg", folder)
    (folder / "cat_1.jpg").rename(folder / "cat <img src=x onerror=alert(1)> ${1+1} {{2}} `3`.jpg")
    path = tmp_path_factory.mktemp("index") / "few.index"
    RetrievePipeline.create(max_side=256).index(folder, path, progress=False)
    return path


@pytest.fixture(scope="session")
def server(home: Path, index: Path) -> Iterator[str]:
    """The address of a running demo."""
    from visionzoo.demos.app import build, start

    blocks = build("retrieve", index=index)
    yield start(blocks, port=free_port(), host="127.0.0.1").rstrip("/")
    blocks.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"the browser tests need one of {', '.join(BROWSERS)} on the PATH")
    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()
