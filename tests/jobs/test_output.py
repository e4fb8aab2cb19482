"""The output of a command: -o, the second of two paths, or standard output."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.contract.mirror import MirrorJob
from tests.contract.setting import draw
from visionzoo.errors import InputError
from visionzoo.jobs import make_plan, run_files, split_output, standard_streams
from visionzoo.jobs.results import sidecar

KIND = MirrorJob.kinds[0]
EXAMPLE = "visionzoo mirror a.jpg -o b.png"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_in_out() -> None:
    draw(Path("a.png"))
    draw(Path("b.png"))
    paths = [Path("a.png"), Path("c.png")]
    assert split_output(paths, None, EXAMPLE) == ([Path("a.png")], Path("c.png"))
    assert split_output(paths, Path("o"), EXAMPLE) == (paths, Path("o"))
    assert split_output([Path("a.png"), Path("-")], None, EXAMPLE) == ([Path("a.png")], Path("-"))


def test_an_output_that_could_be_an_input_is_not_guessed() -> None:
    draw(Path("a.png"))
    draw(Path("b.png"))
    Path("dead.png").symlink_to("gone")
    for second in ("b.png", "dead.png"):
        with pytest.raises(
            InputError, match=rf"{second} exists, so it is an input; --output \(-o\) is missing, e\.g\. visionzoo"
        ):
            split_output([Path("a.png"), Path(second)], None, EXAMPLE)
    for paths in (["a.png"], ["a.png", "b.png", "c.png"], ["a.png", "*.png"]):
        with pytest.raises(InputError, match="is missing"):
            split_output([Path(path) for path in paths], None, EXAMPLE)


class _Binary(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


def piped(content: bytes, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Set standard input to `content`; returns the buffer of standard output."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", _Binary(io.BytesIO(content)))
    monkeypatch.setattr(sys, "stdout", _Binary(written))
    return written


def mirrored(inputs: list[str], output: str, format: str | None = None) -> None:
    with standard_streams([Path(path) for path in inputs], Path(output), KIND, format) as (sources, target):
        run_files(MirrorJob(), make_plan(sources, target, MirrorJob.kinds), progress=False)


@pytest.mark.parametrize(("format", "written"), [(None, "PNG"), ("jpg", "JPEG")])
def test_an_image_through_a_pipe(monkeypatch: pytest.MonkeyPatch, format: str | None, written: str) -> None:
    source = draw(Path("a.png"))
    out = piped(source.read_bytes(), monkeypatch)
    mirrored(["-"], "-", format)
    with Image.open(io.BytesIO(out.getvalue())) as image, Image.open(source) as before:
        assert (image.format, image.size) == (written, before.size)
        if format is None:
            assert image.tobytes() == before.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert [path.name for path in Path().iterdir()] == ["a.png"]


@pytest.mark.parametrize("content", [b"", b"words", b"<!DOCTYPE html>"])
def test_errors_name_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    out = piped(content, monkeypatch)
    with pytest.raises(InputError, match=r"^standard input: "):
        mirrored(["-"], "-")
    assert out.getvalue() == b""


def test_one_image_only(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("a.png"))
    piped(b"", monkeypatch)
    with pytest.raises(InputError, match="-: standard input is for one image"):
        mirrored(["-", "a.png"], "out")
    with pytest.raises(InputError, match="-: standard output is for one image"):
        mirrored(["a.png", "a.png"], "-")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(InputError, match="-: standard output is a terminal"):
        mirrored(["a.png"], "-")


def test_the_sidecar_of_a_folder_without_a_name_has_its_real_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path / "clips")
    assert sidecar(".") == sidecar("") == tmp_path / "clips.json"
    assert sidecar("..") == tmp_path.parent / f"{tmp_path.name}.json"
    with pytest.raises(InputError, match="cannot be an output; choose a folder inside it"):
        sidecar("/")
