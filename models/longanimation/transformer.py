"""The video network of LongAnimation: CogVideoX 1.5 with a control signal added between its blocks (arXiv 2507.01945)."""

from __future__ import annotations

import functools
from typing import Any, Self

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from torch import Tensor

from visionzoo.attention import VisionZooAttnProcessor
from visionzoo.errors import InputError

from .cogvideox import check_inputs, embed, run_block

__all__ = ["LongAnimationTransformer"]


class LongAnimationTransformer(CogVideoXTransformer3DModel):
    """CogVideoXTransformer3DModel whose `forward` takes a control signal; configuration and weights are the same.

    After block i, for every i divisible by `control_interval`, the video tokens grow by `control_scale` times the signal. The
    text tokens do not. The signal is that of `SketchDiT`, or of `DynamicMemoryFusion` from the second segment on.

    >>> transformer = LongAnimationTransformer.from_pretrained("CogVideoX1.5-5B-I2V/transformer")
    """

    @functools.wraps(
        CogVideoXTransformer3DModel.__init__
    )  # diffusers reads the names of the configuration off the signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        processor: Any = VisionZooAttnProcessor()  # diffusers' type lists its own classes only
        self.set_attn_processor(processor)

    @classmethod
    def of(cls, network: CogVideoXTransformer3DModel) -> Self:
        """The same network as this class, with the same weights, which are shared."""
        if isinstance(network, cls):
            return network
        with torch.device("meta"):
            made: Any = cls.from_config(network.config)
        made.load_state_dict(network.state_dict(), assign=True)
        return made.train(network.training)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Any,
        timestep_cond: Tensor | None = None,
        ofs: Any = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        control_hidden_states: Tensor | None = None,
        control_scale: float = 0.5,
        control_interval: int = 2,
    ) -> Any:
        """Predict the velocity.

        Args:
            hidden_states: noisy latents, then image latents on the channel axis, (B, T, in_channels, h, w).
            encoder_hidden_states: text states (B, L, text_embed_dim).
            timestep: (B,).
            timestep_cond: added to the embedding of the timestep.
            ofs: (1,), 2.0 for CogVideoX 1.5.
            image_rotary_emb: see `rotary_embedding`.
            attention_kwargs: passed to the attention processors. For the strength of LoRAs, use
                `visionzoo.diffusion.scale_loras`.
            return_dict: whether to return an object with the field `sample` instead of a tuple of one.
            control_hidden_states: signal (B or 1, N, D) for the N video tokens, or None.
            control_scale: factor of the signal; 0.5 is published.
            control_interval: distance of the blocks after which it is added; 2 is published.

        Returns:
            (B, T, out_channels, h, w).

        Raises:
            InputError: shapes that do not fit, or no `ofs` or `image_rotary_emb`.
        """
        check_inputs(self, hidden_states, ofs, image_rotary_emb)
        video, text, time = embed(self, hidden_states, encoder_hidden_states, timestep, ofs, timestep_cond)
        added = None
        if control_hidden_states is not None:
            _check_control(control_hidden_states, video, control_interval)
            added = control_scale * control_hidden_states
        for number, block in enumerate(self.transformer_blocks):
            video, text = run_block(self, block, video, text, time, image_rotary_emb, attention_kwargs)
            if added is not None and number % control_interval == 0:
                video = video + added
        predicted = self.proj_out(self.norm_out(self.norm_final(video), temb=time))
        predicted = self._unpatched(predicted, hidden_states)
        return Transformer2DModelOutput(sample=predicted) if return_dict else (predicted,)

    def _unpatched(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Tokens (B, N, C · depth · side · side) -> (B, T, C, h, w) with the T, h and w of `latents`."""
        config: Any = self.config
        side, depth = config.patch_size, config.patch_size_t or 1
        _, frames, _, height, width = latents.shape
        grid = tokens.unflatten(1, (frames // depth, height // side, width // side))
        patches = grid.unflatten(-1, (-1, depth, side, side))  # (B, t, y, x, C, depth, side, side)
        return patches.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)


def _check_control(control: Tensor, video: Tensor, interval: int) -> None:
    if control.ndim != 3 or control.shape[1:] != video.shape[1:] or control.shape[0] not in (1, video.shape[0]):
        raise InputError(
            f"control_hidden_states must be (1 or {video.shape[0]}, {video.shape[1]}, {video.shape[2]}) like the video "
            f"tokens, got {tuple(control.shape)}"
        )
    if interval < 1:
        raise InputError(f"control_interval must be at least 1, got {interval}")
