"""Many files: which are dehazed, names of results, and broken files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


from visionzoo.errors import InputError
from visionzoo.io.extensions import VIDEOS_WRITTEN
from visionzoo.io.video import VideoWriter
from visionzoo.jobs import make_plan
from visionzoo.pipelines.dehaze import DehazePipeline
from visionzoo.pipelines.dehaze.files import KINDS

from ...command import run
from ...io.odd_files import dds
from .images import names


def test_folders(capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path) -> None:
    """The folder's structure is kept, and a second run finds nothing to do, wherever the outputs are."""
    for name in ("a.jpg", "sub/a.JPG", "sub/deep/b.bmp", "c.gif", ".hidden/d.jpg"):
        photo(f"in/{name}", size=(40, 30))
    words = ["dehaze", "in", "-o", "in/clear", "--checkpoint", weights]
    code, _, err = run(capsys, *words)
    assert (code, err.splitlines()[-1]) == (0, "4 files dehazed and saved to the folder in/clear")
    assert names(inside / "in" / "clear") == ["a.jpg", "c.png", "sub/a.JPG", "sub/deep/b.png"]
    before = {file: file.stat().st_mtime_ns for file in (inside / "in").rglob("*")}
    code, _, err = run(capsys, *words)
    assert code == 0
    assert err == "4 files skipped, as the output exists already; use --overwrite to replace it\n"
    assert before == {file: file.stat().st_mtime_ns for file in (inside / "in").rglob("*")}
    (inside / "in/clear/c.png").unlink()
    code, out, _ = run(capsys, *words, "--json")
    assert [Path(row["source"]).name for row in json.loads(out) if row["seconds"]] == ["c.gif"]
    code, _, err = run(capsys, *words, "--overwrite", "--format", "tif")
    assert "4 files dehazed" in err
    assert (inside / "in/clear/sub/a.tif").exists()


def test_patterns(inside: Path, photo: Callable) -> None:
    """Relative and absolute patterns, images and videos at once."""
    for name in ("d/x/1.jpg", "d/y/1.jpg", "d/2.png"):
        photo(name, size=(8, 8))
    for name in ("d/x/clip.mp4", "d/._clip.mp4", "d/words.txt"):
        (inside / name).touch()
    wanted = ["2.png", "x/1.jpg", "x/clip.mp4", "y/1.jpg"]

    def planned(*sources: object) -> list[str]:
        return sorted(
            target.relative_to("out").as_posix()
            for _, target in make_plan([str(s) for s in sources], Path("out"), KINDS).pairs
        )

    for start in (Path("d"), inside / "d"):
        assert planned(start) == planned(start / "**") == wanted
        assert planned(start / "*/*") == wanted[1:]
        assert planned(start / "x/*") == ["1.jpg", "clip.mp4"]
        assert planned(start / "*.png", start / "y/1.jpg", start / "2.png") == ["1.jpg", "2.png"]
    with pytest.raises(InputError, match=r"d/\*\.webp: no images or videos found"):
        planned("d/*.webp")
    with pytest.raises(
        InputError, match=r"x/1\.jpg would both be written to out/1\.jpg|y/1\.jpg and .*both be written"
    ):
        planned("d/x/1.jpg", "d/y/1.jpg")
    photo("d/2.gif", size=(8, 8))
    with pytest.raises(InputError, match=r"both be written to out/2\.png"):
        planned("d")


def test_videos_get_an_ending_that_can_be_written(inside: Path) -> None:
    pytest.importorskip("av")
    for name in ("a.mkv", "b.WMV", "c.ts", "d.MP4"):
        (inside / name).write_bytes(bytes(16))
    for number, extension in enumerate(VIDEOS_WRITTEN):
        VideoWriter(inside / f"{number}{extension}", fps=10)  # takes it; writes nothing yet
    planned = {source.name: target.name for source, target in make_plan(".", Path("out"), KINDS, "png").pairs}
    assert planned == {"a.mkv": "a.mkv", "b.WMV": "b.mp4", "c.ts": "c.mp4", "d.MP4": "d.MP4"}
    for target, message in (("x.ts", "unknown extension"), ("x.png", "is a video"), ("x.gif", "unknown extension")):
        with pytest.raises(InputError, match=message):
            make_plan("a.mkv", Path(target), KINDS)
    with pytest.raises(InputError, match="with several inputs, the output must be a folder"):
        make_plan(".", Path("x.wmv"), KINDS)


def test_broken_images_among_good_ones(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path
) -> None:
    for name in ("a.jpg", "c.jpg"):
        photo(f"in/{name}", size=(40, 30))
    (inside / "in/b.jpg").write_bytes((inside / "in/a.jpg").read_bytes()[:200])
    (inside / "in/d.png").write_bytes(dds(93))
    words = ["dehaze", "in", "-o", "out", "--checkpoint", weights]
    code, _, err = run(capsys, *words)
    assert code == 1
    warned = [line for line in err.splitlines() if line.startswith("visionzoo: warning: ")]
    assert [re.findall(r"in/(\w\.\w+):", line) for line in warned] == [["b.jpg"], ["d.png"]]
    assert "2 files dehazed" in err
    assert "2 of 4 files could not be dehazed" in err.splitlines()[-1]
    assert names(inside / "out") == ["a.jpg", "c.jpg"]
    for name in ("a.jpg", "c.jpg"):
        (inside / "in" / name).write_text("words")
    shutil.rmtree("out")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "none of the 4 files could be dehazed, e.g. in/a.jpg: " in err.splitlines()[-1]
    assert names(inside / "out") == []


def test_overwrite(pipe: DehazePipeline, photo: Callable, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    pipe.run(photo("a.jpg"), target, progress=False)
    before = target.read_bytes()
    pipe.run(photo("b.jpg", seed=1), target, progress=False, overwrite=True)
    assert target.read_bytes() != before


def test_a_folder_at_the_place_of_the_output(pipe: DehazePipeline, photo: Callable, tmp_path: Path) -> None:
    source, target, work = photo("a.jpg"), tmp_path / "out.png", tmp_path / "out.png.part"
    work.mkdir()
    (work / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out\.png\.part: exists and was not made by this command"):
        pipe.run(source, target, progress=False)
    assert (work / "precious.txt").read_text() == "mine"
    shutil.rmtree(work)
    work.write_text("a file")
    with pytest.raises(InputError, match=r"out\.png\.part: exists and was not made by this command"):
        pipe.run(source, target, progress=False)
    work.unlink()
    work.mkdir()  # an empty folder belongs to no run
    pipe.run(source, target, progress=False)
    assert names(tmp_path) == ["a.jpg", "out.png"]
