"""The bundled scene is a moving one that can be reconstructed, and comes with its licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visionzoo.errors import InputError
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.pipelines.reconstruct.samples import write_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "scene"
    write_samples(folder)
    return folder


def test_the_scene_has_one_image_per_time_and_test_views_at_some_of_the_times(folder: Path):
    scene = read_capture(folder)
    assert scene.describe().startswith("blender: 60 training and 12 test views of 128 x 128, 3,000 points")
    times = [view.time for view in scene.train]
    assert times == pytest.approx(np.linspace(0, 1, 60))
    assert {view.time for view in scene.test} < set(times)


def test_every_camera_sees_the_points_where_its_image_shows_the_fox(folder: Path):
    scene = read_capture(folder)
    for view in (*scene.train, *scene.test):
        pixels, _ = view.camera.project(scene.points.positions)
        column, row = np.floor(pixels).astype(int).clip(0, 127).T
        shown = (view.pixels() < 250).any(-1)
        # the points come from four times, so that some of them miss the fox
        assert shown[row, column].mean() > 2 * shown.mean()
        assert shown.mean() < 0.4


def test_the_fox_moves(folder: Path):
    """From nearly the same side, the camera sees it in another pose after a round."""
    views = read_capture(folder).train
    first, later = views[0], min(views[10:30], key=lambda v: np.abs(v.camera.centre - views[0].camera.centre).sum())
    assert np.abs(first.camera.centre - later.camera.centre).max() < 0.6
    assert np.mean(np.abs(first.pixels().astype(int) - later.pixels()).max(-1) > 60) > 0.03


def test_authors_and_licences_come_with_it(folder: Path):
    text = (folder / "README.md").read_text()
    assert all(name in text for name in ("PixelMannen", "tomkranis", "AsoboStudio", "scurest", "CC0 1.0", "CC BY 4.0"))


def test_an_existing_file_is_kept(folder: Path, tmp_path: Path):
    (tmp_path / "fused.ply").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"fused\.ply: exists already; choose another name or add --overwrite"):
        write_samples(tmp_path)
    assert (tmp_path / "fused.ply").read_bytes() == b"mine"
    assert not (tmp_path / "README.md").exists()
    assert len(write_samples(tmp_path, overwrite=True)) == 60 + 12 + 4
    assert (tmp_path / "fused.ply").read_bytes() == (folder / "fused.ply").read_bytes()
