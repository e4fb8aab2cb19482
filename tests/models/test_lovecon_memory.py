"""Attention that reads remembered frames is the attention that reads them from the batch."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from tests import tiny_diffusion
from visionzoo.errors import InputError
from visionzoo.models.lovecon import (
    CONTROLNET_KEYS,
    WINDOW_KEYS,
    BankAttnProcessor,
    CrossFrameAttnProcessor,
    FrameContext,
    WindowMemory,
    install_bank_attention,
)

WIDTH, TOKENS = 32, 6


@pytest.fixture
def layer() -> Attention:
    torch.manual_seed(0)
    return Attention(WIDTH, heads=4, dim_head=8).eval()


def halves(*frames: Tensor) -> Tensor:
    """Frames (2, tokens, width), of both halves of guidance, as a batch with the frame as the faster index."""
    return torch.stack(frames, 1).flatten(0, 1)


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("previous", [False, True])
@torch.no_grad()
def test_remembered_frames_are_read_as_if_they_were_in_the_window(
    layer: Attention, previous: bool, include_self: bool
) -> None:
    frames = torch.randn(7, 2, TOKENS, WIDTH).unbind()
    context, memory = FrameContext(), WindowMemory()
    keys = CONTROLNET_KEYS if previous else (*WINDOW_KEYS, 0) if include_self else WINDOW_KEYS
    plain = CrossFrameAttnProcessor(FrameContext(), keys)
    bank = BankAttnProcessor("layer", context, memory, previous=previous, include_self=include_self)
    with memory.step():
        for start, stop in ((0, 3), (3, 6), (6, 7)):
            around = halves(frames[0], frames[max(start - 1, 0)], *frames[start:stop])
            plain.context.frames, context.frames = stop - start + 2, stop - start
            layer.set_processor(plain)
            want = layer(around).unflatten(0, (2, -1))[:, 2:].flatten(0, 1)
            layer.set_processor(bank)
            torch.testing.assert_close(layer(halves(*frames[start:stop])), want)


@torch.no_grad()
def test_the_memory_holds_two_frames_of_one_step() -> None:
    unet, context, memory = tiny_diffusion.unet(), FrameContext(2), WindowMemory()
    text = torch.zeros(2, 5, tiny_diffusion.WIDTH)
    sizes = []
    with install_bank_attention(unet, context, memory, least_channels=64):
        for _ in range(2):
            with memory.step():
                assert memory.bytes == 0
                for _ in range(3):
                    unet(torch.randn(2, 4, 8, 8), 10, text)
                    sizes.append(memory.bytes)
        assert memory.bytes == 0
        with pytest.raises(InputError, match="inside of"):
            unet(torch.randn(2, 4, 8, 8), 10, text)
    assert len(set(sizes)) == 1
    # 4 layers with 16 tokens of 64 channels: keys and values of two frames
    assert sizes[0] % (2 * 2 * 16 * 64 * 4) == 0
    assert sizes[0] > 0
