"""Video-XL as a memory encoder: frames that are appended are encoded once, and leave the memory of encoding all of them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tiny_diffusion import memory_encoder
from visionzoo.errors import InputError
from visionzoo.memory import MemoryBank, TensorBank
from visionzoo.models.longanimation import (
    BeaconConfig,
    PromptTokens,
    VideoXLMemoryEncoder,
    VisionConfig,
    sampled_frames,
)
from visionzoo.models.longanimation.videoxl_stream import make_bank
from visionzoo.models.longanimation.videoxl_vision import clip_pixels

PROMPT = PromptTokens((1, 2, 3), (4, 5))
PER_FRAME = 2


def clip(count: int, seed: int = 0, size: tuple[int, int] = (18, 20)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < 1e-4)


@pytest.fixture(scope="module")
def encoder() -> VideoXLMemoryEncoder:
    return memory_encoder()


@pytest.mark.parametrize("parts", [(2, 4, 3), (1, 1, 1, 6), (5, 4), (3, 1, 5)])
def test_appended_parts_equal_all_frames_at_once(encoder: VideoXLMemoryEncoder, parts: tuple[int, ...]) -> None:
    """Splits at the windows of two frames, and inside of them."""
    frames = clip(9)
    stream = encoder.open(PROMPT)
    for part in frames.split(list(parts)):
        stream.append(part)
        stream.read()  # reading changes nothing
    whole = encoder.encode(frames, PROMPT)
    assert whole.shape == (1, 2, 3, 9 * PER_FRAME + 5, 16)
    assert close(stream.read(), whole)
    assert stream.frames == 9


def test_earlier_frames_keep_their_memory(encoder: VideoXLMemoryEncoder) -> None:
    stream = encoder.open(PROMPT)
    stream.append(clip(4))
    before = stream.read()
    stream.append(clip(3, seed=1))
    assert torch.equal(stream.read()[:, :, :, : 3 + 4 * PER_FRAME], before[:, :, :, : 3 + 4 * PER_FRAME])
    # and later tokens do see them
    alone = encoder.encode(clip(3, seed=1), PROMPT)
    assert not close(stream.read()[:, :, :, -2 - 3 * PER_FRAME :], alone[:, :, :, -2 - 3 * PER_FRAME :])


def test_every_frame_passes_the_networks_once(encoder: VideoXLMemoryEncoder) -> None:
    seen, decoded = [], []
    hooks = [
        encoder.model.vision_tower.register_forward_hook(lambda m, args, out: seen.append(len(args[0]))),
        encoder.model.layers[0].register_forward_hook(lambda m, args, out: decoded.append(args[0].shape[1])),
    ]
    try:
        stream = encoder.open(PROMPT)
        for part in clip(41).split([20, 20, 1]):
            stream.append(part)
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(seen) == 41
    assert max(seen) <= 16  # CLIP in small batches
    assert sum(decoded) == 3 + 41 * (4 + PER_FRAME)
    assert max(decoded) == 12  # never more than one window


class Sizes(TorchDispatchMode):
    """Records the sizes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **kwargs or {})
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        new = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given]
        self.found += [t.numel() for t in new]
        return out


def test_only_the_bank_grows_with_the_clip(encoder: VideoXLMemoryEncoder) -> None:
    """The largest tensor that appending a frame makes is as large after 60 frames as after 4, or holds one layer of the bank."""
    largest = []
    for before in (4, 60):
        stream = encoder.open(PROMPT)
        stream.append(clip(before))
        with Sizes() as sizes:
            stream.append(clip(1, seed=1))
        largest.append(max(sizes.found))
    a_layer = len(stream.bank) * encoder.language.memory_width
    assert largest[1] <= max(largest[0], 2 * a_layer)
    assert max(largest[0], 2 * a_layer) < stream.bank.nbytes / 4  # numbers of all layers


def test_a_saved_bank_resumes_inside_a_window(encoder: VideoXLMemoryEncoder, tmp_path: Path) -> None:
    frames = clip(8)
    stream = encoder.open(PROMPT)
    stream.append(frames[:5])
    stream.bank.save(tmp_path)
    loaded = MemoryBank.load(tmp_path)
    assert isinstance(loaded, TensorBank)
    resumed = encoder.open(PROMPT, bank=loaded)
    assert resumed.frames == 5
    for each in (stream, resumed):
        each.append(frames[5:])
    assert torch.equal(stream.read(), resumed.read())
    with pytest.raises(InputError, match="resume with the network and the prompt that it was made with"):
        encoder.open(PromptTokens((1, 2), (4, 5)), bank=loaded)


def test_a_bank_in_main_memory_gives_the_same(encoder: VideoXLMemoryEncoder) -> None:
    stream = encoder.open(PROMPT, bank=make_bank(encoder.language, encoder.like, placement="host"))
    stream.append(clip(5))
    assert torch.equal(stream.read(), encoder.encode(clip(5), PROMPT))


