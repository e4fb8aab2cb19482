"""TensorBank is a list of elements with one softmax, whatever is written, dropped, moved, saved or repeated."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from visionzoo.attention import attention, segment_attention
from visionzoo.errors import InputError
from visionzoo.memory import (
    AnchorsAndRecent,
    EvenSample,
    Fifo,
    MemoryBank,
    Never,
    ReadResult,
    TensorBank,
    TimeWindow,
    Usage,
)
from visionzoo.memory.policies import Policy
from visionzoo.memory.scores import Rows

from .naive_bank import NaiveBank

KEY, VALUE = 3, 2
GROUPS: list[int | str] = [0, "0", "a.b/c"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bank_of(count: int, width: int = 8, **options: Any) -> TensorBank:
    bank = TensorBank(width, width, **options)
    bank.write(drawn(1, 1, bank.heads, count, width), drawn(2, 1, bank.heads, count, width))
    return bank


def same(a: ReadResult, b: ReadResult) -> None:
    assert torch.equal(a.output, b.output)
    assert torch.equal(a.lse, b.lse)
    assert a.ids is not None
    assert b.ids is not None
    assert torch.equal(a.ids, b.ids)
    if a.usage is not None:
        assert b.usage is not None
        assert torch.equal(a.usage, b.usage)


# --- against a list ---

group = st.sampled_from(GROUPS)
small = st.integers(0, 5)
evicting = st.one_of(
    st.builds(lambda n, h: Fifo(n, min(n, h)), st.integers(1, 9), st.integers(0, 3)),
    st.builds(lambda n, h: Usage(n, min(n, h)), st.integers(1, 9), st.integers(0, 3)),
    st.builds(AnchorsAndRecent, st.integers(0, 2), st.integers(1, 3), st.integers(1, 2)),
    st.builds(EvenSample, st.integers(1, 4)),
    st.just(Never()),
)
selecting = st.one_of(
    st.none(),
    st.builds(Fifo, st.integers(0, 4)),
    st.builds(AnchorsAndRecent, st.integers(0, 1), st.integers(0, 2)),
    st.builds(EvenSample, st.integers(1, 3)),
    st.just(TimeWindow(1, 3)),
)
write = st.tuples(
    st.just("write"), group, st.integers(0, 7), st.one_of(st.none(), st.integers(0, 6)), st.sampled_from([0, 0, 0, 1])
)
operation = st.one_of(
    write,
    write,
    st.tuples(
        st.just("read"),
        st.one_of(st.none(), group),
        selecting,
        st.one_of(st.none(), st.integers(1, 9)),
        st.booleans(),
    ),
    st.tuples(st.just("evict"), evicting),
    st.tuples(st.just("purge"), st.lists(group, max_size=1), st.lists(st.integers(0, 40), max_size=6)),
    st.tuples(st.just("reset"), st.one_of(st.none(), group), st.booleans()),
    st.just(("save",)),
    st.tuples(st.just("repeat"), st.integers(1, 2)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 1), min_size=1, max_size=2)),
)


def check(bank: TensorBank, naive: NaiveBank) -> None:
    assert len(bank) == len(naive.elements)
    assert bank.ids().tolist() == [e.id for e in naive.select(None, None)]
    for name in [None, *naive.groups]:
        wanted = sorted((e for e in naive.elements if name in (None, e.group)), key=lambda e: e.id)
        held = bank.view(group=name)
        assert held.ids.tolist() == [e.id for e in wanted]
        assert held.times.tolist() == [e.time for e in wanted]
        assert held.lives.tolist() == [e.life for e in wanted]
        assert held.uses.tolist() == pytest.approx([e.use for e in wanted], abs=1e-4)
        if wanted:
            assert torch.equal(held.keys, torch.stack([e.key for e in wanted], 2))
            assert torch.equal(held.value, torch.stack([e.value for e in wanted], 2))
    assert bank.count(permanent=True) == sum(e.permanent for e in naive.elements)


@settings(deadline=None, max_examples=120)
@given(
    evicting,
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.booleans(),
    st.lists(operation, min_size=1, max_size=14),
)
def test_random_use_equals_a_list(
    policy: Policy, batch: int, heads: int, permanent: int, small_blocks: bool, operations: list[Any]
) -> None:
    bank = TensorBank(
        KEY,
        VALUE,
        policy=policy,
        batch=batch,
        heads=heads,
        permanent=permanent,
        stream_block=3 if small_blocks else 16384,
        max_bytes=200 if small_blocks else None,
    )
    naive = NaiveBank(policy, batch, heads, KEY, VALUE)
    for step, (what, *details) in enumerate(operations):
        if what == "write":
            name, count, time, lasting = details
            key, value = (drawn(3 * step + i, bank.batch, heads, count, width) for i, width in enumerate((KEY, VALUE)))
            ids = bank.write(key, value, group=name, time=time, permanent=bool(lasting))
            assert ids.tolist() == naive.write(key, value, name, time, bool(lasting))
        elif what == "read":
            name, where, top_k, count = details
            query = drawn(3 * step + 2, bank.batch if bank.batch > 1 else 2, 2 * heads, 4, KEY)
            got = bank.read(query, group=name, where=where, top_k=top_k, count_usage=count)
            out, lse, usage = naive.read(query, name, where, top_k, count)
            torch.testing.assert_close(got.output, out, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(got.lse, lse, atol=2e-5, rtol=1e-4)
            assert got.ids is not None
            assert got.ids.tolist() == [e.id for e in naive.select(name, where)]
            if count:
                assert got.usage is not None
                assert got.usage.tolist() == pytest.approx(usage, abs=1e-4)
        elif what == "evict":
            assert bank.evict(details[0]).tolist() == naive.evict(details[0])
        elif what == "purge":
            before = len(naive.elements)
            naive.purge(*details)
            assert bank.purge(details[0], ids=details[1]) == before - len(naive.elements)
        elif what == "reset":
            bank.reset(details[0], keep_permanent=details[1])
            naive.reset(*details)
        elif what == "save":
            again = TensorBank.from_config(bank.config())
            again.load_state_dict(bank.state_dict())
            bank = again
        elif what == "repeat" and bank.batch * details[0] <= 4:
            indices = [*range(bank.batch)] * details[0]
            bank.batch_repeat(details[0])
            naive.over_batch(indices)
        elif what == "select":
            indices = [i % bank.batch for i in details[0]]
            bank.batch_select(indices)
            naive.over_batch(indices)
        check(bank, naive)


def test_a_write_of_more_than_the_capacity_keeps_the_newest_and_names_all() -> None:
    bank = bank_of(3, capacity=5)
    key = drawn(5, 1, 1, 12, 8)
    assert bank.write(key, key).tolist() == [*range(3, 15)]
    assert bank.ids().tolist() == [*range(10, 15)]
    assert torch.equal(bank.view().keys, key[:, :, 7:])


def test_a_full_bank_that_may_not_evict_refuses_and_stays_as_it_is() -> None:
    bank = bank_of(3, capacity=4, policy=Never())
    key = torch.ones(1, 1, 2, 8)
    with pytest.raises(InputError, match="group 0 is full: 5 elements to keep by Never.*capacity is 4"):
        bank.write(key, key)
    assert bank.ids().tolist() == [0, 1, 2]
    bank.write(key, key, permanent=True)  # does not count
    assert len(bank) == 5


def test_victims_are_shown_before_they_go_and_a_failing_callback_loses_nothing() -> None:
    bank = bank_of(4, capacity=4, policy=Fifo(4, hysteresis=2))
    seen: list[Any] = []
    bank.on_evict = lambda leaving: seen.append((leaving.ids.tolist(), leaving.keys.clone(), leaving.group, len(bank)))
    before = bank.view(copy=True).keys
    key = torch.ones(1, 1, 3, 8)
    bank.write(key, key, group="other")
    bank.write(key, key, time=7)
    assert [(ids, group, count) for ids, _, group, count in seen] == [([0, 1, 2, 3, 7], 0, 7)]
    assert torch.equal(seen[0][1], torch.cat([before, key[:, :, :1]], 2))

    def fail(leaving: object) -> None:
        raise RuntimeError

    bank.on_evict, held = fail, bank.ids().tolist()
    with pytest.raises(RuntimeError):
        bank.write(key, key)
    with pytest.raises(RuntimeError):
        bank.evict(Fifo(1))
    assert bank.ids().tolist() == held


def test_times_default_to_the_number_of_the_write() -> None:
    bank = TensorBank(1, 1)
    one = torch.ones(1, 1, 2, 1)
    bank.write(one, one)
    bank.write(one, one, time=0.5)
    bank.write(one, one, time=[7, 8.5])
    bank.write(one, one, permanent=True)
    bank.write(one, one, group="b")
    assert bank.view(group=0).times.tolist() == [0, 0, 0.5, 0.5, 7, 8.5, 3, 3]
    assert bank.view(group="b").times.tolist() == [0, 0]


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_gaps_close_in_a_wrapped_ring_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("visionzoo.memory.buffers._BLOCK", block)
    key = drawn(0, 1, 2, 90, 8)
    bank = TensorBank(8, 8, 64, heads=2)
    bank.write(key, key)
    bank.write(key[:, :, :20], key[:, :, :20], time=1)  # begins before the oldest
    buffer = bank.segments()[0].k.untyped_storage().data_ptr()
    kept = [i for i in range(46, 110) if i % 3]
    assert bank.purge(ids=[i for i in range(110) if i % 3 == 0]) == 64 - len(kept)
    assert bank.ids().tolist() == kept
    assert torch.equal(bank.view().keys, torch.cat([key, key[:, :, :20]], 2)[:, :, kept])
    assert bank.segments()[0].k.untyped_storage().data_ptr() == buffer
    bank.write(key[:, :, :25], key[:, :, :25])
    assert bank.ids().tolist() == [*kept[len(kept) + 25 - 64 :], *range(110, 135)]


# --- reading ---


def test_top_k_of_all_elements_is_the_full_read_with_its_gradients() -> None:
    bank = TensorBank(4, 6, heads=2, batch=2, capacity=7)
    key, value = drawn(0, 2, 2, 10, 4).requires_grad_(), drawn(1, 2, 2, 10, 6).requires_grad_()
    bank.write(key[:, :, :5], value[:, :, :5], detach=False)
    bank.write(key[:, :, 5:], value[:, :, 5:], detach=False)
    query, mask = drawn(2, 2, 4, 3, 4).requires_grad_(), drawn(3, 1, 4, 3, 7).requires_grad_()
    results = []
    for top_k in (None, 7, 100):
        got = bank.read(query, top_k=top_k, mask=mask, count_usage=True)
        score = (got.output * drawn(4, *got.output.shape)).sum() + (got.lse * drawn(5, *got.lse.shape)).sum()
        results.append((got.output, got.lse, got.usage, *torch.autograd.grad(score, [query, mask, key, value])))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("key_block", [3, 4096])
def test_top_k_in_blocks_takes_the_best_of_all_blocks(monkeypatch: pytest.MonkeyPatch, key_block: int) -> None:
    monkeypatch.setattr("visionzoo.memory.scores._KEYS", key_block)
    monkeypatch.setattr("visionzoo.memory.scores._BLOCK", {"cpu": 50})
    bank = bank_of(40, capacity=33, heads=2)
    query, mask = 30 * drawn(9, 3, 2, 5, 8), drawn(8, 3, 1, 5, 33) > 0
    mask[0, 0, 0] = False
    got = bank.read(query, top_k=2, mask=mask, count_usage=True)
    held = bank.view()
    scores = (query @ held.keys.transpose(2, 3) * 8**-0.5).masked_fill(~mask, -torch.inf)
    best, index = scores.topk(2)
    weights = best.softmax(-1).nan_to_num(0)
    wanted = (weights.unsqueeze(-1) * held.value.expand(3, -1, -1, -1).unsqueeze(2).expand(-1, -1, 5, -1, -1).gather(
        3, index.unsqueeze(-1).expand(-1, -1, -1, -1, 8))).sum(3)  # fmt: skip
    torch.testing.assert_close(got.output, wanted)
    torch.testing.assert_close(got.lse, best.logsumexp(-1))
    assert got.usage is not None
    assert float(got.usage.sum()) == pytest.approx(float(weights.sum()) / 3, rel=1e-5)


@pytest.mark.parametrize("top_k", [None, 3])
def test_scores_exist_in_blocks_only(monkeypatch: pytest.MonkeyPatch, top_k: int | None) -> None:
    """All scores of a video's queries against a long memory would not fit anywhere."""
    monkeypatch.setattr("visionzoo.memory.scores._KEYS", 16)
    monkeypatch.setattr("visionzoo.memory.scores._BLOCK", {"cpu": 200})
    sizes, original = [], Rows.scores
    monkeypatch.setattr(Rows, "scores", lambda *a: (sizes.append((x := original(*a)).numel()), x)[1])
    bank = bank_of(100, heads=2)
    bank.read(drawn(0, 1, 4, 30, 8), top_k=top_k, count_usage=True)
    assert sum(sizes) == 4 * 30 * 100
    assert max(sizes) <= 200


