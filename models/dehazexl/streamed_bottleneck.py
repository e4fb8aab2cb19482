"""Runs the bottleneck over tokens that need not be on the device or in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from visionzoo.devices import free_memory
from visionzoo.memory import TensorBank

from .bottleneck import Bottleneck, BottleneckLayer, HyperDraw, hyper_attention
from .placement import Placement, StreamOptions, TileStore


class StreamedBottleneck:
    """Runs a `Bottleneck` in slices over tokens in any storage, with keys and values of a group of heads in a `TensorBank`."""

    def __init__(
        self,
        bottleneck: Bottleneck,
        options: StreamOptions,
        placement: Placement,
        progress: Callable[[str, int, int], object],
    ):
        self.bottleneck, self.options, self.placement, self.progress = bottleneck, options, placement, progress
        weight = next(bottleneck.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    def __call__(
        self,
        source: TileStore,
        out: TileStore,
        mixed: TileStore,
        seen: Tensor | None,
        draws: Sequence[HyperDraw | None],
    ) -> None:
        """
        Args:
            source: (h, w, C), the encoder's maps.
            out: (h, w, C), receives the bottleneck's maps; may be `source` itself.
            mixed: (h, w, C), scratch space.
            seen: (h * w,) boolean, the tokens that exist; None for all.
            draws: the random part of HyperAttention for each layer.
        """
        height, width, dim = source.data.shape
        step = max(1, self.options.tokens_at_once // width)
        groups = self.groups(height * width)
        total = len(self.bottleneck.layers) * len(groups) * len([*self.slices(height * width)])
        done = 0
        self.progress("attend", 0, total)
        for row in range(0, height, step):
            rows = source[slice(row, row + step)]
            out[slice(row, row + step)] = self.bottleneck.embed(rows.permute(2, 0, 1)[None], row).view(rows.shape)
        tokens, attended = out.data.view(-1, dim), mixed.data.view(-1, dim)
        for layer, draw in zip(self.bottleneck.layers, draws, strict=True):
            assert isinstance(layer, BottleneckLayer)
            head = dim // self.bottleneck.heads
            for group in groups:
                columns = slice(group.start * head, group.stop * head)
                mix = self.exact(layer, tokens, group, seen) if draw is None else self.hyper(layer, tokens, group, draw)
                for part, values in mix:
                    attended[part, columns] = values.transpose(1, 2).flatten(2)[0].to(attended.device, self.dtype)
                    done += 1
                    self.progress("attend", min(done, total), total)
            for part in self.slices(len(tokens)):
                x = tokens[part][None].to(self.device)
                x = x + layer.attention.proj(attended[part][None].to(self.device))
                tokens[part] = layer.feed_forward(x)[0].to(tokens.device)

    def slices(self, count: int) -> Iterator[slice]:
        step = self.options.tokens_at_once
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def groups(self, tokens: int) -> list[slice]:
        """Groups of heads whose keys and values fit into a quarter of the device's free memory."""
        heads = self.bottleneck.heads
        size = self.options.heads_at_once
        if size is None:
            one = 2 * tokens * self.bottleneck.input_proj.in_features // heads * self.dtype.itemsize
            size = max(1, min(heads, int(free_memory(self.device) / 4 // max(one, 1))))
        return [slice(start, min(start + size, heads)) for start in range(0, heads, size)]

    def project(self, layer: BottleneckLayer, tokens: Tensor, group: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(n, C) -> q, k, v, each (1, heads of the group, n, C / H)."""
        return layer.attention.project(layer.norm1(tokens[None].to(self.device)), group)

    def exact(
        self, layer: BottleneckLayer, tokens: Tensor, group: slice, seen: Tensor | None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Attention of a group of heads: yields slices of tokens, each with its result (1, heads, n, C / H)."""
        bank = self.bank(layer, tokens, group, seen)
        for part in self.slices(len(tokens)):
            yield part, bank.read(self.project(layer, tokens[part], group)[0]).output

    def hyper(
        self, layer: BottleneckLayer, tokens: Tensor, group: slice, draw: HyperDraw
    ) -> Iterator[tuple[slice, Tensor]]:
        """HyperAttention of a group of heads; it sorts the tokens, so all of them are in memory at once."""
        assert self.bottleneck.hyper is not None
        parts = [self.project(layer, tokens[part], group) for part in self.slices(len(tokens))]
        q, k, v = (torch.cat(pieces, 2) for pieces in zip(*parts, strict=True))
        here = HyperDraw(draw.projections.to(self.device), draw.samples[:, group].to(self.device))
        mix = hyper_attention(q, k, v, here, self.bottleneck.hyper.block)[0]
        yield from ((part, mix[:, :, part]) for part in self.slices(len(tokens)))

    def bank(self, layer: BottleneckLayer, tokens: Tensor, group: slice, seen: Tensor | None) -> TensorBank:
        """Keys and values of a group of heads for all existing tokens."""
        head, count = self.bottleneck.input_proj.in_features // self.bottleneck.heads, group.stop - group.start
        size = len(tokens) if seen is None else int(seen.sum())
        fits = 2 * size * head * count * self.dtype.itemsize < free_memory(self.device) / 2
        bank = TensorBank(
            head,
            head,
            capacity=size,
            heads=count,
            device=self.device,
            dtype=self.dtype,
            placement="device" if fits else "disk" if self.placement == "disk" else "host",
            stream_block=self.options.keys_at_once,
            folder=self.options.folder,
        )
        for part in self.slices(len(tokens)):
            _, k, v = self.project(layer, tokens[part], group)
            if seen is not None:
                there = seen[part].nonzero().squeeze(1).to(self.device)
                k, v = k[:, :, there], v[:, :, there]
            if k.shape[2]:
                bank.write(k, v)
        return bank
