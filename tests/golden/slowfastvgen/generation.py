"""Cases of the pipeline: the steps of a guided chunk beside clean past frames, and chunks with fast learning in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests import tiny_diffusion
from visionzoo.models.slowfastvgen import Draw, adapter_layers
from visionzoo.pipelines.generate import GenerateOptions, Generation, SlowFastVGenPipeline
from visionzoo.pipelines.generate.settings import settings_for

from ..case import Case
from . import networks
from .memory import norm, seed_adapter, seeded_noise


class Seeded(Generation):
    """A generation with the noise and the texts of a case."""

    case: Case

    def noise(self) -> Tensor:
        names = {one["name"] for one in self.case.data["inputs"]}
        return seeded_noise(self.case, "noise" if "noise" in names else f"noise.{self.chunks}")

    def text_states(self, text: str) -> Tensor:
        return seeded_noise(self.case, text or "null_text")


def generation(case: Case, past: Tensor, kind: type[Seeded] = Seeded, **options: Any) -> Seeded:
    """A generation with the network of a case that continues frames (1, C, P, h, w); it calls `callback` after each step."""
    callback = options.pop("callback", None)
    parts = {name: getattr(tiny_diffusion, name)() for name in ("vae", "text_encoder", "tokenizer")}
    pipe = SlowFastVGenPipeline(unet=networks.unet(case), scheduler=networks.scheduler(), **parts)
    c = case.config
    chosen = GenerateOptions(steps=c["num_inference_steps"], guidance=c["guidance_scale"], **options)
    settings = settings_for(chosen, pipe.config)
    made = kind(pipe, settings, memory=pipe.memory_for(settings), callback=callback)
    made.case = case
    if made.memory is not None:
        made.memory.no_text = case.input("null_text")
    made.show(past[0].transpose(0, 1))
    return made


def ddim_chunk(case: Case) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        assert int(timestep) == case.config["timesteps"][step]
        found[f"latents_after_t{int(timestep)}"] = tensors["latents"]

    c = case.config
    video = generation(
        case,
        case.input("past"),
        callback=keep,
        frames_per_chunk=c["generated_frames"],
        past_frames=c["past_frames"],
        fast_learning=False,
    )
    chunk = video.take("text")
    assert chunk is not None
    return {**found, "chunk": chunk.latents[None]}


class Learning(Seeded):
    """Also has the timesteps and the noise of a case when it learns."""

    norms: list[Tensor]

    def learn(self, past: Tensor, made: Tensor, text: Tensor) -> list[float]:
        number, frames = self.chunks, past.shape[2] + made.shape[2]
        noise = seeded_noise(self.case, f"fast_eps.{number}")[:, :, :frames]
        with self.remembering() as memory:
            if memory is None:
                return []
            drawn = Draw(torch.tensor([self.case.config["fast_timesteps"][number]]), noise)
            losses = memory.write(past, made, text=text, draws=[drawn])
            layers = adapter_layers(self._pipe.unet).values()
            self.norms.append(norm([layer.lora_B["episode"].weight.detach() for layer in layers]))
        return losses


@torch.inference_mode(False)
def fast_loop(case: Case) -> dict[str, Tensor]:
    c = case.config
    found: dict[str, Tensor] = {}
    chunks: dict[bool, list[Tensor]] = {}
    for learns in (True, False):
        video = generation(
            case,
            case.input("first_frame"),
            kind=Learning,
            frames_per_chunk=c["frames_per_chunk"],
            past_frames=c["frames_per_chunk"],
            fast_learning=learns,
            fast_targets=c["lora"]["targets"],
            fast_rank=c["lora"]["rank"],
            fast_alpha=c["lora"]["alpha"],
            fast_lr=c["lr"],
        )
        assert isinstance(video, Learning)
        video.norms = []
        with video.remembering() as memory:
            if memory is not None:
                seed_adapter(adapter_layers(memory.unet), case.seed)
        taken = [video.take(f"text.{number}") for number in range(c["chunks"])]
        chunks[learns] = [chunk.latents[None] for chunk in taken if chunk is not None]
        if learns:
            losses = torch.tensor([loss for chunk in taken if chunk is not None for loss in chunk.losses])
            found |= {"fast_losses": losses, "B_norm_after_each_chunk": torch.stack(video.norms)}
    found |= {f"chunk_{number}": chunk for number, chunk in enumerate(chunks[True])}
    whole = torch.cat([case.input("first_frame"), *chunks[True]], dim=2)
    found["sequence_frame_norms"] = whole.transpose(1, 2)[0].flatten(1).norm(dim=1)
    last, without = chunks[True][-1], chunks[False][-1]
    found["relative_change_of_last_chunk_by_fast_learning"] = (last - without).norm() / without.norm()
    return found


KINDS: dict[str, Callable[[Case], Any]] = {"ddim_chunk": ddim_chunk, "fast_loop": fast_loop}
