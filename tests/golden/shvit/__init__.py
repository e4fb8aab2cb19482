"""Computes the outputs of SHViT's golden cases with the classes that users get."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.models.shvit.checkpoint import official_name, to_official, to_ours
from visionzoo.models.shvit.config import SHViTConfig
from visionzoo.models.shvit.detection import DetectionBackbone, DetectionConfig, NeckConfig
from visionzoo.models.shvit.fused import fold_convolutions
from visionzoo.models.shvit.losses import DistillationLoss
from visionzoo.models.shvit.model import FFN, ConvBN, Head, PatchMerging, SHViT, SingleHeadAttention
from visionzoo.models.shvit.sampler import RepeatedAugmentationSampler
from visionzoo.weights import load_checkpoint

from .. import seeded
from ..case import DIFFERENT, Case, as_json, different_keys

PUBLISHED_DEFAULTS: dict[str, Any] = {
    "embed_dim": (128, 256, 384),
    "partial_dim": (32, 64, 96),
    "depth": (1, 2, 3),
    "types": ("s", "s", "s"),
}
"""Defaults of the published class."""


def compute(case: Case) -> Any:
    """The outputs of `case`, whose kind is determined by its name and its configuration."""
    if "cases" in case.data:
        return [as_json(module(entry), entry.get("outputs")) for entry in case.data["cases"]]
    if "module" in case.data:
        return module(case.data)
    if "neck" in case.config:
        return detector(case)
    if "classes" in case.config:
        return losses_and_sampler(case)
    return keys(case) if "inputs" not in case.data else network(case)


def read_config(values: dict[str, Any]) -> SHViTConfig:
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return SHViTConfig(**{**PUBLISHED_DEFAULTS, **known})


def keys(case: Case) -> dict[str, Any]:
    """Compare the published keys and shapes of both forms with ours, in both directions."""
    with torch.device("meta"):
        model = SHViT(read_config(case.config)).eval()
        published = {key: torch.zeros(shape) for key, shape in case.state_shapes().items()}
    different = different_keys(to_official(model.state_dict()), published)
    different += sorted(to_ours(published, model).keys() ^ model.state_dict().keys())
    wanted = case.data.get("fused_state_dict")
    if wanted:
        folded = fold_convolutions(model.state_dict())
        different += different_keys({official_name(key): value for key, value in folded.items()}, wanted)
        fused = model.fuse()
        converted = to_ours({key: torch.zeros(shape, device="meta") for key, shape in wanted.items()}, fused)
        different += different_keys(converted, fused.state_dict())
    return {DIFFERENT: different}


def network(case: Case) -> dict[str, Any]:
    """A whole network: the outputs of its parts by their published names, logits, and logits of the fused form."""
    model = SHViT(read_config(case.config)).eval()
    load_checkpoint(model, case.state())
    seen = outputs_of_parts(model)
    logits = model(case.input("input"))
    results: dict[str, Any] = {**seen, "logits": logits, "fused_logits": model.fuse()(case.input("input"))}
    results["pooled"] = seen["blocks3"].mean((2, 3))
    return {name: results[name] for name in case.outputs or results}


def outputs_of_parts(model: SHViT) -> dict[str, Tensor]:
    """Filled when `model` runs: published name of a module -> its output."""
    seen: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            seen[name] = output

        module.register_forward_hook(hook)

    record("patch_embed", model.stem)
    record("head", model.head)
    if model.distillation_head is not None:
        record("head_dist", model.distillation_head)
    for number, stage in enumerate(model.stages, start=1):
        record(f"blocks{number}", stage)
        for name, module in stage.named_modules():
            published = official_name(f"stages.{number - 1}.{name}.weight").removesuffix(".weight")
            if isinstance(module, SingleHeadAttention):
                published = published.replace(".attention", ".mixer.m")
            if published not in seen and re.match(r"blocks\d\.", published):
                record(published, module)
    return seen


def detector(case: Case) -> dict[str, Any]:
    """Backbone maps and pyramid levels, from a state dict like mmdetection's."""
    neck = case.config["neck"]
    finer = neck.get("num_extra_trans_convs", 0)
    coarser = neck["num_outs"] - len(neck["in_channels"]) - finer
    config = DetectionConfig(
        read_config({**PUBLISHED_DEFAULTS, "types": ("i", "s", "s"), **case.config["backbone"]}),
        NeckConfig(neck["out_channels"], finer, coarser),
    )
    model = DetectionBackbone(config).eval()
    shapes = dict(case.state_shapes())
    if not any(
        key.startswith("backbone.") for key in shapes
    ):  # "the backbone keys are those of keys_s4.json without head"
        whole = SHViT(replace(config.backbone, features_only=False))
        own = {f"backbone.{key}": list(value.shape) for key, value in to_official(whole.state_dict()).items()}
        shapes = {key: shape for key, shape in own.items() if ".head" not in key} | shapes
    like = {
        key: torch.zeros(shape, dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        for key, shape in shapes.items()
    }
    load_checkpoint(model, {"state_dict": seeded.fill(like, case.seed)})
    x = case.input("input")
    maps, levels = model.backbone.features(x), model(x).values()
    results = {f"backbone.{i}": value for i, value in enumerate(maps)}
    return results | {f"neck.{i}": value for i, value in enumerate(levels)}


def module(entry: dict[str, Any]) -> dict[str, Tensor]:
    """One building block by its published name, with weights seeded by its own key names."""
    kind, c = entry["module"].split("(")[0], entry["config"]
    built: dict[str, Callable[[], nn.Module]] = {
        "SHSA": lambda: SingleHeadAttention(c["dim"], c["pdim"], c["qk_dim"]),
        "PatchMerging": lambda: PatchMerging(c["dim"], c["out_dim"]),
        "Residual": lambda: ConvBN(c["channels"], c["channels"], 3, groups=c["channels"]),
        "Conv2d_BN": lambda: ConvBN(c["cin"], c["cout"], c["kernel"], stride=c["stride"]),
        "FFN": lambda: FFN(c["dim"]),
        "BN_Linear": lambda: Head(c["in_features"], c["out_features"]),
    }
    # the position of the block in a network, in our names and in the published ones
    ours, theirs = {
        "SHSA": ("stages.0.blocks.0.attention.", "blocks1.0.mixer.m."),
        "PatchMerging": ("stages.1.downsample.1.", "blocks2.1."),
        "Residual": ("stages.0.blocks.0.local.", "blocks1.0.conv."),
        "Conv2d_BN": ("stem.0.", "patch_embed.0."),
        "FFN": ("stages.0.blocks.0.ffn.", "blocks1.0.ffn.m."),
        "BN_Linear": ("head.", "head."),
    }[kind]
    block = built[kind]().eval()
    state = {official_name(ours + key).removeprefix(theirs): key for key in block.state_dict()}
    like = {key: torch.zeros(shape) for key, shape in entry["state_dict"].items()}
    seed = entry.get("seed") or 0
    values = seeded.fill(like, seed)
    block.load_state_dict({state[key]: value for key, value in values.items()})
    spec = entry["inputs"][0]
    x = seeded.tensor(spec["name"], spec["shape"], seed, "normal" if spec["kind"].startswith("normal") else "uniform")
    results = {"out": x + block(x) if kind == "Residual" else block(x)}
    if isinstance(block, SingleHeadAttention):
        results["pre_norm"] = block.norm(x[:, : c["pdim"]])
        results["qkv"] = block.qkv(results["pre_norm"])
        q, k = results["qkv"].flatten(2).transpose(1, 2).split(block.widths, dim=-1)[:2]
        results["attn"] = torch.softmax(q @ k.transpose(1, 2) * c["qk_dim"] ** -0.5, dim=-1)
        results["attended"] = block.attend(x[:, : c["pdim"]])
    elif isinstance(block, PatchMerging):
        results["before_se"] = F.relu(block.spatial(F.relu(block.expand(x))))
        results["after_se"] = block.se(results["before_se"])
    elif isinstance(block, (ConvBN, Head)):
        folded = fold_convolutions({ours + key: value for key, value in block.state_dict().items()})
        weight, bias = folded[f"{ours}weight"], folded[f"{ours}bias"]
        results |= {"fused_weight": weight, "fused_bias": bias}
        if isinstance(block, Head):
            results["fused_out"] = F.linear(x, weight, bias)
        else:
            conv = block.conv
            results["fused_out"] = F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)
    return {name: results[name] for name in entry.get("outputs") or results}


