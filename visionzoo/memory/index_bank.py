"""A vector store as a memory bank: vectors are written under ids and read by top-k search, without gradients."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, writing
from ..io.files import write_json
from .bank import MemoryBank
from .files import CONFIG, FORMAT
from .store import Ids, SearchResult, Vectors, VectorStore, open_store

__all__ = ["IndexBank", "IndexResult"]

STORE = "store"  # the subfolder of a saved bank that holds its store, in the store's own format


@dataclass(frozen=True)
class IndexResult:
    """The best entries for each query, best first; equal scores are ordered by id.

    Attributes:
        ids: (Q, k) int64, on the device of the query.
        scores: (Q, k) float32 inner products.
        vectors: (Q, k, D) float32, or None unless they were asked for; `IndexBank.fetch(ids)` gives them later.
    """

    ids: Tensor
    scores: Tensor
    vectors: Tensor | None = None


class IndexBank(MemoryBank):
    """Vectors under integer ids, in memory, in a folder or in a database (`VectorStore`).

    The rows stay where the store keeps them; results are returned on the device of the query. Nothing carries a gradient.

    Args:
        store: the store that keeps and searches the vectors. The bank closes it.
        sharded: every rank of `group` holds its own rows (no id on two ranks) and `read` searches all of them. Then
            `read` and `weighted_read` are collective: all ranks call them together, each with its own queries. The other
            methods act on the rows of this rank.
        group: process group of `torch.distributed`; default all ranks.
    """

    kind: ClassVar[str] = "index"

    def __init__(self, store: VectorStore, *, sharded: bool = False, group: dist.ProcessGroup | None = None) -> None:
        if sharded and not (dist.is_available() and dist.is_initialized()):
            raise InputError("sharded=True needs torch.distributed; call init_process_group first, or omit it")
        self.store, self.sharded, self.group = store, sharded, group
        self._floor = 0  # new ids start here or above
        self._floor_known = False  # whether `_floor` is known to be above every id of the store

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        backend: str | None = None,
        dim: int | None = None,
        readonly: bool = False,
        sharded: bool = False,
        group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> Self:
        """A bank over the store in the folder `path`, or over a new one; arguments and errors as for `open_store`."""
        store = open_store(path, backend=backend, dim=dim, readonly=readonly, **options)
        return cls(store, sharded=sharded, group=group)

    @property
    def dim(self) -> int:
        """D, length of a vector."""
        return self.store.dim

    # --- write ---

    def write(self, vectors: Vectors, ids: Ids | None = None) -> Tensor:
        """Store (n, D) finite vectors under (n,) ids; the vector of an existing id is replaced.

        Without ids, each vector gets a new one, above every id that the store holds or has held since the bank was
        opened; with `sharded`, the ids of rank r are r modulo the number of ranks.

        Returns:
            (n,) int64 ids, on the CPU.

        Raises:
            InputError: shapes that do not fit, NaN or infinity, a repeated or negative id, or a read-only store.
        """
        if vectors.ndim != 2:
            raise InputError(f"vectors of shape {tuple(vectors.shape)} do not fit; expected (n, {self.dim})")
        given = self._fresh(len(vectors)) if ids is None else ids
        self.store.add(given, vectors)
        return self._raise_floor(given)

    def _fresh(self, count: int) -> Tensor:
        if not self._floor_known:
            held = self.store.ids()
            self._floor = max(self._floor, int(held[-1]) + 1 if len(held) else 0)
            self._floor_known = True
        rank, ranks = self._place()
        first = self._floor + (rank - self._floor) % ranks
        return first + ranks * torch.arange(count)

    def _raise_floor(self, ids: Ids) -> Tensor:
        """Make sure that new ids are above `ids`, which the store has checked. Returns `ids` as a tensor."""
        tensor = torch.as_tensor(ids).detach().cpu().to(torch.int64)
        if tensor.numel():
            self._floor = max(self._floor, int(tensor.max()) + 1)
        return tensor

    def _place(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        return (dist.get_rank(self.group), dist.get_world_size(self.group)) if self.sharded else (0, 1)

    def remove(self, ids: Ids) -> int:
        """Remove (n,) ids; unknown ids are ignored. Returns the number of removed entries."""
        dropped = self.store.remove(ids)
        self._raise_floor(ids)  # a removed id is not assigned again
        return dropped

    def reset(self) -> None:
        """Remove every entry, also on disk."""
        self.remove(self.store.ids())

    # --- read ---

    @torch.no_grad()
    def read(self, query: Vectors, top_k: int, *, with_vectors: bool = False) -> IndexResult:
        """The top_k entries with the largest inner product for each of (Q, D) finite queries.

        `top_k` is limited to the number of entries, so an empty bank gives (Q, 0) results.

        Args:
            with_vectors: also fetch the vectors of the results.

        Raises:
            InputError: a shape that does not fit, NaN or infinity in a query, top_k below 1, or, with `sharded`, ranks
                that pass different `top_k` or `with_vectors` (raised on every rank).
        """
        device = query.device if isinstance(query, Tensor) else torch.device("cpu")
        if self.sharded:
            found, vectors = self._read_shards(query, top_k, with_vectors)
        else:
            found = self.store.search(query, top_k)
            vectors = self.fetch(found.ids) if with_vectors else None
        return IndexResult(
            torch.from_numpy(found.ids).to(device),
            torch.from_numpy(found.scores).to(device),
            None if vectors is None else vectors.to(device),
        )

    @torch.no_grad()
    def weighted_read(
        self,
        query: Vectors,
        top_k: int,
        *,
        scale: float = 1.0,
        weights: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Weighted sums of the top_k entries of each query, with weights softmax(scale * scores).

        Args:
            query: (Q, D).
            weights: (Q, k) weights from the (Q, k) scores, best first, instead of the softmax.

        Returns:
            (Q, D) float32; zeros from an empty bank.

        Raises:
            InputError: as `read`; weights of another shape.
        """
        found = self.read(query, top_k, with_vectors=True)
        assert found.vectors is not None
        chosen = torch.softmax(scale * found.scores, -1) if weights is None else weights(found.scores)
        if chosen.shape != found.scores.shape:
            raise InputError(f"weights of shape {tuple(chosen.shape)} for scores of {tuple(found.scores.shape)}")
        return torch.einsum("qk,qkd->qd", chosen.to(found.vectors.dtype), found.vectors)

    def fetch(self, ids: Ids) -> Tensor:
        """The vectors of (…) ids, (…, D) float32 on the CPU.

        Raises:
            MissingIdsError: a `KeyError` that lists the ids that are not there.
        """
        wanted = torch.as_tensor(ids)
        return torch.from_numpy(self.store.fetch(wanted.reshape(-1))).reshape(*wanted.shape, self.dim)

    def ids(self) -> Tensor:
        """All ids, (N,) int64, ascending."""
        return torch.from_numpy(self.store.ids())

    def _read_shards(self, query: Vectors, top_k: int, with_vectors: bool) -> tuple[SearchResult, Tensor | None]:
        """Every rank searches its rows for the queries of all ranks; results are merged by score, then id, then rank."""
        rank, ranks = self._place()
        device = torch.device("cpu")
        if dist.get_backend(self.group) == "nccl":
            device = torch.device("cuda", torch.cuda.current_device())
        own = torch.as_tensor(query).detach().to(device, torch.float32)
        # Compare the requests first: a mistake on one rank then raises on all of them, and none waits forever.
        fits = own.ndim == 2 and own.shape[1] == self.dim and bool(own.isfinite().all())
        asked = torch.tensor([fits, len(own) if fits else 0, self.dim, top_k, with_vectors], device=device)
        all_asked = torch.stack(self._gather(asked)).cpu()
        if not fits or top_k < 1:
            self.store.search(query, top_k)  # raises the error that names the problem
        if not all_asked[:, 0].all() or (all_asked[:, 2:] != all_asked[0, 2:]).any():
            raise InputError(
                "the ranks ask for different things, or one has unusable queries: (usable, queries, dim, top_k, vectors) "
                f"by rank: {all_asked.tolist()}"
            )
        counts = all_asked[:, 1].tolist()
        padded = own.new_zeros(max(counts), self.dim)
        padded[: len(own)] = own
        parts = self._gather(padded)
        queries = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        found = self.store.search(queries, top_k)
        short = ((0, 0), (0, top_k - found.ids.shape[1]))
        ids = self._gather(torch.from_numpy(np.pad(found.ids, short, constant_values=-1)).to(device))
        padded_scores = np.pad(found.scores, short, constant_values=-np.inf)
        scores = self._gather(torch.from_numpy(padded_scores).to(device))
        owners = torch.arange(ranks).repeat_interleave(top_k).expand(len(queries), -1).numpy()
        merged, owner = _merge(torch.cat(ids, 1).cpu().numpy(), torch.cat(scores, 1).cpu().numpy(), owners, top_k)
        mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        result = SearchResult(merged.ids[mine], merged.scores[mine])
        if not with_vectors:
            return result, None
        vectors = torch.zeros(*merged.ids.shape, self.dim)
        held = torch.from_numpy(owner == rank)
        vectors[held] = self.fetch(merged.ids[owner == rank])
        vectors = vectors.to(device)
        dist.all_reduce(vectors, group=self.group)  # one rank has the row, the others have zeros: the sum is exact
        return result, vectors[mine]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, tensor, group=self.group)
        return parts

    # --- size, device, lifetime ---

    def __len__(self) -> int:
        return len(self.store)

    @property
    def nbytes(self) -> int:
        """Size of the vectors and their ids in bytes, in memory, on disk or in the database."""
        width = 2 if getattr(self.store, "storage", "float32") == "float16" else 4
        return len(self) * (self.dim * width + 8)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Do nothing: the store keeps the rows, and a read returns its result on the device of the query."""
        return self

    def flush(self) -> None:
        """Make all changes so far durable: a store on disk then survives a crash."""
        self.store.flush()

    def close(self) -> None:
        """Flush, and close files and connections."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.__exit__(kind, error, trace)  # the store decides what to skip after an error

    # --- saving ---

    def _in_memory(self) -> bool:
        return getattr(self.store, "path", None) is None and getattr(self.store, "url", None) is None

    def config(self) -> dict[str, Any]:
        options = {key: getattr(self.store, key) for key in ("storage", "kind", "nprobe") if hasattr(self.store, key)}
        return {"backend": self.store.backend, "dim": self.dim, "options": options, "next_id": self._floor}

    def tensors(self) -> dict[str, Tensor]:
        """`ids` (N,) and `vectors` (N, D) of a store in memory.

        Raises:
            InputError: the store is on disk or in a database; use `save` to copy it.
        """
        if not self._in_memory():
            raise InputError(
                "this bank is on disk or in a database and does not fit into a state dict; flush() makes it "
                "durable where it is, save(folder) copies it"
            )
        ids = self.ids()
        vectors = self.fetch(ids)
        return {
            "ids": ids,
            "vectors": vectors.half() if self.config()["options"].get("storage") == "float16" else vectors,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An empty bank in memory."""
        return cls.open(backend=config["backend"], dim=config["dim"], **config["options"])

    def take_over(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if not {"ids", "vectors"} <= tensors.keys():
            raise InputError("the state holds no ids and vectors; open a saved folder with IndexBank.load(folder)")
        if config.get("dim") != self.dim:
            raise InputError(f"the state holds vectors of {config.get('dim')} values, this bank of {self.dim}")
        self.reset()
        self.store.add(tensors["ids"], tensors["vectors"])
        self._floor, self._floor_known = int(config["next_id"]), False

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and the store, in its own format, into the subfolder "store" of `folder`.

        For a store in a database, only its address is written. A store that is already in that subfolder is flushed.
        """
        path = Path(folder)
        target = path / STORE
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            here = getattr(self.store, "path", None)
            if here is not None and Path(here).absolute() == target.absolute():
                self.store.flush()
            else:
                token = secrets.token_hex(4)
                part, old = path / f".{STORE}.{token}.part", path / f".{STORE}.{token}.old"
                try:
                    self.store.save(part)
                    if target.exists():
                        os.replace(target, old)
                    os.replace(part, target)
                except BaseException:
                    shutil.rmtree(part, ignore_errors=True)
                    if old.exists():
                        os.replace(old, target)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            write_json(path / CONFIG, {"format": FORMAT, "kind": self.kind, "files": [], **self.config()})

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        readonly: bool = False,
        sharded: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> Self:
        """Open the bank that `save` wrote, memory-mapped. From then on, the bank lives in that folder: writes change it.

        Raises:
            InputError: the folder holds no bank, another kind of bank, or a damaged one.
        """
        config = cls._saved_config(folder)
        bank = cls.open(Path(folder) / STORE, dim=config["dim"], readonly=readonly, sharded=sharded, group=group)
        bank._floor = int(config["next_id"])
        return bank


def _merge(
    ids: NDArray[np.int64], scores: NDArray[np.float32], owners: NDArray[np.int64], k: int
) -> tuple[SearchResult, NDArray[np.int64]]:
    """The k best of (Q, ranks * k) candidates (id -1 marks no candidate), and the (Q, k) ranks that hold them."""
    held = int((ids[0] >= 0).sum()) if len(ids) else 0  # the same for every query
    order = np.lexsort((owners, ids, -scores), axis=-1)[:, : min(k, held)]
    best = SearchResult(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))
    return best, np.take_along_axis(owners, order, 1)
