"""LoRA files of every format change the weights by scale * alpha / rank * up @ down, and leave no trace when they are unloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_base
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from tests import tiny_diffusion
from visionzoo.diffusion import list_loras, load_lora, save_lora, scale_loras, unload_lora
from visionzoo.errors import InputError
from visionzoo.weights import WeightsError, read_metadata

LAYERS = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (3, 6.0),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (2, 1.0),
    "unet.down_blocks.0.resnets.0.conv1": (2, 8.0),
    "unet.down_blocks.1.attentions.0.proj_in": (2, 2.0),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (2, 4.0),
}
"""Layer -> (rank, alpha): different ones, a convolution, and one that is a 1 x 1 convolution."""


class Parts:
    """As much of a pipeline as LoRA needs."""

    def __init__(self) -> None:
        self.unet, self.text_encoder = tiny_diffusion.unet(), tiny_diffusion.text_encoder()

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet, "text_encoder": self.text_encoder, "tokenizer": None}

    def layer(self, name: str) -> Any:
        part, _, inner = name.partition(".")
        network = getattr(self, part)
        return network.get_submodule(inner if hasattr(network, "text_model") else inner.removeprefix("text_model."))

    @torch.no_grad()
    def outputs(self) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        latents, text = torch.randn(1, 4, 8, 8, generator=rng), torch.randn(1, 5, tiny_diffusion.WIDTH, generator=rng)
        ids = torch.arange(77)[None]
        return torch.cat([self.unet(latents, 5, text).sample.flatten(), self.text_encoder(ids)[0].flatten()])


def matrices(layers: dict[str, tuple[int, float]]) -> dict[str, tuple[Tensor, Tensor, float]]:
    rng, parts = torch.Generator().manual_seed(1), Parts()
    made = {}
    for name, (rank, alpha) in layers.items():
        weight = parts.layer(name).weight
        down = 0.3 * torch.randn(rank, *weight.shape[1:], generator=rng)
        up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=rng)
        made[name] = (down, up, alpha)
    return made


def merged(scales: dict[str, float] | float = 1.0, layers: dict[str, tuple[int, float]] = LAYERS) -> Tensor:
    """What networks with changed weights compute."""
    parts = Parts()
    with torch.no_grad():
        for name, (down, up, alpha) in matrices(layers).items():
            weight = parts.layer(name).weight
            assert isinstance(scales, float)
            weight += scales * alpha / len(down) * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return parts.outputs()


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def diffusers_file(folder: Path) -> Path:
    tensors, settings = {}, {}
    for name, (down, up, _) in matrices(LAYERS).items():
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    for part in ("unet", "text_encoder"):
        inside = {name.removeprefix(f"{part}."): both for name, both in LAYERS.items() if name.startswith(f"{part}.")}
        rank, alpha = next(iter(inside.values()))
        settings |= {f"{part}.r": rank, f"{part}.lora_alpha": alpha}
        settings[f"{part}.alpha_pattern"] = {name.split(".", 2)[2]: both[1] for name, both in inside.items()}
    return write(folder / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(settings)})


def kohya_file(folder: Path) -> Path:
    tensors = {}
    for name, (down, up, alpha) in matrices(LAYERS).items():
        part, _, inner = name.partition(".")
        key = f"lora_{'te' if part == 'text_encoder' else part}_{inner.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    return write(folder / "kohya.safetensors", tensors)


def old_diffusers_folder(folder: Path) -> Path:
    tensors = {}
    for name, (down, up, alpha) in matrices(LAYERS).items():
        tensors |= {
            f"{name}.lora.down.weight": down,
            f"{name}.lora.up.weight": up,
            f"{name}.alpha": torch.tensor(alpha),
        }
    write(folder / "pytorch_lora_weights.safetensors", tensors)
    return folder


def pickled_file(folder: Path) -> Path:
    tensors = {}
    for name, (down, up, alpha) in matrices(LAYERS).items():
        tensors |= {
            f"{name}.lora.down.weight": down,
            f"{name}.lora.up.weight": up,
            f"{name}.alpha": torch.tensor(alpha),
        }
    torch.save(tensors, folder / "old.bin")
    return folder / "old.bin"


@pytest.mark.parametrize("form", [diffusers_file, kohya_file, old_diffusers_folder, pickled_file])
def test_every_format_keeps_every_alpha(form: Callable[[Path], Path], tmp_path: Path) -> None:
    parts = Parts()
    before, trained = parts.outputs(), {key: value.requires_grad for key, value in parts.unet.named_parameters()}
    name = load_lora(parts, form(tmp_path), scale=0.5)
    assert torch.allclose(parts.outputs(), merged(0.5), atol=1e-4)
    assert not torch.allclose(parts.outputs(), before, atol=1e-2)
    assert list_loras(parts) == {name: 0.5}
    file = save_lora(parts, tmp_path / "saved")
    again = Parts()
    load_lora(again, file, "again")
    assert torch.allclose(again.outputs(), merged(), atol=1e-4)
    unload_lora(parts)
    assert torch.equal(parts.outputs(), before)
    assert list_loras(parts) == {}
    assert {key: value.requires_grad for key, value in parts.unet.named_parameters()} == trained
    assert parts.unet.state_dict().keys() == tiny_diffusion.unet().state_dict().keys()


def test_a_folder_of_peft(tmp_path: Path) -> None:
    layers = {name: both for name, both in LAYERS.items() if name.startswith("unet.") and both[0] == 2}
    tensors = {}
    for name, (down, up, _) in matrices(layers).items():
        key = f"base_model.model.{name.removeprefix('unet.')}"
        tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    write(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, "alpha_pattern": {"conv1": 3}}))
    parts = Parts()
    load_lora(parts, tmp_path)
    want = {name: (2, 3.0 if name.endswith("conv1") else 8.0) for name in layers}
    assert torch.allclose(parts.outputs(), merged(layers=want), atol=1e-4)


def test_files_of_diffusers_are_read_and_ours_are_read_by_diffusers(tmp_path: Path) -> None:
    """A network's own file has no part in its names; its alpha is in the metadata."""
    if not hasattr(lora_base, "LORA_ADAPTER_METADATA_KEY"):
        pytest.skip("this version of diffusers writes and reads no metadata, so it loses alpha itself")
    theirs = tiny_diffusion.stable_diffusion()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs.unet.add_adapter(
            LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "conv1"], init_lora_weights=False), "one"
        )
    theirs.unet.save_lora_adapter(tmp_path / "theirs", "one")
    want = theirs("a cat", 64, 64, 1, output_type="latent", latents=torch.ones(1, 4, 8, 8)).images
    ours = tiny_diffusion.stable_diffusion()
    load_lora(ours, tmp_path / "theirs")
    assert torch.allclose(
        ours("a cat", 64, 64, 1, output_type="latent", latents=torch.ones(1, 4, 8, 8)).images, want, atol=1e-5
    )
    ours.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q").lora_alpha["theirs"] *= 2
    scale_loras(ours, {"theirs": 1})
    other = ours("a cat", 64, 64, 1, output_type="latent", latents=torch.ones(1, 4, 8, 8)).images
    assert not torch.allclose(other, want, atol=1e-4)
    assert "unet.lora_alpha" in json.loads(
        read_metadata(save_lora(ours, tmp_path / "ours.safetensors"))["lora_adapter_metadata"]
    )
    back = tiny_diffusion.stable_diffusion()
    back.load_lora_weights(tmp_path / "ours.safetensors")
    assert torch.allclose(
        back("a cat", 64, 64, 1, output_type="latent", latents=torch.ones(1, 4, 8, 8)).images, other, atol=1e-5
    )


