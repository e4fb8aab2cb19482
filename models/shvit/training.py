"""Training of SHViT for classification, for `visionzoo fit|validate`: the published recipe (section 4.1), and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.console import note
from visionzoo.data.augmented import seeded
from visionzoo.errors import InputError, require
from visionzoo.registry import create_model, weight_source
from visionzoo.stored import read_stored
from visionzoo.training.classes import ClassMatch
from visionzoo.training.module import TrainingModule, half_cosine
from visionzoo.weights import LIGHTNING_ENTRY, WeightsError, fetch, load_checkpoint

from .data import SHViTData
from .fused import FusedSHViT
from .loading import load_classifier
from .losses import DistillationKind, DistillationLoss, map_loss, similarity_loss
from .model import Head, SHViT
from .teacher import Teacher

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, 3, H, W), class numbers (B,), numbers of the images (B,)."""


class SHViTTraining(TrainingModule):
    """Trains a SHViT. The defaults are the published recipe of S1.

    Args:
        name: a registered model, e.g. "shvit_s1".
        config: fields of its `SHViTConfig` to override, e.g. {num_classes: 10}.
        pretrained: start from the model's published weights. With another number of classes the head is new.
        checkpoint: start from this file (published or own key names) in the same way.
        lr: peak learning rate for 512 images per step; it is scaled with the number of images that a step sees.
        lr_batch: the number of images per step that `lr` is for (512); None does not scale it.
        min_lr, warmup_lr: learning rates at which the cosine ends and the warm-up begins; not scaled.
        warmup_epochs: epochs of warm-up.
        lag_epochs: epochs by which the schedule comes late. The published code steps it after each epoch with that
            epoch's number, so that epochs 0 and 1 both run at `warmup_lr`: 1.
        weight_decay: weight decay of AdamW, on weights with two axes or more; S1 0.025, S2 0.032, S3 0.035, S4 0.03.
        eps: epsilon of AdamW.
        clip_agc: adaptive gradient clipping (arXiv 2102.06171) at this share of a unit's weight norm; None for no clipping.
        ema_decay: decay of an averaged copy of the weights, which is written as weights_ema.safetensors; None for no copy.
            The published accuracy belongs to the weights that are not averaged.
        mixup, cutmix: alpha of each; 0 switches it off.
        mix_probability, switch_probability: probability of mixing a batch, and of cutmix instead of mixup.
        label_smoothing: label smoothing of the targets.
        distillation: "hard" or "soft" train a second head against a teacher (section 4.2); "match" trains the one head
            against the teacher alone, without labels.
        alpha, tau: weight of the teacher and temperature, see `DistillationLoss`.
        similarity: weight of `similarity_loss` between the pooled vectors and the teacher's, in addition to "match".
        maps: weight of `map_loss` between the last map, through a 1x1 convolution that is learned and then discarded, and
            the teacher's, in addition to "match".
        teacher: name of a timm network; the published one is "regnety_160.deit_in1k".
        teacher_checkpoint: weights of the teacher; None downloads timm's own.
        channels_last: keep images and weights channels-last, which is faster on CPUs and on tensor cores.
        export: write weights.safetensors into the trainer's folder when training ends.
        export_half: write them in half precision.
    """

    try_with = "visionzoo classify PHOTO --checkpoint {file}"
    model: SHViT
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
            raise InputError("give both model.distillation and model.teacher, the name of a timm network, or neither")
        if (similarity or maps) and distillation != "match":
            raise InputError('similarity and maps need distillation "match"')
        overrides = dict(config or {})
        if distillation in ("hard", "soft"):
            overrides["distillation"] = True
        self.name, self.overrides = name, overrides
        self._source = starting_file(name, pretrained, checkpoint)
        network, self._new_head = starting_network(name, overrides, self._source)
        self.model = network.train()  # Lightning does not change the mode
        if not self.model.config.heads:
            raise InputError(
                "training needs a head: do not set num_classes=0 or features_only=true in the configuration"
            )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.keep_average(ema_decay, buffers=True)  # as published
        # not a submodule: not part of checkpoints, and never in training mode
        object.__setattr__(self, "teacher", Teacher(teacher, teacher_checkpoint) if teacher else None)
        self.projection = (
            nn.Conv2d(self.model.num_features, self.teacher.map_width, 1) if self.teacher and maps else None
        )
        self._classes: list[str] = []  # of the network's outputs
        self._data_classes: list[str] = []
        self._outputs: Tensor | None = None  # for each class of the data, if the network has others or another order
        self._image_size = 224
        self._scores: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, classes) logits."""
        return cast(Tensor, self.model(images))

    # Setting up

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit":
            self.check_trained()
        if isinstance(data, SHViTData):
            self._image_size, self._data_classes = data.image_size, data.classes
        if self.hparams["distillation"] == "match" or not self._data_classes:
            return  # the classes are the teacher's
        source = self._source if not self.trainer.ckpt_path else None
        stored = read_stored(source).classes if source is not None else None
        if stage == "fit":
            self.check_classes(len(self._data_classes))
            self._classes = list(self._data_classes)
            if source is not None:
                self._keep_outputs(source, stored)
        elif self.hparams["checkpoint"] and not self.trainer.ckpt_path:
            self._map_labels(stored, self.hparams["checkpoint"])

    def check_classes(self, found: int) -> None:
        """Raise `InputError` unless the network has an output for each of `found` classes."""
        have = self.model.config.num_classes
        if self.hparams["distillation"] != "match" and found != have:
            raise InputError(
                f"the data has {found} classes, but the network has {have} outputs; set model.config.num_classes={found}"
            )

    def _keep_outputs(self, source: str | Path, stored: Sequence[str] | None) -> None:
        """Keep the outputs of the classes that the starting weights know by name; other classes are new."""
        match = ClassMatch(stored or (), self._classes)
        if stored and not match.identical:
            config = {key: value for key, value in self.overrides.items() if key not in ("num_classes", "distillation")}
            start = load_classifier(source, self.name, config)
            self.model.reset_classifier(len(self._classes))
            copy_heads(match, start, self.model)
            self.keep_average(self.hparams["ema_decay"], buffers=True)
            note(f"{source}: {match.summary()}")
        elif self._new_head:
            note(f"{source}: its head has other classes; the new head for {len(self._classes)} classes is random")

    def _map_labels(self, names: Sequence[str] | None, where: str) -> None:
        """Find the outputs of the data's classes, by name if the weights have names, else by number."""
        if self._new_head:
            raise InputError(
                f"{where}: does not have {self.model.config.num_classes} classes; set model.config.num_classes to its number"
            )
        if names is None:
            self.check_classes(len(self._data_classes))
        else:
            self._classes = list(names)
            self._outputs = ClassMatch(names, self._data_classes).labels(where)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint.get(LIGHTNING_ENTRY, {}).get("facts", {}).get("classes")
        names = stored or checkpoint.get("classes")  # where 0.1.0 stored them at first
        if self.hparams["distillation"] == "match" or not self._data_classes:
            return
        if not self.in_fit:
            self._map_labels(names, self.resumed_from)
        elif names:
            ClassMatch(names, self._data_classes).check_identical(self.resumed_from)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._move_teacher()

    def on_validation_start(self) -> None:
        self._move_teacher()

    def _move_teacher(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

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
        h, epochs = self.hparams, self.trainer.max_epochs or 0
        ends = self.peak_rate(), h["min_lr"], h["warmup_lr"]
        self.set_rate(epoch_rate(self.current_epoch, epochs, *ends, h["warmup_epochs"], h["lag_epochs"]))

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
        self.check_finite(loss)
        self.log_loss(loss, len(images))
        return loss

    def _mix(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix of the batch with its reverse, and the mixed targets (B, classes)."""
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
            labels = labels % self.model.config.num_classes  # ignored
        data: Any = getattr(self.trainer, "datamodule", None)
        with seeded(getattr(data, "seed", 0), self.current_epoch, batch_idx, self.global_rank):
            return mix(images.clone(), labels)

    def exports(self) -> dict[str, nn.Module]:
        average = {} if self.average is None else {"weights_ema.safetensors": self.average.module}
        return {"weights.safetensors": self.model, **average}

    def about(self) -> dict[str, Any]:
        return {"image_size": self._image_size, "classes": self._classes or None}

    # Validation

    def on_validation_epoch_start(self) -> None:
        self._scores = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels, numbers = batch
        if self._outputs is not None:
            labels = self._outputs.to(labels.device)[labels]
        if self.hparams["distillation"] == "match" and self.teacher is not None:
            labels = self.teacher(images)[0].argmax(-1)  # how often the student agrees with the teacher
        scores = [_scores(network(images), labels) for network in self._measured().values()]
        self._scores.append((numbers, torch.stack(scores, 1)))

    def on_validation_epoch_end(self) -> None:
        if not self._scores:
            return
        numbers, scores = (torch.cat(column) for column in zip(*self._scores, strict=True))
        (scores,) = self.of_all_devices(numbers, scores)
        for suffix, (top1, top5, loss) in zip(self._measured(), scores.mean(0).tolist(), strict=True):
            found = {f"val/top1{suffix}": 100 * top1, f"val/top5{suffix}": 100 * top5, f"val/loss{suffix}": loss}
            self.log_dict(found, prog_bar=True)
        self._scores = []

    def _measured(self) -> dict[str, nn.Module]:
        """Suffixes of the metrics' names, and their networks: all whose weights are written at the end."""
        average = {} if self.average is None else {"_ema": self.average.module}
        return {"": self.model, **average}


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, classes) and (B,) -> (B, 3): whether the first class or one of the first five is correct, and the cross-entropy."""
    right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return torch.stack([right[:, 0].float(), right.any(1).float(), losses], 1)


def starting_file(name: str, pretrained: bool, checkpoint: str | None) -> str | Path | None:
    """The file of the weights to start from; None for random ones."""
    if pretrained and checkpoint is not None:
        raise InputError("give either model.pretrained or model.checkpoint, not both")
    return fetch(weight_source(name)) if pretrained else checkpoint


def starting_network(name: str, config: dict[str, Any], path: str | Path | None) -> tuple[SHViT, bool]:
    """The network with random weights, or with those of a file; and whether its heads are new because those of the file do not fit.

    Raises:
        WeightsError: anything else does not fit.
    """
    network = create_model(name, **config)
    assert isinstance(network, SHViT)
    if path is None:
        return network, False
    try:
        load_checkpoint(network, path)
    except WeightsError:
        body = create_model(name, **{**config, "num_classes": 0, "distillation": False})
        load_checkpoint(body, path)  # raises if it is not the heads alone
        network.load_state_dict(body.state_dict(), strict=False)
        return network, True
    return network, False


def copy_heads(match: ClassMatch, source: SHViT | FusedSHViT, target: SHViT) -> None:
    """Copy the outputs of classes of the same name, and the norms before them, from one network's heads to another's."""
    if not isinstance(source, SHViT):
        raise InputError("a fused network cannot be trained further; give the file that it was made from")
    for ours, theirs in ((target.head, source.head), (target.distillation_head, source.distillation_head)):
        if isinstance(ours, Head) and isinstance(theirs, Head):
            ours.norm.load_state_dict(theirs.norm.state_dict())
            match.copy_rows(theirs.linear.weight, ours.linear.weight)
            match.copy_rows(theirs.linear.bias, ours.linear.bias)


def epoch_rate(
    epoch: int, epochs: int, peak: float, minimum: float, start: float, warmup_epochs: int, lag: int = 1
) -> float:
    """The learning rate of an epoch: linear warm-up from `start`, then the cosine over all `epochs`, `lag` epochs late."""
    place = max(0, epoch - lag)
    if place < warmup_epochs:
        return start + place * (peak - start) / warmup_epochs
    if epochs <= 0:  # the end is not known
        return peak
    return minimum + (peak - minimum) * half_cosine(place / epochs)
