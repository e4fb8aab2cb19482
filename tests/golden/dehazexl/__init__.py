"""Computes the outputs of DehazeXL's golden cases with the classes that users get."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention.functional import attention
from visionzoo.models.dehazexl.attribution import attribute, attribution_steps, path_derivative
from visionzoo.models.dehazexl.bottleneck import HyperDraw, hash_codes, hyper_attention, position_embedding
from visionzoo.models.dehazexl.checkpoint import derived_differences, to_official
from visionzoo.models.dehazexl.losses import restoration_loss
from visionzoo.models.dehazexl.model import DehazeXL, DehazeXLConfig
from visionzoo.weights import load_checkpoint

from .. import seeded
from ..case import DIFFERENT, HERE, Case, different_keys

DERIVED = ("attn_mask", "relative_position_index")


def compute(case: Case) -> Any:
    """The outputs of `case`, whose kind is determined by its name and its configuration."""
    if case.name.startswith("keys"):
        return keys(case)
    c = case.config
    if "fold" in c:
        return attributions(case)
    if "lsh_num_projs" in c:
        return hyper(case)
    if "criterion" in c:
        return losses(case)
    return positions(case) if set(c) == {"dim"} else network(case)


# Networks

OFFICIAL: dict[str, Any] = {
    "backbone": "depths 2/2/6/2, dims 96/192/384/768, heads 3/6/12/24",
    "bottleneck": {"layers": 2, "heads": 8, "mlp_ratio": 4, "attention": "hyper"},
    "decoder": {"depths": [2, 2, 2, 2], "heads_by_stage": [24, 12, 6, 3], "upsample": "ConvTranspose2d"},
}


def read_config(c: dict[str, Any]) -> DehazeXLConfig:
    """A case's configuration as our configuration."""

    def numbers(name: str) -> tuple[int, ...]:
        found = re.search(rf"{name} ([\d/]+)", c["backbone"])
        assert found, c["backbone"]
        return tuple(map(int, found[1].split("/")))

    c = OFFICIAL | c
    bottleneck, decoder = OFFICIAL["bottleneck"] | c["bottleneck"], c["decoder"]
    width = "embed_dim" if "embed_dim" in c["backbone"] else "dims"
    heads = decoder.get("heads_by_stage") or decoder.get("heads by stage")
    return DehazeXLConfig(
        embed_dim=numbers(width)[0],
        depths=numbers("depths"),
        heads=numbers("heads"),
        bottleneck_depth=bottleneck["layers"],
        bottleneck_heads=bottleneck["heads"],
        mlp_ratio=bottleneck["mlp_ratio"],
        decoder_depths=tuple(decoder["depths"]),
        decoder_heads=tuple(heads),
        upsample="shuffle" if "PatchExpand" in decoder.get("upsample", "") else "transposed",
        **read_attention(bottleneck["attention"]),
    )


def read_attention(value: str | dict[str, int]) -> dict[str, Any]:
    if isinstance(value, str):
        if not value.startswith("hyper"):
            return {"attention": "exact"}
        named = {
            "lsh_projections": r"(\d+) projections",
            "lsh_block": r"block (\d+)",
            "lsh_samples": r"(\d+) samples",
            "lsh_min_tokens": r"below (\d+)",
        }
        found = {name: re.search(pattern, value) for name, pattern in named.items()}
        return {"attention": "lsh", **{name: int(match[1]) for name, match in found.items() if match}}
    names = {
        "lsh_num_projs": "lsh_projections",
        "block_size": "lsh_block",
        "sample_size": "lsh_samples",
        "min_seq_len": "lsh_min_tokens",
    }
    return {"attention": "lsh", **{names[key]: number for key, number in value.items() if key in names}}


def state_shapes(case: Case, model: DehazeXL) -> dict[str, list[int]]:
    """Published key names and shapes, from the case, from the part of the keys file that it names, or from its network."""
    inside = case.data.get("state_dict") or case.config.get("keys") or ""
    if isinstance(inside, dict):
        return inside
    named = re.search(r"([\w.-]+\.json)\W+(\w+)", inside)
    for folder in (case.path.parent, HERE / case.system):
        if named and (folder / named[1]).is_file():
            shapes = json.loads((folder / named[1]).read_text(encoding="utf-8")).get(named[2])
            if shapes:
                return shapes
    return {key: list(value.shape) for key, value in to_official(model.state_dict()).items()}


