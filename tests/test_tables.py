"""The tables of README.md and docs/ agree with the registry."""

from __future__ import annotations

import re

import pytest

from tools import tables
from visionzoo.registry import list_models, list_pipelines


def test_the_tables_are_up_to_date():
    pages = [path.name for path in tables.stale()]
    assert not pages, f"{', '.join(pages)}: tables are out of date; run: python -m tools.tables --write"


def test_a_manual_change_is_detected(tmp_path):
    (tmp_path / "docs").mkdir()
    for page in tables.PAGES:
        text = (tables.ROOT / page).read_text(encoding="utf-8")
        (tmp_path / page).write_text(text.replace("LongAnimation", "Longanimation"), encoding="utf-8")
    found = tables.stale(tmp_path)
    assert set(found) == {tmp_path / page for page in tables.PAGES}
    assert all("LongAnimation" in rows(text) and "Longanimation" not in rows(text) for text in found.values())


def rows(text: str) -> str:
    """The tables of a page."""
    return "".join(match[0] for match in tables.PLACE.finditer(text))


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_is_used_in_a_document(name):
    assert any(f"<!-- table: {name} -->" in (tables.ROOT / page).read_text(encoding="utf-8") for page in tables.PAGES)


def test_everything_registered_has_a_row():
    text = "".join((tables.ROOT / page).read_text(encoding="utf-8") for page in tables.PAGES)
    for name in list_models():
        assert re.search(rf"^\| `{name}` \|", text, re.MULTILINE), name
    for task in list_pipelines():
        assert re.search(rf"^\| `visionzoo {task}` \|", text, re.MULTILINE), task
