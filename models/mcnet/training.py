"""Training and testing of MCNet, for `visionzoo fit|validate|test`: the losses and schedule of the authors' command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from visionzoo.devices import without_autocast
from visionzoo.errors import InputError
from visionzoo.faces import open_identity, open_landmarks
from visionzoo.io.pixels import quantize
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.restoration import psnr, ssim
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.weights import load_checkpoint, read_checkpoint

from .config import DiscriminatorConfig
from .data import TestPairs
from .discriminator import Discriminator
from .evaluation import Measures, Report
from .generator import Animated
from .keypoints import Keypoints
from .losses import (
    Deformed,
    LossWeights,
    ThinPlateTransform,
    VGG19Features,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    reenactment_loss,
)
from .model import MCNet

Batch = tuple[Tensor, Tensor]
"""Source and driving frames of one person, each (B, 3, H, W) in [0, 1]."""


class MCNetTraining(TrainingModule):
    """Trains an MCNet to generate the driving frame from the source frame of the same person.

    The defaults are the published recipe (the authors' command, which overrides their configuration file): Adam at 2e-4, a tenth
    of it from epoch 80 on, gradients of detector and generator clipped to a norm of 10 each, steps without a finite loss skipped.

    Args:
        name: a registered model, e.g. "mcnet".
        config: fields of its `MCNetConfig` to override.
        checkpoint: start from this file (published or own key names).
        vgg: weights of VGG-19 for the perceptual loss, torchvision's vgg19-dcbb9e9d.pth.
        lr, betas: learning rate and betas of Adam.
        decay_epochs: epochs at which the learning rate falls to a tenth.
        perceptual, equivariance_value, equivariance_jacobian, keypoint_distance, memory: weights of the published losses.
        pixel: weight of the mean absolute error at four scales; 0 is published. Needs no VGG.
        gan: weight of the adversarial loss; 0 is published (the authors found no gain).
        feature_matching: weight of feature matching, used if `gan` is not 0.
        clip_norm: largest norm of the gradient, for detector and generator separately; None for no limit.
        export_half: write weights.safetensors in half precision.
        lpips, lpips_network: backbone weights for LPIPS in tests (torchvision's vgg16-397923af.pth or
            alexnet-owt-7be5be79.pth), and which it is.
        landmarks: network of 68 facial landmarks for AKD in tests: face-alignment's 2DFAN4-cd938726ad.zip (published), or dlib's
            shape_predictor_68_face_landmarks.dat; see `visionzoo.faces.open_landmarks`.
        identity, identity_order: network of identity descriptors for AED and CSIM in tests: OpenFace's nn4.small2 (published for
            AED) or another as TorchScript or ONNX, or dlib's dlib_face_recognition_resnet_model_v1.dat; and the order of channels
            that TorchScript or ONNX gets, "bgr" (published) or "rgb". See `visionzoo.faces.open_identity`.
        seed: random seed for the deformations and the noise of training.
    """

    try_with = "visionzoo reenact SOURCE.jpg DRIVING.mp4 -o OUT.mp4 --checkpoint {file}"
    model: MCNet

    def __init__(
        self,
        name: str = "mcnet",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        vgg: str | None = None,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        decay_epochs: list[int] | None = None,
        perceptual: float = 10.0,
        equivariance_value: float = 10.0,
        equivariance_jacobian: float = 10.0,
        keypoint_distance: float = 10.0,
        memory: float = 10.0,
        pixel: float = 0.0,
        gan: float = 0.0,
        feature_matching: float = 10.0,
        clip_norm: float | None = 10.0,
        export_half: bool = False,
        lpips: str | None = None,
        lpips_network: Literal["vgg", "alex"] = "vgg",
        landmarks: str | None = None,
        identity: str | None = None,
        identity_order: Literal["bgr", "rgb"] = "bgr",
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()
        if not perceptual and not pixel:
            raise InputError("no loss compares images: give model.perceptual or model.pixel a weight")
        self.name, self.overrides = name, dict(config or {})
        model = create_model(name, **self.overrides)
        if not isinstance(model, MCNet):
            raise InputError(f"model.name must be an MCNet, e.g. mcnet, got {name!r}")
        self.model = model.train()  # Lightning does not change the mode
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        self.weights = LossWeights(
            perceptual, pixel, equivariance_value, equivariance_jacobian, keypoint_distance, memory
        )
        self.vgg = VGG19Features(read_checkpoint(vgg)) if vgg and perceptual else None
        self.discriminator = Discriminator(DiscriminatorConfig(model.config.num_keypoints)) if gan else None
        self.automatic_optimization = not gan
        self._scores: list[Tensor] = []
        self.report: Report | None = None
        self._lpips = Lpips(lpips_network, backbone=lpips) if lpips else None

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """Source and driving images (B, 3, H, W) in [0, 1] -> predictions."""
        return self.model(source, driving)

    # Training

    def configure_optimizers(self) -> Any:
        h = self.hparams
        wanted: dict[str, Any] = {"lr": h["lr"], "betas": tuple(h["betas"])}
        milestones = [80] if h["decay_epochs"] is None else list(h["decay_epochs"])
        networks = [self.model] if self.discriminator is None else [self.model, self.discriminator]
        optimizers = [torch.optim.Adam(network.parameters(), **wanted) for network in networks]
        return optimizers, [torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones) for optimizer in optimizers]

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.hparams["clip_norm"]:
            for part in (self.model.detector, self.model.generator):
                clip_grad_norm_(part.parameters(), self.hparams["clip_norm"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        source, driving = batch
        rng = self._rng(batch_idx)
        source_keypoints, driving_keypoints = self.model.detect(source), self.model.detect(driving)
        cache = self.model.encode_source(source, source_keypoints)
        animated = self.model.render(cache, driving_keypoints, noise="random", rng=rng)
        terms = self.terms(animated, driving, source_keypoints, driving_keypoints, rng)
        if self.discriminator is None:
            loss = torch.stack(list(terms.values())).sum()
            self._log(terms, loss, len(source))
            return loss if torch.isfinite(loss) else None
        self._adversarial_step(terms, animated.prediction, driving, driving_keypoints)
        return None

    def terms(
        self,
        animated: Animated,
        driving: Tensor,
        source_keypoints: Keypoints,
        driving_keypoints: Keypoints,
        rng: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The terms of `reenactment_loss` by name.

        Args:
            animated: frames made from these keypoints.
            driving: the target images (B, 3, H, W).
            rng: draws the deformation of the equivariance losses.
        """
        weights = self.weights if self.vgg is not None else replace(self.weights, perceptual=0.0)
        deformed = None
        if weights.equivariance_value or weights.equivariance_jacobian:
            transform = ThinPlateTransform.random(len(driving), rng=rng, device=driving.device)
            with without_autocast(driving.device):
                frame = transform.transform_frame(driving)
            deformed = Deformed(transform, self.model.detect(frame))
        return reenactment_loss(
            animated,
            driving,
            source_keypoints,
            driving_keypoints,
            deformed=deformed,
            features=self.vgg,
            weights=weights,
        )

    def _adversarial_step(
        self, terms: dict[str, Tensor], prediction: Tensor, driving: Tensor, keypoints: Keypoints
    ) -> None:
        """One step of the model, and one of the discriminator."""
        assert self.discriminator is not None
        h, points = self.hparams, keypoints.value.detach()
        for_model, for_discriminator = cast(Sequence[Any], self.optimizers())
        self.discriminator.requires_grad_(False)
        fake, fake_maps = self.discriminator(prediction, points)
        terms["gan"] = h["gan"] * generator_loss(fake)
        if h["feature_matching"]:
            _, real_maps = self.discriminator(driving, points)
            terms["feature_matching"] = h["feature_matching"] * feature_matching_loss(real_maps, fake_maps)
        loss = torch.stack(list(terms.values())).sum()
        self._log(terms, loss, len(driving))
        self.discriminator.requires_grad_(True)
        if not torch.isfinite(loss):
            return
        for_model.zero_grad()
        self.manual_backward(loss)
        self.configure_gradient_clipping(for_model)
        for_model.step()
        (real, _), (made, _) = self.discriminator(driving, points), self.discriminator(prediction.detach(), points)
        loss = h["gan"] * discriminator_loss(real, made)
        self.log("train/discriminator", loss, sync_dist=True, batch_size=len(driving))
        for_discriminator.zero_grad()
        self.manual_backward(loss)
        for_discriminator.step()

    def on_train_epoch_end(self) -> None:
        if not self.automatic_optimization and self.trainer.is_last_batch:  # not if max_steps ends the epoch early
            for scheduler in cast(Sequence[Any], self.lr_schedulers()):
                scheduler.step()

    def _log(self, terms: dict[str, Tensor], loss: Tensor, count: int) -> None:
        self.log_loss(loss, count)
        for name, value in terms.items():
            self.log(f"train/{name}", value, on_step=True, sync_dist=True, batch_size=count)

    def _rng(self, batch_idx: int) -> torch.Generator:
        """A generator that is the same at this step in every run, so that a resumed run equals an uninterrupted one."""
        numbers = (int(self.hparams["seed"]), self.current_epoch, batch_idx, self.global_rank)
        seed = 0
        for number in numbers:
            seed = (seed * 1_000_003 + number) % 2**63
        return torch.Generator().manual_seed(seed)

    def about(self) -> dict[str, Any]:
        data = getattr(self._trainer, "datamodule", None)
        return {"image_size": getattr(data, "size", None)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the parts that only training needs, if nothing is trained."""
        state = checkpoint["state_dict"]
        unused = [f"{name}." for name in ("vgg", "discriminator") if getattr(self, name) is None]
        for key in [key for key in state if not self.in_fit and key.startswith(tuple(unused))]:
            del state[key]
        super().on_load_checkpoint(checkpoint)

    # Validation and test

    def on_validation_epoch_start(self) -> None:
        self._scores = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        source, driving = batch
        result = quantize(self(source, driving).float())
        rows = [
            (float((a - b).abs().mean()), psnr(a, b), ssim(a, b), psnr(s, b))
            for a, b, s in zip(result, driving, source, strict=True)
        ]
        self._scores.append(torch.tensor(rows))

    def on_validation_epoch_end(self) -> None:
        if self._scores:
            scores = torch.cat(self._scores)  # of a pair of equal frames the source's is infinite
            mean = torch.where(scores.isfinite(), scores, torch.nan).nanmean(0).to(self.device)
            names = ("val/l1", "val/psnr", "val/ssim", "val/psnr_source")
            self.log_dict(dict(zip(names, mean, strict=True)), prog_bar=True, sync_dist=True)
        self._scores = []

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.hparams["perceptual"] and self.vgg is None:
            raise InputError(
                "the perceptual loss needs model.vgg=vgg19-dcbb9e9d.pth (torchvision's file); "
                "or train without: model.perceptual=0 model.pixel=10"
            )
        if stage == "test":
            self.check_trained()
            self._measures = self._open_measures()

    def _open_measures(self) -> Measures:
        h, device = self.hparams, self.trainer.strategy.root_device
        landmarks = open_landmarks(h["landmarks"], device=device) if h["landmarks"] else None
        identity = open_identity(h["identity"], order=h["identity_order"], device=device) if h["identity"] else None
        pairs = getattr(getattr(self.trainer, "datamodule", None), "test_set", None)
        if identity is None and isinstance(pairs, TestPairs) and all(map(pairs.is_cross, range(len(pairs)))):
            raise InputError(
                "every pair shows two people, so there are no true frames; give model.identity=FILE, or data.cross=false"
            )
        return Measures(self._lpips, landmarks, identity)

    def on_test_start(self) -> None:
        self.check_one_device()
        names = self._measures.names()
        if self.hparams["lpips"]:
            names = {"lpips": f"{self.hparams['lpips_network']}, {Path(self.hparams['lpips']).name}", **names}
        self.report = Report(networks=names)
        self._fast = self.model.eval().fuse().to(self.device)

    def test_step(self, batch: tuple[Tensor, Tensor, list[str], Tensor], batch_idx: int) -> None:
        assert self.report is not None
        source, driving, names, crosses = batch
        with without_autocast(source.device):  # measured in float32, whatever trains
            result = quantize(self._fast(source, driving).float())
        for image, truth, first, name, cross in zip(result, driving, source, names, crosses.tolist(), strict=True):
            self.report.scores.append(self._measures.score(name, image, truth, first, cross=cross))

    def on_test_epoch_end(self) -> None:
        assert self.report is not None
        found = {f"test/{name}": value for name, value in self.report.means().items()}
        found |= {f"test/cross_{name}": value for name, value in self.report.means(cross=True).items()}
        self.log_dict({name: value for name, value in found.items() if value is not None})


__all__ = ["MCNetTraining"]
