"""Training of SHViT for classification, for `visionzoo fit|validate`: the published recipe (section 4.1), and distillation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from visionzoo.data.augmented import seeded
from visionzoo.errors import InputError, VisionZooError, require
from visionzoo.registry import create_model, weight_source
from visionzoo.weights import (
    WeightsError,
    fetch,
    load_checkpoint,
    save_safetensors,
)

from .data import SHViTData
from .losses import DistillationKind, DistillationLoss, map_loss, similarity_loss
from .model import SHViT
from .teacher import Teacher

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, 3, H, W), class numbers (B,), numbers of the pictures (B,)."""


class SHViTTraining(LightningModule):
    """A SHViT network with what trains it. The defaults are the published recipe of S1.

    Args:
        name: a registered model, e.g. "shvit_s1".
        config: fields of its `SHViTConfig` to set otherwise, e.g. {num_classes: 10}.
        pretrained: start from the model's published weights. With another number of classes the head is new.
        checkpoint: start from this file (published or own key names) in the same way.
        lr: peak learning rate for 512 images a step; it is scaled with the number of images that a step sees.
        lr_batch: that 512; None takes `lr` as it is.
        min_lr, warmup_lr: where the cosine ends and the warm-up begins; not scaled.
        warmup_epochs: epochs over which the rate rises.
        lag_epochs: epochs by which the schedule comes late. The published code steps it after each epoch with that
            epoch's number, so that epochs 0 and 1 both run at `warmup_lr`: 1.
        weight_decay: of AdamW, on weights with two axes or more; S1 0.025, S2 0.032, S3 0.035, S4 0.03.
        eps: of AdamW.
        clip_agc: adaptive gradient clipping (arXiv 2102.06171) at this share of a unit's weight norm; None for none.
        ema_decay: of the averaged copy of the weights, kept beside and written as weights_ema.safetensors; None for none.
            The published accuracy belongs to the weights that are not averaged.
        mixup, cutmix: their alpha; 0 switches one off.
        mix_probability, switch_probability: of mixing a batch at all, and of cutmix instead of mixup.
        label_smoothing: of the targets.
        distillation: "hard" or "soft" train a second head against a teacher (section 4.2); "match" trains the one head
            against the teacher alone, without labels.
        alpha, tau: weight of the teacher and temperature, see `DistillationLoss`.
        similarity: weight of `similarity_loss` between the pooled vectors and the teacher's, beside "match".
        maps: weight of `map_loss` between the last map, through a 1x1 convolution that is learned and then thrown away, and
            the teacher's, beside "match".
        teacher: name of a timm network; the published one is "regnety_160.deit_in1k".
        teacher_checkpoint: its weights; timm's own, downloaded, if None.
        channels_last: keep images and weights channels-last, which is faster on CPUs and on tensor cores.
        export: write weights.safetensors into the trainer's folder when training ends.
        export_half: in half precision.
    """

    teacher: Teacher | None

    def __init__(
        self,
        name: str = "shvit_s1",
        config: dict[str, Any] | None = None,
        pretrained: bool = False,
        checkpoint: str | None = None,
        lr: float = 1e-3,
        lr_batch: int | None = 512,
        min_lr: float = 1e-5,
        warmup_lr: float = 1e-6,
        warmup_epochs: int = 5,
        lag_epochs: int = 1,
        weight_decay: float = 0.025,
        eps: float = 1e-8,
        clip_agc: float | None = 0.02,
        ema_decay: float | None = 0.99996,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        mix_probability: float = 1.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.1,
        distillation: DistillationKind = "none",
        alpha: float = 0.5,
        tau: float = 1.0,
        similarity: float = 0.0,
        maps: float = 0.0,
        teacher: str | None = None,
        teacher_checkpoint: str | None = None,
        channels_last: bool = True,
        export: bool = True,
        export_half: bool = False,
    ):
        super().__init__()
        require("timm", extra="train", purpose="SHViT's training")
        self.save_hyperparameters()
        self.loss = DistillationLoss(distillation, alpha, tau, label_smoothing)
        if (distillation == "none") != (teacher is None):
            raise InputError(
                "distillation needs model.teacher, the name of a timm network; and a teacher, distillation"
            )
        if (similarity or maps) and distillation != "match":
            raise InputError('similarity and maps go with distillation "match"')
        overrides = dict(config or {})
        if distillation in ("hard", "soft"):
            overrides["distillation"] = True
        self.name, self.overrides = name, overrides
        self.model = starting_network(
            name, overrides, pretrained, checkpoint
        ).train()  # Lightning leaves the mode as it is
        if not self.model.config.heads:
            raise InputError("training needs a head; leave num_classes and features_only of the configuration alone")
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.average = averaged(self.model, ema_decay) if ema_decay else None
        # no submodule: no part of checkpoints, and never in training mode
        object.__setattr__(self, "teacher", Teacher(teacher, teacher_checkpoint) if teacher else None)
        self.projection = (
            nn.Conv2d(self.model.num_features, self.teacher.map_width, 1) if self.teacher and maps else None
        )
        self._classes: list[str] = []
        self._image_size = 224
        self._scores: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, classes) logits."""
        return cast(Tensor, self.model(images))

    # Setting up

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SHViTData):
            self._classes, self._image_size = data.classes, data.image_size
            self.check_classes(data.num_classes)
        if stage != "fit" and not (self.hparams["pretrained"] or self.hparams["checkpoint"] or self.trainer.ckpt_path):
            raise InputError(f"{self.name} has random weights; give model.checkpoint=FILE or model.pretrained=true")

    def check_classes(self, found: int) -> None:
        """Raise `InputError` unless the network has an output for each of `found` classes."""
        have = self.model.config.num_classes
        if self.hparams["distillation"] != "match" and found != have:
            raise InputError(
                f"the data has {found} classes, but the network has {have} outputs; set model.config.num_classes={found}"
            )

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_validation_start(self) -> None:
        self.on_fit_start()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]

        trained = nn.ModuleList([self.model] if self.projection is None else [self.model, self.projection])
        groups = param_groups_weight_decay(trained, self.hparams["weight_decay"])
        return torch.optim.AdamW(groups, lr=self.hparams["warmup_lr"], eps=self.hparams["eps"])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        from timm.utils.agc import adaptive_clip_grad

        if self.hparams["clip_agc"]:
            adaptive_clip_grad(list(self.model.parameters()), self.hparams["clip_agc"])

    # Training

    def peak_rate(self) -> float:
        """The learning rate after warm-up, for the images that a step sees on all devices."""
        h = self.hparams
        if h["lr_batch"] is None:
            return h["lr"]
        data: Any = getattr(self.trainer, "datamodule", None)
        images = data.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
        return h["lr"] * images / h["lr_batch"]

    def on_train_epoch_start(self) -> None:
        # a function of the epoch, not a state: a run that is resumed with more epochs goes on at their rate
        h, epochs = self.hparams, self.trainer.max_epochs or 0
        rate = epoch_rate(
            self.current_epoch,
            epochs,
            self.peak_rate(),
            h["min_lr"],
            h["warmup_lr"],
            h["warmup_epochs"],
            h["lag_epochs"],
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("train/lr", rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, _ = batch
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        images, targets = self._mix(images, labels, batch_idx)
        if self.teacher is None:
            loss = self.loss(self.model(images), targets)
        else:
            logits, vectors, cells = self.teacher(images)
            pooled, last = self.model.forward_features(images)
            loss = self.loss(self.model.forward_head(pooled), targets, logits)
            if self.hparams["similarity"]:
                loss = loss + self.hparams["similarity"] * similarity_loss(pooled, vectors)
            if self.projection is not None:
                cells = F.adaptive_avg_pool2d(cells, (last.shape[2], last.shape[3]))
                loss = loss + self.hparams["maps"] * map_loss(self.projection(last), cells)
        if not torch.isfinite(loss):
            raise VisionZooError(
                f"the loss is {loss.item()} at step {self.global_step}; lower model.lr or check the data"
            )
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss

    def _mix(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix of the batch with itself backwards, and the mixed targets (B, classes)."""
        h = self.hparams
        if not h["mixup"] and not h["cutmix"]:
            return images, labels
        from timm.data.mixup import Mixup

        mix = Mixup(
            h["mixup"],
            h["cutmix"],
            prob=h["mix_probability"],
            switch_prob=h["switch_probability"],
            label_smoothing=h["label_smoothing"],
            num_classes=self.model.config.num_classes,
        )
        if h["distillation"] == "match":
            labels = labels % self.model.config.num_classes  # not looked at
        data: Any = getattr(self.trainer, "datamodule", None)
        with seeded(getattr(data, "seed", 0), self.current_epoch, batch_idx, self.global_rank):
            return mix(images.clone(), labels)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_fit_end(self) -> None:
        if (
            not self.hparams["export"]
            or not self.trainer.is_global_zero
            or getattr(self.trainer, "fast_dev_run", False)
        ):
            return
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.export_weights(folder / "weights.safetensors")
        if self.average is not None:
            self.export_weights(folder / "weights_ema.safetensors", cast(SHViT, self.average.module))

    def export_weights(self, path: str | Path, model: SHViT | None = None) -> None:
        """Write the network's weights, and beside them what `visionzoo classify --checkpoint` needs to know."""
        model = model or self.model
        state = {
            key: value.half() if self.hparams["export_half"] and value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
        about: dict[str, Any] = {"config": self.overrides, "image_size": self._image_size}
        if len(self._classes) == model.config.num_classes:
            about["classes"] = self._classes
        save_safetensors(state, path, {"model": self.name, **{key: json.dumps(value) for key, value in about.items()}})

    # Validation

    def on_validation_epoch_start(self) -> None:
        self._scores = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels, numbers = batch
        logits = self(images)
        if self.hparams["distillation"] == "match" and self.teacher is not None:
            labels = self.teacher(images)[0].argmax(-1)  # how often the student says what the teacher says
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        self._scores.append((numbers, torch.stack([best[:, 0], best.any(1)], 1).float(), losses))

    def on_validation_epoch_end(self) -> None:
        if not self._scores:
            return
        numbers, hits, losses = (torch.cat(column) for column in zip(*self._scores, strict=True))
        if self.trainer.world_size > 1:
            numbers, hits, losses = (
                c.flatten(0, 1) for c in cast(Iterable[Tensor], self.all_gather((numbers, hits, losses)))
            )
        # a distributed sampler gives some pictures twice, to make the shares equal
        keep = torch.from_numpy(np.unique(numbers.cpu().numpy(), return_index=True)[1]).to(hits.device)
        top1, top5 = (100 * hits[keep].mean(0)).tolist()
        self.log_dict({"val/top1": top1, "val/top5": top5, "val/loss": losses[keep].mean()}, prog_bar=True)
        self._scores = []


def starting_network(name: str, config: dict[str, Any], pretrained: bool, checkpoint: str | None) -> SHViT:
    """The network with random weights, or with those of a file; if only the heads do not fit, these are new.

    Raises:
        WeightsError: anything else does not fit.
    """
    if pretrained and checkpoint is not None:
        raise InputError("give either model.pretrained or model.checkpoint, not both")
    network = create_model(name, **config)
    assert isinstance(network, SHViT)
    if not pretrained and checkpoint is None:
        return network
    path = fetch(weight_source(name)) if pretrained else checkpoint
    assert path is not None
    try:
        load_checkpoint(network, path)
    except WeightsError:
        body = create_model(name, **{**config, "num_classes": 0, "distillation": False})
        load_checkpoint(body, path)  # raises if it is not the heads alone
        network.load_state_dict(body.state_dict(), strict=False)
    return network


def averaged(model: SHViT, decay: float) -> AveragedModel:
    """A running average of the weights; as published, the statistics of batch norms are averaged too."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)  # data-parallel training would wait for its gradients


def epoch_rate(
    epoch: int, epochs: int, peak: float, minimum: float, start: float, warmup_epochs: int, lag: int = 1
) -> float:
    """The learning rate of an epoch: linear warm-up from `start`, then the cosine over all `epochs`, `lag` epochs late."""
    place = max(0, epoch - lag)
    if place < warmup_epochs:
        return start + place * (peak - start) / warmup_epochs
    if epochs <= 0:  # no end is known
        return peak
    return minimum + 0.5 * (peak - minimum) * (1 + math.cos(math.pi * min(1.0, place / epochs)))
