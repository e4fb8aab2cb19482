"""MCNet animating frames of 256 x 256 on CUDA: frames per second, one at a time (a webcam) and 16 at once (a file).

    python -m benchmarks.mcnet_gpu

It compares the straightforward form of benchmarks/mcnet.py with the fused network in float32, bfloat16 and float16, in float16 also
compiled with CUDA graphs; the latter detect the driver's keypoints and animate an encoded source. Contestants take turns, CUDA events
time them, and the median is reported. Real time is 25 frames/s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from visionzoo.devices import environment
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.mcnet import MCNet, transfer_motion

from .attention_gpu import milliseconds
from .mcnet import drawn, seeded_model, straightforward

BATCHES = (1, 16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def animator(network: MCNet, source: Tensor, first: Tensor) -> Callable[[Tensor], Tensor]:
    """Driving frames (B, 3, H, W) -> frames, for one source, with `first` (1, 3, H, W) in its pose."""
    with torch.inference_mode():
        cache, initial = network.encode_source(source), network.detect(first)

    def animate(frames: Tensor) -> Tensor:
        return network.animate(cache, transfer_motion(cache.keypoints, network.detect(frames), initial))

    return animate


def contestants(model: MCNet, source: Tensor, first: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    found: dict[str, Callable[[Tensor], Tensor]] = {"straightforward, float32": partial(straightforward, model, source)}
    for name, dtype in DTYPES.items():
        found[f"visionzoo, {name}"] = animator(model.fuse().to(dtype), source, first)
    graphs = torch.compile(animator(model.fuse().half(), source, first), mode="reduce-overhead", dynamic=False)
    return {**found, "visionzoo, float16, compiled": graphs}


def rows(batch: int, rounds: int, device: str = "cuda", side: int = 256) -> list[str]:
    images = drawn(batch + 1, side).to(device)
    source, frames = images[:1], images[1:]
    networks = contestants(seeded_model().to(device), source, frames[:1])
    times: dict[str, list[float]] = {name: [] for name in networks}
    errors = {}
    with torch.inference_mode():
        reference = networks["straightforward, float32"](frames)
        for name, network in networks.items():
            error = network(frames).float() - reference
            errors[name] = float(-10 * torch.log10(error.square().mean().clamp(min=1e-20)))
        for _ in range(rounds):
            for name, network in networks.items():
                times[name].append(milliseconds(partial(network, frames), max(1, 32 // batch)))
    middle = {name: statistics.median(of_one) for name, of_one in times.items()}
    slowest = middle["straightforward, float32"]
    return [
        f"| {name} | {batch} | {batch / ms * 1e3:,.1f} | {slowest / ms:.2f} | {batch / ms * 1e3 / 25:.1f} | {errors[name]:.0f} dB |"
        for name, ms in middle.items()
    ]


def report(rounds: int) -> str:
    """The table as Markdown, with the machine.

    Raises:
        InputError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError("this benchmark needs a GPU: torch sees no CUDA device")
    lines = [
        "| | frames at once | frames/s | times as fast | times real time | PSNR to the first |",
        "|---|---|---|---|---|---|",
        *(row for batch in BATCHES for row in rows(batch, rounds)),
    ]
    return "\n".join([*lines, "", f"`python -m benchmarks.mcnet_gpu --rounds {rounds}`", "", json.dumps(environment())])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    try:
        print(report(options.rounds))
    except VisionZooError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
