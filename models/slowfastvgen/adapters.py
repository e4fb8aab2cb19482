"""TEMP-LORA: the low-rank update of the video UNet in which an episode is remembered (section 3.2 and appendix B.2 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from visionzoo.diffusion import inject_lora, list_loras, scale_loras, unload_lora
from visionzoo.errors import InputError, unknown

__all__ = [
    "TARGETS",
    "VARIANTS",
    "TempLoRA",
    "adapter_layers",
    "add_adapter",
    "folded_adapter",
    "remove_adapter",
    "reset_adapter",
    "switch_adapter",
    "target_layers",
]

ADAPTER = "episode"
"""Name of the update that an `EpisodeMemory` adds."""

_TEMPORAL = ("temp_attentions.", "transformer_in.")
_QKVO = (".to_q", ".to_k", ".to_v", ".to_out.0")

TARGETS: dict[str, Callable[[str, nn.Module], bool]] = {
    "temporal_linear": lambda name, layer: isinstance(layer, nn.Linear) and _is_temporal(name),
    "temporal_qkvo": lambda name, layer: isinstance(layer, nn.Linear) and _is_temporal(name) and name.endswith(_QKVO),
    "temporal": lambda name, layer: (
        isinstance(layer, nn.Conv3d) or (isinstance(layer, nn.Linear) and _is_temporal(name))
    ),
    "all_linear": lambda _, layer: isinstance(layer, nn.Linear),
}
"""Which layers get an update: all linear ones of the temporal transformers, their attention projections, those of the temporal
transformers and the temporal convolutions, or all linear layers of the network."""

VARIANTS = ("local", "original", "global", "single_frame", "off")
"""Rules of learning in the paper's Table 4; see `TempLoRA`."""


def _is_temporal(name: str) -> bool:
    return any(part in name for part in _TEMPORAL)


