"""The demo page of haze removal: its functions, and the page as a visitor sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.cards import WeightSource
from visionzoo.errors import InputError
from visionzoo.io.image import load_image

from .conftest import BAD_IMAGES, Visit, ask, boxes, config, png, serving, upload

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A network with random weights that changes images a little."""
    from visionzoo.pipelines.dehaze import DehazePipeline

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DehazePipeline.create(visionzoo.create_model("dehazexl_nano"), device="cpu")


def image(folder: Path, size: tuple[int, int] = (300, 200), name: str = "hazy ä.png") -> Path:
    path = folder / name
    noise = np.random.default_rng(0).integers(90, 200, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


# Functions


@pytest.mark.parametrize("blend", [False, True])
def test_an_image_is_what_the_pipeline_makes_of_it(pipe: Any, tmp_path: Path, blend: bool) -> None:
    from visionzoo.demos.dehaze_result import remove, save, show

    path = image(tmp_path)
    told: list[tuple[str, int, int]] = []
    removed = remove(pipe, upload(path), blend, lambda *step: told.append(step))
    assert np.array_equal(removed.clear, pipe(path, blend=blend).image)
    assert np.array_equal(removed.hazy, load_image(path))
    counts = [done for _, done, _ in told]
    tiles = 2 * 1 + (2 * 2 if blend else 0)
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == tiles
    assert {of for *_, of in told} == {tiles}
    file = save(removed, tmp_path)
    assert file.name == "hazy ä_clear.png"
    assert np.array_equal(load_image(file), removed.clear)
    text = show(removed, pipe)
    assert "300 x 200 pixels" in text
    assert re.search(r"in [\d.]+ m?s on the CPU", text)
    assert "megapixel" not in text
    assert f"{tiles} tiles" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((16, 16), "in 3.0 s on the CPU"),
        ((500, 499), "in 3.0 s on the CPU"),
        ((1000, 1500), "1.50 megapixels in 3.0 s on the CPU (2.0 s per megapixel)"),
    ],
)
def test_a_small_image_promises_nothing_for_a_large_one(pipe: Any, size: tuple[int, int], message: str) -> None:
    from visionzoo.demos.dehaze_result import Removed, show

    blank = np.zeros((*size, 3), np.uint8)
    text = show(Removed(blank, blank, "a", 1, 3.0), pipe)
    assert message in text
    assert ("per megapixel" in text) == ("per megapixel" in message)


@pytest.mark.parametrize(
    ("content", "reason"),
    [*BAD_IMAGES, (png((1, 1)), "1 x 1 pixels is too small"), (png((1000, 15)), "1000 x 15 pixels is too small")],
)
def test_a_bad_upload_is_refused(pipe: Any, tmp_path: Path, content: bytes, reason: str) -> None:
    from visionzoo.demos.dehaze_result import remove

    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as problem:
        remove(pipe, upload(path), False)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("size", [(300, 200), (16, 16), (1500, 20), (20, 1500), (2100, 1300)])
@pytest.mark.parametrize("place", [(0, 0), (10_000, 10_000), (7.4, 12.6)])
def test_the_window_lies_inside_the_reduced_image(size: tuple[int, int], place: tuple[float, float]) -> None:
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


def test_a_map_shows_the_window_around_the_point(pipe: Any, tmp_path: Path) -> None:
    from visionzoo.demos.dehaze_map import MAP_STEPS, Look, explain
    from visionzoo.demos.dehaze_result import remove
    from visionzoo.models.dehazexl import attribution_image, attribution_map

    look = Look.of(remove(pipe, upload(image(tmp_path, (96, 64))), False))
    text, shown = explain(pipe, look, 60, 20, 16)
    hazy = torch.from_numpy(look.hazy.transpose(2, 0, 1).copy()).float() / 255
    expected = attribution_map(pipe.network, hazy, None, (12, 52, 16, 16), steps=MAP_STEPS).saliency.numpy()
    assert np.array_equal(shown, attribution_image(look.hazy, expected, (12, 52, 16, 16)))
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


def test_missing_weights_are_shown_instead_of_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import about, dehaze

    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    gone = WeightSource("dehazexl_nano.x", "nano.safetensors", "MIT", bundled="no such file")
    monkeypatch.setattr(about, "weight_source", lambda name: gone)
    assert dehaze.Restorer().missing == "the weights of dehazexl_nano are not on this server"
    with pytest.raises(InputError, match="not on this server"):
        dehaze.Restorer()()

    def none(name: str) -> WeightSource:
        raise InputError(f"{name} has no published weights")

    monkeypatch.setattr(about, "weight_source", none)
    assert dehaze.Restorer().missing == "dehazexl_nano has no published weights"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "nano.safetensors").touch()
    monkeypatch.setattr(about, "weight_source", lambda name: gone)
    assert dehaze.Restorer().missing is None


