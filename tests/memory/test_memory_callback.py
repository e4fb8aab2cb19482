"""Memory in Lightning's checkpoints and in the folders of pipelines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from visionzoo.errors import InputError
from visionzoo.memory import (
    IndexBank,
    LearnedBank,
    MemoryCallback,
    ParametricBank,
    TensorBank,
    load_memory,
    save_memory,
)
from visionzoo.memory.bank import MemoryBank

from .ranks import save_and_restore

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
from lightning.pytorch.plugins.io import TorchCheckpointIO  # noqa: E402

from visionzoo.memory import callback as callback_module  # noqa: E402

WIDTH = 4
STEPS = 4  # in an epoch


def loader(count: int) -> torch.utils.data.DataLoader:
    """`count` batches, each of one number."""
    data: Any = torch.zeros(count, 1)
    return torch.utils.data.DataLoader(data)


class Tiny(lightning.LightningModule):
    """Reads and writes three memories in every step: keys and values in time, vectors, and weights of an adapter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(WIDTH, WIDTH)
        self.adapter = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        self.seen: list[int] = []

    def memories(self) -> dict[str, MemoryBank]:
        index = IndexBank.open(dim=WIDTH)
        theta = ParametricBank(self, "adapter.*", optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
        # a module may find its banks through plain objects; neither is part of its state dict
        frames = TensorBank(WIDTH, WIDTH, capacity=8)
        self.__dict__["banks"] = {"frames": frames, "index": index, "theta": theta}
        return self.__dict__["banks"]

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        banks = self.__dict__["banks"]
        # by the position in the run, as a resumed loader may restart its epoch
        x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(10 * self.current_epoch + index))
        self.seen.append(len(banks["index"]))
        hidden = self.net(x) + self.adapter(x)
        recalled = banks["index"].weighted_read(hidden, 5)
        if len(banks["frames"]):
            recalled = recalled + banks["frames"].read(hidden[None, None]).output[0, 0]
        banks["index"].write(hidden.detach())
        banks["frames"].write(hidden[None, None], x[None, None])

        def forget() -> Tensor:
            noise = torch.randn(x.shape, generator=banks["theta"].generator)
            return (self.adapter(x + noise) - noise).square().mean()

        banks["theta"].write(forget)
        return (hidden - recalled).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), lr=1e-2)


def fit(
    folder: Path, steps: int, *, resume: str | Path | None = None, plugins: Any = None, **callback: Any
) -> tuple[Tiny, MemoryCallback]:
    model = Tiny()
    memory = MemoryCallback("memories", **callback)
    every = lightning.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[memory, every],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=plugins,
    )
    trainer.fit(model, loader(STEPS), ckpt_path=resume, weights_only=True)
    return model, memory


def content(memory: MemoryCallback) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": t for name, bank in memory.banks.items() for key, t in bank.state_dict()["tensors"].items()
    }


def assert_same(one: tuple[Tiny, MemoryCallback], other: tuple[Tiny, MemoryCallback]) -> None:
    for a, b in ((one[0].state_dict(), other[0].state_dict()), (content(one[1]), content(other[1]))):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("max_bytes", [1 << 20, 0], ids=["inside", "beside"])
