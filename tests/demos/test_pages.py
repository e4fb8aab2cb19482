"""The promises of all demo pages, with and without a browser; registered pages are tested automatically."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from .conftest import Visit, serving

pytest.importorskip("gradio")

from visionzoo import list_models, model_card
from visionzoo.demos.app import OWN, pages

LIVE = {"vz-reenact-live"}
"""Components for webcam frames, for which speed matters more."""
COMMANDS = re.compile(
    r"(?<![\w-])--[a-z]|\bvisionzoo [a-z]+ -|\bpip install|\b[A-Z]{2,}_[A-Z_]{2,}\b|/tmp/|/home/|/root/|Traceback"
)
"""Options, commands, environment variables and places of the server."""


@pytest.fixture(scope="module")
def servers(home: Path, index: Path) -> Iterator[Callable[[str], str]]:
    """The address of a demo of any page; each is started once."""
    del home
    running: dict[str, str] = {}
    with ExitStack() as stack:

        def address(task: str) -> str:
            if task not in running:
                running[task] = stack.enter_context(serving(task, index=index))
            return running[task]

        yield address


@pytest.fixture(params=sorted(pages()))
def visit(request: pytest.FixtureRequest, servers: Callable[[str], str], go: Callable[[str], Visit]) -> Visit:
    return go(servers(request.param))


def test_results_are_shown_without_loss(home: Path, index: Path) -> None:
    """gradio sends images as lossy WebP unless it is told otherwise."""
    from visionzoo.demos.app import build

    del home
    seen = 0
    for task in pages():
        with build(task, index=index) as blocks:
            shown = [
                block
                for block in blocks.blocks.values()
                if getattr(block, "format", None) and getattr(block, "interactive", None) is False
                and type(block).__name__ in ("Image", "ImageSlider", "Gallery")
            ]  # fmt: skip
        seen += len(shown)
        for block in shown:
            assert block.format == "png" or block.elem_id in LIVE, f"{task}: {block.elem_id} shows {block.format}"
    assert seen > 5


def test_all_pages_together_are_tabs(home: Path, index: Path) -> None:
    """Their elements have different ids."""
    from visionzoo.demos.app import build

    del home
    blocks = build(index=index)
    ids = [block.elem_id for block in blocks.blocks.values() if getattr(block, "elem_id", None)]
    assert len(ids) == len(set(ids))
    titles = {import_module(module).TITLE for module in pages().values()}
    assert titles <= {getattr(block, "label", None) for block in blocks.blocks.values()}


@pytest.mark.parametrize("task", sorted(pages()))
def test_nothing_outside_the_demo_s_own_folder_is_served(
    task: str, servers: Callable[[str], str], assets: Path
) -> None:
    server = servers(task)
    for path in (assets / "queries" / "cat.jpg", Path(__file__), Path("/etc/hostname")):
        with pytest.raises(urllib.error.HTTPError, match="403|404"):
            urllib.request.urlopen(f"{server}/gradio_api/file={path}", timeout=30)


def test_uploads_lie_in_a_folder_that_goes_with_the_program(home: Path) -> None:
    from visionzoo.demos.app import build, uploads_folder

    blocks: Any = build("classify")
    folder = uploads_folder(home / "demo")
    assert folder.parent == home / "demo" / "uploads"
    assert {Path(block.GRADIO_CACHE) for block in blocks.blocks.values() if hasattr(block, "GRADIO_CACHE")} == {folder}
    code = (
        "from pathlib import Path; from visionzoo.demos.app import uploads_folder; print(uploads_folder(Path(r'{}')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(home)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert Path(done.stdout.strip()).parent == home / "uploads"
    assert not Path(done.stdout.strip()).exists()


@pytest.mark.browser
def test_a_box_says_what_it_takes_and_why_it_refuses(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    words = tmp_path / "some words.txt"
    words.write_text("these are words")
    for line in page.locator(".vz-accepts").all():
        box = line.get_attribute("data-box")
        assert re.search(r"up to \d+ MB", line.text_content())
        if not line.is_visible():
            continue
        medium = line.get_attribute("data-medium")
        usual = {"image": ".jpg", "video": ".mp4", "scene": ".vzgs"}[medium]
        empty = tmp_path / f"empty{usual}"
        empty.touch()
        large = tmp_path / f"large{usual}"
        with large.open("wb") as file:
            file.truncate(int(line.get_attribute("data-max-mb")) * 1_000_000 + 1)
        false = tmp_path / f"false{usual}"
        false.write_text("these are words")
        for path, reason in (
            (words, f"this box takes {medium}s, not files that end in"),
            (empty, "the file is empty (0 bytes)"),
            (large, "is over the limit of"),
        ):
            visit.give(box, path)
            assert path.name in visit.refused(box)
            assert reason in visit.refused(box)
        if not page.locator(f"#{box} input[multiple]").count():  # several files are checked when they are processed
            for _ in range(2):  # the second time too
                visit.give(box, false)
                page.locator(f".vz-accepts[data-box={box}] .vz-problem", has_text="false").wait_for()
                assert re.search(
                    r"false\.\w+: .*(not an image|cannot be read|is not a \.vzgs scene)", visit.refused(box)
                )
        assert not COMMANDS.search(visit.refused(box))
        page.wait_for_timeout(1000)
        assert page.locator(f"#{box} img").count() == 0  # the box is free again
        assert page.locator(f".vz-accepts[data-box={box}] .vz-problem").is_visible()  # and the reason stays
    visit.check()


@pytest.mark.browser
def test_run_without_input_says_what_to_do(visit: Visit) -> None:
    panel = visit.panel()
    visit.start(panel)
    assert re.search(r"upload an? \w+", visit.trouble(panel), re.IGNORECASE)
    visit.page.wait_for_selector(f"#vz-{panel}-run:not(:disabled)")
    assert visit.page.locator(f"#vz-{panel}-cancel").is_disabled()
    assert not visit.page.locator(f"#vz-{panel}-results").is_visible()
    visit.check()


@pytest.mark.browser
def test_pages_use_no_command_line_words(visit: Visit) -> None:
    page = visit.page
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    shown = page.locator("main").inner_text()
    for tab in page.get_by_role("tab").all():
        tab.click()
        shown += page.locator("main").inner_text()
    assert not COMMANDS.search(shown)
    has_weights = any(model_card(name).weights for name in list_models(task=visit.panel())) or visit.panel() in OWN
    assert ("Licence of the weights" if has_weights else "None are published or needed") in shown
    assert "deleted after about an hour" in shown


@pytest.mark.browser
def test_everything_has_a_name_and_the_focus_is_visible(visit: Visit) -> None:
    page = visit.page
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('main :is(img, input, button, select, textarea)')].filter(e =>
             e.getClientRects().length && !(e.alt || e.getAttribute('aria-label') || e.title || e.textContent.trim() ||
             e.labels?.length || e.placeholder || e.closest('label')?.textContent.trim())).map(e => e.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("Tab")
    seen = 0
    for _ in range(12):
        outline = page.evaluate(
            "() => { const e = document.activeElement; return e.matches('body') ? '' : getComputedStyle(e).outlineStyle }"
        )
        seen += outline == "solid"
        page.keyboard.press("Tab")
    assert seen >= 6
