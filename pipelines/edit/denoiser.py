"""The noise that a UNet with its ControlNet predicts for the frames of a window, which look at each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.attention import VisionZooAttnProcessor
from visionzoo.diffusion import install_processors
from visionzoo.models.lovecon import (
    FrameContext,
    WindowMemory,
    WordAttention,
    install_bank_attention,
    install_controlnet_attention,
    install_joint_norms,
    install_window_attention,
    install_word_attention,
)

__all__ = ["Denoiser", "embed_control", "predicted_noise"]


class Denoiser:
    """Calls the networks for windows of frames, with or without guidance.

    Frames are folded into the batch; with guidance, the batch has a half without the prompt, then one with it.

    Args:
        unet, controlnet: networks of diffusers.
        states: hidden states of the text, (1, tokens, width); with guidance (2, tokens, width), the negative prompt first.
        guidance: scale of classifier-free guidance; used if `states` has two rows.
        control_scale: weight of the ControlNet.
        least_channels: layers of the UNet with fewer channels attend within each frame.
        include_self: see `install_window_attention`.
        memory: of `install_bank_attention`; None: references are in the window.
    """

    def __init__(
        self,
        unet: Any,
        controlnet: Any,
        states: Tensor,
        *,
        guidance: float = 1.0,
        control_scale: float = 1.0,
        least_channels: int = 640,
        include_self: bool = False,
        memory: WindowMemory | None = None,
    ):
        self.unet, self.controlnet, self.states, self.guidance = unet, controlnet, states, guidance
        self.control_scale, self.least_channels, self.include_self = control_scale, least_channels, include_self
        self.memory, self._context = memory, FrameContext()

    @contextmanager
    def installed(self, words: WordAttention | None = None) -> Iterator[None]:
        """Change the networks inside of the block, so that frames look at each other; sum up the attention to `words`."""
        context = self._context
        with ExitStack() as stack:
            for network in (self.unet, self.controlnet):
                stack.enter_context(install_joint_norms(network, context))
                stack.enter_context(install_processors(network, lambda *_: VisionZooAttnProcessor(), "*.attn2"))
            own = {"least_channels": self.least_channels, "include_self": self.include_self}
            if self.memory is None:
                stack.enter_context(install_window_attention(self.unet, context, **own))
                stack.enter_context(install_controlnet_attention(self.controlnet, context))
            else:
                stack.enter_context(install_bank_attention(self.unet, context, self.memory, **own))
                stack.enter_context(install_bank_attention(self.controlnet, context, self.memory, previous=True))
            if words is not None:
                stack.enter_context(install_word_attention(self.unet, words))
            stack.enter_context(_embedded_control(self.controlnet))
            yield

    @torch.no_grad()
    def __call__(self, latents: Tensor, timestep: Tensor | int, controls: Tensor) -> Tensor:
        """What the UNet predicts, guided, float32.

        Args:
            latents: (frames, C, h, w) in any precision.
            timestep: of all frames.
            controls: (frames, C', h, w) embeddings of the control frames; see `embed_control`.
        """
        self._context.frames = len(latents)
        halves = len(self.states)
        x = latents.to(self.unet.device, self.unet.dtype).repeat(halves, 1, 1, 1)
        controls = controls.to(x).repeat(halves, 1, 1, 1)
        down, middle = self.controlnet(
            x, timestep, self.states, controls, conditioning_scale=self.control_scale, return_dict=False
        )
        output = self.unet(
            x,
            timestep,
            self.states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0].float()
        if halves == 1:
            return output
        without, with_text = output.chunk(2)
        return without + self.guidance * (with_text - without)


class _Given(nn.Module):
    """Takes the place of a ControlNet's embedding of control frames, which are embedded already."""

    def forward(self, embedded: Tensor) -> Tensor:
        return embedded


@contextmanager
def _embedded_control(controlnet: Any) -> Iterator[None]:
    before = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = _Given()
    try:
        yield
    finally:
        controlnet.controlnet_cond_embedding = before


@torch.no_grad()
def embed_control(controlnet: Any, frames: Tensor) -> Tensor:
    """Control frames (N, 3, H, W) in [0, 1] as the ControlNet sees them, (N, C', h, w); they do not depend on the step."""
    return controlnet.controlnet_cond_embedding(frames.to(controlnet.device, controlnet.dtype))


def predicted_noise(output: Tensor, latents: Tensor, alpha: Tensor, kind: str) -> Tensor:
    """The noise in `latents` by the output of a network.

    LOVECon changes latents between the prediction and the step, and keeps the predicted noise. A network that predicts the
    velocity or the clean latents would otherwise predict another noise for the changed latents.

    Args:
        output: of the network.
        latents: that the network saw.
        alpha: cumulative alpha of the timestep.
        kind: "epsilon", "v_prediction" or "sample", the `prediction_type` of the scheduler.
    """
    alpha = alpha.to(latents)
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha.sqrt() * output + (1 - alpha).sqrt() * latents
    return (latents - alpha.sqrt() * output) / (1 - alpha).sqrt()
