"""Rearranges both Swin transformers for inference: the same outputs with fewer passes over memory.

- The tokens of a stage are kept in the order of its windows: one gather replaces rolling, splitting and joining.
- Position biases, window masks and the scale of the queries are computed once. A norm before a linear layer is folded into it.
- On a CPU, oneDNN adds the bias, applies GELU and adds the residual while it writes the product. Most of the time of a narrow
  network goes into passes over memory between the products; this saves about a third of them.
- The decoder's last layers are linear and become one layer, which computes only the values that are read.

Shapes: P patches, h x w map, C channels, L positions of a window, n windows of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention.functional import attention

from .decoder import DecoderBlock, DecoderStage, SwinDecoder, Upsample
from .encoder import PATCH, CosineAttention, EncoderBlock, PatchEmbed, SwinV2Encoder
from .windows import PositionBias, WindowAttention, split_windows


def linear(layer: nn.Linear, x: Tensor, then: Literal["none", "gelu"] = "none", add: Tensor | None = None) -> Tensor:
    """`layer(x)`, then GELU or an addition, in one pass over memory if oneDNN supports it and no gradient is needed."""
    if _has_epilogues(x):
        if add is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, add, layer.weight, layer.bias, "add")
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, then, [], "none")
    x = layer(x)
    if then == "gelu":
        x = F.gelu(x)
    return x if add is None else add + x


def _has_epilogues(x: Tensor) -> bool:
    """Whether torch has oneDNN's fused linear layers (which its compiler uses, too) for this tensor."""
    if (
        x.device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
        or (torch.is_grad_enabled() and x.requires_grad)
    ):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def window_order(side: int, size: int, shift: int) -> Tensor:
    """(side * side,) int64: the tokens of a map that is rolled by `shift`, window by window."""
    places = torch.arange(side * side).view(1, side, side, 1)
    return split_windows(places.roll((-shift, -shift), (1, 2)), size).flatten()


def new_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight)).to(weight)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def after_norm(norm: nn.LayerNorm, layer: nn.Linear) -> nn.Linear:
    """`layer` for inputs that are normalized, but without the weight and bias of `norm`."""
    return new_linear(layer.weight * norm.weight, layer.bias + layer.weight @ norm.bias)


class FusedBlock(nn.Module):
    """Windows (P * n, L, C), with the n windows of a patch next to each other -> the same after attention and MLP."""

    bias: Tensor

    def __init__(self, attention: WindowAttention):
        super().__init__()
        bias = cast(PositionBias, attention.position_bias)()
        self.heads = attention.heads
        self.register_buffer("bias", bias.view(-1, self.heads, *bias.shape[1:]).contiguous())  # (1 or n, heads, L, L)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(P * n, L, heads, D) each -> (P * n, L, C), before the projection."""
        windows, masks = len(q), len(self.bias)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if masks in (1, windows):
            out = attention(q, k, v, mask=self.bias, scale=1.0)
        else:  # several patches: windows join the heads, so that the biases are not copied for each patch
            q, k, v = (part.unflatten(0, (-1, masks)).flatten(1, 2) for part in (q, k, v))
            out = attention(q, k, v, mask=self.bias.flatten(0, 1)[None], scale=1.0)
            out = out.reshape(windows, self.heads, *q.shape[2:])
        return out.transpose(1, 2).flatten(2)


