"""The code that each of two processes runs, in its own module so that a new process imports little."""

from __future__ import annotations

import torch

from visionzoo.errors import InputError
from visionzoo.memory import IndexBank, open_store

from .naive import DIM, whole_numbers


def share_rows(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        rows = whole_numbers(0, 60)
        bank = IndexBank(open_store(dim=DIM), sharded=True)
        empty = bank.read(torch.zeros(2, DIM), 3, with_vectors=True)
        assert empty.ids.shape == (2, 0)
        fresh = bank.write(torch.from_numpy(rows[rank:59:2]))  # 30 rows and 29
        queries = whole_numbers(5 + rank, 3 + rank)  # each rank asks for its own
        small = bank.read(torch.from_numpy(queries), 7, with_vectors=True)
        big = bank.read(torch.from_numpy(queries), 50)  # more than a rank has
        more = bank.read(torch.from_numpy(queries), 99)  # more than there are
        mixed = bank.weighted_read(torch.from_numpy(queries), 99)
        errors = []
        for query, k in ((torch.full((1, DIM), float("nan") if rank else 1.0), 3), (torch.zeros(1, DIM), 3 + rank)):
            try:
                bank.read(query, k)
            except InputError as error:
                errors.append(str(error))
        torch.save(
            {
                "fresh": fresh,
                "small": (small.ids, small.scores, small.vectors),
                "big": big.ids,
                "more": more.ids,
                "mixed": mixed,
                "errors": errors,
            },
            f"{folder}/{rank}.pt",
        )
    finally:
        dist.destroy_process_group()


def save_and_restore(rank: int, folder: str) -> None:
    import torch.distributed as dist
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    from visionzoo.memory.callback import MemoryCallback, _BesideCheckpoint

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        bank = IndexBank.open(dim=DIM)
        bank.write(torch.full((1 + rank, DIM), float(rank)))
        memory = MemoryCallback({"index": bank}, max_bytes=0)
        checkpoint = {"callbacks": {memory.state_key: memory.state_dict()}}
        if rank == 0:
            _BesideCheckpoint(TorchCheckpointIO()).save_checkpoint(checkpoint, f"{folder}/c.ckpt")
        dist.barrier()
        bank.reset()
        loaded = _BesideCheckpoint(TorchCheckpointIO()).load_checkpoint(f"{folder}/c.ckpt", weights_only=True)
        memory.load_state_dict(loaded["callbacks"][memory.state_key])
        assert torch.equal(bank.fetch(bank.ids()), torch.full((1 + rank, DIM), float(rank)))
    finally:
        dist.destroy_process_group()
