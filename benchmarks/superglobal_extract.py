"""Descriptors of a folder of photos, compared with a plain loop over them (one image at a time, as published).

visionzoo bench superglobal-extract
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from visionzoo import create_model
from visionzoo.benchmark import Contestant, Table, compare
from visionzoo.models.superglobal import Preprocess, SuperGlobal
from visionzoo.models.superglobal.extraction import describe


def seeded_network(name: str) -> SuperGlobal:
    """A network with seeded weights and norms that are not trivial, so that folding has something to fold."""
    torch.manual_seed(0)
    model = create_model(name, pretrained=name == "superglobal_lite0")
    assert isinstance(model, SuperGlobal)
    if name != "superglobal_lite0":
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def plain_loop(model: SuperGlobal, images: Sequence[np.ndarray], prepare: Preprocess) -> Tensor:
    """One image at a time through the network as built."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.cat([model(prepare(image)[None].to(device)).float().cpu() for image in images])


def pipelined(model: SuperGlobal, images: Sequence[np.ndarray], prepare: Preprocess) -> Tensor:
    vectors = torch.empty(len(images), model.dim)
    for done in describe(model, ((i, p, None) for i, p in enumerate(images)), prepare):
        assert done.vector is not None, done.error
        vectors[done.key] = torch.from_numpy(done.vector)
    return vectors


def judge(outputs: Sequence[Tensor]) -> list[str]:
    return [f"smallest cosine to the plain loop {(out * outputs[0]).sum(-1).min():.7f}" for out in outputs]


def benchmark(
    rounds: int = 3,
    command: str = "",
    name: str = "superglobal_r50",
    count: int = 8,
    size: tuple[int, int] = (512, 384),
) -> Table:
    """The table: float32 and bfloat16, with batch norms folded, channels-last, batches of equal size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = np.random.default_rng(0)
    grid = draw.integers(0, 256, (count, size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    images = [np.asarray(image).repeat(16, 0).repeat(16, 1) for image in grid]
    plain = seeded_network(name).to(device)
    prepare = Preprocess.of(plain)
    contestants = [Contestant("plain loop, float32", lambda: plain_loop(plain, images, prepare))]
    for dtype in (torch.float32, torch.bfloat16):
        fast = seeded_network(name).for_inference(dtype).to(device)
        name_of_dtype = str(dtype).removeprefix("torch.")
        contestants.append(Contestant(f"visionzoo, {name_of_dtype}", partial(pipelined, fast, images, prepare)))
    title = f"{name}: {count} images of {size[0]} x {size[1]}, {len(plain.config.scales)} scales"
    return compare(title, contestants, rounds=rounds, command=command, items=count, unit="images", judge=judge)
