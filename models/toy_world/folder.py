"""The toy world's networks as folders that diffusers and transformers load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from visionzoo.diffusion import save_text_encoder, save_tokenizer
from visionzoo.errors import InputError, require
from visionzoo.io.files import bundled, make_folder

from .networks import TextToImage, noise_schedule

BUNDLED = ("weights", "toy_world")


def open_vae(folder: str | Path | None = None) -> Any:
    """Load an autoencoder from a folder that diffusers wrote, in float32 and eval mode; None is the bundled one.

    Raises:
        InputError: the folder does not exist or holds no autoencoder.
    """
    require("diffusers", extra="diffusion", purpose="a network of the toy world")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    place = bundled(*BUNDLED, "vae") if folder is None else Path(folder)
    if not (place / "config.json").is_file():
        raise InputError(f"{place}: is no folder of an autoencoder (config.json is missing); train one: toy_world/vae")
    try:
        return AutoencoderKL.from_pretrained(place, torch_dtype=torch.float32).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: holds no autoencoder that diffusers can load ({error})") from error


def open_text_to_image(folder: str | Path | None = None) -> Any:
    """Load a text-to-image folder as diffusers' StableDiffusionPipeline, in float32; None is the bundled one.

    Raises:
        InputError: the folder does not exist or holds no such pipeline.
    """
    require("diffusers", extra="diffusion", purpose="a network of the toy world")
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from visionzoo.diffusion.folders import without_bars

    place = bundled(*BUNDLED) if folder is None else Path(folder)
    if not (place / "model_index.json").is_file():
        raise InputError(
            f"{place}: is no text-to-image folder (model_index.json is missing); train one: toy_world/text_to_image"
        )
    try:
        with without_bars():
            return StableDiffusionPipeline.from_pretrained(place, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: holds no pipeline that diffusers can load ({error})") from error


def save_text_to_image(network: TextToImage, vae: Any, folder: str | Path, *, half: bool = True) -> Path:
    """Write a folder that `diffusers.StableDiffusionPipeline.from_pretrained` loads.

    Args:
        network: the UNet and its text encoder; unchanged.
        vae: the autoencoder.
        folder: created if it does not exist.
        half: write the weights in half precision.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from visionzoo.diffusion.folders import without_bars

    dtype = torch.float16 if half else torch.float32
    copy = TextToImage(network.config)
    copy.load_state_dict(network.state_dict())
    copy.eval()
    autoencoder = type(vae).from_config(vae.config)
    autoencoder.load_state_dict(vae.state_dict())
    # diffusers warns about `to` of its own models, which is about layers that these do not have
    for network in (autoencoder.eval(), copy):
        torch.nn.Module.to(network, dtype)
    make: Any = StableDiffusionPipeline
    pipe = make(
        vae=autoencoder,
        text_encoder=copy.text_encoder,
        tokenizer=copy.tokenizer,
        unet=copy.unet,
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    place = make_folder(folder)
    with without_bars():
        pipe.save_pretrained(place)
    # transformers 5 writes names that version 4 does not know
    save_text_encoder(copy.text_encoder, place / "text_encoder")
    save_tokenizer(copy.tokenizer, place / "tokenizer")
    return place


__all__ = ["BUNDLED", "open_text_to_image", "open_vae", "save_text_to_image"]
