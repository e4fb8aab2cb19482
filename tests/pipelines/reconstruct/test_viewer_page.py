"""The page of the viewer in a headless Chromium: what the browser draws is what the server renders."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("viser")

from tests import tiny
from tests.browsers import free_port, launch
from tests.contract.setting import capture as write_capture
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.compact import write_scene
from visionzoo.models.modecgs.facts import facts_of

WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
KNOWN = ("computeBoundingSphere", "THREE.Clock", "GPU stall")
"""Complaints of viser's own page."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server in another process, since Chromium is driven from this thread."""
    folder = write_capture(tmp_path_factory.mktemp("capture") / "scene")
    path, port = tmp_path_factory.mktemp("scene") / "a.vzgs", free_port()
    write_scene(tiny.modecgs(), path, facts=facts_of(read_capture(folder)).to_dict())
    words = [sys.executable, "-m", "visionzoo", "view", str(path), "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert "the scene is at" in server.stderr.readline()
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture
def page(playwright: Any) -> Iterator[Any]:
    browser = launch(playwright, *WEBGL)
    page = browser.new_page(viewport={"width": 900, "height": 700})
    page.set_default_timeout(120_000)
    yield page
    browser.close()


@pytest.mark.slow
@pytest.mark.browser
def test_browser_and_server_draw_the_same_scene(page: Any, address: str, tmp_path: Path):
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.get_by_text("Gaussians", exact=False).first.wait_for()
    drawn = settled(page)
    choose(page, "Drawn by", "server")
    page.get_by_text("Gaussians at", exact=False).first.wait_for()
    rendered = settled(page)
    empty = np.abs(rendered - 255).mean()
    assert empty > 8, "the scene is not shown"
    assert np.abs(drawn - rendered).mean() < empty / 3
    choose(page, "Show", "opacity")
    page.wait_for_timeout(3000)
    grey = settled(page)
    assert grey.std(-1).max() < 12 < rendered.std(-1).max()
    assert [text for text in complaints if not any(word in text for word in KNOWN)] == []


def settled(page: Any) -> np.ndarray:
    """(H, W, 3): the left part of the page, where no control is, once it no longer changes."""
    before = None
    for _ in range(60):
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").crop((20, 200, 540, 680))
        now = np.asarray(image, float)
        if before is not None and np.abs(now - before).max() < 8 and now.std() > 1:
            return now
        before = now
        page.wait_for_timeout(1000)
    pytest.fail("the page keeps changing, or stays empty")


def choose(page: Any, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=value).first.click()
