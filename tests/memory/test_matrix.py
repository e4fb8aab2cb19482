"""The store on disk names damage, locks, full disks and wrong use."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionzoo.errors import InputError, VisionZooError
from visionzoo.io import locks
from visionzoo.memory import MatrixStore, open_store
from visionzoo.memory import rows as rows_module
from visionzoo.memory.store import META

from .naive import DIM, check, entries, whole_numbers


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
    with pytest.raises(InputError, match=r"store.json: is damaged \(not JSON\); restore it"):
        open_store(tmp_path / "s")
    (fresh() / META).write_text("[1]")
    with pytest.raises(InputError, match="no format version"):
        open_store(tmp_path / "s")
    (fresh() / META).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not JSON"):
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
    """Permissions do not restrict root."""
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


@pytest.mark.skipif(locks.fcntl is None, reason="no advisory locks here")
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
    assert entries(store) == dict(enumerate(vectors[:10].tolist()))  # nothing was added partially
    monkeypatch.setattr(rows_module, "write_at", original)
    store.add(range(10, 12), vectors[10:12])
    monkeypatch.setattr(rows_module, "write_at", full)
    with pytest.raises(VisionZooError, match="the disk is full"):
        store.flush()
    with open_store(tmp_path / "s", readonly=True) as reader:
        assert entries(reader).items() >= dict(enumerate(vectors[:10].tolist())).items()
    monkeypatch.setattr(rows_module, "write_at", original)  # there is space again: the same store continues
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
