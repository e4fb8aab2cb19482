"""All vector stores keep one contract; the one on disk survives crashes and names damage."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.memory import FaissStore, MatrixStore, QdrantStore, VectorStore, open_store
from visionzoo.memory import rows as rows_module
from visionzoo.memory.store import META, MissingIdsError

DIM = 6


def naive(held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> list[list[int]]:
    """The ranking by definition; exact for the small whole numbers of these tests."""
    ids = np.array(sorted(held), np.int64)
    if not len(ids):
        return [[] for _ in queries]
    scores = queries.astype(np.float64) @ np.stack([held[i] for i in ids.tolist()]).astype(np.float64).T
    return [ids[np.argsort(-line, kind="stable")[:k]].tolist() for line in scores]


def check(store: VectorStore, held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> None:
    found = store.search(queries, k)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.ids.tolist() == naive(held, queries, k)
    for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
        assert scores.tolist() == [float(query @ held[i]) for i in ids.tolist()]


def whole_numbers(seed: int, count: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, (count, dim)).astype(np.float32)


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

    def test_one_vector_under_all_ids(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        vectors = np.ones((200, DIM), np.float32)
        store.add(np.arange(200)[::-1].copy(), vectors)
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
            ([-1], np.zeros((1, DIM)), "id -1 is below 0"),
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
        with pytest.raises(InputError, match="k is 0"):
            store.search(np.zeros((1, DIM), np.float32), 0)
        assert store.search(np.zeros((0, DIM), np.float32), 3).ids.shape == (0, 1)

    def test_large_ids(self, make: Callable[..., VectorStore]) -> None:
        store = make()
        store.add([2**63 - 1, 0], whole_numbers(1, 2))
        assert store.ids().tolist() == [0, 2**63 - 1]
        np.testing.assert_array_equal(store.fetch([2**63 - 1]), whole_numbers(1, 2)[:1])

    def test_same_ranking_for_unit_vectors_as_correctly_rounded_sums(self, make: Callable[..., VectorStore]) -> None:
        """Real descriptors: float scores a rounding apart. Half precision is compared with its own stored values."""
        import math

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


# --- the store on disk ---


class Random(RuleBasedStateMachine):
    """MatrixStore in a folder against a dictionary, through any sequence of calls and reopenings."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.held: dict[int, np.ndarray] = {}
        self.flushed: dict[int, np.ndarray] = {}

    @initialize(storage=st.sampled_from(["float32", "float16"]))
    def begin(self, storage: str) -> None:
        self.store = MatrixStore(3, self.folder / "s", storage=storage)

    @rule(ids=st.lists(st.integers(0, 12), unique=True), seed=st.integers(0, 99))
    def add(self, ids: list[int], seed: int) -> None:
        vectors = whole_numbers(seed, len(ids), 3)
        self.store.add(ids, vectors)
        self.held |= dict(zip(ids, vectors, strict=True))

    @rule(ids=st.lists(st.integers(0, 12)))
    def remove(self, ids: list[int]) -> None:
        assert self.store.remove(ids) == len(self.held.keys() & set(ids))
        for i in ids:
            self.held.pop(i, None)

    @rule()
    def flush(self) -> None:
        self.store.flush()
        self.flushed = dict(self.held)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.flushed = dict(self.held)
        self.store = MatrixStore(path=self.folder / "s")

    @rule()
    def crash(self) -> None:
        """What is in the files is all that is left: exactly what was flushed last."""
        shutil.copytree(self.folder / "s", self.folder / "t")
        self.store.close()
        shutil.rmtree(self.folder / "s")
        (self.folder / "t").rename(self.folder / "s")
        self.store = MatrixStore(path=self.folder / "s")
        self.held = dict(self.flushed)

    @rule()
    def copy(self) -> None:
        self.store.save(self.folder / "copy")
        with MatrixStore(path=self.folder / "copy", readonly=True) as copy:
            check(copy, self.held, whole_numbers(0, 2, 3), 20)
        shutil.rmtree(self.folder / "copy")

    @rule(seed=st.integers(0, 99), k=st.integers(1, 15))
    def search(self, seed: int, k: int) -> None:
        check(self.store, self.held, whole_numbers(seed, 2, 3), k)

    @invariant()
    def same_entries(self) -> None:
        if not hasattr(self, "store"):
            return
        ids = sorted(self.held)
        assert self.store.ids().tolist() == ids
        assert len(self.store) == len(ids)
        if ids:
            np.testing.assert_array_equal(self.store.fetch(ids), np.stack([self.held[i] for i in ids]))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.folder)


