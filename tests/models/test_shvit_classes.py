"""Names of classes are saved with SHViT's weights, and decide which output belongs to which folder of images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from tests.tiny import SHVIT
from visionzoo.errors import InputError
from visionzoo.export import export_registered
from visionzoo.models.shvit import SHViTData, SHViTTraining
from visionzoo.training.run import run
from visionzoo.weights import read_checkpoint, read_metadata

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40), "zinc": (120, 120, 130)}


def colours(root: Path, *names: str) -> Path:
    """A data set of plain images, with a class for each colour."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                noise = rng.integers(-30, 31, (40, 40, 3))
                Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)).save(
                    folder / f"{number}.png"
                )
    return root


def words(root: Path, out: Path, *more: str) -> list[str]:
    small = "{embed_dim: [16, 24, 32], partial_dim: [8, 8, 8], depth: [1, 1, 1], num_classes: 3}"
    return [
        f"data.root={root}", "data.layout=imagenet", "data.batch_size=4", "data.image_size=32", f"model.config={small}",
        f"trainer.default_root_dir={out}", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", *more,
    ]  # fmt: skip


def prepared(root: Path, *, fit: bool, **options: Any) -> SHViTTraining:
    """A module that has been set up with the data at `root`."""
    data = SHViTData(str(root), batch_size=4, num_workers=0, image_size=32)
    data.setup("fit")
    module = SHViTTraining(config={**SHVIT, "num_classes": len(data.classes)}, **options)
    module._trainer = SimpleNamespace(datamodule=data, ckpt_path=None, training=fit)  # pyright: ignore
    module.setup("fit" if fit else "validate")
    return module


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a training on blue, green and red."""
    folder = tmp_path_factory.mktemp("first")
    run("fit", ["shvit/tiny"], words(colours(folder / "data", "blue", "green", "red"), folder / "out"))
    return folder / "out"


def test_names_are_in_every_file(first: Path) -> None:
    files = [first / name for name in ("weights.safetensors", "weights_ema.safetensors", "checkpoints/last.ckpt")]
    for file in files:
        about = read_metadata(file)
        assert about["classes"] == '["blue", "green", "red"]'
        assert (about["model"], about["image_size"]) == ("shvit_s1", "32")
        assert visionzoo.pipeline("classify", checkpoint=file, device="cpu").classes == ("blue", "green", "red")


def test_a_lightning_checkpoint_serves_as_weights(first: Path, tmp_path: Path) -> None:
    report = export_registered(
        "shvit_s1", tmp_path / "a.pt2", checkpoint=first / "checkpoints/last.ckpt", image_size=96
    )
    assert report.texts["classes"] == '["blue", "green", "red"]'
    module = SHViTTraining(config=SHVIT, checkpoint=str(first / "checkpoints/last.ckpt"))
    exported = read_checkpoint(first / "weights.safetensors")
    assert all(torch.equal(value, exported[key]) for key, value in module.model.state_dict().items())


@pytest.mark.parametrize("setting", ["model.checkpoint={}/weights.safetensors", "ckpt_path={}/checkpoints/last.ckpt"])
def test_other_classes_are_not_scored(first: Path, tmp_path: Path, setting: str) -> None:
    """The same number of classes with other names: without a check, every score would silently belong to a wrong class."""
    data = colours(tmp_path / "data", "green", "red", "zinc")
    with pytest.raises(
        InputError, match=r"was trained on different classes than those of the data \(not on zinc, but on blue\)"
    ):
        run("validate", ["shvit/tiny"], words(data, tmp_path, setting.format(first)))


def test_some_of_the_classes_are_scored_by_name(first: Path, tmp_path: Path) -> None:
    data = colours(tmp_path / "data", "green", "red")
    for setting in (f"model.checkpoint={first}/weights.safetensors", f"ckpt_path={first}/checkpoints/last.ckpt"):
        result = run("validate", ["shvit/tiny"], words(data, tmp_path, setting))
        pipe = visionzoo.pipeline("classify", checkpoint=first / "weights.safetensors", device="cpu")
        files = sorted((data / "val").glob("*/*.png"))
        right = [pipe(file).predictions[0].label == file.parent.name for file in files]
        assert result["val/top1"] == pytest.approx(100 * sum(right) / len(right), abs=1e-3)


def test_a_head_that_would_be_random_is_not_scored(first: Path, tmp_path: Path) -> None:
    data = colours(tmp_path / "data", "green", "red")
    settings = words(data, tmp_path, f"model.checkpoint={first}/weights.safetensors", "model.config.num_classes=2")
    with pytest.raises(InputError, match=r"set model\.config\.num_classes"):
        run("validate", ["shvit/tiny"], settings)


def test_continuing_keeps_the_outputs_of_known_classes(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = first / "weights.safetensors"
    old = read_checkpoint(file)
    module = prepared(colours(tmp_path / "a", "green", "red", "zinc"), fit=True, checkpoint=str(file))
    head = module.model.head.state_dict()
    for key in ("linear.weight", "linear.bias"):
        assert torch.equal(head[key][:2], old[f"head.{key}"][1:])
        assert not torch.equal(head[key][2], old[f"head.{key}"][0])
    assert torch.equal(head["norm.running_mean"], old["head.norm.running_mean"])
    assert module.average is not None
    assert torch.equal(module.average.module.head.linear.weight, module.model.head.linear.weight)
    assert (
        f"{file}: 2 of 3 classes keep their outputs (green, red); new: zinc; dropped: blue" in capsys.readouterr().err
    )
    fewer = prepared(colours(tmp_path / "b", "red", "blue"), fit=True, checkpoint=str(file))
    assert torch.equal(fewer.model.head.linear.weight, old["head.linear.weight"][[0, 2]])
    same = prepared(colours(tmp_path / "c", "red", "blue", "green"), fit=True, checkpoint=str(file))
    assert torch.equal(same.model.head.linear.weight, old["head.linear.weight"])


def test_resuming_on_other_classes_is_refused(first: Path, tmp_path: Path) -> None:
    data = colours(tmp_path / "data", "green", "red", "zinc")
    with pytest.raises(InputError, match=r"last\.ckpt: was trained on different classes"):
        run(
            "fit",
            ["shvit/tiny"],
            words(data, tmp_path, f"ckpt_path={first}/checkpoints/last.ckpt", "trainer.max_epochs=2"),
        )
