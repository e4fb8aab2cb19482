"""Our attention processors stay on their layers whatever replaces them, and leave the others alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny_diffusion
from visionzoo.attention import Segment, VisionZooAttnProcessor
from visionzoo.diffusion import install_processors
from visionzoo.errors import InputError


class Counting(VisionZooAttnProcessor):
    """Counts its calls; what it keeps must survive."""

    calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return super().__call__(*arguments, **options)


@torch.no_grad()
def output(unet: Any, **options: Any) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 5, tiny_diffusion.WIDTH, generator=rng)
    return unet(latents, 5, text, **options).sample


def slicing(unet: Any) -> None:
    unet.set_attention_slice("max")


def fusing(unet: Any) -> None:
    unet.fuse_qkv_projections()


def new_ones(unet: Any) -> None:
    unet.set_attn_processor(VisionZooAttnProcessor())


@pytest.mark.parametrize("replace", [slicing, fusing, new_ones])
def test_they_return_after_a_replacement(replace: Any) -> None:
    unet = tiny_diffusion.unet()
    plain, total = output(unet), len(unet.attn_processors)
    installed = install_processors(unet, lambda *_: Counting())
    assert 0 < len(installed.processors) < total
    assert all(name.endswith("attn1") for name in installed.processors)
    assert torch.allclose(output(unet), plain, atol=1e-5)
    replace(unet)
    assert not any(isinstance(processor, Counting) for processor in unet.attn_processors.values())
    assert torch.allclose(output(unet), plain, atol=1e-5)
    assert [processor.calls for processor in installed.processors.values()] == [2] * len(installed.processors)
    installed.remove()
    assert torch.allclose(output(unet), plain, atol=1e-5)
    assert not any(isinstance(processor, Counting) for processor in unet.attn_processors.values())


def test_they_have_an_effect_and_go_with_the_block() -> None:
    """All members of a batch attend to the first one."""

    def first(attn: Any, key: Tensor, value: Tensor) -> list[Segment]:
        return [Segment(key[:1], value[:1])]

    unet = tiny_diffusion.unet()
    plain = output(unet)
    with install_processors(unet, lambda *_: VisionZooAttnProcessor(segments=first)):
        shared = output(unet)
        slicing(unet)
        assert torch.allclose(output(unet), shared, atol=1e-5)
        twin = copy.deepcopy(unet)
    assert not torch.allclose(shared[1], plain[1], atol=1e-3)
    assert torch.allclose(output(unet), plain, atol=1e-5)
    slicing(twin)
    assert torch.allclose(output(twin), shared, atol=1e-5)


def test_an_ip_adapter_keeps_its_cross_attention() -> None:
    """It makes new processors for all layers: ours return to self-attention, its own stay, and ours are refused on them."""
    unet = tiny_diffusion.unet()
    width, tokens = tiny_diffusion.WIDTH, 4
    rng = torch.Generator().manual_seed(0)
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    hidden = {name: unet.get_submodule(name.removesuffix(".processor")).inner_dim for name in cross}
    adapter = {
        f"{2 * place + 1}.{part}.weight": torch.randn(hidden[name], width, generator=rng)
        for place, name in enumerate(cross)
        for part in ("to_k_ip", "to_v_ip")
    }
    projection = {
        "proj.weight": torch.randn(tokens * width, 8, generator=rng),
        "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    state = {"image_proj": projection, "ip_adapter": adapter}
    image = {"image_embeds": [torch.randn(2, 1, 8, generator=rng)]}
    unet._load_ip_adapter_weights([state])
    plain = output(unet, added_cond_kwargs=image)
    ours = tiny_diffusion.unet()
    installed = install_processors(ours, lambda *_: Counting())
    ours._load_ip_adapter_weights([state])
    assert torch.allclose(output(ours, added_cond_kwargs=image), plain, atol=1e-4)
    assert all(processor.calls == 1 for processor in installed.processors.values())
    assert not torch.allclose(plain, output(tiny_diffusion.unet()), atol=1e-2)
    with pytest.raises(InputError, match=r"attn2 has got a IPAdapterAttnProcessor2_0 with weights of its own"):
        install_processors(ours, lambda *_: VisionZooAttnProcessor(), "*")
    assert all(ours.get_submodule(name).processor is processor for name, processor in installed.processors.items())


def test_names_that_match_nothing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"no attention layer of the UNet2DConditionModel is called \*\.temp; e\.g\. down_blocks"
    ):
        install_processors(tiny_diffusion.unet(), lambda *_: VisionZooAttnProcessor(), "*.temp")
