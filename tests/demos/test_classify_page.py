"""The demo page of classification: its functions, and the page as a visitor sees it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visionzoo.cards import WeightSource
from visionzoo.errors import InputError
from visionzoo.models.shvit import Preprocess
from visionzoo.weights import WeightsError, save_safetensors

from ..pipelines.classify.networks import COLOURS, colour_network, facts
from .conftest import BAD_IMAGES, Visit, ask, boxes, config, serving, upload

pytest.importorskip("gradio")

MODEL = "shvit_s1.in1k"  # whose place the tests' own weights take


@pytest.fixture(scope="module")
def weights(home: Path) -> Path:
    """A network that knows three colours, where the published weights of `MODEL` would be."""
    path = home / "weights" / f"{MODEL}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(colour_network().state_dict(), path, facts(classes=3) | {"classes": json.dumps(COLOURS)})
    return path


@pytest.fixture(autouse=True)
def _those_weights(weights: Path) -> None:
    """Every test finds them."""


@pytest.fixture(scope="module")
def pipe(weights: Path) -> Any:
    from visionzoo.demos.classify import Classifiers

    return Classifiers([MODEL])(MODEL)


def image(folder: Path, colour: str, size: tuple[int, int] = (96, 64), name: str = "") -> Path:
    path = folder / (name or f"{colour}.png")
    Image.new("RGB", size, colour).save(path)
    return path


# Functions


@pytest.mark.parametrize("colour", COLOURS)
def test_the_class_of_an_image_comes_first(pipe: Any, tmp_path: Path, colour: str) -> None:
    from visionzoo.demos.classify_result import see, show

    path = image(tmp_path, colour)
    seen = see(pipe, upload(path), 3)
    assert seen.predictions == pipe(path, top=3).predictions
    assert seen.predictions[0].label == colour
    text = show(seen, pipe)
    assert f"<strong>{colour}</strong>" in text
    assert text.count('class="vz-track"') == 3
    assert "96 x 64 pixels" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (37, 64), (1000, 40)])
def test_the_frame_is_around_what_the_network_sees(size: tuple[int, int]) -> None:
    from visionzoo.demos.classify_result import crop_box

    preprocess = Preprocess(64)
    x0, y0, x1, y1 = crop_box(preprocess, *size)
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert x1 - x0 == pytest.approx(min(size) * 64 / 73)
    ys, xs = np.mgrid[: size[1], : size[0]]
    ramp = np.stack([xs / size[0] * 255, ys / size[1] * 255, 0 * xs], -1).astype(np.uint8)
    crop = preprocess.resize(ramp)
    slack = 255 / 64 + 255 / min(size)
    assert abs(crop[32, 0, 0] / 255 * size[0] - x0) < size[0] * slack / 255
    assert abs(crop[32, -1, 0] / 255 * size[0] - x1) < size[0] * slack / 255
    assert abs(crop[0, 32, 1] / 255 * size[1] - y0) < size[1] * slack / 255


def test_several_images_give_a_class_each_and_a_table(pipe: Any, tmp_path: Path) -> None:
    from visionzoo.demos.classify_result import see_all, show_all, table

    words = tmp_path / "words <b>.jpg"
    words.write_text("these are words")
    paths = [image(tmp_path, "blue"), words, image(tmp_path, "red"), tmp_path / "gone.png"]
    found = list(see_all(pipe, [upload(path) for path in paths], 2))
    assert [name for name, *_ in found] == ["blue.png", "words <b>.jpg", "red.png", "gone.png"]
    results = [result for *_, result in found]
    assert [result.predictions[0].label for result in results if not result.error] == ["blue", "red"]
    assert "not an image" in str(results[1].error)
    assert "no such file" in str(results[3].error)
    rows = list(csv.reader(io.StringIO(table(results))))
    assert rows[0] == ["source", "rank", "label", "index", "probability"]
    assert [row[:3] for row in rows[1::2]] == [["blue.png", "1", "blue"], ["red.png", "1", "red"]]
    assert len(rows) == 1 + 2 * 2
    text = show_all(found, pipe, 0.5)
    assert "2 images, 2 cannot be used" in text
    assert "words &lt;b&gt;.jpg" in text
    assert str(tmp_path) not in text


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of 4 s that is red, then blue."""
    pytest.importorskip("av")
    from visionzoo.io.video import VideoWriter

    path = tmp_path / "two <colours>.mp4"
    with VideoWriter(path, fps=5) as writer:
        for colour in ["red"] * 15 + ["blue"] * 5:
            writer.write(np.asarray(Image.new("RGB", (64, 48), colour)))
    return path


