"""The video UNet of ModelScope (arXiv 2308.06571) with adapters and gradient checkpointing, which diffusers' own class lacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionzoo.errors import InputError

from .layers import LAYERS, Checkpointed, TextCache, VideoAttnProcessor

__all__ = ["SlowFastUNet"]


def run_checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=False)


def _before_text(unet: UNet3DConditionModel) -> Iterator[Checkpointed]:
    """Layers that a video passes before its first attention to text."""
    yield unet.transformer_in  # pyright: ignore[reportReturnType]
    for block in unet.down_blocks:
        attends = hasattr(block, "attentions")
        layers: Any = zip(block.resnets, block.temp_convs, strict=True)  # pyright: ignore[reportArgumentType]
        for pair in layers:
            yield from pair
            if attends:
                return


class SlowFastUNet(UNet3DConditionModel, PeftAdapterMixin):
    """diffusers' `UNet3DConditionModel` with LoRA adapters and gradient checkpointing; weights, names and configuration are the same.

    `SlowFastUNet.from_pretrained` loads folders of `UNet3DConditionModel` and the other way round. Without arguments it is the
    network of ModelScope's text-to-video model with 1.4 billion parameters.

    `forward(sample, timestep, encoder_hidden_states)` takes latents (B, C, F, h, w), timesteps, one number or (B,), and text
    (B, tokens, width), and returns `.sample` (B, C, F, h, w). Frames interact in all norms, temporal convolutions and temporal
    attentions; there is one timestep for all frames of a video.

    `enable_gradient_checkpointing` keeps only the inputs of residual blocks, temporal convolutions and transformers for the
    backward pass, and computes temporal transformers piece by piece. It costs one more forward pass. Values and gradients are the
    same up to rounding.

    State dicts, and so checkpoints and `save_pretrained`, hold the network alone, whatever adapters are in it. A network with adapters
    loads such state dicts and keeps them. `save_lora_adapter` writes an adapter.

    Text is projected to keys and values once for all frames, and once for all calls with a `TextCache`; temporal transformers do not
    reorder tokens; `equal_halves` computes what two texts have in common once. All of it is exact.
    """

    _supports_gradient_checkpointing = True
    _with_adapters = False
    channels_last = False

    @functools.wraps(UNet3DConditionModel.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        processor: Any = VideoAttnProcessor()
        for module in self.modules():  # diffusers' blocks create their layers themselves
            if type(module) in LAYERS:
                module.__class__ = cast(Any, LAYERS[type(module)])
            elif isinstance(module, Attention):
                module.set_processor(processor)
        self._before_text = tuple(_before_text(self))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        *args: Any,
        text_cache: TextCache | None = None,
        equal_halves: bool = False,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict; further arguments are those of `UNet3DConditionModel.forward`.

        Args:
            sample: latents (B, C, F, h, w).
            timestep: a number, or (B,).
            encoder_hidden_states: text (B, tokens, width).
            text_cache: a `TextCache` of this text, which is projected once for all calls with the cache.
            equal_halves: the second half of `sample` equals the first, and there is one timestep, as in classifier-free guidance:
                what comes before the first attention to text is computed for one half.

        Raises:
            InputError: the cache is one of another text, or a batch with equal halves is odd.
        """
        if text_cache is not None and text_cache.states is not encoder_hidden_states:
            raise InputError(
                "the text cache belongs to another text; pass its own: unet(…, cache.states, text_cache=cache)"
            )
        if equal_halves and len(sample) % 2:
            raise InputError(f"a batch with equal halves has an even number of videos, got {len(sample)}")
        for layer in self._before_text:
            layer.equal_halves = equal_halves
        text = TextCache(encoder_hidden_states) if text_cache is None else text_cache
        if self.channels_last:
            frames = sample.shape[2]
            rows = sample.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            sample = rows.unflatten(0, (-1, frames)).transpose(1, 2)
        return super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            *args,
            cross_attention_kwargs={**(cross_attention_kwargs or {}), "text": text},
            **kwargs,
        )

    def to_channels_last(self) -> Self:
        """Store the kernels of convolutions in the memory format channels-last, in which the whole network then runs.

        The values of the weights stay, and those of predictions up to rounding. What `module.to(memory_format=…)` does not do, as
        it takes one format for kernels of images and of videos.
        """
        for parameter in self.parameters():
            if parameter.ndim in (4, 5):
                form = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
                parameter.data = parameter.data.contiguous(memory_format=form)
        self.channels_last = True
        return self

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
