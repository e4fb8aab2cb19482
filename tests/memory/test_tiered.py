"""Elements that leave one tier are condensed into the next, and are read together with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from visionzoo.attention import attention
from visionzoo.errors import InputError
from visionzoo.memory import (
    Drop,
    Fifo,
    MemoryBank,
    Never,
    Pool,
    Prototypes,
    SimilarityMerge,
    TensorBank,
    TieredBank,
    Usage,
)
from visionzoo.memory.buffers import Elements
from visionzoo.memory.consolidate import Consolidator


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def leaving(count: int, frame: int = 1, **changes: Any) -> Elements:
    fields: dict[str, Any] = {
        "keys": drawn(0, 2, 2, count, 4),
        "values": {"value": drawn(1, 2, 2, count, 3)},
        "ids": torch.arange(count),
        "times": torch.arange(count // frame).repeat_interleave(frame).double(),
        "uses": torch.zeros(count, dtype=torch.float64),
        "lives": torch.ones(count, dtype=torch.int64),
        "weights": torch.ones(count, dtype=torch.float64),
    }
    return Elements(**(fields | changes))


def tiered(consolidator: Consolidator, working: int = 6, least: int = 2, long: int = 40) -> TieredBank:
    tiers = [TensorBank(4, 3, policy=Fifo(working, working - least), heads=2), TensorBank(4, 3, long, heads=2)]
    return TieredBank(tiers, [consolidator])


def fill(bank: TieredBank | TensorBank, steps: range, count: int = 2, **options: Any) -> None:
    for step in steps:
        bank.write(drawn(step, 1, 2, count, 4), drawn(step + 100, 1, 2, count, 3), **options)


# --- consolidators ---


def test_prototypes_are_the_most_used_per_life_with_mixed_values() -> None:
    uses = torch.tensor([9.0, 4, 3, 8, 1, 0], dtype=torch.float64)
    lives = torch.tensor([9, 1, 1, 8, 1, 1])  # 1, 4, 3, 1, 1, 0
    given = leaving(6, uses=uses, lives=lives)
    made = Prototypes(3)(given)
    assert made.times.tolist() == [1, 2, 4]  # of those with 1 the latest
    assert torch.equal(made.keys, given.keys[:, :, [1, 2, 4]])
    wanted = attention(given.keys[:, :, [1, 2, 4]], given.keys, given.value)
    torch.testing.assert_close(made.value, wanted)
    # convex mixtures: between the smallest and the largest candidate in each channel, weights that sum to 1
    assert (made.value <= given.value.amax(2, keepdim=True) + 1e-6).all()
    assert (made.value >= given.value.amin(2, keepdim=True) - 1e-6).all()
    ones = leaving(6, uses=uses, lives=lives, values={"value": torch.ones(2, 2, 6, 3)})
    torch.testing.assert_close(Prototypes(3)(ones).value, torch.ones(2, 2, 3, 3))
    assert float(made.weights.sum()) == 6
    assert made.lives.tolist() == [0, 0, 0]
    assert Prototypes(6)(given) is given


def test_the_most_similar_neighbours_merge_and_weigh_by_what_they_stand_for() -> None:
    keys = torch.tensor([[1.0, 0], [0, 1], [0.1, 1], [0.1, 0.9], [-1, 0]])[None, None].expand(2, 2, -1, -1)
    values = torch.arange(5.0).view(1, 1, 5, 1).expand(2, 2, -1, -1)
    given = leaving(5, keys=keys, values={"value": values})
    made = SimilarityMerge(3)(given)
    assert made.value[0, 0, :, 0].tolist() == [0, 2, 4]  # 1, 2 and 3 became one: (1 + 2 + 3) / 3
    assert made.weights.tolist() == [1, 3, 1]
    assert made.times.tolist() == [0, 2, 4]
    heavy = leaving(
        5, keys=keys, values={"value": values}, weights=torch.tensor([1.0, 6, 1, 1, 1], dtype=torch.float64)
    )
    assert SimilarityMerge(3)(heavy).value[0, 0, 1, 0] == pytest.approx((6 * 1 + 2 + 3) / 8)
    assert SimilarityMerge(5)(given) is given


def test_frames_are_merged_whole() -> None:
    given = leaving(12, frame=3)
    made = SimilarityMerge(2)(given)
    assert len(made) == 6
    assert made.times.unique().numel() == 2
    assert made.weights.reshape(2, 3).sum(0).tolist() == [4, 4, 4]
    # whatever merged, each element's originals are averaged: the weighted mean over all frames is unchanged
    mean = (made.value.unflatten(2, (2, 3)) * made.weights.view(2, 3, 1).float()).sum(2) / 4
    torch.testing.assert_close(mean, given.value.unflatten(2, (4, 3)).mean(2))


def test_pooling_is_the_mean_of_neighbours_in_time() -> None:
    given = leaving(14, frame=2)
    order = torch.from_numpy(np.random.default_rng(0).permutation(14))
    shuffled = leaving(
        14,
        keys=given.keys[:, :, order],
        values={"value": given.value[:, :, order]},
        ids=given.ids[order],
        times=given.times[order],
    )
    made = Pool(3)(shuffled)
    assert made.times.reshape(3, 2).tolist() == [[1, 1], [4, 4], [6, 6]]
    assert made.weights.reshape(3, 2).tolist() == [[3, 3], [3, 3], [1, 1]]
    frames = given.keys.unflatten(2, (7, 2))
    wanted = torch.stack([frames[:, :, :3].mean(2), frames[:, :, 3:6].mean(2), frames[:, :, 6]], 2).flatten(2, 3)
    torch.testing.assert_close(made.keys, wanted)
    torch.testing.assert_close(Pool(2)(Pool(3)(given)).keys[:, :, :2], frames[:, :, :6].mean(2))


@pytest.mark.parametrize("consolidator", [Pool(2), SimilarityMerge(1)])
def test_frames_of_different_size_are_refused_before_anything_is_lost(consolidator: Consolidator) -> None:
    bank = tiered(consolidator)
    fill(bank, range(2), 2)
    with pytest.raises(InputError, match="frames of 1 to 2 elements.*multiples of the frame's size"):
        fill(bank, range(2, 3), 3)
    assert bank.ids().tolist() == [0, 1, 2, 3]


# --- tiers ---


def test_read_is_one_softmax_over_all_tiers() -> None:
    bank = tiered(Pool(2))
    fill(bank, range(1), permanent=True)
    fill(bank, range(1, 9))
    working, long = bank.tiers
    assert len(long)
    assert len(working)
    assert bank.ids().unique().numel() == len(bank) == len(working) + len(long)
    query = drawn(50, 3, 4, 5, 4)
    views = [tier.view() for tier in bank.tiers]
    keys, values = torch.cat([v.keys for v in views], 2), torch.cat([v.value for v in views], 2)
    wanted = attention(query, keys, values)
    for top_k in (None, len(bank), 1000):
        torch.testing.assert_close(bank.read(query, top_k=top_k).output, wanted)
    got = bank.read(query, count_usage=True)
    assert got.usage is not None
    assert float(got.usage.sum()) == pytest.approx(4 * 5, rel=1e-5)
    torch.testing.assert_close(
        torch.cat([got.usage[[bank.ids().tolist().index(i) for i in tier.view().ids.tolist()]] for tier in bank.tiers]),
        torch.cat([tier.view().uses.float() for tier in bank.tiers]),
    )


def test_only_tiers_that_need_it_count_usage() -> None:
    for consolidator, needs in ((Pool(2), False), (Prototypes(2), True)):
        bank = tiered(consolidator)
        fill(bank, range(9))
        query = drawn(50, 1, 2, 5, 4)
        assert (bank.read(query).usage is not None) == needs
        assert bool(bank.tiers[0].view().lives.all()) == needs
        assert not bank.tiers[1].view().lives.any()


def test_long_term_memory_holds_what_working_memory_condensed() -> None:
    bank = tiered(Prototypes(2))
    fill(bank, range(3))
    query = drawn(50, 1, 2, 5, 4)
    bank.read(query)
    before = bank.tiers[0].view(copy=True)
    fill(bank, range(3, 4))
    assert bank.tiers[0].ids().tolist() == [6, 7]  # down to two
    best = np.sort(np.argsort(before.uses.numpy())[-2:])
    assert torch.equal(bank.tiers[1].view().keys, before.keys[:, :, best])
    assert bank.tiers[1].view().times.tolist() == before.times[best].tolist()
    assert bank.tiers[1].view().weights.tolist() == [3, 3]


def test_what_is_dropped_is_gone_and_groups_stay_apart() -> None:
    bank = tiered(Drop())
    fill(bank, range(5))
    assert len(bank.tiers[1]) == 0
    bank = tiered(Pool(2))
    fill(bank, range(6), group="a")
    fill(bank, range(6, 12), group="b")
    alone = tiered(Pool(2))
    fill(alone, range(6, 12), group="b")
    query = drawn(50, 1, 2, 5, 4)
    assert torch.equal(bank.read(query, group="b").output, alone.read(query).output)
    bank.purge("a")
    assert torch.equal(bank.read(query).output, alone.read(query).output)
    bank.batch_repeat(2)
    assert torch.equal(bank.read(query).output[1:], alone.read(query).output)
    bank.reset()
    assert len(bank) == bank.nbytes == 0


def test_three_tiers_pass_on_merged_elements() -> None:
    tiers = [TensorBank(4, 3, policy=Fifo(n, n // 2), heads=2) for n in (4, 4, 100)]
    bank = TieredBank(tiers, [Pool(2), SimilarityMerge(1)])
    fill(bank, range(40), 1)
    assert sum(float(tier.view().weights.sum()) for tier in tiers) == 40
    assert tiers[2].view().weights.max() > 2


def test_gradients_reach_what_was_condensed() -> None:
    bank = tiered(Prototypes(2), working=4)
    key = drawn(0, 1, 2, 4, 4).requires_grad_()
    bank.write(key, drawn(1, 1, 2, 4, 3), detach=False)
    fill(bank, range(2, 3))
    assert bank.tiers[0].count() == 2
    (grad,) = torch.autograd.grad(bank.read(drawn(3, 1, 2, 5, 4)).output.sum(), key)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("consolidator", [Prototypes(2), SimilarityMerge(1), Pool(2), Drop()])
def test_saved_loaded_and_continued_is_bit_for_bit_as_never_stopped(consolidator: Consolidator, tmp_path: Path) -> None:
    def use(bank: TieredBank, steps: range) -> list[Tensor | None]:
        seen = []
        for step in steps:
            fill(bank, range(step, step + 1), group=["a", 3][step % 2])
            got = bank.read(drawn(step + 50, 1, 2, 7, 4))
            seen += [got.output, got.lse, got.usage, got.ids]
        return seen

    straight, stopped = tiered(consolidator, long=5), tiered(consolidator, long=5)
    wanted = use(straight, range(20))
    seen = use(stopped, range(9))
    stopped.save(tmp_path)
    again = MemoryBank.load(tmp_path)
    assert isinstance(again, TieredBank)
    assert again.consolidators == [consolidator]
    seen += use(again, range(9, 20))
    for a, b in zip(seen, wanted, strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
    # back to an earlier state, over a later one
    straight.load_state_dict(MemoryBank.load(tmp_path).state_dict())
    for a, b in zip(use(straight, range(9, 20)), wanted[36:], strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def test_wrong_tiers_are_named() -> None:
    def bank(**options: Any) -> TensorBank:
        return TensorBank(4, 3, 9, **options)

    with pytest.raises(InputError, match="2 tiers and 0 consolidators"):
        TieredBank([bank(), bank()])
    with pytest.raises(InputError, match="tier 1 has"):
        TieredBank([bank(), bank(heads=2)], [Drop()])
    with pytest.raises(InputError, match="dynamic bank"):
        TieredBank([bank(), bank(mode="static")], [Drop()])
    taken = bank()
    TieredBank([taken, bank()], [Drop()])
    with pytest.raises(InputError, match="belong to no other bank"):
        TieredBank([taken, bank()], [Drop()])
    with pytest.raises(InputError, match="known: prototypes"):
        TieredBank([bank(), bank()], [{"consolidator": "mean"}])
    with pytest.raises(InputError, match="content of 2 tiers; expected 1"):
        TieredBank([bank()]).load_state_dict(TieredBank([bank(), bank()], [Drop()]).state_dict())


def test_a_full_last_tier_that_may_not_evict_refuses_and_nothing_is_lost() -> None:
    bank = TieredBank([TensorBank(4, 3, 4, heads=2), TensorBank(4, 3, 2, heads=2, policy=Never())], [Pool(1)])
    fill(bank, range(3))
    with pytest.raises(InputError, match="is full"):
        fill(bank, range(3, 4))
    assert len(bank) == 6
    assert Usage(3).needs_usage