def test_a_video_gives_the_mean_and_the_class_of_each_frame(pipe: Any, clip: Path, tmp_path: Path) -> None:
    from visionzoo.demos.classify_result import show_video, table, watch
    from visionzoo.demos.work import Work

    told: list[tuple[str, int, int]] = []
    work = Work(tmp_path)
    work.report = lambda *said: told.append(said)
    result = watch(pipe, upload(clip), 3, 1.0, work)
    assert [frame.predictions[0].label for frame in result.frames] == ["red", "red", "red", "blue"]
    assert result.predictions[0].label == "red"
    assert [(done, said) for said, done, _ in told] == [(n, "classifying frames") for n in (1, 2, 3, 4)]
    assert min(of for *_, of in told) >= 4
    text = show_video(result, pipe, 0.5)
    assert "<strong>red</strong>" in text
    assert "the mean of 4 frames, classified in" in text
    assert re.findall(r'class="vz-name">([\d:]+)<', text) == ["0:00", "0:01", "0:02", "0:03"]
    assert text.count("data:image/png") == 4
    rows = list(csv.DictReader(io.StringIO(table([result]))))
    assert [row["label"] for row in rows if row["rank"] == "1"] == ["red", "red", "red", "red", "blue"]
    assert {row["time"] for row in rows} == {"", "0.0", "1.0", "2.0", "3.0"}
    assert {row["source"] for row in rows} == {"two <colours>.mp4"}


