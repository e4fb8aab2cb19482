"""DehazeXL: haze removal that sees the whole of a very large image (arXiv 2504.09621).

Shapes: B images, H x W pixels, P patches of 256 x 256 (of all images, image by image and row by row); C = embed_dim.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from visionzoo.config import configure
from visionzoo.errors import InputError

from .bottleneck import Bottleneck, HyperAttentionConfig, HyperDraw
from .decoder import SwinDecoder, Upsampling
from .encoder import PATCH, PatchEmbed, SwinV2Encoder
from .fused import FusedBlocks, fuse_transformers
from .guided import STRIDE, guided_filter

TOKEN = 32
"""Pixels per side that one token of the bottleneck represents."""
MAX_DEPTH = 4.0
"""Optical depth above which nothing more is restored: in 8 bits, 1/55 of the light leaves 5 levels."""


@dataclass(frozen=True)
class DehazeXLConfig:
    """The configuration of a DehazeXL; the defaults are those of the released network.

    Attributes:
        embed_dim: channels of the encoder's first map; the bottleneck has eight times as many. A multiple of 8.
        depths: numbers of blocks in the encoder's four stages.
        heads: attention heads of the encoder's four stages.
        bottleneck_depth: layers of the bottleneck.
        bottleneck_heads: attention heads of each layer.
        mlp_ratio: hidden width of the bottleneck's MLPs relative to its width.
        decoder_depths: numbers of blocks in the decoder's four stages, the deepest first.
        decoder_heads: attention heads of these blocks.
        upsample: "transposed" convolutions, as released, or "shuffle", as in an earlier network, to which the only published
            weights belong.
        attention: how the bottleneck attends: "exact", or "lsh", HyperAttention from `lsh_min_tokens` tokens on, as in the published
            code; one token is 32 x 32 pixels.
        reconstruction: "residual": the decoder predicts a residual to add to the hazy image, as published. "scattering": it
            predicts, per pixel and colour, the optical depth of the haze and the light that it adds, so that a narrow
            decoder need not carry the image's detail (not published).
        smoothing: radius in pixels, a multiple of 4, of a guided filter over the decoder's maps, guided by the hazy patch, since
            haze changes slowly except where the distance of the scene changes (not published). 0: none, as published.
        lsh_projections, lsh_block, lsh_samples, lsh_min_tokens: see `HyperAttentionConfig`.
        drop_path: highest rate at which training skips a block.
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    bottleneck_depth: int = 2
    bottleneck_heads: int = 8
    mlp_ratio: int = 4
    decoder_depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_heads: tuple[int, ...] = (24, 12, 6, 3)
    upsample: Upsampling = "transposed"
    attention: Literal["exact", "lsh"] = "exact"
    reconstruction: Literal["residual", "scattering"] = "residual"
    smoothing: int = 0
    lsh_projections: int = 7
    lsh_block: int = 256
    lsh_samples: int = 256
    lsh_min_tokens: int = 4096
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        for name in ("depths", "heads", "decoder_depths", "decoder_heads"):
            values = getattr(self, name)
            if len(values) != 4 or min(values) < 1:
                raise InputError(f"{name} must have one positive entry for each of the four stages, got {values}")
        if self.embed_dim < 8 or self.embed_dim % 8:
            raise InputError(f"embed_dim must be a multiple of 8, got {self.embed_dim}")
        for i in range(4):
            for name, dim in (("heads", self.embed_dim << i), ("decoder_heads", 2 * self.embed_dim << (3 - i))):
                if dim % getattr(self, name)[i]:
                    raise InputError(
                        f"{name}[{i}] must divide the {dim} channels of its stage, got {getattr(self, name)[i]}"
                    )
        if min(self.bottleneck_depth, self.bottleneck_heads, self.mlp_ratio) < 1 or self.dim % self.bottleneck_heads:
            raise InputError(
                f"the bottleneck must have at least one layer, an mlp_ratio of at least 1, and heads that divide its {self.dim} "
                f"channels, got {self.bottleneck_depth}, {self.mlp_ratio} and {self.bottleneck_heads}"
            )
        if self.upsample not in ("transposed", "shuffle"):
            raise InputError(f"upsample must be 'transposed' or 'shuffle', got {self.upsample!r}")
        if self.attention not in ("exact", "lsh"):
            raise InputError(f"attention must be 'exact' or 'lsh', got {self.attention!r}")
        if self.reconstruction not in ("residual", "scattering"):
            raise InputError(f"reconstruction must be 'residual' or 'scattering', got {self.reconstruction!r}")
        if not 0 <= self.smoothing < PATCH or self.smoothing % STRIDE:
            raise InputError(f"smoothing must be a multiple of {STRIDE} from 0 to below {PATCH}, got {self.smoothing}")
        if min(self.lsh_projections, self.lsh_block, self.lsh_samples, self.lsh_min_tokens) < 1:
            raise InputError("lsh_projections, lsh_block, lsh_samples and lsh_min_tokens must be at least 1")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path must be at least 0 and below 1, got {self.drop_path}")

    @property
    def dim(self) -> int:
        """Channels of the bottleneck."""
        return 8 * self.embed_dim

    @property
    def hyper(self) -> HyperAttentionConfig | None:
        """The settings of HyperAttention; None with exact attention."""
        if self.attention == "exact":
            return None
        return HyperAttentionConfig(self.lsh_projections, self.lsh_block, self.lsh_samples, self.lsh_min_tokens)