def test_scores_too_large_for_exp_give_no_infinities() -> None:
    bank = bank_of(20)
    for top_k in (None, 3):
        got = bank.read(1e4 * drawn(0, 1, 1, 4, 8), top_k=top_k, count_usage=True)
        assert got.output.isfinite().all()
        assert got.lse.isfinite().all()
        assert got.usage is not None
        assert float(got.usage.sum()) == pytest.approx(4, rel=1e-3)


def test_an_empty_bank_reads_as_nothing_and_merges() -> None:
    bank = TensorBank(8, 4, heads=2)
    for top_k in (None, 5):
        got = bank.read(torch.ones(3, 2, 5, 8), top_k=top_k, count_usage=True)
        assert torch.equal(got.output, torch.zeros(3, 2, 5, 4))
        assert torch.equal(got.lse, torch.full((3, 2, 5), -torch.inf))
    assert len(bank.view()) == 0
    assert bank.view().keys.shape == (1, 2, 0, 8)
    own = (drawn(0, 1, 2, 3, 8), drawn(1, 1, 2, 3, 4))
    query = drawn(2, 1, 2, 5, 8)
    torch.testing.assert_close(segment_attention(query, [*bank.segments(), own]), attention(query, *own))


def test_memory_and_own_keys_are_one_softmax() -> None:
    bank = bank_of(11, capacity=6, heads=2)
    held, query, own = bank.view(), drawn(3, 1, 2, 5, 8), (drawn(4, 1, 2, 3, 8), drawn(5, 1, 2, 3, 8))
    joint = segment_attention(query, [*bank.segments(), own])
    wanted = attention(query, torch.cat([held.keys, own[0]], 2), torch.cat([held.value, own[1]], 2))
    torch.testing.assert_close(joint, wanted)


