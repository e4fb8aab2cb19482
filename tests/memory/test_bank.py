"""The common interface of all memories: folders, kinds, and use in compiled code."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import visionzoo
from visionzoo.attention import attention, attention_with_lse, merge_attention, segment_attention
from visionzoo.errors import InputError, VisionZooError
from visionzoo.memory import IndexBank, MemoryBank, TensorBank, TieredBank, Usage


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_names_are_there_without_loading_torch_first() -> None:
    assert visionzoo.MemoryBank is MemoryBank
    code = "import visionzoo.memory, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- reads of parts merge to a read of all ---


def test_any_split_of_a_memory_merges_to_one_softmax_with_its_gradients() -> None:
    query, key, value = (drawn(i, 2, 2, n, 4).requires_grad_() for i, n in enumerate((5, 12, 12)))
    full = attention(query, key, value)
    wanted = torch.autograd.grad(full.square().sum(), [query, key, value])
    for borders in ([0, 12], [0, 0, 5, 12], [0, 1, 2, 12, 12]):
        pieces = [slice(a, b) for a, b in itertools.pairwise(borders)]
        bank = TensorBank(4, 4, batch=2, heads=2)
        for place, piece in enumerate(pieces):
            bank.write(key[:, :, piece], value[:, :, piece], group=place, detach=False)
        reads = [bank.read(query, group=place) for place in range(len(pieces))]
        merged, _ = merge_attention([(read.output, read.lse) for read in reads])
        for out in (merged, bank.read(query).output):
            torch.testing.assert_close(out, full)
            for got, want in zip(torch.autograd.grad(out.square().sum(), [query, key, value]), wanted, strict=True):
                torch.testing.assert_close(got, want)


def test_a_part_that_is_fully_masked_changes_nothing() -> None:
    bank = TensorBank(4, 4)
    query, key = drawn(0, 1, 1, 5, 4).requires_grad_(), drawn(1, 1, 1, 6, 4)
    bank.write(key, key, group="seen")
    bank.write(key, key, group="hidden")
    seen, hidden = (
        bank.read(query, group=name, mask=torch.tensor(name == "seen").expand(5, 6), top_k=top_k)
        for name, top_k in (("seen", None), ("hidden", None))
    )
    assert torch.equal(hidden.lse, torch.full((1, 1, 5), -torch.inf))
    merged, lse = merge_attention([(seen.output, seen.lse), (hidden.output, hidden.lse)])
    wanted, wanted_lse = attention_with_lse(query, key, key)
    torch.testing.assert_close(merged, wanted)
    torch.testing.assert_close(lse, wanted_lse)
    (grad,) = torch.autograd.grad(merged.sum() + lse.sum(), query)
    assert grad.isfinite().all()
    for top_k in (None, 2):
        none = torch.zeros(5, 6, dtype=torch.bool)
        nothing = bank.read(query, group="hidden", mask=none, top_k=top_k, count_usage=True)
        assert torch.equal(nothing.output, torch.zeros(1, 1, 5, 4))
        assert nothing.usage is not None
        assert torch.equal(nothing.usage, torch.zeros(6))
        (grad,) = torch.autograd.grad(nothing.output.sum(), query)
        assert torch.equal(grad, torch.zeros_like(query))


# --- folders ---


def test_a_folder_opens_as_what_was_saved(tmp_path: Path) -> None:
    bank = TensorBank(2, 3, policy=Usage(9, 3), storage_dtype=torch.bfloat16, heads=2)
    bank.write(drawn(0, 1, 2, 5, 2), drawn(1, 1, 2, 5, 3), group="clip 1/é.mp4")
    bank.save(tmp_path / "a")
    bank.save(tmp_path / "a")  # over itself
    for cls in (MemoryBank, TensorBank):
        again = cls.load(tmp_path / "a")
        assert isinstance(again, TensorBank)
        assert again.groups == ["clip 1/é.mp4"]
        assert again.policy == Usage(9, 3)
        assert torch.equal(again.view().keys, bank.view().keys)
        assert again.nbytes == bank.nbytes
    with pytest.raises(InputError, match="holds a 'tensor' bank, not a 'tiered' one"):
        TieredBank.load(tmp_path / "a")
    state = torch.load(_saved(tmp_path / "state.pt", bank.state_dict()), weights_only=True)
    again = TensorBank.from_config(state["config"])
    again.load_state_dict(state)
    assert torch.equal(again.view().keys, bank.view().keys)
    TensorBank(2, 3).save(tmp_path / "empty")
    assert len(MemoryBank.load(tmp_path / "empty")) == 0


def _saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_a_path_that_is_not_a_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no memory bank"):
        MemoryBank.load(tmp_path)
    bank = TensorBank(2, 2)
    bank.write(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    bank.save(tmp_path)
    (tmp_path / "memory.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="cannot be read.*save the bank again"):
        MemoryBank.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"kind": "cloud"}, "known kinds: tensor"),
        ({"format": 99}, "format 99"),
        ({"files": ["../x"]}, "outside its folder"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            MemoryBank.load(tmp_path)


@pytest.mark.parametrize("change", [{"head": 99}, {"pinned": 3}, {"count": -1}])
def test_counters_that_contradict_each_other_are_refused(change: dict[str, int]) -> None:
    bank = TensorBank(2, 2, 4)
    bank.write(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    config = bank.config()
    config["state"]["groups"][0] |= change
    with pytest.raises(InputError, match="group 0 contradict each other"):
        bank.take_over(config, bank.tensors())
    assert len(bank) == 3


# --- static mode ---


def test_static_is_dynamic_with_fixed_shapes() -> None:
    static = TensorBank(4, 3, 7, permanent=2, mode="static", heads=2)
    dynamic = TensorBank(4, 3, 7, permanent=2, heads=2)
    query = drawn(99, 2, 4, 5, 4)
    keys = static.segments()[1].k.data_ptr()
    assert not static.read(query).output.any()
    for step, count in enumerate((2, 3, 2, 9, 1)):
        key, value = drawn(step, 1, 2, count, 4), drawn(step + 10, 1, 2, count, 3)
        ids = [bank.write(key, value, permanent=step == 2).tolist() for bank in (static, dynamic)]
        assert ids[0] == ids[1]
        a, b = (bank.read(query) for bank in (static, dynamic))
        torch.testing.assert_close(a.output, b.output)
        torch.testing.assert_close(a.lse, b.lse)
        views = [bank.view() for bank in (static, dynamic)]
        assert torch.equal(views[0].keys, views[1].keys)
        assert views[0].ids.tolist() == views[1].ids.tolist()
        assert views[0].times.tolist() == views[1].times.tolist()
        assert static.ids().tolist() == dynamic.ids().tolist()
        assert len(static) == len(dynamic)
    assert static.segments()[1].k.data_ptr() == keys
    again = TensorBank.from_config(static.config())
    again.load_state_dict(static.state_dict())
    for bank in (static, again):
        bank.write(key, value, time=torch.tensor(4.5))
    assert torch.equal(again.read(query).output, static.read(query).output)
    assert again.view().times.tolist() == static.view().times.tolist()
    static.batch_repeat(2)
    torch.testing.assert_close(static.read(query).output, again.read(query).output)
    static.reset(keep_permanent=True)
    assert len(static) == 2
    static.reset()
    assert not static.read(query).output.any()


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_fifty_writes_and_reads_compile_once(backend: str) -> None:
    """Otherwise, a video model compiled with its memory would compile again at each frame."""
    torch._dynamo.reset()
    bank = TensorBank(4, 4, 16, permanent=4, heads=2, mode="static")
    reference = TensorBank(4, 4, 16, heads=2)

    def step(key: Tensor, value: Tensor, query: Tensor, time: Tensor) -> Tensor:
        bank.write(key, value, time=time)
        return segment_attention(query, bank.segments())

    with torch.no_grad():
        for lasting in (bank, reference):
            lasting.write(drawn(0, 1, 2, 4, 4), drawn(1, 1, 2, 4, 4), permanent=True)
        compiled = torch.compile(step, backend=backend)
        for number in range(50):
            key, value, query = (drawn(3 * number + i, 1, 2, 3, 4) for i in range(3))
            if number < 2:
                got = compiled(key, value, query, torch.tensor(float(number)))
            else:
                with torch.compiler.set_stance("fail_on_recompile"):
                    got = compiled(key, value, query, torch.tensor(float(number)))
            reference.write(key, value, time=float(number))
            torch.testing.assert_close(got, reference.read(query).output)
    assert bank.view().times.tolist() == reference.view().times.tolist()
    torch._dynamo.reset()


def test_static_mode_says_what_it_does_not_do() -> None:
    bank, one = TensorBank(4, 4, 8, mode="static"), torch.ones(1, 1, 2, 4)
    for wrong in (
        lambda: bank.read(one, where={"policy": "never"}),
        lambda: bank.read(one, top_k=1),
        lambda: bank.read(one, mask=torch.ones(2, 8)),
        lambda: bank.read(one, count_usage=True),
        lambda: bank.write(one, one, detach=False),
        lambda: bank.evict(),
        lambda: bank.purge(ids=[0]),
        lambda: bank.view(where=Usage(3)),
        bank.offload,
    ):
        with pytest.raises(InputError, match="static mode takes no"):
            wrong()
    with pytest.raises(InputError, match="room for 0"):
        bank.write(one, one, permanent=True)


def test_an_empty_bank_is_still_a_bank() -> None:
    """`memory = memory or default` must not replace an empty bank."""
    assert len(TensorBank(4, 4)) == 0
    assert TensorBank(4, 4)


def test_every_kind_is_found_by_its_folder(tmp_path: Path) -> None:
    with IndexBank.open(dim=3) as bank:
        bank.write(torch.eye(3), [5, 6, 7])
        bank.save(tmp_path / "index")
    with MemoryBank.load(tmp_path / "index") as again:
        assert isinstance(again, IndexBank)
        assert again.read(torch.eye(3)[1:2], 1).ids.tolist() == [[6]]
    with pytest.raises(VisionZooError, match="not a 'tensor' one"):
        TensorBank.load(tmp_path / "index")
    with pytest.raises(VisionZooError, match="no memory bank"):
        MemoryBank.load(tmp_path)
