"""What LongAnimation needs with its published sizes, counted without weights: bytes, FLOPs, and what fits on a GPU of 24 GB.

python -m benchmarks.longanimation_counts                      # 576 x 1024 and 768 x 1360; some minutes
python -m benchmarks.longanimation_counts --sizes 480x720      # another size

Everything runs on the meta device, where nothing is computed: the memory that calls would take is the sum of the tensors that are
alive at once, as torch frees them. Attention counts as fused, without a table of scores, as on GPUs. The working memory of
convolutions, the fragments of the allocator and CUDA itself (about 1 GB) come on top and are not counted.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from torch import nn

from visionzoo.benchmark import Grid, Report
from visionzoo.devices import environment
from visionzoo.models.longanimation import PromptTokens, plan_segments, written_frames

from .longanimation_networks import FRAMES, Networks, Segment, count_flops, empty, published, size_of
from .meta_memory import peak_bytes

COMMAND = "python -m benchmarks.longanimation_counts"
SIZES = ((576, 1024), (768, 1360))
LIMIT = 22.5e9
"""Bytes of a GPU of 24 GB, less 1.5 GB for what is not counted."""

CLIP = 500
"""Frames of the clip that the memory is counted for: the average of the published test clips."""
PROMPT = PromptTokens(tuple(range(14)), tuple(range(16)))
"""As long as the published prompt."""


# FLOPs of a denoising step


def memory_tokens(frames: int, local: int = 20) -> int:
    """Tokens of the global memory of so many frames and of the local memory: 18 per frame, and 30 of the prompt for each."""
    return 18 * frames + 30 + 18 * min(frames, local) + 30


def histories(total: int = CLIP) -> list[int]:
    """Frames that are written before each segment of a clip."""
    plan = plan_segments(total)
    return [len(written_frames(plan[:number])) for number in range(len(plan))]


def step_flops(networks: Networks, sizes: Sequence[tuple[int, int]] = SIZES) -> Grid:
    """FLOPs of a denoising step with guidance, beside the numbers that were counted for the published code."""
    before = histories()
    lengths = [memory_tokens(before[1]), memory_tokens(before[-1]), memory_tokens(650)]
    rows = []
    for height, width in sizes:
        segment = Segment(networks, height, width)
        signal = segment.signal()
        sketch, base = count_flops(segment.sketch), count_flops(lambda each=segment, c=signal: each.predict(c))
        memories = [segment.remember(length) for length in lengths]
        fused = [count_flops(lambda c=signal, m=memory: networks.memory_fusion(c, m)) for memory in memories]
        made = [count_flops(lambda each=segment, length=length: each.remember(length)) for length in lengths]
        parts = sketch, base, *fused
        total = sketch + base + fused[1]
        shares = f"{base / total:.0%}, {sketch / total:.0%}, {fused[1] / total:.0%}"
        cells = [f"{each / 1e12:,.0f}" for each in parts]
        once = " / ".join(f"{each / 1e12:.1f}" for each in made)
        rows.append((f"{height} x {width}", f"{signal.shape[1]:,}", *cells, shares, once))
    heads = [f"DGLM, {length:,} tokens" for length in lengths]
    return Grid(
        f"TFLOP of a denoising step of {FRAMES} frames with guidance (counted)",
        (
            "",
            "video tokens",
            "SketchDiT",
            "base DiT",
            *heads,
            "shares of base, SketchDiT, DGLM",
            "DGLM's keys and values",
        ),
        rows,
        environment(),
        COMMAND,
        (
            f"DGLM's memory grows from {lengths[0]:,} tokens in the second segment to {lengths[1]:,} in the last one of a clip of "
            f"{CLIP} frames, and to {lengths[2]:,} at the limit of 650 frames. Its keys and values are computed once per segment "
            "here, and in each of the 50 steps, for both halves of guidance, in the published code.",
        ),
    )


# Bytes


def weights(networks: Networks) -> Grid:
    parts = networks.__dict__
    rows = [
        (name.replace("_", " "), f"{sum(p.numel() for p in part.parameters()):,}", f"{size_of(part) / 1e9:.2f} GB")
        for name, part in parts.items()
        if isinstance(part, nn.Module)
    ]
    total = size_of(*(part for part in parts.values() if isinstance(part, nn.Module)))
    return Grid(
        "Weights in bfloat16 (the line-art network in float32)",
        ("", "parameters", ""),
        [*rows, ("all", "", f"{total / 1e9:.2f} GB")],
        environment(),
        COMMAND,
        (
            "The memory encoder is built without the head, the final norm, and what follows the keys and values of its last "
            "layer; the published one has 8,078,171,136 parameters beside CLIP's.",
        ),
    )


def bank_growth(networks: Networks) -> Grid:
    """Bytes of the memory of a clip, by its number of frames."""
    encoder = networks.memory_encoder
    language, each = encoder.language, encoder.vision.tokens // encoder.language.ratio
    per_window = language.window // encoder.vision.tokens
    all_layers = language.heads_kept * language.head_dim * 2 * 2
    read = len(language.levels) * language.memory_width * 2 * 2
    config = networks.memory_fusion.config
    projected = config.depth * config.heads * config.dim_head * 2 * 2
    opened = (language.window + language.window // language.ratio) * all_layers

    def row(frames: int, name: str) -> tuple[str, ...]:
        tokens = each * frames + 30
        return (
            name,
            f"{tokens:,}",
            f"{tokens * all_layers / 1e6:,.1f} MB",
            f"{tokens * read / 1e6:,.1f} MB",
            f"{memory_tokens(frames) * projected / 1e6:,.0f} MB",
        )

    rows = [row(frames, f"{frames} frames") for frames in (*histories()[1:], 650)]
    grown = each * per_window
    rows.append(
        (
            f"each window of {per_window} frames",
            f"{grown}",
            f"{grown * all_layers / 1e6:.1f} MB",
            f"{grown * read / 1e6:.2f} MB",
            f"{grown * projected / 1e6:.1f} MB",
        )
    )
    return Grid(
        "The memory of a clip (counted, bfloat16)",
        (
            "",
            "tokens",
            "all layers, for later windows",
            "read out (3 layers)",
            "keys and values of DGLM, with the local memory",
        ),
        rows,
        environment(),
        COMMAND,
        (
            f"The open window comes on top: {opened / 1e6:.0f} MB when it is full. What is kept of all layers can be in main memory; "
            "the last column is needed during one segment.",
        ),
    )


@dataclass(frozen=True)
class Working:
    """Bytes that the calls of a phase take beyond weights, at one size."""

    text: int
    lines: int
    encode: int
    encode_tiled: int
    watch: int
    denoise: int
    denoise_halves: int
    decode: int
    decode_tiled: int


@cache
def working(networks: Networks, height: int, width: int) -> Working:
    """Count the calls of a segment; the memory is that before the last segment of a clip of `CLIP` frames."""
    one, both = (Segment(networks, height, width, rows) for rows in (1, 2))
    tokens = memory_tokens(histories()[-1])
    denoising = networks.transformer, networks.sketch_dit, networks.memory_fusion
    vae, encoder = networks.vae, networks.memory_encoder
    denoise = [peak_bytes(lambda each=each: each.step(each.remember(tokens)), *denoising) for each in (both, one)]

    def watch() -> Any:
        stream = encoder.open(PROMPT)
        for _ in range(2):  # a window after another, whose beacons it attends to
            visual = encoder.model.mm_projector(
                encoder.model.vision_tower(empty(16, 3, *[encoder.vision.image_size] * 2))
            )
            stream.append_tokens(visual[:10, : encoder.vision.tokens])
        return stream.read()

    vae.disable_tiling()
    whole = peak_bytes(one.encode, vae), peak_bytes(one.decode, vae)
    vae.enable_tiling()
    tiled = peak_bytes(one.encode, vae), peak_bytes(one.decode, vae)
    vae.disable_tiling()
    return Working(
        text=peak_bytes(one.encode_text, networks.text_encoder),
        lines=peak_bytes(one.draw, networks.lineart),
        encode=whole[0],
        encode_tiled=tiled[0],
        watch=peak_bytes(watch, encoder),
        denoise=denoise[0],
        denoise_halves=denoise[1],
        decode=whole[1],
        decode_tiled=tiled[1],
    )


def grouped(*networks: nn.Module, blocks: int = 2) -> int:
    """Bytes on the GPU when transformer blocks wait in main memory: everything else, and two blocks, one of which is on its way."""
    held = 0
    for network in networks:
        each = [size_of(block) for block in getattr(network, "transformer_blocks", ())]
        held += size_of(network) - sum(each)
        held += max(each, default=0) * min(blocks, len(each))
    return held


def placements(networks: Networks, height: int, width: int) -> Iterator[tuple[str, dict[str, int]]]:
    """(name, phase -> bytes on the GPU) of each placement."""
    parts, needs = networks, working(networks, height, width)
    denoising = parts.transformer, parts.sketch_dit, parts.memory_fusion
    small = size_of(parts.vae, parts.lineart)
    text, watcher, steps = size_of(parts.text_encoder), size_of(parts.memory_encoder), size_of(*denoising)
    config = parts.memory_encoder.language
    bank = (18 * histories()[-1] + 30) * config.heads_kept * config.head_dim * 2 * 2
    every = text + watcher + steps + small
    yield (
        "all on the GPU",
        {
            "texts": every + needs.text,
            "sketches": every + bank + max(needs.lines, needs.encode),
            "memory": every + bank + needs.watch,
            "denoising": every + bank + needs.denoise,
            "decoding": every + bank + needs.decode,
        },
    )
    moving = {
        "texts": text + needs.text,
        "sketches": small + max(needs.lines, needs.encode_tiled),
        "memory": watcher + bank + needs.watch,
        "denoising": steps + needs.denoise,
        "decoding": small + needs.decode_tiled,
    }
    yield "a network moves to the GPU for its phase; tiles", moving
    yield (
        "memory encoder on the CPU; text encoder dropped; tiles",
        {
            "texts": text + needs.text,
            "sketches": steps + small + max(needs.lines, needs.encode_tiled),
            "memory": steps + small,
            "denoising": steps + small + needs.denoise,
            "decoding": steps + small + needs.decode_tiled,
        },
    )
    yield (
        "the same, halves of guidance one after the other",
        {
            "texts": text + needs.text,
            "sketches": steps + small + max(needs.lines, needs.encode_tiled),
            "memory": steps + small,
            "denoising": steps + small + needs.denoise_halves,
            "decoding": steps + small + needs.decode_tiled,
        },
    )
    streamed = grouped(*denoising)
    yield (
        "group offload of the DiT's and SketchDiT's blocks; memory and text encoder on the CPU; tiles",
        {
            "texts": 0,
            "sketches": streamed + small + max(needs.lines, needs.encode_tiled),
            "memory": streamed + small,
            "denoising": streamed + small + needs.denoise,
            "decoding": streamed + small + needs.decode_tiled,
        },
    )


def placement_table(networks: Networks, height: int, width: int) -> Grid:
    """What is on the GPU in each phase."""
    rows = []
    for name, phases in placements(networks, height, width):
        most = max(phases.values())
        verdict = f"{most / 1e9:.1f} GB: {'yes' if most <= LIMIT else 'no'}"
        rows.append((name, *(f"{each / 1e9:.1f}" for each in phases.values()), verdict))
    phases = "texts", "sketches", "memory", "denoising", "decoding"
    return Grid(
        f"GB on the GPU in each phase, {height} x {width}, in bfloat16 (counted)",
        ("placement", *phases, "the most; fits 24 GB?"),
        rows,
        environment(),
        COMMAND,
        (
            f"In the last segment of a clip of {CLIP} frames: weights and the tensors that are alive at once. A placement counts as "
            f"fitting up to {LIMIT / 1e9:.1f} GB, as CUDA itself, fragments and the working memory of convolutions are not included. "
            "Tiles change the autoencoder's results slightly.",
        ),
    )


def working_table(networks: Networks, sizes: Sequence[tuple[int, int]]) -> Grid:
    names = {
        "text": "text encoder, a prompt",
        "lines": "line art, 4 frames",
        "encode": "autoencoder, 81 frames to latents",
        "encode_tiled": "the same in tiles",
        "watch": "memory encoder: CLIP, a window of 10 frames after another",
        "denoise": "a denoising step with memory",
        "denoise_halves": "the same, halves of guidance one after the other",
        "decode": "autoencoder, latents to 81 frames",
        "decode_tiled": "the same in tiles",
    }
    found = [working(networks, *size) for size in sizes]
    rows = [(text, *(f"{getattr(each, name) / 1e9:.2f}" for each in found)) for name, text in names.items()]
    return Grid(
        "GB that calls take at once beyond the weights (counted, bfloat16)",
        ("", *(f"{height} x {width}" for height, width in sizes)),
        rows,
        environment(),
        COMMAND,
    )


def memory_flops(networks: Networks) -> Grid:
    """What the memory encoder computes on a CPU, where a small GPU leaves it."""
    encoder = networks.memory_encoder
    size = encoder.vision.image_size
    sight = count_flops(lambda: encoder.model.mm_projector(encoder.model.vision_tower(empty(16, 3, size, size)))) / 16
    stream = encoder.open(PROMPT)
    frames = encoder.language.window // encoder.vision.tokens
    visual = empty(frames, encoder.vision.tokens, encoder.language.hidden_size)
    window = count_flops(lambda: stream.append_tokens(visual)) / frames
    before, plan = histories(), plan_segments(CLIP)
    new = [after - previous for previous, after in pairwise(before)]
    again = sum(before)
    local = 20 * (len(plan) - 1)
    plain, streamed = (again + local) * (sight + window), sum(new) * (sight + window) + local * window
    rows = [
        ("published: the whole history before each segment", f"{again:,} + {local}", f"{plain / 1e12:,.0f}"),
        ("streamed; the local memory reuses CLIP's tokens", f"{sum(new):,} + {local}", f"{streamed / 1e12:,.0f}"),
    ]
    return Grid(
        f"The memory encoder on a clip of {CLIP} frames, {len(plan)} segments (counted)",
        ("", "frames encoded (global + local)", "TFLOP"),
        rows,
        environment(),
        COMMAND,
        (
            f"A frame takes {sight / 1e12:.2f} TFLOP in CLIP and {window / 1e12:.2f} in the decoder, and attention to what is "
            f"remembered on top. A segment adds 65 frames: {65 * (sight + window) / 1e12:.0f} TFLOP.",
        ),
    )


def benchmark(sizes: Sequence[tuple[int, int]] = SIZES) -> Report:
    """All tables."""
    networks = published()
    return Report(
        (
            weights(networks),
            step_flops(networks, sizes),
            memory_flops(networks),
            bank_growth(networks),
            working_table(networks, sizes),
            *(placement_table(networks, *size) for size in sizes),
        )
    )


def parse_size(text: str) -> tuple[int, int]:
    """ "576x1024" -> (576, 1024)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    sides = tuple(map(int, match.groups())) if match else ()
    if len(sides) != 2 or any(side % 16 or not side for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; expected HEIGHTxWIDTH in multiples of 16, such as 576x1024"
        )
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=list(SIZES), metavar="HEIGHTxWIDTH")
    print(benchmark(parser.parse_args().sizes).to_markdown())


if __name__ == "__main__":
    main()