def test_gradients_of_all_that_is_read_go_back_through_later_writes() -> None:
    """Truncated back-propagation: the ring is written again before the loss of an earlier read is differentiated."""
    bank, query = bank_of(4, capacity=4), drawn(0, 1, 1, 2, 8).requires_grad_()
    held = bank.view(copy=True)
    first = bank.read(query).output
    new = drawn(1, 1, 1, 3, 8)
    bank.write(new, new)
    second = bank.read(query, top_k=2).output
    bank.write(new, new)
    (got,) = torch.autograd.grad(first.sum() + 0 * second.sum(), query)
    (wanted,) = torch.autograd.grad(attention(query, held.keys, held.value).sum(), query)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("policy", [Fifo(5), Usage(5, 1)])
def test_training_through_memory_equals_joining_by_hand(policy: Policy) -> None:
    """Written with its graph, then overwritten, compacted, repeated, and written without: gradients stay right."""
    key, value = drawn(0, 1, 1, 9, 8).requires_grad_(), drawn(1, 1, 1, 9, 8).requires_grad_()
    query = drawn(2, 2, 1, 3, 8)
    bank = TensorBank(8, 8, policy=policy)
    total, by_hand = torch.zeros(()), torch.zeros(())
    for start in (0, 3, 6):
        part = slice(start, start + 3)
        bank.write(key[:, :, part], value[:, :, part], detach=False)
        total = total + bank.read(query).output.square().sum()
        index = bank.ids()
        by_hand = by_hand + attention(query, key[:, :, index], value[:, :, index]).square().sum()
    bank.batch_repeat(2)
    with torch.no_grad():
        new = torch.ones(1, 1, 2, 8)
        bank.write(new, new)
    assert bank.view().keys.requires_grad
    ids = bank.ids()
    total = total + bank.read(query).output.sum()
    keys, values = (torch.cat([x, new.expand(1, 1, 2, 8)], 2)[:, :, ids] for x in (key, value))
    by_hand = by_hand + attention(query, keys, values).sum()
    for got, wanted in zip(
        torch.autograd.grad(total, [key, value]), torch.autograd.grad(by_hand, [key, value]), strict=True
    ):
        torch.testing.assert_close(got, wanted)
    bank.detach()
    assert not bank.view().keys.requires_grad
    bank.write(new, new)
    assert not bank.read(query).output.requires_grad