# The page


@pytest.fixture(scope="module")
def dehaze_server(home: Path, pipe: Any) -> Iterator[str]:
    with serving("dehaze", pipe=pipe) as address:
        yield address


@pytest.fixture
def visit(dehaze_server: str, go: Callable[[str], Visit]) -> Visit:
    return go(dehaze_server)


@pytest.mark.parametrize("place", ["assets", "http://192.0.2.1/a.jpg"])
def test_only_what_was_uploaded_is_read(dehaze_server: str, assets: Path, place: str) -> None:
    path = str(assets / "queries" / "cat.jpg") if place == "assets" else place
    box = boxes(dehaze_server)["vz-dehaze-upload"]
    taken = [function for function in config(dehaze_server)["dependencies"] if function["inputs"][:1] == [box]]
    assert sorted(len(function["inputs"]) for function in taken) == [1, 2]
    file = {"path": path, "orig_name": "cat.jpg", "meta": {"_type": "gradio.FileData"}}
    for function in taken:
        text = ask(dehaze_server, function["id"], [file, False][: len(function["inputs"])])
        assert '"success":false' in text.replace(" ", "")
        assert ".png" not in text


@pytest.mark.browser
def test_an_upload_becomes_a_slider_and_a_download(visit: Visit, pipe: Any, tmp_path: Path) -> None:
    page = visit.page
    path = image(tmp_path)
    visit.give("vz-dehaze-upload", path)
    page.wait_for_selector("#vz-dehaze-upload img")
    assert page.locator("#vz-dehaze-blend input").is_checked()
    visit.run("dehaze")
    assert re.search(r"300 x 200 pixels\s+in [\d.]+ m?s on the CPU", visit.status("dehaze"))
    assert "6 tiles" in visit.status("dehaze")
    page.wait_for_function("document.querySelectorAll('#vz-dehaze-slider img').length === 2")
    page.wait_for_function("[...document.querySelectorAll('#vz-dehaze-slider img')].every(i => i.naturalWidth === 300)")
    download = visit.download("dehaze")
    assert download.suggested_filename == "hazy ä_clear.png"
    shown = load_image(Path(download.path()).read_bytes()).astype(int)
    # the page computes in a thread of its own, whose sums may be rounded differently
    assert np.abs(shown - pipe(path, blend=True).image).max() <= 1
    visit.check()


@pytest.mark.browser
def test_a_click_in_the_result_shows_what_it_depends_on(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="What it depends on").click()
    visit.start("dehaze-map")
    assert "First remove the haze" in visit.trouble("dehaze-map")
    page.get_by_role("tab", name="Before and after").click()
    visit.sample("dehaze", 1)
    visit.run("dehaze")
    page.get_by_role("tab", name="What it depends on").click()
    shown = page.locator("#vz-dehaze-map-place img")
    shown.wait_for()
    box = shown.bounding_box()
    shown.click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    value = "document.querySelector('#vz-dehaze-map-x input[type=number]').value"
    page.wait_for_function(f"Math.abs({value} - 480 / 4) <= 3")
    visit.run("dehaze-map")
    assert "The redder a pixel" in visit.status("dehaze-map")
    y = int(page.locator("#vz-dehaze-map-y input[type=number]").input_value())
    assert y == pytest.approx(320 / 2, abs=3)
    page.wait_for_function("document.querySelector('#vz-dehaze-map-found img')?.naturalHeight === 320")
    assert visit.download("dehaze-map").suggested_filename == "dependence.png"
    visit.check()


@pytest.mark.browser
def test_small_images_are_refused_and_the_page_still_works(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    (tmp_path / "dot.png").write_bytes(png((1, 1)))
    visit.give("vz-dehaze-upload", tmp_path / "dot.png")
    assert "dot.png: 1 x 1 pixels is too small to recognise haze" in visit.refused("vz-dehaze-upload")
    visit.sample("dehaze")
    assert page.locator(".vz-refused .vz-problem").count() == 0
    visit.run("dehaze")
    assert page.get_by_role("alert").count() == 0
    visit.check()


@pytest.mark.browser
def test_a_page_without_weights_says_so(
    home: Path, go: Callable[[str], Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos import dehaze

    monkeypatch.setattr(dehaze, "missing_weights", lambda: "the weights <of this test> are not here")
    with serving("dehaze") as address:
        visit = go(address)
        visit.page.locator("#vz-dehaze-missing").get_by_text("the weights <of this test> are not here").wait_for()
        visit.sample("dehaze")
        visit.start("dehaze")
        assert "he weights <of this test> are not here" in visit.trouble("dehaze")
        visit.check()
