"""Large images: interrupted runs, truncated files, and too little disk space or memory."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

import tifffile

from visionzoo.errors import InputError
from visionzoo.io.raster import writer as raster_writer
from visionzoo.models.dehazexl import DehazeXL
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.pipelines.dehaze import DehazePipeline
from visionzoo.pipelines.dehaze import pipeline as dehaze_pipeline

from ...command import run
from .images import names, view


class Encodes:
    """Counts the patches that are encoded."""

    def __init__(self, pipe: DehazePipeline, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        real = pipe.model.encode

        def encode(patches: Tensor) -> list[Tensor]:
            self.count += len(patches)
            return real(patches)

        monkeypatch.setattr(pipe.model, "encode", encode)

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


def stops(at: int) -> Callable[[str, int, int], None]:
    """A progress callback during which Ctrl-C is pressed, when `at` tiles have been encoded and decoded."""

    def show(name: str, done: int, _: int) -> None:
        if name == "tiles" and done >= at:
            raise KeyboardInterrupt

    return show


@pytest.fixture(autouse=True)
def _25_tiles_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they are resumed and not computed at once."""
    monkeypatch.setattr(dehaze_pipeline, "SMALL_TILES", 16)


def large(path: Path, seed: int = 0) -> Path:
    """25 tiles."""
    tifffile.imwrite(path, view(1280, 1280, seed=seed), photometric="rgb", tile=(256, 256), compression="zlib")
    return path