def test_a_bank_made_in_inference_mode_is_written_outside_of_it_and_back() -> None:
    bank = TensorBank(8, 8, 4)
    new = torch.ones(1, 1, 3, 8)
    for mode in (True, False, True, False):
        with torch.inference_mode(mode):
            bank.write(new.clone(), new.clone())
            bank.batch_repeat(2)
            bank.batch_select([1])
            bank.write(new.clone(), new.clone())
            bank.read(torch.ones(1, 1, 1, 8))
    assert bank.read(torch.ones(1, 1, 1, 8, requires_grad=True)).output.requires_grad


def test_a_distance_is_a_product_of_wider_keys_and_queries() -> None:
    """As the description of the class says, for XMem's similarity."""
    key, query = drawn(0, 1, 1, 9, 4), drawn(1, 1, 1, 5, 4)
    shrinkage, selection = 1 + drawn(2, 1, 1, 9, 1).square(), drawn(3, 1, 1, 5, 4).sigmoid()
    distance = (selection.unsqueeze(3) * (key.unsqueeze(2) - query.unsqueeze(3)).square()).sum(-1)
    wanted = (-shrinkage.squeeze(-1).unsqueeze(2) * distance).softmax(-1) @ key
    bank = TensorBank(9, 4)
    bank.write(torch.cat([2 * shrinkage * key, -shrinkage * key.square(), -shrinkage], -1), key)
    wide = torch.cat([selection * query, selection, (selection * query.square()).sum(-1, keepdim=True)], -1)
    torch.testing.assert_close(bank.read(wide, scale=1.0).output, wanted)


