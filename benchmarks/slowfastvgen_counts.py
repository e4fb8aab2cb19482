"""What SlowFast-VGen computes and keeps, counted on ModelScope's network of 1.4 billion parameters on the meta device, where nothing
is computed and nothing needs memory. A part of `visionzoo bench slowfastvgen`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from visionzoo.benchmark import Grid
from visionzoo.devices import environment
from visionzoo.models.slowfastvgen import SlowFastUNet, TempLoRA
from visionzoo.models.slowfastvgen.adapters import TARGETS, add_adapter, remove_adapter, target_layers

from .meta_memory import peak_bytes

COMMAND = "visionzoo bench slowfastvgen"
RANK = 32

PARTS = {
    "spatial residual blocks": r"(^|\.)resnets\.",
    "spatial transformers": r"(^|\.)attentions\.",
    "temporal transformers": r"(^|\.)temp_attentions\.|^transformer_in\.",
    "temporal convolutions": r"(^|\.)temp_convs\.",
    "samplers": r"samplers\.",
    "input, output and time": r"",
}
"""Parts of the network and what the names of their weights match; the first match counts."""


def part_of(name: str) -> str:
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name))


def count_flops(run: Callable[[], Any]) -> FlopCounterMode:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter


@dataclass(frozen=True)
class Shape:
    """What ModelScope's network is counted with.

    Attributes:
        past, new: frames.
        side: of the latents.
        steps: denoising steps of a chunk.
    """

    past: int = 16
    new: int = 16
    side: int = 32
    steps: int = 50

    @property
    def frames(self) -> int:
        return self.past + self.new


@dataclass(frozen=True)
class Counts:
    """FLOPs of single calls of the network for one text and all frames, with adapters unless noted otherwise.

    Attributes:
        forward: ours, without adapters.
        adapted: ours.
        backward: of such a call, of which only the adapters get gradients.
        text: of the projections of the text to keys and values in ours.
        guided: half of a call of ours for two texts of the same frames, without the projections of text.
        plain: of diffusers' own network.
        plain_text: of its projections of text.
    """

    forward: int
    adapted: int
    backward: int
    text: int
    guided: int
    plain: int
    plain_text: int


def text_flops(found: FlopCounterMode) -> int:
    """FLOPs of the projections of text to keys and values."""
    pattern = re.compile(r"(?<!temp_)attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_[kv]$")
    return sum(sum(each.values()) for name, each in found.get_flop_counts().items() if pattern.search(name))


def counts(shape: Shape, config: dict[str, Any] | None = None) -> Counts:
    """Count on the meta device, where nothing is computed and nothing needs memory.

    Args:
        shape: frames and their size.
        config: of the network, where it differs from ModelScope's.
    """
    with torch.device("meta"), torch.no_grad():
        ours: Any = SlowFastUNet
        theirs: Any = UNet3DConditionModel
        unet = ours(**(config or {})).eval().requires_grad_(False)
        frames = torch.empty(1, unet.config["in_channels"], shape.frames, shape.side, shape.side)
        moment, state = 0, torch.empty(1, 77, unet.config["cross_attention_dim"])
        forward = count_flops(lambda: unet(frames, moment, state))
        layers = add_adapter(unet, TempLoRA(rank=RANK))
        adapted = count_flops(lambda: unet(frames, moment, state)).get_total_flops()
        pair, states = frames.expand(2, -1, -1, -1, -1), state.expand(2, -1, -1)
        guided = count_flops(lambda: unet(pair, moment, states, equal_halves=True))
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        with torch.enable_grad():
            both = count_flops(lambda: unet(frames, moment, state).sample.square().mean().backward()).get_total_flops()
        plain = theirs(**(config or {})).eval()
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), plain)
        straight = count_flops(lambda: plain(frames, moment, state))
    return Counts(
        forward.get_total_flops(),
        adapted,
        both - adapted,
        text_flops(forward),
        (guided.get_total_flops() - text_flops(guided)) // 2,
        straight.get_total_flops(),
        text_flops(straight),
    )


def work(shape: Shape | None = None) -> Grid:
    """What is computed for one chunk at 256 x 256 and learning from it."""
    shape = shape or Shape()
    found = counts(shape)
    calls = 2 * shape.steps

    def tera(flops: float) -> str:
        return f"{flops / 1e12:,.1f}" if flops >= 1e11 else f"{flops / 1e12:.4f}"

    text, fast = 2 * found.text, found.adapted + found.backward
    columns = {  # evaluations, FLOPs of sampling, of projections of text, of fast learning
        "plain loop": (calls, found.plain * calls, found.plain_text * calls, found.plain + found.backward),
        "visionzoo": (calls, found.guided * calls + text, text, fast),
        "and DPM-Solver++ in 20 steps": (40, found.guided * 40 + text, text, fast),
    }
    rows = [
        ("evaluations of the UNet for sampling", *(str(each[0]) for each in columns.values())),
        ("TFLOP of sampling", *(tera(each[1]) for each in columns.values())),
        ("of these, texts to keys and values", *(tera(each[2]) for each in columns.values())),
        (
            "TFLOP of one step of fast learning, and with checkpointing",
            *(f"{tera(each[3])}, {tera(each[3] + found.adapted)}" for each in columns.values()),
        ),
        (
            "share of the chunk",
            *(
                f"{each[3] / (each[1] + each[3]):.1%}, {1 - each[1] / (each[1] + each[3] + found.adapted):.1%}"
                for each in columns.values()
            ),
        ),
    ]
    branch = (found.adapted - found.forward) / found.forward
    return Grid(
        f"One chunk of {shape.new} frames after {shape.past}, {8 * shape.side} x {8 * shape.side}, {shape.steps} steps with guidance "
        "(counted)",
        ("", *columns),
        rows,
        environment(),
        COMMAND,
        (
            f"One evaluation of all {shape.frames} frames: {tera(found.forward)} TFLOP, and {branch:.1%} more with adapters of rank "
            f"{RANK}. With checkpointing, fast learning evaluates the network once more, for less memory.",
        ),
    )


def sizes() -> Grid:
    """Weights of the network by part, and of the adapters by their targets."""
    make: Any = SlowFastUNet
    with torch.device("meta"):
        unet = make()
        weights = dict.fromkeys(PARTS, 0)
        for name, parameter in unet.named_parameters():
            weights[part_of(name)] += parameter.numel()
        rows = [(part, f"{count / 1e6:.1f} M", f"{count * 2 / 1e9:.2f} GB", "") for part, count in weights.items()]
        total = sum(weights.values())
        rows.append(("all", f"{total:,}", f"{total * 2 / 1e9:.2f} GB", f"{total * 16 / 1e9:.1f} GB"))
        for targets in TARGETS:
            layers = add_adapter(unet, TempLoRA(targets=targets, rank=RANK))
            count = sum(p.numel() for name, p in unet.named_parameters() if ".lora_" in name)
            remove_adapter(unet)
            name = f"adapters of rank {RANK}, {targets}: {len(layers)} layers"
            rows.append((name, f"{count / 1e6:.2f} M", f"{count * 2 / 1e6:.0f} MB", f"{count * 16 / 1e6:.0f} MB"))
    return Grid(
        "ModelScope's network, counted on the meta device",
        ("", "weights", "in half precision", "float32 with gradients and Adam"),
        rows,
        environment(),
        COMMAND,
    )


def learning_bytes(
    network: Any, shape: Shape, config: dict[str, Any] | None = None, *, checkpointing: bool = False
) -> int:
    """Bytes of a step of fast learning beyond the weights: what the backward pass needs, and the gradients of the adapters.

    The network is in half precision, and the adapters are in float32.

    Args:
        network: class of the network, with adapters of PEFT in the linear layers of its temporal transformers.
        shape: frames and their size.
        config: of the network, where it differs from ModelScope's.
        checkpointing: computes twice what would need much memory.
    """
    with torch.device("meta"):
        unet: Any = network(**(config or {})).eval().requires_grad_(False)
        nn.Module.to(unet, torch.float16)
        layers = target_layers(unet, "temporal_linear")
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), unet)
        for name, parameter in unet.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        frames = torch.empty(1, unet.config["in_channels"], shape.frames, shape.side, shape.side, dtype=torch.float16)
        text = torch.empty(1, 77, unet.config["cross_attention_dim"], dtype=torch.float16)
        return peak_bytes(lambda: unet(frames, 0, text).sample.float().square().mean().backward(), unet, gradients=True)


def memory(shape: Shape | None = None) -> Grid:
    """What a step of fast learning keeps, in the plain form and with checkpointing."""
    shape = shape or Shape()
    found = {
        "plain loop": learning_bytes(UNet3DConditionModel, shape),
        "visionzoo": learning_bytes(SlowFastUNet, shape),
        "visionzoo, checkpointing": learning_bytes(SlowFastUNet, shape, checkpointing=True),
    }
    plain = found["plain loop"]
    return Grid(
        f"Memory of fast learning: {shape.frames} frames of {8 * shape.side} x {8 * shape.side}, ModelScope's network in "
        "half precision (counted)",
        ("", "peak beyond the weights", "of the plain loop's"),
        [(name, f"{each / 1e9:.2f} GB", f"1/{plain / each:.1f}") for name, each in found.items()],
        environment(),
        COMMAND,
        ("Attention counts as fused. Target with checkpointing: 1/8 or less.",),
    )
