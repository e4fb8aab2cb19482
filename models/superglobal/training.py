"""Training and evaluation of SuperGlobal networks, for `visionzoo fit|validate|test|predict`.

Neither SuperGlobal nor CVNet, whose weights it uses, published training code: this is not their recipe. What is trained
here is the usual global descriptor of this family (the global branch of DELG, arXiv 2001.05027): one scale, GeM with a
learned exponent, a whitening layer, ArcFace over the classes. SuperGlobal's own parts (ReLUP, regional GeM, GeM+,
scales) are training-free: off while training, on in `test`, in `predict` and in the network that is exported.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from torch import Tensor
from torch.nn import functional as F

from visionzoo.config import as_dict
from visionzoo.console import note
from visionzoo.errors import InputError
from visionzoo.metrics.ranking import average_precision
from visionzoo.registry import create_model
from visionzoo.training.classes import ClassMatch
from visionzoo.training.module import TrainingModule, half_cosine
from visionzoo.weights import LIGHTNING_ENTRY, WeightsError, find_state_dict, fingerprint, misfit, read_checkpoint

from .checkpoint import to_ours
from .data import SuperGlobalData
from .descriptors import DescriptorShards
from .evaluation import Evaluation, evaluate_descriptors
from .losses import ArcFace
from .model import CVNET, SuperGlobal
from .preprocess import Preprocess
from .revisited_data import Group, RevisitedData


class SuperGlobalTraining(TrainingModule):
    """Trains and tests a SuperGlobal network.

    Args:
        name: a registered model, e.g. "superglobal_r50".
        config: fields of its `SuperGlobalConfig` to override.
        num_classes: number of classes of the training data; None for `test` and `predict`, which need no classes.
        margin, scale: settings of ArcFace.
        lr: learning rate after warm-up for the whole batch; it is not scaled with the number of devices.
        momentum, weight_decay: settings of SGD with Nesterov momentum.
        warmup_epochs: epochs over which the rate rises linearly from a tenth; it then falls with the cosine.
        pretrained: start from the model's default weights.
        checkpoint: start the whole network from this file (published or own key names).
        backbone_checkpoint: start the backbone alone from this file: a classification network (torchvision, timm), or
            any file that `checkpoint` takes.
        export: write weights.safetensors into the trainer's folder when training ends.
        rerank_top, rerank_k, rerank_beta, rerank_nonnegative: settings of the reranking in `test`.
    """

    try_with = "visionzoo retrieve index FOLDER -o NEW.index --model {name} --checkpoint {file}"
    model: SuperGlobal

    def __init__(
        self,
        name: str = "superglobal_r50",
        config: dict[str, Any] | None = None,
        num_classes: int | None = None,
        margin: float = 0.15,
        scale: float = 30.0,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        warmup_epochs: int = 5,
        pretrained: bool = False,
        checkpoint: str | None = None,
        backbone_checkpoint: str | None = None,
        export: bool = True,
        rerank_top: int = 400,
        rerank_k: int = 9,
        rerank_beta: float = 0.15,
        rerank_nonnegative: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        start = create_model(name, pretrained=pretrained, checkpoint=checkpoint, **self.overrides)
        assert isinstance(start, SuperGlobal)
        self.config = start.config
        self.model = training_network(start)
        if backbone_checkpoint is not None:
            load_backbone(self.model, backbone_checkpoint)
        self.head = ArcFace(self.model.dim, num_classes, margin, scale) if num_classes else None
        self._head_classes: list[str] = []
        self.report: Evaluation | dict[str, Any] | None = None
        self._tested: SuperGlobal | None = None
        self._embeddings: list[tuple[Tensor, Tensor, Tensor]] = []
        self._described: tuple[list[Group], list[Group]] = ([], [])

    # Networks

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) unit vectors, as trained: one scale, learned GeM."""
        return F.normalize(self.model.forward_single_scale(images), dim=-1)

    def descriptor_network(self) -> SuperGlobal:
        """The network that users get: these weights under SuperGlobal's pooling, in eval mode, on the CPU."""
        network = create_model(self.name, **self.overrides)
        assert isinstance(network, SuperGlobal)
        network.load_state_dict(self.model.state_dict())
        return network

    def preprocess(self, max_side: int | None = None) -> Preprocess:
        """The preprocessing of the network that users get."""
        return Preprocess.of(self.tested, max_side)

    def identity(self) -> dict[str, Any]:
        """The settings and weights that descriptors depend on."""
        return {"model": self.name, "config": as_dict(self.config), "weights": fingerprint(self.model)}

    @property
    def tested(self) -> SuperGlobal:
        if self._tested is None:
            # not a submodule: its weights are those of self.model and not part of a checkpoint
            object.__setattr__(self, "_tested", self.descriptor_network().requires_grad_(False))
        assert self._tested is not None
        return self._tested

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[LIGHTNING_ENTRY]["head_classes"] = self._head_classes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the head of a training checkpoint if there are no classes; otherwise the classes must be the same."""
        state = checkpoint["state_dict"]
        if self.head is None:
            for key in [key for key in state if key.startswith("head.")]:
                del state[key]
        classes = checkpoint.get(LIGHTNING_ENTRY, {}).get("head_classes")
        if self.in_fit and classes and self._head_classes:
            ClassMatch(classes, self._head_classes).check_identical(self.resumed_from)
        super().on_load_checkpoint(checkpoint)
        object.__setattr__(self, "_tested", None)

    def _keep_head(self, path: str) -> None:
        """Keep the outputs of the classes that the training checkpoint at `path` knows."""
        assert self.head is not None
        loaded = read_checkpoint(path)
        classes = loaded.get(LIGHTNING_ENTRY, {}).get("head_classes")
        if classes:
            match = ClassMatch(classes, self._head_classes)
            match.copy_rows(loaded["state_dict"]["head.weight"], self.head.weight)
            note(f"{path}: {match.summary()}")

    # Training

    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            if self.head is None:
                raise InputError("training needs model.num_classes, the number of classes of the data")
            if isinstance(data, SuperGlobalData) and data.num_classes > self.hparams["num_classes"]:
                raise InputError(
                    f"the data has {data.num_classes} classes, but model.num_classes is {self.hparams['num_classes']}"
                )
            self._head_classes = list(getattr(data, "class_names", []))
            if self.hparams["checkpoint"] and not self.trainer.ckpt_path:
                self._keep_head(self.hparams["checkpoint"])
        if stage == "test":
            if not isinstance(data, RevisitedData):
                raise InputError("test needs data of class visionzoo.models.superglobal.RevisitedData")
            self.check_one_device()

        if stage in ("test", "predict") and not getattr(data, "synthetic", False):
            self.check_trained()
        shards = getattr(data, "shards", None)
        if stage == "predict" and shards is not None:
            self.report = {"folder": str(shards.folder), "images": shards.images, "shards": len(shards)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        h = self.hparams
        return torch.optim.SGD(
            self.parameters(), h["lr"], h["momentum"], weight_decay=h["weight_decay"], nesterov=h["momentum"] > 0
        )

    def on_train_epoch_start(self) -> None:
        factor = rate_factor(self.current_epoch, self.trainer.max_epochs or 0, self.hparams["warmup_epochs"])
        self.set_rate(self.hparams["lr"] * factor)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        assert self.head is not None
        images, labels, _ = batch
        logits = self.head(self.model.forward_single_scale(images), labels)
        loss = F.cross_entropy(logits, labels)
        self.check_finite(loss)
        self.log_loss(loss, len(images))
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train/gem_p", self.model.pool.p.detach().float().squeeze())

    def on_fit_end(self) -> None:
        object.__setattr__(self, "_tested", None)
        super().on_fit_end()

    # Validation

    def on_validation_epoch_start(self) -> None:
        self._embeddings = []

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        images, labels, numbers = batch
        self._embeddings.append((numbers, labels, self(images).float()))

    def on_validation_epoch_end(self) -> None:
        if not self._embeddings:
            return
        numbers, labels, embeddings = (torch.cat(column) for column in zip(*self._embeddings, strict=True))
        labels, embeddings = self.of_all_devices(numbers, labels, embeddings)
        mean_ap, recall = retrieval_by_class(embeddings, labels)
        self.log_dict({"val/mAP": mean_ap, "val/recall@1": recall}, prog_bar=True)
        self._embeddings = []

    # Evaluation

    def on_test_start(self) -> None:
        self.tested.to(self.device)
        self._described = ([], [])

    def test_step(self, batch: list[Group], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._described[dataloader_idx].extend(self._describe(batch))

    def on_test_epoch_end(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        database, queries = (_in_order(groups) for groups in self._described)
        self._described = ([], [])
        h = self.hparams
        self.report = evaluate_descriptors(
            queries.to(self.device),
            database,
            data.benchmark,
            distractors=data.distractor_descriptors(),
            model=self.name if not self.overrides else f"{self.name} ({', '.join(sorted(self.overrides))} changed)",
            rerank_top=h["rerank_top"],
            k=h["rerank_k"],
            beta=h["rerank_beta"],
            nonnegative=h["rerank_nonnegative"],
        )
        self.log_dict({name: value for name, value in self.report.metrics().items() if not math.isnan(value)})

    def on_predict_start(self) -> None:
        self.tested.to(self.device)

    def predict_step(self, batch: list[Group], batch_idx: int, dataloader_idx: int = 0) -> list[Group]:
        """Numbers of the images and their descriptors (b, D)."""
        return self._describe(batch)

    def configure_callbacks(self) -> list[Callback]:
        return [ShardWriter()]

    @torch.no_grad()
    def _describe(self, batch: list[Group]) -> list[Group]:
        return [(numbers.cpu(), self.tested(images).float().cpu()) for numbers, images in batch]


class ShardWriter(BasePredictionWriter):
    """Writes the descriptors of `predict` shard by shard, as soon as one is complete."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._open: dict[int, tuple[np.ndarray, set[int]]] = {}

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: list[Group],
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        shards: DescriptorShards | None = getattr(trainer.datamodule, "shards", None)
        if shards is None:
            return
        half = shards.about.get("dtype") == "float16"
        for numbers, descriptors in prediction:
            for number, descriptor in zip(numbers.tolist(), descriptors.numpy(), strict=True):
                shard = number // shards.size
                span = shards.span(shard)
                if shard not in self._open:
                    empty = np.empty((len(span), len(descriptor)), np.float16 if half else np.float32)
                    self._open[shard] = (empty, set())
                values, filled = self._open[shard]
                values[number - span.start] = descriptor
                filled.add(number)
                if len(filled) == len(span):
                    shards.write(shard, values)
                    del self._open[shard]