def test_a_video_with_too_many_frames_or_none_is_refused(
    pipe: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos import classify_result
    from visionzoo.demos.work import Work

    monkeypatch.setattr(classify_result, "MAX_FRAMES", 5)
    with pytest.raises(
        InputError, match=r"a frame every 0\.5 s makes \d frames, but this page takes up to 5; choose a longer"
    ):
        classify_result.watch(pipe, upload(clip), 3, 0.5, Work(tmp_path))
    clip.write_bytes(b"these are words")
    with pytest.raises(InputError, match="cannot be read"):
        classify_result.watch(pipe, upload(clip), 3, 1, Work(tmp_path))


def test_too_many_images_are_refused(pipe: Any, tmp_path: Path) -> None:
    from visionzoo.demos.classify_result import MAX_IMAGES, see_all

    with pytest.raises(InputError, match="at most 60 images at once, got 61"):
        list(see_all(pipe, [upload(image(tmp_path, "red"))] * (MAX_IMAGES + 1), 1))


@pytest.mark.parametrize(("content", "reason"), BAD_IMAGES)
def test_a_bad_upload_is_refused(pipe: Any, tmp_path: Path, content: bytes, reason: str) -> None:
    from visionzoo.demos.classify_result import see

    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as problem:
        see(pipe, upload(path), 3)
    assert "\n" not in str(problem.value)


def test_a_pipeline_is_made_once_for_all_visitors(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import classify

    made: list[str] = []
    create = classify.ClassifyPipeline.create
    monkeypatch.setattr(classify.ClassifyPipeline, "create", lambda name: (made.append(name), create(name))[1])
    classifiers = classify.Classifiers([MODEL])
    assert not made
    with ThreadPoolExecutor(8) as pool:
        pipes = list(pool.map(classifiers, [MODEL] * 8))
    assert made == [MODEL]
    assert all(pipe is pipes[0] for pipe in pipes)
    with pytest.raises(InputError, match="no model"):
        classifiers("../../etc/passwd")


def test_the_first_choice_is_an_available_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import classify

    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    usual = WeightSource("shvit_s4.in1k", "s4.pth", "MIT", url="https://example.org/s4.pth", size_mb=66.5)
    other = WeightSource("shvit_s1.in1k", "s1.pth", "MIT", url="https://example.org/s1.pth")
    bundled = WeightSource("shvit_xs.small", "xs.pth", "MIT", bundled="no such file")
    assert classify.default_choice([other, bundled, usual]) == "shvit_s4.in1k"
    (tmp_path / "weights" / "s1.pth").touch()
    assert classify.default_choice([other, bundled, usual]) == "shvit_s1.in1k"
    (tmp_path / "weights" / "s4.pth").touch()
    assert classify.default_choice([other, bundled, usual]) == "shvit_s4.in1k"
    (tmp_path / "weights" / "s4.pth").unlink()
    (tmp_path / "weights" / "s1.pth").unlink()
    there = replace(bundled, bundled="queries/cat.jpg")
    assert classify.default_choice([other, there, usual]) == "shvit_xs.small"
    assert classify.default_choice([other, replace(there, caution="poor"), usual]) == "shvit_s4.in1k"


def test_offline_only_weights_that_are_here_can_be_chosen(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import classify

    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    names = [source.name for source in classify.choices()]
    assert {MODEL, "shvit_s1.official", "shvit_s4.in1k"} <= set(names)
    monkeypatch.setenv("VISIONZOO_OFFLINE", "1")
    here = classify.choices()
    assert MODEL in [source.name for source in here]
    assert all(classify.is_here(source) for source in here)
    with pytest.raises(WeightsError, match="offline mode is on"):
        classify.Classifiers(["shvit_s2.official"])("shvit_s2.official")


# The page


@pytest.fixture(scope="module")
def classify_server(home: Path, weights: Path) -> Iterator[str]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("VISIONZOO_OFFLINE", "HF_HUB_OFFLINE"):  # the list is made online, the visits are not
                patch.setenv(name, "")
            address = stack.enter_context(serving("classify"))
        yield address


def choose(visit: Visit, model: str) -> None:
    field = visit.page.locator("#vz-classify-model input")
    field.click()
    field.fill(model)
    field.press("Enter")


@pytest.fixture
def visit(classify_server: str, go: Callable[[str], Visit]) -> Visit:
    visit = go(classify_server)
    choose(visit, MODEL)
    return visit


@pytest.mark.parametrize("place", ["assets", "http://192.0.2.1/a.jpg"])
def test_only_what_was_uploaded_is_read(classify_server: str, assets: Path, place: str) -> None:
    path = str(assets / "queries" / "cat.jpg") if place == "assets" else place
    ids, found = boxes(classify_server), dict.fromkeys(("vz-classify-upload", "vz-classify-many-upload"), 0)
    for function in config(classify_server)["dependencies"]:
        for box in found:
            if function["inputs"][:1] == [ids[box]] and len(function["inputs"]) == 3:
                found[box] += 1
                file = {"path": path, "orig_name": "cat.jpg", "meta": {"_type": "gradio.FileData"}}
                text = ask(classify_server, function["id"], [[file] if "many" in box else file, MODEL, 3])
                assert '"success":false' in text.replace(" ", "")
                assert "data:image" not in text
    assert all(found.values())


@pytest.mark.browser
def test_an_uploaded_image_gets_its_class(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.give("vz-classify-upload", image(tmp_path, "green", (300, 200)))
    page.wait_for_selector("#vz-classify-upload img")
    visit.run("classify")
    assert page.locator(".vz-best strong").inner_text() == "green"
    assert page.locator(".vz-first .vz-label").inner_text() == "green"
    shares = [float(text.strip("< %")) for text in page.locator(".vz-share").all_inner_texts()]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert re.search(r"read in [\d.]+ m?s, classified in [\d.]+ m?s on", page.locator(".vz-best").inner_text())
    widths = page.eval_on_selector_all("#vz-classify-status img", "all => all.map(i => i.naturalWidth)")
    assert widths == [300, 64]
    assert "data:image/jpeg" not in page.content()
    download = visit.download("classify")
    assert download.suggested_filename == "classes.csv"
    assert "green.png,1,green" in Path(download.path()).read_text(encoding="utf-8")
    visit.check()


@pytest.mark.browser
def test_a_sample_is_classified_and_another_image_clears_the_result(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    assert page.locator("#vz-classify-samples img").count() == 13
    visit.sample("classify", 3)
    visit.run("classify")
    assert page.locator(".vz-best strong").count() == 1
    page.get_by_role("button", name="Remove Image").click()
    page.wait_for_selector("#vz-classify-status .vz-empty")
    assert page.locator("#vz-classify-results").is_hidden()
    visit.check()


@pytest.mark.browser
def test_unavailable_weights_are_a_one_line_error(visit: Visit) -> None:
    page = visit.page
    visit.sample("classify")
    choose(visit, "shvit_s2.official")
    visit.start("classify")
    assert "shvit_s2.official: not in the cache and offline mode is on" in visit.trouble("classify")
    assert "Choose another model" in visit.trouble("classify")
    page.wait_for_selector("#vz-classify-run:not(:disabled)")
    choose(visit, MODEL)
    visit.run("classify")
    page.wait_for_selector(".vz-best strong")
    visit.check()


@pytest.mark.browser
def test_several_images_become_a_table_to_save(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Several images").click()
    words = tmp_path / "words.png"
    words.write_text("these are words")
    visit.give("vz-classify-many-upload", image(tmp_path, "red", name="red ä.png"), words, image(tmp_path, "blue"))
    page.locator("#vz-classify-many-upload .file-preview").wait_for()
    visit.run("classify-many")
    assert "2 images, 1 cannot be used" in visit.status("classify-many")
    assert page.locator("#vz-classify-many-status .vz-grid .vz-label").all_inner_texts() == ["red", "blue"]
    assert "words.png: not an image" in page.locator(".vz-bad").inner_text()
    download = visit.download("classify-many")
    assert download.suggested_filename == "classes.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.path()).read_text(encoding="utf-8"))))
    assert [(row["source"], row["label"]) for row in rows if row["rank"] == "1"] == [
        ("red ä.png", "red"),
        ("blue.png", "blue"),
    ]
    visit.check()


@pytest.mark.browser
def test_a_video_is_classified_frame_by_frame(visit: Visit, clip: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Video").click()
    assert page.locator("#vz-classify-video-samples img").count() == 2
    visit.give("vz-classify-video-upload", clip)
    page.locator("#vz-classify-video-upload .file-preview").wait_for()
    visit.run("classify-video")
    status = page.locator("#vz-classify-video-status")
    assert status.locator(".vz-best strong").inner_text() == "red"
    assert status.locator(".vz-grid .vz-label").all_inner_texts() == ["red", "red", "red", "blue"]
    download = visit.download("classify-video")
    assert download.suggested_filename == "classes.csv"
    visit.check()
