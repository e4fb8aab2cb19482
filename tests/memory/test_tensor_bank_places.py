"""A TensorBank on the host, on disk, offloaded, saved or loaded gives the same results as on the device."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from visionzoo.errors import InputError
from visionzoo.memory import (
    EvenSample,
    Fifo,
    MemoryBank,
    TensorBank,
    Usage,
)
from visionzoo.memory.policies import Policy

from .banks import bank_of, drawn, same

# --- places ---


@pytest.mark.parametrize("options", [{"placement": "host"}, {"placement": "disk"}, {"max_bytes": 2000}])
def test_a_bank_elsewhere_reads_as_on_the_device(options: dict[str, Any], tmp_path: Path) -> None:
    here = TensorBank(8, 8, 40, heads=2)
    if options.get("placement") == "disk":
        options = options | {"folder": tmp_path / "scratch"}
    there = TensorBank(8, 8, 40, heads=2, stream_block=7, **options)
    query = drawn(50, 2, 2, 5, 8)
    for step in range(6):
        key, value = drawn(step, 1, 2, 11, 8), drawn(step + 20, 1, 2, 11, 8)
        for bank in (here, there):
            bank.write(key, value, permanent=step == 2)
        for top_k in (None, 5):
            a, b = (bank.read(query, top_k=top_k, count_usage=True) for bank in (here, there))
            torch.testing.assert_close(a.output, b.output)
            torch.testing.assert_close(a.lse, b.lse)
            torch.testing.assert_close(a.usage, b.usage)
    assert there.location == options.get("placement", "host")
    there.evict(EvenSample(2))
    here.evict(EvenSample(2))
    assert torch.equal(here.view().keys, there.view().keys)
    if "folder" in options:
        assert len([*(tmp_path / "scratch").rglob("*.bin")]) == 2  # those of shorter rings are gone
        del there, bank
        gc.collect()
        assert [*(tmp_path / "scratch").rglob("*")] == []


def test_above_max_bytes_it_lives_on_the_host_and_comes_back_when_forgotten() -> None:
    bank = TensorBank(8, 8, max_bytes=64 * 2 * 8 * 4)
    new = torch.ones(1, 1, 40, 8)
    bank.write(new, new)
    assert bank.location == "device"
    bank.write(new, new, group="b")
    assert bank.location == "host"
    bank.reset("b")
    assert bank.location == "host"
    bank.reset()
    assert bank.location == "device"


def test_offload_and_prefetch_change_nothing_on_the_cpu() -> None:
    bank, query = bank_of(5), drawn(0, 1, 1, 2, 8)
    before = bank.read(query)
    bank.offload()
    same(bank.read(query), before)
    bank.prefetch()
    same(bank.read(query), before)
    assert bank.location == "device"


@pytest.mark.gpu
def test_offloaded_to_the_host_it_reads_as_on_the_device() -> None:
    bank = TensorBank(8, 8, 1000, heads=2, device="cuda", stream_block=100)
    query = drawn(0, 1, 2, 5, 8).cuda()
    for step in range(6):
        new = drawn(step, 1, 2, 300, 8).cuda()
        bank.write(new, new)
        wanted = bank.read(query)
        picked = bank.read(query, top_k=9)
        bank.offload()
        assert bank.location == "host"
        torch.testing.assert_close(bank.read(query).output, wanted.output)
        torch.testing.assert_close(bank.read(query, top_k=9).output, picked.output)
        if step % 2:
            bank.write(new, new, group="while away")
        bank.prefetch()
        same(bank.read(query, group=0), wanted)
        bank.purge("while away")
    host = TensorBank(8, 8, 1000, heads=2, device="cuda", placement="host", stream_block=100)
    held = bank.view()
    host.write(held.keys, held.value)
    torch.testing.assert_close(host.read(query).output, bank.read(query).output)
    assert bank.to("cpu").view().keys.device.type == "cpu"


def test_to_changes_the_dtype_of_what_is_stored_and_given() -> None:
    bank = bank_of(5)
    keys = bank.view(copy=True).keys
    assert bank.to(dtype=torch.bfloat16) is bank
    assert torch.equal(bank.view().keys, keys.bfloat16())
    assert bank.nbytes == 5 * 16 * 2


# --- saving ---


def exercise(bank: TensorBank, steps: range) -> list[Any]:
    """Writes, reads and evictions, and their visible results."""
    seen: list[Any] = []
    for step in steps:
        new = drawn(step, 1, 2, 3, 8)
        seen.append(bank.write(new, new, group=[0, "b.1"][step % 2], permanent=step % 5 == 1).tolist())
        result = bank.read(drawn(step + 50, 1, 2, 7, 8), top_k=[None, 4][step % 2])
        held = bank.view(copy=True)
        seen += [result.output, result.lse, result.usage, result.ids, held.uses, held.lives, held.times, held.keys]
    return seen


@pytest.mark.parametrize("policy", [Fifo(7), Fifo(8, 3), Usage(7, 2), EvenSample(3)])
@pytest.mark.parametrize("stop", [1, 6])
def test_saved_loaded_and_continued_is_bit_for_bit_as_never_stopped(policy: Policy, stop: int, tmp_path: Path) -> None:
    straight, stopped = (TensorBank(8, 8, heads=2, policy=policy, count_usage=True) for _ in range(2))
    wanted = exercise(straight, range(15))
    seen = exercise(stopped, range(stop))
    pieces = [segment.k.shape for segment in stopped.segments()]
    stopped.save(tmp_path / "memory")
    again = MemoryBank.load(tmp_path / "memory")
    assert isinstance(again, TensorBank)
    assert [segment.k.shape for segment in again.segments()] == pieces  # sums over large pieces depend on these
    seen += exercise(again, range(stop, 15))
    assert len(seen) == len(wanted)
    for a, b in zip(seen, wanted, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    names = set(straight.tensors())
    assert {"0.key", "0.value.value", "0.time", "0.use", "0.permanent", "~b%2E1.key"} <= names


def test_a_state_is_a_snapshot_and_loads_completely_or_not_at_all() -> None:
    bank = bank_of(4, capacity=6)
    state, kept = bank.state_dict(), bank.view(copy=True).keys
    new = torch.ones(1, 1, 5, 8)
    bank.write(new, new)
    other = bank_of(2, capacity=6)
    before = other.view(copy=True).keys
    damaged = {**state, "tensors": {k: v for k, v in state["tensors"].items() if k != "0.use"}}
    with pytest.raises(InputError, match=r"lacks 0\.use"):
        other.load_state_dict(damaged)
    with pytest.raises(InputError, match=r"0\.key is \(1, 1, 3, 8\); expected \(1, 1, 4, 8\)"):
        other.take_over(state["config"], {**state["tensors"], "0.key": torch.ones(1, 1, 3, 8)})
    with pytest.raises(InputError, match="key_dim is 8, expected 9"):
        TensorBank(9, 8, 6).load_state_dict(state)
    assert torch.equal(other.view().keys, before)
    other.load_state_dict(state)
    assert torch.equal(other.view().keys, kept)


def test_a_wrong_saved_option_error_lists_the_known_options() -> None:
    config = bank_of(1).config()
    with pytest.raises(InputError, match="no option speed; known: batch, capacity"):
        TensorBank.from_config({"bank": {**config["bank"], "speed": 3}})
    with pytest.raises(InputError, match="lacks key_dim, value_dim"):
        TensorBank.from_config({})


def test_a_model_that_uses_a_bank_keeps_its_state_dict() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_key = nn.Linear(8, 8)

        def forward(self, x: Tensor, memory: TensorBank) -> Tensor:
            key = self.to_key(x)
            memory.write(key, x)
            return memory.read(key).output

    model, memory = Reader(), TensorBank(8, 8, 4)
    names = [*model.state_dict()]
    model(torch.ones(1, 1, 3, 8), memory)
    assert [*model.state_dict()] == names
    model.memory = memory  # even if a user keeps it there
    assert [*model.state_dict()] == names