def training_network(start: SuperGlobal) -> SuperGlobal:
    """The same weights without SuperGlobal's training-free parts: plain ReLU, learned GeM, one scale."""
    network = SuperGlobal(replace(start.config, **{**CVNET, "relup_inner": False}))
    network.load_state_dict(start.state_dict())
    return network


def load_backbone(model: SuperGlobal, path: str | Path) -> None:
    """Load the backbone alone: from a classification network's file, or from any file of a whole network.

    Raises:
        WeightsError: unreadable, or keys of the backbone that are missing or of another shape.
    """
    state = find_state_dict(read_checkpoint(path), str(path))
    own = {key: value for key, value in model.state_dict().items() if key.startswith("backbone.")}
    inner = "backbone.net." if all(key.startswith("backbone.net.") for key in own) else "backbone."
    if not any(key.startswith("backbone.") for key in state):
        converted = to_ours(state, model)
        state = converted if any(key in own for key in converted) else {inner + key: v for key, v in state.items()}
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    picked = {**counters, **{key: state[key] for key in own if key in state}}
    problem = misfit(own, picked)
    if problem:
        raise WeightsError(f"{path} does not fit the backbone {model.config.backbone}: {problem}")
    model.load_state_dict(picked, strict=False)


def rate_factor(epoch: int, epochs: int, warmup: int) -> float:
    """Learning rate in `epoch` (from 0) over the base rate: half a cosine, times a linear rise from a tenth.

    Without an end (`epochs` below 1) the rate is constant after the rise.
    """
    cosine = half_cosine(epoch / epochs) if epochs > 0 else 1.0
    share = epoch / warmup if epoch < warmup else 1.0
    return cosine * (0.1 * (1 - share) + share)


