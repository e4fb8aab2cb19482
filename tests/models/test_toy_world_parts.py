"""Parts of characters in images of the toy world: the recipe learns, resumes bit for bit, and is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import visionzoo
from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.data.toy_world import COLORS
from visionzoo.errors import InputError
from visionzoo.models.toy_world import CLASSES, PartFramesData, PartsReport, find_parts, true_parts
from visionzoo.models.toy_world.frames import random_scene
from visionzoo.training.run import run


def test_true_parts_have_their_colors() -> None:
    """Without lines, all pixels of a character's shirt have the shirt's colour, and those of the world have no part."""
    seen = 0
    for stream in range(4):
        scene = random_scene("train", stream, 96)
        frame = scene.draw()
        parts = true_parts(scene.clip, frame)
        people = (frame.instances > 0) & (frame.instances <= len(scene.clip.characters))
        flat = parts != CLASSES.index("line")
        assert ((parts > CLASSES.index("line")) == (people & flat)).all()
        for number, character in enumerate(scene.clip.characters, start=1):
            for part, color in character.colors.items():
                mask = (parts == CLASSES.index(part)) & (frame.instances == number)
                assert (frame.rgb[mask] == COLORS[color]).all()
                seen += mask.any()
    assert seen > 6


def test_training_frames_are_degraded_and_new_in_every_epoch() -> None:
    data = PartFramesData(worlds=2, takes=2, size=64, val_frames=2).training
    images, classes = data[0, 1]
    assert images.shape == (2, 3, 64, 64)
    assert classes.shape == (2, 64, 64)
    assert torch.equal(data[0, 1][0], images)
    assert not torch.equal(data[1, 1][0], images)
    colors = [
        len(np.unique(image.reshape(3, -1), axis=1).T) for epoch in range(4) for image in data[epoch, 0][0].numpy()
    ]
    assert max(colors) > 3 * min(colors)


@pytest.mark.parametrize("size", [(64, 64), (70, 101)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network: Any = visionzoo.create_model("toy_parts", channels=(4, 8))
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    found = find_parts(network, images, confidence=0)
    assert found.shape == (3, *size)
    assert found.max() < len(CLASSES)
    assert (found[1] == find_parts(network, images[1:2], confidence=0)[0]).mean() > 0.999
    assert not find_parts(network, images, confidence=1).any()


def test_the_report_counts_pixels() -> None:
    confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    hair, shirt = CLASSES.index("hair"), CLASSES.index("shirt")
    confusion[0, 0], confusion[hair, hair], confusion[hair, shirt], confusion[shirt, shirt] = 60, 20, 10, 10
    report = PartsReport.of(confusion)
    rows = {each.part: each for each in report.parts}
    assert report.accuracy == 0.9
    assert rows["hair"].iou == pytest.approx(20 / 30)
    assert rows["shirt"].iou == pytest.approx(10 / 20)
    assert (rows["hair"].recall, rows["shirt"].precision) == pytest.approx((2 / 3, 0.5))
    assert report.mean_iou == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert np.isnan(rows["bag"].iou)
    assert "| hair | 30.00% | 0.667 | 66.7% | 100.0% |" in str(report)


def test_the_recipe_learns_and_is_tested(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = [f"trainer.default_root_dir={tmp_path}"]
    first = run("fit", ["toy_world/tiny_parts"], [*root, "trainer.max_steps=1"])
    after = run("fit", ["toy_world/tiny_parts"], root)
    assert after["train/loss"] < 0.8 * first["train/loss"]
    capsys.readouterr()
    result = run("test", ["toy_world/tiny_parts"], [*root, f"model.checkpoint={tmp_path / 'weights.safetensors'}"])
    assert result["pixels"] == 4 * 64 * 64
    assert 0 < result["accuracy"] < 1
    assert "| background |" in capsys.readouterr().out


def test_resuming_inside_an_epoch(tmp_path: Path) -> None:
    words = ["data.val_frames=1", "data.worlds=8", "trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2"]
    check_resumed_inside_an_epoch("toy_world/tiny_parts", tmp_path, words, steps=3, stop=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PartFramesData(takes=0), "data.takes and data.test_frames must be at least 1, got 1000, 0 and 400"),
        (lambda: PartFramesData(batch_size=0), "data.batch_size must be at least 1"),
        (lambda: visionzoo.create_model("toy_parts", channel=(8,)), "channels"),
        (lambda: visionzoo.create_model("toy_parts", channels=()), "must be positive numbers"),
        (
            lambda: find_parts(visionzoo.create_model("toy_parts"), np.zeros((8, 8, 3), np.uint8)),  # pyright: ignore[reportArgumentType]
            r"expected uint8 \(N, H, W, 3\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