def test_above_the_limit_a_sample_of_all_frames_is_encoded(encoder: VideoXLMemoryEncoder) -> None:
    """As published: the memory is that of evenly spread frames, encoded together."""
    frames = clip(11)
    stream = encoder.open(PROMPT, limit=6, history=lambda chosen: frames[list(chosen)])
    stream.append(frames[:6])
    assert close(stream.read(), encoder.encode(frames[:6], PROMPT))
    stream.append(frames[6:])
    chosen = [0, 2, 4, 6, 8, 10]
    assert sampled_frames(11, 6) == chosen
    assert close(stream.read(), encoder.encode(frames[chosen], PROMPT))
    assert not stream.bank.count("beacons")  # what is not read any more is dropped
    with pytest.raises(InputError, match=r"7 frames are more than the limit of 6.*history=.*over_limit='evict'"):
        encoder.open(PROMPT, limit=6).append(frames[:7])


def test_evicting_keeps_beacons_of_evenly_spread_frames(encoder: VideoXLMemoryEncoder) -> None:
    stream = encoder.open(PROMPT, limit=6, over_limit="evict")
    for part in clip(25).split(5):
        stream.append(part)
        assert stream.read().shape[3] <= 6 * PER_FRAME + 5
    held = stream.bank.view(group="beacons").times.unique()
    assert held[0] == 0  # the oldest stays
    assert stream.bank.view(group="window").times.max() == 24
    grown = encoder.open(PROMPT, limit=6, over_limit="grow")
    grown.append(clip(25))
    assert grown.read().shape[3] == 25 * PER_FRAME + 5


def test_gradients_reach_the_frames_and_the_beacons(encoder: VideoXLMemoryEncoder) -> None:
    frames = clip(3).requires_grad_()
    encoder.encode(frames, PROMPT, detach=False).square().mean().backward()
    assert frames.grad is not None
    assert frames.grad[0].abs().sum() > 0
    assert encoder.model.beacon_embed_tokens.weight.grad is not None
    encoder.zero_grad()
    assert not encoder.encode(frames, PROMPT).requires_grad


def test_only_what_is_read_is_built() -> None:
    tiny = memory_encoder(levels=(0, 2))
    assert len(tiny.model.layers) == 3
    assert not hasattr(tiny.model.layers[2], "mlp")
    # the memory of a level does not depend on what comes after it
    whole = memory_encoder(levels=(0, 2, 3))
    whole.load_state_dict({**whole.state_dict(), **tiny.state_dict()})
    assert torch.equal(whole.encode(clip(3), PROMPT)[:, :, :2], tiny.encode(clip(3), PROMPT))


def test_frames_are_seen_as_clip_sees_them() -> None:
    """Pillow's bicubic resizing of the shorter side, then the central square, as in the published preprocessing."""
    image = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(image).resize((97, 54), Image.Resampling.BICUBIC))
    resized = np.asarray(Image.fromarray(image).resize((int(36 * 97 / 54), 36), Image.Resampling.BICUBIC))
    left = (resized.shape[1] - 36) // 2
    wanted = torch.from_numpy(resized[:, left : left + 36].copy()).permute(2, 0, 1) / 255
    mean, std = (
        torch.tensor(x)[:, None, None]
        for x in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    frames = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    pixels = clip_pixels(frames, 36)[0] * std + mean
    assert (pixels - wanted).abs().max() <= 1.01 / 255
    assert (clip_pixels(frames / 255, 36)[0] * std + mean - pixels).abs().mean() <= 0.5 / 255
    with pytest.raises(InputError, match=r"expected \(N, 3, H, W\), uint8 or floats"):
        clip_pixels(frames.permute(0, 2, 3, 1), 36)


def test_saved_and_loaded_as_a_part_of_a_pipeline(encoder: VideoXLMemoryEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    loaded = VideoXLMemoryEncoder.from_pretrained(tmp_path)
    assert isinstance(loaded, VideoXLMemoryEncoder)
    assert loaded.language == encoder.language
    assert torch.equal(loaded.encode(clip(3), PROMPT), encoder.encode(clip(3), PROMPT))


def test_sizes_that_do_not_fit_together() -> None:
    with pytest.raises(InputError, match=r"a frame has 4 visual tokens; expected a multiple of ratio, 8"):
        memory_encoder(ratio=8)
    with pytest.raises(InputError, match="levels are"):
        BeaconConfig(num_hidden_layers=4)
    with pytest.raises(InputError, match="select_layer"):
        VisionConfig(select_layer=0)
    with pytest.raises(InputError, match="no field"):
        VideoXLMemoryEncoder({"layers": 3})


def test_a_closed_stream(encoder: VideoXLMemoryEncoder) -> None:
    stream = encoder.open(PROMPT)
    stream.append(clip(2))
    assert torch.equal(stream.close(), encoder.encode(clip(2), PROMPT))
    assert not len(stream.bank)
    with pytest.raises(InputError, match="closed"):
        stream.append(clip(1))
