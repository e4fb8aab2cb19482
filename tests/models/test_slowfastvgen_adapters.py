"""TEMP-LORA in the video UNet: targets, settings, what never leaks into the network, and mistakes that must change its values."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet3DConditionModel
from torch import Tensor, nn

from tests import tiny_diffusion
from tests.golden.case import HERE, Case, as_json, compare
from tests.golden.slowfastvgen import memory
from visionzoo.errors import InputError
from visionzoo.models.slowfastvgen import (
    Draw,
    FastBatch,
    SlowFastUNet,
    TempLoRA,
    adapter_layers,
    add_adapter,
    draw_step,
    fast_batch,
    fast_loss,
    folded_adapter,
    remove_adapter,
    switch_adapter,
    target_layers,
)


@pytest.fixture
def unet() -> SlowFastUNet:
    return tiny_diffusion.video_unet()


def run(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 4, 8, 8, generator=generator)
    text = torch.randn(1, 7, tiny_diffusion.WIDTH, generator=generator)
    with torch.no_grad():
        return unet(latents.to(next(unet.parameters()).dtype), torch.tensor([5]), text).sample


def learned(unet: SlowFastUNet, **settings: Any) -> dict[str, Any]:
    layers = add_adapter(unet, TempLoRA(rank=4, **settings))
    for number, layer in enumerate(layers.values()):
        values = torch.randn(layer.lora_B["episode"].weight.shape, generator=torch.Generator().manual_seed(number))
        layer.lora_B["episode"].weight.data.copy_(0.1 * values)
    return layers


@pytest.mark.parametrize("targets", ["temporal_linear", "temporal"])
def test_a_folded_adapter_gives_the_same_and_leaves_the_weights_alone(unet: SlowFastUNet, targets: str) -> None:
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    learned(unet, targets=targets)
    changed = run(unet)
    with folded_adapter(unet):
        folded = run(unet)
        assert all(layer.merged for layer in adapter_layers(unet).values())
    assert torch.allclose(folded, changed, rtol=1e-4, atol=1e-5)
    assert torch.equal(run(unet), changed)
    switch_adapter(unet, False)
    with folded_adapter(unet):
        assert not any(layer.merged for layer in adapter_layers(unet).values())
    remove_adapter(unet)
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())


def test_half_precision_is_not_folded(unet: SlowFastUNet) -> None:
    nn.Module.to(unet, torch.bfloat16)
    layers = learned(unet)
    weights = [layer.get_base_layer().weight for layer in layers.values()]
    before = [weight.data_ptr() for weight in weights]
    with folded_adapter(unet):
        assert [weight.data_ptr() for weight in weights] == before
        assert not any(layer.merged for layer in layers.values())


def test_an_adapter_never_leaks_into_the_network(unet: SlowFastUNet, tmp_path: Path) -> None:
    plain, state = run(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    flags = {name: value.requires_grad for name, value in unet.named_parameters()}
    learned(unet, targets="temporal")
    changed = run(unet)
    assert not torch.allclose(changed, plain)
    assert list(unet.state_dict()) == list(state)
    assert list(nn.ModuleDict({"unet": unet}).state_dict()) == [f"unet.{name}" for name in state]
    unet.save_pretrained(tmp_path)
    assert torch.allclose(run(UNet3DConditionModel.from_pretrained(tmp_path).eval()), plain, rtol=1e-4, atol=1e-5)
    unet.load_state_dict(state)  # checkpoints of the network load, and keep the adapter
    assert torch.equal(run(unet), changed)
    assert torch.equal(run(copy.deepcopy(unet)), changed)
    with pytest.raises(RuntimeError, match="Missing key"):
        unet.load_state_dict({name: value for name, value in state.items() if name != "conv_in.weight"})
    switch_adapter(unet, False)
    assert torch.equal(run(unet), plain)
    switch_adapter(unet, True)
    assert torch.equal(run(unet), changed)
    remove_adapter(unet)
    assert torch.equal(run(unet), plain)
    assert not adapter_layers(unet)
    assert {name: value.requires_grad for name, value in unet.named_parameters()} == flags


def test_adapters_are_files_of_diffusers(unet: SlowFastUNet, tmp_path: Path) -> None:
    learned(unet, alpha=2.0)
    unet.save_lora_adapter(tmp_path, adapter_name="episode")
    again = tiny_diffusion.video_unet()
    again.load_lora_adapter(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert torch.equal(run(again), run(unet))


def test_the_branch_is_float32_in_a_half_precision_network(unet: SlowFastUNet) -> None:
    nn.Module.to(unet, torch.bfloat16)
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    layers = learned(unet)
    assert {layer.lora_A["episode"].weight.dtype for layer in layers.values()} == {torch.float32}
    batch = FastBatch(torch.randn(1, 4, 4, 8, 8), 0, torch.randn(1, 7, tiny_diffusion.WIDTH))
    drawn = Draw(torch.tensor([400]), torch.randn(1, 4, 4, 8, 8))
    loss = fast_loss(unet, tiny_diffusion.scheduler(), batch, drawn)
    assert loss.dtype == torch.float32
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize(
    ("targets", "count"), [("temporal_linear", 60), ("temporal_qkvo", 40), ("temporal", 92), ("all_linear", 118)]
)
def test_targets(unet: SlowFastUNet, targets: str, count: int) -> None:
    assert len(target_layers(unet, targets)) == count
    add_adapter(unet, TempLoRA(rank=2), name="other")
    assert len(target_layers(unet, targets)) == count


def test_targets_of_the_network_of_1_4_billion_parameters() -> None:
    with torch.device("meta"):
        unet = SlowFastUNet(sample_size=32)
    found = {
        targets: target_layers(unet, targets)
        for targets in ("temporal_linear", "temporal_qkvo", "temporal", "all_linear")
    }
    assert [len(layers) for layers in found.values()] == [204, 136, 292, 420]
    sizes = {name: value.shape for name, value in unet.named_parameters()}
    for targets, parameters in (("temporal_linear", 14.12e6), ("temporal", 24.44e6), ("all_linear", 29.63e6)):
        shapes = [sizes[f"{name}.weight"] for name in found[targets]]
        assert sum(32 * (shape[0] + shape[1:].numel()) for shape in shapes) == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "temporal_lin"}, "no targets of TempLoRA 'temporal_lin'; did you mean temporal_linear"),
        ({"variant": "none"}, "no variant of TempLoRA 'none'; .*local, off, original"),
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "batch must be a whole number"),
        ({"lr": float("nan")}, "lr must be a number above 0, got nan"),
        ({"alpha": -1}, "alpha must be a number above 0"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TempLoRA(**settings)


def test_a_network_without_such_layers(unet: SlowFastUNet) -> None:
    with pytest.raises(
        InputError, match="Linear has no layers for targets='temporal'; expected a UNet3DConditionModel"
    ):
        target_layers(nn.Linear(2, 2), "temporal")
    add_adapter(unet, TempLoRA(rank=2))
    with pytest.raises(InputError, match="has an update 'episode' already"):
        add_adapter(unet, TempLoRA(rank=2))


CASE = Case.read(HERE / "slowfastvgen" / "temp_lora_temporal_linear_s0.json")

MISTAKES: dict[str, dict[str, Any]] = {
    "alpha of peft": {"lora": memory.config(CASE, alpha=8.0)},
    "other layers": {"lora": memory.config(CASE, targets="temporal_qkvo")},
    "training mode": {"training": True},
    "clean past": {"clean": 3},
    "masked loss": {"masked": True},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_do_not_pass_the_golden_case(mistake: str) -> None:
    found = memory.temp_lora(CASE, **MISTAKES[mistake])
    error = dict(compare(as_json(found, CASE.outputs), CASE.outputs))["probe_pred_after_3"]
    assert error > 1e-3


class TestWhatIsLearned:
    past, made = (torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(frames)) for frames in (3, 4))
    no_text, text = torch.ones(1, 7, 32), torch.full((1, 7, 32), 2.0)

    def batch(self, variant: str, **given: Any) -> FastBatch:
        config = TempLoRA(variant=variant, no_text=given.pop("words", "empty"))
        return fast_batch(config, self.past, self.made, no_text=self.no_text, text=self.text, **given)

    def test_variants(self) -> None:
        both = torch.cat([self.past, self.made], 2)
        local = self.batch("local")
        assert torch.equal(local.latents, both)
        assert (local.clean, local.text) == (0, self.no_text)
        original = self.batch("original")
        assert torch.equal(original.latents, both)
        assert (original.clean, original.text) == (3, self.text)
        assert torch.equal(self.batch("single_frame").latents, both[:, :, 2:])
        assert not self.batch("local", words="zeros").text.any()
        episode = torch.arange(20.0).view(1, 1, 20, 1, 1).expand(1, 4, 20, 8, 8)
        frames = self.batch("global", episode=episode, generator=torch.Generator().manual_seed(0)).latents[
            0, 0, :, 0, 0
        ]
        assert len(frames) == 7
        assert (frames.diff() > 0).all()

    def test_what_is_missing_is_named(self) -> None:
        with pytest.raises(InputError, match="episode=…"):
            self.batch("global")
        with pytest.raises(InputError, match="give text=…"):
            fast_batch(TempLoRA(variant="original"), self.past, self.made, no_text=self.no_text)
        with pytest.raises(InputError, match=r"past latents \(1, 4, 3, 8, 8\) do not fit .*\(1, 4, 4, 8, 6\)"):
            fast_batch(TempLoRA(), self.past, self.made[..., :6], no_text=self.no_text)
        with pytest.raises(InputError, match=r"must be latents \(1, C, frames, h, w\), got \(4, 4, 8, 8\)"):
            fast_batch(TempLoRA(), self.past, self.made[0], no_text=self.no_text)

    def test_several_timesteps_come_from_equal_parts_of_the_schedule(self) -> None:
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            drawn = draw_step(TempLoRA(batch=4), self.batch("local"), 1000, generator)
            assert (drawn.timesteps // 250).tolist() == [0, 1, 2, 3]
            assert drawn.noise.shape == (4, 4, 7, 8, 8)

    def test_a_clean_past_is_given_but_does_not_count(self) -> None:
        seen: list[Tensor] = []

        class Zero(nn.Linear):
            def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Any:
                seen.append(latents)
                return type("Output", (), {"sample": latents * 0})

        drawn = Draw(torch.tensor([999]), torch.randn(1, 4, 7, 8, 8))
        loss = fast_loss(Zero(1, 1), tiny_diffusion.scheduler(), self.batch("original"), drawn)
        assert torch.equal(seen[0][:, :, :3], self.past)
        assert not torch.allclose(seen[0][:, :, 3:], self.made, atol=0.5)
        torch.testing.assert_close(loss, drawn.noise[:, :, 3:].square().mean())
