"""The result for each file, and the sidecar `OUTPUT.json` that records how an output was made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console import counted
from ..errors import InputError, SomeFailed
from ..io.extensions import extension
from ..io.files import check_name, check_output, record, write_json


@dataclass(frozen=True)
class FileResult:
    """The result for one input file.

    Attributes:
        source, output: the files.
        width, height: size of the output in pixels.
        frames: number of frames of the output; 1 for an image.
        seconds: processing time; 0 if the output already existed.
        error: why there is no output, or None.
    """

    source: str
    output: str | None = None
    width: int = 0
    height: int = 0
    frames: int = 1
    seconds: float = 0.0
    error: str | None = None

    @property
    def skipped(self) -> bool:
        """Whether the file was skipped because the output already existed."""
        return self.error is None and not self.seconds

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def sidecar(path: str | Path) -> Path:
    """The path of an output's sidecar: `OUTPUT.json`; a JSON result is its own sidecar. That of `.` has the folder's name.

    Raises:
        InputError: the path is the root of the file system, which has no name.
    """
    path = Path(path)
    if path.name in ("", ".."):
        path = path.resolve()
    if not path.name:
        raise InputError(f"{path}: cannot be an output; choose a folder inside it")
    return path if extension(path) == ".json" else path.with_name(f"{path.name}.json")


def write_sidecar(path: str | Path, content: Mapping[str, Any], options: Mapping[str, Any]) -> Path:
    """Write `content`, the command, its options and the environment to the sidecar of `path`; return the sidecar."""
    place = sidecar(path)
    write_json(place, {**content, **record(options)})
    return place


def check_result(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return `path` if it and its sidecar may be written.

    Raises:
        InputError: see `check_output`; or a file with the sidecar's name exists and is not a sidecar.
    """
    path = check_name(path)
    if extension(path) != ".zarr" or not path.is_dir():  # a zarr array is a folder
        check_output(path, overwrite=overwrite)
    elif not overwrite:
        raise InputError(f"{path}: exists already; choose another name or add --overwrite")
    check_sidecar(path, overwrite=overwrite)
    return path


def check_sidecar(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise `InputError` if a file with the name of the sidecar of `path` exists that visionzoo did not write."""
    place = check_name(sidecar(path))
    if place != Path(path) and place.exists() and not overwrite and not _is_sidecar(place):
        raise InputError(
            f"{place}: exists already and was not written by visionzoo; choose another name or add --overwrite"
        )


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[str | Path]) -> None:
    """Raise `InputError` if an output or its sidecar is an input, also under another name: inputs are never overwritten."""
    written = [place for path in outputs for place in (path, sidecar(path))]
    taken = {identity: place for place in written if (identity := _identity(place))}
    for path in inputs if taken else ():
        place = taken.get(_identity(path) or (-1, -1))
        if place is not None:
            raise InputError(f"{place}: is an input, which is never overwritten; choose another output")


def refuse_twice(outputs: Iterable[Path]) -> None:
    """Raise `InputError` if two outputs have the same name."""
    seen = set()
    for path in outputs:
        if (place := os.path.abspath(path)) in seen:
            raise InputError(f"{path}: would be written twice; choose different names")
        seen.add(place)


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_sidecar(path: Path) -> bool:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and {"options", "environment"} <= facts.keys()


def summary(results: Sequence[FileResult], done: str, output: Path | None = None) -> list[str]:
    """Summarise a run and say where the results are, in one or two lines.

    Args:
        done: what was done to a file, as a participle: "converted".
        output: the output folder.
    """
    made = [result for result in results if result.error is None and not result.skipped]
    kept = sum(result.skipped for result in results)
    if len(results) == 1 and made:
        one = made[0]
        frames = f", {one.frames} frames" if one.frames != 1 else ""
        return [f"saved to {one.output} ({one.width} x {one.height}{frames}, {one.seconds:.1f} s)"]
    where = "" if output is None else f" and saved to the folder {output}"
    lines = [f"{counted(len(made), 'file')} {done}{where}"] if made else []
    if kept:
        lines.append(f"{counted(kept, 'file')} skipped, as the output exists already; use --overwrite to replace it")
    return lines


def saved_to(*paths: Path) -> str:
    """Say where results are, and how to open a page: "results saved to result.html (open it in a browser)"."""
    names = [f"{path} (open it in a browser)" if extension(path) in (".html", ".htm") else str(path) for path in paths]
    return f"results saved to {', '.join(names[:-1])}{' and ' if names[:-1] else ''}{names[-1]}"


def raise_if_some_failed(results: Sequence[FileResult], done: str) -> None:
    """Raise `SomeFailed`, which makes the exit code 1, if a file has an error."""
    failed = sum(result.error is not None for result in results)
    if failed:
        raise SomeFailed(f"{failed} of {counted(len(results), 'file')} could not be {done}; the warnings above say why")


__all__ = [
    "FileResult",
    "SomeFailed",
    "check_result",
    "check_sidecar",
    "raise_if_some_failed",
    "refuse_inputs",
    "saved_to",
    "sidecar",
    "summary",
    "write_sidecar",
]
