"""Synthetic aerial images: the same seed gives the same image, and no image is empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visionzoo.errors import InputError
from visionzoo.models.dehazexl.scenes import aerial_scene, draw_sky, main


def test_the_seed_decides() -> None:
    first, again, other = aerial_scene(128, 3), aerial_scene(128, 3), aerial_scene(128, 4)
    assert first.shape == (128, 128, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_have_contrast_and_detail() -> None:
    scenes = [aerial_scene(256, seed).astype(np.float32) / 255 for seed in range(8)]
    assert 0.15 < np.mean(scenes) < 0.75
    for scene in scenes:
        assert scene.std() > 0.03
        fine = np.abs(np.diff(scene.mean(-1), axis=1)).reshape(8, 32, 255).mean((1, 2))
        assert (fine > 0.003).all()  # no flat band anywhere


def test_skies_are_smooth_and_above() -> None:
    sky, there = draw_sky(120, 160, np.random.default_rng(0))
    assert sky.shape == (120, 160, 3)
    assert there.shape == (120, 160)
    assert there[0].all()
    assert not there[-1].any()
    assert np.abs(np.diff(sky.astype(int), axis=0)).mean() < 4
    assert sky[0, :, 2].mean() > sky[0, :, 0].mean()


def test_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="at least 64"):
        aerial_scene(32, 0)


def test_the_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scenes", str(tmp_path / "out"), "--count", "2", "--side", "64", "--seed", "5"])
    main()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scene_000005.jpg", "scene_000006.jpg"]
