"""Video autoencoders that look at one frame at a time, as inflated image autoencoders do before they are trained on videos."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from torch import Tensor
from torch.nn import functional as F

__all__ = ["frame_by_frame", "sees_one_frame"]


class FrameConv(CogVideoXCausalConv3d):
    """A causal convolution whose weights for earlier frames are zero, computed as one of images."""

    def forward(self, inputs: Tensor, conv_cache: Tensor | None = None) -> Any:
        """(B, C, T, H, W) -> (B, C', T, H, W), and no cache."""
        batch = len(inputs)
        frames = inputs.transpose(1, 2).flatten(0, 1)
        made = F.conv2d(frames, self.conv.weight[:, :, -1], self.conv.bias, padding=(self.height_pad, self.width_pad))
        return made.unflatten(0, (batch, -1)).transpose(1, 2), None


def sees_one_frame(vae: Any) -> bool:
    """Whether an AutoencoderKLCogVideoX compresses no time, and all weights of its convolutions for earlier frames are zero."""
    if vae.config["temporal_compression_ratio"] != 1:
        return False
    convolutions = [module for module in vae.modules() if isinstance(module, CogVideoXCausalConv3d)]
    return all(
        module.pad_mode != "replicate"
        and module.conv.stride == (1, 1, 1)
        and module.conv.dilation == (1, 1, 1)
        and not bool(module.conv.weight.detach()[:, :, :-1].any())
        for module in convolutions
    )


@torch.no_grad()
def frame_by_frame(vae: Any) -> Any:
    """Let an AutoencoderKLCogVideoX take frames one at a time, as images, if it sees one frame; others stay as they are.

    Diffusers takes 8 frames, or 2 frames of latents, at a time, and its norms are over all of them. An inflated image autoencoder
    was trained with norms over one frame. Its convolutions become those of images, with a third of the operations.

    Args:
        vae: changed in place. It must not be trained afterwards.

    Returns:
        `vae`.
    """
    if sees_one_frame(vae):
        vae.num_sample_frames_batch_size = vae.num_latent_frames_batch_size = 1
        for module in vae.modules():
            if type(module) is CogVideoXCausalConv3d:
                module.__class__ = FrameConv
    return vae
