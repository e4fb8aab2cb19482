"""Cases of two segments: the whole loop with guidance, memory, fusion of latents and decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
from torch import Tensor

from visionzoo.models.longanimation import (
    ColorFusion,
    DynamicMemoryFusion,
    LongAnimationTransformer,
    SegmentConditions,
    SketchDiT,
    StepTails,
    decode_segment,
    encode_reference,
    sample_segment,
)
from visionzoo.weights import load_checkpoint

from ..case import Case

RANDOM = "diffusers.schedulers.scheduling_dpm_cogvideox.randn_tensor"
STEP_NOISE = "segmentS.step_noise_N"


def parts(case: Case) -> dict[str, Any]:
    """The networks with the case's configuration and seeded weights, and the scheduler."""
    kinds: dict[str, Any] = {
        "transformer": LongAnimationTransformer,
        "transformer_control": SketchDiT,
        "glm": DynamicMemoryFusion,
        "vae": AutoencoderKLCogVideoX,
    }
    state, found = case.state(), {}
    for name, kind in kinds.items():
        config = case.config["dglm" if name == "glm" else name]
        known = kind._get_init_keys(kind)
        network = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in known})
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        if name == "vae":
            network.load_state_dict(own)
        else:
            load_checkpoint(network, own)
        found[name] = network.eval()
    settings = {key: value for key, value in case.config["scheduler"].items() if key != "_class"}
    scheduler = CogVideoXDPMScheduler(**settings)
    scheduler.set_timesteps(case.config["num_inference_steps"])
    return {**found, "scheduler": scheduler}


def tensor(case: Case, name: str) -> Tensor:
    """An input under its own name, where the table of inputs has one for several of them."""
    titles = {title.partition(" (")[0]: (shape, kind) for title, shape, kind in case.specs()}
    pattern = STEP_NOISE if "step_noise" in name else name.replace("segment1", "segment0")
    joined = next(title for title in titles if title.split(" / ")[0] == pattern)
    shape, kind = titles[joined]
    return Case(case.path, {**case.data, "inputs": [[name, shape, kind]]}).input(name)


@contextlib.contextmanager
def step_noise(case: Case, segment: int) -> Iterator[None]:
    """The scheduler draws the case's noise instead of random numbers."""
    drawn = iter(range(1000))

    def draw(shape: Any, **_: Any) -> Tensor:
        found = tensor(case, f"segment{segment}.step_noise_{next(drawn)}")
        assert found.shape == tuple(shape)
        return found

    with mock.patch(RANDOM, draw):
        yield


def two_segments(case: Case) -> dict[str, Tensor]:
    found = parts(case)
    image = 2 * case.input("image") - 1
    reference = encode_reference(found["vae"], image)
    text = torch.cat([case.input("negative_prompt_embeds"), case.input("prompt_embeds")])
    fusion = ColorFusion(first_step=case.config["first_fused_step"])
    tails, outputs = StepTails(fusion.count), {"image_latent(mode, unscaled)": reference}
    latents = torch.empty(0)
    for segment in (0, 1):
        memories = [case.input(f"{kind}_memory{_only(case, kind)}") for kind in ("global", "local")] if segment else []
        conditions = SegmentConditions(
            tensor(case, f"segment{segment}.sketches"),
            case.input("sketches_first_frame"),
            reference,
            text,
            found["glm"].project(*memories) if segment else None,
        )
        tails.begin(segment)

        def keep(step: int, latents: Tensor, segment: int = segment) -> Tensor:
            outputs[f"segment{segment}.latents_after_step_{step}"] = latents
            return latents

        with step_noise(case, segment):
            latents = sample_segment(
                found["transformer"],
                found["transformer_control"],
                found["glm"],
                found["scheduler"],
                conditions,
                guidance=case.config["guidance_scale"],
                latents=tensor(case, f"segment{segment}.latents"),
                fusion=fusion,
                tails=tails,
                on_step=keep,
            )
        outputs[f"segment{segment}.final_latents"] = latents
    outputs["segment1.decoded_frames"] = decode_segment(found["vae"], latents).movedim(0, 1)[None]
    return outputs


def _only(case: Case, kind: str) -> str:
    title = next(title for title, *_ in case.specs() if title.startswith(f"{kind}_memory"))
    return title.removeprefix(f"{kind}_memory")


KINDS: dict[str, Callable[[Case], Any]] = {"pipeline_two_segments": two_segments}
