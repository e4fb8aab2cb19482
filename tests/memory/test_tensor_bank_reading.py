"""Reads of a TensorBank: the best k, blocks, gradients through the memory, training."""

from __future__ import annotations

import pytest
import torch

from visionzoo.attention import attention, segment_attention
from visionzoo.memory import (
    Fifo,
    TensorBank,
    Usage,
)
from visionzoo.memory.policies import Policy
from visionzoo.memory.scores import Rows

from .banks import bank_of, drawn


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
    """The scores of all queries of a video with a long memory would not fit into memory."""
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


def test_a_read_of_an_empty_bank_is_zero_and_merges() -> None:
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
    """Elements are written with their graph, then overwritten, compacted, repeated, and written without: gradients stay right."""
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
    """XMem's similarity, as described in the docstring of the class."""
    key, query = drawn(0, 1, 1, 9, 4), drawn(1, 1, 1, 5, 4)
    shrinkage, selection = 1 + drawn(2, 1, 1, 9, 1).square(), drawn(3, 1, 1, 5, 4).sigmoid()
    distance = (selection.unsqueeze(3) * (key.unsqueeze(2) - query.unsqueeze(3)).square()).sum(-1)
    wanted = (-shrinkage.squeeze(-1).unsqueeze(2) * distance).softmax(-1) @ key
    bank = TensorBank(9, 4)
    bank.write(torch.cat([2 * shrinkage * key, -shrinkage * key.square(), -shrinkage], -1), key)
    wide = torch.cat([selection * query, selection, (selection * query.square()).sum(-1, keepdim=True)], -1)
    torch.testing.assert_close(bank.read(wide, scale=1.0).output, wanted)
