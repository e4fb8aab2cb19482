"""Contact sheets are complete pages: embedded images, escaped names, and missing files shown as such."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Row, Tile, html_sheet, image_sheet, save_sheet, thumbnail


def test_html_is_self_contained_and_escaped(photo, tmp_path: Path) -> None:
    path = photo("<b>&.jpg", size=(900, 300))
    page = html_sheet(
        [Row(Tile(path, "query"), [Tile(path, "1", path.name, "+2"), Tile(tmp_path / "gone.jpg", "2")])], heading="<x>"
    )
    assert "<b>&.jpg" not in page
    assert "&lt;b&gt;&amp;.jpg" in page
    assert "the file no longer exists" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in re.findall(r"base64,([^\"]+)", page)]
    assert sizes == [(360, 120), (360, 120)]


def test_names_link_to_the_files(photo, tmp_path: Path) -> None:
    """Links are relative to the page, so that both can be moved together."""
    path = photo("photos/a 100% #1 é.jpg")
    (tmp_path / "out").mkdir()
    save_sheet(tmp_path / "out" / "a.html", [Row(Tile(path, "query", path.name), [])], heading="x")
    (found,) = re.findall(r'<a href="([^"]+)">a 100% #1 é\.jpg</a>', (tmp_path / "out" / "a.html").read_text("utf-8"))
    assert found == "../photos/a%20100%25%20%231%20%C3%A9.jpg"
    assert (tmp_path / "out" / unquote(found)).samefile(path)
    array = Tile(np.zeros((4, 4, 3), np.uint8), "query", "pasted")
    save_sheet(tmp_path / "out" / "b.html", [Row(array, [])], heading="x")
    save_sheet(tmp_path / "out" / "c.html", [Row(Tile("gone.jpg", "query", "gone.jpg"), [])], heading="x")
    assert "<a " not in (tmp_path / "out" / "c.html").read_text("utf-8")
    assert "<a " not in (tmp_path / "out" / "b.html").read_text("utf-8")


def test_a_box_is_drawn_at_its_position(photo) -> None:
    path = photo("a.jpg", size=(1000, 500))
    image = thumbnail(Tile(path, "query", box=(500, 100, 900, 400)), side=200)
    assert image is not None
    plain = thumbnail(Tile(path, "query"), side=200)
    assert plain is not None
    changed = np.argwhere(np.abs(np.asarray(image, int) - np.asarray(plain, int)).max(-1) > 60)
    assert changed[:, 1].min() >= 98
    assert changed[:, 1].max() <= 182
    assert changed[:, 0].min() >= 18
    assert changed[:, 0].max() <= 82


def test_image_sheet_holds_all_rows(photo) -> None:
    tiles = [
        Tile(photo(f"{i}.jpg", seed=i), str(i), f"a rather long file name number {i} that must be cut.jpg")
        for i in range(7)
    ]
    one = image_sheet([Row(tiles[0], tiles[:5])])
    two = image_sheet([Row(tiles[0], tiles), Row(tiles[1], [])])
    assert one.width == two.width
    assert two.height > 2.5 * one.height


ODD = "two\nlines \x1b[31m \u202egpj.exe \udcff"


@pytest.mark.parametrize("name", ["a.html", "a.png"])
def test_control_characters_in_names_are_shown_as_escapes(photo, tmp_path: Path, name: str) -> None:
    path = photo("q.jpg")
    tile = Tile(path, ODD, ODD, ODD)
    save_sheet(tmp_path / name, [Row(tile, [tile])], heading=ODD, subtitle=ODD)
    if name == "a.html":
        page = (tmp_path / name).read_text()
        assert page.count(r"two\nlines \x1b[31m \u202egpj.exe ?") == 11
        assert "\x1b" not in page
    else:
        assert Image.open(tmp_path / name).size == image_sheet([Row(tile, [tile])]).size


def test_too_many_rows_for_an_image(tmp_path: Path) -> None:
    rows = [Row(Tile(tmp_path / "gone.jpg", "query"), [])] * 400
    with pytest.raises(InputError, match=r"a\.jpg: .*write an \.html page instead"):
        save_sheet(tmp_path / "a.jpg", rows, heading="x")
    assert not (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize("name", ["a.html", "a.jpg", "a.png", "a.webp"])
def test_save(photo, tmp_path: Path, name: str) -> None:
    path = photo("q.jpg")
    save_sheet(tmp_path / name, [Row(Tile(path, "query"), [])], heading="x")
    assert (tmp_path / name).stat().st_size > 500
    with pytest.raises(ValueError, match="extension of a sheet must be"):
        save_sheet(tmp_path / "a.pdf", [], heading="x")