def test_values_have_names() -> None:
    bank = TensorBank(2, {"mask": 1, "image.x": 3}, 4)
    key, values = drawn(0, 1, 1, 6, 2), {"mask": drawn(1, 1, 1, 6, 1), "image.x": drawn(2, 1, 1, 6, 3)}
    bank.write(key, values)
    query = drawn(3, 1, 1, 2, 2)
    for name, value in values.items():
        torch.testing.assert_close(
            bank.read(query, value=name).output, attention(query, key[:, :, 2:], value[:, :, 2:])
        )
    with pytest.raises(InputError, match=r"value=None: say which one to read: mask, image\.x"):
        bank.read(query)
    with pytest.raises(InputError, match="this bank keeps mask, image.x"):
        bank.write(key, values["mask"])
    again = TensorBank.from_config(bank.config())
    again.take_over(bank.config(), bank.tensors())
    assert torch.equal(again.view().values["image.x"], values["image.x"][:, :, 2:])


# --- order, copies, memory ---


def test_a_view_of_the_first_and_the_previous_frame_is_no_copy_and_in_order() -> None:
    """The published numbers of window-by-window editing depend on this order of keys."""
    frames = [drawn(i, 2, 4, 6, 8) for i in range(5)]
    bank = TensorBank(8, 8, 6, batch=2, heads=4)
    bank.write(frames[0], frames[0], permanent=True)
    for frame in frames[1:]:
        bank.write(frame, frame)
        held = bank.view()
        assert torch.equal(held.keys, torch.cat([frames[0], frame], 2))
        assert held.keys.data_ptr() == bank.view(where=AnchorsAndRecent(1, 1)).keys.data_ptr()
        assert held.keys.data_ptr() == bank.segments()[0].k.data_ptr()


def test_a_permanent_element_stands_where_it_was_written() -> None:
    bank = bank_of(2)
    one = torch.ones(1, 1, 1, 8)
    bank.write(one, one, permanent=True)
    bank.write(one, one)
    assert bank.view().ids.tolist() == [0, 1, 2, 3]
    assert bank.ids().tolist() == [2, 0, 1, 3]  # reading order
    assert bank.view(where=Fifo(2)).ids.tolist() == [2, 3]


