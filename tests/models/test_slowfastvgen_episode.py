"""Episode memories: learning, switching, saving and resuming exactly, mixing, and memories of other networks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny_diffusion
from visionzoo.errors import InputError
from visionzoo.models.slowfastvgen import (
    EpisodeMemory,
    SlowFastUNet,
    StepSkipped,
    TempLoRA,
    adapter_layers,
    episode_files,
)

CONFIG = TempLoRA(rank=2, lr=1e-2, targets="temporal_qkvo")
NO_TEXT = torch.randn(1, 7, tiny_diffusion.WIDTH, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def unet() -> SlowFastUNet:
    return tiny_diffusion.video_unet()


def memory_of(unet: nn.Module, config: TempLoRA = CONFIG) -> EpisodeMemory:
    return EpisodeMemory(unet, config, scheduler=tiny_diffusion.scheduler(), no_text=NO_TEXT)


def chunk(number: int, frames: int = 2, size: int = 8) -> Tensor:
    return torch.randn(1, 4, frames, size, size, generator=torch.Generator().manual_seed(number))


def predicted(unet: nn.Module) -> Tensor:
    with torch.no_grad():
        return unet(chunk(99), torch.tensor([500]), NO_TEXT).sample


def write(memory: EpisodeMemory, *numbers: int) -> list[float]:
    return [loss for number in numbers for loss in memory.write(chunk(number), chunk(number + 1))]


def updates(unet: nn.Module) -> dict[str, Tensor]:
    """What the adapter adds to the weight of each layer."""
    return {
        name: (
            layer.scaling["episode"]
            * layer.lora_B["episode"].weight.flatten(1)
            @ layer.lora_A["episode"].weight.flatten(1)
        )
        .detach()
        .clone()
        for name, layer in adapter_layers(unet).items()
    }


def test_an_episode_changes_what_the_network_predicts_and_nothing_else(unet: SlowFastUNet) -> None:
    plain, weights = predicted(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    unet.mid_block.train()
    memory = memory_of(unet)
    memory.new()
    with torch.inference_mode():
        losses = write(memory, 0, 1, 2)
    assert len(losses) == memory.chunks == 3
    assert unet.mid_block.training
    assert not unet.training
    unet.eval()
    learned = predicted(unet)
    assert not torch.allclose(learned, plain)
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    memory.activate(None)
    assert torch.equal(predicted(unet), plain)
    with pytest.raises(InputError, match="no episode is active"):
        memory.write(None, chunk(0))
    memory.activate("episode")
    assert torch.equal(predicted(unet), learned)
    memory.new("another")
    assert torch.equal(predicted(unet), plain)
    memory.close()
    assert not adapter_layers(unet)
    memory.activate("episode")
    assert torch.equal(predicted(unet), learned)


def test_learning_lowers_the_loss_of_what_was_seen(unet: SlowFastUNet) -> None:
    memory = memory_of(unet, TempLoRA(rank=4, lr=1e-2, steps=12, batch=2, targets="temporal"))
    memory.new()
    losses = write(memory, 0)
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_checkpointing_changes_nothing_but_rounding(unet: SlowFastUNet) -> None:
    found = []
    for checkpointing in (False, True):
        memory = memory_of(tiny_diffusion.video_unet(), TempLoRA(rank=2, lr=1e-2, checkpointing=checkpointing))
        memory.new()
        found.append((write(memory, 0, 1), updates(memory.unet)))
        assert not memory.unet.is_gradient_checkpointing
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, value in found[0][1].items():
        assert (found[1][1][name] - value).norm() <= 1e-3 * value.norm(), name


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd", "variant": "global"}, {"keep_optimizer": False}])
def test_a_resumed_episode_equals_one_that_never_stopped(tmp_path: Path, unet: SlowFastUNet, settings: Any) -> None:
    config = TempLoRA(**{"rank": 2, "lr": 1e-2, "steps": 2, "targets": "temporal", **settings})
    memory = memory_of(unet, config)
    memory.new("walk")
    write(memory, 0, 1)
    memory.save(tmp_path / "walk")
    rest = write(memory, 2, 3)
    fresh = memory_of(tiny_diffusion.video_unet(), config)  # as in another process, days later
    assert fresh.load(tmp_path / "walk") == "walk"
    assert (fresh.active, fresh.chunks) == ("walk", 2)
    assert torch.equal(fresh.latents(2), chunk(2))
    assert write(fresh, 2, 3) == rest
    assert torch.equal(predicted(fresh.unet), predicted(unet))
    memory.save(tmp_path / "walk")  # replaces it
    assert len(list((tmp_path / "walk").iterdir())) == 2
    fresh.load(tmp_path / "walk", "again")
    assert fresh.chunks == 4
    assert torch.equal(predicted(fresh.unet), predicted(unet))


def test_the_saved_adapter_is_a_lora_of_diffusers(tmp_path: Path, unet: SlowFastUNet) -> None:
    memory = memory_of(unet, TempLoRA(rank=2, alpha=6.0, lr=1e-2))
    memory.new()
    write(memory, 0)
    memory.save(tmp_path)
    other = tiny_diffusion.video_unet()
    other.load_lora_adapter(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(predicted(other), predicted(unet))


def test_episodes_do_not_mix(unet: SlowFastUNet) -> None:
    alone = {}
    for name, start in (("a", 0), ("b", 10)):
        memory = memory_of(tiny_diffusion.video_unet())
        memory.new(name)
        alone[name] = write(memory, *range(start, start + 3)), predicted(memory.unet)
    memory = memory_of(unet)
    memory.new("a")
    memory.new("b")
    losses: dict[str, list[float]] = {"a": [], "b": []}
    for number in range(3):
        for name, start in (("a", 0), ("b", 10)):
            memory.activate(name)
            losses[name] += write(memory, start + number)
    for name in ("a", "b"):
        memory.activate(name)
        assert losses[name] == alone[name][0]
        assert torch.equal(predicted(unet), alone[name][1])
    assert memory.names == ("a", "b")
    memory.drop("b")
    assert (memory.names, memory.active) == (("a",), None)
    with pytest.raises(InputError, match="no episode 'b'; known: a"):
        memory.activate("b")


def test_snapshots_return_exactly(unet: SlowFastUNet) -> None:
    memory = memory_of(unet)
    memory.new("walk")
    write(memory, 0)
    memory.snapshot("corner")
    first = write(memory, 1, 2)
    gone = predicted(unet)
    memory.restore("corner")
    assert (memory.active, memory.chunks) == ("walk", 1)
    assert torch.equal(memory.latents(2), chunk(1))
    assert write(memory, 1, 2) == first
    assert torch.equal(predicted(unet), gone)
    memory.activate("corner")
    assert write(memory, 1, 2) == first
    with pytest.raises(InputError, match="name of its own, got 'corner'"):
        memory.snapshot("corner")


def test_memories_share_a_network(unet: SlowFastUNet) -> None:
    one, two = memory_of(unet), memory_of(unet, TempLoRA(rank=3, lr=1e-2))
    one.new()
    write(one, 0)
    first = predicted(unet)
    two.new()
    write(two, 5)
    second = predicted(unet)
    one.activate("episode")
    assert torch.equal(predicted(unet), first)
    two.activate("episode")
    assert torch.equal(predicted(unet), second)
    assert write(one, 1) != write(two, 1)


@pytest.fixture
def saved(tmp_path: Path, unet: SlowFastUNet) -> Path:
    memory = memory_of(unet)
    memory.new("walk")
    write(memory, 0)
    return memory.save(tmp_path / "walk")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rank": 3}, "has rank 2, the pipeline's has 3"),
        ({"targets": "temporal"}, "has targets temporal_qkvo, the pipeline's has temporal"),
        ({"alpha": 8.0}, "has alpha / rank 1.0, the pipeline's has 4.0"),
        ({"variant": "off"}, "has learning True, the pipeline's has False"),
        ({"optimizer": "sgd"}, "written with Adam, this bank makes SGD"),
    ],
)
def test_memories_with_other_settings_are_refused(saved: Path, settings: Any, reason: str) -> None:
    memory = memory_of(tiny_diffusion.video_unet(), TempLoRA(**{"rank": 2, "targets": "temporal_qkvo", **settings}))
    memory.new("mine")
    with pytest.raises(InputError, match=f"walk: .*{reason}") as error:
        memory.load(saved)
    assert "\n" not in str(error.value)
    assert (memory.names, memory.active) == (("mine",), "mine")
    memory.write(chunk(0), chunk(1))


def test_memories_of_other_networks_are_refused(saved: Path, unet: SlowFastUNet) -> None:
    other = tiny_diffusion.video_unet()
    other.conv_in.weight.data[0, 0, 0, 0] += 1e-3
    with pytest.raises(InputError, match=r"learned on another base model \(1 of its 466 weights have other values\)"):
        memory_of(other).load(saved)
    half = tiny_diffusion.video_unet()
    nn.Module.to(half, torch.bfloat16)  # the same network in another precision
    memory = memory_of(half)
    assert memory.load(saved) == "walk"
    layers = adapter_layers(half)
    assert all(
        torch.equal(layer.lora_B["episode"].weight, adapter_layers(unet)[name].lora_B["episode"].weight)
        for name, layer in layers.items()
    )


def test_damaged_folders_are_named(saved: Path, tmp_path: Path, unet: SlowFastUNet) -> None:
    memory = memory_of(unet)
    with pytest.raises(InputError, match="nothing: holds no episode memory"):
        memory.load(tmp_path / "nothing")
    state = next(saved.glob("episode-*.safetensors"))
    content = state.read_bytes()
    state.write_bytes(content[:1000])
    with pytest.raises(InputError, match="walk: the episode memory is damaged"):
        memory.load(saved)
    state.unlink()
    with pytest.raises(InputError, match="walk: the episode memory is damaged .*episode-"):
        memory.load(saved)
    unet.save_lora_adapter(saved, adapter_name="episode")
    with pytest.raises(InputError, match="is a LoRA without an episode"):
        memory.load(saved)


def test_an_interrupted_save_leaves_the_old_episode(saved: Path, unet: SlowFastUNet, monkeypatch: Any) -> None:
    memory = memory_of(unet)
    memory.load(saved)
    before = predicted(unet)
    write(memory, 1)
    write_file, calls = episode_files.save_safetensors, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_file(*args)

    monkeypatch.setattr(episode_files, "save_safetensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory.save(saved)
    monkeypatch.undo()
    memory.load(saved, "old")
    assert memory.chunks == 1
    assert torch.equal(predicted(unet), before)
    memory.save(saved, "walk")
    assert len(list(saved.iterdir())) == 2


def test_a_loss_that_is_not_finite_is_left_out_and_reported(unet: SlowFastUNet) -> None:
    memory = memory_of(unet)
    memory.new("walk")
    write(memory, 0)
    before, latents = predicted(unet), memory.latents()
    bad = chunk(2).clone()
    bad[0, 0, 0, 0, 0] = float("inf")
    with pytest.warns(StepSkipped, match="'walk': 1 of 1 steps after chunk 1 had a loss that is not finite"):
        losses = memory.write(chunk(1), bad)
    assert losses[0] != losses[0]
    assert torch.equal(predicted(unet), before)
    assert torch.equal(memory.latents(), latents)
    memory.no_text = memory.no_text * float("nan")
    with pytest.warns(StepSkipped):
        write(memory, 1)
    assert torch.equal(predicted(unet), before)
    assert (memory.skipped, memory.chunks) == (2, 2)
    memory.no_text = NO_TEXT
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepSkipped)
        write(memory, 2)
    assert not torch.equal(predicted(unet), before)


class TestMerging:
    @pytest.fixture
    def memory(self, unet: SlowFastUNet) -> EpisodeMemory:
        memory = memory_of(unet, TempLoRA(rank=2, alpha=3.0, lr=1e-2, targets="temporal"))
        for name, start in (("a", 0), ("b", 10)):
            memory.new(name)
            write(memory, start, start + 1)
        return memory

    def test_the_sum_is_exact_and_learns(self, memory: EpisodeMemory, tmp_path: Path) -> None:
        unet, found = memory.unet, {}
        for name in ("a", "b"):
            memory.activate(name)
            found[name] = updates(unet)
        assert memory.merge(["a", "b"], [0.75, -0.5]) == "merged" == memory.active
        whole = {name: 0.75 * value - 0.5 * found["b"][name] for name, value in found["a"].items()}
        torch.testing.assert_close(updates(unet), whole)
        assert any(layer.lora_A["episode"].weight.ndim == 5 for layer in adapter_layers(unet).values())
        assert memory.rank == 4
        assert torch.equal(memory.latents(2), chunk(2))
        memory.merge(["a", "b"], [0.75, -0.5], method="svd", rank=4, into="svd")
        torch.testing.assert_close(updates(unet), whole)
        memory.activate("merged")
        memory.save(tmp_path)
        assert len(write(memory, 5)) == 1
        changed = predicted(unet)
        memory.load(tmp_path, "again")
        assert memory.rank == 4
        torch.testing.assert_close(updates(unet), whole)
        write(memory, 5)
        assert torch.equal(predicted(unet), changed)
        memory.activate("a")
        assert memory.rank == 2
        torch.testing.assert_close(updates(unet), found["a"])

    def test_one_episode_alone_stays_what_it_is(self, memory: EpisodeMemory) -> None:
        memory.activate("b")
        before = updates(memory.unet)
        for method in ("cat", "linear", "svd"):
            memory.merge(["b"], method=method, into=method)
            torch.testing.assert_close(updates(memory.unet), before, rtol=1e-4, atol=1e-7)

    def test_what_cannot_be_mixed_is_named(self, memory: EpisodeMemory) -> None:
        for names, weights, message in (
            (["a", "c"], None, "no episode 'c'"),
            (["a"], [1.0, 2.0], "weight for each of 1 episodes"),
            (["a"], [float("nan")], "finite weight"),
        ):
            with pytest.raises(InputError, match=message):
                memory.merge(names, weights)
        with pytest.raises(InputError, match="no method to merge"):
            memory.merge(["a"], method="mean")
        write(memory, 7)  # nothing was lost
        assert memory.names == ("a", "b")


def test_latents_are_kept_to_continue_from(unet: SlowFastUNet) -> None:
    memory = memory_of(unet, TempLoRA(variant="off"))
    plain = predicted(unet)
    memory.new()
    assert memory.latents() is None
    assert memory.write(chunk(0), chunk(1, frames=3)) == []
    assert torch.equal(memory.latents(), torch.cat([chunk(0), chunk(1, frames=3)], 2))
    for number in range(12):
        memory.write(memory.latents(3), chunk(number, frames=3))
    assert memory.latents().shape == (1, 4, 32, 8, 8)
    assert torch.equal(memory.latents(3), chunk(11, frames=3))
    assert torch.equal(predicted(unet), plain)
    assert not adapter_layers(unet)
    with pytest.raises(InputError, match="has latents with 4 channels of 8 x 8, got 4 channels of 6 x 6; begin a new"):
        memory.write(None, chunk(0, size=6))
    with pytest.raises(InputError, match=r"must be latents \(1, C, frames, h, w\)"):
        memory.write(None, chunk(0)[0])


def test_the_states_of_the_empty_prompt_are_needed(unet: SlowFastUNet) -> None:
    with pytest.raises(InputError, match="no_text must be the states of the empty prompt"):
        EpisodeMemory(unet, scheduler=tiny_diffusion.scheduler(), no_text=NO_TEXT[0])
    with pytest.raises(InputError, match="the scheduler must be a scheduler of diffusers, .* got None"):
        EpisodeMemory(unet, scheduler=None, no_text=NO_TEXT)
