"""Samples a segment: sketches, reference image and memory -> latents (LongAnimation, arXiv 2507.01945, section 3).

Index 0 on the time axis of all latents is a reference slot, as CogVideoX 1.5 needs an even number of latents and 8 k + 1 frames have
an odd one: it holds the latent of the reference image, the sketch of a first frame, and noise that is dropped before decoding.

image latents:  [reference, 0, 0, …]        sketch latents: [first frame, sketch 0, sketch 1, …]
control signal: SketchDiT(sketch latents, image latents), then DGLM with the memory of earlier segments
velocity:       video network(noisy latents, image latents; control signal between its blocks)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visionzoo.diffusion import scheduler_step
from visionzoo.errors import InputError

from .cogvideox import OFFSET, rotary_embedding
from .color_fusion import ColorFusion
from .frame_vae import sees_one_frame
from .memory_fusion import DynamicMemoryFusion, ProjectedMemory
from .sketch_dit import SketchDiT
from .step_tails import StepTails
from .transformer import LongAnimationTransformer

__all__ = ["SegmentConditions", "decode_segment", "encode_reference", "encode_sketches", "sample_segment"]


@dataclass(frozen=True)
class SegmentConditions:
    """What a segment is generated from.

    Attributes:
        sketches: (1, T, C, h, w) latents of its sketches, T odd, see `encode_sketches`.
        first_sketch: (1, 1, C, h, w) latent of the sketch for the reference slot.
        reference: (1, 1, C, h, w) latent of the reference image, see `encode_reference`.
        text: (2, L, width) hidden states of the negative prompt and of the prompt; (1, L, width) without guidance.
        memory: what DGLM attends to, from `DynamicMemoryFusion.project`; None in the first segment, or without memory.
    """

    sketches: Tensor
    first_sketch: Tensor
    reference: Tensor
    text: Tensor
    memory: ProjectedMemory | None = None

    def __post_init__(self) -> None:
        shape = self.sketches.shape
        one = (1, 1, *shape[2:])
        if self.sketches.ndim != 5 or shape[0] != 1 or not shape[1] % 2:
            raise InputError(f"latents of sketches must be (1, T, C, h, w) with an odd T, got {tuple(shape)}")
        for name, latent in (("first sketch", self.first_sketch), ("reference", self.reference)):
            if tuple(latent.shape) != one:
                raise InputError(f"the latent of the {name} must be {one}, got {tuple(latent.shape)}")
        if self.text.ndim != 3 or self.text.shape[0] not in (1, 2):
            raise InputError(f"text states must be (1 or 2, L, width), got {tuple(self.text.shape)}")

    @property
    def padded_sketches(self) -> Tensor:
        """(1, T + 1, C, h, w)."""
        return torch.cat([self.first_sketch, self.sketches], 1)

    @property
    def padded_images(self) -> Tensor:
        """(1, T + 1, C, h, w): zeros behind the reference."""
        return torch.cat([self.reference, torch.zeros_like(self.sketches)], 1)


@torch.no_grad()
def encode_sketches(
    vae: Any, sketches: Tensor, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Sketches (F, 3, H, W) -> latents (1, T, C, h, w) times the autoencoder's scaling factor, float32.

    Args:
        vae: an AutoencoderKLCogVideoX.
        sketches: lines are 1, paper is -1; F is 8 k + 1, or 1 for the sketch of the reference slot.
        generator: draws from the posterior, as published; None takes its mode.
        device: where the autoencoder computes, if its weights are kept elsewhere.
    """
    return _encode(vae, sketches, generator, device) * float(vae.config["scaling_factor"])


