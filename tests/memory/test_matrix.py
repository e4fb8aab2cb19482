"""The store on disk: it survives crashes and names damage."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from visionzoo.errors import InputError, VisionZooError
from visionzoo.memory import MatrixStore, open_store
from visionzoo.memory import rows as rows_module
from visionzoo.memory.store import META

from .naive import DIM, check, entries, whole_numbers


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


TestRandom.settings = settings(deadline=None, max_examples=50, stateful_step_count=20)


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
            store.add([2, 9, 11, 10], vectors[8:12])  # fills the free row, replaces 2, appends
            store.remove([5, 11])  # one on the disk, one that never gets there
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
            store.add([2, 9, 11, 10], vectors[8:12])
            store.remove([5, 11])
        with MatrixStore(path=folder, readonly=True) as store:
            assert entries(store) == after
    assert interrupted >= 4


def test_flushed_entries_outlive_their_removal_until_the_next_flush(tmp_path: Path) -> None:
    """Rows freed since the last flush still belong to the entries on the disk: nothing may be written into them."""
    vectors = whole_numbers(0, 30)
    with MatrixStore(DIM, tmp_path / "s") as store:
        store.add(range(10), vectors[:10])
        store.flush()
        store.remove(range(5))
        store.add(range(20, 30), vectors[10:20])
        store.add(range(5, 15), vectors[20:])
        store.add(range(40, 50), vectors[:10])
        shutil.copytree(tmp_path / "s", tmp_path / "crashed")
    with MatrixStore(path=tmp_path / "crashed") as store:
        assert entries(store) == dict(enumerate(vectors[:10].tolist()))


def test_order_of_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loss of power needs: vectors are synchronised before ids, new ids before old rows are freed."""
    events: list[str] = []
    write_at, fsync, replace = rows_module.write_at, os.fsync, os.replace

    def name(path: Any) -> str:
        return Path(os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path).name

    def written(file: Any, offset: int, data: bytes) -> None:
        freed = Path(file.name).suffix == ".i64" and set(np.frombuffer(data, "<i8").tolist()) == {-1}
        events.append(f"write {name(file.name)}" + (" (free)" if freed else ""))
        write_at(file, offset, data)

    def synchronised(descriptor: int) -> None:
        if name(descriptor) in ("vectors.f32", "ids.i64"):
            events.append(f"sync {name(descriptor)}")
        fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        replace(source, target)
        events.append(f"rename {name(target)}")

    with MatrixStore(DIM, tmp_path / "s") as store:
        store.add(range(10), whole_numbers(0, 10))
        store.flush()
        if not Path("/proc/self/fd").is_dir():
            pytest.skip("the names of open files are read from /proc")
        monkeypatch.setattr(rows_module, "write_at", written)
        monkeypatch.setattr(os, "fsync", synchronised)
        monkeypatch.setattr(os, "replace", replaced)
        store.add([3, 20], whole_numbers(1, 2))
        store.flush()
        assert events == [
            "write vectors.f32",
            "sync vectors.f32",
            "rename store.json",  # the new stamp: an index over the old rows no longer fits
            "write ids.i64",
            "sync ids.i64",
            "write ids.i64 (free)",
            "sync ids.i64",
            "rename store.json",  # the new number of rows
        ]


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Files cut at any byte: all that was flushed is there, or one line says what is damaged."""
    vectors = whole_numbers(0, 6, 2)
    with MatrixStore(2, tmp_path / "s") as store:
        store.add(range(5), vectors[:5])
        store.flush()
        wanted = entries(store)
        store.add([5, 6, 7], vectors[:3])  # not flushed: a tail that may vanish
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
                # The half-written tail is gone.
                assert (folder / "vectors.f32").stat().st_size == 6 * 2 * 4
                assert (folder / "ids.i64").stat().st_size == 6 * 8
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
