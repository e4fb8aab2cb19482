"""Indexing and searching photos: right results, cheap updates, nothing lost when something goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.config import as_dict
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.superglobal.index import Manifest, PhotoIndex
from visionzoo.pipelines.retrieve import RetrievePipeline
from visionzoo.weights import save_safetensors

from ..io.odd_files import dds
from ..io.profiles import PROPHOTO, display
from .conftest import ASSETS


def names(result) -> list[str]:
    return [match.path.name for match in result.matches]


# Searching


@pytest.mark.parametrize("rerank", [False, True], ids=["first stage", "reranked"])
@pytest.mark.parametrize("subject", ["astronaut", "cat", "coffee", "flower", "temple"])
def test_finds_the_same_thing(pipe: RetrievePipeline, index: Path, subject: str, rerank: bool) -> None:
    result = pipe(ASSETS / "queries" / f"{subject}.jpg", index=index, top=5, rerank=rerank)
    assert sum(name.startswith(subject) for name in names(result)) >= 4
    assert [match.rank for match in result.matches] == [1, 2, 3, 4, 5]
    assert [m.score for m in result.matches] == sorted((m.score for m in result.matches), reverse=True)
    assert sorted(match.first_rank for match in result.first_stage) == [1, 2, 3, 4, 5]


def test_a_photo_finds_itself_first(pipe: RetrievePipeline, index: Path, samples: Path) -> None:
    result = pipe(samples / "cat_3.jpg", index=index, top=1)
    assert names(result) == ["cat_3.jpg"]
    assert result.matches[0].score == pytest.approx(1, abs=1e-4)


def test_box_searches_for_a_part(pipe: RetrievePipeline, index: Path, samples: Path, tmp_path: Path) -> None:
    """Two photos side by side: the box decides which of them is looked for."""
    pair = Image.new("RGB", (800, 400))
    pair.paste(Image.open(samples / "cat_1.jpg").resize((400, 400)), (0, 0))
    pair.paste(Image.open(samples / "flower_1.jpg").resize((400, 400)), (400, 0))
    pair.save(tmp_path / "pair.png")
    assert names(pipe(tmp_path / "pair.png", index=index, box=(0, 0, 400, 400), top=1))[0].startswith("cat")
    assert names(pipe(tmp_path / "pair.png", index=index, box=(400, 0, 800, 400), top=1))[0].startswith("flower")
    with pytest.raises(InputError, match="no area inside the image of 800 x 400"):
        pipe(tmp_path / "pair.png", index=index, box=(900, 0, 950, 40))


def test_queries_of_every_kind_agree(pipe: RetrievePipeline, index: Path) -> None:
    path = ASSETS / "queries" / "temple.jpg"
    kinds = [path, str(path), Image.open(path), np.asarray(Image.open(path))]
    found = [names(result) for result in pipe.search(kinds, index=index, top=4)]
    assert all(one == found[0] for one in found)


def test_more_than_there_are(pipe: RetrievePipeline, index: Path) -> None:
    assert len(pipe(ASSETS / "queries" / "cat.jpg", index=index, top=1000).matches) == 25
    assert len(pipe(ASSETS / "queries" / "cat.jpg", index=index, top=1000, rerank=True, candidates=7).matches) == 25
    with pytest.raises(InputError, match="at least 1"):
        pipe(ASSETS / "queries" / "cat.jpg", index=index, top=0)


def test_stores_give_the_same_ranking(pipe: RetrievePipeline, index: Path, samples: Path, tmp_path: Path) -> None:
    wanted = [
        names(r) for r in pipe.search(sorted((ASSETS / "queries").glob("*.jpg")), index=index, top=25, rerank=True)
    ]
    for backend in ("faiss", "qdrant"):
        pytest.importorskip({"faiss": "faiss", "qdrant": "qdrant_client"}[backend])
        pipe.index(samples, tmp_path / backend, store={"backend": backend}, progress=False)
        got = pipe.search(sorted((ASSETS / "queries").glob("*.jpg")), index=tmp_path / backend, top=25, rerank=True)
        assert [names(r) for r in got] == wanted, backend


# Writing results


@pytest.mark.parametrize("name", ["out.html", "out.jpg", "out.json"])
def test_run_writes_a_sheet_and_a_sidecar(pipe: RetrievePipeline, index: Path, tmp_path: Path, name: str) -> None:
    results = pipe.run(ASSETS / "queries" / "cat.jpg", tmp_path / name, index=index, progress=False, top=3, rerank=True)
    saved = json.loads((tmp_path / ("out.json" if name == "out.json" else f"{name}.json")).read_text())
    assert saved["results"] == json.loads(json.dumps([r.to_dict() for r in results]))
    assert saved["options"]["model"] == "superglobal_lite0"
    assert saved["environment"]["versions"]["torch"] == metadata.version("torch")
    assert (tmp_path / name).exists()
    with pytest.raises(InputError, match="--overwrite"):
        pipe.run(ASSETS / "queries" / "cat.jpg", tmp_path / name, index=index, progress=False)
    pipe.run(ASSETS / "queries" / "cat.jpg", tmp_path / name, index=index, progress=False, overwrite=True)


def test_folder_of_queries_with_a_broken_one(pipe: RetrievePipeline, index: Path, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "queries", tmp_path / "q")
    (tmp_path / "q" / "broken.jpg").write_bytes(dds(93))
    with pytest.warns(UserWarning, match=r"broken\.jpg.*skipped"):
        results = pipe.run(tmp_path / "q", tmp_path / "out.html", index=index, progress=False, top=2)
    assert len(results) == len(list((ASSETS / "queries").glob("*.jpg")))
    for file in (tmp_path / "q").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the \d+ queries"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.run(tmp_path / "q", tmp_path / "none.html", index=index, progress=False)
    assert not (tmp_path / "none.html").exists()


def test_a_pil_image_is_described_as_its_file(pipe: RetrievePipeline, photo: Callable, tmp_path: Path) -> None:
    """Orientation, alpha, 16 bits and colour profile count, whichever way the image comes."""
    upright = Image.open(photo("up.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    clear = upright.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 80, 120))
    clear.save(tmp_path / "clear.png")
    deep = np.asarray(upright.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    upright.save(tmp_path / "wide.jpg", icc_profile=display(PROPHOTO, 1.8))
    for name in ("turned.png", "clear.png", "deep.png", "wide.jpg"):
        with Image.open(tmp_path / name) as image:
            by_path, by_image = pipe.describe([tmp_path / name, image])
        assert np.allclose(by_path, by_image, atol=1e-5), name
    same, turned = pipe.describe([tmp_path / "up.png", tmp_path / "turned.png"])
    assert np.allclose(same, turned, atol=1e-5)


# Updating


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
    """What can be read is read; what cannot is reported once and not read again until it changes."""
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
    (folder / "notes.txt").write_text("not a picture, not taken")
    with pytest.warns(UserWarning, match=r"dot\.png: 1 x 1 pixels is below the smallest size"):
        report = pipe.index(folder, tmp_path / "i", progress=False)
    assert report.photos == 8
    assert {path.name for path, _ in report.failed} == {"empty.jpg", "text.jpg", "cut.jpg"}
    assert all(path.name in reason for path, reason in report.failed)
    again = pipe.index(folder, tmp_path / "i", progress=False)
    assert (again.added, again.unchanged, len(again.failed)) == (0, 11, 3)
    photo("f/text.jpg", seed=5)
    mended = pipe.index(folder, tmp_path / "i", progress=False)
    assert (mended.photos, mended.added, len(mended.failed)) == (9, 1, 2)


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


# Damage, mistakes, crashes


@pytest.fixture
def copy(index: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(index, tmp_path / "copy.index"))


def test_not_an_index(pipe: RetrievePipeline, tmp_path: Path) -> None:
    query = ASSETS / "queries" / "cat.jpg"
    with pytest.raises(InputError, match="no such index; make it with"):
        pipe(query, index=tmp_path / "no.index")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is not an index"):
        pipe(query, index=tmp_path / "folder")
    (tmp_path / "folder" / "mine.txt").write_text("precious")
    for rebuild in (False, True):
        with pytest.raises(InputError, match="not an index of photos"):
            pipe.index(ASSETS / "queries", tmp_path / "folder", rebuild=rebuild, progress=False)
    assert (tmp_path / "folder" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "file", ["manifest.json", "catalog.sqlite", "store/vectors.f32", "store/store.json", "store/ids.i64"]
)
@pytest.mark.parametrize("damage", ["truncate", "garbage", "delete"])
def test_damaged_index_is_one_clear_line(
    pipe: RetrievePipeline, copy: Path, samples: Path, file: str, damage: str
) -> None:
    target = copy / file
    data = target.read_bytes()
    if damage == "truncate":
        target.write_bytes(data[: len(data) // 2 + 1])
    elif damage == "garbage":
        target.write_bytes(bytes(reversed(data)) if file != "store/vectors.f32" else data[:-5])
    else:
        target.unlink()
    try:
        pipe(ASSETS / "queries" / "cat.jpg", index=copy)
    except VisionZooError as error:
        assert "\n" not in str(error)
        assert str(copy) in str(error)
    else:  # half of the ids: what is left is searched, and the next run reads the rest again
        assert file == "store/ids.i64"
    if file != "manifest.json":
        assert pipe.index(samples, copy, rebuild=True, progress=False).photos == 25


def test_another_model_is_refused(pipe: RetrievePipeline, copy: Path, samples: Path) -> None:
    query = ASSETS / "queries" / "cat.jpg"
    other = RetrievePipeline.create(scales=(1.0,), max_side=192)
    with pytest.raises(InputError, match="other settings .max_side 160, this is 192"):
        other(query, index=copy)
    with pytest.raises(InputError, match="other settings .scales"):
        RetrievePipeline.create(max_side=160)(query, index=copy)
    torch.manual_seed(3)
    untrained = RetrievePipeline(
        visionzoo.create_model("superglobal_lite0", scales=(1.0,)), "superglobal_lite0", max_side=160
    )  # pyright: ignore
    with pytest.raises(InputError, match="other weights"):
        untrained.index(samples, copy, progress=False)
    assert pipe.index(samples, copy, progress=False).unchanged == 25  # nothing was lost


def test_for_index_needs_no_settings(index: Path, pipe: RetrievePipeline) -> None:
    again = RetrievePipeline.for_index(index)
    assert (again.fingerprint, again.max_side, again.config) == (pipe.fingerprint, pipe.max_side, pipe.config)
    with pytest.raises(InputError, match="was made with the model superglobal_lite0, this is superglobal_r50"):
        weights_free = RetrievePipeline(visionzoo.create_model("superglobal_r50", dim=8), "superglobal_r50")  # pyright: ignore
        weights_free.check_index(index, PhotoIndex.open(index).manifest)


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
    with pytest.raises(VisionZooError, match=r"the disk is full.*25 photos are safe"):
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


def test_read_only_index_can_be_searched(pipe: RetrievePipeline, copy: Path) -> None:
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert names(pipe(ASSETS / "queries" / "cat.jpg", index=copy, top=1))[0].startswith("cat")
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_run_loses_nothing_written(pipe: RetrievePipeline, photo, tmp_path: Path) -> None:
    """SIGKILL while indexing: what the catalogue lists is whole, and the next run goes on from there."""
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
    """A folder without a manifest and without a photo is made anew; one with photos is kept until --rebuild."""
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

    def stop_early(pictures):
        for number, done in enumerate(real(pictures)):
            if number == 7:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(pipe, "_describe", stop_early)
    with pytest.raises(KeyboardInterrupt):
        pipe.index(samples, tmp_path / "i", progress=False)
    monkeypatch.undo()
    assert pipe.index(samples, tmp_path / "i", progress=False).unchanged == 7


# The pipeline object


def test_save_and_load(pipe: RetrievePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "p")
    again = RetrievePipeline.from_pretrained(tmp_path / "p")
    query = ASSETS / "queries" / "cat.jpg"
    assert again.fingerprint == pipe.fingerprint
    assert np.array_equal(again.describe([query]), pipe.describe([query]))
    with pytest.raises(InputError, match=r"no saved retrieval pipeline"):
        RetrievePipeline.from_pretrained(tmp_path)


def test_pipeline_by_name() -> None:
    made = visionzoo.pipeline("retrieve", max_side=160, scales=(1.0,))
    assert isinstance(made, RetrievePipeline)
    assert made.to("cpu") is made
    with pytest.raises(InputError, match="cuda:99"):
        made.to("cuda:99")
    with pytest.raises(InputError, match="SuperGlobal network or a name"):
        visionzoo.pipeline("retrieve", model=torch.nn.Linear(1, 1))


def test_out_of_memory_halves_the_batch(pipe: RetrievePipeline, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes two pictures at most: one warning, the same vectors."""
    square = [np.asarray(Image.open(p).resize((160, 160))) for p in sorted(samples.glob("*.jpg"))[:9]]
    wanted = pipe.describe(square)
    real = pipe.model.forward

    def small(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        return real(batch)

    monkeypatch.setattr(pipe.model, "forward", small)
    with pytest.warns(UserWarning, match="out of memory; continuing with batches of") as caught:
        got = pipe.describe(square)
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    assert np.allclose(got, wanted, atol=1e-5)
    monkeypatch.setattr(pipe.model, "forward", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    with pytest.raises(InputError, match="lower --max-side"):
        pipe.describe(square[:1])


def test_a_classifier_indexes_and_searches(samples: Path, tmp_path: Path) -> None:
    """By the name of the model and a file of its weights; the index remembers both."""
    torch.manual_seed(0)
    save_safetensors(visionzoo.create_model("shvit_xs").state_dict(), tmp_path / "xs.safetensors")
    made = RetrievePipeline.create("shvit_xs", checkpoint=tmp_path / "xs.safetensors", max_side=160)
    made.index(samples, tmp_path / "xs.index", progress=False)
    found = RetrievePipeline.for_index(tmp_path / "xs.index")
    assert (found.name, found.max_side, found.fingerprint) == ("shvit_xs", 160, made.fingerprint)
    photo = samples / "cat_1.jpg"
    assert found(photo, index=tmp_path / "xs.index", top=1).matches[0].path == photo.absolute()
    made.save_pretrained(tmp_path / "saved")
    assert RetrievePipeline.from_pretrained(tmp_path / "saved").fingerprint == made.fingerprint
