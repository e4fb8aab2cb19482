"""Time and memory of DehazeXL on large images: streamed, compared with the straightforward form of the published code.

    python -m benchmarks.dehaze_memory --side 8192 --dtype bfloat16      # streamed alone
    python -m benchmarks.dehaze_memory --side 1024 --plain               # both, alternating
    python -m benchmarks.dehaze_memory --count                           # bytes on a GPU, counted

Weights are random: neither time nor memory depends on them. The image is made window by window and the result is dropped, so that
only the network is measured. Memory is the increase over the process with the network loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from visionzoo import create_model
from visionzoo.devices import environment, pick_device
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.models.dehazexl.streaming import StreamedDehaze


class Drawn:
    """A synthetic image, generated when it is read; results are discarded."""

    def __init__(self, side: int):
        self.height = self.width = side

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        rows = torch.arange(top, top + height, dtype=torch.float32)[:, None]
        columns = torch.arange(left, left + width, dtype=torch.float32)
        return torch.stack([0.5 + 0.5 * torch.sin(rows / f + columns / (2 * f)) for f in (7.0, 31.0, 211.0)])

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        assert pixels.isfinite().all()

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        raise AssertionError("nothing is missing")


def plain(model: Any, x: Tensor) -> Tensor:
    """Like the published code: everything at once except for chunks of 16 patches, with biases computed in every call."""
    return model(x, patches_at_once=16)


class Peak:
    """Increase of the process's peak memory inside the block, in bytes."""

    def __enter__(self) -> Peak:
        self.before, self.most, self._stop = _resident(), 0, threading.Event()
        self._watch = threading.Thread(target=self._run, daemon=True)
        self._watch.start()
        return self

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, _resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()
        self.most = max(self.most, _resident()) - self.before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run(side: int, dtype: str, name: str, options: StreamOptions, how: str, rounds: int) -> dict[str, object]:
    """One measurement, in this process."""
    device = pick_device("auto")
    network: Any = create_model(name)
    network.to(device, getattr(torch, dtype))
    streamed = network.fuse() if how == "streamed" else network
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with Peak() as peak, torch.inference_mode():
        for _ in range(rounds):
            started = time.perf_counter()
            if how == "streamed":
                StreamedDehaze(streamed, options)(Drawn(side), Drawn(side))  # pyright: ignore[reportArgumentType]
            else:
                plain(network, Drawn(side).read(0, 0, side, side)[None].to(device, getattr(torch, dtype)))
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return {
        "how": how,
        "side": side,
        "dtype": dtype,
        "seconds": median(seconds),
        "seconds_a_megapixel": median(seconds) / side**2 * 1e6,
        "extra_gb": peak.most / 1e9,
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    }


def count(sides: tuple[int, ...] = (8192, 10240, 16384, 20480, 32768)) -> None:
    """Memory on a GPU at the peak in bfloat16, counted from the sizes of tensors; two heads or all of them at once."""
    weights = sum(parameter.numel() for parameter in create_model("dehazexl").parameters()) * 2
    patch = 2 * 256 * 256 * 3 * 2 + 2 * (64 * 64) * (2 * 96) * (
        1 + 3 + 4 + 4
    )  # pixels; the widest block of the decoder
    print("| image | tokens | weights | tokens held | keys and values, 2 / 8 heads | slices | sum, 2 / 8 heads |")
    print("|---|---|---|---|---|---|---|")
    for side in sides:
        tokens = (side // 32) ** 2
        held = 2 * tokens * 768 * 2
        keys = [2 * tokens * 96 * heads * 2 for heads in (2, 8)]
        slices = max(8 * patch, 8192 * (768 * 4 + 3 * 3072) * 2)
        total = [weights + held + part + slices for part in keys]
        cells = [f"{side}²", f"{tokens:,}", *(f"{v / 1e9:.2f}" for v in (weights, held))]
        cells += [
            " / ".join(f"{v / 1e9:.2f}" for v in keys),
            f"{slices / 1e9:.2f}",
            " / ".join(f"{v / 1e9:.2f}" for v in total),
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--model", default="dehazexl")
    parser.add_argument("--plain", action="store_true", help="also measure the straightforward form")
    parser.add_argument("--skips", default="recompute")
    parser.add_argument("--tiles", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        count()
        return
    if options.one:
        stream = StreamOptions(patches_at_once=options.tiles, skips=options.skips)
        print(json.dumps(run(options.side[0], options.dtype[0], options.model, stream, options.one, options.rounds)))
        return
    facts = environment()
    print(f"{facts['processor']}, {facts['threads']} threads, torch {facts['versions']['torch']}; {options.model}\n")
    print("| how | image | dtype | s per megapixel | memory added, GB | on the GPU, GB |\n|---|---|---|---|---|---|")
    for side in options.side:
        for dtype in options.dtype:
            for how in ["plain", "streamed"] if options.plain else ["streamed"]:
                words = ["--side", str(side), "--dtype", dtype, "--model", options.model, "--skips", options.skips]
                words += ["--rounds", str(options.rounds), "--one", how]
                words += ["--tiles", str(options.tiles)] if options.tiles else []
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.dehaze_memory", *words],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                row = json.loads(done.stdout.splitlines()[-1])
                gpu = "-" if row["gpu_gb"] is None else f"{row['gpu_gb']:.2f}"
                print(
                    f"| {how} | {side}² | {dtype} | {row['seconds_a_megapixel']:.2f} | {row['extra_gb']:.2f} | {gpu} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
