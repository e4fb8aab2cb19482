"""The recipe of SHViT's training: rates, decay, clipping, averaging and losses are the published ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import SHVIT
from visionzoo.errors import InputError
from visionzoo.models.shvit import DistillationLoss, SHViTTraining
from visionzoo.models.shvit.losses import map_loss, similarity_loss
from visionzoo.models.shvit.training import epoch_rate
from visionzoo.training.run import load_config


def test_rates_are_those_of_the_published_schedule() -> None:
    """timm's cosine with the published arguments, stepped after each epoch with that epoch's number."""
    from timm.scheduler import CosineLRScheduler  # pyright: ignore[reportPrivateImportUsage]

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
    module = SHViTTraining(config=SHVIT, weight_decay=0.1)
    assert module.model.training  # Lightning would silently train batch norms in eval mode
    groups = module.configure_optimizers().param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.1]
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(module.model.parameters()))


def test_gradients_are_clipped_to_the_weights() -> None:
    module = SHViTTraining(config=SHVIT, clip_agc=0.02)
    weight = module.model.stages[0].blocks[0].ffn.expand.conv.weight
    weight.grad = torch.full_like(weight, 100.0)
    module.configure_gradient_clipping(None)
    rows, norms = weight.detach().flatten(1), weight.grad.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, 0.02 * rows.norm(dim=1))


def test_the_average_follows_the_formula() -> None:
    module = SHViTTraining(config=SHVIT, ema_decay=0.9)
    assert module.average is not None
    with torch.no_grad():
        weight, average = module.model.head.linear.weight, module.average.module.head.linear.weight
        weight.fill_(1.0)
        module.update_average()  # the first one starts it
        weight.fill_(2.0)
        module.update_average()
    torch.testing.assert_close(average, torch.full_like(average, 0.9 * 1 + 0.1 * 2))


def test_matching_a_teacher_ignores_labels() -> None:
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