TestRandom = Random.TestCase
TestRandom.settings = settings(deadline=None, max_examples=40, stateful_step_count=20)


def entries(store: VectorStore) -> dict[int, list[float]]:
    return dict(zip(store.ids().tolist(), store.fetch(store.ids()).tolist(), strict=True))


def test_interrupted_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after each single write, cut in half: the state is that of before or after the flush, for every id."""
    vectors = whole_numbers(0, 12)
    with MatrixStore(DIM, tmp_path / "start") as store:
        store.add(range(8), vectors[:8])
        store.remove([1])
        store.flush()
        before = entries(store)
    original = rows_module.write_at

    class Power(Exception):
        pass

    def change(folder: Path, writes: int) -> dict[int, list[float]]:
        left = writes

        def limited(file: Any, offset: int, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                # Anywhere in a vector, but between two ids: 8 aligned bytes are never written by half.
                step = 8 if str(file.name).endswith("ids.i64") else 1
                original(file, offset, data[: len(data) // 2 // step * step])
                raise Power
            original(file, offset, data)

        store = MatrixStore(path=folder)
        monkeypatch.setattr(rows_module, "write_at", limited)
        try:
            store.add([2, 9, 10], vectors[8:11])  # fills the free row, replaces 2, appends
            store.remove([5])
            store.flush()
            return entries(store)
        finally:
            monkeypatch.setattr(rows_module, "write_at", original)
            store._rows.close()  # as the end of the process would, without the flush of close()

    shutil.copytree(tmp_path / "start", tmp_path / "whole")
    after = change(tmp_path / "whole", 1000)
    assert after.keys() == {0, 2, 3, 4, 6, 7, 9, 10}
    interrupted = 0
    for writes in range(100):
        folder = tmp_path / str(writes)
        shutil.copytree(tmp_path / "start", folder)
        try:
            change(folder, writes)
            break
        except Power:
            interrupted += 1
        for readonly in (True, False):
            with MatrixStore(path=folder, readonly=readonly) as store:
                now = entries(store)
                assert len(store) == len(now)
                for i in before.keys() | after.keys():
                    assert now.get(i) in (before.get(i), after.get(i)), i
                everything = store.search(np.ones((1, DIM), np.float32), 50).ids[0].tolist()
                assert sorted(everything) == sorted(now)
        with MatrixStore(path=folder) as store:  # and it goes on from there
            store.add([2, 9, 10], vectors[8:11])
            store.remove([5])
        with MatrixStore(path=folder, readonly=True) as store:
            assert entries(store) == after
    assert interrupted >= 4


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Files cut at any byte: all that was flushed is there, or one line says what is damaged."""
    vectors = whole_numbers(0, 6, 2)
    with MatrixStore(2, tmp_path / "s") as store:
        store.add(range(5), vectors[:5])
        store.flush()
        wanted = entries(store)
        store.add([5], vectors[5:])  # not flushed: a tail that may vanish
        shutil.copytree(tmp_path / "s", tmp_path / "crashed")
    lost = kept = tried = 0
    for name in ("vectors.f32", "ids.i64", META):
        size = (tmp_path / "crashed" / name).stat().st_size
        for length in range(size + 1):
            folder = tmp_path / "cut"
            shutil.copytree(tmp_path / "crashed", folder)
            os.truncate(folder / name, length)
            tried += 1
            try:
                with MatrixStore(path=folder) as store:
                    assert entries(store) == wanted
                    store.add([9], vectors[:1])
                with MatrixStore(path=folder, readonly=True) as store:
                    assert entries(store) == {**wanted, 9: vectors[0].tolist()}
                kept += 1
            except InputError as error:
                lost += str(folder / name) in str(error) and "\n" not in str(error)
            shutil.rmtree(folder)
    assert lost + kept == tried
    assert lost > 80
    assert kept >= 8  # the unflushed vector's bytes, and the last newline of META


