"""`-` as an input or output: an image through a pipe."""

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
"""As an input it is standard input, as an output it is standard output."""


@contextmanager
def standard_input(inputs: Sequence[Path], kind: Kind) -> Iterator[list[Path]]:
    """The inputs as files: `-`, if it is the only one, as a copy of standard input.

    Args:
        kind: of file that is read.

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
    """The inputs and the output as files, where `-` is one of them: a copy of standard input, and what becomes standard output.

    The result is printed when the block ends well. It is an image of `format`, or else of the input's own format, or else PNG.

    Args:
        kind: of image that is read and written.

    Raises:
        InputError: `-` is one of several inputs, or the output of something other than one file.
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
    """Errors name the temporary file `path` as the user knows it."""
    try:
        yield
    except VisionZooError as error:
        raise type(error)(str(error).replace(str(path), name)) from error


def _extension(content: bytes) -> str:
    """The usual extension of an image file; empty where it is none that Pillow knows."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            usual = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}
            return usual.get(image.format or "", f".{(image.format or '').lower()}")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


__all__ = ["STANDARD", "standard_input", "standard_streams"]
