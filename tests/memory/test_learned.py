"""Memory that is a weight of the model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionzoo.errors import InputError, VisionZooError
from visionzoo.memory import LearnedBank
from visionzoo.memory.bank import MemoryBank

WIDTH, SIDE = 16, 4


class Unit(nn.Module):
    """MCNet's memory unit in small: modulate the memory by a style, then a convolution to keys and values."""

    def __init__(self, width: int = WIDTH, side: int = SIDE) -> None:
        super().__init__()
        self.mb = nn.Parameter(torch.randn(1, width, side, side))
        self.style = nn.Linear(6, width)
        self.kv = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bank = LearnedBank(self, "mb", project=self.keys_and_values, layout="map", scale=1 / 4)

    def keys_and_values(self, memory: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        modulated = memory * self.style(condition)[..., None, None]
        key, value = F.relu(self.kv(modulated)).flatten(2).transpose(1, 2).chunk(2, -1)
        return key, value

    def forward(self, query: Tensor, condition: Tensor) -> Tensor:
        return self.bank.read(query, condition).output.squeeze(1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mbUnit = Unit()


@pytest.fixture
def unit() -> Unit:
    torch.manual_seed(0)
    return Unit()


def by_definition(unit: Unit, query: Tensor, condition: Tensor, scale: float = 1 / 4) -> Tensor:
    keys, values = unit.keys_and_values(unit.mb, condition)
    return torch.softmax(query @ keys.mT * scale, -1) @ values


def test_a_conditioned_read_is_the_attention_of_the_paper(unit: Unit) -> None:
    query, style = torch.randn(3, 10, WIDTH), torch.randn(3, 6)
    found = unit.bank.read(query, style)
    assert found.output.shape == (3, 1, 10, WIDTH)
    assert found.lse.shape == (3, 1, 10)
    torch.testing.assert_close(found.output[:, 0], by_definition(unit, query, style))
    torch.testing.assert_close(unit.bank.read(query[:, None], style).output, found.output)
    other = unit.bank.read(query, style, scale=0.5)
    torch.testing.assert_close(other.output[:, 0], by_definition(unit, query, style, 0.5))
    keys, values = unit.bank.view(style)
    assert keys.shape == values.shape == (3, 1, SIDE * SIDE, WIDTH)
    torch.testing.assert_close(unit.bank.read(query, view=(keys, values)).output, found.output)
    first_half = torch.arange(SIDE * SIDE) < 8
    masked = unit.bank.read(query, style, mask=first_half)
    torch.testing.assert_close(masked.output[:, 0], torch.softmax(query @ keys[:, 0, :8].mT / 4, -1) @ values[:, 0, :8])


def test_the_size_of_mcnet() -> None:
    """One head of width 512, wider than flash kernels take, over 1024 places, batch = frames."""
    torch.manual_seed(0)
    unit = Unit(512, 32)
    query, style = F.relu(torch.randn(2, 64, 512)), torch.randn(2, 6)
    assert len(unit.bank) == 1024
    assert unit.bank.nbytes == 512 * 1024 * 4
    torch.testing.assert_close(unit(query, style), by_definition(unit, query, style), rtol=1e-4, atol=1e-5)


def test_the_model_trains_its_memory_through_the_read(unit: Unit) -> None:
    query, style = torch.randn(2, 5, WIDTH), torch.randn(2, 6, requires_grad=True)
    target = torch.randn(2, 5, WIDTH)
    parameters = [unit.mb, unit.style.weight, unit.kv.weight, style]
    ours = torch.autograd.grad((unit(query, style) - target).square().sum(), parameters)
    plain = torch.autograd.grad((by_definition(unit, query, style) - target).square().sum(), parameters)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_checkpoint_names_are_those_of_the_model() -> None:
    model = Model()
    assert sorted(model.state_dict()) == sorted(
        ["mbUnit.mb", "mbUnit.style.weight", "mbUnit.style.bias", "mbUnit.kv.weight", "mbUnit.kv.bias"]
    )
    bank = LearnedBank(model, "mbUnit.mb", layout="map")
    assert len(list(model.parameters())) == 5
    assert bank.values()[0] is model.mbUnit.mb
    assert bank.state_dict()["tensors"] == {}


def test_a_copy_of_the_model_reads_its_own_memory(unit: Unit) -> None:
    query, style = torch.randn(1, 5, WIDTH), torch.randn(1, 6)
    twin = copy.deepcopy(unit)
    before = unit(query, style)
    assert torch.equal(twin(query, style), before)
    with torch.no_grad():
        twin.mb.zero_()
        twin.kv.bias.zero_()
    assert not torch.equal(twin(query, style), before)
    assert torch.equal(unit(query, style), before)
    wide = unit.double()
    assert wide(query.double(), style.double()).dtype == torch.float64
    # replaced, not changed in place, as load_state_dict(assign=True) does
    wide.load_state_dict({k: torch.zeros_like(v) for k, v in wide.state_dict().items()}, assign=True)
    assert not wide(query.double(), style.double()).any()


def test_plain_tokens_and_maps() -> None:
    module = nn.Module()
    module.register_parameter("keys", nn.Parameter(torch.randn(7, 4)))
    module.register_parameter("values", nn.Parameter(torch.randn(7, 3)))
    module.register_parameter("map", nn.Parameter(torch.randn(1, 4, 2, 3)))
    query = torch.randn(2, 5, 4)
    bank = LearnedBank(module, ["keys", "values"])
    assert len(bank) == 7
    weights = torch.softmax(query @ module.keys.T / 2, -1)
    torch.testing.assert_close(bank.read(query).output[:, 0], weights @ module.values)
    bank = LearnedBank(module, "map", layout="map")
    tokens = module.map[0].flatten(1).T
    assert len(bank) == 6
    expected = torch.softmax(query @ tokens.T / 2, -1) @ tokens
    torch.testing.assert_close(bank.read(query).output[:, 0], expected)
    narrow = bank.read(query.bfloat16()).output[:, 0]  # as under autocast
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0.02, atol=0.02)


def test_it_is_not_written_nor_moved_at_run_time(unit: Unit) -> None:
    with pytest.raises(VisionZooError, match="weight of its module"):
        unit.bank.write(torch.zeros(1))
    with pytest.raises(VisionZooError, match="nothing episodic"):
        unit.bank.reset()
    with pytest.raises(VisionZooError, match=r"module\.to"):
        unit.bank.to(dtype=torch.float16)
    with pytest.raises(VisionZooError, match=r"module\.to"):
        unit.bank.to("meta")
    assert unit.bank.to("cpu", torch.float32) is unit.bank


def test_saving_says_where_the_memory_is(unit: Unit, tmp_path: Path) -> None:
    unit.bank.save(tmp_path / "m")
    for load in (LearnedBank.load, MemoryBank.load):
        with pytest.raises(InputError, match=r"weights mb of a module.*module=model"):
            load(tmp_path / "m")
    with pytest.raises(InputError, match="project="):
        LearnedBank.load(tmp_path / "m", module=unit)
    with pytest.raises(InputError, match="no parameter 'mb'"):
        LearnedBank.load(tmp_path / "m", module=nn.Linear(2, 2), project=unit.keys_and_values)
    with pytest.raises(InputError, match="shapes"):
        LearnedBank.load(tmp_path / "m", module=Unit(8), project=unit.keys_and_values)
    again = LearnedBank.load(tmp_path / "m", module=unit, project=unit.keys_and_values)
    query, style = torch.randn(1, 5, WIDTH), torch.randn(1, 6)
    assert torch.equal(again.read(query, style).output, unit.bank.read(query, style).output)


def test_wrong_arguments_are_named(unit: Unit) -> None:
    with pytest.raises(InputError, match="no parameter 'nb'"):
        LearnedBank(unit, "nb")
    with pytest.raises(InputError, match=r"\(16,\), which is not layout=.tokens."):
        LearnedBank(unit, "style.bias")
    with pytest.raises(InputError, match="layout"):
        LearnedBank(unit, "mb", layout="grid")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="3 parameters without project"):
        LearnedBank(unit, ["mb", "style.weight", "kv.weight"])
    plain = LearnedBank(unit, "mb", layout="map")
    with pytest.raises(InputError, match="needs project"):
        plain.read(torch.zeros(1, 2, WIDTH), torch.zeros(1, 6))
    with pytest.raises(InputError, match="not both"):
        unit.bank.read(torch.zeros(1, 2, WIDTH), torch.zeros(1, 6), view=plain.view())
