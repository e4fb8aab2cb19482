"""Converts published SHViT checkpoints to our key names and back: the authors' files, timm's, mmdetection's, trained or fused.

Pure functions on state dicts; `visionzoo.weights` handles files. Rules turn our names into the published ones; the other
direction looks names up among those that the model's own keys give.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

from .config import SHViTConfig
from .fused import FusedSHViT, fit_shapes, fold_attention_and_heads, fold_convolutions
from .model import SHViT

SAFE_CLASSES = (argparse.Namespace,)
"""Names of the settings under "args" in the authors' training files."""

Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*rules: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_LEAVES = _rules(
    (r"^distillation_head\.", "head_dist."),
    (r"\.ffn\.expand\.", ".ffn.m.pw1."),
    (r"\.ffn\.project\.", ".ffn.m.pw2."),
    (r"\.attention\.norm\.(weight|bias)$", r".mixer.m.pre_norm.\1"),
    (r"\.attention\.qkv\.", ".mixer.m.qkv."),
    (r"\.attention\.proj\.", ".mixer.m.proj.1."),
    (r"\.se\.reduce\.", ".se.fc1."),
    (r"\.se\.expand\.", ".se.fc2."),
    (r"\.downsample\.1\.expand\.", ".downsample.1.conv1."),
    (r"\.downsample\.1\.spatial\.", ".downsample.1.conv2."),
    (r"\.downsample\.1\.project\.", ".downsample.1.conv3."),
    (r"\.linear\.(weight|bias)$", r".l.\1"),
    (r"\.conv\.weight$", ".c.weight"),
    (r"(?<!pre_)\bnorm\.(weight|bias|running_mean|running_var|num_batches_tracked)$", r"bn.\1"),
    (r"\.local\.", ".conv.m."),
    (r"\.conv\.m\.(weight|bias)$", r".conv.\1"),  # fused files have no wrapper for the residual
)
"""Rules from our names to those that the authors' and timm's files share, below the level of stages."""