def test_reading_a_large_ring_makes_no_copy_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of(5000, capacity=3000, width=16)
    bank.write(*(drawn(i, 1, 1, 1000, 16) for i in range(2)))
    sizes = []
    original = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *a: sizes.append(1) or original(*a))
    lengths = [segment.k.shape[2] for segment in bank.segments()]
    storages = {segment.k.untyped_storage().data_ptr() for segment in bank.segments()}
    assert sum(lengths) == 3000
    assert len(lengths) == 2
    assert len(storages) == 1
    assert not sizes


def test_a_write_does_not_touch_what_is_there() -> None:
    """Its work does not grow with the bank: nothing of the bank's size is allocated."""
    bank = bank_of(200_000, capacity=200_000, width=1)
    new = torch.ones(1, 1, 4, 1)
    buffer = bank.segments()[0].k.untyped_storage().data_ptr()
    bank.write(new, new)
    gc.collect()
    tracemalloc.start()
    for _ in range(20):
        bank.write(new, new)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert bank.segments()[0].k.untyped_storage().data_ptr() == buffer


def test_a_batch_of_one_is_repeated_without_a_copy_until_the_next_write() -> None:
    bank = bank_of(5, capacity=5, heads=2)
    alone = bank.view(copy=True)
    bank.batch_repeat(3)
    held = bank.view()
    assert held.keys.shape == (3, 2, 5, 8)
    assert held.keys.stride(0) == 0
    new = drawn(3, 3, 2, 2, 8)
    bank.write(new, new)
    assert torch.equal(bank.view().keys, torch.cat([alone.keys.expand(3, -1, -1, -1)[:, :, 2:], new], 2))
    assert torch.equal(held.keys, alone.keys.expand(3, -1, -1, -1))
    bank.batch_select(torch.tensor([2, 0]))
    assert torch.equal(bank.view().keys[:, :, 3:], new[[2, 0]])
    with pytest.raises(InputError, match="from a batch of 2"):
        bank.batch_select([2])


def test_use_and_eviction_are_the_same_for_a_repeated_batch() -> None:
    """Guidance doubles the batch; the memory must not forget something else for it."""
    banks = [bank_of(12, policy=Usage(12, 4), heads=2) for _ in range(2)]
    banks[1].batch_repeat(3)
    for step in range(4):
        query = drawn(10 + step, 1, 2, 6, 8)
        for times, bank in zip((1, 3), banks, strict=True):
            bank.read(query.repeat(times, 1, 1, 1), top_k=None if step % 2 else 4)
    uses = [bank.view().uses for bank in banks]
    torch.testing.assert_close(*uses)
    assert uses[0].argsort().tolist() == uses[1].argsort().tolist()
    new = drawn(20, 1, 2, 1, 8)
    for bank in banks:
        bank.write(new, new)
    assert len(banks[0]) == 8
    assert banks[0].ids().tolist() == banks[1].ids().tolist()


def test_usage_over_some_queries_stands_for_all() -> None:
    bank, query = bank_of(9), drawn(5, 2, 1, 1, 8).expand(2, 1, 40, 8)
    whole = bank.read(query, count_usage=True).usage
    some = bank.read(query, count_usage=True, usage_queries=7, mask=torch.ones(40, 9, dtype=torch.bool)).usage
    torch.testing.assert_close(whole, some)
    assert bank.read(query).usage is None


def test_bfloat16_storage_is_near_float32() -> None:
    """Weights are computed in float32: the error is that of the rounded values and keys, 2^-9 relative each."""
    full, half = bank_of(300, heads=2), bank_of(300, heads=2, storage_dtype=torch.bfloat16, stream_block=37)
    query = drawn(5, 1, 2, 20, 8)
    assert half.nbytes * 2 == full.nbytes
    assert half.view().keys.dtype == torch.float32
    largest = full.view().value.abs().max() * (
        1 + 2 * query.norm(dim=-1).max() * full.view().keys.norm(dim=-1).max() / 8**0.5
    )
    for top_k in (None, 300):
        a, b = full.read(query, top_k=top_k), half.read(query, top_k=top_k)
        assert b.output.dtype == torch.float32
        assert float((a.output - b.output).abs().max()) < float(largest) * 2**-8
    assert half.read(query.bfloat16()).output.dtype == torch.bfloat16


