"""LOVECon editing a video, compared with the straightforward form of the published code, and what both compute as a table.

visionzoo bench lovecon
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

from visionzoo.benchmark import Contestant, Grid, Report, compare, peak_memory_mb
from visionzoo.devices import environment
from visionzoo.diffusion import (
    decode_latents,
    encode_frames,
    encode_text,
    install_processors,
    inversion_pair,
    scheduler_step,
    text_config,
    word_tokenizer,
)
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.models.lovecon import (
    FrameContext,
    edit_mask,
    fuse_latents,
    fusion_rule,
    install_joint_norms,
    phrase_columns,
    plan_windows,
)
from visionzoo.pipelines.edit import EditOptions, LOVEConPipeline

FRAMES, STEPS, SIDE = 16, 3, 256
RED, BLUE = "a girl with a red shirt", "a girl with a blue shirt"
STORED_TOKENS = 1024
"""The published code writes out the attention of layers with at most this many tokens, and keeps it."""


# The straightforward form


class Gathered:
    """Self-attention to other frames with keys and values projected in every frame, gathered and concatenated for every frame."""

    def __init__(self, context: FrameContext, read: Callable[[int], list[Tensor]] | None, store: list[Tensor] | None):
        self.context, self.read, self.store = context, read, store

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        own = encoder_hidden_states is None
        states = hidden_states if own else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, states), (attn.to_v, states))
        )
        if own and self.read is not None:
            frames = self.context.frames
            places = self.read(frames)
            k, v = (
                torch.cat([x.unflatten(0, (-1, frames))[:, place].flatten(0, 1) for place in places], 2) for x in (k, v)
            )
        if self.store is not None and q.shape[2] <= STORED_TOKENS:
            weights = ((q @ k.transpose(-2, -1)) * attn.scale).softmax(-1)
            self.store.append(weights.clone())
            out = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _window_frames(frames: int) -> list[Tensor]:
    return [torch.full((frames,), place) for place in (0, min(1, frames - 1), frames - 1)]


def _previous_frames(frames: int) -> list[Tensor]:
    return [torch.arange(frames).sub(1).clamp_min(0), torch.zeros(frames, dtype=torch.long)]


def _installed(pipe: LOVEConPipeline, context: FrameContext, store: list[Tensor] | None) -> ExitStack:
    stack = ExitStack()
    for network in (pipe.unet, pipe.controlnet):
        stack.enter_context(install_joint_norms(network, context))

    def processor(name: str, layer: Any) -> Gathered:
        wide = name.endswith("attn1") and layer.query_dim >= pipe.least_channels
        return Gathered(context, _window_frames if wide else None, store)

    stack.enter_context(install_processors(pipe.unet, processor, "*.attn?"))
    stack.enter_context(
        install_processors(pipe.controlnet, lambda *_: Gathered(context, _previous_frames, None), "*.attn?")
    )
    return stack


def _predict(pipe: LOVEConPipeline, x: Tensor, time: Any, states: Tensor, control: Tensor) -> Tensor:
    """The text repeated for every frame, and the control frames embedded in every call."""
    x, control = x.to(pipe.unet.dtype), control.to(pipe.unet.device, pipe.unet.dtype)
    down, middle = pipe.controlnet(x, time, states, control, return_dict=False)
    return pipe.unet(
        x, time, states, down_block_additional_residuals=down, mid_block_additional_residual=middle
    ).sample.float()


@torch.no_grad()
def straightforward(pipe: LOVEConPipeline, frames: np.ndarray, options: EditOptions) -> Tensor:
    """The whole video at once: latents of all steps, and with a mask the attention of all layers and steps, in memory."""
    steps, guidance, rule = options.steps, options.guidance or 1.0, fusion_rule(options.edit)
    texts = encode_text(pipe.tokenizer, pipe.text_encoder, [options.source_prompt, "", options.prompt])
    columns = phrase_columns(pipe.tokenizer, options.source_prompt, options.phrase or "")
    inverse, forward = inversion_pair(pipe.scheduler)
    inverse.set_timesteps(steps)
    forward.set_timesteps(steps)
    latents = torch.cat([encode_frames(pipe.vae, part) for part in np.array_split(frames, max(1, len(frames) // 8))])
    size, context = latents.shape[2:], FrameContext()
    grid = (size[0] * pipe.factor // pipe.mask_scale, size[1] * pipe.factor // pipe.mask_scale)
    tokens = grid[0] * grid[1]
    masks: list[Tensor] = []
    inverted: list[list[Tensor]] = []
    for window in plan_windows(len(frames), options.window, references=False):
        store: list[Tensor] = []
        x = latents[list(window.frames)]
        control = to_float(frames[list(window.frames)]).contiguous()
        context.frames = len(x)
        kept = [x]
        with _installed(pipe, context, store):
            for time in inverse.timesteps:
                x = scheduler_step(inverse, _predict(pipe, x, time, texts[:1].repeat(len(x), 1, 1), control), time, x)
                kept.append(x)
        inverted.append(kept)
        text_maps = [each for each in store if each.shape[2:] == (tokens, texts.shape[1])]
        average = torch.stack([each[..., columns].mean(1) for each in text_maps]).mean(0)
        masks.append(edit_mask(average.unflatten(1, grid), (size[0], size[1]), dilation=options.dilation))
    path = [torch.cat(step) for step in zip(*inverted, strict=True)]
    mask = torch.cat(masks)
    results = []
    for window in plan_windows(len(frames), options.window):
        numbers = list(window.frames)
        x = path[-1][numbers]
        control = to_float(frames[numbers]).contiguous().repeat(2, 1, 1, 1)
        states = texts[[1, 2]].repeat_interleave(len(x), 0)
        context.frames = len(x)
        with _installed(pipe, context, None):
            for step, time in enumerate(forward.timesteps):
                without, with_text = _predict(pipe, x.repeat(2, 1, 1, 1), time, states, control).chunk(2)
                output = without + guidance * (with_text - without)
                source = path[steps - step][numbers]
                x = fuse_latents(x, source, step=step, steps=steps, rule=rule, mask=mask[numbers])
                x = scheduler_step(forward, output, time, x)
        results.append(x[2:])
    decoded = [decode_latents(pipe.vae, part) for part in torch.cat(results).split(16)]
    return torch.from_numpy(to_uint8(torch.cat(decoded)))


# Ours


def ours(pipe: LOVEConPipeline, frames: np.ndarray, options: EditOptions) -> Tensor:
    return torch.from_numpy(
        np.stack(list(pipe.stream(iter(frames), options, control=lambda frame: frame, progress=lambda *_: None)))
    )


def network(channels: tuple[int, ...], groups: int, side: int = SIDE, width: int = 64) -> LOVEConPipeline:
    """A pipeline in the shape of Stable Diffusion 1.5, perhaps with fewer channels, and random weights.

    Args:
        channels: of the UNet's levels.
        groups: of its norms.
        side: of the frames.
        width: of the text.
    """
    torch.manual_seed(0)
    tokenizer = word_tokenizer(["a", "blue", "girl", "red", "shirt", "with"])
    levels = len(channels)
    sizes: dict[str, Any] = {
        "block_out_channels": channels,
        "cross_attention_dim": width,
        "attention_head_dim": 8,
        "norm_num_groups": groups,
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
    }
    make: Any = UNet2DConditionModel
    unet = make(sample_size=side // 8, up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1), **sizes)
    made: Any = ControlNetModel
    controlnet = made(conditioning_embedding_out_channels=(8, 8, 16, 16), **sizes)
    build: Any = AutoencoderKL
    vae = build(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        latent_channels=4,
        norm_num_groups=8,
    )
    text_encoder = CLIPTextModel(text_config(tokenizer, width))
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return LOVEConPipeline(vae, text_encoder, tokenizer, unet, controlnet, scheduler)


def blocks(count: int, side: int) -> np.ndarray:
    """(count, side, side, 3) uint8: frames of random blocks."""
    frames = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    return np.kron(frames, np.ones((1, side // 8, side // 8, 1), np.uint8))


def judge(outputs: Sequence[Tensor]) -> list[str]:
    notes = [""]
    for output in outputs[1:]:
        levels = (output.int() - outputs[0].int()).abs()
        notes.append(
            f"differs by {float(levels.float().mean()):.2g} levels of 255 on average, {int(levels.max())} at most"
        )
    return notes


def work(frames: int = 128, steps: int = 50, window: int = 8) -> Grid:
    """What is computed for a video at 512 x 512 with Stable Diffusion 1.5, counted from its shapes."""
    windows = -(-frames // window)
    references = 2 * windows
    tokens = {640: (5, 32 * 32), 1280: (5, 16 * 16), 1281: (1, 8 * 8)}  # of the UNet: layers and tokens
    width = {640: 640, 1280: 1280, 1281: 1280}
    frame_bytes = sum(layers * count * width[key] * 2 * 2 for key, (layers, count) in tokens.items())
    gathered, shared = (window + 2) * 3 * frame_bytes, 3 * frame_bytes
    invert, edit = steps * frames, 2 * steps * (frames + references)

    def mb(size: float) -> str:
        return f"{size / 1e6:,.1f} MB"

    everything = frames + references
    rows = [
        ("calls of UNet and ControlNet, in frames", invert + edit, invert + edit, invert + 2 * steps * frames),
        ("control frames made", frames + everything, frames, frames),
        ("control frames embedded", invert + edit, frames, frames),
        ("frames encoded by the autoencoder, with smoothing", *(frames + everything,) * 3),
        ("frames decoded by the autoencoder, with smoothing", *(frames + everything,) * 3),
        ("keys and values of a window in the UNet, float16, without guidance", mb(gathered), mb(shared), mb(shared)),
        (
            "attention maps kept for the mask of a window",
            mb(_stored(window, steps)),
            *(f"{window * 256 * 4 / 1e3:.1f} kB",) * 2,
        ),
    ]
    return Grid(
        f"{frames} frames in windows of {window}, {steps} steps, 512 x 512 (counted)",
        ("", "published", "visionzoo", "visionzoo, memory bank"),
        [tuple(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in rows],
        environment(),
        "visionzoo bench lovecon",
    )


def _stored(window: int, steps: int) -> float:
    """Bytes of the attention maps with at most 1024 tokens of all steps, float16, 8 heads: self-attention to 3 frames, and to text."""
    layers = ((5, 1024), (5, 256), (1, 64))
    return sum(count * window * 8 * tokens * (3 * tokens + 77) * 2 for count, tokens in layers) * steps


def growth(lengths: tuple[int, ...] = (64, 512)) -> Grid:
    """Peak memory by the length of the video, of `lovecon_nano` in one step."""
    pipe = LOVEConPipeline.create("lovecon_nano", "cpu")
    rows = []
    for memory in ("none", "bank"):
        options = EditOptions(
            "a girl with a blue shirt", "a girl with a red shirt", steps=1, guidance=3.0, memory=memory
        )
        peaks = []
        for length in lengths:
            frames = (blocks(1, 128)[0] for _ in range(length))
            stream = pipe.stream(frames, options, control=lambda frame: frame, progress=lambda *_: None)
            peaks.append(peak_memory_mb(lambda stream=stream: deque(stream, maxlen=0)))
        rows.append(("memory bank" if memory == "bank" else "released", *(f"{peak:.1f} MB" for peak in peaks)))
    return Grid(
        "Peak memory beyond the networks, lovecon_nano, 128 x 128",
        ("", *(f"{length} frames" for length in lengths)),
        rows,
        environment(),
        "visionzoo bench lovecon",
    )


def benchmark(rounds: int = 3, command: str = "") -> Report:
    """The tables: counted for Stable Diffusion 1.5, and measured on a network of its shape with a tenth of its channels."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = network((32, 64, 128, 128), 8).to(device)
    frames = blocks(FRAMES, SIDE)
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 3.0, "phrase": "red shirt", "batch_size": 8}
    released, bank = (EditOptions(BLUE, RED, memory=memory, **settings) for memory in ("none", "bank"))
    measured = compare(
        f"Editing {FRAMES} frames of {SIDE} x {SIDE} in {STEPS} steps, a tenth of the channels of Stable Diffusion 1.5",
        [
            Contestant("straightforward", partial(straightforward, pipe, frames, released)),
            Contestant("visionzoo", partial(ours, pipe, frames, released)),
            Contestant("visionzoo, memory bank", partial(ours, pipe, frames, bank)),
        ],
        rounds=rounds,
        command=command,
        items=FRAMES,
        unit="frames",
        judge=judge,
    )
    return Report((work(), measured, growth()))
