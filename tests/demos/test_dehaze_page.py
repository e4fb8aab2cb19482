"""The demo page of haze removal: its functions, and the page as a visitor sees it."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.cards import WeightSource
from visionzoo.errors import InputError
from visionzoo.io.image import load_image

from .conftest import free_port
from .test_classify_page import ask

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A network with random weights that changes pictures a little."""
    from visionzoo.pipelines.dehaze import DehazePipeline

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DehazePipeline.create(visionzoo.create_model("dehazexl_nano"), device="cpu")


def picture(folder: Path, size: tuple[int, int] = (300, 200), name: str = "hazy ä.png") -> Path:
    path = folder / name
    noise = np.random.default_rng(0).integers(90, 200, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def upload(path: Path) -> dict[str, str]:
    return {"path": str(path), "orig_name": path.name}


def png(size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "grey").save(data, "PNG")
    return data.getvalue()


# Functions


@pytest.mark.parametrize("blend", [False, True])
def test_a_picture_is_what_the_pipeline_makes_of_it(pipe: Any, tmp_path: Path, blend: bool) -> None:
    from visionzoo.demos.dehaze_result import remove, save, show

    path = picture(tmp_path)
    told: list[tuple[int, int, str]] = []
    removed = remove(pipe, upload(path), blend, lambda *step: told.append(step))
    assert np.array_equal(removed.clear, pipe(path, blend=blend).image)
    assert np.array_equal(removed.hazy, load_image(path))
    counts = [done for done, *_ in told]
    tiles = 2 * 1 + (2 * 2 if blend else 0)
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == tiles
    assert {of for _, of, _ in told} == {tiles}
    file = save(removed, tmp_path / "results")
    assert file.name == "hazy ä_clear.png"
    assert np.array_equal(load_image(file), removed.clear)
    text = show(removed, pipe)
    assert "300 x 200 pixels" in text
    assert "0.06 megapixels in" in text
    assert f"{tiles} tiles" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty|not an image"),
        (b"these are words", "not an image"),
        (png((64, 64))[:80], "truncated|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not of a format"),
        (b"P6 9000 9000 255\n" + b"\0" * 10, "9000 x 9000 pixels is over this page's limit of 50 million"),
        (png((1, 1)), "1 x 1 pixels is too small"),
        (png((1000, 15)), "1000 x 15 pixels is too small"),
    ],
    ids=["empty", "words", "truncated", "a program", "absurdly large", "one pixel", "a line"],
)
def test_a_bad_upload_is_explained_without_a_path(pipe: Any, tmp_path: Path, content: bytes, reason: str) -> None:
    from visionzoo.demos.dehaze_result import remove

    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as problem:
        remove(pipe, upload(path), False)
    assert str(tmp_path) not in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", ["../../x <b>", "", None, "." * 300, "a" * 300])
def test_the_download_has_a_name_that_any_system_takes(pipe: Any, tmp_path: Path, name: str | None) -> None:
    from visionzoo.demos.dehaze_result import remove, save

    given = {"path": str(picture(tmp_path, (16, 16))), "orig_name": name}
    file = save(remove(pipe, given, False), tmp_path / "results")
    assert file.is_relative_to(tmp_path / "results")
    assert re.fullmatch(r"[\w .()-]{1,80}_clear\.png", file.name)


@pytest.mark.parametrize("size", [(300, 200), (16, 16), (1500, 20), (20, 1500), (2100, 1300)])
@pytest.mark.parametrize("place", [(0, 0), (10_000, 10_000), (7.4, 12.6)])
def test_the_window_lies_inside_the_reduced_picture(size: tuple[int, int], place: tuple[float, float]) -> None:
    from visionzoo.demos.dehaze_map import MAP_SIDE, WINDOWS, Look
    from visionzoo.demos.dehaze_result import Removed

    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    look = Look.of(Removed(pixels, pixels, "x", 1, 0.1))
    height, width = look.hazy.shape[:2]
    assert max(height, width) == min(MAP_SIDE, max(size))
    assert ("was first reduced to" in look.size_text()) == (max(size) > MAP_SIDE)
    for side in WINDOWS:
        top, left, tall, wide = look.window(*place, side)
        assert min(top, left) >= 0
        assert top + tall <= height
        assert left + wide <= width
        assert (tall, wide) == (min(side, height), min(side, width))
        assert look.framed(*place, side).size == (width, height)


