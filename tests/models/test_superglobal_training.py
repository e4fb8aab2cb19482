"""Training of SuperGlobal networks: the loss head, the data, and a run that learns, resumes and exports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.nn import functional as F

import visionzoo
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.superglobal.data import (
    SuperGlobalData,
    read_gldv2,
    split_by_class,
)
from visionzoo.models.superglobal.descriptors import DescriptorShards, read_descriptors
from visionzoo.models.superglobal.losses import ArcFace, arcface_logits
from visionzoo.models.superglobal.revisited_data import RevisitedData, equal_size_batches
from visionzoo.models.superglobal.synthetic import draw_landmark, make_distractors
from visionzoo.models.superglobal.training import (
    SuperGlobalTraining,
    load_backbone,
    rate_factor,
    retrieval_by_class,
)
from visionzoo.training.run import run
from visionzoo.weights import WeightsError

TINY = {"backbone": "timm:test_resnet", "dim": 16}


# The head


def test_arcface_equals_the_formula_with_angles():
    generator = torch.Generator().manual_seed(0)
    head = ArcFace(12, 5, margin=0.3, scale=20.0)
    descriptors = 3 * torch.randn(50, 12, generator=generator)
    labels = torch.arange(50) % 5
    x, w = descriptors.double(), head.weight.detach().double()
    cosine = (x / x.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).T
    expected = cosine.clone()
    for row, label in enumerate(labels.tolist()):
        angle = math.acos(cosine[row, label])
        beyond = angle + 0.3 > math.pi
        expected[row, label] = math.cos(angle) - 0.3 * math.sin(0.3) if beyond else math.cos(angle + 0.3)
    torch.testing.assert_close(head(descriptors, labels), (20 * expected).float(), rtol=1e-5, atol=1e-5)


def test_arcface_with_angles_above_180_degrees():
    cosines = torch.tensor([[math.cos(3.0), 0.0]], dtype=torch.float64)
    logits = arcface_logits(cosines, torch.tensor([0]), margin=0.5, scale=1.0)
    assert logits[0, 0].item() == pytest.approx(math.cos(3.0) - 0.5 * math.sin(0.5))


def test_arcface_gradient():
    generator = torch.Generator().manual_seed(1)
    cosines = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    cosines[0, 0] = math.cos(3.05)  # beyond 180 degrees
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda c: arcface_logits(c, labels, 0.15, 30.0), cosines.requires_grad_())


def test_arcface_gradient_is_finite_where_the_angle_has_none():
    head = ArcFace(4, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4)[:2])
    descriptors = torch.stack([torch.eye(4)[0], -torch.eye(4)[1], torch.zeros(4)]).requires_grad_()
    F.cross_entropy(head(descriptors, torch.tensor([0, 1, 0])), torch.tensor([0, 1, 0])).backward()
    assert descriptors.grad is not None
    assert torch.isfinite(descriptors.grad).all()
    assert torch.isfinite(head.weight.grad).all()


def test_arcface_computes_in_float32_under_autocast():
    head = ArcFace(8, 3)
    descriptors, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(descriptors, labels)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, head(descriptors, labels))


@pytest.mark.parametrize("wrong", [{"num_classes": 1}, {"margin": 2.0}, {"scale": 0.0}])
def test_arcface_refuses_senseless_arguments(wrong):
    with pytest.raises(InputError, match="ArcFace needs"):
        ArcFace(**{"dim": 4, "num_classes": 3, **wrong})


# The schedule and the validation measure


def test_learning_rate_rises_then_falls_with_the_cosine():
    factors = [rate_factor(epoch, 100, 5) for epoch in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[5] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.05)))
    assert max(factors) == factors[5]
    assert factors[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert rate_factor(50, -1, 5) == 1


def test_retrieval_by_class_by_hand():
    angles = torch.tensor([0.0, 0.1, 1.0, 1.3, 3.0])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 0, 1, 1, 2])  # the last is alone: no query
    assert retrieval_by_class(embeddings, labels, chunk=2) == (1.0, 1.0)
    # images 0 and 3 are one class, 1 and 2 another: each query's partner comes at position 2, 1, 1, 2
    labels = torch.tensor([0, 1, 1, 0, 2])
    mean_ap, recall = retrieval_by_class(embeddings, labels)
    by_hand = []
    for query in range(4):
        order = sorted((i for i in range(5) if i != query), key=lambda i: -math.cos(angles[query] - angles[i]))
        position = next(place for place, i in enumerate(order) if labels[i] == labels[query])
        before = 1.0 if position == 0 else 0.0
        by_hand.append((before + 1 / (position + 1)) / 2)
    assert mean_ap == pytest.approx(np.mean(by_hand))
    assert recall == 0.0
    assert math.isnan(retrieval_by_class(embeddings, torch.arange(5))[0])


# Data


def _write(path: Path, seed: int = 0, size: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_landmark(seed, size).save(path)


def test_landmarks_v2_layout(tmp_path):
    (tmp_path / "train_clean.csv").write_text("landmark_id,images\n17,abc123 def456\n3,0a1b2c\n")
    found = read_gldv2(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == [
        "0/a/1/0a1b2c.jpg",
        "a/b/c/abc123.jpg",
        "d/e/f/def456.jpg",
    ]
    assert found.labels == [0, 1, 1]
    (tmp_path / "train").mkdir()
    assert read_gldv2(tmp_path).paths[0] == tmp_path / "train/0/a/1/0a1b2c.jpg"
    (tmp_path / "train_clean.csv").write_text("landmark_id,images\n17,../../../etc\n")
    with pytest.raises(InputError, match=r"train_clean\.csv, line 2: an image id"):
        read_gldv2(tmp_path)
    (tmp_path / "train_clean.csv").write_text("id,url\n17,x\n")
    with pytest.raises(InputError, match=r"line 2: expected landmark_id,images"):
        read_gldv2(tmp_path)
    with pytest.raises(InputError, match="comes with Google Landmarks v2"):
        read_gldv2(tmp_path / "nothing")


def test_validation_takes_a_share_of_each_class():
    labels = [0] * 10 + [1] * 3 + [2] * 20
    train, val = split_by_class(labels, 0.2, None, seed=0)
    assert sorted(train + val) == list(range(33))
    assert [labels[i] for i in val] == [0, 0, 2, 2, 2, 2]  # a fifth of three images is not two: none
    assert split_by_class(labels, 0.2, None, seed=0) == (train, val)
    assert len(split_by_class(labels, 0.2, 1, seed=0)[1]) in (0, 2, 4)


def _images(**options) -> SuperGlobalData:
    data = SuperGlobalData(
        layout="synthetic", image_size=32, batch_size=8, num_workers=0, classes=3, images_per_class=8, **options
    )
    data.setup("fit")
    return data


def _epoch(data: SuperGlobalData, epoch: int) -> Iterator[tuple]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return iter(loader)


def test_an_image_depends_on_seed_epoch_and_number_only():
    data = _images(color_jitter=0.3, lighting=0.1, val_fraction=0.0)
    first, *_ = _epoch(data, 4)
    torch.manual_seed(123)  # the global random stream has no influence
    again, *_ = _epoch(_images(color_jitter=0.3, lighting=0.1, val_fraction=0.0), 4)
    other, *_ = _epoch(data, 5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[2], again[2])
    assert not torch.equal(first[2], other[2])
    assert not torch.equal(data.train_set[(4, 0)][0], data.train_set[(5, 0)][0])
    before = torch.get_rng_state()
    _ = data.train_set[(0, 0)]
    assert torch.equal(before, torch.get_rng_state())


def test_workers_give_the_same_images():
    alone = list(_epoch(_images(lighting=0.1), 1))
    shared = _images(lighting=0.1)
    shared.num_workers = 1
    for a, b in zip(alone, _epoch(shared, 1), strict=True):
        assert torch.equal(a[0], b[0])


def test_images_are_normalised_in_bgr():
    image = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(40, 40, 3).numpy()  # pure red
    data = _images()
    pixels = data.val_set.transform(Image.fromarray(image))
    expected = (torch.tensor([0.0, 0.0, 1.0]) - torch.tensor([0.406, 0.456, 0.485])) / torch.tensor(
        [0.225, 0.224, 0.229]
    )
    torch.testing.assert_close(pixels[:, 5, 5], expected)


def test_batches_hold_images_of_one_size():
    sizes = [(4, 3), (3, 4), (4, 3), (4, 3), (4, 4)]
    assert equal_size_batches(sizes, 2) == [[0, 2], [3], [1], [4]]


def _evaluation(tmp_path: Path, **options) -> RevisitedData:
    data = RevisitedData(str(tmp_path), "rtoy", synthetic=True, num_workers=0, **options)
    data.prepare_data()
    return data


def _trainer(tmp_path: Path, **options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **options,
    )


@pytest.fixture(scope="module")
def module() -> SuperGlobalTraining:
    torch.manual_seed(0)
    return SuperGlobalTraining("superglobal_r50", TINY)


def test_descriptors_do_not_depend_on_the_batch(tmp_path, module):
    """A batch of equal sizes, and one with mixed sizes and rotated files, give the same as one image at a time."""
    reports = []
    for batch_size in (1, 8):
        data = _evaluation(tmp_path, batch_size=batch_size)
        if batch_size == 1:  # stored rotated: the size in the file is not that of the image
            path = tmp_path / "rtoy" / "jpg" / "rtoy_0001.jpg"
            exif = Image.Exif()
            exif[0x0112] = 6
            with Image.open(path) as image:
                image.load()
            image.save(path, exif=exif)
        trainer = _trainer(tmp_path)
        trainer.test(module, data, verbose=False)
        reports.append(module.report)
    for stage in ("single_stage", "reranked"):
        for level in "EMH":
            np.testing.assert_allclose(reports[0].stages[stage][level]["aps"], reports[1].stages[stage][level]["aps"])


def test_distractors_are_written_in_shards_and_resume(tmp_path, module):
    listing = make_distractors(tmp_path / "images", 11, side=96)
    options = {
        "distractor_images": str(tmp_path / "images"),
        "distractor_list": str(listing),
        "distractors": str(tmp_path / "out"),
        "shard_size": 4,
        "batch_size": 3,
    }
    _trainer(tmp_path).predict(module, _evaluation(tmp_path, **options), return_predictions=False)
    whole = torch.cat(list(read_descriptors(tmp_path / "out").chunks()))
    assert whole.shape == (11, 16)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(11))
    (tmp_path / "out" / "descriptors-00001.npy").unlink()
    others = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npy")}
    _trainer(tmp_path).predict(module, _evaluation(tmp_path, **options), return_predictions=False)
    torch.testing.assert_close(torch.cat(list(read_descriptors(tmp_path / "out").chunks())), whole)
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())  # made once only
    other = SuperGlobalTraining("superglobal_r50", {**TINY, "gemp": False})
    with pytest.raises(InputError, match="made with other config"):
        _trainer(tmp_path).test(other, _evaluation(tmp_path, **options), verbose=False)


def test_processes_take_turns_shard_by_shard(tmp_path, module):
    data = _evaluation(tmp_path, batch_size=2)
    data.shards = DescriptorShards.create(tmp_path / "out", 10, 4, {})
    data.shards.write(0, np.zeros((4, 2), np.float32))
    data.distractor_paths = [Path(str(i)) for i in range(10)]
    seen = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, lightning_module=module)
        loader = data.predict_dataloader()
        seen.append([list(loader.dataset.batches[number]) for number in loader.sampler])
    assert seen == [[[4, 5], [6, 7]], [[8, 9]]]


# Networks


def test_training_uses_the_plain_network_and_testing_superglobal():
    module = SuperGlobalTraining("superglobal_r50", TINY, num_classes=4)
    trained, tested = module.model.config, module.descriptor_network().config
    assert (trained.gemp, trained.rgem, trained.relup, trained.norm_before_fc, trained.scales) == (
        False,
        False,
        False,
        False,
        (1.0,),
    )
    assert (tested.gemp, tested.rgem, tested.relup, tested.norm_before_fc, len(tested.scales)) == (
        True,
        True,
        True,
        True,
        3,
    )
    loss = F.cross_entropy(
        module.head(module.model.forward_single_scale(torch.rand(2, 3, 64, 64)), torch.tensor([0, 1])),
        torch.tensor([0, 1]),
    )
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert module.model.pool.p.grad.item() != 0  # the exponent is learned


def test_a_backbone_starts_from_a_classification_network(tmp_path):
    import timm

    source = timm.create_model("test_resnet", num_classes=7)
    torch.save(source.state_dict(), tmp_path / "cls.pth")
    module = SuperGlobalTraining("superglobal_r50", TINY, backbone_checkpoint=str(tmp_path / "cls.pth"))
    for key, value in source.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(module.model.state_dict()[f"backbone.net.{key}"], value)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit the backbone timm:test_resnet"):
        load_backbone(module.model, tmp_path / "other.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_resnet50_backbone_starts_from_torchvision_s_file(tmp_path, prefix):
    from torchvision.models import resnet50

    source = resnet50()
    torch.save({prefix + key: value for key, value in source.state_dict().items()}, tmp_path / "cls.pth")
    module = SuperGlobalTraining("superglobal_r50", {"dim": 8}, backbone_checkpoint=str(tmp_path / "cls.pth"))
    assert torch.equal(module.model.backbone.layer4[2].conv3.weight, source.layer4[2].conv3.weight)


def test_training_needs_as_many_classes_as_the_data(tmp_path):
    with pytest.raises(InputError, match="needs model.num_classes"):
        _trainer(tmp_path, max_epochs=1).fit(SuperGlobalTraining("superglobal_r50", TINY), _images())
    with pytest.raises(InputError, match=r"the data has 3 classes, but model\.num_classes is 2"):
        _trainer(tmp_path, max_epochs=1).fit(SuperGlobalTraining("superglobal_r50", TINY, 2), _images())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    module = SuperGlobalTraining("superglobal_r50", TINY, 3, export=False)
    with torch.no_grad():
        module.head.weight.fill_(torch.nan)
    with pytest.raises(VisionZooError, match="the loss is nan at step 0"):
        _trainer(tmp_path, max_epochs=1).fit(module, _images())


def test_an_untrained_network_is_not_evaluated_on_a_real_set(tmp_path, module):
    data = _evaluation(tmp_path)
    data.synthetic = False
    with pytest.raises(InputError, match="superglobal_r50 has random weights"):
        _trainer(tmp_path).test(module, data, verbose=False)


# A run


@pytest.mark.slow
def test_the_loss_falls_and_retrieval_improves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    untrained = run("validate", ["superglobal/tiny"])
    first = run("fit", ["superglobal/tiny"], ["trainer.max_epochs=1"])
    last = run("fit", ["superglobal/tiny"])
    assert last["train/loss_epoch"] < first["train/loss_epoch"] / 2
    assert last["val/mAP"] > untrained["val/mAP"] + 0.05
    assert last["train/gem_p"] != pytest.approx(3.0, abs=1e-3)  # the exponent is learned, too


def _state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_a_resumed_run_is_bit_equal_and_its_export_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["vars.classes=4", "data.images_per_class=8", "data.image_size=48", "data.lighting=0.1"]

    def fit(folder: str, epochs: int, *more: str) -> Path:
        words = [*small, f"trainer.max_epochs={epochs}", f"trainer.default_root_dir={folder}", *more]
        run("fit", ["superglobal/tiny"], words)
        return tmp_path / folder / "checkpoints" / "last.ckpt"

    straight = _state(fit("straight", 2))
    fit("resumed", 1)
    resumed = _state(fit("resumed", 2, "ckpt_path=last"))
    assert resumed["global_step"] == straight["global_step"] > 0
    assert straight["state_dict"].keys() == resumed["state_dict"].keys()
    for key, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    momentum = [state["optimizer_states"][0]["state"] for state in (straight, resumed)]
    for number, values in momentum[0].items():
        assert torch.equal(values["momentum_buffer"], momentum[1][number]["momentum_buffer"])

    # the exported file gives the network that was trained, strictly loaded, with the same descriptors
    config = {"backbone": "timm:test_resnet", "dim": 64}
    exported = visionzoo.create_model(
        "superglobal_r50", checkpoint=tmp_path / "resumed" / "weights.safetensors", **config
    )
    module = SuperGlobalTraining.load_from_checkpoint(
        tmp_path / "resumed" / "checkpoints" / "last.ckpt", weights_only=True
    )
    images = torch.rand(2, 3, 120, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(exported(images), module.descriptor_network()(images), rtol=0, atol=0)
    fresh = visionzoo.create_model("superglobal_r50", **config)
    with torch.no_grad():
        assert not torch.allclose(exported(images), fresh(images), atol=1e-3)

    # evaluated from the training checkpoint, whose head has no place there, and from the export
    reports = [
        run("test", ["superglobal/tiny_eval"], [f"data.root={tmp_path}/data", word])
        for word in (
            "ckpt_path=resumed/checkpoints/last.ckpt",
            "model.checkpoint=resumed/weights.safetensors",
        )
    ]
    assert reports[0]["stages"] == reports[1]["stages"]