def test_sequences_and_groups_do_not_mix() -> None:
    together, apart = [TensorBank(8, 8, 6) for _ in range(2)], [TensorBank(8, 8, 6) for _ in range(2)]
    joint = TensorBank(8, 8, 6)
    for step in range(5):
        for which in range(2):
            new = drawn(10 * step + which, 1, 1, 4, 8)
            together[which].write(new, new)
            joint.write(new, new, group=which)
    for which in range(2):
        for step in range(5):
            new = drawn(10 * step + which, 1, 1, 4, 8)
            apart[which].write(new, new)
    query = drawn(99, 1, 1, 3, 8)
    for which in range(2):
        same(together[which].read(query), apart[which].read(query))
        assert torch.equal(joint.read(query, group=which).output, apart[which].read(query).output)


# --- places ---


@pytest.mark.parametrize("options", [{"placement": "host"}, {"placement": "disk"}, {"max_bytes": 2000}])
def test_a_bank_elsewhere_reads_as_on_the_device(options: dict[str, Any], tmp_path: Path) -> None:
    here = TensorBank(8, 8, 40, heads=2)
    if options.get("placement") == "disk":
        options = options | {"folder": tmp_path / "scratch"}
    there = TensorBank(8, 8, 40, heads=2, stream_block=7, **options)
    query = drawn(50, 2, 2, 5, 8)
    for step in range(9):
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
    """Writes, reads, evictions; what a user could see of them."""
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


def test_a_state_is_a_snapshot_and_is_taken_over_whole_or_not_at_all() -> None:
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


def test_a_wrong_saved_option_is_told_what_is_known() -> None:
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


# --- wrong use ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorBank(0, 8), "key_dim is 0"),
        (lambda: TensorBank(8, {}), "at least one value"),
        (lambda: TensorBank(8, {"a": -1}), "value_dim 'a' is -1"),
        (lambda: TensorBank(8, 8, 5, policy=Usage(6)), "more than the capacity of 5"),
        (lambda: TensorBank(8, 8, mode="quick"), "'quick'.*dynamic, static"),
        (lambda: TensorBank(8, 8, placement="moon"), "'moon'.*device, host, disk"),  # type: ignore[arg-type]
        (lambda: TensorBank(8, 8, mode="static"), "static mode needs a capacity"),
        (lambda: TensorBank(8, 8, 5, mode="static", policy=Usage(5)), "knows Fifo"),
        (lambda: TensorBank(8, 8, 5, mode="static", placement="host"), "on the device"),
        (lambda: bank_of(3).read(torch.ones(1, 1, 2, 9)), r"query \(1, 1, 2, 9\) does not fit.*width 8"),
        (lambda: bank_of(3, batch=2).read(torch.ones(3, 1, 2, 8)), "expected batch 2"),
        (lambda: bank_of(3, heads=2).read(torch.ones(1, 3, 2, 8)), "2 heads or a multiple"),
        (lambda: bank_of(3).read(torch.ones(1, 1, 2, 8), top_k=0), "top_k is 0"),
        (lambda: bank_of(3).read(torch.ones(1, 1, 2, 8), mask=torch.ones(2, 4)), "does not broadcast"),
        (lambda: bank_of(3).read(torch.ones(1, 1, 2, 8), mask=torch.ones(2, 4), top_k=2), "does not broadcast"),
        (lambda: bank_of(3).read(torch.ones(1, 1, 2, 8), where={"policy": "last"}), "known: fifo"),
        (lambda: bank_of(3).write(torch.ones(1, 1, 2, 8), torch.ones(1, 1, 3, 8)), "value.value is .*elements 2"),
        (lambda: bank_of(3).write(torch.ones(1, 1, 2, 7), torch.ones(1, 1, 2, 8)), "key is .*width 8"),
        (lambda: bank_of(3).write(*[torch.ones(1, 1, 2, 8)] * 2, time=[1, 2, 3]), "time has shape"),
        (lambda: bank_of(3).write(*[torch.ones(1, 1, 2, 8)] * 2, time=float("nan")), "finite"),
    ],
)
def test_wrong_use_is_named(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_one_head_may_go_without_its_axis() -> None:
    bank = TensorBank(8, 8, 4)
    key, query = drawn(0, 1, 6, 8), drawn(1, 3, 2, 8)
    bank.write(key, key)
    for top_k in (None, 2):
        got = bank.read(query, top_k=top_k)
        assert got.output.shape == (3, 2, 8)
        assert got.lse.shape == (3, 2)
