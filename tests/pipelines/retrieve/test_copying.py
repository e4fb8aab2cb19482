"""`--min-score` and `--copy-to`: which photos are included, and copies that replace nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from visionzoo.errors import FileFailed, InputError
from visionzoo.pipelines.retrieve import RetrievePipeline


@pytest.fixture(scope="module")
def small() -> RetrievePipeline:
    network: Any = tiny.superglobal()
    return RetrievePipeline(network, device="cpu", dtype="float32", max_side=64)


@pytest.fixture
def made(small: RetrievePipeline, photo: Callable, tmp_path: Path) -> Path:
    """An index of photos with the same names in two folders, and one with a very long name."""
    for folder in "ab":
        for seed in range(3):
            photo(f"{folder}/p{seed}.png", (90, 80), seed + (10 if folder == "b" else 0))
    photo(f"a/{'ü' * 120}.png", (90, 80), 30)
    small.index([tmp_path / "a", tmp_path / "b"], tmp_path / "i", progress=False)
    return tmp_path / "i"


def test_min_score(small: RetrievePipeline, made: Path, tmp_path: Path) -> None:
    query = tmp_path / "a" / "p0.png"
    every = small(query, index=made, top=99).matches
    limit = every[2].score
    kept = small(query, index=made, top=99, min_score=limit).matches
    assert kept == every[:3]
    assert [match.rank for match in kept] == [1, 2, 3]
    assert small(query, index=made, min_score=1.0, box=(0, 0, 40, 40)).matches == ()
    for bad in (1.5, float("nan")):
        with pytest.raises(InputError, match="must be between -1 and 1"):
            small.run(query, None, False, index=made, min_score=bad)


def test_copies_replace_nothing(small: RetrievePipeline, made: Path, tmp_path: Path) -> None:
    query, target = tmp_path / "a" / "p0.png", tmp_path / "found"
    target.mkdir()
    (target / "01_p0.png").write_text("mine")
    (result,) = small.run(query, tmp_path / "r.json", False, index=made, top=99, copy_to=target)
    assert (target / "01_p0.png").read_text() == "mine"
    assert result.matches[0].copy == target / "01_p0_2.png"
    assert all(match.copy and match.copy.read_bytes() == match.path.read_bytes() for match in result.matches)
    assert len({match.copy for match in result.matches}) == 7
    saved = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["results"][0]["matches"]
    assert saved[0]["copy"] == str(target / "01_p0_2.png")
    before = sorted(target.iterdir())
    small.run(query, None, False, index=made, top=99, copy_to=target)  # the same photos: nothing is added
    assert sorted(target.iterdir()) == before


def test_several_queries_have_their_own_folders(small: RetrievePipeline, made: Path, tmp_path: Path) -> None:
    queries = [tmp_path / "a" / "p0.png", tmp_path / "b" / "p0.png"]
    small.run(queries, None, False, index=made, top=2, copy_to=tmp_path / "found")
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["1_p0", "2_p0"]
    assert all(len(list(folder.iterdir())) == 2 for folder in (tmp_path / "found").iterdir())


def test_missing_photos_and_bad_folders(small: RetrievePipeline, made: Path, tmp_path: Path) -> None:
    query = tmp_path / "b" / "p0.png"
    (tmp_path / "a" / "p1.png").unlink()
    with pytest.warns(UserWarning, match="1 of the photos found is missing"):
        (result,) = small.run(query, None, False, index=made, top=99, copy_to=tmp_path / "found")
    assert [match.path.name for match in result.matches if match.copy is None] == ["p1.png"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file; --copy-to must be a folder"):
        small.run(query, None, False, index=made, copy_to=tmp_path / "file")
    with pytest.raises(InputError, match="is the index or a folder in it"):
        small.run(query, None, False, index=made, copy_to=made / "store")


def test_a_photo_that_cannot_be_copied_is_named(
    small: RetrievePipeline, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.pipelines.retrieve import copying

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(copying, "_write_new", refuse)
    with pytest.warns(FileFailed, match=r"p0\.png: cannot be copied .Permission denied"):
        (result,) = small.run(tmp_path / "a" / "p0.png", None, False, index=made, top=1, copy_to=tmp_path / "found")
    assert result.matches[0].copy is None
