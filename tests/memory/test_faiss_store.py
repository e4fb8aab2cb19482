"""The faiss index over the rows: the same ranking, and rebuilt when it is out of date."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from visionzoo.memory import FaissStore, MatrixStore, open_store


@pytest.fixture
def clusters() -> np.ndarray:
    """(4000, 16) unit vectors around 40 directions."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 16))[rng.integers(0, 40, 4000)] + 0.3 * rng.standard_normal((4000, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["flat", "fp16", "ivf"])
def test_faiss_kinds(tmp_path: Path, clusters: np.ndarray, kind: str) -> None:
    pytest.importorskip("faiss")
    with MatrixStore(16) as matrix, FaissStore(16, tmp_path / "s", kind=kind, nprobe=16) as store:
        matrix.add(range(4000), clusters)
        store.add(range(4000), clusters)
        wanted = matrix.search(clusters[:30], 50)
        np.testing.assert_array_equal(store.fetch([7, 3]), clusters[[7, 3]])
    with open_store(tmp_path / "s", readonly=True) as store:
        assert isinstance(store, FaissStore)
        assert store._index is not None, "the saved index was not taken"
        assert (store.kind, store.nprobe) == (kind, 16)
        assert (
            type(store._index).__name__
            == {
                "flat": "IndexFlatIP",
                "fp16": "IndexScalarQuantizer",
                "ivf": "IndexIVFScalarQuantizer",
            }[kind]
        )
        found = store.search(clusters[:30], 50)
        recall = np.mean(
            [len(set(a) & set(b)) / 50 for a, b in zip(found.ids.tolist(), wanted.ids.tolist(), strict=True)]
        )
        assert recall >= {"flat": 1, "fp16": 0.999, "ivf": 0.8}[kind]
        for line, scores, query in zip(found.ids, found.scores, clusters[:30], strict=True):
            # Scores are computed from the original vectors for any kind of index.
            np.testing.assert_allclose(scores, clusters[line] @ query, rtol=0, atol=1e-6)
            assert sorted(zip((-scores).tolist(), line.tolist(), strict=True)) == list(
                zip((-scores).tolist(), line.tolist(), strict=True)
            )
        if kind == "flat":
            np.testing.assert_array_equal(found.ids, wanted.ids)
            np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_faiss_finds_changed_rows_outside_its_index(tmp_path: Path, clusters: np.ndarray, kind: str) -> None:
    pytest.importorskip("faiss")
    held = dict(enumerate(clusters[:3000]))
    with FaissStore(16, tmp_path / "s", kind=kind, nprobe=1000) as store, MatrixStore(16) as matrix:
        for one in (store, matrix):
            one.add(range(3000), clusters[:3000])
        store.build()
        index = store._index
        for one in (store, matrix):
            one.remove(range(0, 3000, 3))
            one.flush()
            one.add(range(5000, 5900), clusters[3000:3900])
            one.add(range(1, 3000, 3), clusters[2999::-3][:1000])
            one.add([9000], clusters[3999:])
        assert len(held) == 3000
        wanted, found = matrix.search(clusters[:40], 60), store.search(clusters[:40], 60)
        assert store._index is index
        same = np.mean(
            [len(set(a) & set(b)) / 60 for a, b in zip(found.ids.tolist(), wanted.ids.tolist(), strict=True)]
        )
        assert same >= (1 if kind == "flat" else 0.999)  # ivf looks everywhere here, in half precision
        if kind == "flat":
            np.testing.assert_array_equal(found.ids, wanted.ids)
        everything = store.search(clusters[:2], 10_000)
        np.testing.assert_array_equal(everything.ids, matrix.search(clusters[:2], 10_000).ids)


def test_an_outdated_faiss_index_is_rebuilt(
    tmp_path: Path, clusters: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss")
    with FaissStore(16, tmp_path / "s") as store:
        store.add(range(500), clusters[:500])
    with MatrixStore(path=tmp_path / "s") as store:  # changed behind its back
        store.add(range(600), clusters[1000:1600])
    with MatrixStore(path=tmp_path / "s", readonly=True) as store:
        wanted = store.search(clusters[:5], 20)
    with open_store(tmp_path / "s") as store:
        assert isinstance(store, FaissStore)
        assert "is out of date, as the vectors have changed" in caplog.text
        np.testing.assert_array_equal(store.search(clusters[:5], 20).ids, wanted.ids)
    os.truncate(tmp_path / "s" / "faiss.index", 1000)
    with FaissStore(path=tmp_path / "s") as store:
        assert store._index is None
        np.testing.assert_array_equal(store.search(clusters[:5], 20).ids, wanted.ids)
    caplog.clear()
    with FaissStore(path=tmp_path / "s", readonly=True) as store:
        assert store._index is not None
        assert caplog.text == ""


def test_either_opens_the_rows_of_the_other(tmp_path: Path, clusters: np.ndarray) -> None:
    pytest.importorskip("faiss")
    with MatrixStore(16, tmp_path / "s") as store:
        store.add(range(3000), clusters[:3000])
    with open_store(tmp_path / "s", backend="faiss", kind="ivf", nprobe=3) as store:
        assert len(store) == 3000
    with open_store(tmp_path / "s", backend="matrix") as store:
        assert type(store) is MatrixStore
        store.add([3000], clusters[3000:3001])
    with open_store(tmp_path / "s", readonly=True) as store:  # what the folder is was kept
        assert isinstance(store, FaissStore)
        assert (store.kind, store.nprobe, len(store)) == ("ivf", 3, 3001)


def test_faiss_few_vectors_fall_back_to_flat(clusters: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("faiss")
    with FaissStore(16, kind="ivf") as store:
        store.add(range(100), clusters[:100])
        check_ids = store.search(clusters[:3], 5).ids
        assert "100 vectors are too few for an IVF index" in caplog.text
    with MatrixStore(16) as matrix:
        matrix.add(range(100), clusters[:100])
        np.testing.assert_array_equal(check_ids, matrix.search(clusters[:3], 5).ids)


def test_an_error_leaves_the_faiss_folder_unchanged(tmp_path: Path, clusters: np.ndarray) -> None:
    """An exception keeps the vectors and does not build an index."""
    pytest.importorskip("faiss")

    def interrupted() -> None:
        with FaissStore(16, tmp_path / "s") as store:
            store.add(range(50), clusters[:50])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert not (tmp_path / "s" / "faiss.index").exists()
    with open_store(tmp_path / "s") as store:
        assert len(store) == 50
