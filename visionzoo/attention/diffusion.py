"""An attention processor for diffusers that computes with `visionzoo.attention`.

diffusers passes its `Attention` module to a processor at each call, so nothing of diffusers is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .call import Segment, accumulate_dtype
from .functional import attention
from .segments import segment_attention
from .select import check_names

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

__all__ = ["VisionZooAttnProcessor"]

# CogVideoX always passes `image_rotary_emb`, possibly None; UNets never do. The default tells the two apart.
_NOT_PASSED: Any = object()


class VisionZooAttnProcessor:
    """Attention of diffusers' UNets, ControlNets, image autoencoders and CogVideoX transformers.

    It replaces AttnProcessor2_0, CogVideoXAttnProcessor2_0 and the fused form of each, with the same results.

    >>> pipe.unet.set_attn_processor(VisionZooAttnProcessor())
    >>> image = pipe("a lighthouse").images[0]  # with the fastest backend that supports the call
    >>> pipe.vae.set_attn_processor(VisionZooAttnProcessor(backend="chunked"))
    >>> with visionzoo.attention.attention_backend("chunked", "auto"):
    ...     image = pipe("a lighthouse").images[0]

    Differences to the processors of diffusers:

    * Keys and values may have a smaller batch that divides the batch of the queries. Consecutive queries then share them
      without copies, e.g. all frames of a video share its text.
    * `fuse_qkv_projections()` of a model joins the weights and sets diffusers' own processor: set this one again
      afterwards. (For a ControlNet, it does neither in diffusers 0.42.) The joined weights are used unless a LoRA wraps
      `to_q`, `to_k` or `to_v`; diffusers' fused processors ignore such a LoRA. The joined weights are a copy: later
      training does not reach them, even after `unfuse_qkv_projections()`, which leaves `fused_projections` of each
      `Attention` at True; set that to False.
    * `load_ip_adapter()`, `enable_attention_slicing()` and similar methods replace the processors as well.

    It does not support blocks with added key and value projections (SD3, Kandinsky, DeepFloyd), IP-Adapters, or other
    transformers that rotate their queries, such as CogView4, which has another rotary layout.

    Args:
        backend: "auto" or the name of a backend of `visionzoo.attention.attention`.
        segments: called in each self-attention with the `Attention` module, its keys and its values, both (B, H, N, D)
            and ready for the attention (normalised, rotated). Returns the `Segment`s that the queries attend to instead:
            include `Segment(key, value)` to keep the module's own. Segments have a batch of 1 or a common batch that
            divides B; a mask must then cover the keys of all segments. CogVideoX counts as self-attention; its N keys are
            text, then video.

    Raises:
        InputError: the backend is unknown; at the call, the block is not supported or shapes do not fit.
    """

    def __init__(
        self,
        backend: str = "auto",
        segments: Callable[[Attention, Tensor, Tensor], Sequence[Segment]] | None = None,
    ) -> None:
        check_names((backend,), "backend=")
        self.backend = backend
        self.segments = segments

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backend={self.backend!r}, segments={self.segments!r})"

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = _NOT_PASSED,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the attention; called by `Attention.forward`. The names of the arguments are those of diffusers.

        Args:
            attn: the module that holds the projections and norms.
            hidden_states: (B, L, C) or (B, C, height, width), the source of the queries.
            encoder_hidden_states: (B, N, C'), the source of keys and values, by default `hidden_states`. For CogVideoX, the
                text tokens, which are joined with the video tokens.
            attention_mask: (B or B * heads, 1 or L, N), (B, N), or a shape that broadcasts to (B, heads, L, N). Boolean:
                keys with True take part. Float: added to the scores.
            temb: embedding for the spatial norm of some autoencoders.
            image_rotary_emb: cosines and sines, each (video tokens, D), or None. Only CogVideoX passes it.

        Returns:
            A tensor like `hidden_states`; for CogVideoX, the pair (hidden_states, encoder_hidden_states).
        """
        _check_form(attn, encoder_hidden_states)
        if image_rotary_emb is not _NOT_PASSED and encoder_hidden_states is not None and not attn.is_cross_attention:
            return self._joint(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        if image_rotary_emb is not _NOT_PASSED and image_rotary_emb is not None:
            raise InputError(
                "VisionZooAttnProcessor supports a rotary embedding only for CogVideoX, where text and video are joined, "
                "not for other transformers: keep the model's own processor"
            )
        return self._unet(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    def _unet(
        self, attn: Attention, hidden_states: Tensor, context: Tensor | None, mask: Tensor | None, temb: Tensor | None
    ) -> Tensor:
        """Self or cross attention over (B, L, C) or (B, C, height, width)."""
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        image_size = hidden_states.shape[2:] if hidden_states.ndim == 4 else None
        if image_size is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if context is not None and attn.norm_cross is not None:
            context = attn.norm_encoder_hidden_states(context)
        q, k, v = _project(attn, hidden_states, context)
        out = _project_out(attn, self._attend(attn, q, k, v, mask, own=context is None))
        if image_size is not None:
            out = out.transpose(1, 2).unflatten(2, image_size)
        if attn.residual_connection:
            out = out + residual
        return out if attn.rescale_output_factor == 1 else out / attn.rescale_output_factor

    def _joint(
        self, attn: Attention, video: Tensor, text: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Text and video tokens attend to all tokens of both; only video tokens are rotated."""
        start = text.shape[1]
        q, k, v = _project(attn, torch.cat([text, video], 1), None)
        if rotary is not None:
            q, k = _rotate(q, rotary, start), _rotate(k, rotary, start)
        out = _project_out(attn, self._attend(attn, q, k, v, mask, own=True))
        return out[:, start:], out[:, :start]

    def _attend(self, attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, own: bool) -> Tensor:
        """Attend; returns (B, L, H * D). `own`: keys and values come from the same tokens as the queries."""
        batch, heads, length, _ = q.shape
        pieces = [Segment(*piece) for piece in self.segments(attn, k, v)] if own and self.segments else None
        rows = k.shape[0] if not pieces else max(piece.k.shape[0] for piece in pieces)
        if mask is not None:
            mask = _with_heads(mask, batch, heads)
        shared = batch // rows if rows and batch % rows == 0 else 1
        if shared > 1:  # batch members that share keys become one longer sequence of queries
            q = _fold(q, shared)
            if mask is not None and (mask.shape[2] != 1 or mask.shape[0] not in (1, rows)):
                if batch % mask.shape[0]:
                    raise InputError(
                        f"a mask with a batch of {mask.shape[0]} fits neither {batch} queries nor {rows} keys and values"
                    )
                mask = mask.repeat_interleave(batch // mask.shape[0], 0).expand(-1, -1, length, -1)
                mask = _fold(mask, shared)
        if pieces is None:
            out = attention(q, k, v, mask=mask, backend=self.backend, scale=attn.scale)
        else:
            out = segment_attention(q, pieces, mask=mask, backend=self.backend, scale=attn.scale)
        if shared > 1:
            out = out.unflatten(2, (shared, length)).transpose(1, 2).flatten(0, 1)
        return out.transpose(1, 2).flatten(2)


def _check_form(attn: Attention, encoder_hidden_states: Any) -> None:
    if attn.added_kv_proj_dim is not None:
        raise InputError(
            "this attention has added key and value projections (SD3, Kandinsky, DeepFloyd), which VisionZooAttnProcessor "
            "does not compute: keep the model's own processor"
        )
    if isinstance(encoder_hidden_states, (tuple, list)):
        raise InputError(
            "VisionZooAttnProcessor does not support the image embeddings of an IP-Adapter: "
            "load_ip_adapter() sets processors that do; keep those on the cross-attention"
        )


def _project(attn: Attention, hidden_states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised q (B, H, L, D), k and v (B', H, N, D). With `context` None, keys come from `hidden_states` too."""
    # The joined weights are a copy of the plain layers, which does not include a LoRA that wraps one of them.
    joined = attn.fused_projections and all(type(layer) is nn.Linear for layer in (attn.to_q, attn.to_k, attn.to_v))
    if joined and context is None and hasattr(attn, "to_qkv"):
        sizes = [attn.inner_dim, attn.inner_kv_dim, attn.inner_kv_dim]
        q, k, v = attn.to_qkv(hidden_states).split(sizes, -1)
    elif joined and context is not None and hasattr(attn, "to_kv"):
        q = attn.to_q(hidden_states)
        k, v = attn.to_kv(context).chunk(2, -1)
    else:
        context = hidden_states if context is None else context
        assert attn.to_k is not None  # None only with added projections, which are refused
        assert attn.to_v is not None
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
    width = q.shape[-1] // attn.heads
    q, k, v = (x.unflatten(-1, (x.shape[-1] // width, width)).transpose(1, 2) for x in (q, k, v))
    if attn.norm_q is not None:
        q = attn.norm_q(q)
    if attn.norm_k is not None:
        k = attn.norm_k(k)
    return q.to(v.dtype), k.to(v.dtype), v  # norms return float32 under autocast


def _project_out(attn: Attention, out: Tensor) -> Tensor:
    assert attn.to_out is not None  # None only with added projections, which are refused
    for layer in attn.to_out:  # linear, dropout
        out = layer(out)
    return out


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor], start: int) -> Tensor:
    """Rotate each pair of neighbouring channels of x (B, H, N, D) by its angle, from token `start` on."""
    cos, sin = (part.to(x.device) for part in rotary)
    fixed, turned = x[:, :, :start], x[:, :, start:].to(accumulate_dtype(x.dtype))
    real, imaginary = turned.unflatten(-1, (-1, 2)).unbind(-1)
    quarter = torch.stack([-imaginary, real], -1).flatten(-2)
    return torch.cat([fixed, (turned * cos + quarter * sin).to(x.dtype)], 2)


def _with_heads(mask: Tensor, batch: int, heads: int) -> Tensor:
    """Reshape diffusers' (B, N), (B, 1 or L, N) or (B * heads, 1 or L, N) to (B, 1 or heads, 1 or L, N)."""
    if mask.ndim == 2:
        return mask[:, None, None]
    if mask.ndim == 3:
        return mask.unflatten(0, (batch, heads)) if mask.shape[0] == batch * heads else mask[:, None]
    return mask


def _fold(x: Tensor, shared: int) -> Tensor:
    """Reshape (B * shared, H, L, D) to (B, H, shared * L, D)."""
    return x.unflatten(0, (-1, shared)).transpose(1, 2).flatten(2, 3)
