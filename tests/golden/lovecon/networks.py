"""Cases of the network side: attention across frames, joint norms, UNet with ControlNet, fusion, masks, published keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.models.lovecon import (
    CrossFrameAttnProcessor,
    FrameContext,
    WordAttention,
    edit_mask,
    fuse_latents,
    fusion_rule,
    install_controlnet_attention,
    install_joint_norms,
    install_window_attention,
    matching_columns,
)

from .. import seeded
from ..case import HERE, Case, different_keys


def fold(x: Tensor) -> Tensor:
    """(batch, channels, frames, height, width) -> (batch * frames, channels, height, width)."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, frames: int) -> Tensor:
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def load(network: nn.Module, prefix: str, shapes: dict[str, list[int]], seed: int) -> nn.Module:
    """Fill a network with the seeded weights of its published keys, which start with `prefix`."""
    weights = seeded.fill({key: torch.zeros(shape) for key, shape in shapes.items() if key.startswith(prefix)}, seed)
    network.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()})
    return network.eval()


def attention(case: Case) -> dict[str, Tensor]:
    from diffusers.models.attention_processor import Attention

    c = case.config
    layer = Attention(c["query_dim"], heads=c["heads"], dim_head=c["dim_head"], bias=c["to_qkv_bias"])
    load(layer, "attn1.", case.state_shapes(), case.seed)
    hidden = case.input(f"{case.name}.hidden")
    outputs = {}
    for name in case.outputs:
        layer.set_processor(CrossFrameAttnProcessor(FrameContext(c["frames"]), json.loads(name)))
        outputs[name] = layer(hidden)
    return outputs


def transformer(case: Case) -> dict[str, Tensor]:
    from diffusers import Transformer2DModel

    from visionzoo.diffusion import install_processors

    c = case.config
    model = Transformer2DModel(
        num_attention_heads=c["heads"],
        attention_head_dim=c["dim"] // c["heads"],
        in_channels=c["dim"],
        cross_attention_dim=c["cross_attention_dim"],
        norm_num_groups=c["norm_num_groups"],
    )
    load(model, "transformer.", case.state_shapes(), case.seed)
    context = FrameContext(c["frames"])
    install_processors(model, lambda *_: CrossFrameAttnProcessor(context, c["frame_indices"]))
    hidden = fold(case.input(f"{case.name}.hidden"))
    text = case.input(f"{case.name}.text").repeat_interleave(context.frames, 0)
    return {"sample": unfold(model(hidden, encoder_hidden_states=text).sample, context.frames)}


def resnet(case: Case) -> dict[str, Tensor]:
    from diffusers.models.resnet import ResnetBlock2D

    c = case.config
    block = ResnetBlock2D(
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        temb_channels=c["temb_channels"],
        groups=c["groups"],
        eps=c["eps"],
    )
    load(block, "resnet.", case.state_shapes(), case.seed)
    install_joint_norms(nn.ModuleDict({"resnets": block}), FrameContext(c["frames"]))
    hidden = fold(case.input(f"{case.name}.hidden"))
    time = case.input(f"{case.name}.temb").repeat_interleave(c["frames"], 0)
    return {"norm1": unfold(block.norm1(hidden), c["frames"]), "out": unfold(block(hidden, time), c["frames"])}


