"""LongAnimation's memory and its bookkeeping, compared with a straightforward form of what the published code computes.

visionzoo bench longanimation

The networks are small, with random weights: neither depends on the other. The straightforward form computes what the published code
computes where it computes it: before each segment, all frames so far pass CLIP in one batch whose hidden states are all kept, and
the language model with its head, which is followed by a second decoding step; DGLM projects the memory in every step; each step's
latents pass a file. `python -m benchmarks.longanimation_counts` counts the published sizes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from visionzoo.benchmark import Contestant, Grid, Report, Table, compare, peak_memory_mb
from visionzoo.devices import environment
from visionzoo.models.longanimation import (
    BeaconConfig,
    DynamicMemoryFusion,
    PromptTokens,
    StepTails,
    VideoHistory,
    VideoXLMemoryEncoder,
    VisionConfig,
    plan_segments,
    sampled_frames,
    written_frames,
)
from visionzoo.models.longanimation.beacon import BeaconLayer, Rotation
from visionzoo.models.longanimation.videoxl_vision import clip_pixels

COMMAND = "visionzoo bench longanimation"
FRAMES, LOCAL, LIMIT = 500, 20, 650
PROMPT = PromptTokens(tuple(range(14)), tuple(range(14, 30)))
SIDE = 80
"""Of the frames, in pixels."""


# The memory encoder


def small_encoder() -> VideoXLMemoryEncoder:
    """Video-XL with 4 of its 28 layers, a fourteenth of its width, and 25 visual tokens per frame, of which 5 beacons remain.

    Windows hold 10 frames, as published. The vocabulary takes the share of the computation that it takes in Video-XL.
    """
    torch.manual_seed(0)
    language = BeaconConfig(
        vocab_size=1400,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        window=250,
        ratio=5,
        levels=(-3, -2, -1),
    )
    vision = VisionConfig(96, 384, 6, 6, image_size=70, patch_size=7)
    return VideoXLMemoryEncoder(language, vision).eval().requires_grad_(False)


@dataclass(frozen=True)
class Waste:
    """What the straightforward form does more than it needs to.

    Attributes:
        clip_at_once: all frames pass CLIP in one batch, and all hidden states are kept.
        token_by_token: visual tokens are copied into the prompt one after another, by the value of its placeholders.
        head: logits of all tokens of every window, in float32, and a second decoding step.
    """

    clip_at_once: bool = True
    token_by_token: bool = True
    head: bool = True


NO_WASTE = Waste(clip_at_once=False, token_by_token=False, head=False)


class PlainMemory:
    """The memory of a history, computed from all of its frames with each call.

    Args:
        encoder: its weights.
        waste: what it does more than it needs to.
    """

    def __init__(self, encoder: VideoXLMemoryEncoder, waste: Waste):
        self.encoder, self.waste, config = encoder, waste, encoder.language
        torch.manual_seed(1)
        self.layers = nn.ModuleList(BeaconLayer(config) for _ in range(config.num_hidden_layers))
        self.layers.load_state_dict(encoder.model.layers.state_dict(), strict=False)  # the last one is whole here
        self.norm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.frames = 0

    def look(self, frames: Tensor) -> Tensor:
        """Visual tokens (N, tokens per frame, C)."""
        self.frames += len(frames)
        model, vision = self.encoder.model, self.encoder.vision
        if not self.waste.clip_at_once:
            return torch.cat(list(self.encoder.watch(frames)))
        seen = model.vision_tower.vision_tower(clip_pixels(frames, vision.image_size), output_hidden_states=True)
        tokens = model.mm_projector(seen.hidden_states[vision.select_layer][:, 1:])
        side = vision.image_size // vision.patch_size
        return F.avg_pool2d(tokens.transpose(1, 2).unflatten(2, (side, side)), vision.pool).flatten(2).transpose(1, 2)

    def embed(self, visual: Tensor) -> Tensor:
        """The prompt with the video in it, (N, C)."""
        table, visual = self.encoder.model.embed_tokens.weight, visual.flatten(0, 1)
        before, after = len(PROMPT.before), len(PROMPT.after)
        if not self.waste.token_by_token:
            return torch.cat([table[list(PROMPT.before)], visual, table[list(PROMPT.after)]])
        ids = torch.tensor([*PROMPT.before, *[-1] * len(visual), *PROMPT.after])
        embedded, used = torch.empty(before + len(visual) + after, table.shape[1]), 0
        for place, index in enumerate(ids):
            if index == -1:
                embedded[place] = visual[used]
                used += 1
            else:
                embedded[place] = table[index]
        return embedded

    def run(self, x: Tensor, past: list[tuple[Tensor, Tensor]], ratio: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Process tokens (1, N, C) after those that are remembered; returns keys and values of all layers."""
        config, found = self.encoder.language, []
        layers: Any = self.layers
        count = x.shape[1] + (past[0][0].shape[2] if past else 0)
        turn = Rotation(config.head_dim, config.rope_theta, count, x)
        for number, layer in enumerate(layers):
            normed = layer.input_layernorm(x)
            new = layer.keys_values(normed, ratio)
            x = layer(x, normed, new, past[number : number + 1], turn, ratio)
            found.append(new)
        if self.waste.head:
            self.logits = self.head(self.norm(x)).float()
        return found

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) -> the memory (1, 2, levels, L, width)."""
        model, config = self.encoder.model, self.encoder.language
        embedded = self.embed(self.look(frames))
        before, after = len(PROMPT.before), len(PROMPT.after)
        past = self.run(embedded[None, :before], [])
        for window in embedded[before:-after].split(config.window):
            new = self.run(model.with_beacons(window), past, config.ratio)
            kept = slice(config.ratio, None, config.ratio + 1)
            past = [
                (torch.cat([k, nk[:, :, kept]], 2), torch.cat([v, nv[:, :, kept]], 2))
                for (k, v), (nk, nv) in zip(past, new, strict=True)
            ]
        new = self.run(embedded[None, -after:], past)
        past = [(torch.cat([k, nk], 2), torch.cat([v, nv], 2)) for (k, v), (nk, nv) in zip(past, new, strict=True)]
        if self.waste.head:
            token = int(self.logits[0, -1].argmax())
            self.run(model.embed_tokens.weight[token][None, None], past)
        levels = [[past[layer][kind].transpose(1, 2).flatten(2) for layer in config.read_layers] for kind in (0, 1)]
        return torch.stack([torch.stack(each, 1) for each in levels], 1)


def published_memories(encoder: VideoXLMemoryEncoder, waste: Waste, video: Tensor, total: int = FRAMES) -> Tensor:
    """Encode what the published code encodes for a clip; returns the memory of the last segment."""
    plain, memory, plan = PlainMemory(encoder, waste), torch.empty(0), plan_segments(total)
    for number in range(1, len(plan)):
        written = written_frames(plan[:number])
        history = video[written.start : written.stop]
        sampled = history[sampled_frames(len(history), LIMIT)]
        memory = torch.cat([plain.encode(sampled), plain.encode(sampled[-LOCAL:])], 3)
    return memory


@torch.no_grad()
def streamed_memories(encoder: VideoXLMemoryEncoder, video: Tensor, total: int = FRAMES) -> Tensor:
    """The same with a memory that frames are appended to."""
    history, memory = VideoHistory(encoder, PROMPT), torch.empty(0)
    for segment in plan_segments(total)[:-1]:
        history.append(video[segment.first : segment.last])
        memory = history.read()
    return memory


def random_video(frames: int = FRAMES, side: int = SIDE) -> Tensor:
    return torch.randint(256, (frames, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@dataclass
class Seen:
    """Counts the frames that pass CLIP."""

    frames: int = 0

    def watch(self, encoder: VideoXLMemoryEncoder, run: Callable[[], Any]) -> int:
        def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self.frames += len(given[0])

        hook = encoder.model.vision_tower.vision_tower.register_forward_pre_hook(count)
        run()
        hook.remove()
        return self.frames


def judge(outputs: Sequence[Tensor]) -> list[str]:
    size = float(outputs[0].norm())
    return ["", *(f"differs by {float((each - outputs[0]).norm()) / size:.0e}, relative" for each in outputs[1:])]


def memory_of_a_clip(rounds: int, command: str, total: int = FRAMES) -> Table:
    """The memories of all segments of a clip."""
    encoder, video = small_encoder(), random_video(total)
    ways = {
        "published form": partial(published_memories, encoder, Waste(), video, total),
        "without what CLIP, copies and head waste": partial(published_memories, encoder, NO_WASTE, video, total),
        "and every frame once (visionzoo)": partial(streamed_memories, encoder, video, total),
    }
    segments = plan_segments(total)
    seen = [Seen().watch(encoder, ways[name]) for name in list(ways)[1:]]
    local = LOCAL * (len(segments) - 1)
    return compare(
        f"The memory of a clip of {total} frames, {len(segments)} segments",
        [Contestant(name, run) for name, run in ways.items()],
        rounds=rounds,
        command=command,
        items=total,
        unit="frames",
        judge=judge,
        notes=(
            f"Frames that pass CLIP: {seen[0]:,} in the published form ({seen[0] - local:,} of histories and {local} of local "
            f"memories), {seen[1]:,} here, where local memories reuse CLIP's tokens.",
        ),
    )


def memory_of_a_history(rounds: int, command: str, frames: int = 137) -> Table:
    """What each waste costs when a history is encoded once: that of the third segment."""
    encoder, video = small_encoder(), random_video(frames)
    ways = {
        "published form": Waste(),
        "CLIP in batches, without hidden states": replace(NO_WASTE, token_by_token=True, head=True),
        "and visual tokens copied at once": replace(NO_WASTE, head=True),
        "and without head and second step": NO_WASTE,
    }
    contestants = [Contestant(name, partial(PlainMemory(encoder, waste).encode, video)) for name, waste in ways.items()]

    def stream() -> Tensor:
        return encoder.encode(video, PROMPT)

    contestants.append(Contestant("visionzoo", torch.no_grad()(stream)))
    title = f"The memory of a history of {frames} frames"
    return compare(title, contestants, rounds=rounds, command=command, items=frames, unit="frames", judge=judge)


def watching(command: str, lengths: Sequence[int] = (80, 320), new: int = 65) -> Grid:
    """Peak memory of making the memory of a history to which a segment has been added, by its length."""
    encoder = small_encoder()
    plain = PlainMemory(encoder, Waste())
    peaks: dict[str, list[float]] = {
        "published form: CLIP on all frames at once": [],
        "published form": [],
        "a segment is appended (visionzoo)": [],
        "and the memory is read (visionzoo)": [],
        "for comparison: what the history keeps, all layers": [],
        "and the memory itself": [],
    }
    for length in lengths:
        history, video = VideoHistory(encoder, PROMPT), random_video(length + new)
        history.append(video[:length])
        look = torch.no_grad()(plain.look)
        found = (
            peak_memory_mb(partial(look, video)),
            peak_memory_mb(partial(plain.encode, video)),
            peak_memory_mb(torch.no_grad()(partial(history.append, video[length:]))),
            peak_memory_mb(torch.no_grad()(history.read)),
            sum(bank.nbytes for bank in history.banks.values()) / 2**20,
            history.read().nbytes / 2**20,
        )
        for row, value in zip(peaks.values(), found, strict=True):
            row.append(value)
    return Grid(
        f"Peak memory beyond weights and frames when {new} frames follow a history, by its length",
        ("", *(f"{length} frames" for length in lengths), "ratio"),
        [(name, *(f"{each:.1f} MB" for each in row), f"{row[-1] / row[0]:.2f}") for name, row in peaks.items()],
        environment(),
        command,
    )


# DGLM, texts, step tails


@torch.no_grad()
def fused_every_step(fusion: DynamicMemoryFusion, memory: Tensor, control: Tensor, steps: int) -> Tensor:
    out = control
    for _ in range(steps):
        out = fusion(control, fusion.project(memory.repeat_interleave(len(control), 0)))
    return out


@torch.no_grad()
def fused_once(fusion: DynamicMemoryFusion, memory: Tensor, control: Tensor, steps: int) -> Tensor:
    projected, out = fusion.project(memory), control
    for _ in range(steps):
        out = fusion(control, projected)
    return out


def fusion_of_a_segment(rounds: int, command: str, steps: int = 10) -> Table:
    """DGLM with an eighth of the width, at a twelfth of the tokens of 576 x 1024 and of the memory before the last segment."""
    torch.manual_seed(0)
    make: Any = DynamicMemoryFusion
    fusion = make(dim=384, heads=4, memory_dim=64, mapping_hidden=(128, 256)).eval().requires_grad_(False)
    nn.init.normal_(fusion.proj_out.weight, std=0.02)
    memory, control = torch.randn(1, 2, 3, 630, 64), torch.randn(2, 2112, 384)
    arguments = fusion, memory, control, steps
    return compare(
        f"DGLM in {steps} steps of a segment",
        [
            Contestant("projected in every step, for both halves of guidance", partial(fused_every_step, *arguments)),
            Contestant("projected once (visionzoo)", partial(fused_once, *arguments)),
        ],
        rounds=rounds,
        command=command,
        items=steps,
        unit="steps",
        judge=judge,
    )


@cache
def small_text_encoder() -> nn.Module:
    torch.manual_seed(0)
    sizes = T5Config(
        d_model=256, d_kv=32, d_ff=640, num_layers=6, num_heads=8, feed_forward_proj="gated-gelu", vocab_size=2000
    )
    return T5EncoderModel(sizes).eval().requires_grad_(False)


@torch.no_grad()
def texts(times: int, segments: int) -> Tensor:
    """Encode a prompt and the negative one `times` times for a clip of `segments`."""
    ids = torch.randint(2000, (1, 226), generator=torch.Generator().manual_seed(0))
    known: list[Tensor] = []
    for segment in range(segments):
        if segment < times:
            known = [small_text_encoder()(each).last_hidden_state for each in (ids.flip(1), ids)]
    return torch.cat(known)


def texts_of_a_clip(rounds: int, command: str) -> Table:
    segments = len(plan_segments(FRAMES))
    return compare(
        f"Texts of a clip of {segments} segments",
        [
            Contestant("in every segment", partial(texts, segments, segments)),
            Contestant("once (visionzoo)", partial(texts, 1, segments)),
        ],
        rounds=rounds,
        command=command,
        items=segments,
        unit="segments",
        judge=judge,
    )


SHAPE = (1, 22, 16, 72, 128)
"""Latents of a segment at 576 x 1024."""


def tails_in_files(latents: Sequence[Tensor], folder: Path) -> Tensor:
    """Save the last latents of all steps, as published, and read those of the segment before in the last 19."""
    found = torch.empty(0)
    for segment in (0, 1):
        for step, each in enumerate(latents):
            if segment and step > 30:
                found = torch.load(folder / f"{segment - 1}_{step}.pt", weights_only=True)
            torch.save(each[:, -4:].clone(), folder / f"{segment}_{step}.pt")
    return found


def tails_in_memory(latents: Sequence[Tensor]) -> Tensor:
    """Keep those that are read."""
    tails, found = StepTails(), torch.empty(0)
    for segment in (0, 1):
        tails.begin(segment)
        for step, each in enumerate(latents):
            if step > 30:
                previous = tails.read(step, each)
                found = each if previous is None else previous
                tails.write(step, each)
    return found


def tails_of_two_segments(rounds: int, command: str, steps: int = 50) -> Table:
    """At the published size."""
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(SHAPE, generator=generator).bfloat16() for _ in range(steps)]
    with tempfile.TemporaryDirectory() as folder:
        return compare(
            "Step tails of two segments at 576 x 1024",
            [
                Contestant("a file for each step", partial(tails_in_files, latents, Path(folder))),
                Contestant("those that are used, in memory (visionzoo)", partial(tails_in_memory, latents)),
            ],
            rounds=rounds,
            command=command,
            items=2,
            unit="segments",
            judge=lambda outputs: ["", "equal" if torch.equal(*outputs) else "differs"],
        )


def benchmark(rounds: int = 3, command: str = COMMAND) -> Report:
    """The tables."""
    return Report(
        (
            memory_of_a_clip(rounds, command),
            memory_of_a_history(rounds, command),
            watching(command),
            fusion_of_a_segment(rounds, command),
            tails_of_two_segments(rounds, command),
            texts_of_a_clip(rounds, command),
        )
    )
