"""Attention across frames, joint norms, edit masks and fusion of LOVECon on stock networks of diffusers."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests import tiny_diffusion
from visionzoo.errors import InputError
from visionzoo.models.lovecon import (
    CrossFrameAttnProcessor,
    FrameContext,
    WordAttention,
    edit_mask,
    fuse_latents,
    fusion_rule,
    install_controlnet_attention,
    install_joint_norms,
    install_window_attention,
    install_word_attention,
    phrase_columns,
    plan_windows,
    resize_mask,
)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return tiny_diffusion.unet()


def installed(unet: nn.Module, context: FrameContext, **settings) -> ExitStack:
    with ExitStack() as stack:
        stack.enter_context(install_window_attention(unet, context, least_channels=64, **settings))
        stack.enter_context(install_joint_norms(unet, context))
        return stack.pop_all()


@torch.inference_mode()
def predict(unet: nn.Module, latents: Tensor) -> Tensor:
    text = torch.randn(1, 7, tiny_diffusion.WIDTH, generator=torch.Generator().manual_seed(5))
    return unet(latents, 501, text.expand(len(latents), -1, -1)).sample


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("frames", "size"), [(1, 8), (8, 8), (9, 8), (11, 4), (5, 1)])
def test_windows_keep_every_frame_once_and_read_the_first_and_the_previous(frames: int, size: int) -> None:
    windows = list(plan_windows(frames, size))
    assert [frame for window in windows for frame in window.frames[2:]] == list(range(frames))
    assert windows[0].references == (0, 0)
    assert all(window.references == (0, window.start - 1) for window in windows[1:])
    assert [len(window) for window in windows] == [len(window.frames) for window in windows]
    assert all(
        window.frames == tuple(range(window.start, window.stop))
        for window in plan_windows(frames, size, references=False)
    )


def test_windows_do_not_depend_on_each_other(unet: nn.Module) -> None:
    first, second = noise(5, 4, 8, 8), noise(5, 4, 8, 8, seed=1)
    with installed(unet, FrameContext(5)):
        alone = predict(unet, first)
        together = predict(unet, torch.cat([first, second]))
        assert torch.equal(predict(unet, first), alone)  # nothing remains of the window before
    torch.testing.assert_close(together[:5], alone, atol=1e-5, rtol=1e-4)


def test_a_window_of_one_frame_gives_the_stock_output(unet: nn.Module) -> None:
    latents = noise(2, 4, 8, 8)
    stock = predict(unet, latents)
    with installed(unet, FrameContext(1)):
        torch.testing.assert_close(predict(unet, latents), stock, atol=1e-5, rtol=1e-4)


def test_removing_restores_the_stock_output_bit_for_bit(unet: nn.Module) -> None:
    latents, names = noise(3, 4, 8, 8), list(unet.state_dict())
    stock = predict(unet, latents)
    with installed(unet, FrameContext(3)):
        assert list(unet.state_dict()) == names
        assert not torch.allclose(predict(unet, latents), stock, atol=1e-3)
    assert torch.equal(predict(unet, latents), stock)
    assert not any(hasattr(module, "frame_context") for module in unet.modules())


def test_controlnet_frames_read_only_the_previous_and_the_first() -> None:
    controlnet = tiny_diffusion.controlnet()
    attention = controlnet.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn1")
    tokens = noise(5, 16, 64)
    changed = tokens.clone()
    changed[2] += 1
    with install_controlnet_attention(controlnet, FrameContext(5)), torch.inference_mode():
        same = (attention(tokens) == attention(changed)).flatten(1).all(1)
    assert same.tolist() == [True, True, False, False, True]  # 2 is changed itself, 3 reads it


@pytest.mark.parametrize(("include_self", "expected"), [(False, True), (True, False)])
def test_own_tokens_are_read_only_with_include_self(unet: nn.Module, include_self: bool, expected: bool) -> None:
    attention = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    tokens = noise(6, 16, 64)
    read = []
    with (
        install_window_attention(unet, FrameContext(6), least_channels=64, include_self=include_self),
        torch.inference_mode(),
    ):
        want = attention(tokens)
        handle = attention.to_v.register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0].shape))
        attention.to_q.weight.mul_(0)  # without queries, each frame gets the mean of the values that it reads
        means = attention(tokens)
        handle.remove()
    unet.load_state_dict(tiny_diffusion.unet().state_dict())
    assert not torch.equal(want, means)
    assert torch.allclose(means[3], means[4], atol=1e-6) == expected
    assert read == [(1, 3 * 16, 64) if expected else (6, 16, 64)]  # values of three frames only are projected


def test_joint_norm_is_group_norm_of_five_dimensions() -> None:
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    x = noise(6, 8, 3, 5)
    want = norm(x.unflatten(0, (2, 3)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    with install_joint_norms(nn.ModuleDict({"resnets": norm}), FrameContext(3)):
        torch.testing.assert_close(norm(x), want)
    assert type(norm) is nn.GroupNorm


def test_stable_diffusion_has_the_published_number_of_joint_norms() -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.device("meta"):
        unet, controlnet = UNet2DConditionModel(layers_per_block=2), ControlNetModel()
    assert len(install_joint_norms(unet, FrameContext()).norms) == 45
    assert len(install_joint_norms(controlnet, FrameContext()).norms) == 20


def test_recording_words_does_not_change_the_output(unet: nn.Module) -> None:
    latents = noise(3, 4, 8, 8)
    added = []

    class Counted(WordAttention):
        def add(self, probabilities: Tensor) -> None:
            added.append(probabilities.shape)
            super().add(probabilities)

    words = Counted(range(7), grid=(4, 4), frames=5)
    with install_word_attention(unet, words):
        silent = predict(unet, latents)
        with words.recording(2, 5):
            assert torch.equal(predict(unet, latents), silent)
        with pytest.raises(InputError, match="no attention was recorded for frame 0"):
            words.average()
        with words.recording(0, 3):
            predict(unet, latents)
    assert (
        added == [(3, 4, 16, 7)] * 6
    )  # one layer of the down blocks and two of the up blocks, none of the middle, twice
    assert words.average().shape == (5, 4, 4, 7)
    torch.testing.assert_close(words.average().sum(-1), torch.ones(5, 4, 4))


def test_recorded_attention_is_that_of_the_word() -> None:
    from diffusers.models.attention_processor import Attention

    from visionzoo.models.lovecon import WordAttnProcessor

    words = WordAttention([1], (1, 2), 1)
    layer = Attention(4, cross_attention_dim=4, heads=1, dim_head=4, processor=WordAttnProcessor(words))
    for projection in (layer.to_q, layer.to_k):
        nn.init.eye_(projection.weight)
    text = torch.eye(4)[None, :3]
    with words.recording(0, 1), torch.no_grad():
        layer(2 * text[:, :2], encoder_hidden_states=text)
    e = torch.e  # scores are 2 / sqrt(4) for the token itself, else 0
    torch.testing.assert_close(words.average().flatten(), torch.tensor([1 / (e + 2), e / (e + 2)]))


def test_phrases_are_found_by_their_tokens() -> None:
    tokenizer = tiny_diffusion.tokenizer()
    prompt = "a boy with a white hat and a red shirt"
    assert phrase_columns(tokenizer, prompt, "hat") == [6]
    assert phrase_columns(tokenizer, prompt, "red shirt") == [9, 10]
    assert phrase_columns(tokenizer, prompt, "a") == [1, 4, 8]


@pytest.mark.parametrize(
    ("phrase", "message"),
    [("green hat", "no token green</w> among a</w> boy</w>"), ("", "the editing phrase is empty")],
)
def test_a_phrase_that_does_not_occur_is_a_one_line_error(phrase: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        phrase_columns(tiny_diffusion.tokenizer(), "a boy with a white hat", phrase)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(32, 50), (40, 20), (14, 31), (23, 17)])
def test_masks_are_enlarged_like_pillow_does(size: tuple[int, int]) -> None:
    small = (noise(8, 10, seed=3) > 0.3).float()
    want = Image.fromarray(small.byte().numpy()).resize(size[::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(resize_mask(small[None, None], size)[0, 0].numpy(), np.asarray(want))


def test_mask_is_the_union_over_words_and_stays_empty_without_attention() -> None:
    average = torch.zeros(2, 4, 6, 2)
    average[0, 1, 1, 0], average[0, 3, 5, 1] = 1.0, 0.2  # each word has its own maximum
    mask = edit_mask(average, (8, 12), dilation=1)
    assert mask.shape == (2, 1, 8, 12)
    assert mask[0, 0].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3], [6, 10], [6, 11], [7, 10], [7, 11]]
    assert not mask[1].any()
    assert edit_mask(average, (8, 12), dilation=3)[0, 0, :6, :6].all()


def test_mask_is_empty_where_the_words_get_little_attention_for_the_video() -> None:
    """In the second frame, the first word gets a tenth of the attention that it gets in the first."""
    average = torch.zeros(2, 4, 4, 2)
    average[0, 0, 0, 0], average[1, 1, 1, 0], average[1, 3, 3, 1] = 1.0, 0.1, 0.5
    own = edit_mask(average, (4, 4), dilation=1)
    video = edit_mask(average, (4, 4), dilation=1, greatest=average.amax((0, 1, 2)))
    assert own[:, 0].nonzero().tolist() == [[0, 0, 0], [1, 1, 1], [1, 3, 3]]
    assert video[:, 0].nonzero().tolist() == [[0, 0, 0], [1, 3, 3]]


def test_fusion_thresholds_are_parts_of_the_steps() -> None:
    latents, source = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    for steps in (10, 50, 999):
        fused = [
            bool((fuse_latents(latents, source, step=i, steps=steps, rule=fusion_rule("style")) < 1).all())
            for i in range(steps)
        ]
        assert sum(fused) == -(-4 * steps // 10)
        assert fused == sorted(fused, reverse=True)
    rule = fusion_rule("attribute")
    assert [rule.needs_source(7, 10, has_mask) for has_mask in (False, True)] == [False, True]


def test_soft_masks_mix() -> None:
    latents, source = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    fused = fuse_latents(
        latents, source, step=0, steps=50, rule=fusion_rule("background"), mask=torch.full((1, 1, 2, 2), 0.25)
    )
    torch.testing.assert_close(fused, torch.full_like(fused, 0.75))


def test_mistakes_are_one_line_errors(unet: nn.Module) -> None:
    context = FrameContext(4)
    with installed(unet, context):
        with pytest.raises(InputError, match="a batch of 6 does not consist of windows of 4 frames"):
            predict(unet, noise(6, 4, 8, 8))
        with pytest.raises(InputError, match="runs over all frames already"):
            install_joint_norms(unet, context)
    with pytest.raises(InputError, match="no frame of a window 'lst'; did you mean last"):
        CrossFrameAttnProcessor(context, ["first", "lst"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="no type of edit 'styles'; did you mean style"):
        fusion_rule("styles")
    with pytest.raises(InputError, match="step 50 is not one of 50 steps"):
        fuse_latents(noise(1, 4, 2, 2), noise(1, 4, 2, 2), step=50, steps=50, rule=fusion_rule("style"))
    with pytest.raises(InputError, match="an odd number of tokens"):
        edit_mask(torch.ones(1, 4, 4, 1), (8, 8), dilation=2)
    with pytest.raises(InputError, match="at least 1 frame"):
        list(plan_windows(0))
