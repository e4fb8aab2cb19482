"""Training of IFNet: what the triplets promise, the loss, and the tiny recipe from data to a video pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("cv2")

from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.errors import InputError
from visionzoo.io.files import bundled
from visionzoo.io.video import VideoWriter
from visionzoo.models.lovecon import TripletData, warp
from visionzoo.models.lovecon.ifnet_training import pyramid_loss
from visionzoo.models.lovecon.triplets import ClipTriplets, PhotoTriplets, ToyTriplets
from visionzoo.pipelines.interpolate import InterpolatePipeline
from visionzoo.training.run import run


def test_the_flow_of_moving_photos_takes_both_frames_to_the_middle() -> None:
    """Except for what is covered, and for changes of light."""
    photos, still, off = PhotoTriplets(str(bundled("photos"))), [], []
    for stream in range(12):
        frames, flow = photos.draw(64, stream)
        planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
        to = torch.from_numpy(flow).permute(2, 0, 1)[None]
        for index, channels in ((0, slice(0, 2)), (2, slice(2, 4))):
            found = warp(planes[index : index + 1], to[:, channels])[0]
            off.append(float((found - planes[1]).abs().median()))
            still.append(float((planes[index] - planes[1]).abs().median()))
    assert np.mean(off) < 0.4 * np.mean(still)


@pytest.mark.parametrize("kind", ["photos", "toy world", "clip"])
def test_a_triplet_depends_on_its_number_only(kind: str, tmp_path: Path) -> None:
    source: Any
    if kind == "clip":
        with VideoWriter(tmp_path / "a.mkv", fps=10) as video:
            for number in range(8):
                grid = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
                video.write(np.roll(np.kron(grid, np.ones((8, 8, 1), np.uint8)), 2 * number, 1))
        source = ClipTriplets([str(tmp_path / "a.mkv")])
    else:
        source = PhotoTriplets(str(bundled("photos"))) if kind == "photos" else ToyTriplets("train")
    one, again, other = (source.draw(64, stream)[0] for stream in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == (3, 64, 64, 3)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() <= 1


def test_a_clip_of_cuts_or_few_frames_is_refused(tmp_path: Path) -> None:
    for count in (3, 8):
        with VideoWriter(tmp_path / f"{count}.mkv", fps=10, lossless=True) as video:
            for number in range(count):
                grid = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
                video.write(np.kron(grid, np.ones((8, 8, 1), np.uint8)))
    with pytest.raises(InputError, match=r"3\.mkv: has 3 frames, training needs at least 5"):
        ClipTriplets([str(tmp_path / "3.mkv")])
    with pytest.raises(InputError, match="consist of cuts"):
        ClipTriplets([str(tmp_path / "8.mkv")]).draw(64, 0)


def test_the_pyramid_loss_counts_coarse_errors_more() -> None:
    true = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    assert float(pyramid_loss(true, true)) == 0
    assert float(pyramid_loss(true + 0.1, true)) == pytest.approx(0.1)
    blurred = torch.nn.functional.avg_pool2d(noise, 9, 1, 4) * 9  # of about the same size
    assert float(pyramid_loss(true + blurred, true)) > float(pyramid_loss(true + noise, true))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 48}, "data.side must be a multiple of 32 and at least 64, got 48"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"photo_weight": 0}, "data.photo_weight must be above 0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TripletData(**settings)


def test_the_tiny_recipe_trains_and_its_weights_make_frames(tmp_path: Path) -> None:
    root = [f"trainer.default_root_dir={tmp_path}", "data.photo_weight=1", "data.toy_weight=0"]
    first = run("fit", ["lovecon/tiny_rife"], [*root, "trainer.max_steps=8"])
    after = run("fit", ["lovecon/tiny_rife"], [*root, "trainer.max_steps=40"])
    assert after["train/loss_epoch"] < first["train/loss_epoch"]
    file = tmp_path / "weights.safetensors"
    result = run("test", ["lovecon/tiny_rife"], [*root, f"model.checkpoint={file}"])
    assert result["test/psnr"] > 10
    pipe = InterpolatePipeline.create(checkpoint=file, device="cpu", dtype="float32")
    assert (pipe.name, pipe.config.width) == ("rife_nano", 8)
    frame = np.zeros((40, 48, 3), np.uint8)
    assert pipe(frame, frame).frames.shape == (1, 40, 48, 3)


def test_a_run_resumes_inside_an_epoch(tmp_path: Path) -> None:
    words = ["data.triplets=16", "data.photo_weight=1", "data.toy_weight=0", "trainer.check_val_every_n_epoch=9"]
    words.append("trainer.max_epochs=2")
    check_resumed_inside_an_epoch("lovecon/tiny_rife", tmp_path, words, steps=3, stop=1)
