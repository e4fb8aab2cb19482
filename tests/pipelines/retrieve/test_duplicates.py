"""Groups of photos that show the same image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from tests import tiny
from visionzoo.cli import main
from visionzoo.errors import InputError
from visionzoo.memory import open_store, pairs_above
from visionzoo.pipelines.retrieve import RetrievePipeline
from visionzoo.pipelines.retrieve.comparing import correlation, low_resolution
from visionzoo.pipelines.retrieve.duplicates import write_duplicates

from ..assets import ASSETS


@pytest.mark.parametrize("backend", ["matrix", "faiss", "qdrant"])
def test_pairs_equal_those_of_the_full_matrix(backend: str) -> None:
    """For any block size, and even if a score equals the limit."""
    pytest.importorskip({"matrix": "numpy", "faiss": "faiss", "qdrant": "qdrant_client"}[backend])
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(90, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[40:60] = vectors[:20]
    ids = rng.permutation(1000)[:90]
    with open_store(backend=backend, dim=8) as store:
        store.add(ids, vectors)
        kept = store.fetch(np.sort(ids)).astype(np.float64)  # what a store keeps of a vector may be rounded
        whole = np.triu((kept @ kept.T).astype(np.float32), 1)
        limit = float(np.sort(whole[whole > 0])[-300])
        want = {(int(np.sort(ids)[a]), int(np.sort(ids)[b])) for a, b in zip(*np.nonzero(whole >= limit), strict=True)}
        for block in (7, 90, 4096):
            found = [
                pair
                for a, b in pairs_above(store, limit, block=block)
                for pair in zip(a.tolist(), b.tolist(), strict=True)
            ]
            assert len(found) == len(set(found))
            assert set(found) == want


@pytest.fixture
def collection(photo: Callable, tmp_path: Path) -> Path:
    """Two copies of one photo in other sizes, an exact pair, and two single photos."""
    folder = tmp_path / "my photos #1, 100 % ü"
    large = Image.open(photo("my photos #1, 100 % ü/large.png", (320, 240), 1))
    large.resize((160, 120)).save(folder / "small.png")
    large.convert("RGB").save(folder / "middle.jpg", quality=80)
    photo("my photos #1, 100 % ü/pair_a.png", (200, 200), 2)
    shutil.copy(folder / "pair_a.png", folder / "pair_b.png")
    for seed in (3, 4):
        photo(f"my photos #1, 100 % ü/alone{seed}.png", (200, 150), seed)
    return folder


def test_the_original_of_equal_files_is_not_the_one_named_as_a_copy(
    pipe: RetrievePipeline, photo: Callable, tmp_path: Path
) -> None:
    """The page distinguishes files of the same name by their folders, and shows their sizes."""
    first = Path(photo("album/rocket.png", (200, 200), 2))
    (first.parent / "sub").mkdir()
    for copy in ("rocket (1).png", "rocket-copy.png", "sub/rocket.png"):
        shutil.copy(first, first.parent / copy)
    pipe.index(first.parent, tmp_path / "i", progress=False)
    (group,) = pipe.duplicates(tmp_path / "i").groups
    assert group[0].path == first
    write_duplicates(tmp_path / "d.html", pipe.duplicates(tmp_path / "i"), {"index": "i"})
    page = (tmp_path / "d.html").read_text()
    for words in (">sub/rocket.png</a>", ">rocket.png</a>", f"200 x 200 · {round(first.stat().st_size / 1e3)} kB"):
        assert page.count(words) >= 1, words


@pytest.fixture
def small() -> RetrievePipeline:
    network: Any = tiny.superglobal()
    return RetrievePipeline(network, device="cpu", dtype="float32", max_side=96)


def test_groups(pipe: RetrievePipeline, collection: Path, tmp_path: Path) -> None:
    pipe.index(collection, tmp_path / "i", progress=False)
    result = pipe.duplicates(tmp_path / "i")
    assert [[photo.path.name for photo in group] for group in result.groups] == [
        ["large.png", "small.png", "middle.jpg"],
        ["pair_a.png", "pair_b.png"],
    ]
    assert [photo.score for photo in result.groups[1]] == pytest.approx([1, 1])
    assert (result.groups[0][0].width, result.groups[0][1].height, result.photos) == (320, 120, 7)
    assert [len(group) for group in pipe.duplicates(tmp_path / "i", min_score=-1).groups] == [3, 2]
    (everything,) = pipe.duplicates(tmp_path / "i", min_score=-1, compare=False).groups
    assert (everything[0].path.name, len(everything)) == ("large.png", 7)
    (collection / "pair_b.png").unlink()
    result = pipe.duplicates(tmp_path / "i")
    assert (len(result.groups), [path.name for path in result.missing]) == (1, ["pair_b.png"])
    with pytest.raises(InputError, match="between -1 and 1"):
        pipe.duplicates(tmp_path / "i", min_score=95)


@pytest.fixture
def variants(tmp_path: Path) -> Path:
    """Two of the 13 sample photos, each with copies and with images that are not copies."""
    folder = tmp_path / "variants"
    folder.mkdir()
    for subject in ("coffee", "temple"):
        whole = Image.open(ASSETS / "photos" / f"{subject}_1.jpg")
        width, height = whole.size
        whole.save(folder / f"{subject}.png")
        for name, parts in {"half": 2, "quarter": 4}.items():
            whole.resize((width // parts, height // parts)).save(folder / f"{subject}_copy_{name}.png")
        whole.save(folder / f"{subject}_copy_bad.jpg", quality=10)
        ImageEnhance.Brightness(whole).enhance(0.6).convert("L").save(folder / f"{subject}_copy_dark.png")
        marked = whole.copy()
        ImageDraw.Draw(marked).text((width // 2, height // 2), "(c) somebody", font_size=height // 12)
        marked.save(folder / f"{subject}_copy_marked.png")
        cut = (width // 20, height // 20)
        whole.crop((*cut, width - cut[0], height - cut[1])).save(folder / f"{subject}_other_crop.png")
        for number in (2, 3):
            shutil.copy(ASSETS / "photos" / f"{subject}_{number}.jpg", folder / f"{subject}_other_{number}.jpg")
    return folder


def test_copies_of_every_size_and_quality_are_found_and_other_views_are_not(
    pipe: RetrievePipeline, variants: Path, tmp_path: Path
) -> None:
    """Scores alone cannot distinguish them: a quarter of a photo scores lower than a crop of it."""
    pipe.index(variants, tmp_path / "i", progress=False)
    result = pipe.duplicates(tmp_path / "i")
    assert [
        {photo.path.stem for photo in group} for group in sorted(result.groups, key=lambda group: group[0].path)
    ] == [
        {subject, *(f"{subject}_copy_{name}" for name in ("half", "quarter", "bad", "dark", "marked"))}
        for subject in ("coffee", "temple")
    ]
    scores = {
        photo.path.stem: photo.score for photo in pipe.duplicates(tmp_path / "i", compare=False, min_score=-1).groups[0]
    }
    assert scores["coffee_copy_quarter"] < scores["coffee_other_crop"]


def test_a_stereo_pair_is_not_a_pair_of_copies(pipe: RetrievePipeline, tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    left, right, _ = data.stereo_motorcycle()
    for name, image in {"left": left, "right": right}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    pipe.index([tmp_path / "left.png", tmp_path / "right.png"], tmp_path / "i", progress=False)
    assert len(pipe.duplicates(tmp_path / "i", compare=False, min_score=0.9).groups) == 1
    assert not pipe.duplicates(tmp_path / "i").groups


def test_edges_are_compared_whatever_the_shape_and_blank_images_by_their_brightness() -> None:
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240)))
    wide = np.asarray(Image.fromarray(image).resize((400, 200)))
    white, grey, black = (np.full((50, 90, 3), level, np.uint8) for level in (255, 253, 0))
    one, other = (np.stack([low_resolution(array) for array in arrays]) for arrays in (
        (image, image, image, white, white, white), (wide, 255 - image, image[:, ::-1], grey, black, image),
    ))  # fmt: skip
    found = correlation(one, other)
    assert found[0] > 0.95
    assert found[1] == pytest.approx(-1, abs=0.01)
    assert np.abs(found[[2, 5]]).max() < 0.3
    assert found[3:5].tolist() == [1, 0]


def test_photos_that_cannot_be_compared_are_named(
    small: RetrievePipeline, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small.index(collection, tmp_path / "i", progress=False)
    (collection / "small.png").write_bytes(b"not an image any more")
    (collection / "pair_b.png").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["retrieve", "duplicates", str(tmp_path / "i")])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert "2 of 7 photos in 1 group (score 0.7 or more, images compared)" in err
    assert "1 photo left out, as its file no longer exists; " in err
    assert f"{collection / 'small.png'}: not an image" in err
    assert "1 photo could not be read; the lines above say why" in err


def test_groups_are_joined_through_others() -> None:
    """For any order of the pairs, and in one large group."""
    from visionzoo.pipelines.retrieve.duplicates import _joined

    rng = np.random.default_rng(1)
    chain = rng.permutation(500)
    order = rng.permutation(499)
    labels = np.arange(510)
    for part in np.array_split(order, 7):
        labels = _joined(labels, chain[:-1][part], chain[1:][part])
    assert set(labels[:500]) == {0}
    assert labels[500:].tolist() == list(range(500, 510))


def test_the_command_writes_a_page_and_json(
    small: RetrievePipeline, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small.index(collection, tmp_path / "i", progress=False)
    with pytest.raises(SystemExit) as ended:
        main(["retrieve", "duplicates", str(tmp_path / "i"), "-o", str(tmp_path / "d.html"), "--min-score", "0.999999"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert "group 1: 2 photos" in out
    assert "2 of 7 photos in 1 group " in err
    page = (tmp_path / "d.html").read_text(encoding="utf-8")
    assert 'href="my%20photos%20%231%2C%20100%20%25%20%C3%BC/pair_b.png"' in page
    record = json.loads((tmp_path / "d.html.json").read_text(encoding="utf-8"))
    assert [Path(photo["path"]).name for photo in record["groups"][0]] == ["pair_a.png", "pair_b.png"]
    assert record["options"]["min_score"] == 0.999999
    for target in ("d.html", "my photos #1, 100 % ü/pair_a.png"):
        words = ["--overwrite"] if target.endswith("png") else []
        with pytest.raises(SystemExit) as ended:
            main(["retrieve", "duplicates", str(tmp_path / "i"), "-o", str(tmp_path / target), *words])
        assert ended.value.code == 2