def pad_to_patches(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> the same with sides that are multiples of 256, mirrored at the right and lower edge.

    If the image is smaller than the missing part, its edge is repeated.
    """
    for axis, pad in ((3, (0, -x.shape[3] % PATCH, 0, 0)), (2, (0, 0, 0, -x.shape[2] % PATCH))):
        if any(pad):
            x = F.pad(x, pad, mode="reflect" if max(pad) < x.shape[axis] else "replicate")
    return x


def split_patches(x: Tensor, size: int = PATCH) -> Tensor:
    """(B, C, n * size, m * size) -> (B * n * m, C, size, size)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, size, size)


def join_patches(patches: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `split_patches`: (B * rows * columns, C, s, s) -> (B, C, rows * s, columns * s)."""
    _, channels, size, _ = patches.shape
    x = patches.reshape(-1, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, channels, rows * size, columns * size)


class DehazeXL(nn.Module):
    """Hazy images (B, 3, H, W), RGB in [0, 1], of any size from 1 x 1 -> clear ones of the same shape, not clamped.

    The image is split into patches of 256 x 256. `encode` and `decode` work on patches independently; only
    `bottleneck` sees the whole image, as a map with 1/32 of its sides. So an image need not be in memory at once: encode
    patch by patch and keep the last maps, run the bottleneck, then encode again and decode patch by patch. `forward` is
    for images that fit, and needs about 180 bytes per pixel in float32.
    """

    def __init__(self, config: DehazeXLConfig):
        super().__init__()
        self.config = c = config
        self.encoder = SwinV2Encoder(c.embed_dim, c.depths, c.heads, c.drop_path)
        self.bottleneck = Bottleneck(c.dim, c.bottleneck_depth, c.bottleneck_heads, c.mlp_ratio, c.hyper)
        channels = 3 if c.reconstruction == "residual" else 6
        self.decoder = SwinDecoder(c.embed_dim, c.decoder_depths, c.decoder_heads, c.upsample, c.drop_path, channels)
        if c.reconstruction == "scattering":
            self._begin_near_identity()

    @torch.no_grad()
    def _begin_near_identity(self) -> None:
        """Make outputs small, and centre and spread inputs, as the norm after the first layer removes most of a patch's brightness."""
        assert isinstance(self.decoder.output, nn.Linear)
        self.decoder.output.weight.mul_(0.1)
        first = cast(PatchEmbed, self.encoder.patch_embed).proj
        first.weight.mul_(5)
        assert first.bias is not None
        first.bias.sub_(0.5 * first.weight.sum((1, 2, 3)))

    def encode(self, patches: Tensor) -> list[Tensor]:
        """(P, 3, 256, 256) -> maps (P, C, 64, 64), (P, 2C, 32, 32), (P, 4C, 16, 16), (P, 8C, 8, 8)."""
        return self.encoder(patches)

    def decode(self, context: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """The bottleneck's map of each patch (P, 8C, 8, 8) and the maps of `encode` -> input of `restore` (P, 3 or 6, 256, 256)."""
        return self.decoder(context, maps)

    def restore(self, x: Tensor, change: Tensor) -> Tensor:
        """Hazy patches (P, 3, 256, 256) and the result of `decode` for them -> clear patches."""
        if self.config.smoothing:
            change = guided_filter(change, x.mean(1, keepdim=True), self.config.smoothing).to(change.dtype)
        if self.config.reconstruction == "residual":
            return x + change
        depth, veil = change.chunk(2, 1)
        return (x - veil) * depth.clamp(max=MAX_DEPTH).exp()

    def forward(
        self,
        x: Tensor,
        *,
        patches_at_once: int = 16,
        draws: Sequence[HyperDraw | None] | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """
        Args:
            x: (B, 3, H, W) in [0, 1].
            patches_at_once: number of patches that are encoded and decoded together; more is faster on a GPU, fewer take
                less memory. The result is the same.
            draws: the random part of HyperAttention, per layer; see `Bottleneck.draw`. By default, every call uses the same.
            recompute: in training, keep only the maps between encoder, bottleneck and decoder, and recompute the rest
                in the backward pass: this takes a third more time and a fraction of the memory.
        """
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
            raise InputError(f"expected images (B, 3, H, W) of at least 1 x 1 pixels, got {tuple(x.shape)}")
        if patches_at_once < 1:
            raise InputError(f"patches_at_once must be at least 1, got {patches_at_once}")
        padded = pad_to_patches(x)
        rows, columns = padded.shape[2] // PATCH, padded.shape[3] // PATCH

        def run(module: nn.Module, *inputs: Any) -> Any:
            if recompute and torch.is_grad_enabled():
                return checkpoint(module, *inputs, use_reentrant=False)
            return module(*inputs)

        patches = split_patches(padded).split(patches_at_once)
        maps = [run(self.encoder, chunk) for chunk in patches]
        context = self.bottleneck(join_patches(torch.cat([last[-1] for last in maps]), rows, columns), draws)
        clear: list[Tensor] = []
        for number, chunk in enumerate(split_patches(context, PATCH // TOKEN).split(patches_at_once)):
            clear.append(self.restore(patches[number], run(self.decoder, chunk, maps[number])))
            maps[number] = []  # each map is read once, so free it
        return join_patches(torch.cat(clear), rows, columns)[..., : x.shape[2], : x.shape[3]]

    @property
    def is_fused(self) -> bool:
        return any(isinstance(module, FusedBlocks) for module in self.modules())

    def fuse(self) -> DehazeXL:
        """A copy for inference with the same outputs (relative error about 1e-6); this one stays unchanged.

        See `visionzoo.models.dehazexl.fused`. Its maps have the same shapes, except that `decode` of a network with
        `smoothing` returns means over 4 x 4 pixels, which `restore` expects.
        """
        fused = copy.deepcopy(self).eval().requires_grad_(False)
        if fused.is_fused:
            return fused
        fuse_transformers(fused.encoder, fused.decoder, mean=self.config.smoothing > 0)
        return fused


VARIANTS = {
    "dehazexl": DehazeXLConfig(),
    "dehazexl_dam": DehazeXLConfig(upsample="shuffle"),
    "dehazexl_nano": DehazeXLConfig(
        embed_dim=24,
        depths=(2, 2, 2, 1),
        heads=(1, 2, 4, 8),
        bottleneck_heads=4,
        decoder_depths=(1, 2, 2, 2),
        decoder_heads=(8, 4, 2, 1),
        reconstruction="scattering",
        smoothing=48,
        drop_path=0.0,
    ),
}


def build(name: str, **overrides: Any) -> DehazeXL:
    """The registered variant `name`, with random weights."""
    return DehazeXL(configure(VARIANTS[name], overrides))
