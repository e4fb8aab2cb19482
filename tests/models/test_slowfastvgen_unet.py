"""The video UNet of SlowFast-VGen: diffusers' files, the same values as diffusers' class, gradient checkpointing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet3DConditionModel
from torch import Tensor

from tests import tiny_diffusion
from visionzoo.models.slowfastvgen import SlowFastUNet


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
        torch.testing.assert_close(unet(*given).sample, theirs(unet)(*given).sample, rtol=1e-5, atol=1e-5)


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
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert stored[1] < stored[0] / 4
    checkpointed.disable_gradient_checkpointing()
    assert not checkpointed.is_gradient_checkpointing
