"""The video UNet of SlowFast-VGen: diffusers' files, the same values as diffusers' class, gradient checkpointing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from tests import tiny_diffusion
from visionzoo.errors import InputError, WeightsError
from visionzoo.models.slowfastvgen import SlowFastUNet, TextCache
from visionzoo.models.slowfastvgen.checkpoint import official_names
from visionzoo.weights import load_checkpoint, to_official


def inputs(batch: int = 2, frames: int = 5, size: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, 4, frames, *size, generator=generator)
    text = torch.randn(batch, 7, tiny_diffusion.WIDTH, generator=generator)
    return latents, torch.tensor([3, 700])[:batch], text


def theirs(unet: SlowFastUNet) -> UNet3DConditionModel:
    other = UNet3DConditionModel.from_config(unet.config)
    other.load_state_dict(unet.state_dict())
    return other.eval()


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_values_are_those_of_diffusers(size: tuple[int, int]) -> None:
    unet = tiny_diffusion.video_unet()
    given = inputs(size=size)
    with torch.no_grad():
        expected = theirs(unet)(*given).sample
        torch.testing.assert_close(unet(*given).sample, expected, rtol=1e-5, atol=1e-5)
        cache = TextCache(given[2])
        for _ in range(2):
            torch.testing.assert_close(unet(*given, text_cache=cache).sample, expected, rtol=1e-5, atol=1e-5)
        state = {name: value.clone() for name, value in unet.state_dict().items()}
        assert unet.to_channels_last().conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(unet(*given).sample, expected, rtol=1e-5, atol=1e-5)
        assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())
        unet.set_attn_processor(AttnProcessor2_0())  # and with processors of others
        torch.testing.assert_close(unet(*given).sample, expected, rtol=1e-5, atol=1e-5)


def test_text_is_projected_once_for_all_calls() -> None:
    unet, (latents, times, text) = tiny_diffusion.video_unet(), inputs()
    cache, calls = TextCache(text), []
    for name, layer in unet.named_modules():
        if name.endswith("attn2.to_k") and ".attentions." in f".{name}":
            layer.register_forward_hook(lambda *args: calls.append(args[1][0].shape))
    with torch.no_grad():
        unet(latents, times, text, text_cache=cache)
        assert len(calls) == 4
        assert set(calls) == {text.shape}  # not once for each frame
        unet(latents, times + 1, text, text_cache=cache)
        assert len(calls) == 4
    unet(latents, times, text, text_cache=cache).sample.sum().backward()  # with gradients, nothing is kept
    assert len(calls) == 4
    with pytest.raises(InputError, match="belongs to another text"):
        unet(latents, times, text.clone(), text_cache=cache)


@pytest.mark.parametrize("first", ["CrossAttnDownBlock3D", "DownBlock3D"])
def test_what_two_texts_have_in_common_is_computed_once(first: str) -> None:
    torch.manual_seed(0)
    config = {**tiny_diffusion.video_unet().config, "down_block_types": (first, "CrossAttnDownBlock3D")}
    unet = SlowFastUNet.from_config(config).eval()
    latents, _, text = inputs()
    latents = torch.cat([latents[:1]] * 2)
    rows: dict[str, int] = {}
    for name, layer in unet.named_modules():
        layer.register_forward_hook(
            lambda layer, args, output, name=name: rows.update({name: len(args[0])} if args else {})
        )
    with torch.no_grad():
        expected = theirs(unet)(latents, 700, text).sample
        torch.testing.assert_close(unet(latents, 700, text, equal_halves=True).sample, expected, rtol=1e-5, atol=1e-5)
        once = {name for name, count in rows.items() if count == latents.shape[2]}
        assert "down_blocks.0.resnets.0.conv1" in once
        assert ("down_blocks.1.resnets.0.conv1" in once) == (first == "DownBlock3D")
        assert "mid_block.resnets.0.conv1" not in once
        torch.testing.assert_close(unet(latents, 700, text).sample, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="even number of videos, got 1"):
        unet(latents[:1], 700, text[:1], equal_halves=True)


def test_gradients_are_those_of_diffusers() -> None:
    unet = tiny_diffusion.video_unet()
    other, given = theirs(unet), inputs()
    for network in (unet, other):
        network(*given).sample.square().mean().backward()
    for one, two in zip(unet.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_original_files_load() -> None:
    unet = tiny_diffusion.video_unet()
    original = to_official(unet)
    assert original["input_blocks.0.1.proj_in.weight"].ndim == 3
    again = load_checkpoint(SlowFastUNet.from_config(unet.config), original)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())
    with pytest.raises(WeightsError, match="1 of 466 keys are missing"):
        load_checkpoint(again, {key: value for key, value in original.items() if key != "out.2.bias"})


def test_original_names_of_the_network_of_1_4_billion_parameters() -> None:
    with torch.device("meta"):
        unet = SlowFastUNet(sample_size=32)
    names = official_names(unet.state_dict())
    assert len(set(names.values())) == 1480
    for ours, theirs in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "transformer_in.proj_in.weight": "input_blocks.0.1.proj_in.weight",
        "down_blocks.0.resnets.1.conv1.weight": "input_blocks.2.0.in_layers.2.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.op.bias",
        "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
        "down_blocks.2.temp_convs.1.conv4.3.weight": "input_blocks.8.0.temopral_conv.conv4.3.weight",
        "down_blocks.3.resnets.1.time_emb_proj.bias": "input_blocks.11.0.emb_layers.1.bias",
        "mid_block.temp_convs.1.conv1.2.bias": "middle_block.3.temopral_conv.conv1.2.bias",
        "mid_block.temp_attentions.0.norm.weight": "middle_block.2.norm.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.3.conv.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight": "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
        "up_blocks.3.resnets.0.norm2.weight": "output_blocks.9.0.out_layers.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "conv_out.weight": "out.2.weight",
    }.items():
        assert names[ours] == theirs


def test_folders_are_those_of_diffusers(tmp_path: Path) -> None:
    unet = tiny_diffusion.video_unet()
    unet.save_pretrained(tmp_path / "ours")
    other = UNet3DConditionModel.from_pretrained(tmp_path / "ours")
    other.save_pretrained(tmp_path / "theirs")
    again = SlowFastUNet.from_pretrained(tmp_path / "theirs")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())
    again.enable_gradient_checkpointing()
    assert again.is_gradient_checkpointing


@pytest.mark.parametrize("training", [False, True])
def test_checkpointing_changes_no_value_and_no_gradient(training: bool) -> None:
    unet = tiny_diffusion.video_unet().train(training)  # in training mode, dropout must draw the same numbers again
    checkpointed = copy.deepcopy(unet)
    checkpointed.enable_gradient_checkpointing()
    results, stored = [], []
    for network in (unet, copy.deepcopy(checkpointed)):
        size = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            predicted = network(*inputs()).sample
        stored.append(size)
        predicted.square().mean().backward()
        results.append([predicted.detach(), *(value.grad for value in network.parameters())])
    for one, other in zip(*results, strict=True):  # temporal transformers run in pieces, which rounds differently
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    assert stored[1] < stored[0] / 4
    checkpointed.disable_gradient_checkpointing()
    assert not checkpointed.is_gradient_checkpointing
