"""Computes the gradients of an attribution map in bounded memory: patch by patch, as only the bottleneck sees the whole image.

Shapes: H x W pixels, P patches of the padded image, n of them at once, C channels and h x w positions in the bottleneck's map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from .bottleneck import Bottleneck, BottleneckLayer, HyperDraw
from .encoder import PATCH
from .model import TOKEN, DehazeXL, join_patches, split_patches
from .placement import StreamOptions
from .streaming import StreamedDehaze
from .tiles import Grid, Held, mirrored

_SIDE = PATCH // TOKEN
_TOKENS = 2048  # tokens per pass through an MLP of the bottleneck, which is wide inside


Window = tuple[int, int, int] | tuple[int, int, int, int]
"""A part of the result: first row, first column, and the side of a square or the height and width of a rectangle."""


def rectangle(window: Window) -> tuple[int, int, int, int]:
    """First row, first column, height and width."""
    return (*window, window[2]) if len(window) == 3 else window


def window_score(seen: Tensor) -> Tensor:
    """The score that a map explains: the sum of the mean and the unbiased variance of all values of the window."""
    return seen.mean() + seen.var()


def mean_gradient(
    model: DehazeXL,
    hazy: Tensor,
    clear: Tensor,
    window: Window,
    *,
    steps: int,
    patches_at_once: int,
    progress: bool,
) -> Tensor:
    """Mean over the points from clear to hazy of the gradient of the window's score with respect to the image, (3, H, W).

    Besides images and result, it needs memory for `patches_at_once` patches with gradients and for some maps of the
    bottleneck, each with three quarters of a value per pixel. A step costs about two passes through the encoder.
    """
    with torch.inference_mode(False), frozen(model):
        walk = PatchWalk(model, hazy, clear, patches_at_once)
        total = torch.zeros_like(walk.hazy)
        with tqdm(
            total=steps * walk.grid.count, desc="attribution", unit="patch", disable=None if progress else True
        ) as bar:
            for i in range(1, steps + 1):
                for _ in walk.add_gradient(total, i / steps, window):
                    bar.update()
    return total.div_(steps)


def restored(model: DehazeXL, hazy: Tensor, patches_at_once: int) -> Tensor:
    """The network's result for one image, computed patch by patch: (3, H, W) -> the same."""
    with torch.inference_mode(False), frozen(model):
        held = Held(hazy)
        StreamedDehaze(model, StreamOptions(patches_at_once))(held, held.sink)
    return held.out


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, nothing is random and no parameter requires a gradient; afterwards, the previous state is restored."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


