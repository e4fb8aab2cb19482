"""Merging low-rank updates: exact sums, best approximations, kernels of convolutions, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visionzoo.errors import InputError
from visionzoo.memory import ParametricBank, merge_pairs, merge_values

SHAPES = {"linear": ((6,), ()), "conv3d": ((6, 3, 1, 1), (1, 1, 1))}


def pair(seed: int, rank: int, kind: str = "linear", out: int = 5) -> tuple[Tensor, Tensor]:
    inputs, ones = SHAPES[kind]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, *inputs, generator=generator), torch.randn(out, rank, *ones, generator=generator)


def product(down: Tensor, up: Tensor) -> Tensor:
    return up.flatten(1) @ down.flatten(1)


@pytest.mark.parametrize("kind", SHAPES)
class TestPairs:
    def test_side_by_side_is_the_exact_sum(self, kind: str) -> None:
        pairs, weights = [pair(0, 2, kind), pair(1, 3, kind)], [0.75, -2.0]
        down, up = merge_pairs(pairs, weights)
        assert (down.shape, up.shape) == ((5, *pairs[0][0].shape[1:]), (5, 5, *pairs[0][1].shape[2:]))
        torch.testing.assert_close(product(down, up), 0.75 * product(*pairs[0]) - 2 * product(*pairs[1]))

    def test_a_decomposition_is_the_best_of_its_rank(self, kind: str) -> None:
        pairs, weights = [pair(0, 2, kind), pair(1, 2, kind)], [1.0, 0.5]
        whole = product(*pairs[0]) + 0.5 * product(*pairs[1])
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        for rank in (1, 2, 3):
            down, up = merge_pairs(pairs, weights, rank)
            best = left[:, :rank] * values[:rank] @ right[:rank]
            torch.testing.assert_close(product(down, up), best)
            torch.testing.assert_close(down.norm(), up.norm())
        for rank in (4, 7):  # no higher than the sum's, and higher than its sides
            down, up = merge_pairs(pairs, weights, rank)
            assert down.shape[0] == up.shape[1] == rank
            torch.testing.assert_close(product(down, up), whole)

    def test_a_merged_layer_computes_the_sum_of_the_layers(self, kind: str) -> None:
        x = torch.randn(2, 6, 4, 2, 2) if kind == "conv3d" else torch.randn(2, 6)

        def run(down: Tensor, up: Tensor) -> Tensor:
            if kind == "linear":
                return x @ down.T @ up.T
            return nn.functional.conv3d(nn.functional.conv3d(x, down, padding=(1, 0, 0)), up)

        pairs = [pair(0, 2, kind), pair(1, 2, kind)]
        torch.testing.assert_close(run(*merge_pairs(pairs, [1, 1])), run(*pairs[0]) + run(*pairs[1]))


def test_small_and_half_precision_updates_survive() -> None:
    down, up = pair(0, 3)
    tiny = merge_pairs([(down, 1e-6 * up)], [1.0], 3)
    torch.testing.assert_close(product(*tiny), 1e-6 * product(down, up), rtol=1e-4, atol=0)
    half = merge_pairs([(down.bfloat16(), up.bfloat16())], [1.0])
    assert half[0].dtype == half[1].dtype == torch.bfloat16


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="got 1 for 2"):
        merge_pairs([pair(0, 2), pair(1, 2)], [1.0])
    with pytest.raises(InputError, match=r"\(2, 6\), \(4, 2\) does not fit \(2, 6\), \(5, 2\)"):
        merge_pairs([pair(0, 2), pair(1, 2, out=4)], [1.0, 1.0])
    with pytest.raises(InputError, match="at least 1, got 0"):
        merge_pairs([pair(0, 2)], [1.0], 0)
    start = {"a.lora_A.weight": torch.ones(2, 6), "a.lora_B.weight": torch.zeros(5, 2)}
    with pytest.raises(InputError, match="no method to merge memories 'tie'; .*cat, linear, svd"):
        merge_values(start, [], "tie")
    with pytest.raises(InputError, match='belongs to method="svd"'):
        merge_values(start, [], "cat", 3)
    with pytest.raises(InputError, match=r"a\.lora_B\.weight is only one of two"):
        merge_values({"a.lora_B.weight": torch.zeros(5, 2)}, [], "cat")
    with pytest.raises(InputError, match="no low-rank pairs"):
        merge_values({"a.weight": torch.zeros(5, 2)}, [], "svd")


class TestBank:
    def net(self) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Module()
        net.lora_A, net.lora_B = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.zeros(5, 2))
        net.bias = nn.Parameter(torch.zeros(5))
        return net

    def bank(self, start: float = 0.0) -> tuple[nn.Module, ParametricBank, dict[str, Tensor]]:
        net = self.net()
        net.lora_B.data.fill_(start)
        bank, learned = ParametricBank(net, "*"), {"start": product(net.lora_A, net.lora_B).detach()}
        for number, name in enumerate(("one", "two")):
            down, up = pair(number, 2)
            net.lora_A.data.copy_(down)
            net.lora_B.data.copy_(up)
            net.bias.data.fill_(number + 1)
            learned[name] = product(down, up)
            bank.snapshot(name)
        bank.reset()
        return net, bank, learned

    @pytest.mark.parametrize("start", [0.0, 0.3])
    def test_products_are_mixed_from_the_start(self, start: float) -> None:
        net, bank, learned = self.bank(start)
        begin, weights = learned["start"], {"one": 0.5, "two": 0.25}
        whole = begin + 0.5 * (learned["one"] - begin) + 0.25 * (learned["two"] - begin)
        cat = bank.merged(weights, "cat")
        torch.testing.assert_close(product(cat["lora_A"], cat["lora_B"]), whole)
        torch.testing.assert_close(cat["bias"], torch.full((5,), 0.5 + 0.25 * 2))
        svd = bank.merged(weights, "svd", 5)
        torch.testing.assert_close(product(svd["lora_A"], svd["lora_B"]), whole)
        bank.merge(weights, "svd")
        assert product(net.lora_A, net.lora_B).sub(whole).norm() < 0.7 * whole.norm()
        with pytest.raises(
            InputError, match=r"merged lora_A is \(\d, 6\), but the parameter is \(2, 6\); use method='svd'"
        ):
            bank.merge(weights, "cat")

    def test_mixing_the_matrices_is_not_mixing_the_products(self) -> None:
        net, bank, learned = self.bank()
        bank.merge({"one": 0.5, "two": 0.5})
        wrong = product(net.lora_A, net.lora_B) - 0.5 * (learned["one"] + learned["two"])
        assert wrong.norm() > 0.3 * (learned["one"] + learned["two"]).norm()

    def test_steps_that_are_not_finite_are_left_out(self) -> None:
        net, other = self.net(), self.net()
        bank, plain = ParametricBank(net, "*"), ParametricBank(other, "*")
        x = torch.randn(3, 6)

        def loss(module: nn.Module) -> Tensor:
            return (x @ module.lora_A.T @ module.lora_B.T + module.bias - 1).square().mean()

        def broken(step: int) -> Tensor:
            return loss(net) * (float("nan") if step == 1 else 1)

        losses = bank.write(broken, 3, skip_bad_steps=True)
        expected = plain.write(lambda: loss(other), 2)
        assert [losses[0], losses[2]] == expected
        assert losses[1] != losses[1]
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
        assert (bank.steps, bank.writes) == (2, 1)
