"""MCNet animating a clip, compared with the straightforward form of the published code.

visionzoo bench mcnet
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo import create_model
from visionzoo.attention import attention_backend
from visionzoo.benchmark import Contestant, Table, compare
from visionzoo.models.mcnet import MCNet, transfer_motion

FRAMES = 4


def straightforward(model: MCNet, source: Tensor, frames: Tensor) -> Tensor:
    """Frame by frame, the source encoded again for each, kernels modulated one by one, scores and their softmax written out."""
    found = []
    with torch.inference_mode(), attention_backend("math"):
        first = model.detect(frames[:1])
        for frame in frames.split(1):
            cache = model.encode_source(source)
            keypoints = transfer_motion(cache.keypoints, model.detect(frame), first)
            found.append(model.animate(cache, keypoints))
    return torch.cat(found)


def ours(model: MCNet, source: Tensor, frames: Tensor, batch: int) -> Tensor:
    """The source encoded once, `batch` frames at a time."""
    with torch.inference_mode():
        cache = model.encode_source(source)
        driving = model.detect(frames)
        keypoints = transfer_motion(cache.keypoints, driving, driving.at(slice(0, 1)))
        return torch.cat(
            [model.animate(cache, keypoints.at(slice(i, i + batch))) for i in range(0, len(frames), batch)]
        )


def judge(outputs: Sequence[Tensor]) -> list[str]:
    first = outputs[0].double().cpu()
    notes = [""]
    for output in outputs[1:]:
        error = output.double().cpu() - first
        decibels = -10 * torch.log10(error.square().mean())
        notes.append(f"relative difference {float(error.norm() / first.norm()):.1e}, {float(decibels):.1f} dB")
    return notes


def drawn(count: int, side: int) -> Tensor:
    """(count, 3, side, side): smooth images."""
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(torch.rand(count, 3, 16, 16, generator=generator), size=side, mode="bilinear")


def seeded_model() -> MCNet:
    """Random weights in which every part matters: batch norms with statistics of images, and keypoints that lie apart."""
    torch.manual_seed(0)
    model: Any = create_model("mcnet")
    with torch.no_grad():
        model.generator.memory.mb.mul_(100)
        model.train()
        for _ in range(2):
            model(*drawn(4, 256).chunk(2))
    return model.eval()


def benchmark(rounds: int = 3, command: str = "", side: int = 256) -> Table:
    """The table: 4 frames of 256 x 256 by the full network with random weights, in float32 and bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = seeded_model().to(device)
    fused = {"float32": model.fuse(), "bfloat16": model.fuse().to(torch.bfloat16)}
    images = drawn(FRAMES + 1, side).to(device)
    source, frames = images[:1], images[1:]
    contestants = [Contestant("straightforward, float32", partial(straightforward, model, source, frames))]
    for name, network in fused.items():
        for batch in (1, FRAMES):
            words = "a frame at a time" if batch == 1 else f"{batch} frames at once"
            contestants.append(Contestant(f"visionzoo, {name}, {words}", partial(ours, network, source, frames, batch)))
    return compare(
        f"MCNet, {FRAMES} frames of {side} x {side}",
        contestants,
        rounds=rounds,
        command=command,
        items=FRAMES,
        unit="frames",
        judge=judge,
    )
