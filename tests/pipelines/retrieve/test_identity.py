"""The identity of photos: paths, links, moves, errors, changes that keep size and time, and unmounted disks."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from visionzoo.errors import InputError
from visionzoo.models.superglobal.index import PhotoIndex
from visionzoo.pipelines.retrieve import IndexReport, RetrievePipeline


@pytest.fixture(scope="module")
def small() -> RetrievePipeline:
    network: Any = tiny.superglobal()
    return RetrievePipeline(network, device="cpu", dtype="float32", max_side=64)


@pytest.fixture
def photos(photo: Callable) -> Path:
    """A folder of three photos."""
    made = [photo(f"photos/p{seed}.png", (90 + seed, 80), seed) for seed in range(3)]
    return made[0].parent


@pytest.fixture
def update(small: RetrievePipeline, tmp_path: Path) -> Callable[..., IndexReport]:
    def run(*sources: str | Path, **how: Any) -> IndexReport:
        return small.index([*sources], tmp_path / "i", progress=False, **how)

    return run


def paths(tmp_path: Path) -> list[Path]:
    with PhotoIndex.open(tmp_path / "i") as index:
        assert index.check() == []
        return sorted(photo.path for photo in index.photos())


def rewrite(path: Path, other: Path) -> None:
    """Other pixels in a file of the same size and modification time."""
    before = path.stat()
    content = other.read_bytes()
    length = max(before.st_size, len(content))
    assert length == before.st_size
    path.write_bytes(content.ljust(length, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_one_folder_under_several_paths(
    update: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert update(photos).photos == 3
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "alias").symlink_to("photos")
    (photos / "again.png").symlink_to("p0.png")
    for sources in (["../photos"], [tmp_path / "alias"], [tmp_path / "here" / ".." / "photos"], ["../alias", photos]):
        report = update(*sources)
        assert (report.photos, report.added, report.unchanged) == (3, 0, 3)
    assert paths(tmp_path) == sorted(photos.resolve() / f"p{n}.png" for n in range(3))


def test_a_hard_link_is_the_same_photo(update: Callable, photos: Path, tmp_path: Path) -> None:
    os.link(photos / "p0.png", photos / "linked.png")
    assert update(photos).photos == 3
    os.link(photos / "p1.png", tmp_path / "outside.png")
    assert (update(photos, tmp_path / "outside.png").photos, update(photos).added) == (3, 0)


def test_failed_files_are_tried_again(update: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONZOO_MAX_PIXELS", str(90 * 80))
    first = update(photos)
    assert (first.photos, len(first.failed)) == (1, 2)
    monkeypatch.delenv("VISIONZOO_MAX_PIXELS")
    second = update(photos)
    assert (second.photos, second.added, second.failed) == (3, 2, ())


def test_a_file_that_failed_and_was_deleted_is_forgotten(update: Callable, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_text("words")
    assert len(update(photos).failed) == 1
    (photos / "broken.png").unlink()
    report = update(photos)
    assert (report.failed, report.vanished) == ((), ())
    assert len(paths(tmp_path)) == 3


def test_a_change_that_keeps_size_and_time_is_seen(
    small: RetrievePipeline,
    update: Callable,
    photos: Path,
    photo: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = photos / "p0.png"
    target.write_bytes(target.read_bytes() + bytes(100_000))  # room for the other photo
    other = photo("other.png", (200, 90), 9)
    update(photos)
    rewrite(target, other)
    report = update(photos)
    assert (report.added, report.unchanged) == (1, 2)
    best = small(other, index=tmp_path / "i", top=1).matches[0]
    assert best.path == target.resolve()
    assert best.score == pytest.approx(1, abs=1e-5)


def test_other_times_of_the_same_content_are_not_read_again(update: Callable, photos: Path) -> None:
    update(photos)
    for file in photos.iterdir():
        os.utime(file, (5, 5))
    (photos / "p1.png").chmod(0o600)
    report = update(photos)
    assert (report.added, report.unchanged) == (0, 3)


@pytest.mark.parametrize("how", ["renamed", "copied"])
def test_a_moved_folder_is_recognised(
    small: RetrievePipeline, update: Callable, photos: Path, tmp_path: Path, how: str
) -> None:
    update(photos)
    if how == "renamed":
        photos.rename(tmp_path / "album")
    else:  # to another disk, without its times
        shutil.copytree(photos, tmp_path / "album", copy_function=shutil.copyfile)
        shutil.rmtree(photos)
    report = update(tmp_path / "album", prune=True)
    assert (report.photos, report.added, report.moved, report.vanished) == (3, 0, 3, ())
    assert {path.parent.name for path in paths(tmp_path)} == {"album"}
    assert not small(tmp_path / "album" / "p0.png", index=tmp_path / "i", top=1).matches[0].missing


def test_a_copy_counts_as_another_photo(update: Callable, photos: Path) -> None:
    update(photos)
    shutil.copy2(photos / "p0.png", photos / "copy.png")
    report = update(photos)
    assert (report.photos, report.added, report.moved) == (4, 1, 0)


def test_missing_files_are_marked_and_reported(
    small: RetrievePipeline, update: Callable, photos: Path, photo: Callable, tmp_path: Path
) -> None:
    query = photo("query.png", (90, 80), 0)
    update(photos)
    (photos / "p0.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of the photos found is missing .moved, deleted.*--prune"):
        (result,) = small.run(query, tmp_path / "r.html", False, index=tmp_path / "i", top=2)
    assert [match.missing for match in result.matches] == [True, False]
    assert result.to_dict()["matches"][0]["missing"] is True
    assert "file is missing" in (tmp_path / "r.html").read_text()
    assert update(photos, prune=True).removed == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.run(query, None, False, index=tmp_path / "i")


@pytest.mark.parametrize("left", ["empty", "nothing"])
def test_an_unmounted_disk_does_not_empty_the_index(
    update: Callable, photos: Path, photo: Callable, tmp_path: Path, left: str
) -> None:
    disk = photo("disk/a.png", seed=7).parent
    update(photos, disk)
    disk.rename(tmp_path / "away")
    if left == "empty":
        disk.mkdir()
    for sources in ([photos, disk], [disk]):
        with pytest.raises(InputError, match=r"disk: .*the index lists 1 photo in it; .*mount.*add --prune-empty"):
            update(*sources, prune=True)
    report = update(photos, prune=True)  # the disk is not named, and its photos stay
    assert (report.photos, report.removed, [path.name for path in report.unsure]) == (4, 0, ["a.png"])
    report = update(disk, prune_empty=True)
    assert (report.photos, report.removed) == (3, 1)


def test_an_empty_mount_point_inside_a_source(update: Callable, photos: Path, photo: Callable, tmp_path: Path) -> None:
    photo("photos/disk/a.png", seed=7)
    update(photos)
    (photos / "disk").rename(tmp_path / "away")
    (photos / "disk").mkdir()
    (photos / "p0.png").unlink()
    report = update(photos, prune=True)
    assert (report.removed, [path.name for path in report.unsure]) == (1, ["a.png"])


def test_all_photos_gone_on_purpose(update: Callable, photos: Path) -> None:
    update(photos)
    shutil.rmtree(photos)
    assert update(photos, prune_empty=True).photos == 0


def test_a_linked_folder_belongs_to_its_source(update: Callable, photos: Path, photo: Callable, tmp_path: Path) -> None:
    elsewhere = photo("elsewhere/b.png", seed=8).parent
    (photos / "linked").symlink_to(elsewhere)
    assert update(photos).photos == 4
    (elsewhere / "b.png").rename(elsewhere / "b.txt")
    assert update(photos, prune=True).removed == 1


def test_folders_that_cannot_be_read(
    update: Callable, photos: Path, photo: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are reported, and their photos do not count as deleted."""
    closed = photo("photos/closed/c.png", seed=6).parent
    update(photos)
    scandir, stat = os.scandir, Path.stat

    def refuse(path: Any = ".") -> Any:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    def refuse_stat(self: Path, **how: Any) -> os.stat_result:
        if self.parent == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat(self, **how)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(Path, "stat", refuse_stat)
    report = update(photos, prune=True)
    assert [(path, reason) for path, reason in report.failed] == [
        (closed, f"{closed}: cannot be read (Permission denied)")
    ]
    assert (report.photos, report.vanished) == (4, ())


def test_the_catalogue_knows_the_real_size(update: Callable, photos: Path, tmp_path: Path) -> None:
    update(photos)
    with PhotoIndex.open(tmp_path / "i") as index:
        assert sorted((photo.width, photo.height) for photo in index.photos()) == [(90, 80), (91, 80), (92, 80)]


def test_an_index_of_an_earlier_version(
    small: RetrievePipeline, update: Callable, photos: Path, tmp_path: Path
) -> None:
    """It is searched unchanged, and completed by the next update."""
    update(photos)
    with sqlite3.connect(tmp_path / "i" / "catalog.sqlite") as catalog:
        for column in ("ctime_ns", "digest", "source"):
            catalog.execute(f"ALTER TABLE photos DROP COLUMN {column}")
    assert small(photos / "p1.png", index=tmp_path / "i", top=1).matches[0].path.name == "p1.png"
    report = update(photos)
    assert (report.added, report.unchanged) == (0, 3)
    with PhotoIndex.open(tmp_path / "i") as index:
        assert all(photo.ctime_ns and photo.source == photos.resolve() for photo in index.photos())
