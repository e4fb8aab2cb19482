"""Memory that lives in weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from visionzoo.errors import InputError, VisionZooError
from visionzoo.memory import ParametricBank
from visionzoo.memory.bank import MemoryBank


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank branch."""

    def __init__(self, width: int = 8, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(width, width)
        self.lora_A = nn.Parameter(torch.randn(rank, width) / width)
        self.lora_B = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


def network(seed: int = 0, rank: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(LowRank(rank=rank), nn.Tanh(), LowRank(rank=rank)).eval()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("0.base" in name)  # some frozen, some not: both must stay so
    return net


def noisy_loss(net: nn.Module, bank: ParametricBank, chunk: Tensor) -> Callable[[], Tensor]:
    """Draws noise, as L_fast does (equation 3 of arXiv 2410.23277)."""

    def loss() -> Tensor:
        noise = torch.randn(chunk.shape, generator=bank.generator)
        return (net(chunk + noise) - noise).square().mean()

    return loss


def chunks(count: int) -> list[Tensor]:
    return [torch.randn(5, 8, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def values(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestWrite:
    def test_a_write_equals_adam_on_the_adapter_only(self) -> None:
        net, twin = network(), network()
        bank = ParametricBank(net, "*lora_*")
        x = chunks(1)[0]
        # by hand
        for p in twin.parameters():
            p.requires_grad_(False)
        adapters = [p.requires_grad_(True) for n, p in twin.named_parameters() if "lora_" in n]
        adam = torch.optim.Adam(adapters, lr=1e-4)
        expected = []
        for _ in range(5):
            adam.zero_grad()
            loss = twin(x).square().mean()
            expected.append(loss.item())
            loss.backward()
            adam.step()
        with torch.no_grad():  # as inside a pipeline's call
            losses = bank.write(lambda: net(x).square().mean(), steps=3)
            losses += bank.write(lambda: net(x).square().mean(), steps=2)  # Adam continues where it was
        assert losses == expected
        assert same(values(net), values(twin))
        assert (bank.steps, bank.writes) == (5, 2)

    def test_nothing_else_of_the_model_changes(self) -> None:
        net = network()
        before, keys = values(net), list(net.state_dict())
        flags = {n: p.requires_grad for n, p in net.named_parameters()}
        net[0].base.weight.grad = torch.ones(8, 8)  # during a slow learning step
        net[0].lora_A.grad = torch.ones(2, 8)
        bank = ParametricBank(net, "*lora_*")
        bank.write(noisy_loss(net, bank, chunks(1)[0]), steps=2)
        after = values(net)
        assert [n for n in before if not torch.equal(before[n], after[n])] == [n for n in before if "lora_" in n]
        assert list(net.state_dict()) == keys
        assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
        assert torch.equal(net[0].base.weight.grad, torch.ones(8, 8))
        assert torch.equal(net[0].lora_A.grad, torch.ones(2, 8))
        assert net[2].base.weight.grad is None

    def test_the_loss_may_ask_for_the_step(self) -> None:
        net = network()
        bank = ParametricBank(net, "*lora_*")
        seen: list[int] = []

        def loss(step: int) -> Tensor:
            seen.append(step)
            return net(chunks(1)[0]).mean()

        bank.write(loss, steps=3)
        bank.write(loss, steps=1)
        assert seen == [0, 1, 2, 0]

    def test_a_fresh_optimizer_for_each_write(self) -> None:
        def run(keep: bool) -> dict[str, Tensor]:
            net = network()
            bank = ParametricBank(net, "*lora_*", keep_optimizer=keep)
            for x in chunks(2):
                bank.write(lambda x=x: net(x).square().mean(), steps=2)
            return values(net)

        assert not same(run(True), run(False))
        assert same(run(False), run(False))

    def test_clipping(self) -> None:
        def run(norm: float | None) -> float:
            net = network()
            start = values(net)
            bank = ParametricBank(net, "*lora_*", optimizer=lambda p: torch.optim.SGD(p, lr=1.0), max_grad_norm=norm)
            bank.write(lambda: 100 * net(chunks(1)[0]).square().sum())
            return sum((v - start[n]).square().sum().item() for n, v in values(net).items()) ** 0.5

        assert run(0.25) == pytest.approx(0.25, rel=1e-4)
        assert run(None) > 1

    @pytest.mark.parametrize("bad", ["loss", "gradient", "interrupt"])
    def test_a_failed_write_leaves_no_trace(self, bad: str) -> None:
        net = network()
        bank = ParametricBank(net, "*lora_*")
        bank.write(noisy_loss(net, bank, chunks(1)[0]))
        good = noisy_loss(net, bank, chunks(2)[1])

        def loss(step: int) -> Tensor:
            value = good()
            if step < 2:
                return value
            if bad == "interrupt":
                raise KeyboardInterrupt
            # the root of 0 is finite, its slope is not
            return value * float("nan") if bad == "loss" else (value - value.detach()).sqrt()

        before, state = values(net), bank.state_dict()
        kinds = {"loss": "loss of step 2 is nan", "gradient": "gradient of step 2 is not finite", "interrupt": None}
        with pytest.raises((VisionZooError, KeyboardInterrupt), match=kinds[bad]):
            bank.write(loss, steps=4)
        assert same(values(net), before)
        assert same(bank.state_dict()["tensors"], state["tensors"])
        assert bank.state_dict()["config"] == state["config"]
        bank.write(good)

    def test_wrong_arguments_are_named(self) -> None:
        net = network()
        bank = ParametricBank(net, "*lora_*")
        with pytest.raises(InputError, match="at least 1"):
            bank.write(lambda: net(chunks(1)[0]).mean(), steps=0)
        with pytest.raises(InputError, match=r"\(5, 8\), expected a tensor with one value"):
            bank.write(lambda: net(chunks(1)[0]))
        with pytest.raises(InputError, match="does not depend on the memory"):
            bank.write(lambda: net[0].base(chunks(1)[0]).mean())
        with pytest.raises(InputError, match=r"fits '\*lara\*'; it has e\.g\. .*lora"):
            ParametricBank(net, "*lara*")
        with pytest.raises(InputError, match="fits '5.lora_A'"):
            ParametricBank(net, ["*lora_*", "5.lora_A"])
        with pytest.raises(InputError, match="none of the 8"):
            ParametricBank(net, lambda name, _: "nothing" in name)
        with pytest.raises(VisionZooError, match="no query"):
            bank.read(torch.zeros(1))
        assert not bank.supports_query


class TestEpisodes:
    def test_reset_begins_the_episode_again(self) -> None:
        net = network()
        start = values(net)
        bank = ParametricBank(net, "*lora_*", seed=3)

        def episode() -> dict[str, Tensor]:
            for x in chunks(3):
                bank.write(noisy_loss(net, bank, x), steps=2)
            return values(net)

        first = episode()
        bank.reset()
        assert same(values(net), start)
        assert (bank.steps, bank.writes) == (0, 0)
        assert same(episode(), first)
        bank.begin()  # the next starts from here
        bank.write(noisy_loss(net, bank, chunks(1)[0]))
        bank.reset()
        assert same(values(net), first)

    def test_snapshots(self) -> None:
        net = network()
        start = values(net)
        bank = ParametricBank(net, "*lora_*")
        bank.write(noisy_loss(net, bank, chunks(1)[0]))
        bank.snapshot("early")
        early = values(net)
        bank.write(noisy_loss(net, bank, chunks(1)[0]), steps=3)
        late = values(net)
        with bank.active("early"):
            assert same(values(net), early)
            for use in (lambda: bank.write(lambda: net(chunks(1)[0]).mean()), bank.reset, bank.state_dict):
                with pytest.raises(VisionZooError, match="while 'early' is active"):
                    use()
        assert same(values(net), late)
        with bank.active(None):
            assert same(values(net), start)
        with pytest.raises(RuntimeError), bank.active("early"):
            raise RuntimeError
        assert same(values(net), late)
        bank.restore("early")
        assert same(values(net), early)
        assert bank.names == ("early",)
        bank.drop("early")
        assert bank.names == ()
        for use in (bank.restore, bank.drop, lambda name: bank.merge({name: 1.0})):
            with pytest.raises(InputError, match="no snapshot 'early'; there are: none"):
                use("early")

    def test_merge_adds_up_what_was_learned(self) -> None:
        net = network()
        start = values(net)
        bank = ParametricBank(net, "*lora_*")
        learned = []
        for i, x in enumerate(chunks(2)):
            bank.reset()
            bank.write(noisy_loss(net, bank, x), steps=4)
            bank.snapshot(f"episode{i}")
            learned.append(values(net))
        bank.merge({"episode0": 0.75, "episode1": -0.5})
        for name, value in values(net).items():
            expected = start[name] + 0.75 * (learned[0][name] - start[name]) - 0.5 * (learned[1][name] - start[name])
            torch.testing.assert_close(value, expected)
        bank.merge({"episode1": 1.0})
        torch.testing.assert_close(values(net), learned[1])
        bank.merge({})
        assert same(values(net), start)

    def test_size_and_place(self) -> None:
        net = network()
        bank = ParametricBank(net, "*lora_*")
        assert len(bank) == 4 * 16
        assert bank.nbytes == 2 * len(bank) * 4
        bank.write(noisy_loss(net, bank, chunks(1)[0]))
        assert bank.nbytes == 4 * len(bank) * 4 + 4 * 4  # Adam: two moments and a step count
        bank.snapshot("a")
        exact = values(net)
        bank.to(dtype=torch.bfloat16)
        assert bank.nbytes == 4 * len(bank) * 4 + 4 * 4 + 2 * len(bank)
        bank.restore("a")
        torch.testing.assert_close(values(net), exact, rtol=2**-8, atol=0)
        assert net[0].lora_A.dtype == torch.float32

    def test_a_bank_continues_when_its_model_gets_new_parameters_or_another_dtype(self) -> None:
        net, plain = network(), network()
        bank, other = ParametricBank(net, "*lora_*"), ParametricBank(plain, "*lora_*")
        for x in chunks(3):
            bank.write(noisy_loss(net, bank, x))
            other.write(noisy_loss(plain, other, x))
            net.load_state_dict(values(net), assign=True)  # new objects under the same names
        assert same(values(net), values(plain))
        del net[2]
        with pytest.raises(InputError, match=r"lost parameters of this memory: 2\.lora_A, 2\.lora_B"):
            bank.write(lambda: net(chunks(1)[0]).mean())

    def test_memories_are_read_and_written_inside_inference_mode(self) -> None:
        net, plain = network(), network()
        bank, other = ParametricBank(net, "*lora_*"), ParametricBank(plain, "*lora_*")
        x = chunks(1)[0]
        with torch.inference_mode():
            bank.snapshot("start")
            bank.write(lambda: net(x).square().mean(), steps=2)
            with bank.active("start"):
                net(x)
            bank.begin()
        bank.write(lambda: net(x).square().mean())
        bank.reset()
        other.write(lambda: plain(x).square().mean(), steps=2)
        assert same(values(net), values(plain))
        assert not any(p.is_inference() for p in net.parameters())

    @pytest.mark.gpu
    def test_a_module_that_moves_takes_its_episode_along(self) -> None:
        net, plain = network(), network()
        bank, other = ParametricBank(net, "*lora_*"), ParametricBank(plain, "*lora_*")
        for i, x in enumerate(chunks(4)):
            if i == 2:
                net.cuda()
                bank.to("cuda")
            here = x.to(net[0].lora_A.device)
            bank.write(lambda x=here: net(x).square().mean())
            other.write(lambda x=x: plain(x).square().mean())
        torch.testing.assert_close({n: v.cpu() for n, v in values(net).items()}, values(plain))
        bank.reset()
        assert net[0].lora_A.is_cuda


OPTIMIZERS: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.9), amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


class TestSaving:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    @pytest.mark.parametrize("way", ["folder", "state"])
    def test_save_load_continue_equals_never_having_stopped(self, name: str, way: str, tmp_path: Path) -> None:
        net = network()
        bank = ParametricBank(net, "*lora_*", optimizer=OPTIMIZERS[name], seed=1, max_grad_norm=10.0)
        for i, x in enumerate(chunks(6)):
            if i == 3:
                bank.snapshot("half")
                bank.save(tmp_path / "m")
                torch.save(bank.state_dict(), tmp_path / "m.pt")
            bank.write(noisy_loss(net, bank, x), steps=2)
        fresh = network()  # another process: the same model, nothing learned
        if way == "folder":
            again = ParametricBank.load(tmp_path / "m", module=fresh, optimizer=OPTIMIZERS[name])
        else:
            again = ParametricBank(fresh, "*lora_*", optimizer=OPTIMIZERS[name], max_grad_norm=10.0)
            again.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
        assert again.names == ("half",)
        assert (again.steps, again.writes) == (6, 3)
        for x in chunks(6)[3:]:
            again.write(noisy_loss(fresh, again, x), steps=2)
        assert same(values(fresh), values(net))
        bank.restore("half")
        again.restore("half")
        assert same(values(fresh), values(net))
        again.reset()
        assert same(values(fresh), values(network()))

    def test_a_misfit_names_the_parameters(self, tmp_path: Path) -> None:
        net = network()
        bank = ParametricBank(net, "*lora_*")
        bank.write(noisy_loss(net, bank, chunks(1)[0]))
        bank.save(tmp_path / "m")
        for load in (ParametricBank.load, MemoryBank.load):
            with pytest.raises(InputError, match=r"4 weights of a module .*0\.lora_A.*module="):
                load(tmp_path / "m")
        with pytest.raises(InputError, match=r"lacks parameters .*2\.lora_A, 2\.lora_B"):
            ParametricBank.load(tmp_path / "m", module=network()[:2])
        wide = network(rank=4)
        before = values(wide)
        with pytest.raises(InputError, match=r"0\.lora_A is \(2, 8\) there and \(4, 8\) here"):
            ParametricBank.load(tmp_path / "m", module=wide)
        assert same(values(wide), before)
        other = ParametricBank(network(), "0.lora_*")
        with pytest.raises(InputError, match=r"2\.lora_A is not in this memory"):
            other.load_state_dict(bank.state_dict())
        with pytest.raises(InputError, match="written with Adam, this bank makes SGD"):
            ParametricBank.load(tmp_path / "m", module=network(), optimizer=OPTIMIZERS["sgd"])
        with pytest.raises(InputError, match="state of a 'index' bank"):
            bank.load_state_dict({"kind": "index", "config": {}, "tensors": {}})
        damaged = bank.state_dict()
        del damaged["tensors"]["now.0.lora_B"]
        with pytest.raises(InputError, match=r"now\.0\.lora_B is missing"):
            bank.load_state_dict(damaged)


class TestPeft:
    def lora(self, inject: bool) -> nn.Module:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0", "2"])
        if inject:  # as diffusers' add_adapter does
            return peft.inject_adapter_in_model(config, net, "episode")
        return peft.get_peft_model(net, config)

    @pytest.mark.parametrize("inject", [True, False])
    def test_an_episode_in_an_adapter(self, inject: bool, tmp_path: Path) -> None:
        net = self.lora(inject).eval()
        keys, start, x = list(net.state_dict()), values(net), chunks(1)[0]
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        bank = ParametricBank(net, "*lora_*")
        assert len(bank) == 2 * 2 * 16
        losses = bank.write(lambda: net(x).square().mean(), steps=20)
        assert losses[-1] < losses[0]
        assert list(net.state_dict()) == keys
        assert not any(p.requires_grad for p in net.parameters())
        bank.save(tmp_path / "m")
        fresh = self.lora(inject).eval()
        ParametricBank.load(tmp_path / "m", module=fresh)
        assert torch.equal(fresh(x), net(x))
        bank.reset()
        assert same(values(net), start)