def losses_and_sampler(case: Case) -> dict[str, Any]:
    config = case.config
    scale = {
        spec["name"]: float(match[1])
        for spec in case.data["inputs"]
        if (match := re.search(r"times ([\d.]+)", spec["kind"]))
    }
    outputs = case.input("outputs") * scale.get("outputs", 1)
    distilled = case.input("outputs_kd") * scale.get("outputs_kd", 1)
    teacher = case.input("teacher") * scale.get("teacher", 1)
    soft = case.input("soft_target")
    soft = soft / soft.sum(-1, keepdim=True)
    labels = (case.input("labels") * config["classes"]).long()
    results: dict[str, Any] = {}
    for name in case.outputs:
        distillation = re.fullmatch(r"(\w+)/(none|hard|soft)/alpha([\d.]+)/tau([\d.]+)", name)
        smoothing = re.fullmatch(r"label_smoothing_([\d.]+)", name)
        sampled = isinstance(case.outputs[name], dict)
        if distillation:
            kind: Any = distillation[2]
            loss = DistillationLoss(kind, float(distillation[3]), float(distillation[4]))
            targets = soft if distillation[1] == "soft_target_ce" else labels
            results[name] = loss((outputs, distilled), targets, teacher).item()
        elif smoothing:
            results[name] = DistillationLoss("none", label_smoothing=float(smoothing[1]))(outputs, labels).item()
        elif sampled:
            results[name] = {inner: sampler(inner) for inner in case.outputs[name]}
    return results


def sampler(name: str) -> dict[str, Any]:
    """ "n1000_replicas3_rank0_epoch0" -> the indices from a sampler with these settings."""
    match = re.fullmatch(r"n(\d+)_replicas(\d+)_rank(\d+)_epoch(\d+)", name)
    assert match, name
    count, replicas, rank, epoch = map(int, match.groups())
    drawn = RepeatedAugmentationSampler(range(count), replicas, rank)
    drawn.set_epoch(epoch)
    indices = list(drawn)
    checksum = sum((place + 1) * index for place, index in enumerate(indices)) % 2**31
    return {"length": len(drawn), "first40": indices[:40], "checksum": checksum}
