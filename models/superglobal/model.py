"""The SuperGlobal network: a backbone, the training-free pooling, a whitening layer, several scales; one unit vector per image.

Shapes: B images, C channels of the backbone's last map, D length of the descriptor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.config import configure
from visionzoo.devices import has_fast_bfloat16, pick_dtype
from visionzoo.errors import InputError, require
from visionzoo.export.exporters import exporter_of
from visionzoo.folding import fold_batchnorm
from visionzoo.fused_conv import fuse_convolutions
from visionzoo.registry import create_model, model_entry
from visionzoo.weights import misfit, timm_network

from .lite import Lite0Backbone
from .pooling import LearnedGeM, ScalePooling, gem, regional_gem, scale_pool, smallest_side

SCALES = {1: (1.0,), 3: (0.7071, 1.0, 1.4142), 5: (0.5, 0.7071, 1.0, 1.4142, 2.0)}
"""The published sets of scales."""

LITE0 = "timm:tf_efficientnet_lite0"
"""The default model's backbone, which is written out in `lite.py`; the name stays timm's, as indexes record it."""


@dataclass(frozen=True)
class SuperGlobalConfig:
    """The configuration of a SuperGlobal network; the defaults are the published setting for ResNet-50.

    Attributes:
        backbone: "resnet50", "resnet101", "timm:NAME" for any timm network with a (B, C, H, W) feature map, or
            "visionzoo:NAME" for a registered classifier that can give its maps ("visionzoo:shvit_s1").
        backbone_config: fields of that classifier's own configuration to override.
        dim: number of outputs of the whitening layer (D); None for no whitening layer (D = C).
        relup: ReLUP on the block outputs of stages 1 to 3 of the ResNets.
        relup_inner: ReLUP on the inner activations of stage 1; None follows `relup`. The published code leaves it on when
            ReLUP is switched off: that is relup=False, relup_inner=True.
        relup_value: the floor of ReLUP.
        average: the plain mean of the map, negative values included, instead of generalised means.
        gemp, gemp_p: GeM+ with this exponent; if off, the learned exponent of the checkpoint is used.
        rgem, rgem_p, rgem_size: regional GeM, its exponent and window.
        norm_before_fc: L2 normalisation before the whitening layer (SuperGlobal's; CVNet has none).
        scales: factors on the image's sides.
        scale_pooling, scale_p: how the scales' descriptors become one (see `pooling.scale_pool`).
        antialias: antialiased resize to the scales. Off gives the published numbers.
        mean, std: normalisation of the input, in the order of `channel_order`.
        channel_order: "bgr" (the published checkpoints) or "rgb".
    """

    backbone: str = "resnet50"
    dim: int | None = 2048
    relup: bool = True
    relup_inner: bool | None = None
    relup_value: float = 0.014
    average: bool = False
    gemp: bool = True
    gemp_p: float = 4.6
    rgem: bool = True
    rgem_p: float = 2.5
    rgem_size: int = 5
    norm_before_fc: bool = True
    scales: tuple[float, ...] = SCALES[3]
    scale_pooling: ScalePooling = "max"
    scale_p: float = 10.0
    antialias: bool = False
    mean: tuple[float, ...] = (0.406, 0.456, 0.485)
    std: tuple[float, ...] = (0.225, 0.224, 0.229)
    channel_order: str = "bgr"
    backbone_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"scales must be positive factors, got {self.scales}")
        if self.channel_order not in ("bgr", "rgb"):
            raise InputError(f"channel_order must be 'bgr' or 'rgb', got {self.channel_order!r}")
        if self.rgem_size % 2 == 0 or self.rgem_size < 1:
            raise InputError(f"rgem_size must be an odd number, got {self.rgem_size}")
        if self.scale_pooling not in ("max", "power", "mean", "mean_of_normalized"):
            raise InputError(
                f"scale_pooling must be max, power, mean or mean_of_normalized, got {self.scale_pooling!r}"
            )


class TimmBackbone(nn.Module):
    """Any timm network up to its last (B, C, h, w) map. Negative values are set to 0, as generalised means do not allow them."""

    def __init__(self, name: str, pretrained: bool = False):
        super().__init__()
        self.net: Any = timm_network(
            name,
            pretrained=pretrained,
            extra="retrieval",
            purpose=f"the backbone {name}",
            num_classes=0,
            global_pool="",
        )
        probe = self._probe()
        self.num_features: int = probe.shape[1]
        self.stride: int = round(128 / probe.shape[-1])

    @torch.no_grad()
    def _probe(self) -> Tensor:
        """The map of a 128 x 128 image, which shows the network's shapes, and whether it has a map at all."""
        training = self.net.training
        try:
            features = self.net.eval().forward_features(torch.zeros(1, 3, 128, 128))
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"this timm network accepts images of one size only ({error}); choose a convolutional one"
            ) from error
        self.net.train(training)
        if features.ndim != 4 or features.shape[-1] != features.shape[-2]:
            raise InputError(
                f"this timm network's features must be (B, C, h, w), got shape {tuple(features.shape)}; choose a convolutional one"
            )
        return features

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x).clamp(min=0)


