"""LongAnimation on a GPU: the published sizes with random weights in bfloat16, a denoising step at a time.

python -m benchmarks.longanimation_gpu                             # a step at 576 x 1024, with the memory of the seventh segment
python -m benchmarks.longanimation_gpu --size 768x1360 --compile   # the published script's size, and compiled
python -m benchmarks.longanimation_gpu --parts vae memory          # the autoencoder in tiles, and the memory encoder

Time and memory do not depend on the weights. The step needs about 20 GB at 576 x 1024, and 18 GB with --halves; the other parts are
made one after the other. `python -m benchmarks.longanimation_counts` counts the same calls without a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visionzoo.benchmark import Contestant, Grid, compare, peak_memory_mb
from visionzoo.devices import environment

from .longanimation import PROMPT, judge, random_video
from .longanimation_counts import histories, memory_tokens, parse_size
from .longanimation_networks import Networks, Segment, count_flops, published, random_weights, size_of

COMMAND = "python -m benchmarks.longanimation_gpu"
STEPS = 50


def step(segment: Segment, memory: Tensor) -> Callable[[], Tensor]:
    """A denoising step whose memory was projected before."""
    projected = segment.networks.memory_fusion.project(memory)
    return torch.no_grad()(lambda: segment.step(projected).float().cpu())


def step_as_published(segment: Segment, memory: Tensor) -> Callable[[], Tensor]:
    """The same with what the published code does in every step: it projects the memory for each half of guidance."""
    project = segment.networks.memory_fusion.project
    return torch.no_grad()(lambda: segment.step(project(memory.repeat_interleave(segment.rows, 0))).float().cpu())


def halves(segment: Segment, memory: Tensor) -> Callable[[], Tensor]:
    """The same, halves of guidance one after the other."""
    one = Segment(
        segment.networks, segment.height, segment.width, 1, segment.latent_frames, segment.frames, segment.device
    )
    run = step(one, memory)
    return lambda: torch.cat([run(), run()])


def denoising(networks: Networks, size: tuple[int, int], args: argparse.Namespace, device: str = "cuda") -> None:
    """Print the table of a step. The networks are still on the meta device."""
    tokens = memory_tokens(histories()[args.segment - 1])
    counted = Segment(networks, *size)
    teraflop = count_flops(lambda: counted.step(counted.remember(tokens))) / 1e12
    for network in (networks.transformer, networks.sketch_dit, networks.memory_fusion):
        random_weights(network, device)
    segment = Segment(networks, *size, device=device)
    config = networks.memory_fusion.config
    memory = segment.given(1, 2, config.depth, tokens, config.memory_dim)
    ways: dict[str, Any] = {"memory projected in every step": step_as_published, "projected once (visionzoo)": step}
    if args.halves:
        ways = {"halves of guidance one after the other (visionzoo)": halves}
    if args.compile:
        networks.transformer.compile_repeated_blocks()
        networks.sketch_dit.compile()
    name = f"{size[0]} x {size[1]}, {tokens:,} tokens of memory" + (", compiled" if args.compile else "")
    contestants = [Contestant(text, way(segment, memory)) for text, way in ways.items()]
    table = compare(
        f"A denoising step with guidance: {name}",
        contestants,
        rounds=args.rounds,
        command=COMMAND,
        unit="steps",
        judge=judge,
        notes=[f"A step is {teraflop:,.0f} TFLOP (counted)."],
    )
    print(table.to_markdown())
    fastest = min(row.seconds for row in table.rows)
    print(f"\n{teraflop / fastest:,.0f} TFLOP/s; {STEPS} steps of a segment take {STEPS * fastest:,.0f} s.\n")


def autoencoder(networks: Networks, size: tuple[int, int], rounds: int, device: str = "cuda") -> Grid:
    """Time and memory of encoding the sketches and decoding the frames of a segment."""
    vae, rows = random_weights(networks.vae, device), []
    segment = Segment(networks, *size, device=device)
    for tiled in (True, False):
        vae.enable_tiling() if tiled else vae.disable_tiling()
        for name, run in (("81 frames to latents", segment.encode), ("latents to 81 frames", segment.decode)):
            rows.append((f"{name}{', in tiles' if tiled else ''}", *measured(run, rounds)))
    title = f"The autoencoder, {size[0]} x {size[1]}"
    return Grid(title, ("", "seconds", "peak extra memory"), rows, environment(), COMMAND)


def memory_encoder(networks: Networks, size: tuple[int, int], rounds: int, device: str = "cuda") -> Grid:
    """Time and memory of appending a segment's 65 frames, and of reading the memory."""
    encoder = random_weights(networks.memory_encoder, device)
    stream = encoder.open(PROMPT)
    video = random_video(65, size[0]).to(device)
    rows = [
        ("65 frames appended", *measured(partial(stream.append, video), rounds)),
        ("the memory read", *measured(stream.read, rounds)),
    ]
    title = f"The memory encoder, {size_of(encoder) / 1e9:.1f} GB"
    return Grid(title, ("", "seconds", "peak extra memory"), rows, environment(), COMMAND)


def measured(run: Callable[[], Any], rounds: int) -> tuple[str, str]:
    """Median of the seconds, and peak memory."""
    call = torch.no_grad()(lambda: _finished(run()))
    row = compare("", [Contestant("", call)], rounds=rounds, command=COMMAND).rows[0]
    return f"{row.seconds:.3f}", f"{peak_memory_mb(call) / 1024:.2f} GiB"


def _finished(result: Any) -> None:
    del result
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=(576, 1024), metavar="HEIGHTxWIDTH")
    parser.add_argument("--segment", type=int, default=7, help="segment of a clip of 500 frames, from 2 to 7")
    parser.add_argument("--parts", nargs="+", choices=("step", "vae", "memory"), default=["step"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--halves", action="store_true", help="evaluate the halves of guidance one after the other")
    parser.add_argument("--compile", action="store_true", help="compile the blocks, which takes minutes")
    args = parser.parse_args()
    if not 2 <= args.segment <= len(histories()):
        parser.error(f"--segment must be from 2, the first with a memory, to {len(histories())}, got {args.segment}")
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU")
    networks = published()
    with torch.no_grad():
        if "step" in args.parts:
            denoising(networks, args.size, args)
        if "vae" in args.parts:
            print(autoencoder(networks, args.size, args.rounds).to_markdown())
        if "memory" in args.parts:
            print(memory_encoder(networks, args.size, args.rounds).to_markdown())


if __name__ == "__main__":
    main()
