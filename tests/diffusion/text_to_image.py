"""A small text-to-image task on the base of diffusion pipelines: files of prompts become images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from visionzoo.diffusion import (
    DiffusionTaskPipeline,
    check_words,
    decode_latents,
    encode_text,
    initial_noise,
    scheduler_step,
)
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path
from visionzoo.io.pixels import to_uint8
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, write_sidecar


class Gain(ModelMixin, ConfigMixin):
    """A part of our own: scales latents."""

    @register_to_config
    def __init__(self, start: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(start))


class TextToImage(DiffusionTaskPipeline):
    task = "draw"
    kind = "drawing"
    default_model = "tiny_draw"
    files = "tests.diffusion.text_to_image:DrawJob"
    _optional_components: ClassVar[list[str]] = ["gain"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Any,
        gain: Gain | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, gain=gain
        )

    @torch.no_grad()
    def __call__(
        self,
        prompts: str | Sequence[str],
        seed: Any = 0,
        *,
        size: int = 64,
        steps: int = 3,
        guidance_scale: float = 4.0,
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> np.ndarray:
        """Images (N, size, size, 3) uint8."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        for prompt in prompts:
            check_words(self.tokenizer, prompt)
        texts = encode_text(self.tokenizer, self.text_encoder, ["", *prompts])
        texts = torch.cat([texts[:1].expand(len(prompts), -1, -1), texts[1:]])
        self.scheduler.set_timesteps(steps)
        latents = (
            initial_noise((len(prompts), 4, size // 8, size // 8), seed, self.device) * self.scheduler.init_noise_sigma
        )
        if self.gain is not None:
            latents = latents * self.gain.gain
        for index, timestep in self.steps(self.scheduler.timesteps, progress):
            scaled = self.scheduler.scale_model_input(latents, timestep).to(self.unet.dtype)
            without, with_text = self.unet(torch.cat([scaled, scaled]), timestep, texts).sample.chunk(2)
            output = without + guidance_scale * (with_text - without)
            latents = scheduler_step(self.scheduler, output, timestep, latents)
            latents = self.after_step(
                callback_on_step_end, index, timestep, callback_on_step_end_tensor_inputs, latents=latents
            )["latents"]
        return to_uint8(decode_latents(self.vae, latents))


@dataclass
class DrawJob(FileJob):
    kinds: ClassVar[tuple[Kind, ...]] = (Kind("prompt", frozenset({".txt"}), "image", (".png",), ".png"),)
    done: ClassVar[str] = "drawn"

    pipe: TextToImage
    seed: int = 0
    steps: int = 3

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        started = time.monotonic()
        prompt = source.read_text().strip()
        if not prompt:
            raise InputError(f"{source}: holds no prompt")
        image = self.pipe(prompt, self.seed, steps=self.steps, progress=report)[0]
        with atomic_path(target) as temporary:
            Image.fromarray(image).save(temporary)
        result = FileResult(str(source), str(target), *image.shape[1::-1], seconds=time.monotonic() - started)
        write_sidecar(target, {"result": result.to_dict()}, {**self.pipe.facts(), "seed": self.seed, "prompt": prompt})
        return result
