"""The slow-fast loop: streamed and stored forms agree, memories never leak, the recipe learns and resumes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.resuming import check_resumed_inside_an_epoch, checkpoint
from visionzoo.errors import InputError
from visionzoo.models.slowfastvgen import (
    EpisodeData,
    Pair,
    SlowFastLearning,
    SlowFastNano,
    SlowFastNanoConfig,
    TempLoRA,
    copied,
    remembered,
    slow_fast_pairs,
)
from visionzoo.models.slowfastvgen.data import Chunk, EpisodeChunks
from visionzoo.models.toy_world import noise_schedule
from visionzoo.training.run import run

RECIPE = "slowfastvgen/tiny_slow_fast"
TINY: dict[str, Any] = {
    "channels": (8, 16),
    "head": 8,
    "groups": 4,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}
FAST = TempLoRA(rank=2, lr=1e-2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run of the tiny recipe, and its validation loss."""
    folder = tmp_path_factory.mktemp("slow_fast")
    return folder, run("fit", [RECIPE], [f"trainer.default_root_dir={folder}"])["val/loss"]


@pytest.fixture
def network() -> SlowFastNano:
    torch.manual_seed(0)
    return SlowFastNano(SlowFastNanoConfig(**TINY)).eval()


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def episode(count: int = 3) -> list[Tensor]:
    return [randn(number, 1, 8, 2, 8, 8) for number in range(count)]


def texts(network: SlowFastNano, count: int = 3) -> list[Tensor]:
    with torch.no_grad():
        return list(network.encode(["wait", "go left", "go right"][:count]).unsqueeze(1))


def walk(network: SlowFastNano, **settings: Any) -> Any:
    states = texts(network)
    return slow_fast_pairs(network.unet, noise_schedule(), episode(), states, states[0], FAST, **settings)


def test_the_first_pair_has_an_empty_memory_and_the_target_is_never_in_it(network: SlowFastNano) -> None:
    pairs = [copied(pair) for pair in walk(network)]
    assert [pair.number for pair in pairs] == [0, 1]
    ups = [[value for key, value in pair.memory.items() if key.endswith("lora_B")] for pair in pairs]
    assert not any(value.any() for value in ups[0])
    assert any(value.any() for value in ups[1])
    changed = episode()
    changed[2] = randn(9, *changed[2].shape)
    states = texts(network)
    other = [copied(pair) for pair in slow_fast_pairs(network.unet, noise_schedule(), changed, states, states[0], FAST)]
    assert all(torch.equal(value, other[1].memory[key]) for key, value in pairs[1].memory.items())


def test_nothing_is_left_in_the_network(network: SlowFastNano) -> None:
    before = {key: value.clone() for key, value in network.unet.state_dict().items()}
    names = [name for name, _ in network.unet.named_parameters()]
    losses: list[float] = []
    for pair in walk(network, losses=losses):
        assert network.unet.state_dict().keys() == before.keys()
        with pytest.raises(RuntimeError, match="stop"), remembered_twice(network, copied(pair)):
            raise RuntimeError("stop")
    assert len(losses) == 2
    assert [name for name, _ in network.unet.named_parameters()] == names
    assert all(torch.equal(value, before[key]) for key, value in network.unet.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.unet.parameters())


def remembered_twice(network: SlowFastNano, pair: Pair) -> Any:
    """The memory of a pair in a copy of the network."""
    torch.manual_seed(0)
    return remembered(SlowFastNano(SlowFastNanoConfig(**TINY)).unet, pair.memory, FAST)


def test_a_copied_memory_predicts_what_the_live_one_did(network: SlowFastNano) -> None:
    clip, time, state = randn(5, 1, 8, 4, 8, 8), torch.tensor([300]), texts(network)[1]
    live, stored = [], []
    with torch.no_grad():
        for pair in walk(network):
            stored.append(copied(pair))
            live.append(network(clip, time, state))
        for pair, expected in zip(stored, live, strict=True):
            with remembered(network.unet, pair.memory, FAST):
                assert torch.equal(network(clip, time, state), expected)
    assert not torch.equal(*live)


