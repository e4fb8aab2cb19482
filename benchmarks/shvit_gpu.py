"""All sizes of SHViT compared with timm's, on CUDA, by the published protocol: batches of 256, float16.

    python -m benchmarks.shvit_gpu

Both have the same weights and are fused; ours also with widths padded for tensor cores. Each runs eagerly and compiled with CUDA
graphs. Contestants take turns, CUDA events time a batch of calls, and the median is reported. The share of the chip's limit is the
multiply-adds of the network per second over those that a large square float16 product reaches on this chip, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from visionzoo.devices import environment
from visionzoo.errors import InputError, VisionZooError

from .attention_gpu import BATCH_MS, milliseconds
from .shvit import fused_timm, seeded_network

SIZES = {"shvit_s1": 224, "shvit_s2": 224, "shvit_s3": 224, "shvit_s4": 256}
PUBLISHED = {"shvit_s1": 33489, "shvit_s2": 26878, "shvit_s3": 20522, "shvit_s4": 14283}
"""Images per second on an A100, from the published README."""
SQUARE = 8192


def attainable() -> float:
    """Multiply-adds per second of a float16 product of two square matrices."""
    left, right = (torch.randn(SQUARE, SQUARE, device="cuda", dtype=torch.float16) for _ in range(2))
    return SQUARE**3 / min(milliseconds(lambda: left @ right, 10) for _ in range(5)) * 1e3


def contestants(name: str) -> dict[str, Callable[[Tensor], Any]]:
    model = seeded_network(name).cuda()
    graphs: dict[str, Any] = {"mode": "reduce-overhead", "dynamic": False}
    timm = fused_timm(model, name).cuda().half()
    wide = fused_timm(model, name).cuda().half().to(memory_format=torch.channels_last)
    return {
        "timm, eager": timm,
        "timm, compiled": torch.compile(wide, **graphs),
        "visionzoo, eager": model.fuse().half(),
        "visionzoo, padded to 8, eager": model.fuse(pad_to=8).half(),
        "visionzoo, compiled": torch.compile(model.fuse().half(), **graphs),
        "visionzoo, padded to 8, compiled": torch.compile(model.fuse(pad_to=8).half(), **graphs),
    }


def rows(name: str, batch: int, rounds: int, limit: float) -> list[str]:
    size = SIZES[name]
    x = torch.randn(batch, 3, size, size, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    networks = contestants(name)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        networks["timm, eager"](x[:1])
    operations = counter.get_total_flops() / 2 * batch
    times: dict[str, list[float]] = {label: [] for label in networks}
    with torch.inference_mode():
        reference = networks["timm, eager"](x).float()
        errors, calls = {}, {}
        for label, network in networks.items():
            errors[label] = ((network(x).float() - reference).norm() / reference.norm()).item()
            calls[label] = max(1, round(5 * BATCH_MS / milliseconds(lambda run=network: run(x), 3)))
        for _ in range(rounds):
            for label, network in networks.items():
                times[label].append(milliseconds(lambda run=network: run(x), calls[label]))
    middle = {label: statistics.median(of_one) for label, of_one in times.items()}
    return [
        f"| {name} | {label} | {batch / ms * 1e3:,.0f} | {middle['timm, eager'] / ms:.2f} | {batch / ms * 1e3 / PUBLISHED[name]:.2f} "
        f"| {operations / ms * 1e3 / limit:.1%} | {errors[label]:.1e} |"
        for label, ms in middle.items()
    ]


def report(batch: int, rounds: int) -> str:
    """The table as Markdown, with the machine.

    Raises:
        InputError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError("this benchmark needs a GPU: torch sees no CUDA device")
    limit = attainable()
    lines = [
        "| model | | images/s | times timm eager | times the published A100 | of the chip's limit | relative difference |",
        "|---|---|---|---|---|---|---|",
        *(row for name in SIZES for row in rows(name, batch, rounds, limit)),
    ]
    command = f"python -m benchmarks.shvit_gpu --batch {batch} --rounds {rounds}"
    how = f"float16, batches of {batch}; the limit is {limit / 1e12:.0f} T multiply-adds/s. `{command}`"
    return "\n".join([*lines, "", how, "", json.dumps(environment())])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    try:
        print(report(options.batch, options.rounds))
    except VisionZooError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