class ClassifierBackbone(nn.Module):
    """A registered classifier up to its last (B, C, h, w) map, whose values may be negative.

    Args:
        net: made without a head (`num_classes=0`).
    """

    def __init__(self, net: Any):
        super().__init__()
        self.net = net
        self.num_features: int = net.num_features
        self.stride: int = net.stride

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x)[1]

    def for_inference(self) -> None:
        """Use the network's own fast form."""
        self.net = self.net.fuse()


class SuperGlobal(nn.Module):
    """Global image descriptor: `model(images)` gives unit vectors, to be compared by their dot product.

    `images`: (B, 3, H, W) float, normalised as `config` says (see `preprocess.Preprocess`); all sides at least
    `model.min_side`. Returns (B, D) float32. Section 3 of arXiv 2308.06954; the numbers are the published code's.

    Args:
        config: the parts.
        backbone: a module of your own instead of `config.backbone`: (B, 3, H, W) -> (B, C, h, w) with no negative
            values, and attributes `num_features` (C) and `stride`.
    """

    def __init__(self, config: SuperGlobalConfig, backbone: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.backbone = backbone or build_backbone(config)
        channels = int(self.backbone.num_features)  # pyright: ignore[reportArgumentType]
        self.pool = LearnedGeM()
        self.fc = nn.Linear(channels, config.dim) if config.dim else nn.Identity()
        self.dim: int = config.dim or channels

    @property
    def min_side(self) -> int:
        """Shortest image side in pixels that every scale can take (92 for the published setting)."""
        window = self.config.rgem_size if self.config.rgem else 1
        return smallest_side(self.config.scales, int(self.backbone.stride), window)  # pyright: ignore[reportArgumentType]

    def pool_map(self, x: Tensor) -> Tensor:
        """A feature map (B, C, h, w) to a pooled vector (B, C), before whitening."""
        c = self.config
        if c.average:
            x = x.float().mean((-2, -1))
            return F.normalize(x, dim=-1) if c.norm_before_fc else x
        if isinstance(self.backbone, ClassifierBackbone):
            x = x.clamp(min=0)  # generalised means take no negative values
        if c.rgem:
            x = regional_gem(x, c.rgem_p, c.rgem_size)
        x = gem(x, c.gemp_p) if c.gemp else self.pool(x)
        return F.normalize(x, dim=-1) if c.norm_before_fc else x

    def forward_single_scale(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), not normalised."""
        dtype = next(self.backbone.parameters()).dtype
        return self.fc(self.pool_map(self.backbone(x.to(dtype))))

    def forward_scales(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D): all scales pooled into one descriptor, not normalised again."""
        descriptors = [self.forward_single_scale(self._resize(x, scale)) for scale in self.config.scales]
        return scale_pool(torch.stack(descriptors), self.config.scale_pooling, self.config.scale_p)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.forward_scales(x), dim=-1)

    def _resize(self, x: Tensor, scale: float) -> Tensor:
        if scale == 1:
            return x
        size = [int(x.shape[-2] * scale), int(x.shape[-1] * scale)]
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=self.config.antialias)

    def usual_dtype(self, device: torch.device) -> torch.dtype:
        """What "auto" means for this network: bfloat16 also on a CPU that has instructions for it, where descriptors are known to
        keep (cosine to float32 above 0.999: the default model and the ResNets)."""
        if (
            device.type == "cpu"
            and self.config.backbone in (LITE0, "resnet50", "resnet101")
            and has_fast_bfloat16(device)
        ):
            return torch.bfloat16
        return pick_dtype("auto", device)

    def for_inference(self, dtype: torch.dtype = torch.float32, channels_last: bool = True) -> SuperGlobal:
        """Make this network fast, for inference only, and return it: batch norms folded into their convolutions,
        activations fused with them, channels-last weights, and the backbone in `dtype` (pooling and whitening stay in float32)."""
        self.eval().requires_grad_(False)
        if isinstance(self.backbone, ClassifierBackbone):
            self.backbone.for_inference()
        else:
            example = torch.rand(1, 3, 96, 96, device=next(self.backbone.parameters()).device)
            fuse_convolutions(fold_batchnorm(self.backbone, example), example)
        if isinstance(self.backbone, Lite0Backbone):
            self.backbone.lower(dtype)
        else:
            self.backbone.to(dtype=dtype)
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return self


