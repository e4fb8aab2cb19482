"""All vector stores have the same behaviour."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.memory import MatrixStore, QdrantStore, VectorStore, open_store
from visionzoo.memory.store import MissingIdsError

from .naive import DIM, check, naive, whole_numbers

BACKENDS = [
    "matrix",
    "matrix-f16",
    "matrix-folder",
    "matrix-f16-folder",
    "faiss",
    "faiss-folder",
    "qdrant",
    "qdrant-folder",
]
RANKING = BACKENDS[:-1]  # where Qdrant keeps its points changes no ranking, and its folders are slow


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., VectorStore]]:
    name = request.param
    pytest.importorskip({"faiss": "faiss", "qdrant": "qdrant_client"}.get(name.split("-")[0], "torch"))
    backend = name.split("-")[0]
    options: dict[str, Any] = {"storage": "float16"} if "f16" in name else {}
    made: list[VectorStore] = []

    def begin(dim: int = DIM, folder: str = "store") -> VectorStore:
        path = tmp_path / folder if "folder" in name else None
        made.append(open_store(path, backend=backend, dim=dim, **options))
        return made[-1]

    yield begin
    for store in made:
        with contextlib.suppress(VisionZooError):
            store.close()


class TestContract:
    @pytest.mark.parametrize("make", RANKING, indirect=True)
    def test_ranking_with_duplicates_and_ties(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        vectors = whole_numbers(0, 300)
        vectors[200:] = vectors[:100]
        ids = np.random.default_rng(1).permutation(5000)[:300]
        store.add(ids[:120], vectors[:120])
        store.add(torch.from_numpy(ids[120:]), torch.from_numpy(vectors[120:]))
        held = dict(zip(ids.tolist(), vectors, strict=True))
        for k in (1, 2, 17, 299, 300, 1000):
            check(store, held, whole_numbers(2, 4), k)
        assert store.search(torch.from_numpy(whole_numbers(2, 4)), 5).ids.tolist() == naive(
            held, whole_numbers(2, 4), 5
        )
        assert store.ids().tolist() == sorted(held)
        assert len(store) == store.count() == 300

    @pytest.mark.parametrize("make", RANKING, indirect=True)
    def test_one_vector_under_all_ids(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        vectors = np.ones((200, DIM), np.float32)
        store.add(np.random.default_rng(0).permutation(200), vectors)
        check(store, dict(enumerate(vectors)), np.ones((2, DIM), np.float32), 3)

    def test_empty(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        found = store.search(whole_numbers(0, 3), 5)
        assert found.ids.shape == found.scores.shape == (3, 0)
        assert len(store) == 0
        assert store.ids().tolist() == []
        assert store.remove([1, 2]) == 0
        assert store.fetch([]).shape == (0, DIM)
        store.add([], np.empty((0, DIM), np.float32))
        assert len(store) == 0
        store.add([4], whole_numbers(0, 1))
        assert store.remove([4]) == 1
        assert store.search(whole_numbers(0, 3), 5).ids.shape == (3, 0)

    def test_adding_again_replaces(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        vectors = whole_numbers(3, 40)
        store.add(range(20), vectors[:20])
        held = dict(enumerate(vectors[:20]))
        check(store, held, whole_numbers(4, 3), 8)  # faiss has built its index here
        store.add(range(10, 30), vectors[20:])
        held |= dict(zip(range(10, 30), vectors[20:], strict=True))
        check(store, held, whole_numbers(4, 3), 30)
        np.testing.assert_array_equal(store.fetch([15]), vectors[25:26])
        assert len(store) == 30

    def test_remove_then_reuse(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        vectors = whole_numbers(5, 60)
        store.add(range(40), vectors[:40])
        held = dict(enumerate(vectors[:40]))
        check(store, held, whole_numbers(6, 3), 10)
        assert store.remove([3, 3, 7, 39, 1000]) == 3
        for gone in (3, 7, 39):
            del held[gone]
        check(store, held, whole_numbers(6, 3), 37)
        store.flush()
        store.add([7, 50, 51, 52], vectors[40:44])
        held |= dict(zip([7, 50, 51, 52], vectors[40:44], strict=True))
        check(store, held, whole_numbers(6, 3), 50)
        check(store, held, whole_numbers(6, 3), 2)
        assert store.ids().tolist() == sorted(held)
        assert store.remove(sorted(held)) == 41
        assert len(store) == 0

    def test_fetch_in_the_order_asked(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        vectors = whole_numbers(7, 10)
        store.add(np.arange(10) * 3, vectors)
        got = store.fetch([27, 0, 3, 0])
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, vectors[[9, 0, 1, 0]])

    def test_missing_ids_are_listed(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        store.add([1, 2], whole_numbers(0, 2))
        with pytest.raises(KeyError, match=r"^2 id\(s\) are not in the store: 5, 9; ids") as caught:
            store.fetch([9, 1, 5, 9])
        assert isinstance(caught.value, VisionZooError)
        assert isinstance(caught.value, MissingIdsError)
        assert caught.value.ids.tolist() == [5, 9]

    @pytest.mark.parametrize(
        ("ids", "vectors", "message"),
        [
            ([1, 2], np.full((2, DIM), np.nan), r"vectors\[0\] \(id 1\) holds NaN or infinity"),
            ([1, 2], [[0.0] * DIM, [np.inf] + [0.0] * (DIM - 1)], r"vectors\[1\] \(id 2\) holds NaN or infinity"),
            ([1], np.full((1, DIM), 1e30), "longer than 1e15"),
            ([1], np.zeros((1, DIM + 1)), r"expected \(1, 6\)"),
            ([1, 2], np.zeros((1, DIM)), r"expected \(2, 6\)"),
            ([1], np.zeros(DIM), r"expected \(1, 6\)"),
            ([1, 4, 1], np.zeros((3, DIM)), "id 1 is given twice"),
            ([-1], np.zeros((1, DIM)), "ids must be at least 0, got -1"),
            ([0.5], np.zeros((1, DIM)), "whole numbers"),
            ([[1]], np.zeros((1, DIM)), "one dimension"),
            ([1], np.zeros((1, DIM), complex), "real numbers"),
        ],
    )
    def test_bad_entries_are_refused_whole(
        self, make: Callable[..., VectorStore], ids: list[Any], vectors: Any, message: str
    ) -> None:
        store = make()
        with pytest.raises(InputError, match=message):
            store.add(ids, np.asarray(vectors))
        assert len(store) == 0

    def test_bad_queries_are_refused(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        store.add([1], whole_numbers(0, 1))
        with pytest.raises(InputError, match=r"expected \(Q, 6\)"):
            store.search(np.zeros((1, DIM - 1), np.float32), 1)
        with pytest.raises(InputError, match=r"expected \(Q, 6\)"):
            store.search(np.zeros(DIM, np.float32), 1)
        with pytest.raises(InputError, match=r"queries\[1\] holds NaN"):
            store.search(np.array([[0] * DIM, [np.nan] * DIM], np.float32), 1)
        with pytest.raises(InputError, match="k must be at least 1, got 0"):
            store.search(np.zeros((1, DIM), np.float32), 0)
        assert store.search(np.zeros((0, DIM), np.float32), 3).ids.shape == (0, 1)

    def test_large_ids(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        store.add([2**63 - 1, 0], whole_numbers(1, 2))
        assert store.ids().tolist() == [0, 2**63 - 1]
        np.testing.assert_array_equal(store.fetch([2**63 - 1]), whole_numbers(1, 2)[:1])

    @pytest.mark.parametrize("make", RANKING, indirect=True)
    def test_same_ranking_for_unit_vectors_as_correctly_rounded_sums(self, make: Callable[..., VectorStore]) -> None:
        """Real descriptors, whose scores differ by rounding. Half precision is compared with its own stored values."""
        store = make(dim=24)
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((120, 24)).astype(np.float32)
        vectors[60:] = vectors[:60] + 1e-7 * rng.standard_normal((60, 24)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store.add(range(120), vectors)
        kept = store.fetch(range(120))
        queries = vectors[:5]
        for line, query in zip(store.search(queries, 120).ids, queries, strict=True):
            sums = [np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, v, strict=True))) for v in kept]
            assert line.tolist() == sorted(range(120), key=lambda i: (-sums[i], i))

    @pytest.mark.parametrize("make", RANKING, indirect=True)
    def test_long_vectors_that_nearly_tie(self, make: Callable[..., VectorStore]) -> None:
        """Scores that differ by rounding at every boundary, and vectors far from length 1."""
        store = make(dim=33)
        rng = np.random.default_rng(0)
        base = 1000 * rng.standard_normal((1, 33)).astype(np.float32)
        store.add(range(300), base * (1 + 3e-7 * rng.standard_normal((300, 1)).astype(np.float32)))
        kept, queries = store.fetch(range(300)), rng.standard_normal((3, 33)).astype(np.float32)
        for query in queries:
            sums = [np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, v, strict=True))) for v in kept]
            wanted = sorted(range(300), key=lambda i: (-sums[i], i))
            for k in (1, 3, 40, 150, 300):
                assert store.search(query[None], k).ids[0].tolist() == wanted[:k]

    def test_save_and_load(self, make: Callable[..., VectorStore], tmp_path: Path) -> None:
        store = make()
        vectors = whole_numbers(8, 30)
        store.add(range(30), vectors)
        store.remove([4, 5])
        held = {i: v for i, v in enumerate(vectors) if i not in (4, 5)}
        if isinstance(store, QdrantStore) and store.path is None:
            with pytest.raises(InputError, match="in memory cannot be saved"):
                store.save(tmp_path / "copy")
            return
        store.save(tmp_path / "copy")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "photo.jpg").touch()
        with pytest.raises(InputError, match="not an empty folder"):
            store.save(tmp_path / "full")
        store.close()
        for load in (type(store).load, open_store):
            with load(tmp_path / "copy", readonly=load is open_store) as again:
                assert type(again) is type(store)
                check(again, held, whole_numbers(9, 3), 28)
        with pytest.raises(InputError, match=r"store.json: holds vectors of 6 values, not 7"):
            open_store(tmp_path / "copy", dim=7)
        with open_store(tmp_path / "copy", readonly=True) as reader:
            with pytest.raises(InputError, match="reading only"):
                reader.add([1], whole_numbers(0, 1))
            with pytest.raises(InputError, match="reading only"):
                reader.remove([1])


def test_no_store_there(tmp_path: Path) -> None:
    for name in ("nothing", "."):
        with pytest.raises(InputError, match="holds no vector store"):
            open_store(tmp_path / name, readonly=True)
        with pytest.raises(InputError, match="holds no vector store"):
            MatrixStore.load(tmp_path / name)
    with pytest.raises(InputError, match="must be the length of the vectors of a new store"):
        open_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(InputError, match="unknown backend 'tape'; use matrix, faiss, qdrant"):
        open_store(tmp_path / "s", backend="tape")
    with pytest.raises(InputError, match="unknown storage 'int8'"):
        open_store(tmp_path / "s", dim=3, storage="int8")
    (tmp_path / "file").write_text("x")
    with pytest.raises(VisionZooError, match="file"):
        open_store(tmp_path / "file" / "s", dim=3)
    with MatrixStore(DIM, tmp_path / "s"):
        pass
    with pytest.raises(InputError, match=r"store.json: is a matrix store, not qdrant"):
        open_store(tmp_path / "s", backend="qdrant")
    with pytest.raises(InputError, match=r"store.json: holds float32, not float16"):
        open_store(tmp_path / "s", storage="float16")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"faiss.*pip install 'visionzoo\[retrieval\]'"):
        open_store(backend="faiss", dim=3)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingDependencyError, match=r"qdrant_client.*pip install 'visionzoo\[qdrant\]'"):
        open_store(backend="qdrant", dim=3)


def test_import_is_light() -> None:
    program = """if True:
        import sys, visionzoo.memory
        assert "MatrixStore" in dir(visionzoo.memory)
        print([name for name in ("torch", "faiss", "qdrant_client") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
