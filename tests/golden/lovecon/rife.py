"""Cases of RIFE: the network, the smoothed last step, and the smoothed video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from visionzoo.diffusion import decode_latents, scheduler_step
from visionzoo.io.pixels import quantize
from visionzoo.models.lovecon.checkpoint import TEACHER, to_official
from visionzoo.models.lovecon.ifnet import IFNet
from visionzoo.models.lovecon.smoothing import smooth_frames, smoothed_step
from visionzoo.weights import load_checkpoint

from ..case import Case, different_keys
from .published import inputs, published_state


def network(case: Case) -> IFNet:
    """With the case's weights, loaded as the published file names them."""
    state = published_state(case, "keys_ifnet.json")
    published = {key.replace("ifnet.", "module.", 1): value for key, value in state.items()}
    model = IFNet().eval().requires_grad_(False)
    load_checkpoint(model, published)
    return model


def middle(case: Case) -> dict[str, Tensor]:
    images = inputs(case)
    stages = network(case)(images["img0"], images["img1"], case.config["scale"])
    outputs = {"merged": stages[-1].frame, "mask": stages[-1].mask}
    for number, stage in enumerate(stages):
        outputs |= {f"flow_{number}": stage.flow, f"merged_{number}": stage.frame}
    return outputs


def autoencoder(settings: Mapping[str, Any]) -> AutoencoderKL:
    levels = len(settings["block_out_channels"])
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return AutoencoderKL(**settings, **kinds).eval().requires_grad_(False)


def last_step(case: Case) -> dict[str, Tensor]:
    given = inputs(case)
    latents, output = (given[name][0].transpose(0, 1) for name in ("sample", "eps"))
    scheduler = DDIMScheduler(**case.config["scheduler"])
    scheduler.set_timesteps(case.config["num_inference_steps"])
    timestep, vae = case.config["timestep"], autoencoder(case.config["vae"])
    state = published_state(case, "keys_vae.json")
    vae.load_state_dict({key.removeprefix("vae."): value for key, value in state.items()})
    clean = scheduler.step(output, timestep, latents).pred_original_sample
    step = smoothed_step(scheduler, output, timestep, latents, vae=vae, network=network(case))
    videos = {
        "plain_prev_sample": scheduler_step(scheduler, output, timestep, latents),
        "plain_pred_x0": clean,
        "pred_x0": step.clean,
        "prev_sample": step.latents,
    }
    return {name: value.transpose(0, 1)[None] for name, value in videos.items()} | {
        "decoded": decode_latents(vae, clean)
    }


def video(case: Case) -> dict[str, Tensor]:
    frames = quantize(inputs(case)["frames"].double())
    return {"frames": torch.stack(list(smooth_frames(frames, network(case))))}


def network_keys(case: Case) -> list[str]:
    """Names that differ from the published file's, without those of the teacher that inference does not use."""
    published = {key: shape for key, shape in case.data["keys"].items() if not key.startswith(f"ifnet.{TEACHER}")}
    ours = to_official(IFNet().state_dict())
    return different_keys({key.replace("module.", "ifnet.", 1): value for key, value in ours.items()}, published)


def autoencoder_keys(case: Case) -> list[str]:
    """Names that differ from those of diffusers' autoencoder in the cases' size."""
    vae = autoencoder(
        {"block_out_channels": [8, 16], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
    )
    return different_keys({f"vae.{key}": value for key, value in vae.state_dict().items()}, case.data["keys"])


KEYS = {"keys_ifnet": network_keys, "keys_vae": autoencoder_keys}
KINDS = {
    "RIFE IFNet": middle,
    "DDIM step with frame interpolation": last_step,
    "final smoothing": video,
}
