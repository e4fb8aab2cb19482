"""Training of SHViT: schedule, data, and that a run learns, resumes bit for bit, and exports what classifies."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.nn import functional as F

import visionzoo
from visionzoo.data.augmented import seeded
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.shvit import DistillationLoss, Preprocess, SHViTData, SHViTTraining
from visionzoo.models.shvit.data import class_names, read_classes
from visionzoo.models.shvit.losses import map_loss, similarity_loss
from visionzoo.models.shvit.training import epoch_rate, starting_network
from visionzoo.training.run import load_config, run
from visionzoo.weights import WeightsError, read_metadata, save_safetensors

SMALL = {"embed_dim": [16, 24, 32], "partial_dim": [8, 8, 8], "depth": [1, 1, 1], "num_classes": 13}


# The recipe


def test_rates_are_those_of_the_published_schedule() -> None:
    """timm's cosine with the published arguments, stepped after each epoch with that epoch's number."""
    from timm.scheduler import CosineLRScheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=4e-3)
    scheduler = CosineLRScheduler(optimizer, 300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    published = []
    for epoch in range(300):
        published.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    ours = [epoch_rate(epoch, 300, 4e-3, 1e-5, 1e-6, 5) for epoch in range(300)]
    assert ours == pytest.approx(published, rel=1e-9)
    assert ours[0] == ours[1] == 1e-6
    assert epoch_rate(0, 10, 1e-3, 1e-5, 1e-6, warmup_epochs=0, lag=0) == 1e-3


@pytest.mark.parametrize(("size", "decay"), [(1, 0.025), (2, 0.032), (3, 0.035), (4, 0.03)])
def test_recipes_of_the_four_sizes(size: int, decay: float) -> None:
    config = load_config([f"shvit/s{size}_imagenet"])
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["name"], model["weight_decay"], data["image_size"]) == (
        f"shvit_s{size}",
        decay,
        256 if size == 4 else 224,
    )
    images = data["batch_size"] * config["trainer"]["devices"]
    assert model["lr"] * images / model["lr_batch"] == pytest.approx(4e-3)


def test_recipe_of_the_large_images() -> None:
    fine, plain = (load_config([f"shvit/{name}"]) for name in ("s4_512", "s4_imagenet"))
    changed = {
        key: value for key, value in fine["model"]["init_args"].items() if plain["model"]["init_args"].get(key) != value
    }
    assert changed == {
        "pretrained": True, "lr": 4e-5, "lr_batch": None, "min_lr": 2e-7, "warmup_lr": 2e-8, "weight_decay": 1e-8,
    }  # fmt: skip
    assert (fine["data"]["init_args"]["image_size"], fine["trainer"]["max_epochs"]) == (512, 30)


def test_only_weights_with_two_axes_decay() -> None:
    module = SHViTTraining(config=SMALL, weight_decay=0.1)
    assert module.model.training  # Lightning would train batch norms in eval mode without a word
    groups = module.configure_optimizers().param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.1]
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(module.model.parameters()))


def test_gradients_are_clipped_to_the_weights() -> None:
    module = SHViTTraining(config=SMALL, clip_agc=0.02)
    weight = module.model.stages[0].blocks[0].ffn.expand.conv.weight
    weight.grad = torch.full_like(weight, 100.0)
    module.configure_gradient_clipping(None)
    rows, norms = weight.detach().flatten(1), weight.grad.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, 0.02 * rows.norm(dim=1))


def test_the_average_follows_the_formula() -> None:
    module = SHViTTraining(config=SMALL, ema_decay=0.9)
    assert module.average is not None
    with torch.no_grad():
        weight, average = module.model.head.linear.weight, module.average.module.head.linear.weight
        weight.fill_(1.0)
        module.on_train_batch_end(None, None, 0)  # the first one starts it  # pyright: ignore
        weight.fill_(2.0)
        module.on_train_batch_end(None, None, 1)  # pyright: ignore
    torch.testing.assert_close(average, torch.full_like(average, 0.9 * 1 + 0.1 * 2))


def test_matching_a_teacher_looks_at_no_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    loss = DistillationLoss("match", tau=2.0)
    got = loss(student, torch.zeros(6, dtype=torch.long), teacher)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    torch.testing.assert_close(got, 4 * (p * (p / q).log()).sum(-1).mean())
    assert loss(teacher, torch.zeros(6, dtype=torch.long), teacher).abs() < 1e-12
    with pytest.raises(InputError, match="teacher"):
        loss(student, torch.zeros(6, dtype=torch.long))


def test_similarity_loss_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert similarity_loss(student, teacher) == pytest.approx(0.5)  # cosines 0 and 1 / sqrt(2), twice, over two pairs
    assert similarity_loss(teacher, 7 * teacher) == pytest.approx(0.0, abs=1e-12)


def test_map_loss_sees_correlation_only() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(4, 3, 2, 2, generator=generator)
    scaled = cells * torch.tensor([2.0, 0.5, 9.0])[:, None, None] + 7
    assert map_loss(scaled, cells) == pytest.approx(0, abs=1e-4)
    assert map_loss(-cells, cells) == pytest.approx(2, abs=1e-4)
    columns = torch.randn(4, 3, 2, 2, generator=generator).transpose(0, 1).flatten(1).numpy()
    other = torch.from_numpy(columns).unflatten(1, (4, 2, 2)).transpose(0, 1)
    by_hand = [np.corrcoef(a, b)[0, 1] for a, b in zip(columns, cells.transpose(0, 1).flatten(1).numpy(), strict=True)]
    assert map_loss(other, cells) == pytest.approx(1 - np.mean(by_hand), abs=1e-4)


# Data


def _picture(seed: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(("bee", "ant", "cow")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for copy in range(count):
                _picture(10 * number + copy).save(tmp_path / "set" / split / name / f"{copy}.png")
    return tmp_path / "set"


def _data(root: Path | str | None, **options) -> SHViTData:
    data = SHViTData(
        None if root is None else str(root), **{"image_size": 32, "batch_size": 2, "num_workers": 0, **options}
    )
    data.setup()
    return data


def test_tar_files_give_what_folders_give(folders: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for split in ("train", "val"):
        with tarfile.open(packed / f"{split}.tar", "w") as tar:
            tar.add(folders / split, arcname=".")
    plain, tarred = _data(folders), _data(packed)
    assert plain.classes == tarred.classes == ["ant", "bee", "cow"]
    assert len(plain.train_set) == len(tarred.train_set) == 12
    for index in range(6):
        key = (0, index)
        ours, theirs = plain.val_set[key], tarred.val_set[key]
        assert ours[1] == theirs[1]
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)


def test_a_tar_of_one_tar_a_class(folders: Path, tmp_path: Path) -> None:
    """The form in which ImageNet itself is handed out."""
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for name in ("ant", "bee", "cow"):
            inner = tmp_path / f"{name}.tar"
            with tarfile.open(inner, "w") as tar:
                for file in sorted((folders / "train" / name).iterdir()):
                    tar.add(file, arcname=file.name)
            outer.add(inner, arcname=inner.name)
    pictures = read_classes(tmp_path / "train.tar")
    assert pictures.classes == ["ant", "bee", "cow"]
    assert sorted(pictures.labels) == [0] * 4 + [1] * 4 + [2] * 4
    assert pictures(0).shape == (40, 40, 3)


def test_repeats_differ_and_epochs_do(folders: Path) -> None:
    data = _data(folders, repeats=3)
    loader = data.train_dataloader()
    keys = list(loader.sampler)
    assert len(keys) == 12
    assert [copy for _, _, copy in keys[:3]] == [0, 1, 2]
    assert len({index for _, index, _ in keys[:3]}) == 1
    first, second = data.train_set[keys[0]][0], data.train_set[keys[1]][0]
    assert not torch.equal(first, second)
    assert torch.equal(first, data.train_set[keys[0]][0])
    loader.sampler.set_epoch(1)
    assert list(loader.sampler) != keys
    assert len(list(_data(folders, repeats=1).train_dataloader().sampler)) == 12


@pytest.mark.parametrize("augmentation", [None, "3-augment", "rand-m9-mstd0.5-inc1"])
def test_augmentations_give_the_input_of_the_network(folders: Path, augmentation: str | None) -> None:
    data = _data(folders, augmentation=augmentation, erasing=1.0 if augmentation is None else 0.0)
    image, label, index = data.train_set[(0, 3, 0)]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert (label, index) == (0, 3)


def test_validation_pictures_go_the_published_way(folders: Path) -> None:
    image, _, _ = _data(folders).val_set[(5, 0)]
    torch.testing.assert_close(image, Preprocess(32)(np.asarray(_picture(10))))


def test_seeded_leaves_the_generators_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with seeded(1, 2):
        inside = torch.rand(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(1, 2):
        assert torch.equal(torch.rand(2), inside)
    with seeded(1, 3):
        assert not torch.equal(torch.rand(2), inside)


def test_imagenets_folders_get_names() -> None:
    wnids = [f"n{number:08d}" for number in range(1000)]
    assert class_names(wnids)[281] == "tabby"
    assert class_names(["b", "a"]) == ["b", "a"]


def test_what_is_wrong_with_the_data_is_one_line(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        _data(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"neither train/ nor train\.tar"):
        _data(folders / "train" / "ant")
    with pytest.raises(InputError, match="data.root is the folder"):
        SHViTData()
    with pytest.raises(InputError, match="even number"):
        SHViTData("x", batch_size=3)
    with pytest.raises(InputError, match="do not fill a batch of 64"):
        _data(folders, batch_size=64).train_dataloader()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.tar").write_bytes(b"this is no tar file" * 100)
    with pytest.raises(InputError, match=r"train\.tar: holds no images"):
        _data(tmp_path / "broken")
    (tmp_path / "one" / "train" / "only").mkdir(parents=True)
    _picture(0).save(tmp_path / "one" / "train" / "only" / "a.png")
    with pytest.raises(InputError, match="has 1 class, expected two or more"):
        _data(tmp_path / "one")
    (folders / "val" / "cow").rename(folders / "val" / "dog")
    with pytest.raises(InputError, match="its classes are not those of"):
        _data(folders)


def test_validating_needs_no_pictures_to_train_on(folders: Path) -> None:
    shutil.rmtree(folders / "train")
    data = SHViTData(str(folders), image_size=32, batch_size=2, num_workers=0)
    data.setup("validate")
    assert (data.classes, len(data.val_set)) == (["ant", "bee", "cow"], 6)
    with pytest.raises(InputError, match=r"neither train/ nor train\.tar"):
        _data(folders)


def test_a_broken_picture_is_named(folders: Path) -> None:
    buffer = io.BytesIO()
    _picture(0).save(buffer, "PNG")
    (folders / "train" / "ant" / "0.png").write_bytes(buffer.getvalue()[:-600])
    data = _data(folders)
    with pytest.raises(InputError, match=r"train/ant/0\.png: .*(truncated|cut off|incomplete)"):
        data.train_set[(0, 0, 0)]


# Beginning from weights


def test_starting_from_weights_keeps_all_but_the_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {**SMALL, "num_classes": 5}
    source = visionzoo.create_model("shvit_s1", **config)
    save_safetensors(source.state_dict(), tmp_path / "five.safetensors")
    same = starting_network("shvit_s1", config, False, str(tmp_path / "five.safetensors"))
    torch.testing.assert_close(same.head.linear.weight, source.head.linear.weight)
    other = starting_network("shvit_s1", SMALL, False, str(tmp_path / "five.safetensors"))
    assert other.head.linear.weight.shape == (13, 32)
    torch.testing.assert_close(other.stem[0].conv.weight, source.stem[0].conv.weight)
    torch.testing.assert_close(
        other.stages[2].blocks[0].ffn.project.conv.weight, source.stages[2].blocks[0].ffn.project.conv.weight
    )
    with pytest.raises(WeightsError, match="does not fit"):
        starting_network("shvit_s1", {**SMALL, "embed_dim": [16, 24, 40]}, False, str(tmp_path / "five.safetensors"))
    with pytest.raises(InputError, match="not both"):
        starting_network("shvit_s1", SMALL, True, "x.pth")


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match=r"distillation needs model\.teacher"):
        SHViTTraining(config=SMALL, distillation="hard")
    with pytest.raises(InputError, match="similarity and maps go with"):
        SHViTTraining(config=SMALL, similarity=1.0)
    with pytest.raises(InputError, match="training needs a head"):
        SHViTTraining(config={**SMALL, "num_classes": 0})
    with pytest.raises(InputError, match="timm has no network 'regnety_16o'; near: regnety"):
        SHViTTraining(config=SMALL, distillation="hard", teacher="regnety_16o")


# Runs


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
    """With repeated augmentation, mixing and the average, as `visionzoo fit … --trainer.strategy ddp` does on GPUs."""
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


def test_matching_a_teacher_leaves_its_helpers_out_of_the_export(tmp_path: Path) -> None:
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
    exported = visionzoo.create_model(
        "shvit_s1", checkpoint=tmp_path / "weights.safetensors", **{**SMALL, "num_classes": 1000}
    )
    torch.testing.assert_close(exported.head.linear.weight, module.model.head.linear.weight, rtol=1e-3, atol=1e-4)
    assert "classes" not in read_metadata(tmp_path / "weights.safetensors")  # those of the pictures are not its own
    assert 0 <= trainer.callback_metrics["val/top1"] <= 100


def test_the_teacher_sees_its_own_normalisation(tmp_path: Path) -> None:
    import timm

    from visionzoo.models.shvit.teacher import Teacher

    torch.manual_seed(0)
    network = timm.create_model("test_resnet").eval()
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
        ("data.batch_size=7", "batch_size is an even number"),
        ("model.lr=1e30", "the loss is nan at step|the loss is inf at step"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(VisionZooError, match=message) as caught:
        _run(tmp_path, word, "trainer.max_epochs=2")
    assert "\n" not in str(caught.value)


def test_validating_random_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"random weights; give model\.checkpoint=FILE"):
        run("validate", ["shvit/tiny"], [f"trainer.default_root_dir={tmp_path}"])


def test_weights_of_other_classes_are_not_scored(tmp_path: Path) -> None:
    """As many classes of other names: every number would be of the wrong classes, without a word."""
    module = SHViTTraining(config=load_config(["shvit/tiny"], [])["model"]["init_args"]["config"])
    module._classes = [f"thing {number}" for number in range(13)]
    module.export_weights(tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"other\.safetensors: was trained on other classes than the data has .thing 0"
    ):
        run("validate", ["shvit/tiny"], [f"model.checkpoint={tmp_path / 'other.safetensors'}"])
    saved: dict[str, Any] = {}
    module.on_save_checkpoint(saved)
    other = SHViTTraining(config=SMALL)
    other._trainer = SimpleNamespace(ckpt_path="last.ckpt")  # pyright: ignore[reportAttributeAccessIssue]
    other._classes = [str(number) for number in range(13)]
    with pytest.raises(InputError, match=r"last\.ckpt: was trained on other classes"):
        other.on_load_checkpoint(saved)
    other._classes = module._classes
    other.on_load_checkpoint(saved)
    other.on_load_checkpoint({})  # of a version that did not write them


def test_losses_count_each_picture_once(tmp_path: Path) -> None:
    """As if a distributed sampler had given one twice."""
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
