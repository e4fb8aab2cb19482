"""Tensors that grow on disk: whole or resumable, readable by others, refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visionzoo.errors import InputError, VisionZooError
from visionzoo.io import locks
from visionzoo.io.tensor_file import TensorFile, TensorWriter

ROWS = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))


def write(path: Path, rows: torch.Tensor = ROWS, dtype: str = "float32") -> TensorFile:
    with TensorWriter(path, rows.shape[1:], dtype, {"made": "in a test"}) as writer:
        writer.append(rows[:3])
        writer.append(rows[3:])
    return TensorFile(path)


def test_rows_are_read_back_here_and_by_safetensors(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors")
    assert (len(file), file.shape, file.dtype, file.facts) == (7, (7, 2, 3), "float32", {"made": "in a test"})
    assert torch.equal(file[:], ROWS)
    assert torch.equal(file[-1], ROWS[-1])
    assert torch.equal(file[[5, 0, 5]], ROWS[[5, 0, 5]])
    assert torch.equal(load_file(tmp_path / "a.safetensors")["rows"], ROWS)
    assert torch.equal(pickle.loads(pickle.dumps(file))[2:4], ROWS[2:4])
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a", dtype="float16")
    assert torch.equal(file[:], ROWS.half().float())
    with (
        pytest.raises(InputError, match="not finite in float16"),
        TensorWriter(tmp_path / "b", (1,), "float16") as writer,
    ):
        writer.append(torch.tensor([[1e6]]))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_interrupted_file_continues(tmp_path: Path) -> None:
    """Also if the last row is incomplete; with other facts it starts from the beginning."""

    def fail(facts: dict[str, str]) -> int:
        with pytest.raises(KeyboardInterrupt), TensorWriter(tmp_path / "a", (2, 3), facts=facts) as writer:
            had = len(writer)
            writer.append(ROWS[had : had + 2])
            assert torch.equal(writer[:], ROWS[: had + 2])
            raise KeyboardInterrupt
        return had

    assert fail({"source": "x"}) == 0
    with (tmp_path / "a.part").open("ab") as file:
        file.write(b"123")
    assert fail({"source": "x"}) == 2
    assert not (tmp_path / "a").exists()
    assert fail({"source": "y"}) == 0
    with TensorWriter(tmp_path / "a", (2, 3), facts={"source": "y"}) as writer:
        writer.append(ROWS[len(writer) :])
    assert torch.equal(TensorFile(tmp_path / "a")[:], ROWS)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: no such file"):
        TensorFile(tmp_path / "gone")
    (tmp_path / "text").write_text("words")
    with pytest.raises(InputError, match=r"text: is not a file of tensors from visionzoo"):
        TensorFile(tmp_path / "text")
    write(tmp_path / "a")
    with pytest.raises(InputError, match="a: exists already"):
        TensorWriter(tmp_path / "a", (2, 3))
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-4])
    with pytest.raises(InputError, match="a: is damaged"):
        TensorFile(tmp_path / "a")
    (tmp_path / "b.part").write_text("mine, and longer than eight bytes")
    with pytest.raises(InputError, match=r"b\.part: exists and was not made by this command"):
        TensorWriter(tmp_path / "b", (2, 3))
    with (
        TensorWriter(tmp_path / "c", (2, 3)) as writer,
        pytest.raises(InputError, match=r"shape \(2, 3\), got \(3, 2\)"),
    ):
        writer.append(ROWS.mT)
    with TensorWriter(tmp_path / "e", (2, 3)) as writer:
        writer.append(ROWS[:1])
        if locks.fcntl is not None:
            with pytest.raises(InputError, match=r"e\.part: another program is writing to it"):
                TensorWriter(tmp_path / "e", (2, 3))
        writer.append(ROWS[1:])
    assert torch.equal(TensorFile(tmp_path / "e")[:], ROWS)
    with pytest.raises(InputError, match="unknown dtype 'bfloat16' for a file; use float32 or float16"):
        TensorWriter(tmp_path / "d", (1,), "bfloat16")


def test_a_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    with (
        pytest.raises(VisionZooError, match="disk is full.*4 rows are kept"),
        TensorWriter(tmp_path / "b", (2, 3)) as writer,
    ):
        writer.append(ROWS[:4])
        writer._file.close()
        monkeypatch.setattr(writer, "_file", Full())
        writer.append(ROWS[4:])
    assert len(TensorWriter(tmp_path / "b", (2, 3))) == 4
