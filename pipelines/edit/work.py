"""What an edit keeps on disk, so that its memory does not grow with the video, and an interrupted one continues where it was.

Every file has one row per frame. A file that was made from something else (another source, prompt, or network) is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import writing
from visionzoo.io.files import make_folder, write_json
from visionzoo.io.tensor_file import TensorFile, TensorWriter

__all__ = ["MASKS", "LatentState", "WorkFolder"]

MASKS = "masks.rows"
"""The masks, (1, h, w) for each frame."""


class WorkFolder:
    """The files of one edit.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    @contextmanager
    def open(cls, path: str | Path | None) -> Iterator[WorkFolder]:
        """The folder `path`, which stays; or a temporary one."""
        if path is not None:
            yield cls(make_folder(path))
            return
        with TemporaryDirectory(prefix="visionzoo-edit-") as folder:
            yield cls(Path(folder))

    def finished(self, name: str, facts: Mapping[str, Any]) -> TensorFile | None:
        """The rows of a file that was finished with the same facts; None if there is none, or after deleting another one."""
        path = self.path / name
        if not path.exists():
            return None
        file = TensorFile(path)
        if file.facts == _facts(facts):
            return file
        path.unlink()
        return None

    def writer(self, name: str, shape: Sequence[int], facts: Mapping[str, Any], dtype: str = "float32") -> TensorWriter:
        """Rows to be written, after those of an interrupted edit with the same facts; see `TensorWriter`."""
        return TensorWriter(self.path / name, shape, dtype, _facts(facts))

    def masks(self) -> NDArray[np.float32] | None:
        """The masks of all frames, (N, h, w) in [0, 1]; None if there are none."""
        path = self.path / MASKS
        return TensorFile(path)[:].squeeze(1).numpy() if path.exists() else None


class LatentState:
    """The latents of all frames between two steps, in two files: a step reads one and writes the other.

    So an interrupted step starts again with the latents that it had.

    Args:
        folder: where the files are.
        shape: (N, C, h, w).
        facts: what the latents depend on; those of other facts are not used.

    Attributes:
        step: number of finished steps.
    """

    def __init__(self, folder: Path, shape: Sequence[int], facts: Mapping[str, Any]):
        self._files = [folder / f"state{number}.npy" for number in (0, 1)]
        self._about, self._facts, self.step = folder / "state.json", _facts(facts), 0
        if self._about.exists():
            found = json.loads(self._about.read_text(encoding="utf-8"))
            self.step = found["step"] if found["facts"] == self._facts else 0
        mode = "r+" if self.step else "w+"
        with writing(folder):
            self._maps = [open_memmap(file, mode, np.float32, tuple(shape)) for file in self._files]

    def read(self, start: int, stop: int) -> Tensor:
        """(n, C, h, w) of frames `start` to `stop` - 1 after the finished steps."""
        return torch.from_numpy(np.array(self._maps[self.step % 2][start:stop]))

    def write(self, start: int, latents: Tensor) -> None:
        """The latents of frames from `start` on after the step that is running."""
        self._maps[(self.step + 1) % 2][start : start + len(latents)] = latents.numpy()

    def finish_step(self) -> None:
        """All frames are written: the next step reads them."""
        with writing(self._about):
            self._maps[(self.step + 1) % 2].flush()
            write_json(self._about, {"step": self.step + 1, "facts": self._facts})
        self.step += 1

    def delete(self) -> None:
        self._maps.clear()
        for file in (self._about, *self._files):
            file.unlink(missing_ok=True)


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """A digest, since prompts may be longer than the header of a file."""
    text = json.dumps(dict(facts), sort_keys=True, default=str)
    return {"content": "edit", "facts": hashlib.sha256(text.encode()).hexdigest()}
