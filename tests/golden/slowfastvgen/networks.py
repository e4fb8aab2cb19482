"""Cases of the video UNet: published keys, and a training step of masked diffusion with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visionzoo.models.slowfastvgen import SlowFastUNet, masked_batch, masked_errors

from ..case import Case, different_keys


def keys(case: Case) -> list[str]:
    with torch.device("meta"):
        unet = SlowFastUNet(**case.config)
    assert sum(value.numel() for value in unet.parameters()) == case.data["parameters"]
    return different_keys(unet.state_dict(), case.data["state_dict"])


def unet(case: Case) -> SlowFastUNet:
    """The network of a case with its seeded weights, in eval mode."""
    network = SlowFastUNet(**case.config["unet"])
    network.load_state_dict(case.state())
    return network.eval()


def scheduler() -> Any:
    from diffusers.schedulers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def masked_forward(case: Case) -> dict[str, Tensor]:
    past = case.config["past_frames"]
    with torch.inference_mode(False), torch.enable_grad():
        network = unet(case)
        z0, eps, text = (case.input(name) for name in ("z0", "eps", "text"))
        times = torch.tensor(case.config["timesteps"])
        batch = masked_batch(scheduler(), z0, past, timesteps=times, noise=eps[:, :, past:])
        latents = batch.latents
        predicted = network(latents, times, text).sample
        loss = masked_errors(predicted, batch).mean()
        loss.backward()
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return {
        "z_t": latents,
        "eps_pred": predicted,
        "eps_pred_generated": predicted[:, :, past:],
        "loss_masked": loss,
        "loss_if_not_masked": (predicted - eps).square().mean(),
        "grad_norm_all": torch.stack([value.norm() for value in gradients.values()]).norm(),
        "grad_conv_in_weight": gradients["conv_in.weight"],
        "grad_transformer_in_to_q": gradients["transformer_in.transformer_blocks.0.attn1.to_q.weight"],
        "sqrt_alpha_bar": scheduler().alphas_cumprod[times].sqrt(),
    }


KINDS: dict[str, Callable[[Case], Any]] = {"keys": keys, "masked_forward": masked_forward}
