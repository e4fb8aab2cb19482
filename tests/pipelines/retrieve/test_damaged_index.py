"""An index that is damaged, read-only or another model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import visionzoo
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.superglobal.index import PhotoIndex
from visionzoo.pipelines.retrieve import RetrievePipeline

from ..assets import ASSETS
from .search_results import names


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
def test_a_damaged_index_is_a_one_line_error(
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
    with pytest.raises(InputError, match="other settings .max_side 160, but this is 192"):
        other(query, index=copy)
    with pytest.raises(InputError, match="other settings .scales"):
        RetrievePipeline.create(scales=(1.0, 2.0))(query, index=copy)
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
    with pytest.raises(InputError, match="was made with the model superglobal_lite0, but this is superglobal_r50"):
        weights_free = RetrievePipeline(visionzoo.create_model("superglobal_r50", dim=8), "superglobal_r50")  # pyright: ignore
        weights_free.check_index(index, PhotoIndex.open(index).manifest)


def test_read_only_index_can_be_searched(pipe: RetrievePipeline, copy: Path) -> None:
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert names(pipe(ASSETS / "queries" / "cat.jpg", index=copy, top=1))[0].startswith("cat")
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
