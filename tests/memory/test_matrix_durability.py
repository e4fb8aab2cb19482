"""A MatrixStore in a folder keeps what was flushed: through any sequence of calls, interruptions and kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from visionzoo.errors import InputError
from visionzoo.memory import MatrixStore
from visionzoo.memory import rows as rows_module
from visionzoo.memory.store import META

from .naive import DIM, check, entries, whole_numbers


class Random(RuleBasedStateMachine):
    """MatrixStore in a folder compared with a dictionary, for any sequence of calls and reopenings."""

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
        """After a crash, only the files are left: they hold exactly the state of the last flush."""
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


TestRandom.settings = settings(deadline=None, max_examples=25, stateful_step_count=20)


def test_interrupted_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after each single write, or in the middle of it: for every id, the state is that before or after the flush."""
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
                # Cut anywhere in a vector, but only between ids: 8 aligned bytes are never written partially.
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
        with MatrixStore(path=folder) as store:  # and it continues from there
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
    """To survive a power failure, vectors are synchronised before ids, and new ids before old rows are freed."""
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
    """Files truncated at any byte: everything flushed is there, or a one-line error names the damage."""
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
        while last < 12:
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
    last = int(rest[-1]) if rest else last
    wanted: dict[int, set[float]] = {}
    for turn in range(1, last + 1):
        for i in range(50):
            wanted[i + 10 * (turn % 40)] = {float(turn)}
    for i in range(50):  # the interrupted turn may be complete or missing
        wanted.setdefault(i + 10 * ((last + 1) % 40), set()).add(float(last + 1))
    with MatrixStore(path=tmp_path / "s") as store:  # the lock died with the process
        got = entries(store)
        assert all(i in got for i in wanted if wanted[i] != {float(last + 1)})
        for i, vector in got.items():
            assert set(vector) <= wanted[i]
            assert len(set(vector)) == 1
        found = store.search(np.ones((1, 4), np.float32), 1000).ids[0].tolist()
        assert sorted(found) == store.ids().tolist()