def test_several_are_scaled_and_unloaded_one_by_one(tmp_path: Path) -> None:
    parts = Parts()
    before = parts.outputs()
    load_lora(parts, diffusers_file(tmp_path))
    load_lora(parts, kohya_file(tmp_path), "b", scale=0.25)
    assert list_loras(parts) == {"a": 1.0, "b": 0.25}
    assert torch.allclose(parts.outputs(), merged(1.25), atol=1e-4)
    scale_loras(parts, {"b": -1})
    assert list_loras(parts) == {"a": 0.0, "b": -1.0}
    assert torch.allclose(parts.outputs(), merged(-1.0), atol=1e-4)
    with pytest.raises(InputError, match=r"the pipeline has 2 LoRAs \(a, b\); name one to save"):
        save_lora(parts, tmp_path / "x")
    with pytest.raises(InputError, match="there is no LoRA 'c'; known: a, b"):
        scale_loras(parts, {"c": 1})
    with pytest.raises(InputError, match="strength of a LoRA must be a finite number, got nan"):
        scale_loras(parts, {"b": float("nan")})
    assert list_loras(parts) == {"a": 0.0, "b": -1.0}
    with pytest.raises(InputError, match="a LoRA 'a' is loaded already"):
        load_lora(parts, tmp_path / "a.safetensors")
    unload_lora(parts, "b")
    assert torch.allclose(parts.outputs(), before, atol=1e-5)
    scale_loras(parts, {"a": 1})
    assert torch.allclose(parts.outputs(), merged(), atol=1e-4)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    parts = Parts()
    before = parts.outputs()
    tensors = {
        "lora_unet_input_blocks_1_1_proj_in.lora_down.weight": torch.zeros(2, 4),
        "lora_unet_input_blocks_1_1_proj_in.lora_up.weight": torch.zeros(4, 2),
    }
    with pytest.raises(
        InputError,
        match=r"x\.safetensors: none of its 1 layers is in this pipeline, e\.g\. lora_unet_input.*; is it for",
    ):
        load_lora(parts, write(tmp_path / "x.safetensors", tensors))
    to_q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    good = {f"{to_q}.lora_A.weight": torch.ones(2, 64), f"{to_q}.lora_B.weight": torch.ones(64, 2)}
    with pytest.raises(InputError, match="1 of its 2 layers is not in this pipeline"):
        load_lora(parts, write(tmp_path / "y.safetensors", {**tensors, **good}))
    bad = {f"{to_q}.lora_A.weight": torch.ones(2, 320), f"{to_q}.lora_B.weight": torch.ones(320, 2)}
    with pytest.raises(
        InputError, match=r"to_q is for a layer of 320 x 320, expected 64 x 64; is it for another base model"
    ):
        load_lora(parts, write(tmp_path / "z.safetensors", bad))
    assert torch.equal(parts.outputs(), before)
    assert list_loras(parts) == {}
    load_lora(parts, tmp_path / "y.safetensors", strict=False)
    assert list_loras(parts) == {"y": 1.0}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.weight": torch.zeros(2)}, "is not a LoRA, or damaged .it has no layers"),
        ({"a.lora_A.weight": torch.zeros(2, 2)}, "a has one of its two matrices only"),
        ({"a.hada_w1_a": torch.zeros(2, 2)}, "is a LoHa, which is not supported"),
        ({"a.dora_scale": torch.zeros(2)}, "is a DoRA, which is not supported"),
        (
            {"a.lora_A.weight": torch.full((2, 2), torch.nan), "a.lora_B.weight": torch.ones(2, 2)},
            "a has values that are NaN or infinite",
        ),
    ],
)
def test_files_that_hold_no_lora(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        load_lora(Parts(), write(tmp_path / "x.safetensors", tensors))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="empty: holds no LoRA"):
        load_lora(Parts(), tmp_path / "empty")
    assert isinstance(Parts().layer(next(iter(LAYERS))), nn.Linear)