def test_a_large_image_is_resumed(pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, work = large(tmp_path / "in.tif"), tmp_path / "out.tif", tmp_path / "out.tif.part"
    encodes, options = Encodes(pipe, monkeypatch), StreamOptions(patches_at_once=1, skips="recompute")
    pipe.raster(source, tmp_path / "whole.tif", options=options)
    assert encodes.take() == 50
    left = r"out\.tif\.part: run the same command again to resume"
    with pytest.raises(KeyboardInterrupt, match=left):
        pipe.raster(source, target, options=options, progress=stops(7))
    assert encodes.take() == 14
    with pytest.raises(KeyboardInterrupt, match=left):
        pipe.raster(source, target, options=options, progress=stops(17))
    assert encodes.take() == 11 + 9
    assert work.is_dir()
    assert not target.exists()
    # other settings and another input start again
    shutil.copytree(work, tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        pipe.raster(
            source,
            target,
            options=StreamOptions(patches_at_once=1, skips="recompute", blend=True),
            progress=stops(2),
        )
    assert encodes.take() == 4
    with pytest.raises(KeyboardInterrupt):
        pipe.raster(large(tmp_path / "other.tif", 1), target, options=options, progress=stops(1))
    assert encodes.take() == 2
    shutil.rmtree(work)
    (tmp_path / "kept").rename(work)
    pipe.raster(source, target, options=options)
    assert encodes.take() == 16
    assert target.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert names(tmp_path) == ["in.tif", "other.tif", "out.tif", "whole.tif"]


@pytest.mark.parametrize(("blend", "total"), [(False, 25), (True, 25 + 36)])
def test_tiles_are_counted_over_both_passes_and_grids(
    pipe: DehazePipeline, tmp_path: Path, blend: bool, total: int
) -> None:
    """Also by a run that resumes, even if it finds the first grid done; so the remaining time is that of the whole image."""
    source, target = large(tmp_path / "in.tif"), tmp_path / "out.tif"
    options = StreamOptions(patches_at_once=1, skips="recompute", blend=blend)
    told: list[tuple[int, int]] = []
    for at in (9, 20, 31, 50, 99):
        here: list[tuple[int, int]] = []

        def show(name: str, done: int, of: int, here: list[tuple[int, int]] = here, at: int = at) -> None:
            assert name == "tiles"
            here.append((done, of))
            if done >= at:
                raise KeyboardInterrupt

        if target.exists():
            break
        with contextlib.suppress(KeyboardInterrupt):
            pipe.raster(source, target, options=options, progress=show)
        told += here
    assert {of for _, of in told} == {total}
    counts = [done for done, _ in told]
    assert counts == sorted(counts)
    assert set(range(total + 1)) <= set(counts)


def test_ctrl_c_says_how_to_resume(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = DehazeXL.encode, 0

    def interrupted(self: DehazeXL, patches: Tensor) -> list[Tensor]:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        return real(self, patches)

    monkeypatch.setattr(DehazeXL, "encode", interrupted)
    limit = 0
    large(inside / "in.tif")
    photo("a.jpg")
    code, _, err = run(capsys, "dehaze", "a.jpg", "-o", "out.jpg", "--checkpoint", weights)
    assert (code, err.splitlines()[-1]) == (130, "visionzoo: error: interrupted; no file was written")
    calls, limit = 0, 2
    code, _, err = run(capsys, "dehaze", "in.tif", "-o", "out.tif", "--checkpoint", weights)
    assert code == 130
    assert "interrupted; finished work is kept in out.tif.part: run the same command again to resume" in err
    assert sorted(file.name for file in inside.iterdir()) == ["a.jpg", "in.tif", "out.tif.part"]
    calls, limit = 0, 1
    photo("b.jpg")
    code, _, err = run(capsys, "dehaze", "a.jpg", "b.jpg", "-o", "out", "--checkpoint", weights, "--skips", "host")
    assert code == 130
    assert "1 of 2 files are finished: run the same command again to resume" in err
    assert names(inside / "out") == ["a.jpg"]


def test_a_huge_truncated_file(
    capsys: pytest.CaptureFixture, weights: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that can be read are finished and the rest is named; with the file repaired, it works."""
    whole = large(inside / "whole.tif").read_bytes()
    (inside / "in.tif").write_bytes(whole[: len(whole) * 6 // 10])
    words = ["dehaze", "in.tif", "-o", "out.tif", "--checkpoint", weights]
    code, _, err = run(capsys, *words)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert len(errors) == 1
    assert re.search(r"in\.tif: rows \d+ to \d+, columns \d+ to \d+ cannot be read: .*truncated", errors[0])
    assert "finished work is kept in out.tif.part: run the same command again to resume" in errors[0]
    assert (inside / "out.tif.part").is_dir()
    assert not (inside / "out.tif").exists()
    (inside / "in.tif").write_bytes(whole)
    monkeypatch.setattr(DehazeXL, "forward", lambda *_: pytest.fail("the whole image at once"))
    assert run(capsys, *words)[0] == 0
    assert names(inside) == ["in.tif", "out.tif", "whole.tif"]


def fills_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk has no room for pixels."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(raster_writer.RawPixels, "write", full)
    monkeypatch.setattr(raster_writer.encode, "write_small", full)


def test_a_full_disk(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported once, even for many files: none of them would fit."""
    for name in ("in/a.jpg", "in/b.jpg", "in/c.jpg"):
        photo(name)
    fills_up(monkeypatch)
    for words in (["in/a.jpg", "-o", "out.jpg"], ["in", "-o", "out"]):
        code, _, err = run(capsys, "dehaze", *words, "--checkpoint", weights)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "the disk is full; free some space and run the command again" in err
    assert names(inside) == ["in/a.jpg", "in/b.jpg", "in/c.jpg"]


def test_a_full_disk_before_the_first_pixel(
    pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to resume from, and no file is left."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(raster_writer, "allocate", full)
    monkeypatch.setattr(dehaze_pipeline, "SMALL_TILES", 0)
    with pytest.raises(InputError, match="the disk is full") as caught:
        pipe.run(large(tmp_path / "in.tif"), tmp_path / "out.tif", progress=False)
    assert "resume" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.tif"]


def test_too_little_memory(pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning and the same image; or a one-line error if not even one tile fits."""
    Image.fromarray(view(512, 512)).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "want.png", progress=False)
    real, most = pipe.model.encode, 1

    def limited(patches: Tensor) -> list[Tensor]:
        if len(patches) > most:
            raise torch.OutOfMemoryError("no memory")
        return real(patches)

    monkeypatch.setattr(pipe.model, "encode", limited)
    with pytest.warns(UserWarning, match="out of memory; continuing with batches of 1") as caught:
        pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False, stream=StreamOptions(patches_at_once=2))
    assert len(caught) == 1
    got, want = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("out.png", "want.png"))
    assert np.abs(got - want).max() <= 1
    most = 0
    with pytest.raises(InputError, match="not enough memory on cpu, even for one tile"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.run(tmp_path / "in.png", tmp_path / "no.png", progress=False)
    assert names(tmp_path) == ["in.png", "out.png", "want.png"]
