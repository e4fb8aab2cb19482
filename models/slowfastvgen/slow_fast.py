"""The slow-fast loop: the video network learns beside the memory that it will have (Algorithm 2 of arXiv 2410.23277)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import ADAPTER, TempLoRA, add_adapter, remove_adapter
from .fast_learning import Draw, draw_step, fast_batch, fast_loss

__all__ = ["Memory", "Pair", "copied", "remembered", "slow_fast_pairs"]

Memory = Mapping[str, Tensor]
"""Name of each matrix of a memory -> its values."""


@dataclass(frozen=True)
class Pair:
    """Two chunks, one after the other, and the memory of what came before both or is the first (D_s of Algorithm 2).

    Attributes:
        past, future: latents (1, C, frames, h, w).
        text: states of the action that leads from one to the other, (1, tokens, width).
        memory: what the network remembers when it predicts the second from the first; the second was never part of it.
        number: of the pair in its episode, from 0.
    """

    past: Tensor
    future: Tensor
    text: Tensor
    memory: Memory
    number: int


def slow_fast_pairs(
    unet: nn.Module,
    scheduler: Any,
    chunks: Sequence[Tensor],
    texts: Sequence[Tensor],
    no_text: Tensor,
    config: TempLoRA,
    *,
    generate: Callable[[Pair], Tensor] | None = None,
    draw: Callable[[int, int], Draw] | None = None,
    losses: list[float] | None = None,
) -> Iterator[Pair]:
    """Walk through an episode: for each chunk with a successor, first hand out the pair, then learn it fast.

    While a pair is handed out, the network has its memory, frozen, and everything else is as it was: the caller may compute a
    gradient of the network's weights at once, or copy the memory and return to it with `remembered`. The memory is new for
    every episode, and after the last pair the network is without one.

    Args:
        unet: the video network; its weights do not change.
        scheduler: gives the noise levels and says what is predicted.
        chunks: latents (1, C, frames, h, w), at least two.
        texts: states of the action that leads to each chunk, (1, tokens, width).
        no_text: those of the empty prompt.
        config: of the fast learning.
        generate: makes the chunk that is learned after the first of a pair; None takes the true one (inferred: the paper leaves open
            which).
        draw: pair, step -> random numbers of the step; None draws them from the seed in `config`.
        losses: gets the loss of every step of fast learning.
    """
    layers = add_adapter(unet, config)
    try:
        parameters = {
            f"{name}.{side}": getattr(layer, side)[ADAPTER].weight
            for name, layer in layers.items()
            for side in ("lora_A", "lora_B")
        }
        optimizer = config.make_optimizer(list(parameters.values()))
        generator = torch.Generator().manual_seed(config.seed)
        for value in parameters.values():
            value.requires_grad_(False)
        for number, (past, future) in enumerate(pairwise(chunks)):
            pair = Pair(past, future, texts[number + 1], parameters, number)
            yield pair
            made = future if generate is None else generate(pair)
            batch = fast_batch(
                config,
                past,
                made,
                no_text=no_text,
                text=texts[number + 1].detach(),
                episode=torch.cat([*chunks[: number + 1], made], dim=2),
                generator=generator,
            )
            for step in range(config.steps):
                if draw is None:
                    drawn = draw_step(config, batch, scheduler.config["num_train_timesteps"], generator)
                else:
                    drawn = draw(number, step)
                loss = _learn(unet, scheduler, batch, drawn, parameters, optimizer)
                if losses is not None:
                    losses.append(loss)
    finally:
        remove_adapter(unet)


def _learn(
    unet: nn.Module, scheduler: Any, batch: Any, drawn: Draw, memory: Mapping[str, nn.Parameter], optimizer: Any
) -> float:
    """One step of fast learning; the network's mode, flags and gradients are as before."""
    flags = {parameter: parameter.requires_grad for parameter in unet.parameters()}
    training = unet.training
    unet.eval()
    own = set(memory.values())
    for parameter in flags:
        parameter.requires_grad_(parameter in own)
    try:
        with torch.enable_grad():
            loss = fast_loss(unet, scheduler, batch, drawn)
            gradients = torch.autograd.grad(loss, list(memory.values()))
        for parameter, gradient in zip(memory.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for parameter in own:
            parameter.grad = None
        unet.train(training)
    return float(loss.detach())


def copied(pair: Pair, dtype: torch.dtype | None = None) -> Pair:
    """The pair with a copy of its memory, which later fast learning does not change."""
    return replace(pair, memory={name: value.detach().to(dtype, copy=True) for name, value in pair.memory.items()})


@contextmanager
def remembered(unet: nn.Module, memory: Memory, config: TempLoRA) -> Iterator[None]:
    """Inside the block, the network has the memory of a copied pair, frozen; afterwards none.

    Args:
        unet: without a memory.
        config: that of the fast learning.
    """
    layers = add_adapter(unet, config)
    try:
        with torch.no_grad():
            for name, layer in layers.items():
                for side in ("lora_A", "lora_B"):
                    weight = getattr(layer, side)[ADAPTER].weight.requires_grad_(False)
                    weight.copy_(memory[f"{name}.{side}"])
        yield
    finally:
        remove_adapter(unet)
