"""The video UNet of ModelScope (arXiv 2308.06571) with adapters and gradient checkpointing, which diffusers' own class lacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from visionzoo.errors import InputError

__all__ = ["SlowFastUNet"]


def run_checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=False)


class Checkpointed:
    """A layer that stores only its inputs for the backward pass and computes the rest again, if `checkpointing` is set."""

    checkpointing: Callable[..., Any] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward  # pyright: ignore[reportAttributeAccessIssue]
        if self.checkpointing is None or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return self.checkpointing(functools.partial(forward, **kwargs), *args)


class Resnet(Checkpointed, ResnetBlock2D):
    pass


class TemporalConv(Checkpointed, TemporalConvLayer):
    pass


class SpatialTransformer(Checkpointed, Transformer2DModel):
    pass


class TemporalTransformer(Checkpointed, TransformerTemporalModel):
    pass


LAYERS: dict[type, type] = {
    ResnetBlock2D: Resnet,
    TemporalConvLayer: TemporalConv,
    Transformer2DModel: SpatialTransformer,
    TransformerTemporalModel: TemporalTransformer,
}
"""diffusers' classes of layers -> ours, with the same weights and names."""


class SlowFastUNet(UNet3DConditionModel, PeftAdapterMixin):
    """diffusers' `UNet3DConditionModel` with LoRA adapters and gradient checkpointing; weights, names and configuration are the same.

    `SlowFastUNet.from_pretrained` loads folders of `UNet3DConditionModel` and the other way round. Without arguments it is the
    network of ModelScope's text-to-video model with 1.4 billion parameters.

    `forward(sample, timestep, encoder_hidden_states)` takes latents (B, C, F, h, w), timesteps, one number or (B,), and text
    (B, tokens, width), and returns `.sample` (B, C, F, h, w). Frames interact in all norms, temporal convolutions and temporal
    attentions; there is one timestep for all frames of a video.

    `enable_gradient_checkpointing` keeps only the inputs of residual blocks, temporal convolutions and transformers for the
    backward pass; values and gradients are the same, for one more forward pass.

    State dicts, and so checkpoints and `save_pretrained`, hold the network alone, whatever adapters are in it. A network with adapters
    loads such state dicts and keeps them. `save_lora_adapter` writes an adapter.
    """

    _supports_gradient_checkpointing = True
    _with_adapters = False

    @functools.wraps(UNet3DConditionModel.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():  # diffusers' blocks create their layers themselves
            if type(module) in LAYERS:
                module.__class__ = cast(Any, LAYERS[type(module)])

    @classmethod
    def of(cls, unet: nn.Module) -> Self:
        """diffusers' network of this kind as ours, with the same weights in memory.

        Raises:
            InputError: it is of another kind.
        """
        if isinstance(unet, cls):
            return unet
        if not isinstance(unet, UNet3DConditionModel):
            raise InputError(
                f"expected a UNet3DConditionModel, as of ModelScope's text-to-video model, got a {type(unet).__name__}"
            )
        config: Any = unet.config
        with torch.device("meta"):
            made: Any = cls.from_config(config)
        made.load_state_dict(unet.state_dict(), assign=True)
        return made.train(unet.training)

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable[..., Any] | None = None) -> None:
        """Store less for the backward pass, and compute it again there.

        Args:
            gradient_checkpointing_func: called with a function and its arguments; by default torch's `checkpoint`, not reentrant.
        """
        super().enable_gradient_checkpointing(gradient_checkpointing_func or run_checkpointed)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = run_checkpointed
    ) -> None:
        self.gradient_checkpointing = enable  # which `is_gradient_checkpointing` reads
        for module in self.modules():
            if isinstance(module, Checkpointed):
                module.checkpointing = gradient_checkpointing_func if enable else None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights without adapters, under the names that they have without them."""
        state = super().state_dict(*args, **kwargs)
        if self._with_adapters or not getattr(self, "peft_config", None):
            return state
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        everything = list(state.items())
        state.clear()
        for key, value in everything:
            if not (key.startswith(prefix) and ".lora_" in key):
                state[key.replace(".base_layer.", ".") if key.startswith(prefix) else key] = value
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if not self._with_adapters and getattr(self, "peft_config", None):
            for name, value in self.named_parameters():
                plain = prefix + name.replace(".base_layer.", ".")
                if plain != prefix + name and plain in state_dict:
                    state_dict[prefix + name] = state_dict.pop(plain)
                elif ".lora_" in name:
                    state_dict.setdefault(prefix + name, value.data)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def save_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Write an adapter as `pytorch_lora_weights.safetensors`; arguments of `PeftAdapterMixin.save_lora_adapter`."""
        with self._showing_adapters():
            super().save_lora_adapter(*args, **kwargs)

    def load_lora_adapter(self, *args: Any, prefix: str | None = None, **kwargs: Any) -> None:
        """Add an adapter from a file or a state dict; arguments of `PeftAdapterMixin.load_lora_adapter`.

        Args:
            prefix: of the keys; none by default, as in files of `save_lora_adapter`.
        """
        with self._showing_adapters():
            super().load_lora_adapter(*args, **{"prefix": prefix, **kwargs})

    @contextmanager
    def _showing_adapters(self) -> Iterator[None]:
        """Inside the block, state dicts contain adapters, as PEFT's functions expect."""
        self._with_adapters = True
        try:
            yield
        finally:
            self._with_adapters = False
