"""Creating and updating an index: cheap updates, odd files, and interrupted runs that lose nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import visionzoo
from visionzoo.config import as_dict
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.superglobal.index import Manifest, PhotoIndex
from visionzoo.pipelines.retrieve import RetrievePipeline

from ..assets import ASSETS
from .search_results import names


def test_update_reads_only_what_is_new_or_changed(pipe: RetrievePipeline, samples: Path, tmp_path: Path) -> None:
    photos, path = tmp_path / "photos", tmp_path / "photos.index"
    shutil.copytree(samples, photos)
    first = pipe.index(photos, path, progress=False)
    assert (first.photos, first.added, first.unchanged) == (25, 25, 0)
    again = pipe.index(photos, path, progress=False)
    assert (again.photos, again.added, again.unchanged) == (25, 0, 25)

    shutil.copy(ASSETS / "photos" / "rocket_1.jpg", photos / "cat_1.jpg")  # changed in place
    os.utime(photos / "cat_1.jpg")
    shutil.copy(ASSETS / "photos" / "rocket_2.jpg", photos / "new.jpg")
    (photos / "flower_1.jpg").unlink()
    third = pipe.index(photos, path, progress=False)
    assert (third.photos, third.added, third.unchanged) == (26, 2, 23)
    assert [file.name for file in third.vanished] == ["flower_1.jpg"]
    found = names(pipe(ASSETS / "photos" / "rocket_1.jpg", index=path, top=2))
    assert set(found) == {"cat_1.jpg", "new.jpg"}

    pruned = pipe.index(photos, path, prune=True, progress=False)
    assert pruned.photos == 25
    assert pipe.index(photos, path, progress=False).vanished == ()
    with PhotoIndex.open(path) as opened:
        assert opened.check() == []


def test_updates_equal_a_fresh_index(pipe: RetrievePipeline, index: Path, samples: Path, tmp_path: Path) -> None:
    for chunk in (sorted(samples.glob("*_[12].jpg")), sorted(samples.glob("*_[345].jpg"))):
        pipe.index(chunk, tmp_path / "i", progress=False, chunk=3)
    query = ASSETS / "queries" / "coffee.jpg"
    one, two = pipe(query, index=index, top=25), pipe(query, index=tmp_path / "i", top=25)
    assert names(one) == names(two)
    assert [m.score for m in one.matches] == pytest.approx([m.score for m in two.matches], abs=1e-5)


def test_odd_files_in_a_folder(pipe: RetrievePipeline, photo, tmp_path: Path) -> None:
    """Readable files are indexed; unreadable ones are reported, and tried again every time."""
    folder = photo("f/good.jpg").parent
    photo("f/Grüße 写真.png", seed=1)
    Image.new("CMYK", (120, 100), (0, 99, 9, 9)).save(folder / "cmyk.jpg")
    Image.fromarray(np.full((120, 120), 40000, np.uint16)).save(folder / "deep.png")
    Image.new("RGBA", (120, 120), (255, 0, 0, 30)).save(folder / "alpha.png")
    Image.new("P", (120, 120)).save(folder / "anim.gif", save_all=True, append_images=[Image.new("P", (120, 120), 3)])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (3000, 1)).save(folder / "strip.png")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:700])
    (folder / "notes.txt").write_text("not an image, not taken")
    with pytest.warns(UserWarning, match=r"dot\.png: 1 x 1 pixels is below the smallest size"):
        report = pipe.index(folder, tmp_path / "i", progress=False)
    assert report.photos == 8
    assert {path.name for path, _ in report.failed} == {"empty.jpg", "text.jpg", "cut.jpg"}
    assert all(path.name in reason for path, reason in report.failed)
    again = pipe.index(folder, tmp_path / "i", progress=False)
    assert (again.added, again.unchanged, len(again.failed)) == (0, 8, 3)
    photo("f/text.jpg", seed=5)
    repaired = pipe.index(folder, tmp_path / "i", progress=False)
    assert (repaired.photos, repaired.added, len(repaired.failed)) == (9, 1, 2)


def test_nothing_to_index(pipe: RetrievePipeline, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images found"):
        pipe.index(tmp_path / "empty", tmp_path / "i", progress=False)
    with pytest.raises(InputError, match="no such file"):
        pipe.index(tmp_path / "no", tmp_path / "i", progress=False)
    assert not (tmp_path / "i").exists()
    (tmp_path / "empty" / "a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="none of the 1 files can be read"):
        pipe.index(tmp_path / "empty", tmp_path / "i", progress=False)


def test_disk_full_keeps_what_is_there(
    pipe: RetrievePipeline, copy: Path, photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    import visionzoo.models.superglobal.index as module

    folder = photo("more/a.jpg", seed=9).parent
    real = module.PhotoIndex.put

    def full(self, entries):
        monkeypatch.setattr(
            type(self.store), "flush", lambda _self: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        real(self, entries)

    monkeypatch.setattr(module.PhotoIndex, "put", full)
    with pytest.raises(VisionZooError, match=r"the disk is full.*25 photos are kept in the index"):
        pipe.index(folder, copy, progress=False)
    monkeypatch.undo()
    assert len(pipe(ASSETS / "queries" / "cat.jpg", index=copy, top=99).matches) == 25
    assert pipe.index(folder, copy, progress=False).photos == 26
    with PhotoIndex.open(copy) as opened:
        assert opened.check() == []


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(pipe: RetrievePipeline, copy: Path, samples: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(VisionZooError, match="no permission"):
        pipe.index(samples, tmp_path / "locked" / "i", progress=False)


def test_no_permission_simulated(
    pipe: RetrievePipeline, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(VisionZooError, match="no permission to write here"):
        pipe.index(samples, tmp_path / "i", progress=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_run_loses_nothing_written(pipe: RetrievePipeline, photo, tmp_path: Path) -> None:
    """SIGKILL while indexing: the catalogue lists complete entries only, and the next run resumes from there."""
    for i in range(60):
        photo(f"many/{i:02}.jpg", seed=i)
    code = (
        "from visionzoo.pipelines.retrieve import RetrievePipeline\n"
        "pipe = RetrievePipeline.create(scales=(1.0,), max_side=160)\n"
        f"pipe.index({str(tmp_path / 'many')!r}, {str(tmp_path / 'i')!r}, chunk=4, progress=False)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=Path(visionzoo.__file__).parent.parent)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and worker.poll() is None:
        try:
            with PhotoIndex.open(tmp_path / "i") as opened:
                if len(opened) >= 8:
                    break
        except VisionZooError:
            pass  # not there yet
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with PhotoIndex.open(tmp_path / "i") as opened:
        safe = len(opened)
        assert safe >= 8
        assert [problem for problem in opened.check() if "no descriptor" in problem or "unit" in problem] == []
    report = pipe.index(tmp_path / "many", tmp_path / "i", progress=False)
    assert (report.photos, report.unchanged) == (60, safe)
    with PhotoIndex.open(tmp_path / "i") as opened:
        assert opened.check() == []


@pytest.mark.parametrize("left", [["store"], ["store", "catalog.sqlite"]], ids=" ".join)
def test_killed_while_the_index_was_made(
    pipe: RetrievePipeline, samples: Path, tmp_path: Path, left: list[str]
) -> None:
    """A folder without a manifest and without a photo is rebuilt; one with photos is kept until --rebuild."""
    with PhotoIndex.create(tmp_path / "i", manifest_of(pipe)):
        pass
    for item in (tmp_path / "i").iterdir():
        if item.name not in left:
            item.unlink()
    assert pipe.index(samples, tmp_path / "i", progress=False).photos == 25
    (tmp_path / "i" / "manifest.json").unlink()
    with pytest.raises(InputError, match="not an index"):
        pipe.index(samples, tmp_path / "i", progress=False)
    assert pipe.index(samples, tmp_path / "i", rebuild=True, progress=False).photos == 25


def manifest_of(pipe: RetrievePipeline) -> Manifest:
    return Manifest(pipe.name, pipe.fingerprint, pipe.model.dim, pipe.max_side, as_dict(pipe.config))


def test_interrupt_keeps_what_was_read(
    pipe: RetrievePipeline, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipe._describe

    def stop_early(images, **how):
        for number, done in enumerate(real(images, **how)):
            if number == 7:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(pipe, "_describe", stop_early)
    with pytest.raises(KeyboardInterrupt):
        pipe.index(samples, tmp_path / "i", progress=False)
    monkeypatch.undo()
    assert pipe.index(samples, tmp_path / "i", progress=False).unchanged == 7


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "an index"])
def test_files_that_cannot_be_read_leave_no_empty_index(
    pipe: RetrievePipeline, photo, tmp_path: Path, before: str
) -> None:
    path, words = tmp_path / "i", tmp_path / "words.jpg"
    words.write_text("these are words")
    if before == "an empty folder":
        path.mkdir()
    elif before == "an index":
        pipe.index(photo("a.png"), path, progress=False)
    with pytest.raises(InputError, match="none of the 1 files can be read"):
        pipe.index(words, path, progress=False)
    assert path.exists() == (before != "nothing")
    assert bool(path.exists() and list(path.iterdir())) == (before == "an index")
