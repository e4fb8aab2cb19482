"""A whole clip of 500 frames coloured by a small LongAnimation, compared with a straightforward form of the published loop.

python -m benchmarks.longanimation_clip                  # 20 steps
python -m benchmarks.longanimation_clip --steps 50       # a larger share of the time is in the video network

Both forms use the same networks with random weights, and give the same video. The straightforward one does in every segment what the
published code does: it encodes the texts and the whole history, keeps CLIP's hidden states, computes the head of the language model,
projects the memory in every step for both halves of guidance, and passes all step tails through files.

How much faster a clip is depends on the sizes: in networks of the toy world, the memory encoder takes a large share of the time. With
the published sizes, nearly everything is in the video network (`python -m benchmarks.longanimation_counts`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from visionzoo.benchmark import Contestant, Table, compare
from visionzoo.models.longanimation import (
    BeaconConfig,
    ClipSegment,
    ColorFusion,
    DynamicMemoryFusion,
    LongAnimationTransformer,
    SegmentConditions,
    SketchDiT,
    StepTails,
    VideoHistory,
    VideoXLMemoryEncoder,
    VisionConfig,
    decode_segment,
    encode_reference,
    encode_sketches,
    plan_segments,
    rotary_embedding,
    sample_segment,
    sampled_frames,
)

from .longanimation import FRAMES, LIMIT, LOCAL, PROMPT, PlainMemory, Waste, judge

COMMAND = "python -m benchmarks.longanimation_clip"
SIDE, SEED, GUIDANCE = 64, 42, 6.0
TEXT: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4, "vocab_size": 100}


@dataclass
class Parts:
    """The networks of a small LongAnimation."""

    transformer: Any
    sketch_dit: Any
    memory_fusion: Any
    vae: Any
    memory_encoder: Any
    text_encoder: Any
    steps: int

    @property
    def scheduler(self) -> Any:
        found = CogVideoXDPMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        found.set_timesteps(self.steps)
        return found

    @property
    def fusion(self) -> ColorFusion:
        """In the last 19 of 50 steps."""
        return ColorFusion(first_step=round(31 / 50 * self.steps))

    @torch.no_grad()
    def encode_texts(self) -> Tensor:
        """(2, L, width) of a negative prompt and a prompt."""
        ids = torch.arange(48).view(2, 24) + 2
        return torch.cat([self.text_encoder(each[None]).last_hidden_state for each in ids])


@dataclass
class Drawings:
    """What is coloured: sketches (F, 3, H, W) in {-1, 1} and a reference (1, 3, H, W) in [-1, 1]."""

    sketches: Tensor
    reference: Tensor

    @classmethod
    def random(cls, frames: int = FRAMES) -> Drawings:
        generator = torch.Generator().manual_seed(0)
        lines = torch.rand(frames, 1, SIDE, SIDE, generator=generator) > 0.9
        return cls(2.0 * lines.expand(-1, 3, -1, -1) - 1, 2 * torch.rand(1, 3, SIDE, SIDE, generator=generator) - 1)


def small_parts(steps: int) -> Parts:
    """Networks of a few hundred thousand parameters each, in the proportions of a model for the toy world."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "in_channels": 16,
        "text_embed_dim": TEXT["d_model"],
        "max_text_seq_length": 24,
        "time_embed_dim": 64,
        "ofs_embed_dim": 64,
        "patch_size_t": 2,
        "patch_bias": False,
        "sample_height": 300,
        "sample_width": 300,
        "use_rotary_positional_embeddings": True,
    }
    vae: Any = AutoencoderKLCogVideoX  # diffusers' types are those of a single level
    language = BeaconConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        window=160,
        ratio=4,
        levels=(-3, -2, -1),
    )
    fusion: Any = DynamicMemoryFusion
    networks = (
        LongAnimationTransformer(**shared, out_channels=8, num_layers=4),
        SketchDiT(**shared, num_layers=2),
        fusion(dim=128, heads=4, dim_head=32, memory_dim=32, mapping_hidden=(64, 96)),
        vae(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=8,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        VideoXLMemoryEncoder(language, VisionConfig(48, 192, 3, 4, image_size=SIDE, patch_size=8)),
        T5EncoderModel(T5Config(**TEXT, feed_forward_proj="gated-gelu")),
    )
    for network in networks:
        network.eval().requires_grad_(False)
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return Parts(*networks, steps=steps)


def to_bytes(frames: Tensor) -> Tensor:
    """(F, 3, H, W) in [-1, 1] -> uint8."""
    return ((frames / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def as_published(parts: Parts, drawings: Drawings, folder: Path) -> Tensor:
    """The straightforward form; returns the latents of the last segment."""
    memory_encoder, fusion = PlainMemory(parts.memory_encoder, Waste()), parts.fusion
    written = torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)
    latents = torch.empty(0)
    for number, segment in enumerate(plan_segments(len(drawings.sketches))):
        text, scheduler, memory = parts.encode_texts(), parts.scheduler, None
        if number:
            history = written[sampled_frames(len(written), LIMIT)]
            memory = torch.cat([memory_encoder.encode(history), memory_encoder.encode(history[-LOCAL:])], 3)
        reference = encode_reference(parts.vae, drawings.reference)
        conditions = conditions_of(parts, drawings, segment, reference, text)
        latents = denoise(parts, conditions, memory, scheduler, folder, number, fusion)
        frames = to_bytes(decode_segment(parts.vae, latents))
        written = torch.cat([written, frames[segment.written]])
    return latents


def denoise(
    parts: Parts,
    conditions: SegmentConditions,
    memory: Tensor | None,
    scheduler: Any,
    folder: Path,
    number: int,
    fusion: ColorFusion,
) -> Tensor:
    """All steps of a segment."""
    generator = torch.Generator().manual_seed(SEED)
    images = conditions.padded_images
    latents, before = torch.randn(images.shape, generator=generator), None
    control_input = torch.cat([conditions.padded_sketches, images], 2).repeat_interleave(2, 0)
    for step, moment in enumerate(scheduler.timesteps):
        given: dict[str, Any] = {
            "encoder_hidden_states": conditions.text,
            "timestep": moment.expand(2),
            "ofs": torch.tensor([2.0]),
            "image_rotary_emb": rotary_embedding(parts.transformer, images),
        }
        control = parts.sketch_dit(control_input, **given)
        if memory is not None:
            control = parts.memory_fusion(control, parts.memory_fusion.project(memory.repeat_interleave(2, 0)))
        noisy = torch.cat([latents, images], 2).repeat_interleave(2, 0)
        output = parts.transformer(noisy, control_hidden_states=control, **given).sample.float()
        without, with_text = output.chunk(2)
        output = without + GUIDANCE * (with_text - without)
        back = scheduler.timesteps[step - 1] if step else None
        latents, before = scheduler.step(output, before, moment, back, latents, generator=generator, return_dict=False)
        if number and step >= fusion.first_step:
            previous = torch.load(folder / f"{number - 1}_{step}.pt", weights_only=True)
            latents = fusion.fuse(latents, previous, step)
        torch.save(latents[:, -4:].clone(), folder / f"{number}_{step}.pt")
    return latents


def conditions_of(
    parts: Parts, drawings: Drawings, segment: ClipSegment, reference: Tensor, text: Tensor, memory: Any = None
) -> SegmentConditions:
    """Sketches are encoded without noise, so that both forms get the same."""
    return SegmentConditions(
        encode_sketches(parts.vae, drawings.sketches[segment.start : segment.stop]),
        encode_sketches(parts.vae, drawings.sketches[segment.start : segment.start + 1]),
        reference,
        text,
        memory,
    )


@torch.no_grad()
def ours(parts: Parts, drawings: Drawings) -> Tensor:
    """The same with a memory that frames are appended to."""
    history, tails = VideoHistory(parts.memory_encoder, PROMPT), StepTails()
    text, reference = parts.encode_texts(), encode_reference(parts.vae, drawings.reference)
    plan, latents = plan_segments(len(drawings.sketches)), torch.empty(0)
    for number, segment in enumerate(plan):
        memory = parts.memory_fusion.project(history.read()) if number else None
        tails.begin(number)
        latents = sample_segment(
            parts.transformer,
            parts.sketch_dit,
            parts.memory_fusion,
            parts.scheduler,
            conditions_of(parts, drawings, segment, reference, text, memory),
            guidance=GUIDANCE,
            generator=torch.Generator().manual_seed(SEED),
            fusion=parts.fusion,
            tails=tails,
        )
        frames = to_bytes(decode_segment(parts.vae, latents))
        if number + 1 < len(plan):
            history.append(frames[segment.written])
    return latents


def benchmark(rounds: int = 3, command: str = COMMAND, steps: int = 20, frames: int = FRAMES) -> Table:
    """A clip in both forms."""
    parts, drawings = small_parts(steps), Drawings.random(frames)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], Tensor]] = {
            "published form": partial(as_published, parts, drawings, Path(folder)),
            "visionzoo": partial(ours, parts, drawings),
        }
        return compare(
            f"A clip of {frames} frames of {SIDE} x {SIDE}, {steps} steps, small networks",
            [Contestant(name, run) for name, run in ways.items()],
            rounds=rounds,
            command=command,
            items=frames,
            unit="frames",
            judge=judge,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(benchmark(args.rounds, f"{COMMAND} --steps {args.steps}", args.steps).to_markdown())


if __name__ == "__main__":
    main()
