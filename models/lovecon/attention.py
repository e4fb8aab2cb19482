"""Self-attention that reads the keys and values of other frames of the window (LOVECon, arXiv:2310.09711, section 3.2).

In the UNet's layers of at least 640 channels, all frames share the keys of three frames: the first frame of the video, the last
frame of the previous window and the last one of this window. They are projected once, and all queries of a window are one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from visionzoo.attention import VisionZooAttnProcessor, attention_with_lse, merge_attention
from visionzoo.diffusion import InstalledProcessors, install_processors
from visionzoo.errors import InputError

from .windows import FrameContext, FrameKey, fixed_frames, relative_frames

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

__all__ = [
    "CONTROLNET_KEYS",
    "WINDOW_KEYS",
    "CrossFrameAttnProcessor",
    "install_controlnet_attention",
    "install_window_attention",
]

WINDOW_KEYS: tuple[FrameKey, ...] = ("first", "second", "last")
"""What UNet layers read. In an editing window: frame 0 of the video, the last frame of the previous window, the last of this one."""

CONTROLNET_KEYS: tuple[FrameKey, ...] = (-1, "first")
"""What all layers of the ControlNet read: the frame before, and the first one. The first frame reads itself."""


class CrossFrameAttnProcessor(VisionZooAttnProcessor):
    """Self-attention whose keys and values are the tokens of chosen frames of the window, concatenated.

    Cross-attention is not changed. A frame's own tokens are among the keys only if `keys` names it, e.g. by the offset 0.

    Args:
        context: holds the number of frames; set it before each call of the network.
        keys: the frames to read. Empty: each frame reads itself, as in an image model.
        backend: of `visionzoo.attention.attention`.

    Raises:
        InputError: an unknown frame or backend; at the call, a batch that does not fit the context, or an attention mask.
    """

    def __init__(self, context: FrameContext, keys: Sequence[FrameKey] = WINDOW_KEYS, backend: str = "auto") -> None:
        super().__init__(backend)
        fixed_frames(keys, 1)
        self.context, self.keys = context, tuple(keys)
        self._offsets = [key for key in self.keys if isinstance(key, int)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self.keys!r}, backend={self.backend!r})"

    def _unet(
        self, attn: Attention, hidden_states: Tensor, context: Tensor | None, mask: Tensor | None, temb: Tensor | None
    ) -> Tensor:
        if context is not None or not self.keys:
            return super()._unet(attn, hidden_states, context, mask, temb)
        if mask is not None:
            raise InputError(
                "attention across frames takes no attention mask: leave attention_mask of the network at None"
            )
        if self._offsets:
            return super()._unet(attn, hidden_states, None, None, temb)
        # All frames read the same keys: the window becomes one sequence of queries, and only the frames read are projected.
        windows = self.context.unfold(hidden_states)  # (batch, frames, tokens, channels)
        read = windows[:, fixed_frames(self.keys, self.context.frames)].flatten(1, 2)
        out = super()._unet(attn, windows.flatten(1, 2), read, None, temb)
        return out.view_as(hidden_states)

    def _attend(self, attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, own: bool) -> Tensor:
        """Attention to frames by place and by offset, merged by their log-sum-exp instead of concatenating the keys."""
        if not own or not self.keys:
            return super()._attend(attn, q, k, v, mask, own)
        frames = self.context.frames
        windows = [self.context.unfold(x) for x in (q, k, v)]  # (batch, frames, heads, tokens, width)
        parts = []
        if fixed := fixed_frames(self.keys, frames):
            queries, keys, values = map(joined_frames, (windows[0], windows[1][:, fixed], windows[2][:, fixed]))
            out, lse = attention_with_lse(queries, keys, values, scale=attn.scale, backend=self.backend)
            parts.append((split_frames(out, frames), split_frames(lse, frames)))
        for offset in self._offsets:
            keys, values = k, v
            if offset:
                keys, values = (x[:, relative_frames(offset, frames)].flatten(0, 1) for x in windows[1:])
            parts.append(attention_with_lse(q, keys, values, scale=attn.scale, backend=self.backend))
        return merge_attention(parts)[0].transpose(1, 2).flatten(2)


def joined_frames(windows: Tensor) -> Tensor:
    """(batch, frames, heads, tokens, width) -> (batch, heads, frames * tokens, width): the frames as one sequence."""
    return windows.transpose(1, 2).flatten(2, 3)


def split_frames(x: Tensor, frames: int) -> Tensor:
    """(batch, heads, frames * tokens, …) -> (batch * frames, heads, tokens, …)."""
    return x.unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1)


def install_window_attention(
    unet: nn.Module,
    context: FrameContext,
    *,
    least_channels: int = 640,
    include_self: bool = False,
    backend: str = "auto",
) -> InstalledProcessors:
    """Let the self-attention of a UNet read `WINDOW_KEYS`.

    Args:
        unet: a UNet2DConditionModel of diffusers; its weights and modules stay unchanged.
        context: shared with the norms and the ControlNet.
        least_channels: layers with fewer channels attend within each frame.
        include_self: each frame also reads its own tokens, as the paper describes and the release does not.
        backend: of `visionzoo.attention.attention`.

    Returns:
        The installed processors; `remove()` restores those before.

    Raises:
        InputError: the network has no self-attention.
    """
    keys = (*WINDOW_KEYS, 0) if include_self else WINDOW_KEYS

    def make(_: str, layer: Attention) -> CrossFrameAttnProcessor:
        return CrossFrameAttnProcessor(context, keys if layer.query_dim >= least_channels else (), backend)

    return install_processors(unet, make)


def install_controlnet_attention(
    controlnet: nn.Module, context: FrameContext, *, backend: str = "auto"
) -> InstalledProcessors:
    """Let every self-attention of a ControlNet read `CONTROLNET_KEYS`; arguments and result as for `install_window_attention`."""
    return install_processors(controlnet, lambda *_: CrossFrameAttnProcessor(context, CONTROLNET_KEYS, backend))
