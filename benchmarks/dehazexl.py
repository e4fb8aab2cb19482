"""DehazeXL streamed, compared with the straightforward form of the published code.

visionzoo bench dehazexl
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visionzoo import create_model
from visionzoo.attention import attention_backend
from visionzoo.benchmark import Contestant, Table, compare
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.models.dehazexl.streaming import StreamedDehaze
from visionzoo.models.dehazexl.tiles import Held


def straightforward(model: Any, image: Tensor) -> Tensor:
    """Everything at once except for chunks of 16 patches; scores and softmax are explicit, position biases computed in every call."""
    with torch.inference_mode(), attention_backend("math"):
        return model(image[None], patches_at_once=16)[0]


def streamed(model: Any, image: Tensor, options: StreamOptions) -> Tensor:
    held = Held(image.float())
    StreamedDehaze(model, options)(held, held.sink)
    return held.out


def judge(outputs: Sequence[Tensor]) -> list[str]:
    first = outputs[0].float().cpu()
    errors = [float((out.float().cpu() - first).norm() / first.norm()) for out in outputs]
    return ["", *(f"relative difference {error:.1e}" for error in errors[1:])]


def benchmark(rounds: int = 3, command: str = "", side: int = 1024) -> Table:
    """The table: an image of 1024 x 1024 through the full network with random weights, in float32 and bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model: Any = create_model("dehazexl").to(device)
    fused = {"float32": model.fuse(), "bfloat16": model.fuse().to(torch.bfloat16)}
    image = torch.rand(3, side // 32, side // 32).repeat_interleave(32, 1).repeat_interleave(32, 2)
    contestants = [Contestant("straightforward, float32", partial(straightforward, model, image.to(device)))]
    for name, network in fused.items():
        for skips in ("host", "recompute"):
            run = partial(streamed, network, image, StreamOptions(skips=skips))
            words = "maps kept in main memory" if skips == "host" else "encoded twice"
            contestants.append(Contestant(f"visionzoo, {name}, {words}", run))
    return compare(
        f"DehazeXL on {side} x {side} pixels",
        contestants,
        rounds=rounds,
        command=command,
        items=1,
        unit="images",
        judge=judge,
    )
