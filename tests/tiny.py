"""Tiny networks of every kind, each built once per process: every weight matters, but results are meaningless."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tests.golden import seeded
from visionzoo import create_model

if TYPE_CHECKING:
    from visionzoo.models.modecgs import MoDecGS

SHVIT: dict[str, Any] = {"embed_dim": [16, 24, 32], "partial_dim": [8, 8, 8], "depth": [1, 1, 1], "num_classes": 3}
DEHAZEXL: dict[str, Any] = {
    "embed_dim": 8,
    "depths": (1, 2, 1, 1),
    "heads": (1, 1, 2, 2),
    "bottleneck_heads": 4,
    "decoder_depths": (1, 2, 1, 1),
    "decoder_heads": (4, 2, 2, 1),
    "smoothing": 0,
}
MODECGS: dict[str, Any] = {
    "num_offsets": 4,
    "feature_dim": 8,
    "appearance_dim": 4,
    "voxel_size": 0.1,
    "global_resolution": (6, 6, 6, 5),
    "global_channels": 4,
    "local_resolution": (8, 8, 8, 7),
    "local_channels": 4,
    "width": 16,
    "num_segments": 4,
}
KEPT = (
    "anchors.positions",
    "anchors.scaling",
    "intervals.borders",
    "global_deformation.field.planes.box",
    "local_deformation.field.planes.box",
)
"""What a scene gets from its points, not from training."""


@cache
def dehazexl() -> nn.Module:
    """A DehazeXL with a few thousand weights."""
    model = create_model("dehazexl", **DEHAZEXL)
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model.eval()


@cache
def shvit() -> nn.Module:
    """A SHViT with three classes for images of 64 x 64, with norm statistics of noise."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = create_model("shvit_s1", **SHVIT)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.momentum = None  # the plain mean of what is seen
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        with torch.no_grad():
            model.train()(torch.randn(32, 3, 1, 1) + 0.3 * torch.randn(32, 3, 64, 64))
    return model.eval()


@cache
def mcnet() -> nn.Module:
    """An MCNet for crops of 128 x 128, whose keypoints differ from image to image."""
    from visionzoo.training.run import load_config

    config = load_config(["mcnet/tiny"], ["data.root=x"])["model"]["init_args"]["config"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = create_model("mcnet", **config)
        with torch.no_grad():
            model.detector.heatmap.weight.mul_(20)
            model.train()
            for _ in range(2):
                model(*torch.rand(2, 2, 3, 128, 128))
    return model.eval()


@cache
def superglobal() -> nn.Module:
    """A SuperGlobal on a tiny classifier."""
    from visionzoo.models.superglobal import SuperGlobal, SuperGlobalConfig

    torch.manual_seed(0)
    config = SuperGlobalConfig(backbone="visionzoo:shvit_xs", dim=None, scales=(1.0,), average=True, rgem=False)
    return SuperGlobal(config).eval()


@cache
def modecgs() -> MoDecGS:
    """A MoDec-GS of about 200 anchors, whose fields move them."""
    from visionzoo.models.modecgs import MoDecGS, MoDecGSConfig

    model = MoDecGS(MoDecGSConfig(**MODECGS))
    model.initialize(seeded.tensor("points", (300, 3)).numpy())
    state = model.state_dict()
    drawn = seeded.fill({key: value for key, value in state.items() if key not in KEPT})
    for key, value in drawn.items():
        if ".planes.planes." in key:
            drawn[key] = 1 + 0.3 * seeded.tensor(key, value.shape, kind="normal")
        elif ".out." in key:
            drawn[key] = 0.05 * value
    model.load_state_dict(state | drawn)
    return model.eval()


@cache
def ifnet() -> nn.Module:
    """An IFNet of 8 channels, whose flows are a few pixels."""
    model = create_model("rife_nano", width=8, residuals=1)
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model.eval()


@cache
def colorize() -> Any:
    """A pipeline of tiny networks in the form of LongAnimation, for segments of 17 frames of 32 x 32 that share 9."""
    from tests import tiny_animation
    from visionzoo.pipelines.colorize import LongAnimationPipeline

    return LongAnimationPipeline(**tiny_animation.parts(), **tiny_animation.SETTINGS)


@cache
def edit() -> Any:
    """A pipeline of tiny networks in the form of Stable Diffusion 1.5 with a ControlNet."""
    from tests import tiny_diffusion
    from visionzoo.pipelines.edit import LOVEConPipeline

    found = {**tiny_diffusion.parts(), "controlnet": tiny_diffusion.controlnet()}
    return LOVEConPipeline(**{name: part for name, part in found.items() if part is not None}, mask_scale=16)


@cache
def generate() -> Any:
    """A pipeline of tiny networks in the form of ModelScope's text-to-video model, for windows of 8 frames."""
    from tests import tiny_diffusion
    from visionzoo.pipelines.generate import SlowFastVGenPipeline

    parts = {name: getattr(tiny_diffusion, name)() for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    settings = {"window": 8, "frames_per_chunk": 4, "past_frames": 4, "steps": 2, "guidance": 2.0}
    return SlowFastVGenPipeline(unet=tiny_diffusion.video_unet(), **parts, **settings)


NETWORKS = {
    "classify": shvit,
    "dehaze": dehazexl,
    "interpolate": ifnet,
    "reconstruct": modecgs,
    "reenact": mcnet,
    "retrieve": superglobal,
}
"""Task -> its tiny network."""
PIPELINES = {"colorize": colorize, "edit": edit, "generate": generate}
"""Task of a pipeline with several networks -> its tiny pipeline."""

__all__ = [
    "NETWORKS",
    "PIPELINES",
    "colorize",
    "dehazexl",
    "edit",
    "generate",
    "ifnet",
    "mcnet",
    "modecgs",
    "shvit",
    "superglobal",
]