@pytest.mark.parametrize("reset_on", ["epoch", "never"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, reset_on: str, max_bytes: int) -> None:
    whole = fit(tmp_path / "whole", 7, reset_on=reset_on, max_bytes=max_bytes)
    places = [3 * (i % STEPS if reset_on == "epoch" else i) for i in range(7)]
    assert whole[0].seen == places
    for stop in (2, 4, 5):  # within the first epoch, at its end, within the second
        file = tmp_path / "whole" / f"step={stop}.ckpt"
        resumed = fit(tmp_path / f"resumed{stop}", 7, resume=file, reset_on=reset_on, max_bytes=max_bytes)
        assert resumed[0].seen == places[stop:]
        assert_same(resumed, whole)


def test_the_checkpoint_is_plain_and_the_module_has_nothing_episodic(tmp_path: Path) -> None:
    small, memory = fit(tmp_path / "small", 2)
    assert list(small.state_dict()) == ["net.weight", "net.bias", "adapter.weight"]
    checkpoint = torch.load(tmp_path / "small" / "step=2.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == list(small.state_dict())
    saved = checkpoint["callbacks"][memory.state_key]["ranks"][0]
    assert torch.equal(saved["index"]["tensors"]["vectors"], content(memory)["index/vectors"])
    assert not list((tmp_path / "small").glob("*.memory"))

    _, memory = fit(tmp_path / "large", 2, max_bytes=100)
    file = tmp_path / "large" / "step=2.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    assert list(checkpoint["state_dict"]) == list(small.state_dict())
    saved = checkpoint["callbacks"][memory.state_key]["ranks"][0]
    assert saved == {
        "frames": {"kind": "tensor", "folder": "frames"},
        "index": {"kind": "index", "folder": "index"},
        "theta": {"kind": "parametric", "folder": "theta"},
    }
    beside = Path(f"{file}.memory")
    assert sorted(str(p.relative_to(beside)) for p in beside.rglob("*.*")) == [
        "frames/config.json",
        "frames/memory.safetensors",
        "index/config.json",
        "index/memory.safetensors",
        "theta/config.json",
        "theta/memory.safetensors",
    ]
    # the same content as any saved bank has
    model = Tiny()
    theta = ParametricBank.load(beside / "theta", module=model)
    assert torch.equal(theta.tensors()["now.adapter.weight"], content(memory)["theta/now.adapter.weight"])


def test_the_folder_goes_with_its_checkpoint(tmp_path: Path) -> None:
    model = Tiny()
    keep = lightning.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=1)
    memory = MemoryCallback(Tiny.memories, max_bytes=0)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=3, callbacks=[memory, keep], logger=False, enable_progress_bar=False
    )
    trainer.fit(model, loader(STEPS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step=3.ckpt", "step=3.ckpt.memory"]
    memory.max_bytes = 1 << 20
    trainer.save_checkpoint(tmp_path / "step=3.ckpt")  # overwritten, and now small: the old folder is gone
    assert [p.name for p in tmp_path.iterdir()] == ["step=3.ckpt"]


def test_a_test_run_begins_with_empty_memories(tmp_path: Path) -> None:
    class Tested(Tiny):
        def test_step(self, batch: Tensor, index: int) -> None:
            self.training_step(batch, index)

    fit(tmp_path, 2)
    for reset_on, expected in (("epoch", [0, 3]), ("never", [6, 9])):
        model = Tested()
        trainer = lightning.Trainer(
            accelerator="cpu",
            callbacks=[MemoryCallback("memories", reset_on=reset_on)],  # pyright: ignore[reportArgumentType]
            logger=False,
            enable_progress_bar=False,
            inference_mode=False,
        )
        data = loader(2)
        trainer.test(model, data, ckpt_path=tmp_path / "step=2.ckpt", verbose=False, weights_only=True)
        assert model.seen == expected


class Clips(lightning.LightningModule):
    """Writes one element into each given memory in every step."""

    def __init__(self, banks: dict[str, TensorBank]) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, WIDTH)
        self.__dict__["banks"] = banks

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        x = self.net(torch.ones(1, 1, 1, WIDTH))
        for bank in self.__dict__["banks"].values():
            bank.write(x, x)
        return x.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def fit_clips(
    folder: Path, callbacks: list[MemoryCallback], banks: dict[str, TensorBank], steps: int, resume: Path | None = None
) -> Path:
    """The checkpoint of the last step."""
    every = lightning.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_on_train_epoch_end=False
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[*callbacks, every],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = loader(STEPS)
    trainer.fit(Clips(banks), data, weights_only=True, ckpt_path=resume)
    return folder / f"step={steps}.ckpt"


def two_memories(max_bytes: int) -> tuple[dict[str, TensorBank], list[MemoryCallback]]:
    banks = {name: TensorBank(WIDTH, WIDTH, capacity=100) for name in ("clip", "long")}
    per_epoch = MemoryCallback({"clip": banks["clip"]}, reset_on="epoch", max_bytes=max_bytes)
    return banks, [per_epoch, MemoryCallback({"long": banks["long"]}, reset_on="never", max_bytes=max_bytes)]


@pytest.mark.parametrize("max_bytes", [1 << 20, 0], ids=["inside", "beside"])
def test_memories_that_are_reset_at_different_times(tmp_path: Path, max_bytes: int) -> None:
    """One callback for each memory; both are restored from a checkpoint, for any order of the callbacks."""
    banks, callbacks = two_memories(max_bytes)
    file = fit_clips(tmp_path, callbacks, banks, STEPS + 1)
    assert {name: len(bank) for name, bank in banks.items()} == {"clip": 1, "long": STEPS + 1}
    again, callbacks = two_memories(max_bytes)
    fit_clips(tmp_path, callbacks[::-1], again, STEPS + 2, resume=file)
    assert {name: len(bank) for name, bank in again.items()} == {"clip": 2, "long": STEPS + 2}
    for name in banks:
        assert torch.equal(again[name].view().keys[:, :, : len(banks[name])], banks[name].view().keys)


def test_memories_without_a_callback_are_refused(tmp_path: Path) -> None:
    banks, callbacks = two_memories(1 << 20)
    file = fit_clips(tmp_path, callbacks, banks, 1)
    renamed = TensorBank(WIDTH, WIDTH, capacity=100)
    with pytest.raises(InputError, match="holds the memories clip, this run has shot"):
        fit_clips(tmp_path, [MemoryCallback({"shot": renamed}), callbacks[1]], {}, 2, resume=file)
    with pytest.raises(InputError, match="two MemoryCallbacks hold a memory named long"):
        fit_clips(tmp_path, [callbacks[1], MemoryCallback({"long": renamed, "more": renamed})], {}, 1)


def test_banks_by_name_and_their_reset() -> None:
    bank = IndexBank.open(dim=2)
    bank.write(torch.ones(3, 2))
    memory = MemoryCallback({"seen": bank})
    again = MemoryCallback({"seen": IndexBank.open(dim=2)})
    again.load_state_dict(memory.state_dict())
    assert len(again.banks["seen"]) == 3
    memory.reset()
    assert len(bank) == 0


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epoch or never"):
        MemoryCallback({}, reset_on="batch")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="becomes a folder"):
        MemoryCallback({"../x": IndexBank.open(dim=2)})
    with pytest.raises(InputError, match="expected a MemoryBank"):
        MemoryCallback({"x": nn.Linear(1, 1)})  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="in the checkpoint already"):
        MemoryCallback({"x": LearnedBank(nn.Linear(2, 2), "weight")})
    with pytest.raises(InputError, match="not attached yet"):
        _ = MemoryCallback("memories").banks
    memory = MemoryCallback({"a": IndexBank.open(dim=2)})
    state = memory.state_dict()
    with pytest.raises(InputError, match="memories a, this run has b"):
        MemoryCallback({"b": IndexBank.open(dim=2)}).load_state_dict(state)
    with pytest.raises(InputError, match="memories of 2 processes, this run has 1"):
        memory.load_state_dict({**state, "ranks": state["ranks"] * 2})
    with pytest.raises(InputError, match=r"Tiny: expected memory banks by name from 'no_such'"):
        model = Tiny()
        MemoryCallback("no_such").setup(lightning.Trainer(accelerator="cpu", logger=False), model, "fit")