def retrieval_by_class(embeddings: Tensor, labels: Tensor, chunk: int = 512) -> tuple[float, float]:
    """Mean average precision and recall@1, every image being a query for the others of its class.

    Args:
        embeddings: (N, D) unit vectors.
        labels: (N,) classes; images that are alone in their class are not queries.
        chunk: number of queries at a time; memory is chunk * N.

    Returns:
        Fractions; NaN if no class has two images.
    """
    aps: list[float] = []
    hits: list[bool] = []
    for start in range(0, len(embeddings), chunk):
        scores = embeddings[start : start + chunk] @ embeddings.T
        rows = torch.arange(len(scores), device=scores.device)
        scores[rows, rows + start] = -torch.inf  # an image does not find itself: it comes last
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :-1]
        same = (labels[order] == labels[start : start + chunk, None]).cpu().numpy()
        for row in same:
            positions = np.flatnonzero(row)
            if len(positions):
                aps.append(average_precision(positions, len(positions)))
                hits.append(bool(row[0]))
    if not aps:
        return float("nan"), float("nan")
    return float(np.mean(aps)), float(np.mean(hits))


def _in_order(groups: list[Group]) -> Tensor:
    numbers = torch.cat([numbers for numbers, _ in groups])
    descriptors = torch.cat([descriptors for _, descriptors in groups])
    return torch.empty_like(descriptors).index_copy_(0, numbers, descriptors)
