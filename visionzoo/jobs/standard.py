"""`-` as input or output: images through pipes."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..errors import InputError, VisionZooError
from .plan import Kind, written_extension

STANDARD = Path("-")
"""Standard input as an input, standard output as an output."""


@contextmanager
def standard_input(inputs: Sequence[Path], kind: Kind) -> Iterator[list[Path]]:
    """The inputs as files; a single `-` becomes a temporary copy of standard input.

    Args:
        kind: kind of file to read.

    Raises:
        InputError: `-` is one of several inputs.
    """
    if STANDARD not in inputs:
        yield list(inputs)
        return
    if len(inputs) != 1:
        raise InputError(f"-: standard input is for one {kind.name}; give no other input")
    content = sys.stdin.buffer.read()
    with tempfile.TemporaryDirectory(prefix="visionzoo") as folder:
        source = Path(folder, f"standard-input{_extension(content)}")
        source.write_bytes(content)
        with _called(source, "standard input"):
            yield [source]


@contextmanager
def standard_streams(
    inputs: Sequence[Path], output: Path, kind: Kind, format: str | None = None
) -> Iterator[tuple[list[Path], Path]]:
    """The inputs and the output as files; `-` becomes a temporary file for standard input or output.

    The result is written to standard output if the block succeeds: as `format`, else in the input's format, else as PNG.

    Args:
        kind: kind of image to read and write.

    Raises:
        InputError: `-` is one of several inputs, or the output for anything but a single file.
    """
    with standard_input(inputs, kind) as sources:
        if output != STANDARD:
            yield sources, output
            return
        if len(sources) != 1:
            raise InputError(f"-: standard output is for one {kind.result}; choose a folder with -o")
        if sys.stdout.isatty():
            raise InputError("-: standard output is a terminal; add `> FILE`, or choose an output with -o")
        with tempfile.TemporaryDirectory(prefix="visionzoo") as folder:
            suffix = written_extension(format, kind) or kind.extension_for(sources[0])
            target = Path(folder, f"standard-output{suffix}")
            with _called(target, "standard output"):
                yield sources, target
            sys.stdout.buffer.write(target.read_bytes())
            sys.stdout.buffer.flush()


@contextmanager
def _called(path: Path, name: str) -> Iterator[None]:
    """Make errors inside the block say `name` instead of the temporary file `path`."""
    try:
        yield
    except VisionZooError as error:
        raise type(error)(str(error).replace(str(path), name)) from error


def _extension(content: bytes) -> str:
    """The usual extension for an image's content; empty if Pillow cannot identify it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            usual = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}
            return usual.get(image.format or "", f".{(image.format or '').lower()}")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


__all__ = ["STANDARD", "standard_input", "standard_streams"]