@torch.no_grad()
def encode_reference(
    vae: Any, image: Tensor, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Reference image (1, 3, H, W) in [-1, 1] -> latent (1, 1, C, h, w), float32; see `encode_sketches`.

    It is not scaled. (diffusers divides it by the scaling factor for CogVideoX 1.5, whose `invert_scale_latents` is set; the published
    code of LongAnimation does not.)
    """
    return _encode(vae, image, generator, device)


def _encode(vae: Any, frames: Tensor, generator: torch.Generator | None, device: torch.device | None) -> Tensor:
    posterior = vae.encode(frames.movedim(0, 1)[None].to(device or vae.device, vae.dtype)).latent_dist
    latents = (posterior.mode() if generator is None else posterior.sample(generator)).float()
    if not latents.isfinite().all():
        precision = str(vae.dtype).removeprefix("torch.")
        raise InputError(f"the autoencoder gives no finite numbers in {precision}; try float32 or bfloat16 for it")
    return latents.transpose(1, 2)


@torch.no_grad()
def decode_segment(
    vae: Any, latents: Tensor, device: torch.device | None = None, frames: slice = slice(None)
) -> Tensor:
    """Latents (1, T + 1, C, h, w) of `sample_segment` -> frames (F, 3, H, W), float32, in [-1, 1] but not clipped.

    The latent of the reference slot is dropped.

    Args:
        frames: which frames of the segment are wanted. An autoencoder that sees one frame decodes no others.
    """
    alone = sees_one_frame(vae)
    wanted = latents[:, 1:][:, frames] if alone else latents[:, 1:]
    scaled = wanted.transpose(1, 2).to(device or vae.device, torch.float32) / float(vae.config["scaling_factor"])
    made = vae.decode(scaled.to(vae.dtype)).sample[0].movedim(1, 0).float()
    return made if alone else made[frames]


@torch.no_grad()
def sample_segment(
    transformer: LongAnimationTransformer,
    sketch_dit: SketchDiT,
    memory_fusion: DynamicMemoryFusion | None,
    scheduler: Any,
    conditions: SegmentConditions,
    *,
    guidance: float = 6.0,
    generator: torch.Generator | None = None,
    latents: Tensor | None = None,
    fusion: ColorFusion | None = None,
    tails: StepTails | None = None,
    fused_latent: int = 2,
    on_step: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Denoise the latents of a segment.

    The scheduler's arithmetic is in float32; latents are rounded to the precision of the networks after each step, as published.

    Args:
        transformer, sketch_dit, memory_fusion: the networks; the last one may be None if `conditions` have no memory.
        scheduler: with its timesteps set, e.g. CogVideoXDPMScheduler. It holds no state of the sampling.
        conditions: of the segment; moved to the device of the networks.
        guidance: scale of classifier-free guidance, if `conditions.text` has two rows.
        generator: draws `latents`, if they are not given, and the noise of the steps, in this order.
        latents: (1, T + 1, C, h, w) normal noise.
        fusion: when latents are fused with those of the segment before; None: never.
        tails: where the last latents of each step are kept for the next segment, and those of the one before are found, after
            `StepTails.begin`.
        fused_latent: index of the first latent to fuse, see `ClipSegment.fused_latent`.
        on_step: called with (step, latents) after each step; returns the latents to continue with.

    Returns:
        (1, T + 1, C, h, w), float32.
    """
    from diffusers.utils.torch_utils import randn_tensor

    like = conditions.text
    images = conditions.padded_images.to(like)
    control_input = torch.cat([conditions.padded_sketches.to(like), images], 2)
    if latents is None:
        latents = randn_tensor(images.shape, generator=generator, device=images.device, dtype=torch.float32)
    current: Tensor = latents.to(like) * scheduler.init_noise_sigma
    rows, steps = len(like), scheduler.timesteps
    images, control_input = (each.expand(rows, -1, -1, -1, -1) for each in (images, control_input))
    ofs = torch.full((1,), OFFSET, device=like.device, dtype=like.dtype)
    shared = {"encoder_hidden_states": like, "ofs": ofs}
    rotary, control_rotary = rotary_embedding(transformer, images), rotary_embedding(sketch_dit, images)
    fused_steps = range(0) if fusion is None or tails is None else fusion.steps(len(steps))
    before: Tensor | None = None
    for number, timestep in enumerate(steps):
        time = timestep.to(like.device).expand(rows)
        control = sketch_dit(control_input, timestep=time, image_rotary_emb=control_rotary, **shared)
        if conditions.memory is not None:
            assert memory_fusion is not None
            control = memory_fusion(control, conditions.memory)
        noisy = torch.cat([scheduler.scale_model_input(current, timestep).expand(rows, -1, -1, -1, -1), images], 2)
        velocity = transformer(
            noisy, timestep=time, image_rotary_emb=rotary, control_hidden_states=control, return_dict=False, **shared
        )[0].float()
        if rows == 2:
            negative, positive = velocity.chunk(2)
            velocity = negative + guidance * (positive - negative)
        stepped, before = _step(scheduler, velocity, before, number, current, generator)
        current = stepped.to(like)
        if number in fused_steps:
            assert fusion is not None
            assert tails is not None
            current = fusion.fuse(current, tails.read(number, current), number, fused_latent)
            tails.write(number, current)
        if on_step is not None:
            current = on_step(number, current)
    return current.float()


def _step(
    scheduler: Any, velocity: Tensor, before: Tensor | None, number: int, latents: Tensor, generator: Any
) -> tuple[Tensor, Tensor | None]:
    """The next latents, and the estimate of the clean latents, which CogVideoX's DPM scheduler wants in the next step."""
    timesteps = scheduler.timesteps
    if "timestep_back" not in inspect.signature(scheduler.step).parameters:
        return scheduler_step(scheduler, velocity, timesteps[number], latents, generator=generator), None
    back = timesteps[number - 1] if number else None
    return scheduler.step(
        velocity, before, timesteps[number], back, latents.float(), generator=generator, return_dict=False
    )