def test_a_map_is_of_the_window_around_the_point(pipe: Any, tmp_path: Path) -> None:
    from visionzoo.demos.dehaze_map import MAP_STEPS, Look, explain
    from visionzoo.demos.dehaze_result import remove
    from visionzoo.models.dehazexl import attribution_map, attribution_picture

    look = Look.of(remove(pipe, upload(picture(tmp_path, (96, 64))), False))
    text, shown = explain(pipe, look, 60, 20, 16)
    hazy = torch.from_numpy(look.hazy.transpose(2, 0, 1).copy()).float() / 255
    expected = attribution_map(pipe.network, hazy, None, (12, 52, 16, 16), steps=MAP_STEPS).saliency.numpy()
    assert np.array_equal(shown, attribution_picture(look.hazy, expected, (12, 52, 16, 16)))
    assert re.search(r"\d+% of the total lies inside the frame", text)


def test_samples_are_hazy_and_made_once(tmp_path: Path, assets: Path) -> None:
    from visionzoo.demos.dehaze_samples import samples

    paths = samples(tmp_path)
    assert len(paths) == 3
    for path in paths:
        hazy = load_image(path).astype(float)
        clear = load_image(assets / "photos" / f"{path.stem.removesuffix('_hazy')}_1.jpg").astype(float)
        assert hazy.shape == clear.shape
        assert hazy.std() < 0.8 * clear.std()
    made = [path.stat().st_mtime_ns for path in paths]
    assert [path.stat().st_mtime_ns for path in samples(tmp_path)] == made


def test_weights_that_are_not_here_are_said_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import dehaze

    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    gone = WeightSource("dehazexl_nano.x", "nano.safetensors", "MIT", bundled="no such file")
    monkeypatch.setattr(dehaze, "weight_source", lambda name: gone)
    assert "put nano.safetensors into the folder" in str(dehaze.Restorer().missing)
    with pytest.raises(InputError, match=r"dehazexl_nano are not in the cache: put nano\.safetensors"):
        dehaze.Restorer()()

    def none(name: str) -> WeightSource:
        raise InputError(f"{name} has no published weights")

    monkeypatch.setattr(dehaze, "weight_source", none)
    assert dehaze.Restorer().missing == "dehazexl_nano has no published weights"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "nano.safetensors").touch()
    monkeypatch.setattr(dehaze, "weight_source", lambda name: gone)
    assert dehaze.Restorer().missing is None


# The page


class Visit:
    """A page of the demo, with everything it asked for and complained about."""

    def __init__(self, page: Any, server: str):
        self.page = page
        self.hosts: set[str | None] = set()
        self.problems: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.goto(server)
        page.wait_for_selector("#vz-dehaze-samples img")

    def give(self, path: Path) -> None:
        self.page.locator("#vz-dehaze-picture input[type=file]").set_input_files(os.fspath(path))

    def remove(self) -> None:
        self.page.wait_for_selector("#vz-dehaze-picture img")
        self.page.locator("#vz-dehaze-remove").click()
        self.page.wait_for_selector("#vz-dehaze-result .vz-done")

    def check(self) -> None:
        """Nothing was asked of another host, nothing went wrong, nothing sticks out."""
        assert self.hosts - {None, ""} == {"127.0.0.1"}
        assert self.problems == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def serve(pipe: Any) -> Iterator[str]:
    from visionzoo.demos import dehaze
    from visionzoo.demos.app import build, start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dehaze, "page", partial(dehaze.page, pipe=pipe))
        blocks = build("dehaze")
    yield start(blocks, port=free_port(), host="127.0.0.1").rstrip("/")
    blocks.close()


@pytest.fixture(scope="module")
def dehaze_server(home: Path, pipe: Any) -> Iterator[str]:
    yield from serve(pipe)


