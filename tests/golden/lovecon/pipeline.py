"""Cases of the whole pipeline: inversion, mask, windows, fusion, guidance, the smoothed last step, decoding."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

from tests import tiny_diffusion
from visionzoo.diffusion import decode_latents, encode_frames, text_config
from visionzoo.io.tensor_file import TensorFile
from visionzoo.models.lovecon import Window
from visionzoo.pipelines.edit import EditOptions, LOVEConPipeline
from visionzoo.pipelines.edit.denoiser import embed_control
from visionzoo.pipelines.edit.editing import Editing
from visionzoo.pipelines.edit.inversion import Inversion
from visionzoo.pipelines.edit.source import Source
from visionzoo.pipelines.edit.work import WorkFolder

from ..case import HERE, Case
from . import networks, rife
from .published import published_state


class Observed(Editing):
    """Keeps the latents before and after the fusion of chosen steps."""

    seen: dict[str, Tensor]

    def fused(self, step: int, window: Window, latents: Tensor, controls: Tensor) -> tuple[Tensor, Tensor]:
        noise, after = super().fused(step, window, latents, controls)
        number = window.start // self._options.window
        for when, value in (("before", latents), ("after", after)):
            self.seen[f"window{number}.step{step}.{when}_fusion"] = networks.unfold(value, len(latents))
        return noise, after


def pipeline(case: Case) -> LOVEConPipeline:
    """The networks of the case, with the rescaled weights that its notes describe."""
    c, change = case.config, case.config["rescale"]
    unet, controlnet = networks.networks(c["tiny"])
    shapes = Case.read(HERE / "lovecon" / case.data["state_dict"]["unet_controlnet"]).data
    networks.load(unet, "unet.", shapes["unet"], case.seed)
    networks.load(controlnet, "controlnet.", shapes["controlnet"], case.seed)
    vae = rife.autoencoder(c["vae"])
    state = published_state(case, "keys_vae.json")
    vae.load_state_dict({key.removeprefix("vae."): value for key, value in state.items()})
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("attn2.to_k.weight"):
                parameter *= change["unet_attn2_to_k_weight"]
        unet.conv_out.weight *= change["unet_conv_out_weight"]
        unet.conv_out.bias.copy_(0.05 * unet.conv_out.bias + torch.tensor([1.0, -1.0, 0.7, -0.4]))
        for parameter in vae.quant_conv.parameters():
            parameter *= change["vae_quant_conv"]
    tokenizer = tiny_diffusion.tokenizer()
    text_encoder = CLIPTextModel(text_config(tokenizer, c["tiny"]["cross_attention_dim"]))
    return LOVEConPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        controlnet,
        DDIMScheduler(**c["scheduler"]),
        rife.network(case),
        least_channels=c["tiny"]["least_sc_channel"],
        mask_scale=64 // c["attention_resolution"],
    )


def whole(case: Case) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return _run(case, WorkFolder(Path(folder)))


def _run(case: Case, work: WorkFolder) -> dict[str, Any]:
    c, pipe = case.config, pipeline(case)
    side = c["mask_size"][0] * pipe.factor
    frames = F.interpolate(case.input(f"{case.name}.video"), size=(side, side), mode="bilinear", align_corners=False)
    source_text, target_text = (case.input(f"{case.name}.{name}_text") for name in ("source", "target"))
    made = {
        "latents": encode_frames(pipe.vae, frames),
        "controls": embed_control(pipe.controlnet, frames),
    }
    for name, rows in made.items():
        with work.writer(name, rows.shape[1:], {}) as file:
            file.append(rows)
    source = Source(*(TensorFile(work.path / name) for name in made), None)
    options = EditOptions(
        "the target",
        "the source",
        edit=c["editing_type"],
        steps=c["num_inference_steps"],
        guidance=c["guidance_scale"],
        window=c["window"],
        dilation=c["dilation_kernel"],
        control_scale=c["controlnet_conditioning_scale"],
    )
    inversion = Inversion(pipe, source, options, source_text[1:], c["token_columns"], work, {})
    inversion.run(lambda *_: None)
    Observed.seen = {}
    states = torch.stack([source_text[0], target_text[1]])
    latents = torch.stack(list(Observed(pipe, source, inversion, options, states, work, None).results(lambda *_: None)))
    everything = range(c["frames"])

    def shaped(x: Tensor) -> Tensor:
        return networks.unfold(x, len(x))

    outputs = {
        **Observed.seen,
        "inverted_x0": shaped(inversion.latents(everything, 0)),
        "inverted_step1": shaped(inversion.latents(everything, 1)),
        "inverted_step10": shaped(inversion.latents(everything, 10)),
        "inverted_last": shaped(inversion.latents(everything, c["num_inference_steps"])),
        "video": decode_latents(pipe.vae, latents).permute(0, 2, 3, 1),
    }
    for number, start in enumerate(range(0, c["frames"], c["window"])):
        outputs[f"window{number}.final_latents"] = shaped(latents[start : start + c["window"]])
    if (mask := inversion.masks(everything)) is not None:
        bits = ["".join(str(int(place)) for place in frame.flatten()) for frame in mask]
        outputs["mask"] = {
            "shape": [1, 1, *mask.shape[0:1], *mask.shape[2:]],
            "per_frame": mask.sum((1, 2, 3)).int().tolist(),
            "hex": [f"{int(frame, 2):0{len(frame) // 4}x}" for frame in bits],
        }
    return {name: outputs[name] for name in case.outputs}


KINDS = {"whole pipeline": whole}
KEYS: dict[str, Any] = {}

LOOSE = {"pipeline_attribute": 2e-3, "pipeline_style": 1e-4}
"""Tolerances of the final latents and the video: one hundred steps of a random network amplify rounding."""


def tolerance(case: Case, name: str) -> float | None:
    return LOOSE.get(case.name) if name == "video" or name.endswith("final_latents") else None