class PatchWalk:
    """The patches of the images on the line from `clear` to `hazy`, and the results of a network's parts for them.

    Images stay on their device; a few patches at a time go to the network's device. Padding only determines which pixels a
    patch is read from, so that gradients reach the pixels that it repeats.
    """

    def __init__(self, model: DehazeXL, hazy: Tensor, clear: Tensor, patches_at_once: int):
        """
        Args:
            hazy, clear: (3, H, W).
        """
        self.model, self.at_once = model, patches_at_once
        self.hazy, self.clear = hazy.contiguous(), clear.contiguous()
        self.grid = Grid(*hazy.shape[1:])
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    def chunks(self, numbers: range | list[int]) -> Iterator[list[int]]:
        for start in range(0, len(numbers), self.at_once):
            yield list(numbers[start : start + self.at_once])

    def pixels(self, number: int) -> Tensor:
        """Indices, row by row, of the pixels of the image that patch `number` shows, (256 * 256,)."""
        top, left = self.grid.corner(number)
        rows, columns = mirrored(top, self.grid.height), mirrored(left, self.grid.width)
        return torch.from_numpy(rows[:, None] * self.grid.width + columns).flatten().to(self.hazy.device)

    def patches(self, numbers: list[int], share: float) -> Tensor:
        """Patches of (1 - share) * clear + share * hazy, (n, 3, 256, 256), on the network's device."""
        found = []
        for number in numbers:
            at = self.pixels(number)
            clear, hazy = (image.flatten(1)[:, at] for image in (self.clear, self.hazy))
            found.append(((1 - share) * clear + share * hazy).reshape(3, PATCH, PATCH))
        return torch.stack(found).to(self.device, self.dtype)

    @torch.no_grad()
    def tokens(self, share: float) -> Tensor:
        """The encoder's output for the whole image, which the bottleneck reads, (1, C, h, w)."""
        found = [self.model.encode(self.patches(chunk, share))[-1] for chunk in self.chunks(range(self.grid.count))]
        return join_patches(torch.cat(found), self.grid.rows, self.grid.columns)

    def restore(self, patches: Tensor, context: Tensor) -> Tensor:
        """Hazy patches (n, 3, 256, 256) and the bottleneck's maps for them (n, C, 8, 8) -> clear patches."""
        return self.model.restore(patches, self.model.decode(context, self.model.encode(patches)))

    def add_gradient(self, total: Tensor, share: float, window: Window) -> Iterator[None]:
        """Add the gradient of the window's score at one point of the line to `total` (3, H, W); yields once per patch."""
        top, left, height, width = rectangle(window)
        rows = range(top // PATCH, (top + height - 1) // PATCH + 1)
        columns = range(left // PATCH, (left + width - 1) // PATCH + 1)
        seen = [row * self.grid.columns + column for row in rows for column in columns]
        inside = (top - rows[0] * PATCH, left - columns[0] * PATCH, height, width)

        with torch.enable_grad():
            tokens = self.tokens(share).requires_grad_()
            context = split_patches(_bottleneck(self.model.bottleneck, tokens), _SIDE)[seen]
        of_result = self._of_result(context.detach(), seen, share, (len(rows), len(columns)), inside)
        of_image: dict[int, Tensor] = {}  # gradients that bypass the bottleneck
        of_context: list[Tensor] = []
        for chunk in self.chunks(range(len(seen))):
            numbers = [seen[i] for i in chunk]
            with torch.enable_grad():
                patches = self.patches(numbers, share).requires_grad_()
                near = context[chunk].detach().requires_grad_()
                result = self.restore(patches, near)
            image, tokens_of = torch.autograd.grad(result, (patches, near), of_result[chunk].to(result))
            of_image.update(zip(numbers, image, strict=True))
            of_context.append(tokens_of)
        (of_tokens,) = torch.autograd.grad(context, tokens, torch.cat(of_context))
        del context, of_context, of_result
        of_tokens = split_patches(of_tokens, _SIDE)

        for chunk in self.chunks(range(self.grid.count)):
            with torch.enable_grad():
                patches = self.patches(chunk, share).requires_grad_()
                last = self.model.encode(patches)[-1]
            (gradient,) = torch.autograd.grad(last, patches, of_tokens[chunk])
            for number, value in zip(chunk, gradient, strict=True):
                value = value + of_image.pop(number, 0.0)
                value = value.to(total).nan_to_num(nan=0.0).flatten(1)
                total.view(3, -1).index_add_(1, self.pixels(number), value)
                yield

    def _of_result(
        self, context: Tensor, seen: list[int], share: float, grid: tuple[int, int], window: Window
    ) -> Tensor:
        """The gradient (T, 3, 256, 256) of the score with respect to the results of the T patches `seen`.

        Args:
            grid: rows and columns of these patches.
            window: position of the window within them.
        """
        top, left, height, width = rectangle(window)
        with torch.no_grad():
            found = [
                self.restore(self.patches([seen[i] for i in chunk], share), context[chunk]).to(self.hazy)
                for chunk in self.chunks(range(len(seen)))
            ]
        with torch.enable_grad():
            result = join_patches(torch.cat(found), *grid).requires_grad_()
            score = window_score(result[0, :, top : top + height, left : left + width])
        return split_patches(torch.autograd.grad(score, result)[0])


def _bottleneck(bottleneck: Bottleneck, x: Tensor) -> Tensor:
    """`bottleneck(x)` that keeps only the tokens between the halves of layers and recomputes the rest when needed."""

    def again(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)

    block = bottleneck.hyper.block if bottleneck.hyper else 0

    def attend(layer: BottleneckLayer, tokens: Tensor, draw: HyperDraw | None) -> Tensor:
        return tokens + layer.attention(layer.norm1(tokens), draw, block)

    tokens = bottleneck.embed(x)
    for layer, draw in zip(bottleneck.layers, bottleneck.draw(len(x), tokens.shape[1]), strict=True):
        assert isinstance(layer, BottleneckLayer)
        if draw is not None:
            draw = HyperDraw(draw.projections.to(x.device), draw.samples.to(x.device))
        tokens = again(attend, layer, tokens, draw)
        tokens = torch.cat([again(layer.feed_forward, part) for part in tokens.split(_TOKENS, 1)], 1)
    return tokens.transpose(1, 2).reshape(x.shape)
