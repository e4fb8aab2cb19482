"""Training of SHViT: a run learns, resumes bit for bit, and exports weights that classify."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

import visionzoo
from tests.tiny import SHVIT
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.shvit import SHViTData, SHViTTraining
from visionzoo.models.shvit.training import starting_file, starting_network
from visionzoo.training.run import run
from visionzoo.weights import WeightsError, read_metadata, save_safetensors

SMALL = {**SHVIT, "num_classes": 13}


def test_starting_from_weights_keeps_all_but_the_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {**SMALL, "num_classes": 5}
    source: Any = visionzoo.create_model("shvit_s1", **config)
    save_safetensors(source.state_dict(), tmp_path / "five.safetensors")
    same, new_head = starting_network("shvit_s1", config, tmp_path / "five.safetensors")
    assert not new_head
    torch.testing.assert_close(same.head.linear.weight, source.head.linear.weight)
    other, new_head = starting_network("shvit_s1", SMALL, tmp_path / "five.safetensors")
    assert new_head
    assert other.head.linear.weight.shape == (13, 32)
    torch.testing.assert_close(other.stem[0].conv.weight, source.stem[0].conv.weight)
    torch.testing.assert_close(
        other.stages[2].blocks[0].ffn.project.conv.weight, source.stages[2].blocks[0].ffn.project.conv.weight
    )
    with pytest.raises(WeightsError, match="does not fit"):
        starting_network("shvit_s1", {**SMALL, "embed_dim": [16, 24, 40]}, tmp_path / "five.safetensors")
    with pytest.raises(InputError, match="not both"):
        starting_file("shvit_s1", True, "x.pth")


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match=r"give both model\.distillation and model\.teacher"):
        SHViTTraining(config=SMALL, distillation="hard")
    with pytest.raises(InputError, match="similarity and maps need"):
        SHViTTraining(config=SMALL, similarity=1.0)
    with pytest.raises(InputError, match="training needs a head"):
        SHViTTraining(config={**SMALL, "num_classes": 0})
    with pytest.raises(InputError, match="timm has no network 'regnety_16o'; near: regnety"):
        SHViTTraining(config=SMALL, distillation="hard", teacher="regnety_16o")


def _run(folder: Path, *words: str) -> dict:
    return run("fit", ["shvit/tiny"], [f"trainer.default_root_dir={folder}", *words])


@pytest.mark.slow
def test_the_tiny_run_learns_and_its_weights_classify(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert result["val/top1"] > 45  # of 13 subjects, six times chance
    assert result["train/loss"] < 0.6 * math.log(13)
    about = read_metadata(tmp_path / "weights.safetensors")
    assert about["model"] == "shvit_s1"
    pipe = visionzoo.pipeline("classify", checkpoint=tmp_path / "weights.safetensors")
    assert {"val/top1_ema", "val/loss_ema"} <= result.keys()  # of weights_ema.safetensors
    queries = sorted((Path(visionzoo.__file__).parent / "assets" / "queries").glob("*.jpg"))
    best = [pipe(query).predictions[0].label for query in queries]
    right = sum(label == query.stem for label, query in zip(best, queries, strict=True))
    assert 100 * right / len(queries) == pytest.approx(result["val/top1"], abs=0.01)
    validated = run("validate", ["shvit/tiny"], [f"model.checkpoint={tmp_path / 'weights.safetensors'}"])
    assert validated["val/top1"] == pytest.approx(result["val/top1"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one_command_says(tmp_path: Path) -> None:
    """With repeated augmentation, mixing and averaging, like `visionzoo fit … --trainer.strategy ddp` on GPUs."""
    words = [
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp",
        "--trainer.max_epochs",
        "2",
        "data.repeats=3",
        "data.batch_size=8",
    ]
    command = [
        sys.executable,
        "-m",
        "visionzoo",
        "fit",
        "--config",
        "shvit/tiny",
        f"trainer.default_root_dir={tmp_path}",
    ]
    done = subprocess.run(
        [*command, *words, "model.mixup=0.8", "trainer.check_val_every_n_epoch=2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "val/top1" in done.stdout
    assert (tmp_path / "weights_ema.safetensors").is_file()


@pytest.mark.parametrize("mixed", [(), ("model.mixup=0.8", "model.cutmix=1.0", "data.erasing=0.25", "data.repeats=3")])
def test_a_resumed_run_is_bit_equal(tmp_path: Path, mixed: tuple[str, ...]) -> None:
    words = [*mixed, "data.augmentation=rand-m9-mstd0.5-inc1", "data.image_size=32"]
    _run(tmp_path / "whole", "trainer.max_epochs=3", *words)
    # the rate of an epoch depends on how many there are, so the first run is cut short by its steps
    steps = "trainer.max_steps=8"
    _run(tmp_path / "cut", "trainer.max_epochs=3", steps, *words)
    _run(tmp_path / "cut", "trainer.max_epochs=3", "ckpt_path=last", *words)
    whole, cut = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert whole["global_step"] == cut["global_step"] == 12
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][key]), key


def test_distillation_trains_two_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    checkpoint = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    save_safetensors(timm.create_model("test_resnet").state_dict(), checkpoint)
    module = SHViTTraining(
        config={**SMALL, "num_classes": 1000},
        distillation="hard",
        teacher="test_resnet",
        teacher_checkpoint=str(checkpoint),
    )
    assert module.model.distillation_head is not None
    assert not any(key.startswith("teacher") for key in module.state_dict())
    data = SHViTData(layout="samples", image_size=32, batch_size=8, num_workers=0, repeats=1, augmentation=None)
    monkeypatch.setattr(module, "check_classes", lambda found: None)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    before = module.model.distillation_head.linear.weight.detach().clone()
    trainer.fit(module, datamodule=data)
    assert not torch.equal(before, module.model.distillation_head.linear.weight)


def test_matching_a_teacher_exports_the_student_only(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    save_safetensors(timm.create_model("test_resnet").state_dict(), tmp_path / "t.safetensors")
    teacher = {"teacher": "test_resnet", "teacher_checkpoint": str(tmp_path / "t.safetensors")}
    module = SHViTTraining(
        config={**SMALL, "num_classes": 1000},
        distillation="match",
        similarity=1.0,
        maps=1.0,
        export_half=True,
        **teacher,
    )
    data = SHViTData(layout="samples", image_size=64, batch_size=8, num_workers=0, repeats=1, augmentation=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    assert module.projection is not None
    before = module.projection.weight.detach().clone()
    trainer.fit(module, datamodule=data)
    assert not torch.equal(before, module.projection.weight)
    exported: Any = visionzoo.create_model(
        "shvit_s1", checkpoint=tmp_path / "weights.safetensors", **{**SMALL, "num_classes": 1000}
    )
    torch.testing.assert_close(exported.head.linear.weight, module.model.head.linear.weight, rtol=1e-3, atol=1e-4)
    assert "classes" not in read_metadata(tmp_path / "weights.safetensors")  # the images' labels are not the teacher's
    assert 0 <= trainer.callback_metrics["val/top1"] <= 100


def test_the_teacher_sees_its_own_normalisation(tmp_path: Path) -> None:
    import timm

    from visionzoo.models.shvit.teacher import Teacher

    torch.manual_seed(0)
    network: Any = timm.create_model("test_resnet").eval()
    save_safetensors(network.state_dict(), tmp_path / "t.safetensors")
    teacher = Teacher("test_resnet", str(tmp_path / "t.safetensors")).train()
    assert not teacher.network.training
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    ours = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    logits, pooled, cells = teacher(ours)
    torch.testing.assert_close(logits, network((pixels - mean) / std), rtol=1e-4, atol=1e-4)
    assert pooled.shape == (2, network.num_features)
    assert cells.shape == (2, teacher.map_width, 2, 2)
    assert not logits.requires_grad


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "model.config.num_classes=12",
            r"the data has 13 classes, but the network has 12 outputs; set model\.config\.num_classes=13",
        ),
        ("model.distilation=hard", r"no setting 'distilation'; did you mean distillation"),
        ("data.batch_size=7", "batch_size must be even"),
        ("model.lr=1e30", "the loss is nan at step|the loss is inf at step"),
    ],
)
def test_a_wrong_setting_is_a_one_line_error(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(VisionZooError, match=message) as caught:
        _run(tmp_path, word, "trainer.max_epochs=2")
    assert "\n" not in str(caught.value)


def test_validating_random_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"random weights; give model\.checkpoint=FILE"):
        run("validate", ["shvit/tiny"], [f"trainer.default_root_dir={tmp_path}"])


def test_losses_count_each_image_once(tmp_path: Path) -> None:
    """As if a distributed sampler had returned one image twice."""
    module = SHViTTraining(config=SMALL)
    module.eval()
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **_: logged.update({k: float(v) for k, v in values.items()})  # pyright: ignore
    module._trainer = type("T", (), {"world_size": 1})()  # pyright: ignore
    module.on_validation_epoch_start()
    with torch.no_grad():
        for rows, numbers in ((slice(0, 2), [0, 1]), (slice(1, 3), [1, 2])):
            module.validation_step((images[rows], labels[rows], torch.tensor(numbers)), 0)
        module.on_validation_epoch_end()
        expected = F.cross_entropy(module(images), labels)
    assert logged["val/loss"] == pytest.approx(float(expected), rel=1e-5)