def gradients(module: SlowFastLearning, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Gradients of a step, before the network changes."""
    found: dict[str, Tensor] = {}

    def keep() -> None:
        for name, value in module.model["unet"].named_parameters():
            assert value.grad is not None
            found[name] = value.grad.clone()

    module._change = keep  # type: ignore[method-assign]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[assignment,method-assign]
    module.log_loss = lambda *_: None  # type: ignore[method-assign]
    module.training_step(batch, 0)
    return found


def test_both_forms_give_the_same_gradient() -> None:
    batch = [
        {"latents": torch.cat(episode()) + number, "actions": ["wait", "go left", "go in"], "stream": 5 + number}
        for number in range(2)
    ]
    found = []
    for form in ("stream", "stored"):
        torch.manual_seed(0)
        module = SlowFastLearning(config=TINY, fast={"rank": 2, "lr": 1e-2}, form=form)  # pyright: ignore
        module.model.eval()  # without dropout
        found.append(gradients(module, batch))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], rtol=1e-4, atol=1e-7), name


def test_the_recipe_learns(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = [f"trainer.default_root_dir={tmp_path}", f"data.cache={trained[0] / 'latents'}", "trainer.max_epochs=1"]
    first = run("fit", [RECIPE], [*words, "trainer.limit_train_batches=1", "trainer.check_val_every_n_epoch=1"])
    assert trained[1] < first["val/loss"]
    assert not any("lora" in key for key in checkpoint(trained[0])["state_dict"])


def test_resuming_inside_an_epoch(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2", f"data.cache={trained[0] / 'latents'}"]
    check_resumed_inside_an_epoch(RECIPE, tmp_path, words, steps=2, stop=1)


def test_the_published_form_changes_the_network_several_times(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = [f"trainer.default_root_dir={tmp_path}", f"data.cache={trained[0] / 'latents'}", "trainer.max_epochs=1"]
    words += ["model.form=stored", "model.slow_batch=2", "model.inner_data=generated", "trainer.limit_val_batches=0"]
    run("fit", [RECIPE], [*words, "trainer.limit_train_batches=1"])
    assert checkpoint(tmp_path)["global_step"] == 2  # two episodes with two pairs each, two pairs at a time


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fast": {"ranks": 3}}, "model.fast has a field that TempLoRA lacks"),
        ({"fast": {"rank": 0}}, "rank"),
        ({"slow_batch": 2}, "needs model.form=stored"),
        ({"slow_batch": 0, "form": "stored"}, "at least 1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SlowFastLearning(config=TINY, **settings)


def test_episodes_are_cut_apart(tmp_path: Path) -> None:
    rows = torch.arange(40.0).reshape(40, 1, 1, 1)

    class Latents:
        def __getitem__(self, index: slice) -> Tensor:
            return rows[index]

    chunks = [Chunk(1, 1, "a"), Chunk(5, 5, "b"), Chunk(10, 1, "c"), Chunk(21, 1, "d"), Chunk(25, 5, "e")]
    data = EpisodeChunks(Latents(), chunks, 4)  # pyright: ignore[reportArgumentType]
    assert [data[number]["actions"] for number in range(len(data))] == [["a", "b"], ["d", "e"]]
    assert data[1]["latents"].flatten().tolist() == [*range(21, 29)]
    with pytest.raises(InputError, match="no episode has two chunks"):
        EpisodeChunks(Latents(), chunks[2:3], 4)  # pyright: ignore[reportArgumentType]


def test_data_hand_out_lists_of_episodes(trained: tuple[Path, float]) -> None:
    data = EpisodeData(
        worlds=4, val_worlds=2, actions=3, size=64, frames=4, cache=str(trained[0] / "latents"), batch_size=2
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [2, 2]
    assert batches[0][0]["latents"].shape == (3, 8, 4, 8, 8)
