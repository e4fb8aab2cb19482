"""The shell of the pages, tested with a tiny page: progress, Cancel, errors, two visitors at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from tests.browsers import free_port
from visionzoo.errors import InputError

from .conftest import Visit, upload

pytest.importorskip("gradio")

from visionzoo.demos.app import empty, start
from visionzoo.demos.page import Cancelled, Panel, Sample, Work, about, head, progress_line, saved, summary
from visionzoo.demos.uploads import IMAGE, Box, checked_path
from visionzoo.demos.work import sweep


def test_progress_is_shown_and_cancel_ends_the_work(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.report("tiles", 3, 10)
    assert "Tiles: 3 of 10" in work.shown()
    assert 'value="0.300"' in work.shown()
    work.report("drawing", 0, 0)
    assert "value" not in work.shown()
    work.stop.set()
    with pytest.raises(Cancelled):
        work.report("tiles", 4, 10)


def test_files_of_failed_work_are_deleted(tmp_path: Path) -> None:
    work = Work(tmp_path)
    first = work.folder()
    (first / "x.png").touch()
    assert work.folder() == first != Work(tmp_path).folder()
    work.drop()
    assert not first.exists()


def test_old_results_are_deleted(tmp_path: Path) -> None:
    work, other = Work(tmp_path), Work(tmp_path)
    os.utime(work.folder(), (0, 0))
    other.folder()
    sweep(tmp_path)
    assert not work.folder().exists()
    assert other.folder().exists()


def test_an_image_that_browsers_cannot_show_becomes_one_that_they_can(tmp_path: Path) -> None:
    with gr.Blocks(), Panel("x", "") as panel, panel.inputs():
        box = panel.upload(IMAGE, "Image")
    Image.new("RGB", (9, 8), "red").save(tmp_path / "scan.tif")
    shown, _ = box.checked(upload(tmp_path / "scan.tif"))
    with Image.open(shown) as image:
        assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (9, 8), (255, 0, 0))
    assert Path(shown).name == "scan.png"


def test_the_line_of_a_box_says_why(tmp_path: Path) -> None:
    with gr.Blocks(), Panel("x", "") as panel, panel.inputs():
        box: Box = panel.upload(IMAGE, "Image", words="Not too small.")
    (tmp_path / "words.jpg").write_text("these are words")
    value, line = box.checked(upload(tmp_path / "words.jpg"))
    assert value is None
    assert "words.jpg: not an image" in line
    assert str(tmp_path) not in line
    assert "up to 20 MB, 50 megapixels. Not too small." in line
    assert box.checked(upload(tmp_path / "words.jpg"))[1] != line  # else a browser would not show it again


class Slow:
    """Work in steps, each allowed by the test."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.stopped = threading.Event()

    def __call__(self, work: Work, image: Any, words: str) -> tuple[Any, ...]:
        if image is None:
            raise InputError("upload an image first")
        path = checked_path(image, IMAGE)
        if words == "fault":
            raise RuntimeError(f"a fault at {path}")
        try:
            for step in range(4):
                work.report("steps", step, 4)
                while not self.go.acquire(timeout=0.1):
                    work.report("steps", step, 4)
        except Cancelled:
            self.stopped.set()
            raise
        target = work.folder() / "result.png"
        with Image.open(path) as opened:
            opened.save(target)
        return summary(f"done with {words}"), str(target), saved(target)


@pytest.fixture(scope="module")
def slow() -> Slow:
    return Slow()


@pytest.fixture(scope="module")
def shell(home: Path, slow: Slow, assets: Path) -> Iterator[str]:
    with empty(home / "demo") as blocks:
        head("Slow", "A page.")
        with Panel("slow", "Press <b>Run</b>.") as panel:
            with panel.inputs():
                box = panel.upload(IMAGE, "Image")
                photo = assets / "queries" / "cat.jpg"
                panel.samples([Sample(photo, "a cat", (photo,))], [box])
                words = gr.Textbox("x", label="Words", elem_id="vz-slow-words")
            with panel.results():
                shown = gr.Image(label="Result", interactive=False, format="png", elem_id="vz-slow-shown")
                download = panel.download()
        about(["dehazexl_nano"], {})
        panel.run(slow, [box, words], [shown, download])
    yield start(blocks, port=free_port(), host="127.0.0.1").rstrip("/")
    blocks.close()


@pytest.mark.browser
def test_a_visitor_sees_progress_and_can_cancel(shell: str, slow: Slow, go: Callable[[str], Visit]) -> None:
    visit = go(shell)
    visit.sample("slow")
    assert visit.page.locator("#vz-slow-samples .gallery-item").get_attribute("aria-label") == "a cat"
    visit.start("slow")
    visit.page.locator("#vz-slow-status").get_by_text("Steps: 0 of 4").wait_for()
    slow.go.release()
    visit.page.locator("#vz-slow-status").get_by_text("Steps: 1 of 4").wait_for()
    assert visit.page.locator("#vz-slow-run").is_disabled()
    visit.page.locator("#vz-slow-cancel").click()
    assert "Cancelled" in visit.trouble("slow")
    assert slow.stopped.wait(10)
    slow.go.release(4)
    visit.run("slow")
    assert "done with x" in visit.status("slow")
    assert visit.download("slow").suggested_filename == "result.png"
    visit.check()


@pytest.mark.browser
def test_a_visitor_who_leaves_stops_the_work(shell: str, slow: Slow, go: Callable[[str], Visit]) -> None:
    slow.stopped.clear()
    visit = go(shell)
    visit.sample("slow")
    visit.start("slow")
    visit.page.locator("#vz-slow-status").get_by_text("Steps: 0 of 4").wait_for()
    visit.page.close()
    assert slow.stopped.wait(30)


@pytest.mark.browser
def test_an_internal_error_is_shown_without_its_message(
    shell: str, go: Callable[[str], Visit], capfd: pytest.CaptureFixture[str]
) -> None:
    visit = go(shell)
    visit.sample("slow")
    visit.page.locator("#vz-slow-words :is(input, textarea)").fill("fault")
    visit.start("slow")
    assert "did not work with cat.jpg, because of a fault in the program" in visit.trouble("slow")
    assert "RuntimeError" not in visit.page.content()
    assert "RuntimeError: a fault at" in capfd.readouterr().err  # the server's log has it
    visit.check()


@pytest.mark.browser
def test_two_visitors_see_their_own_results(shell: str, slow: Slow, go: Callable[[str], Visit]) -> None:
    one, two = go(shell), go(shell)
    for visit, words in ((one, "apples"), (two, "pears")):
        visit.sample("slow")
        visit.page.locator("#vz-slow-words :is(input, textarea)").fill(words)
        visit.start("slow")
    one.page.locator("#vz-slow-status").get_by_text("Steps").wait_for()
    assert "Waiting for its turn" in two.status("slow")
    slow.go.release(8)
    for visit, words in ((one, "apples"), (two, "pears")):
        visit.page.locator("#vz-slow-status").get_by_text(f"done with {words}").wait_for()
    places = {visit.page.locator("#vz-slow-shown img").get_attribute("src") for visit in (one, two)}
    assert len(places) == 2


def test_a_bar_without_a_known_length_moves_by_itself() -> None:
    assert "value" not in progress_line("loading …")