@dataclass(frozen=True)
class TempLoRA:
    """How the memory of an episode learns. The paper states rank, Adam, learning rate and one step for each chunk (B.2, D.1);
    the other defaults are inferred.

    Attributes:
        targets: layers with an update, a key of `TARGETS`. The paper calls it a "temporal LoRA module" (inferred).
        rank: of the updates.
        alpha: numerator of their scale, alpha / rank; None for the rank, i.e. scale 1 (inferred).
        lr: learning rate.
        steps: optimizer steps for each chunk.
        batch: timesteps for each step. Several are stratified: one from each of `batch` equal parts of the schedule (1 in the paper's
            Algorithm 1).
        variant: "local": input and output chunk, all frames with noise, without text (Eq. 3). "original": the clean input chunk,
            noise on the output chunk only, with text, as in Temp-LoRA for language models (arXiv 2401.11504). "global": as
            local, on frames from the whole episode. "single_frame": as local, on the last frame of the input and the
            output. "off": nothing is learned.
        no_text: what stands for "without text": "empty", the states of the empty prompt, or "zeros" (inferred).
        keep_optimizer: keep the optimizer's moments from chunk to chunk of an episode (inferred, as in arXiv 2401.11504).
        optimizer: "adam" (B.2) or "sgd" (as Algorithm 1 is written).
        checkpointing: store fewer activations in a step, for one more forward pass.
        seed: of the first values of the updates and of noise and timesteps.

    Raises:
        InputError: a value outside its range, or an unknown name.
    """

    targets: str = "temporal_linear"
    rank: int = 32
    alpha: float | None = None
    lr: float = 1e-4
    steps: int = 1
    batch: int = 1
    variant: str = "local"
    no_text: str = "empty"
    keep_optimizer: bool = True
    optimizer: str = "adam"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field, known in (
            ("targets", TARGETS),
            ("variant", VARIANTS),
            ("no_text", ("empty", "zeros")),
            ("optimizer", ("adam", "sgd")),
        ):
            if getattr(self, field) not in known:
                raise unknown(f"{field} of TempLoRA", getattr(self, field), known)
        for field in ("rank", "steps", "batch"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"TempLoRA: {field} must be a whole number of at least 1, got {value!r}")
        for field in ("lr", "alpha"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise InputError(f"TempLoRA: {field} must be a number above 0, got {value!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InputError(f"TempLoRA: seed must be a whole number from 0 to 2**63 - 1, got {self.seed!r}")

    @property
    def scale(self) -> float:
        """alpha / rank, which multiplies the product of an update's two matrices."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def make_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Adam or SGD with `lr`, without weight decay."""
        return (torch.optim.Adam if self.optimizer == "adam" else torch.optim.SGD)(parameters, lr=self.lr)


def target_layers(unet: nn.Module, targets: str) -> list[str]:
    """Names of the layers of a video UNet that `targets` selects, in the network's order.

    Raises:
        InputError: unknown targets, or the network has no such layers.
    """
    if targets not in TARGETS:
        raise unknown("targets of TempLoRA", targets, TARGETS)
    found = [
        name.removesuffix(".base_layer")
        for name, layer in unet.named_modules()
        if ".lora_" not in name and TARGETS[targets](name.removesuffix(".base_layer"), layer)
    ]
    if not found:
        raise InputError(
            f"{type(unet).__name__} has no layers for targets={targets!r}; expected a UNet3DConditionModel"
        )
    return found


def add_adapter(unet: nn.Module, config: TempLoRA, *, name: str = ADAPTER, rank: int | None = None) -> dict[str, Any]:
    """Add an update that changes nothing yet to a video UNet, in float32 whatever the network's precision, and switch it on.

    Its first matrices are Kaiming-uniform, from the seed, and the same on every device; its second ones are zero. It is a branch
    beside the weights, which it never changes, and `unet.state_dict()` does not contain it.

    Args:
        rank: instead of the one in `config`, with the same scale.

    Returns:
        name of each layer -> PEFT's layer, with `lora_A[name]` and `lora_B[name]`.

    Raises:
        InputError: the network has such an update, or no such layers.
        MissingDependencyError: peft is not installed.
    """
    if adapter_layers(unet, name):
        raise InputError(f"the network has an update {name!r} already; remove it first")
    rank = config.rank if rank is None else rank
    with torch.inference_mode(False):
        layers = inject_lora(unet, name, target_layers(unet, config.targets), r=rank, lora_alpha=config.scale * rank)
        for layer in layers.values():
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[name].float()
    reset_adapter(layers, config, name=name)
    return layers


def reset_adapter(layers: Mapping[str, Any], config: TempLoRA, *, name: str = ADAPTER) -> None:
    """Give the layers of an update the values that it has at first; see `add_adapter`."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_A[name].weight.copy_(_first_values(layer.lora_A[name].weight, generator))
            layer.lora_B[name].weight.zero_()


def _first_values(like: Tensor, generator: torch.Generator) -> Tensor:
    """Kaiming-uniform with a = sqrt(5), PEFT's default: uniform within 1 / sqrt(inputs)."""
    return nn.init.kaiming_uniform_(torch.empty(like.shape), a=math.sqrt(5), generator=generator)


def adapter_layers(unet: nn.Module, name: str = ADAPTER) -> dict[str, Any]:
    """Name of each layer that has the update -> PEFT's layer; empty without it."""
    found: dict[str, Any] = {}
    for key, layer in unet.named_modules():
        if hasattr(layer, "base_layer") and name in getattr(layer, "lora_A", ()):
            found[key] = layer
    return found


def remove_adapter(unet: nn.Module, name: str = ADAPTER) -> None:
    """Remove an update; without any, the network is exactly as before."""
    unload_lora(_holder(unet), name)


def switch_adapter(unet: nn.Module, on: bool, name: str = ADAPTER) -> None:
    """Switch an update on or off; others stay as they are."""
    holder = _holder(unet)
    scales = list_loras(holder)
    if scales.get(name) != float(on):
        scale_loras(holder, {**scales, name: float(on)})


@contextmanager
def folded_adapter(unet: nn.Module, name: str = ADAPTER) -> Iterator[None]:
    """Inside the block, an update that is switched on is part of the weights, so that calls take as long as without it.

    Afterwards the weights are exactly as before: they are put back, not computed again. Results differ by rounding in float32. Layers
    in half precision keep their branch, since adding an update to such weights would lose most of it, and so do layers with
    several updates.
    """
    kept: list[tuple[Any, Tensor]] = []
    try:
        for layer in adapter_layers(unet, name).values():
            base = layer.get_base_layer()
            exact = torch.promote_types(base.weight.dtype, torch.float32) == base.weight.dtype
            if exact and not layer.disable_adapters and not layer.merged and list(layer.active_adapters) == [name]:
                kept.append((layer, base.weight.data))
                base.weight.data = base.weight.data + layer.get_delta_weight(name).detach()
                layer.merged_adapters.append(name)
        yield
    finally:
        for layer, weight in kept:
            layer.merged_adapters.remove(name)
            layer.get_base_layer().weight.data = weight


def _holder(unet: nn.Module) -> Any:
    """A pipeline of one network, for the functions of `visionzoo.diffusion.lora`."""
    return SimpleNamespace(components={"unet": unet}, unet=unet)
