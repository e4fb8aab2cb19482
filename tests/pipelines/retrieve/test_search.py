"""Searching photos: correct results for queries of every kind, and output files."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.pipelines.retrieve import RetrievePipeline

from ...io.odd_files import dds
from ..assets import ASSETS
from .search_results import names


@pytest.mark.parametrize("rerank", [False, True], ids=["first stage", "reranked"])
@pytest.mark.parametrize("subject", ["astronaut", "cat", "coffee", "flower", "temple"])
def test_finds_the_same_thing(pipe: RetrievePipeline, index: Path, subject: str, rerank: bool) -> None:
    result = pipe(ASSETS / "queries" / f"{subject}.jpg", index=index, top=5, rerank=rerank)
    assert sum(name.startswith(subject) for name in names(result)) >= 4
    assert [match.rank for match in result.matches] == [1, 2, 3, 4, 5]
    assert [m.score for m in result.matches] == sorted((m.score for m in result.matches), reverse=True)
    assert sorted(match.first_rank for match in result.first_stage) == [1, 2, 3, 4, 5]


def test_a_photo_finds_itself_first(pipe: RetrievePipeline, index: Path, samples: Path) -> None:
    result = pipe(samples / "cat_3.jpg", index=index, top=1)
    assert names(result) == ["cat_3.jpg"]
    assert result.matches[0].score == pytest.approx(1, abs=1e-4)


def test_a_box_restricts_the_search(pipe: RetrievePipeline, index: Path, samples: Path, tmp_path: Path) -> None:
    """Two photos side by side: the box determines which one is searched."""
    pair = Image.new("RGB", (800, 400))
    pair.paste(Image.open(samples / "cat_1.jpg").resize((400, 400)), (0, 0))
    pair.paste(Image.open(samples / "flower_1.jpg").resize((400, 400)), (400, 0))
    pair.save(tmp_path / "pair.png")
    assert names(pipe(tmp_path / "pair.png", index=index, box=(0, 0, 400, 400), top=1))[0].startswith("cat")
    assert names(pipe(tmp_path / "pair.png", index=index, box=(400, 0, 800, 400), top=1))[0].startswith("flower")
    with pytest.raises(InputError, match="no area inside the image of 800 x 400"):
        pipe(tmp_path / "pair.png", index=index, box=(900, 0, 950, 40))


def test_queries_of_every_kind_agree(pipe: RetrievePipeline, index: Path) -> None:
    path = ASSETS / "queries" / "temple.jpg"
    kinds = [path, str(path), Image.open(path), np.asarray(Image.open(path))]
    found = [names(result) for result in pipe.search(kinds, index=index, top=4)]
    assert all(one == found[0] for one in found)


def test_a_query_or_an_indexed_photo_is_never_replaced(
    pipe: RetrievePipeline, index: Path, samples: Path, tmp_path: Path
) -> None:
    query = Path(shutil.copy(ASSETS / "queries" / "temple.jpg", tmp_path / "q.jpg"))
    for target in (query, samples / "cat_1.jpg"):
        before = target.read_bytes()
        with pytest.raises(InputError, match="is an input, which is never overwritten"):
            pipe.run(query, target, False, index=index, overwrite=True)
        assert target.read_bytes() == before


def test_asking_for_more_results_than_entries(pipe: RetrievePipeline, index: Path) -> None:
    assert len(pipe(ASSETS / "queries" / "cat.jpg", index=index, top=1000).matches) == 25
    assert len(pipe(ASSETS / "queries" / "cat.jpg", index=index, top=1000, rerank=True, candidates=7).matches) == 25
    with pytest.raises(InputError, match="at least 1"):
        pipe(ASSETS / "queries" / "cat.jpg", index=index, top=0)


def test_stores_give_the_same_ranking(pipe: RetrievePipeline, index: Path, samples: Path, tmp_path: Path) -> None:
    wanted = [
        names(r) for r in pipe.search(sorted((ASSETS / "queries").glob("*.jpg")), index=index, top=25, rerank=True)
    ]
    for backend in ("faiss", "qdrant"):
        pytest.importorskip({"faiss": "faiss", "qdrant": "qdrant_client"}[backend])
        pipe.index(samples, tmp_path / backend, store={"backend": backend}, progress=False)
        got = pipe.search(sorted((ASSETS / "queries").glob("*.jpg")), index=tmp_path / backend, top=25, rerank=True)
        assert [names(r) for r in got] == wanted, backend


@pytest.mark.parametrize("name", ["out.html", "out.jpg", "out.json"])
def test_run_writes_a_sheet_and_a_sidecar(pipe: RetrievePipeline, index: Path, tmp_path: Path, name: str) -> None:
    results = pipe.run(ASSETS / "queries" / "cat.jpg", tmp_path / name, index=index, progress=False, top=3, rerank=True)
    saved = json.loads((tmp_path / ("out.json" if name == "out.json" else f"{name}.json")).read_text())
    assert saved["results"] == json.loads(json.dumps([r.to_dict() for r in results]))
    assert saved["options"]["model"] == "superglobal_lite0"
    assert saved["environment"]["versions"]["torch"] == metadata.version("torch")
    assert (tmp_path / name).exists()
    with pytest.raises(InputError, match="--overwrite"):
        pipe.run(ASSETS / "queries" / "cat.jpg", tmp_path / name, index=index, progress=False)
    pipe.run(ASSETS / "queries" / "cat.jpg", tmp_path / name, index=index, progress=False, overwrite=True)


def test_folder_of_queries_with_a_broken_one(pipe: RetrievePipeline, index: Path, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "queries", tmp_path / "q")
    (tmp_path / "q" / "broken.jpg").write_bytes(dds(93))
    with pytest.warns(UserWarning, match=r"broken\.jpg.*skipped"):
        results = pipe.run(tmp_path / "q", tmp_path / "out.html", index=index, progress=False, top=2)
    assert len(results) == len(list((ASSETS / "queries").glob("*.jpg")))
    for file in (tmp_path / "q").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the \d+ queries"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.run(tmp_path / "q", tmp_path / "none.html", index=index, progress=False)
    assert not (tmp_path / "none.html").exists()