def build_backbone(config: SuperGlobalConfig) -> nn.Module:
    """The network that `config.backbone` names, with random weights."""
    name = config.backbone
    if name == LITE0:
        return Lite0Backbone()
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"))
    if name.startswith("visionzoo:"):
        return ClassifierBackbone(_headless(name.removeprefix("visionzoo:"), config.backbone_config))
    if name not in ("resnet50", "resnet101"):
        raise InputError(f"unknown backbone {name!r}; use resnet50, resnet101, timm:NAME or visionzoo:NAME")
    from .resnet import ResNetBackbone  # here, as torchvision takes 150 MB and a second to import

    inner = config.relup if config.relup_inner is None else config.relup_inner
    return ResNetBackbone(
        int(name.removeprefix("resnet")),
        inner_floor=config.relup_value if inner else 0.0,
        output_floor=config.relup_value if config.relup else 0.0,
    )


def _headless(name: str, config: dict[str, Any] | None = None, **weights: Any) -> nn.Module:
    """The registered classifier `name` without its head; `config` are fields of its configuration."""
    return create_model(name, **{**(config or {}), "num_classes": 0}, **weights)


def check_rebuildable(network: SuperGlobal) -> None:
    """Raise `InputError` unless the configuration of a network describes it, so that it can be saved and loaded again."""
    try:
        with torch.device("meta"):
            again = SuperGlobal(network.config)
    except InputError as error:
        problem = str(error)
    else:
        problem = misfit(again.state_dict(), network.state_dict())
        if not problem and type(again.backbone) is not type(network.backbone):
            problem = f"it is a {type(network.backbone).__name__}"
    if problem:
        raise InputError(
            f"this network has its own backbone, not the {network.config.backbone} of its configuration, and could not be loaded "
            f"again ({problem}); keep its state_dict(), and create the pipeline with the network: pipeline('retrieve', model=network)"
        )


CVNET = {
    "relup": False,
    "gemp": False,
    "rgem": False,
    "norm_before_fc": False,
    "scales": SCALES[1],
    "scale_pooling": "mean_of_normalized",
}
"""CVNet-Global, the network that SuperGlobal's pooling is put on: learned GeM, plain ReLU, no normalisation before whitening."""

VARIANTS = {
    "superglobal_r50": SuperGlobalConfig(),
    "superglobal_r101": SuperGlobalConfig(backbone="resnet101"),
    "cvnet_global_r50": replace(SuperGlobalConfig(), **CVNET),
    "cvnet_global_r101": replace(SuperGlobalConfig(backbone="resnet101"), **CVNET),
    "superglobal_lite0": SuperGlobalConfig(
        backbone=LITE0, dim=None, mean=(0.5,) * 3, std=(0.5,) * 3, channel_order="rgb"
    ),
}


def build(name: str, **overrides: Any) -> SuperGlobal:
    """The registered variant `name`, with random weights."""
    return SuperGlobal(configure(VARIANTS[name], overrides))


def from_classifier(
    name: str, pretrained: bool = True, checkpoint: str | PathLike[str] | None = None, **overrides: Any
) -> SuperGlobal:
    """SuperGlobal's pooling on a registered classifier, e.g. `from_classifier("shvit_s1")`; its head is left out.

    Plain averaging by default: that is what a classifier of this kind was trained for.

    Args:
        name: a model of the task "classify", with or without the tag of its weights.
        pretrained: load that model's weights.
        checkpoint: load this file of the classifier (or of the network that this function gives) instead.
        **overrides: fields of `SuperGlobalConfig`; there is no whitening layer unless `dim` is given.

    Raises:
        InputError: no such model.
        VisionZooError: the weights are not available, or do not fit.
    """
    variant = model_entry(name).card.name
    exporter = exporter_of(variant)
    if exporter is None:
        raise InputError(f"{name} is not a classifier that can describe photos")
    wanted = exporter.preprocess(variant)
    base = SuperGlobalConfig(
        backbone=f"visionzoo:{variant}", dim=None, channel_order="rgb", mean=wanted.mean, std=wanted.std,
        average=True, rgem=False, scales=SCALES[3], scale_pooling="mean_of_normalized",
    )  # fmt: skip
    config = configure(base, overrides)
    fresh = pretrained and checkpoint is None
    net = _headless(name, config.backbone_config, pretrained=fresh, checkpoint=checkpoint)
    return SuperGlobal(config, ClassifierBackbone(net)).eval()


def from_timm(name: str, pretrained: bool = True, **overrides: Any) -> SuperGlobal:
    """SuperGlobal's pooling on a timm network, e.g. `from_timm("resnet18.a1_in1k")`.

    Args:
        name: a timm network with a (B, C, h, w) feature map.
        pretrained: load timm's weights (from its hub or its cache).
        **overrides: fields of `SuperGlobalConfig`; there is no whitening layer unless `dim` is given.

    Raises:
        InputError: timm has no such network, or it has no feature map.
        VisionZooError: the weights are not available.
    """
    timm = require("timm", extra="retrieval", purpose=f"the backbone {name}")
    base = SuperGlobalConfig(backbone=f"timm:{name}", dim=None, channel_order="rgb")
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None:
        base = replace(base, mean=tuple(cfg.mean), std=tuple(cfg.std))
    config = configure(base, overrides)
    return SuperGlobal(config, TimmBackbone(name, pretrained=pretrained)).eval()
