"""TensorBank equals a list of elements with one softmax, for anything written, dropped, moved, saved or repeated."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.attention import attention
from visionzoo.errors import InputError
from visionzoo.memory import (
    AnchorsAndRecent,
    EvenSample,
    Fifo,
    Never,
    TensorBank,
    TimeWindow,
    Usage,
)
from visionzoo.memory.policies import Policy

from .banks import bank_of, drawn, same
from .naive_bank import NaiveBank

KEY, VALUE = 3, 2
GROUPS: list[int | str] = [0, "0", "a.b/c"]


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


@settings(deadline=None, max_examples=60)
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


def test_a_full_bank_that_may_not_evict_refuses_and_stays_unchanged() -> None:
    bank = bank_of(3, capacity=4, policy=Never())
    key = torch.ones(1, 1, 2, 8)
    with pytest.raises(InputError, match="group 0 is full: 5 elements to keep by Never.*capacity is 4"):
        bank.write(key, key)
    assert bank.ids().tolist() == [0, 1, 2]
    bank.write(key, key, permanent=True)  # does not count
    assert len(bank) == 5


def test_on_evict_gets_elements_before_they_are_dropped_and_a_failing_callback_loses_nothing() -> None:
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


# --- order, copies, memory ---


def test_values_have_names() -> None:
    bank = TensorBank(2, {"mask": 1, "image.x": 3}, 4)
    key, values = drawn(0, 1, 1, 6, 2), {"mask": drawn(1, 1, 1, 6, 1), "image.x": drawn(2, 1, 1, 6, 3)}
    bank.write(key, values)
    query = drawn(3, 1, 1, 2, 2)
    for name, value in values.items():
        torch.testing.assert_close(
            bank.read(query, value=name).output, attention(query, key[:, :, 2:], value[:, :, 2:])
        )
    with pytest.raises(InputError, match=r"value=None; choose the value to read: mask, image\.x"):
        bank.read(query)
    with pytest.raises(InputError, match="this bank keeps mask, image.x"):
        bank.write(key, values["mask"])
    again = TensorBank.from_config(bank.config())
    again.take_over(bank.config(), bank.tensors())
    assert torch.equal(again.view().values["image.x"], values["image.x"][:, :, 2:])


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


def test_a_view_has_permanent_elements_in_the_order_of_writing() -> None:
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


def test_a_write_leaves_existing_elements_unchanged() -> None:
    """The work does not grow with the bank: nothing of the bank's size is allocated."""
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
    """Guidance doubles the batch, which must not change what the memory evicts."""
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
    """Weights are computed in float32: the error comes only from rounded values and keys, 2^-9 relative each."""
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


# --- wrong use ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorBank(0, 8), "key_dim must be an integer of at least 1"),
        (lambda: TensorBank(8, {}), "at least one value"),
        (lambda: TensorBank(8, {"a": -1}), "value_dim 'a' must be an integer of at least 1, got -1"),
        (lambda: TensorBank(8, 8, 5, policy=Usage(6)), "more than the capacity of 5"),
        (lambda: TensorBank(8, 8, mode="quick"), "'quick'.*dynamic, static"),
        (lambda: TensorBank(8, 8, placement="moon"), "'moon'.*device, host, disk"),  # type: ignore[arg-type]
        (lambda: TensorBank(8, 8, mode="static"), "static mode needs a capacity"),
        (lambda: TensorBank(8, 8, 5, mode="static", policy=Usage(5)), "supports Fifo"),
        (lambda: TensorBank(8, 8, 5, mode="static", placement="host"), "on the device"),
        (lambda: bank_of(3).read(torch.ones(1, 1, 2, 9)), r"query \(1, 1, 2, 9\) does not fit.*width 8"),
        (lambda: bank_of(3, batch=2).read(torch.ones(3, 1, 2, 8)), "expected batch 2"),
        (lambda: bank_of(3, heads=2).read(torch.ones(1, 3, 2, 8)), "2 heads or a multiple"),
        (
            lambda: bank_of(3).read(torch.ones(1, 1, 2, 8), top_k=0),
            "top_k must be at least 1, or None for all keys, got 0",
        ),
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


def test_a_policy_evicts_from_one_group_only() -> None:
    bank = TensorBank(8, 8)
    for group in ("old", "new"):
        bank.write(drawn(0, 1, 1, 6, 8), drawn(1, 1, 1, 6, 8), group=group, time=[*range(6)])
    assert bank.evict(Fifo(2), group="old").tolist() == [0, 1, 2, 3]
    assert (bank.count("old"), bank.count("new")) == (2, 6)