_OFFICIAL = _rules(
    (r"^stem\.", "patch_embed."),
    (r"^stages\.1\.downsample\.", "blocks2."),
    (r"^stages\.2\.downsample\.", "blocks3."),
    (r"^(blocks\d)\.([02])\.conv\.", r"\1.\2.0."),
    (r"^(blocks\d)\.([02])\.ffn\.", r"\1.\2.1."),
    (r"^stages\.0\.blocks\.", "blocks1."),
)
_TIMM = _rules(
    (r"^stem\.", "patch_embed."),
    (r"\.downsample\.2\.conv\.", ".downsample.3."),
    (r"\.downsample\.2\.ffn\.", ".downsample.4."),
    (r"\.downsample\.1\.", ".downsample.2."),
    (r"\.downsample\.0\.conv\.", ".downsample.0."),
    (r"\.downsample\.0\.ffn\.", ".downsample.1."),
)
_LATER_BLOCK = re.compile(r"^stages\.([12])\.blocks\.(\d+)\.")
_NECK = _rules(
    (r"^neck\.laterals\.(\d+)\.", r"neck.lateral_convs.\1.conv."),
    (r"^neck\.outputs\.(\d+)\.", r"neck.fpn_convs.\1.conv."),
    (r"^neck\.upsamplers\.(\d+)\.", r"neck.extra_trans_convs.\1.conv."),
    (r"^neck\.finer_outputs\.(\d+)\.", r"neck.extra_fpn_convs.\1.conv."),
)
_DETECTORS = _rules(
    (r"^head\.classification_head\.conv\.(\d+)\.0\.", r"bbox_head.cls_convs.\1.conv."),
    (r"^head\.regression_head\.conv\.(\d+)\.0\.", r"bbox_head.reg_convs.\1.conv."),
    (r"^head\.classification_head\.cls_logits\.", "bbox_head.retina_cls."),
    (r"^head\.regression_head\.bbox_reg\.", "bbox_head.retina_reg."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"^rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
    (r"^roi_heads\.mask_head\.(\d+)\.0\.", r"roi_head.mask_head.convs.\1.conv."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_head.mask_head.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_head.mask_head.conv_logits."),
)
"""Names in torchvision's detectors and in mmdetection's."""

_CLASSES = re.compile(r"^roi_head\.(bbox_head\.fc_cls|bbox_head\.fc_reg|mask_head\.conv_logits)\.")
"""Layers in which mmdetection's background class is the last or missing, and torchvision's the first."""


def _apply(rules: Rules, key: str) -> str:
    for pattern, replacement in rules:
        key = pattern.sub(replacement, key)
    return key


def official_name(key: str) -> str:
    """Our name of a weight -> the authors' name, e.g. "stages.1.blocks.0.ffn.expand.conv.weight" -> "blocks2.3.ffn.m.pw1.c.weight"."""
    if key.startswith(("backbone.backbone.", "backbone.neck.")):  # in a torchvision detector
        key = key.removeprefix("backbone.")
    if key.startswith("backbone."):
        return "backbone." + official_name(key.removeprefix("backbone."))
    if key.startswith("neck."):
        return _apply(_NECK, key)
    if (detector := _apply(_DETECTORS, key)) != key:
        return detector
    key = _apply(_OFFICIAL, _apply(_LEAVES, key))
    block = _LATER_BLOCK.match(key)
    # the authors store the downsampling layers as the first three members of a stage
    return f"blocks{int(block[1]) + 1}.{int(block[2]) + 3}.{key[block.end() :]}" if block else key


def timm_name(key: str) -> str:
    """Our name of a weight -> timm's name."""
    return _apply(_TIMM, _apply(_LEAVES, key))


def is_training_form(state: Mapping[str, Tensor]) -> bool:
    """Whether the state dict still has batch norms."""
    return any(key.endswith("running_var") for key in state)


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict under the names of `model`; unknown keys stay (and are reported as unexpected).

    Recognised by their names: the authors' files, timm's, and mmdetection's; each as trained or
    fused. A fused model takes files of either form. Heads are dropped where the model has none.

    Args:
        model: a `SHViT`, a `FusedSHViT`, a `detection.DetectionBackbone` or a detector of `detectors`.

    Raises:
        InputError: the file is fused but the network is not.
    """
    config = _config(model)
    own = model.state_dict()
    if any(key.startswith("backbone.") for key in state) and not any(key.startswith("backbone.") for key in own):
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    fused = isinstance(model, FusedSHViT)
    training_form = is_training_form(state)
    if not fused and not training_form and any(key.endswith("patch_embed.0.bias") for key in state):
        raise InputError(
            "these weights are in fused form, which fits only the fused network: load them into model.fuse()"
        )
    names = _names(config, own, fused=not training_form)
    ours = _renamed({key: _background_first(key, value) for key, value in state.items()}, names)
    if not config.heads:
        ours = {key: value for key, value in ours.items() if not key.startswith(("head.", "distillation_head."))}
    if fused:
        ours = fold_attention_and_heads(fold_convolutions(ours) if training_form else ours, config)
        return fit_shapes(ours, own, model.pad_to)
    for key, want in own.items():
        value = ours.get(key)
        if value is not None and value.ndim == 2 and want.shape[2:] == (1, 1):
            ours[key] = value[:, :, None, None]  # older files keep 1x1 kernels as matrices
        if (
            value is None
            and key.endswith("num_batches_tracked")
            and key.replace("num_batches_tracked", "weight") in ours
        ):
            ours[key] = torch.tensor(0)  # a counter that old files lack and inference does not use
    return ours


def _renamed(state: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """`state` under our `names`, by the scheme that recognises most of its keys."""
    schemes: list[Callable[[str], str]] = [official_name, timm_name, str]
    tables = [{theirs(name): name for name in names} for theirs in schemes]
    table = max(tables, key=lambda table: len(table.keys() & state.keys()))
    return {table.get(key, key): value for key, value in state.items()}


def _names(config: SHViTConfig, own: Mapping[str, Tensor], *, fused: bool) -> list[str]:
    """Our names of everything that a file for this network may hold, including heads."""
    with torch.device("meta"):
        whole = SHViT(replace(config, features_only=False, num_classes=config.num_classes or 1, distillation=True))
    names = list(whole.state_dict())
    if fused:
        names = list(fold_convolutions(whole.state_dict()))
    prefix = next((p for p in ("backbone.backbone.", "backbone.") if any(key.startswith(p) for key in own)), "")
    if prefix:
        names = [prefix + name for name in names] + [key for key in own if not key.startswith(prefix)]
    return names


def _config(model: nn.Module) -> SHViTConfig:
    config: Any = getattr(model, "config", None)
    config = getattr(config, "backbone", config)
    assert isinstance(config, SHViTConfig), type(model)
    return config


def _background_first(key: str, value: Tensor) -> Tensor:
    """Weights of mmdetection's last layers in torchvision's order of classes."""
    match = _CLASSES.match(key)
    if not match:
        return value
    if match[1] == "bbox_head.fc_cls":
        return torch.cat([value[-1:], value[:-1]])
    rows = 4 if match[1] == "bbox_head.fc_reg" else 1
    return torch.cat([value.new_zeros(rows, *value.shape[1:]), value])  # for the background class, which is never used


def _background_last(key: str, value: Tensor) -> Tensor:
    """The inverse of `_background_first`."""
    match = _CLASSES.match(key)
    if not match:
        return value
    if match[1] == "bbox_head.fc_cls":
        return torch.cat([value[1:], value[:1]])
    return value[4:] if match[1] == "bbox_head.fc_reg" else value[1:]


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict (of a trained or fused network, a detection backbone or a detector) under the names of the authors' files.

    A fused network has its attention's affine norm and scale in its weights, so it gets an identity norm. A fused distilled
    network has a single head, the mean of two.

    Raises:
        InputError: the network is fused with padded widths, which the published form cannot express.
    """
    named = {official_name(key): value for key, value in _published_form(state).items()}
    return {key: _background_last(key, value) for key, value in named.items()}


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under timm's names, for `timm.create_model("shvit_s1").load_state_dict`.

    Raises:
        InputError: the network is distilled and not fused (timm has no second head), or fused with padded widths.
    """
    if any(key.startswith("distillation_head.") for key in state):
        raise InputError("timm's shvit has no distillation head; create the network with distillation=False")
    return {timm_name(key): value for key, value in _published_form(state).items()}


def _published_form(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if is_training_form(state):
        return dict(state)
    if any(key.endswith("local.weight") and not value[-1].any() for key, value in state.items()) or any(
        key.endswith("qkv.weight") and not value[:, -1].any() for key, value in state.items()
    ):
        raise InputError("padded widths have no published form; fuse without pad_to")
    form: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("attention.qkv.weight"):
            partial = value.shape[1]
            unit = key.removesuffix("qkv.weight")
            form[f"{unit}norm.weight"], form[f"{unit}norm.bias"] = value.new_ones(partial), value.new_zeros(partial)
        if key.endswith(("attention.qkv.weight", "attention.qkv.bias")):
            partial = state[key.replace("bias", "weight")].shape[1]
            qk_dim = (len(value) - partial) // 2
            value = torch.cat([value[:qk_dim] * qk_dim**0.5, value[qk_dim:]])
        convolution = value.ndim == 2 and not key.startswith("head.")
        form[key] = value[:, :, None, None] if convolution else value
    return form


def ema_weights(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights in a training file of the authors; the published accuracy belongs to the others, under "model".

    `load_checkpoint(model, ema_weights(read_checkpoint(path)))`. Raises `InputError` if the file has none.
    """
    ema = loaded.get("model_ema")
    if not isinstance(ema, Mapping):
        raise InputError(f"no averaged weights (model_ema) in this file; its keys are {', '.join(map(str, loaded))}")
    return {str(key).removeprefix("module."): value for key, value in ema.items()}
