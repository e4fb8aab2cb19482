"""Screenshots of the demo pages in headless Chromium, with good and bad input: python -m tools.screenshots -o FOLDER [PAGE ...]

One file per page, width, colour scheme and case: `dehaze_1400_light_result.png`.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

WIDTHS, SCHEMES = (1400, 420), ("light", "dark")
ENDINGS = {"image": ".jpg", "video": ".mp4", "scene": ".vzgs"}
LONGEST_MS = 1_200_000
"""A training takes minutes."""


def bad_files(folder: Path, ending: str) -> dict[str, Path]:
    """Case -> a file that a page has to refuse, whose box takes files with this extension."""
    data = io.BytesIO()
    Image.effect_noise((400, 300), 60).convert("RGB").save(data, "JPEG")
    contents = {
        "words": (f"holiday photo{ending}", b"these are words, not pixels\n" * 20),
        "truncated": (f"truncated{ending}", data.getvalue()[:9000]),
        "large": (f"far_too_large_{'x' * 90}{ending}", b"\0" * 101_000_000),
        "kind": ("report.pdf", b"%PDF-1.4\n"),
        "empty": (f"empty{ending}", b""),
    }
    folder = folder / ending[1:]
    folder.mkdir(exist_ok=True)
    found = {}
    for case, (name, content) in contents.items():
        found[case] = folder / name
        found[case].write_bytes(content)
    return found


def cases(page: Any, folder: Path) -> Iterator[str]:
    """Bring an open page into one state after the other, then its other tabs; yields their names.

    Args:
        folder: for files that the page has to refuse.
    """
    yield "first"
    bad = bad_files(folder, ENDINGS[page.locator(".vz-accepts").first.get_attribute("data-medium")])
    panel = page.locator("[id^=vz-][id$=-run]").first.get_attribute("id").removesuffix("-run")
    run, status = page.locator(f"#{panel}-run"), page.locator(f"#{panel}-status")
    run.click()
    status.locator(".vz-problem").wait_for()
    yield "nothing"
    chooser = page.locator(".vz-upload input[type=file]").first
    for case, path in bad.items():
        chooser.set_input_files(os.fspath(path))
        page.locator(".vz-refused .vz-problem").first.wait_for()
        page.wait_for_timeout(300)
        yield case
    page.locator(f"#{panel}-samples .gallery-item").first.click()
    page.wait_for_timeout(1500)
    run.click()
    page.wait_for_timeout(700)
    yield "running"
    page.wait_for_function(f"document.querySelector('#{panel}-run:not(:disabled)')", timeout=LONGEST_MS)
    page.wait_for_timeout(1500)
    yield "result"
    page.locator(".vz-about summary").click()
    yield "about"
    for tab in page.get_by_role("tab").all()[1:]:
        tab.click()
        page.wait_for_timeout(800)
        samples = page.locator("[id^=vz-][id$=-samples]:visible .gallery-item")
        run = page.locator("[id^=vz-][id$=-run]:visible")
        if not samples.count() or not run.count():
            yield f"{tab.inner_text()}_first"
            continue
        samples.first.click()
        page.wait_for_timeout(1500)
        run.click()
        page.wait_for_timeout(700)
        page.wait_for_function(
            f"document.querySelector('#{run.get_attribute('id')}:not(:disabled)')", timeout=LONGEST_MS
        )
        page.wait_for_timeout(1500)
        yield f"{tab.inner_text()}_result"


def shoot(task: str, output: Path, widths: Sequence[int], schemes: Sequence[str], browser: Any, folder: Path) -> None:
    from visionzoo.demos.app import build, start

    blocks = build(task)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = start(blocks, port=port, host="127.0.0.1")
    for width in widths:
        for scheme in schemes:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("pageerror", lambda error: print(f"{task}: {error}", file=sys.stderr))
            page.goto(address)
            page.wait_for_selector(".vz-head")
            page.wait_for_timeout(800)
            for case in cases(page, folder):
                page.screenshot(
                    path=output / f"{task}_{width}_{scheme}_{case.lower().replace(' ', '_')}.png", full_page=True
                )
                if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                    print(f"{task}, {width} pixels, {case}: the page is wider than the window", file=sys.stderr)
            page.close()
    blocks.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=__doc__)
    parser.add_argument("pages", nargs="*", help="names of pages; all by default")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    from visionzoo.demos.app import pages

    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for task in options.pages or pages():
            shoot(task, options.output, options.widths, options.schemes, browser, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