@pytest.fixture
def bare_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A demo on a machine without weights."""
    from visionzoo.demos import dehaze

    monkeypatch.setattr(dehaze, "what_is_missing", lambda: "the weights <of this test> are not here")
    yield from serve(None)


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def visit(context: Any, dehaze_server: str) -> Visit:
    return Visit(context.new_page(), dehaze_server)


@pytest.mark.parametrize("place", ["assets", "http://192.0.2.1/a.jpg"])
def test_only_what_was_uploaded_is_read(dehaze_server: str, assets: Path, place: str) -> None:
    import urllib.request

    path = str(assets / "queries" / "cat.jpg") if place == "assets" else place
    with urllib.request.urlopen(f"{dehaze_server}/config", timeout=30) as answer:
        config = json.load(answer)
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    taken = [function for function in config["dependencies"] if function["inputs"][:1] == [ids["vz-dehaze-picture"]]]
    assert sorted(len(function["inputs"]) for function in taken) == [1, 2]
    file = {"path": path, "orig_name": "cat.jpg", "meta": {"_type": "gradio.FileData"}}
    for function in taken:
        text = ask(dehaze_server, function["id"], [file, False][: len(function["inputs"])])
        assert '"success":false' in text.replace(" ", "")
        assert ".png" not in text


@pytest.mark.browser
def test_an_upload_becomes_a_slider_and_a_download(visit: Visit, pipe: Any, tmp_path: Path) -> None:
    page = visit.page
    path = picture(tmp_path)
    visit.give(path)
    assert page.locator("#vz-dehaze-blend input").is_checked()
    visit.remove()
    text = page.locator("#vz-dehaze-result").inner_text()
    assert re.search(r"300 x 200 pixels 0\.06 megapixels in [\d.]+ m?s on the CPU", text)
    assert "6 tiles" in text
    page.wait_for_function("document.querySelectorAll('#vz-dehaze-slider img').length === 2")
    widths = page.eval_on_selector_all("#vz-dehaze-slider img", "all => all.map(i => i.naturalWidth)")
    assert widths == [300, 300]
    with page.expect_download() as download:
        page.locator("#vz-dehaze-download").click()
    assert download.value.suggested_filename == "hazy ä_clear.png"
    assert np.array_equal(load_image(Path(download.value.path()).read_bytes()), pipe(path, blend=True).image)
    visit.check()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    visit.check()


@pytest.mark.browser
def test_a_click_in_the_result_shows_what_it_depends_on(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Attribution").click()
    page.locator("#vz-dehaze-explain").click()
    assert "First remove the haze" in page.locator("#vz-dehaze-reading").inner_text()
    page.get_by_role("tab", name="Before and after").click()
    page.locator("#vz-dehaze-samples img").nth(1).click()
    visit.remove()
    page.get_by_role("tab", name="Attribution").click()
    shown = page.locator("#vz-dehaze-place img")
    shown.wait_for()
    box = shown.bounding_box()
    shown.click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    page.wait_for_selector("#vz-dehaze-map img")
    assert "The redder a pixel" in page.locator("#vz-dehaze-reading").inner_text()
    x, y = (int(page.locator(f"#vz-dehaze-{name} input[type=number]").input_value()) for name in "xy")
    assert x == pytest.approx(480 / 4, abs=3)
    assert y == pytest.approx(320 / 2, abs=3)
    assert page.locator("#vz-dehaze-map img").evaluate("image => image.naturalHeight") == 320
    visit.check()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    visit.check()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"these are words", "not an image that can be read"),
        (png((64, 64))[:80], "truncated"),
        (png((1, 1)), "1 x 1 pixels is too small"),
        (png((8000, 7000)), "8000 x 7000 pixels is over this page's limit of 50 million"),
    ],
    ids=["words", "truncated", "one pixel", "huge"],
)
def test_a_bad_upload_is_one_line(visit: Visit, tmp_path: Path, content: bytes, reason: str) -> None:
    page = visit.page
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    visit.give(path)
    page.get_by_role("alert").get_by_text(reason).wait_for()
    page.wait_for_timeout(500)
    assert page.locator("#vz-dehaze-picture img").count() == 0  # the field is free again
    assert page.get_by_role("alert").count() == 1  # and the line stays
    assert "Traceback" not in page.content()
    page.locator("#vz-dehaze-samples img").first.click()  # and the page goes on
    visit.remove()
    assert page.get_by_role("alert").count() == 0
    visit.check()


@pytest.mark.browser
def test_a_page_without_weights_says_so(context: Any, bare_server: str) -> None:
    visit = Visit(context.new_page(), bare_server)
    page = visit.page
    page.locator("#vz-dehaze-missing").get_by_text("the weights <of this test> are not here").wait_for()
    page.locator("#vz-dehaze-remove").click()
    page.locator("#vz-dehaze-result").get_by_text("pick a sample image or upload one first").wait_for()
    page.locator("#vz-dehaze-samples img").first.click()
    page.wait_for_selector("#vz-dehaze-picture img")
    page.locator("#vz-dehaze-remove").click()
    page.locator("#vz-dehaze-result").get_by_text("the weights <of this test> are not here").wait_for()
    assert "Traceback" not in page.content()
    visit.check()
