"""Pair inputs with outputs. An input is never overwritten, and several inputs go to a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..io.extensions import extension
from ..io.files import check_name, make_folder
from ..io.find import find_inputs, is_one_file
from ..io.head import content_of, read_head
from .results import check_result, refuse_inputs


@dataclass(frozen=True)
class Kind:
    """A kind of file that a task reads, and the files that it writes for it.

    Attributes:
        name: kind of the input: "image", "video".
        reads: extensions of inputs.
        result: kind of the output: "image", "video".
        writes: allowed extensions of outputs.
        default: extension in an output folder.
        keeps: whether outputs in a folder keep the input's extension if it is among `writes`.
        also: extensions of inputs that are read as this kind if the named output is of this kind.
        frames: extensions of images; a folder with such images, and with nothing that the task reads, is one input, a clip.
    """

    name: str
    reads: frozenset[str]
    result: str
    writes: tuple[str, ...]
    default: str
    keeps: bool = False
    also: frozenset[str] = frozenset()
    frames: frozenset[str] = frozenset()

    def makes(self, source: Path, target: Path) -> bool:
        """Whether `target` is written by this kind for a `source` that another kind reads by default."""
        return extension(source) in self.also and extension(target) in self.writes

    def extension_for(self, source: Path) -> str:
        """The extension of a result in an output folder."""
        return source.suffix if self.keeps and extension(source) in self.writes else self.default


@dataclass(frozen=True)
class Plan:
    """Inputs with their outputs.

    Attributes:
        pairs: (input, output) of every file.
        output: the output as the user named it: a file for a single input, else a folder.
    """

    pairs: tuple[tuple[Path, Path], ...]
    output: Path

    @property
    def single(self) -> bool:
        """Whether one input goes to a named file; its failure is then an error, not a warning."""
        return len(self.pairs) == 1 and self.pairs[0][1] == self.output

    def check(self, overwrite: bool) -> None:
        """Raise `InputError` if the single output may not be written, or the output folder cannot be created."""
        if self.single:
            check_result(self.output, overwrite=overwrite)
            refuse_inputs([self.output], [self.pairs[0][0]])
            return
        place = self.output.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            problem = "is a file, expected a folder for the outputs" if place == self.output.absolute() else None
            raise InputError(
                f"{self.output}: {problem or f'the folder cannot be created ({place} is a file)'}; choose another name"
            )

    def make_folders(self) -> None:
        """Create the output folders. Raises `InputError` if that is impossible."""
        if not self.single:
            make_folder(self.output)


def make_plan(
    path_in: str | Path | Sequence[str | Path],
    path_out: str | Path,
    kinds: Sequence[Kind],
    format: str | None = None,
) -> Plan:
    """Find the inputs and pair them with outputs.

    Args:
        path_in: files, folders and glob patterns.
        path_out: a file for a single input, else a folder; files in it are not inputs.
        kinds: what the task reads and writes; a file with an unknown extension counts as the first kind.
        format: extension of results of the first kind in an output folder, e.g. "png".

    Raises:
        InputError: nothing is found, several inputs with a file as output, an extension that cannot be written, an output that
            is an input, or two inputs with the same output.
    """
    path_out = check_name(path_out)
    chosen = written_extension(format, kinds[0])
    reads = frozenset().union(*(kind.reads for kind in kinds))
    what = " or ".join(f"{kind.name}s" for kind in kinds)
    frames = frozenset().union(*(kind.frames for kind in kinds))
    inputs = find_inputs(path_in, reads, what=what, outside=path_out, frames=frames)

    named_file = extension(path_out) in {name for kind in kinds for name in kind.writes} and not (
        path_out.is_dir() and extension(path_out) != ".zarr"
    )
    if len(inputs) == 1 and named_file:
        targets = {path_out: inputs[0][0]}
        _check_content(inputs[0][0], kinds)
        _check_kind(inputs[0][0], path_out, kinds)
    else:
        _check_folder(path_in, path_out, inputs, kinds, named_file)
        targets: dict[Path, Path] = {}
        for source, place in inputs:
            kind = kind_of(source, kinds)
            suffix = chosen if chosen and kind is kinds[0] else kind.extension_for(source)
            target = path_out / place
            is_clip = source.is_dir() and not is_one_file(source, reads)  # whose name may have a dot
            target = target.with_name(target.name + suffix) if is_clip else target.with_suffix(suffix)
            if target in targets:
                raise InputError(
                    f"{source} and {targets[target]} would both be written to {target}; write one of them to another folder"
                )
            targets[target] = source
    for target, source in targets.items():
        if os.path.abspath(target) == os.path.abspath(source):
            raise InputError(f"{target}: is the input itself, which is never overwritten; choose another output")
    return Plan(tuple((source, target) for target, source in targets.items()), path_out)


def kind_of(path: Path, kinds: Sequence[Kind]) -> Kind:
    """The kind that reads a file or a folder of frames; the first one if the extension belongs to none."""
    return next((kind for kind in kinds if extension(path) in kind.reads), kinds[0])


def written_extension(format: str | None, kind: Kind) -> str | None:
    """ "PNG" or ".png" -> ".png". Raises `InputError` unless results of this kind can have that extension."""
    if format is None:
        return None
    name = f".{format.lower().removeprefix('.')}"
    if name not in kind.writes:
        raise InputError(f"{kind.result}s are written as {', '.join(kind.writes)}; got {format}")
    return name


def _check_kind(source: Path, path_out: Path, kinds: Sequence[Kind]) -> None:
    if any(kind.makes(source, path_out) for kind in kinds):
        return
    kind = kind_of(source, kinds)
    if extension(path_out) not in kind.writes:
        raise InputError(
            f"{path_out}: {source} is {_article(kind.name)} {kind.name}, whose result is written as "
            f"{', '.join(kind.writes)}; choose such a name"
        )


def _check_content(source: Path, kinds: Sequence[Kind]) -> None:
    """Raise `InputError` for a file of none of these kinds, and for a video with the extension of an image or the reverse."""
    if source.is_dir():  # a zarr array, or frames
        return
    expected = " or ".join(f"{_article(kind.name)} {kind.name}" for kind in kinds)
    named, found = kind_of(source, kinds).name, content_of(read_head(source, f"{expected} file"))
    if found is not None and found != named and found in {kind.name for kind in kinds}:
        raise InputError(
            f"{source}: is {_article(found)} {found}, but has the extension of {_article(named)} {named} "
            f"({extension(source)}); rename it"
        )


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _check_folder(
    path_in: str | Path | Sequence[str | Path],
    path_out: Path,
    inputs: Sequence[tuple[Path, Path]],
    kinds: Sequence[Kind],
    named_file: bool,
) -> None:
    """Raise `InputError` if `path_out` is meant as a file but cannot be one."""
    ending, reads = extension(path_out), frozenset().union(*(kind.reads for kind in kinds))
    if named_file or (ending in reads and len(inputs) > 1 and not path_out.is_dir()):
        raise InputError(f"{path_out}: with several inputs, the output must be a folder (a path without an extension)")
    given = [path_in] if isinstance(path_in, (str, Path)) else list(path_in)
    one_file = len(given) == 1 and [source for source, _ in inputs] == [Path(given[0])]
    if ending and one_file and not path_out.is_dir():
        written = "; ".join(
            f"{result}s are written as {', '.join(writes)}"
            for result, writes in {kind.result: kind.writes for kind in kinds}.items()
        )
        raise InputError(
            f"{path_out}: unknown extension {ending}; {written}; if it is meant to be a folder, create it first"
        )


__all__ = ["Kind", "Plan", "kind_of", "make_plan", "written_extension"]
