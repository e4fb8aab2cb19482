"""Sheets of images with bars: readable, safe, and never too large to open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.bar_sheet import Bar, Card, check_size, html_bar_sheet, image_bar_sheet, save_bar_sheet
from visionzoo.io.contact_sheet import ACCENT

BARS = [Bar("cat", 0.75), Bar("dog & <b>cow</b>", 0.25), Bar("none", 0.0)]


def cards(count: int) -> list[Card]:
    return [Card(np.full((30, 40, 3), 90, np.uint8), f"{number}.jpg", BARS) for number in range(count)]


def test_bars_are_as_long_as_their_values() -> None:
    sheet = np.asarray(image_bar_sheet(cards(1)))
    accent = tuple(int(ACCENT[i : i + 2], 16) for i in (1, 3, 5))
    rows, columns = np.nonzero((sheet == accent).all(-1))
    assert len(set(rows)) == 5
    assert np.ptp(columns) + 1 == pytest.approx(0.75 * 290, abs=1)


@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_every_card_is_there(count: int) -> None:
    page = html_bar_sheet(cards(count), heading="<h>", subtitle="s")
    assert page.count("data:image/jpeg;base64,") == count
    assert "<b>" not in page
    assert "dog &amp; &lt;b&gt;cow" in page
    assert page.count("width:75.00%") == count
    sheet = image_bar_sheet(cards(count))
    assert (np.asarray(sheet) == 90).all(-1).sum() >= count * 30 * 40


def test_odd_cards(tmp_path: Path) -> None:
    odd = [Card(tmp_path / "gone.jpg", "gone " * 40, BARS), Card(np.zeros((5000, 1, 3), np.uint8), "strip", [])]
    assert "no longer exists or cannot be read" in html_bar_sheet(odd, heading="h")
    save_bar_sheet(tmp_path / "a.webp", odd, heading="h")
    assert Image.open(tmp_path / "a.webp").size[0] > 500
    image_bar_sheet([])
    with pytest.raises(ValueError, match="extension of a sheet must be"):
        save_bar_sheet(tmp_path / "a.pdf", odd, heading="h")


def test_control_characters_in_names_are_shown_as_escapes(tmp_path: Path) -> None:
    odd = [Card(np.zeros((9, 9, 3), np.uint8), "two\nlines.jpg", [Bar("a\tb", 0.5)])]
    for name in ("a.html", "a.png"):
        save_bar_sheet(tmp_path / name, odd, heading="h")
    page = (tmp_path / "a.html").read_text()
    assert r"<h2>two\nlines.jpg</h2>" in page
    assert r">a\tb</dt>" in page


def test_too_many_for_an_image() -> None:
    check_size("a.html", 10**6, 5)
    check_size("a.jpg", 900, 5)
    for name, count in (("a.webp", 300), ("a.jpg", 1000), ("a.png", 1000)):
        with pytest.raises(InputError, match="write an .html page instead"):
            check_size(name, count, 5)


def test_parts_follow_their_card(tmp_path: Path) -> None:
    """On a page they have their own grid; in an image, they are cards that are named after the file."""
    small = np.full((30, 40, 3), 90, np.uint8)
    frames = [Card(small, f"0:0{n}", BARS) for n in range(3)]
    video = Card(small, "clip.mp4, mean of 3 frames", BARS, file=tmp_path / "clip.mp4", parts=frames)
    (tmp_path / "clip.mp4").touch()
    page = html_bar_sheet([video, *cards(1)], heading="h", folder=tmp_path)
    assert page.count("data:image/jpeg;base64,") == 5
    assert page.count('<div class="parts">') == 1
    assert '<a href="clip.mp4">clip.mp4, mean of 3 frames</a>' in page
    together = image_bar_sheet([video, *cards(1)])
    assert together.size == image_bar_sheet(cards(5)).size
    assert (np.asarray(together) == 90).all(-1).sum() >= 5 * 30 * 40