class FusedEncoderBlock(FusedBlock):
    """An `EncoderBlock` in the fused form."""

    factor: Tensor

    def __init__(self, block: EncoderBlock):
        super().__init__(block.attention)
        attend = cast(CosineAttention, block.attention)
        self.qkv = new_linear(attend.qkv.weight, attend.biases())
        scale = attend.scale().flatten()
        self.register_buffer(
            "factor", torch.cat([scale, torch.ones_like(scale)])[:, None]
        )  # for queries, then for keys
        self.proj, self.norm1, self.mlp, self.norm2 = attend.proj, block.norm1, block.mlp, block.norm2

    def forward(self, x: Tensor) -> Tensor:
        qkv = linear(self.qkv, x).unflatten(-1, (3 * self.heads, -1))
        qk, v = qkv.split([2 * self.heads, self.heads], 2)
        length = torch.linalg.vector_norm(qk, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        q, k = (qk * (self.factor / length).to(qk.dtype)).chunk(2, 2)
        x = x + self.norm1(linear(self.proj, self.attend(q, k, v)))
        return x + self.norm2(linear(self.mlp.fc2, linear(self.mlp.fc1, x, "gelu")))


class FusedDecoderBlock(FusedBlock):
    """A `DecoderBlock` in the fused form."""

    def __init__(self, block: DecoderBlock):
        super().__init__(block.attention)
        self.eps, dim = block.norm1.eps, block.norm1.normalized_shape[0]
        self.qkv = after_norm(block.norm1, cast(nn.Linear, block.attention.qkv))
        scale = (dim // self.heads) ** -0.5
        self.qkv.weight[:dim] *= scale
        self.qkv.bias[:dim] *= scale
        self.proj, self.fc1, self.fc2 = block.attention.proj, after_norm(block.norm2, block.mlp.fc1), block.mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        qkv = linear(self.qkv, self.normalized(x)).unflatten(-1, (3, self.heads, -1))
        x = linear(self.proj, self.attend(*qkv.unbind(2)), add=x)
        return linear(self.fc2, linear(self.fc1, self.normalized(x), "gelu"), add=x)

    def normalized(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class FusedBlocks(nn.Module):
    """The blocks of a stage: (P, h, w, C) -> same, for square maps of one size."""

    def __init__(self, blocks: Sequence[EncoderBlock | DecoderBlock], side: int):
        super().__init__()
        self.blocks, self.size = nn.ModuleList(), blocks[0].size
        held = torch.arange(side * side)  # the order of the tokens, as positions in the map
        for number, block in enumerate(blocks):
            wanted = window_order(side, block.size, block.shift)
            self._add_order(f"order{number}", held, wanted)
            held = wanted
            fused = FusedEncoderBlock(block) if isinstance(block, EncoderBlock) else FusedDecoderBlock(block)
            self.blocks.append(fused)
        self._add_order("back", held, torch.arange(side * side))

    def _add_order(self, name: str, held: Tensor, wanted: Tensor) -> None:
        order = None if torch.equal(held, wanted) else held.argsort()[wanted]
        self.register_buffer(name, order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        for number, block in enumerate(self.blocks):
            tokens = self._reorder(f"order{number}", tokens)
            tokens = block(tokens.reshape(-1, self.size**2, x.shape[3])).view(tokens.shape)
        return self._reorder("back", tokens).view(x.shape)

    def _reorder(self, name: str, tokens: Tensor) -> Tensor:
        order = getattr(self, name)
        return tokens if order is None else tokens.index_select(1, order)


class FusedPatchEmbed(nn.Module):
    """A `PatchEmbed` with its convolution as a matrix product."""

    def __init__(self, embed: PatchEmbed):
        super().__init__()
        assert embed.proj.bias is not None
        self.size, self.norm = embed.proj.kernel_size[0], embed.norm
        self.proj = new_linear(embed.proj.weight.flatten(1), embed.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size)).permute(0, 2, 4, 1, 3, 5)
        return self.norm(linear(self.proj, x.flatten(3)))


class FusedUpsample(nn.Module):
    """A linear layer that gives each position its `factor` x `factor` successors: (P, h, w, C) -> (P, f h, f w, D)."""

    def __init__(self, layer: nn.Linear, factor: int):
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, x: Tensor) -> Tensor:
        (patches, height, width, _), factor = x.shape, self.factor
        x = linear(self.layer, x).reshape(patches, height, width, factor, factor, -1).transpose(2, 3)
        return x.reshape(patches, factor * height, factor * width, -1)


def fused_output(decoder: SwinDecoder, mean: bool) -> nn.Module:
    """The decoder's last three layers, all linear, as one: (P, h, w, C) -> (P, 4h, 4w, channels).

    Args:
        decoder: with "transposed" upsampling.
        mean: return only the mean of each 4 x 4 pixels, (P, h, w, channels), which is all that a guided filter reads.
    """
    first, second = cast(DecoderStage, decoder.stages[-1]).upsample, cast(Upsample, decoder.up_x2)
    last = cast(nn.Linear, decoder.output).weight  # (channels, E)
    assert first.bias is not None
    assert second.bias is not None
    inner = last @ second.weight.unflatten(0, (4, -1))  # (4, channels, D)
    weight = inner @ first.weight.unflatten(
        0, (4, 1, -1)
    )  # (4, 4, channels, C): the place of the first, then the second
    bias = (inner @ first.bias + last @ second.bias).expand(4, -1, -1)
    if mean:
        return new_linear(weight.mean((0, 1)), bias.mean((0, 1)))
    # (rows 2, columns 2, rows 2, columns 2, …) -> (rows 4, columns 4, …)
    weight, bias = (x.unflatten(1, (2, 2)).unflatten(0, (2, 2)).transpose(1, 2) for x in (weight, bias))
    return FusedUpsample(new_linear(weight.flatten(0, 4), bias.flatten()), 4)


@torch.no_grad()
def fuse_transformers(encoder: SwinV2Encoder, decoder: SwinDecoder, mean: bool) -> None:
    """Rearrange both networks in place; see the docstring of this file. `mean` as in `fused_output`."""
    sides = [PATCH // 4 >> stage for stage in range(4)]
    for stages, ordered in ((encoder.stages, sides), (decoder.stages, sides[::-1])):
        for stage, side in zip(stages, ordered, strict=True):
            stage.blocks = FusedBlocks(list(cast(nn.Sequential, stage.blocks)), side)  # pyright: ignore[reportArgumentType]
    encoder.patch_embed = FusedPatchEmbed(cast(PatchEmbed, encoder.patch_embed))
    if cast(Upsample, decoder.up_x2).bias is None:
        return  # there are norms between the last layers
    decoder.up_x2, decoder.output = fused_output(decoder, mean), nn.Identity()
    decoder.stages[-1].upsample = nn.Identity()
    for stage in decoder.stages[:-1]:
        upsample = cast(Upsample, stage.upsample)
        assert upsample.bias is not None
        stage.upsample = FusedUpsample(new_linear(upsample.weight, upsample.bias.repeat(4)), 2)
