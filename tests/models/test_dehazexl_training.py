"""Training of DehazeXL: data sets of every layout; a run learns, resumes bit for bit, and exports weights that dehaze."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from tests.golden import seeded
from visionzoo.errors import InputError, VisionZooError
from visionzoo.metrics.restoration import psnr, ssim
from visionzoo.models.dehazexl import DehazeData, DehazeXL, DehazeXLTraining
from visionzoo.models.dehazexl.data import Pair, find_pairs, read_split, split_pairs
from visionzoo.models.dehazexl.losses import seam_loss
from visionzoo.training.run import load_config, run
from visionzoo.weights import read_metadata, save_safetensors

SMALL = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "heads": [1, 1, 2, 2],
    "bottleneck_depth": 1,
    "decoder_heads": [4, 2, 2, 1],
}


def save(path: Path, height: int = 70, width: int = 90, seed: int = 0, grey: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels if grey is None else np.full_like(pixels, grey)).save(path)


@pytest.fixture
def eight_k(tmp_path: Path) -> Path:
    """A small 8KDehaze, in which the value of a hazy image is its level."""
    for number in range(7):
        save(tmp_path / "clear" / f"{number:02d}.png", seed=number)
        for level in (1, 2):
            save(tmp_path / f"cloud_L{level}" / f"{number:02d}.png", grey=level)
    return tmp_path


# Data


def test_eight_k_dehaze(eight_k: Path) -> None:
    pairs = find_pairs(eight_k)
    assert [pair.name for pair in pairs] == [f"{number:02d}" for number in range(7)]
    assert [path.parent.name for path in pairs[3].hazy] == ["cloud_L1", "cloud_L2"]
    assert [path.parent.name for path in find_pairs(eight_k, ["cloud_L2"])[0].hazy] == ["cloud_L2"]
    train, test = split_pairs(pairs)
    assert (len(train), len(test)) == (5, 2)
    assert sorted(pair.name for pair in [*train, *test]) == [pair.name for pair in pairs]
    assert split_pairs(pairs) == (train, test)


def test_names_of_reside_and_o_haze(tmp_path: Path) -> None:
    for name in ("0001_0.8_0.1.jpg", "0001_0.9_0.2.jpg", "0002_0.8_0.1.jpg"):
        save(tmp_path / "reside" / "hazy" / name)
    for name in ("0001.png", "0002.png"):
        save(tmp_path / "reside" / "gt" / name)
    assert [(pair.name, len(pair.hazy)) for pair in find_pairs(tmp_path / "reside")] == [("0001", 2), ("0002", 1)]
    save(tmp_path / "ohaze" / "GT" / "01_outdoor_GT.jpg")
    save(tmp_path / "ohaze" / "hazy" / "01_outdoor_hazy.jpg")
    assert [pair.name for pair in find_pairs(tmp_path / "ohaze")] == ["01_outdoor_GT"]


def test_a_split_by_names(eight_k: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("02.png\n05\n\n")
    assert [pair.name for pair in read_split(tmp_path / "names.txt", find_pairs(eight_k))] == ["02", "05"]
    data = DehazeData(str(eight_k), crop=16, num_workers=0, test_names=str(tmp_path / "names.txt"))
    data.setup("test")
    assert [Path(hazy).name for hazy, _ in data.test_dataloader()] == ["02.png", "02.png", "05.png", "05.png"]


def test_a_crop_is_the_same_part_of_both(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "clear" / f"{number}.png", seed=number)
        save(tmp_path / "hazy" / f"{number}.png", seed=number)
    data = DehazeData(str(tmp_path), crop=32, num_workers=0, mirror=True, split=1.0, cache=str(tmp_path / "cache"))
    data.setup()
    assert data.train_set is not None
    items = [data.train_set[epoch, index] for epoch in range(3) for index in range(3)]
    for hazy, clear in items:
        assert hazy.shape == (3, 32, 32)
        assert torch.equal(hazy, clear)
    assert len({hazy.sum().item() for hazy, _ in items}) == 9
    assert torch.equal(data.train_set[1, 2][0], items[5][0])
    assert len(list((tmp_path / "cache").iterdir())) == 6  # decoded once each


def test_levels_are_drawn(eight_k: Path) -> None:
    data = DehazeData(str(eight_k), crop=16, num_workers=0)
    data.setup()
    assert data.train_set is not None
    seen = {round(data.train_set[epoch, 0][0].max().item() * 255) for epoch in range(12)}
    assert seen == {1, 2}


def test_drawn_haze_over_clear_images(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        save(tmp_path / name)
    data = DehazeData(str(tmp_path), "clear", crop=48, batch_size=2, num_workers=0, scenes=1, scene_side=64)
    data.setup()
    assert data.train_set is not None
    assert data.val_set is not None
    assert (len(data.train_set), len(data.val_set)) == (3, 1)
    hazy, clear = data.train_set[0, 0]
    assert hazy.std() < clear.std()
    assert not torch.equal(hazy, data.train_set[1, 0][0])
    (batch,) = list(data.train_dataloader())
    assert batch[0].shape == (2, 3, 48, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "missing"}, "no such folder"),
        ({"root": "."}, "lacks a folder of clear images"),
        ({"root": "only"}, "lacks folders of hazy images"),
        ({"root": "odd"}, "has no image of that name"),
        ({"root": "good", "levels": ["cloud_L9"]}, "has no folder cloud_L9; it has hazy"),
        ({"root": "good", "train_names": "nowhere.txt"}, "cannot be read"),
        ({"root": "missing", "layout": "clear"}, "no such folder"),
    ],
)
def test_errors_in_the_data_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("only/clear/a.png", "odd/clear/a.png", "odd/hazy/b.png", "good/clear/a.png", "good/hazy/a.png"):
        save(tmp_path / name)
    with pytest.raises(InputError, match=message):
        DehazeData(crop=16, num_workers=0, **options).setup()


def test_crops_larger_than_images_and_pairs_of_two_sizes(tmp_path: Path) -> None:
    save(tmp_path / "clear" / "a.png")
    save(tmp_path / "hazy" / "a.png")
    data = DehazeData(str(tmp_path), crop=80, num_workers=0, split=1.0)
    data.setup()
    with pytest.raises(InputError, match="90 x 70 pixels are less than a crop of 80"):
        assert data.train_set is not None
        data.train_set[0, 0]
    save(tmp_path / "hazy" / "a.png", width=91)
    with pytest.raises(InputError, match=r"is 91 x 70 pixels, but .* is 90 x 70 pixels"):
        data.train_set[0, 0]


@pytest.mark.parametrize(
    "options", [{"layout": "paired"}, {"layout": "scenes"}, {"layout": "tar", "root": "x"}, {"root": "x", "crop": 0}]
)
def test_settings_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        DehazeData(**options)


def test_one_image_may_stand_for_many() -> None:
    assert split_pairs([Pair("a", Path("a"), (Path("b"),))]) == ([], [Pair("a", Path("a"), (Path("b"),))])


def test_validation_is_on_the_same_crops_in_every_epoch() -> None:
    data = DehazeData(layout="scenes", scenes=3, scene_side=64, crop=32, num_workers=0, val_crops=5)
    data.setup()
    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    batches = []
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)  # pyright: ignore
        batches.append(torch.cat([torch.stack(batch) for batch in loader], 1))
    assert batches[0].shape[1] == 5
    assert torch.equal(*batches)


# Losses


def test_seams_are_steps_across_borders() -> None:
    clear = torch.rand(1, 3, 16, 24)
    assert seam_loss(clear + 0.3, clear, patch=8).item() == pytest.approx(0, abs=1e-6)
    stepped = clear.clone()
    stepped[..., 8:] += 0.2
    # one of two vertical borders has a step of 0.2; of 16 x 2 + 24 values, 16
    assert seam_loss(stepped, clear, patch=8).item() == pytest.approx(0.2 * 16 / 56, rel=1e-3)
    assert seam_loss(clear[..., :8, :8], clear[..., :8, :8], patch=8) == 0


# Runs


def _run(folder: Path, *words: str) -> dict[str, Any]:
    return run("fit", ["dehazexl/tiny"], [f"trainer.default_root_dir={folder}", *words])


@pytest.mark.slow
def test_the_tiny_run_learns_and_its_weights_dehaze(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert result["val/psnr"] > result["val/psnr_hazy"] + 1
    about = read_metadata(tmp_path / "weights.safetensors")
    assert about["model"] == "dehazexl_nano"
    pipe = visionzoo.pipeline("dehaze", checkpoint=tmp_path / "weights.safetensors", device="cpu")
    assert pipe.config.embed_dim == 16
    assert pipe(np.full((40, 50, 3), 180, np.uint8)).image.shape == (40, 50, 3)


def test_a_resumed_run_is_bit_equal(tmp_path: Path) -> None:
    words = ["data.scenes=4", "trainer.max_epochs=2"]
    _run(tmp_path / "whole", *words)
    # the rate of a step depends on how many epochs there are, so the first run is cut short by its steps
    _run(tmp_path / "cut", *words, "trainer.max_steps=2")
    _run(tmp_path / "cut", *words, "ckpt_path=last")
    whole, cut = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert whole["global_step"] == cut["global_step"] == 4
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][key]), key


def test_the_published_recipe() -> None:
    config = load_config(["dehazexl/8kdehaze"], ["data.root=somewhere"])
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["lr"], model["min_lr"], model["weight_decay"], model["frequency"]) == (1e-4, 1e-6, 0.01, 1.0)
    assert (data["crop"], data["split"], model["config"]) == (2048, 0.85, {"attention": "lsh"})


def small_weights(path: Path) -> DehazeXL:
    model = visionzoo.create_model("dehazexl_nano", **SMALL)
    assert isinstance(model, DehazeXL)
    model.load_state_dict(seeded.fill(model.state_dict()))
    save_safetensors(model.state_dict(), path, {"model": "dehazexl_nano", "config": json.dumps(SMALL)})
    return model


def test_testing_gives_the_numbers_of_the_whole_image(eight_k: Path, tmp_path: Path) -> None:
    save(eight_k / "clear" / "06.png", 300, 280, seed=1)
    for level in (1, 2):
        save(eight_k / f"cloud_L{level}" / "06.png", 300, 280, seed=2)
    (tmp_path / "names.txt").write_text("06\n")
    model = small_weights(tmp_path / "small.safetensors")
    words = [
        f"model.checkpoint={tmp_path / 'small.safetensors'}",
        f"model.config={json.dumps(SMALL)}",
        "model.name=dehazexl_nano",
        f"data.root={eight_k}",
        f"data.test_names={tmp_path / 'names.txt'}",
        "data.crop=32",
        "data.levels=[cloud_L2]",
        "trainer.accelerator=cpu",
    ]
    report = run("test", ["dehazexl/8kdehaze"], words)
    hazy, clear = (
        torch.from_numpy(np.asarray(Image.open(eight_k / folder / "06.png"))).permute(2, 0, 1).float() / 255
        for folder in ("cloud_L2", "clear")
    )
    with torch.no_grad():
        want = (model(hazy[None])[0].clamp(0, 1) * 255).round() / 255
    assert report["mean"]["psnr"] == pytest.approx(psnr(want, clear), abs=0.01)
    assert report["mean"]["ssim"] == pytest.approx(ssim(want, clear), abs=1e-3)
    assert report["mean"]["hazy_psnr"] == pytest.approx(psnr(hazy, clear), abs=1e-6)
    assert report["published"]["psnr"] == 32.35
    assert report["mean"]["lpips"] is None


def test_testing_random_weights_is_refused(eight_k: Path) -> None:
    with pytest.raises(VisionZooError, match="has random weights"):
        run("test", ["dehazexl/8kdehaze"], [f"data.root={eight_k}", "model.name=dehazexl_nano", "model.config={}"])


def test_a_model_of_another_task_is_refused() -> None:
    with pytest.raises(InputError, match="must be a DehazeXL"):
        DehazeXLTraining("shvit_s1")