def networks(config: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """A UNet and a ControlNet of diffusers with the sizes of a case."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    depth = len(config["block_out_channels"])
    sizes = {
        name: config[name]
        for name in (
            "block_out_channels",
            "cross_attention_dim",
            "attention_head_dim",
            "norm_num_groups",
            "layers_per_block",
        )
    }
    down = ("CrossAttnDownBlock2D",) * (depth - 1) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (depth - 1)
    unet = UNet2DConditionModel(down_block_types=down, up_block_types=up, **sizes)
    return unet, ControlNetModel(
        down_block_types=down, conditioning_embedding_out_channels=tuple(config["cond"]), **sizes
    )


def published_keys(case: Case) -> dict[str, dict[str, list[int]]]:
    """The tables of keys in the file that the description of the model names."""
    file = next(word for word in case.config["model"].split() if word.endswith(".json"))
    path = next(folder / file for folder in (case.path.parent, HERE / "lovecon") if (folder / file).is_file())
    return json.loads(path.read_text(encoding="utf-8"))


def unet_with_controlnet(case: Case) -> dict[str, Tensor]:
    c = case.config
    unet, controlnet = networks(c)
    shapes = published_keys(case)
    load(unet, "unet.", shapes["unet"], case.seed)
    load(controlnet, "controlnet.", shapes["controlnet"], case.seed)
    context = FrameContext(c["frames"])
    latents, control = (fold(case.input(f"{case.name}.{name}")) for name in ("latents", "control"))
    text = case.input(f"{case.name}.text").repeat_interleave(context.frames, 0)
    control = control.repeat(len(latents) // len(control), 1, 1, 1)
    with ExitStack() as stack:
        stack.enter_context(install_window_attention(unet, context, least_channels=c["least_sc_channel"]))
        stack.enter_context(install_controlnet_attention(controlnet, context))
        stack.enter_context(install_joint_norms(unet, context))
        stack.enter_context(install_joint_norms(controlnet, context))
        down, middle = controlnet(latents, c["timestep"], text, control, return_dict=False)
        controlled = unet(
            latents,
            c["timestep"],
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        alone = unet(latents, c["timestep"], text).sample
    outputs = {"sample": controlled, "sample_without_controlnet": alone, "controlnet_mid": middle}
    outputs |= {f"controlnet_down_{number}": residual for number, residual in enumerate(down)}
    return {name: unfold(value, context.frames) for name, value in outputs.items()}


def keys(case: Case) -> list[str]:
    """Compare the published keys and shapes with those of the networks of diffusers, in both directions."""
    with torch.device("meta"):
        ours = dict(zip(("unet", "controlnet"), networks(case.config), strict=True))
    different = []
    for name, network in ours.items():
        state = {f"{name}.{key}": value for key, value in network.state_dict().items()}
        different += different_keys(state, case.data[name])
    return different


def fusion(case: Case) -> dict[str, Tensor]:
    latents, source = (case.input(f"{case.name}.{name}") for name in ("latents", "source"))
    mask = (case.input(f"{case.name}.mask") > 0.6).float()
    outputs = {}
    for name in case.outputs:
        edit, step, masked = name.split("|")
        outputs[name] = fuse_latents(
            latents,
            source,
            step=int(step),
            steps=case.config["num_inference_steps"],
            rule=fusion_rule(edit),
            mask=mask if masked == "mask" else None,
        )
    return outputs


def mask(case: Case) -> dict[str, Any]:
    c = case.config
    side = c["size"][0] // 4
    maps = [torch.exp(2 * case.input(spec["name"])) for spec in case.data["inputs"]]
    everything = WordAttention(range(c["tokens"]), (side, c["size"][1] // 4), c["frames"])
    words = WordAttention(columns := matching_columns(c["prompt_ids"], c["phrase_ids"]), everything.grid, c["frames"])
    assert columns == c["token_columns"]
    with everything.recording(0, c["frames"]), words.recording(0, c["frames"]):
        for layer in maps:
            everything.add(layer)
            words.add(layer[..., columns])
    found = edit_mask(words.average(), tuple(c["size"]), dilation=c["dilation_kernel"])
    return {
        "average": everything.average(),
        "mask": {
            "shape": [1, 1, c["frames"], *c["size"]],
            "sum": int(found.sum()),
            "per_frame": found.sum((1, 2, 3)).int().tolist(),
            "rows": ["".join(str(int(place)) for place in row) for row in found[0, 0, ::2, ::2]],
        },
    }


KINDS: dict[str, Callable[[Case], Any]] = {
    "cross-window self-attention": attention,
    "transformer block stack": transformer,
    "residual block": resnet,
    "tiny UNet + tiny ControlNet": unet_with_controlnet,
    "latent fusion": fusion,
    "edit mask": mask,
}

KEYS: dict[str, Callable[[Case], list[str]]] = {"keys_a": keys, "keys_b": keys}