def published_state(case: Case, model: DehazeXL) -> dict[str, Tensor]:
    """Seeded weights under published names; buffers that follow from window sizes keep their values."""
    derived = {key: value for key, value in to_official(model.state_dict()).items() if key.endswith(DERIVED)}
    shapes = state_shapes(case, model)
    weights = {key: torch.zeros(shape) for key, shape in shapes.items() if not key.endswith(DERIVED)}
    state = seeded.fill(weights, case.seed) | derived
    if {key: list(value.shape) for key, value in state.items()} != shapes:
        raise AssertionError(f"{case.path}: published keys differ: {sorted(set(state) ^ set(shapes))[:8]}")
    return state


def loaded(case: Case, config: DehazeXLConfig) -> DehazeXL:
    model = DehazeXL(config).eval().requires_grad_(False)
    state = published_state(case, model)
    load_checkpoint(model, state)
    if wrong := derived_differences(state, model):
        raise AssertionError(f"{case.path}: derived values differ: {wrong}")
    return model


def keys(case: Case) -> dict[str, Any]:
    """Compare the published keys and shapes of each network with ours."""
    configs = {
        "official": DehazeXLConfig(),
        "dam_variant": DehazeXLConfig(upsample="shuffle"),
        "tiny": DehazeXLConfig(embed_dim=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), decoder_heads=(8, 4, 2, 1)),
    }
    different: list[str] = []
    for name, shapes in case.data.items():
        if name in configs:
            with torch.device("meta"):
                model = DehazeXL(configs[name])
            different += [f"{name}.{key}" for key in different_keys(to_official(model.state_dict()), shapes)]
    return {DIFFERENT: different}


def draws(case: Case, config: DehazeXLConfig, tokens: int, batch: int) -> list[HyperDraw | None] | None:
    """The random part of HyperAttention, drawn as described in the cases' notes."""
    if config.hyper is None or tokens < config.lsh_min_tokens:
        return None
    width, heads = config.dim // config.bottleneck_heads, config.bottleneck_heads
    made: list[HyperDraw | None] = []
    for i in range(config.bottleneck_depth):
        name = f"bottleneck.layers.{i}.attn.attn.lsh.proj_dir"
        projections = seeded.tensor(name, (1, 1, width, config.lsh_projections), case.seed, "normal")
        samples = seeded.tensor(f"sampled_set.{i}", (batch, heads, config.lsh_samples), case.seed)
        made.append(HyperDraw(projections[0, 0], (samples.double() * tokens).long()))
    return made


def network(case: Case) -> dict[str, Any]:
    """A whole network: the outputs of its parts by their published names, and the result."""
    config = read_config(case.config)
    model = loaded(case, config)
    x = case.input("input")
    tokens = x.shape[2] * x.shape[3] // 1024
    given = draws(case, config, tokens, x.shape[0])
    seen = outputs_of_parts(model, patches=8 if any("first 8" in name for name in case.outputs) else None)
    output = model(x, draws=given)
    results = {name: join() for name, join in seen.items()}
    results["output"] = output
    results["decoder"] = (
        output  # the published code adds the input to the decoder's output in place, and the sum was recorded
    )
    return {name: results[name.split(" (")[0]] for name in case.outputs or results}