def test_each_rank_gets_back_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Simulates two ranks in one process: what they gather, and what each loads from the checkpoint."""
    callbacks = []
    for rank in range(2):
        bank = IndexBank.open(dim=WIDTH)
        bank.write(torch.full((1 + rank, WIDTH), float(rank)))
        callbacks.append(MemoryCallback({"index": bank}, max_bytes=0))

    def gather(ranks: list[Any], own: Any) -> None:
        ranks[:] = [{name: bank.state_dict() for name, bank in callback.banks.items()} for callback in callbacks]
        assert own.keys() == ranks[0].keys()

    monkeypatch.setattr(callback_module, "_ranks", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    key, io = callbacks[0].state_key, callback_module._BesideCheckpoint(TorchCheckpointIO())
    io.save_checkpoint({"callbacks": {key: callbacks[0].state_dict()}}, tmp_path / "c.ckpt")
    assert sorted(p.name for p in (tmp_path / "c.ckpt.memory").iterdir()) == ["rank0", "rank1"]
    for rank, callback in enumerate(callbacks):
        callback.reset()
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        callback.load_state_dict(io.load_checkpoint(tmp_path / "c.ckpt", weights_only=True)["callbacks"][key])
        bank = callback.banks["index"]
        assert isinstance(bank, IndexBank)
        assert torch.equal(bank.fetch(bank.ids()), torch.full((1 + rank, WIDTH), float(rank)))


@pytest.mark.slow
def test_each_process_gets_back_its_own(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
        save_and_restore, (str(tmp_path),), nprocs=2
    )
    assert sorted(p.name for p in (tmp_path / "c.ckpt.memory").iterdir()) == ["rank0", "rank1"]


class TestFolder:
    def test_memories_travel_with_a_pipeline(self, tmp_path: Path) -> None:
        net = nn.Linear(WIDTH, WIDTH)
        index, theta = IndexBank.open(dim=WIDTH), ParametricBank(net, "weight")
        ids = index.write(torch.randn(5, WIDTH))
        theta.write(lambda: net(torch.ones(WIDTH)).square().sum())
        frames = TensorBank(WIDTH, WIDTH, capacity=3)
        frames.write(torch.randn(1, 1, 5, WIDTH), torch.randn(1, 1, 5, WIDTH))
        face = LearnedBank(net, "weight")
        save_memory({"episode": theta, "seen": index, "face": face, "frames": frames}, tmp_path)
        save_memory({"seen": index}, tmp_path)  # the others stay
        fresh = nn.Linear(WIDTH, WIDTH)
        loaded = load_memory(tmp_path, {"episode": {"module": fresh}, "face": {"module": fresh}})
        assert list(loaded) == ["episode", "face", "frames", "seen"]
        query = torch.randn(1, 1, 2, WIDTH)
        assert torch.equal(loaded["frames"].read(query).output, frames.read(query).output)
        assert torch.equal(fresh.weight, net.weight)
        again = loaded["seen"]
        assert isinstance(again, IndexBank)
        assert torch.equal(again.fetch(ids), index.fetch(ids))
        again.close()

    def test_wrong_arguments_are_named(self, tmp_path: Path) -> None:
        assert load_memory(tmp_path) == {}
        save_memory({"face": LearnedBank(nn.Linear(2, 2), "weight")}, tmp_path)
        with pytest.raises(InputError, match="module=model"):
            load_memory(tmp_path)
        with pytest.raises(InputError, match="holds no memory faces; it holds: face"):
            load_memory(tmp_path, {"faces": {}})
        with pytest.raises(InputError, match="cannot name a memory"):
            save_memory({"a/b": IndexBank.open(dim=2)}, tmp_path)
        (tmp_path / "memory" / "face" / "config.json").write_text("{")
        with pytest.raises(InputError, match="cannot be read"):
            load_memory(tmp_path)


def test_memory_needs_no_lightning() -> None:
    code = (
        "import sys, visionzoo.memory as m; sys.modules['lightning'] = None; m.TensorBank(2, 2); m.ParametricBank; m.save_memory\n"
        "try: m.MemoryCallback\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'visionzoo[train]'" in done.stdout
