"""A demo server in this process, a headless Chromium that visits it, and files that pages must refuse."""

from __future__ import annotations

import io
import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.browsers import free_port, launch

HARMLESS = ("WebGPU", "GPU adapter", "Slow network", "preloaded using link preload")


def upload(path: Path) -> dict[str, str]:
    """The argument that a page's function gets for a file that a visitor chose."""
    return {"path": str(path), "orig_name": path.name}


def png(size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "grey").save(data, "PNG")
    return data.getvalue()


BAD_IMAGES = [
    (b"", "empty|not an image"),
    (b"these are words", "not an image"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image|damaged"),
    (png((64, 64))[:80], "truncated|damaged"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not in a format"),
    (b"P6 9000 9000 255\n" + b"\0" * 10, "9000 x 9000 pixels is over this page's limit of 50 million"),
    (b"P6 90 90 255\n" + b"\0" * 10, "truncated"),
    (b"<!doctype html><html>", "web page"),
]
"""Contents of files that no page accepts as an image, and the message for each."""


@contextmanager
def serving(task: str, *, index: Path | None = None, **page: Any) -> Iterator[str]:
    """The address of a running demo of one page.

    Args:
        page: arguments of its function `page`, e.g. `pipe=…`.
    """
    from visionzoo.demos.app import build, pages, start

    module = import_module(pages()[task])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "page", partial(module.page, **page))
        blocks = build(task, index=index)
    yield start(blocks, port=free_port(), host="127.0.0.1").rstrip("/")
    blocks.close()


def boxes(server: str) -> dict[str, int]:
    """Element id -> component number, for everything on a page that has an id."""
    return {
        part["props"]["elem_id"]: part["id"] for part in config(server)["components"] if part["props"].get("elem_id")
    }


def config(server: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server}/config", timeout=30) as answer:
        return json.load(answer)


def ask(server: str, function: int, data: list[Any]) -> str:
    """The server's answer to a request that does not come from the page."""
    session = f"test{function}"
    body = json.dumps({"data": data, "fn_index": function, "session_hash": session}).encode()
    call = urllib.request.Request(f"{server}/gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(call, timeout=30).close()
    with urllib.request.urlopen(f"{server}/gradio_api/queue/data?session_hash={session}", timeout=30) as answer:
        return answer.read().decode()


class Visit:
    """A page of the demo, with all its requests and errors."""

    def __init__(self, page: Any, server: str):
        self.page = page
        self.hosts: set[str | None] = set()
        self.complaints: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(server)
        page.wait_for_selector(".vz-accepts")
        page.wait_for_timeout(300)

    def panel(self) -> str:
        """The name of the first panel."""
        return (
            self.page.locator(".vz-buttons button").first.get_attribute("id").removesuffix("-run").removeprefix("vz-")
        )

    def give(self, box: str, *paths: Path) -> None:
        self.page.locator(f"#{box} input[type=file]").set_input_files([os.fspath(path) for path in paths])

    def sample(self, panel: str, number: int = 0) -> None:
        """Choose a sample and wait until its files are in the boxes."""
        self.page.locator(f"#vz-{panel}-samples .gallery-item").nth(number).click()
        self.page.locator(".vz-upload :is(img, .file-preview)").first.wait_for()

    def run(self, panel: str) -> None:
        """Press Run and wait for results."""
        self.start(panel)
        self.page.locator(f"#vz-{panel}-results").wait_for(state="visible")
        self.page.wait_for_selector(f"#vz-{panel}-run:not(:disabled)")

    def start(self, panel: str) -> None:
        self.page.locator(f"#vz-{panel}-run").click()

    def status(self, panel: str) -> str:
        return self.page.locator(f"#vz-{panel}-status").inner_text()

    def trouble(self, panel: str) -> str:
        """The error in place of results."""
        found = self.page.locator(f"#vz-{panel}-status .vz-problem")
        found.wait_for()
        return found.inner_text()

    def refused(self, box: str) -> str:
        """The reason why a box did not accept a file."""
        found = self.page.locator(f".vz-accepts[data-box={box}] .vz-problem")
        found.wait_for()
        return found.inner_text()

    def download(self, panel: str, number: int = 0) -> Any:
        """Follow a link to a result."""
        with self.page.expect_download() as download:
            self.page.locator(f"#vz-{panel}-download a").nth(number).click()
        return download.value

    def check(self) -> None:
        """Check that there were no requests to other hosts and no errors, and that nothing overflows on wide and narrow screens."""
        assert self.hosts - {None, ""} == {"127.0.0.1"}
        assert [text for text in self.complaints if not any(word in text for word in HARMLESS)] == []
        assert "Traceback" not in self.page.content()
        for width in (420, 1280):
            self.page.set_viewport_size({"width": width, "height": 900})
            self.page.wait_for_timeout(200)
            assert self.page.evaluate("document.documentElement.scrollWidth") <= width


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


@pytest.fixture(autouse=True)
def _one_home(home: Path, _own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """gradio knows one folder of uploads per process, so all servers of the tests share one."""
    monkeypatch.setenv("VISIONZOO_HOME", str(home))


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
    """The address of a running demo of the retrieval page."""
    with serving("retrieve", index=index) as address:
        yield address


@pytest.fixture(scope="session")
def chromium(playwright: Any) -> Iterator[Any]:
    browser = launch(playwright, "--disable-gpu")
    yield browser
    browser.close()


@pytest.fixture
def go(chromium: Any) -> Iterator[Callable[[str], Visit]]:
    """Open a page of the demo in a browser of its own; call it twice for two visitors."""
    contexts = []

    def visit(server: str) -> Visit:
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        context.set_default_timeout(60_000)
        contexts.append(context)
        return Visit(context.new_page(), server)

    yield visit
    for context in contexts:
        context.close()
