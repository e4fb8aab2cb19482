"""Windows that read the frames before them from a memory bank, instead of processing them again (LOVECon's auto-regressive idea).

In a denoising step, windows run one after the other. Each attention layer keeps the keys and values of frame 0 of the video and of
the last frame of the previous window in a `TensorBank`; the next step starts with an empty one. So the bank holds two frames of one
step, however long the video is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visionzoo.attention import attention, attention_with_lse, merge_attention
from visionzoo.diffusion import InstalledProcessors, install_processors
from visionzoo.errors import InputError
from visionzoo.memory import TensorBank

from .attention import CrossFrameAttnProcessor, joined_frames, split_frames
from .windows import FrameContext

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

__all__ = ["BankAttnProcessor", "WindowMemory", "install_bank_attention"]


Layer = tuple[bool, str]
"""Whether it belongs to the ControlNet, and its name."""


class WindowMemory:
    """The banks of all layers of a UNet and its ControlNet, for one denoising step.

    >>> memory, context = WindowMemory(), FrameContext()
    >>> with install_bank_attention(unet, context, memory, least_channels=640):
    ...     with install_bank_attention(controlnet, context, memory, previous=True):
    ...         for timestep in timesteps:
    ...             with memory.step():
    ...                 for window in windows:  # all windows of the video, in their order
    ...                     ...

    Attributes:
        banks: layer -> its bank. The permanent element of a bank is frame 0, the other one the last frame of the
            previous window.
    """

    def __init__(self) -> None:
        self.banks: dict[Layer, TensorBank] = {}
        self._running = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """A denoising step, which starts with nothing remembered."""
        self.banks.clear()
        self._running = True
        try:
            yield
        finally:
            self.banks.clear()
            self._running = False

    @property
    def bytes(self) -> int:
        """Size of all that is remembered now."""
        return sum(
            each.numel() * each.element_size()
            for bank in self.banks.values()
            for each in (bank.view().keys, bank.view().value)
        )

    def recall(self, layer: Layer, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of frame 0 and of the previous window's last frame, each (batch, heads, 2 * tokens, width).

        In the first window of a step, frame 0 is remembered first, and counts as the previous frame as well.

        Args:
            layer: which.
            keys, values: of frame 0 of this window, (batch, heads, tokens, width).
        """
        if not self._running:
            raise InputError("windows that remember others run inside of `with memory.step():` only")
        if (bank := self.banks.get(layer)) is None:
            batch, heads, tokens, width = keys.shape
            bank = self.banks[layer] = TensorBank(
                width,
                values.shape[-1],
                capacity=tokens,
                permanent=tokens,
                batch=batch,
                heads=heads,
                device=keys.device,
                dtype=keys.dtype,
            )
            bank.write(keys, values, permanent=True)
            bank.write(keys, values)
        found = bank.view()
        return found.keys, found.value

    def remember(self, layer: Layer, keys: Tensor, values: Tensor) -> None:
        """Replace the previous window's last frame by that of this window; arguments as for `recall`."""
        self.banks[layer].write(keys, values)


class BankAttnProcessor(CrossFrameAttnProcessor):
    """Self-attention to remembered frames and to frames of the window. Cross-attention is not changed.

    Args:
        layer: name of the layer.
        context: holds the number of frames; set it before each call of the network.
        memory: shared by all layers.
        previous: False: all frames read frame 0, the previous window's last frame and the last frame of this window, as in the UNet.
            True: each frame reads the frame before it, which is remembered for the first one, and frame 0, as in the ControlNet.
        include_self: each frame also reads its own tokens.
        backend: of `visionzoo.attention.attention`.
    """

    def __init__(
        self,
        layer: str,
        context: FrameContext,
        memory: WindowMemory,
        *,
        previous: bool = False,
        include_self: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(context, (), backend)
        self.memory, self.previous, self.include_self = memory, previous, include_self
        self._layer: Layer = (previous, layer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._layer[1]!r}, previous={self.previous}, include_self={self.include_self})"

    def _unet(
        self, attn: Attention, hidden_states: Tensor, context: Tensor | None, mask: Tensor | None, temb: Tensor | None
    ) -> Tensor:
        if context is None and mask is not None:
            raise InputError(
                "attention across frames takes no attention mask: leave attention_mask of the network at None"
            )
        return super()._unet(attn, hidden_states, context, mask, temb)

    def _attend(self, attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, own: bool) -> Tensor:
        if not own:
            return super()._attend(attn, q, k, v, mask, own)
        frames, tokens = self.context.frames, k.shape[2]
        queries = joined_frames(self.context.unfold(q))
        windows = self.context.unfold(k), self.context.unfold(v)  # (batch, frames, heads, tokens, width)
        known = self.memory.recall(self._layer, *(x[:, 0] for x in windows))
        # what all frames read, and what each frame reads besides
        if self.previous:
            shared = [old[:, :, :tokens] for old in known]
            others = [
                torch.cat([old[:, None, :, tokens:], new[:, :-1]], 1).flatten(0, 1)
                for old, new in zip(known, windows, strict=True)
            ]
        else:
            shared = [torch.cat([old, new[:, -1]], 2) for old, new in zip(known, windows, strict=True)]
            others = [k, v] if self.include_self else []
        how: dict[str, Any] = {"scale": attn.scale, "backend": self.backend}
        if others:
            out, lse = attention_with_lse(queries, shared[0], shared[1], **how)
            all_read = split_frames(out, frames), split_frames(lse, frames)
            out = merge_attention([all_read, attention_with_lse(q, others[0], others[1], **how)])[0]
        else:
            out = split_frames(attention(queries, shared[0], shared[1], **how), frames)
        self.memory.remember(self._layer, *(x[:, -1] for x in windows))
        return out.transpose(1, 2).flatten(2)


def install_bank_attention(
    network: nn.Module,
    context: FrameContext,
    memory: WindowMemory,
    *,
    least_channels: int = 0,
    previous: bool = False,
    include_self: bool = False,
    backend: str = "auto",
) -> InstalledProcessors:
    """Let the self-attention of a network read remembered frames.

    Args:
        network: a UNet2DConditionModel, or with `previous` a ControlNetModel, of diffusers.
        context, memory: shared by both networks.
        least_channels: layers with fewer channels attend within each frame.
        previous, include_self, backend: see `BankAttnProcessor`.

    Returns:
        The installed processors; `remove()` restores those before.
    """

    def make(name: str, layer: Attention) -> CrossFrameAttnProcessor:
        if layer.query_dim < least_channels:
            return CrossFrameAttnProcessor(context, (), backend)
        return BankAttnProcessor(name, context, memory, previous=previous, include_self=include_self, backend=backend)

    return install_processors(network, make)