def test_killed_writer(tmp_path: Path) -> None:
    """SIGKILL in the middle of adding, replacing and flushing: every flush that was reported is kept."""
    program = textwrap.dedent(
        """
        import sys
        import numpy as np
        from visionzoo.memory import MatrixStore
        store = MatrixStore(4, sys.argv[1])
        for turn in range(1, 100000):
            ids = np.arange(50) + 10 * (turn % 40)
            store.add(ids, np.full((50, 4), turn, np.float32))
            store.flush()
            print(turn, flush=True)
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = 0
        while last < 25:
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
    last = int(rest[-1]) if rest else last
    wanted: dict[int, set[float]] = {}
    for turn in range(1, last + 1):
        for i in range(50):
            wanted[i + 10 * (turn % 40)] = {float(turn)}
    for i in range(50):  # the turn that was under way may have arrived or not
        wanted.setdefault(i + 10 * ((last + 1) % 40), set()).add(float(last + 1))
    with MatrixStore(path=tmp_path / "s") as store:  # the lock died with the process
        got = entries(store)
        assert all(i in got for i in wanted if wanted[i] != {float(last + 1)})
        for i, vector in got.items():
            assert set(vector) <= wanted[i]
            assert len(set(vector)) == 1
        found = store.search(np.ones((1, 4), np.float32), 1000).ids[0].tolist()
        assert sorted(found) == store.ids().tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"store.json: has format version 2, this visionzoo reads 1; update"),
        ({"backend": "tape"}, r"store.json: names the unknown backend 'tape'"),
        ({"dim": 0}, r"store.json: is damaged \(dim is 0"),
        ({"dim": "6"}, r"store.json: is damaged \(dim is '6'"),
        ({"dim": 7}, r"vectors.f32: is damaged: \d+ of 20 vectors are left"),
        ({"rows": 21}, r"ids.i64: is damaged: 20 of 21 ids are left"),
        ({"rows": -1}, r"store.json: is damaged"),
        ({"rows": None}, r"store.json: is damaged \(rows is None\)"),
        ({"storage": "int8"}, r"store.json: is damaged"),
        ({"norm_bound": 0}, r"store.json: is damaged"),
    ],
)
def test_damaged_description(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with MatrixStore(DIM, tmp_path / "s") as store:
        store.add(range(20), whole_numbers(0, 20))
    meta = json.loads((tmp_path / "s" / META).read_text())
    (tmp_path / "s" / META).write_text(json.dumps(meta | change))
    for readonly in (True, False):
        with pytest.raises(InputError, match=message) as caught:
            open_store(tmp_path / "s", readonly=readonly)
        assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    def fresh() -> Path:
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        with MatrixStore(DIM, tmp_path / "s") as store:
            store.add(range(20), whole_numbers(0, 20))
        return tmp_path / "s"

    (fresh() / META).write_text("{oops")
    with pytest.raises(InputError, match=r"store.json: is damaged \(no JSON\); restore it"):
        open_store(tmp_path / "s")
    (fresh() / META).write_text("[1]")
    with pytest.raises(InputError, match="no format version"):
        open_store(tmp_path / "s")
    (fresh() / META).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no JSON"):
        open_store(tmp_path / "s")
    (fresh() / "ids.i64").unlink()
    with pytest.raises(InputError, match=r"ids.i64: cannot be read"):
        open_store(tmp_path / "s", readonly=True)
    (fresh() / "vectors.f32").unlink()
    with pytest.raises(InputError, match=r"vectors.f32: cannot be read"):
        open_store(tmp_path / "s", readonly=True)
    with open(fresh() / "ids.i64", "r+b") as file:
        file.write(np.array([-7], "<i8").tobytes())
    with pytest.raises(InputError, match=r"ids.i64: is damaged: holds ids below 0"):
        open_store(tmp_path / "s")


def test_no_store_there(tmp_path: Path) -> None:
    for name in ("nothing", "."):
        with pytest.raises(InputError, match="holds no vector store"):
            open_store(tmp_path / name, readonly=True)
        with pytest.raises(InputError, match="holds no vector store"):
            MatrixStore.load(tmp_path / name)
    with pytest.raises(InputError, match="a new store needs the length of its vectors"):
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


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions hold nobody back who is root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_read_only_folder() -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "s"
        with MatrixStore(DIM, folder) as store:
            store.add(range(20), whole_numbers(0, 20))
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        os.chmod(parent, 0o555)
        before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        try:
            with as_nobody():
                with open_store(folder, readonly=True) as store:
                    check(store, dict(enumerate(whole_numbers(0, 20))), whole_numbers(1, 2), 5)
                with pytest.raises(VisionZooError, match="no permission to write here"):
                    open_store(folder)
                with pytest.raises(VisionZooError, match="no permission to write here"):
                    open_store(Path(parent) / "new", dim=DIM)
        finally:
            os.chmod(parent, 0o755)
            folder.chmod(0o755)
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.skipif(rows_module.fcntl is None, reason="no advisory locks here")
def test_second_writer_is_refused(tmp_path: Path) -> None:
    with MatrixStore(DIM, tmp_path / "s") as store:
        store.add(range(5), whole_numbers(0, 5))
        store.flush()
        with pytest.raises(VisionZooError, match=r"s: another program is writing to this store; wait"):
            open_store(tmp_path / "s")
        with open_store(tmp_path / "s", readonly=True) as reader:
            assert len(reader) == 5
            store.add([9], whole_numbers(1, 1))
            store.flush()
            check(reader, dict(enumerate(whole_numbers(0, 5))), whole_numbers(2, 2), 9)
    with open_store(tmp_path / "s") as store:
        assert len(store) == 6


def test_full_disk_while_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = rows_module.write_at

    def full(file: Any, offset: int, data: bytes) -> None:
        original(file, offset, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    vectors = whole_numbers(0, 20)
    store = MatrixStore(DIM, tmp_path / "s")
    store.add(range(10), vectors[:10])
    store.flush()
    monkeypatch.setattr(rows_module, "write_at", full)
    with pytest.raises(VisionZooError, match=r"the disk is full.*what was flushed before is safe"):
        store.add(range(5, 15), vectors[10:])
    assert entries(store) == dict(enumerate(vectors[:10].tolist()))  # nothing was taken in by half
    monkeypatch.setattr(rows_module, "write_at", original)
    store.add(range(10, 12), vectors[10:12])
    monkeypatch.setattr(rows_module, "write_at", full)
    with pytest.raises(VisionZooError, match="the disk is full"):
        store.flush()
    with open_store(tmp_path / "s", readonly=True) as reader:
        assert entries(reader).items() >= dict(enumerate(vectors[:10].tolist())).items()
    monkeypatch.setattr(rows_module, "write_at", original)  # space was made: the same store goes on
    store.flush()
    store.close()
    with open_store(tmp_path / "s", readonly=True) as reader:
        assert entries(reader) == dict(enumerate(vectors[:12].tolist()))


def test_full_disk_on_closing_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = MatrixStore(DIM, tmp_path / "s")
    store.add([1], whole_numbers(0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(VisionZooError, match="the disk is full"):
            store.close()
    with open_store(tmp_path / "s") as store:
        assert len(store) == 0


def test_short_writes_are_completed(tmp_path: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            self.data = bytearray()

        def seek(self, offset: int) -> None:
            self.data += b"." * offset

        def write(self, data: memoryview) -> int:
            self.data += data[:3]
            return min(3, len(data))

    file: Any = Slow()
    rows_module.write_at(file, 2, b"0123456789")
    assert bytes(file.data) == b"..0123456789"


def test_half_precision_keeps_its_bound(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with MatrixStore(64, tmp_path / "s", storage="float16") as store:
        store.add(range(500), vectors)
    assert (tmp_path / "s" / "vectors.f16").stat().st_size == 500 * 64 * 2
    with open_store(tmp_path / "s", readonly=True) as store:
        kept = store.fetch(range(500))
        assert np.all(np.abs(kept - vectors) <= np.abs(vectors) * 2.0**-11 + 2.0**-25)
        assert np.any(kept != vectors)
        found = store.search(vectors[:20], 10)
        exact = np.take_along_axis(vectors[:20] @ vectors.T, found.ids, 1)
        assert np.abs(found.scores - exact).max() <= 2.0**-11 + 1e-6
        assert found.ids[:, 0].tolist() == list(range(20))
    with (
        MatrixStore(2, storage="float16") as store,
        pytest.raises(InputError, match="above 65504, too large for float16"),
    ):
        store.add([1], np.array([[70000, 0]], np.float32))


def test_larger_store_is_mapped_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60_000, 32)).astype(np.float32)
    with MatrixStore(32, tmp_path / "s") as store:
        for start in range(0, 60_000, 7_000):
            store.add(range(start, min(start + 7_000, 60_000)), vectors[start : start + 7_000])
    with open_store(tmp_path / "s", readonly=True) as store:
        assert isinstance(store, MatrixStore)
        base: Any = store._matrix()
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
        assert store.search(vectors[[5, 59_999]], 1).ids.tolist() == [[5], [59_999]]
        np.testing.assert_array_equal(store.fetch([59_999, 0]), vectors[[59_999, 0]])


def test_rows_are_reused_only_after_a_flush(tmp_path: Path) -> None:
    with MatrixStore(DIM, tmp_path / "s") as store:
        store.add(range(100), whole_numbers(0, 100))
        for turn in range(20):
            store.add(range(100), whole_numbers(turn, 100))
            store.flush()
    assert (tmp_path / "s" / "vectors.f32").stat().st_size == 2 * 100 * DIM * 4
    with MatrixStore(path=tmp_path / "s") as store:
        assert entries(store) == dict(enumerate(whole_numbers(19, 100).tolist()))


def test_closed_store_says_so(tmp_path: Path) -> None:
    store = MatrixStore(DIM, tmp_path / "s")
    store.add([1], whole_numbers(0, 1))
    store.close()
    store.close()
    for call in (lambda: store.add([2], whole_numbers(0, 1)), lambda: store.fetch([1]), lambda: store.remove([1])):
        with pytest.raises(InputError, match="closed"):
            call()


# --- faiss ---


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
            # The scores are those of the originals, whatever the index keeps.
            np.testing.assert_allclose(scores, clusters[line] @ query, rtol=0, atol=1e-6)
            assert sorted(zip((-scores).tolist(), line.tolist(), strict=True)) == list(
                zip((-scores).tolist(), line.tolist(), strict=True)
            )
        if kind == "flat":
            np.testing.assert_array_equal(found.ids, wanted.ids)
            np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_faiss_sees_changes_beside_its_index(tmp_path: Path, clusters: np.ndarray, kind: str) -> None:
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


def test_faiss_index_that_does_not_fit_is_made_anew(
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
        assert "does not fit the vectors beside it" in caplog.text
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


def test_faiss_folder_is_left_alone_by_an_error(tmp_path: Path, clusters: np.ndarray) -> None:
    """Leaving by an exception keeps the vectors and does not stop to build an index."""
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


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"faiss.*pip install 'visionzoo\[retrieval\]'"):
        open_store(backend="faiss", dim=3)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingDependencyError, match=r"qdrant_client.*pip install 'visionzoo\[qdrant\]'"):
        open_store(backend="qdrant", dim=3)


# --- qdrant ---


def test_qdrant_nobody_answers() -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(
        VisionZooError, match=r"http://127.0.0.1:9, collection 'x': no answer from a Qdrant server"
    ) as caught:
        QdrantStore("http://127.0.0.1:9", collection="x", dim=3, timeout_s=2)
    assert "\n" not in str(caught.value)
    for url in ("localhost:6333", "ftp://x", "http://"):
        with pytest.raises(InputError, match="is no address of a server"):
            QdrantStore(url, dim=3)
    with pytest.raises(InputError, match="QDRANT_API_KEY"):
        QdrantStore("http://me:secret@localhost:6333", dim=3)


def test_qdrant_key_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("qdrant_client")
    seen: list[dict[str, Any]] = []

    class Fake(client.QdrantClient):
        def __init__(self, **arguments: Any) -> None:
            seen.append(arguments)
            super().__init__(":memory:")

    monkeypatch.setattr(client, "QdrantClient", Fake)
    monkeypatch.setenv("QDRANT_API_KEY", "from-the-environment")
    with QdrantStore("https://qdrant.example:6333", dim=3) as store:
        store.save(tmp_path / "s")
    with QdrantStore("https://qdrant.example:6333", api_key="given", dim=3) as store:
        store.save(tmp_path / "t")
    assert [arguments["api_key"] for arguments in seen] == ["from-the-environment", "given"]
    for folder in ("s", "t"):
        text = (tmp_path / folder / META).read_text()
        assert "https://qdrant.example:6333" in text
        assert "given" not in text
        assert "from-the-environment" not in text
    open_store(tmp_path / "s").close()
    assert seen[-1]["url"] == "https://qdrant.example:6333"


def test_qdrant_unfit_collections_are_refused(tmp_path: Path) -> None:
    client = pytest.importorskip("qdrant_client")
    models = client.models
    local = client.QdrantClient(path=str(tmp_path / "q"))
    local.create_collection("cosine", vectors_config=models.VectorParams(size=3, distance=models.Distance.COSINE))
    local.create_collection("named", vectors_config={"a": models.VectorParams(size=3, distance=models.Distance.DOT)})
    half = models.VectorParams(size=3, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
    local.create_collection("half", vectors_config=half)
    local.close()
    for name, message in (("cosine", "distance Cosine"), ("named", "named vectors"), ("half", "keeps float16")):
        with pytest.raises(InputError, match=message):
            QdrantStore(path=tmp_path / "q", collection=name, dim=3)
    with pytest.raises(InputError, match="does not exist"):
        QdrantStore(path=tmp_path / "q", collection="none", dim=3, readonly=True)
    with (
        QdrantStore(path=tmp_path / "q", dim=3),
        pytest.raises(VisionZooError, match="another program uses this folder"),
    ):
        QdrantStore(path=tmp_path / "q", dim=3)
    with pytest.raises(InputError, match="holds vectors of 3 values, not 4"):
        QdrantStore(path=tmp_path / "q", dim=4)


def test_qdrant_folder_can_be_moved(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    with open_store(tmp_path / "s", backend="qdrant", dim=3) as store:
        store.add([4], np.array([[1, 2, 3]], np.float32))
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    with open_store(tmp_path / "elsewhere") as store:
        np.testing.assert_array_equal(store.fetch([4]), [[1, 2, 3]])


def test_import_is_light() -> None:
    program = """if True:
        import sys, visionzoo.memory
        assert "MatrixStore" in dir(visionzoo.memory)
        print([name for name in ("torch", "faiss", "qdrant_client") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