def outputs_of_parts(model: DehazeXL, patches: int | None) -> dict[str, Callable[[], Tensor]]:
    """Filled when `model` runs: published name of a part -> function that returns its output for the first `patches` patches."""
    kept: dict[str, list[Tensor]] = defaultdict(list)
    seen: dict[str, Callable[[], Tensor]] = {}

    def record(name: str, module: nn.Module, form: Callable[[Tensor], Tensor]) -> None:
        def hook(_module: nn.Module, _inputs: tuple, output: Any) -> None:
            for inner, value in enumerate(output) if isinstance(output, list) else [("", output)]:
                chunks = kept[f"{name}{inner}"]
                room = None if patches is None else max(0, patches - sum(map(len, chunks)))
                chunks.append(form(value[:room]) if not name.startswith("bottleneck") else form(value))

        module.register_forward_hook(hook)
        for inner in range(4) if name.endswith(".f") else [""]:
            seen[f"{name}{inner}"] = lambda key=f"{name}{inner}": torch.cat(kept[key])

    def tokens(x: Tensor) -> Tensor:
        return x.flatten(1, 2)

    def same(x: Tensor) -> Tensor:
        return x

    record("encoder.f", model.encoder, same)
    record("bottleneck", model.bottleneck, same)
    record("bottleneck.input_proj", model.bottleneck.input_proj, same)
    for i, layer in enumerate(model.bottleneck.layers):
        record(f"bottleneck.layers.{i}.attn", layer.attention, same)  # pyright: ignore[reportArgumentType]
        record(f"bottleneck.layers.{i}", layer, same)
    for i, stage in enumerate(model.decoder.stages):
        record(f"decoder.layers_up.{i}", stage, tokens)
    record("decoder.up_x2", model.decoder.up_x2, tokens)
    return seen


# Parts


def hyper(case: Case) -> dict[str, Any]:
    c = case.config
    q, k, v = (case.input(name) for name in "qkv")
    samples = (case.input("sampled_set.0").double() * c["tokens"]).long()
    draw = HyperDraw(case.input("proj_dir")[0, 0], samples)
    if c["tokens"] < c["min_seq_len"]:
        raise AssertionError(f"{case.path}: {c['tokens']} tokens are below min_seq_len")
    out, lse = hyper_attention(q, k, v, draw, c["block_size"])
    return {
        "output": out,
        "lse": lse.unsqueeze(-1),
        "hash(q)": hash_codes(q, draw.projections),
        "hash(k)": hash_codes(k, draw.projections),
        "exact softmax attention of the same q,k,v (for comparison only)": attention(q, k, v),
    }


def positions(case: Case) -> dict[str, Any]:
    sides = {name: int(name.split()[-1]) for name in case.outputs}
    return {name: position_embedding(side, side, case.config["dim"]) for name, side in sides.items()}


def losses(case: Case) -> dict[str, Any]:
    with torch.inference_mode(False), torch.enable_grad():
        prediction = case.input("prediction").requires_grad_()
        loss = restoration_loss(prediction, case.input("clear"))
        (gradient,) = torch.autograd.grad(loss.total, prediction)
    return {
        "loss": loss.total.detach().reshape(1),
        "spatial": loss.spatial.detach().reshape(1),
        "frequency": loss.frequency.detach().reshape(1),
        "gradient of the loss to the prediction": gradient,
    }


def attributions(case: Case) -> dict[str, Any]:
    c = case.config
    with torch.inference_mode(False):
        if "toy" in c["model"]:
            weight = 0.1 * seeded.tensor("toy.weight", (3, 3, 5, 5), case.seed, "normal")
            bias = 0.1 * seeded.tensor("toy.bias", (3,), case.seed, "normal")

            def net(x: Tensor) -> Tensor:
                return x + F.conv2d(x, weight, bias, padding=2).tanh() * x.mean((2, 3), keepdim=True)
        else:
            net = loaded(case, read_config({}))
        hazy, clear = case.input("hazy"), case.input("clear")
        steps = list(attribution_steps(net, hazy, clear, (c["h"], c["w"], c["window"]), c["fold"]))
        mean = torch.stack([step.gradient for step in steps]).mean(0)
        official = attribute(mean, hazy, clear, "official")
        derivative = path_derivative(hazy, clear, "official")
        return {
            "attribution (official code)": official.values,
            "saliency 2-D (official code)": official.saliency,
            "attribution with the path derivative hazy-clear": attribute(mean, hazy, clear, "exact").values,
            "interpolated images": torch.stack([step.image for step in steps]),
            "gradient x derivative per step": torch.stack([step.gradient * derivative for step in steps]),
            "model output at the last step": steps[-1].output[None],
        }
