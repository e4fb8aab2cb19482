"""A vector store as a memory bank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.memory import IndexBank, open_store
from visionzoo.memory.bank import MemoryBank
from visionzoo.memory.store import MissingIdsError

from .naive import DIM, naive, whole_numbers
from .ranks import share_rows


def vectors(seed: int, count: int) -> torch.Tensor:
    return torch.from_numpy(whole_numbers(seed, count))


class TestVerbs:
    def test_read_gives_the_ranking_of_the_store_and_its_vectors(self) -> None:
        bank = IndexBank.open(dim=DIM)
        held, queries = vectors(0, 50), vectors(1, 4)
        ids = bank.write(held, torch.arange(100, 150))
        found = bank.read(queries, 7, with_vectors=True)
        assert found.ids.tolist() == naive(dict(zip(ids.tolist(), held.numpy(), strict=True)), queries.numpy(), 7)
        assert found.ids.dtype == torch.int64
        assert found.scores.dtype == torch.float32
        assert found.vectors is not None
        assert torch.equal(found.vectors, held[found.ids - 100])
        assert torch.equal(torch.einsum("qd,qkd->qk", queries, found.vectors), found.scores)
        assert bank.read(queries, 7).vectors is None
        assert torch.equal(bank.fetch(found.ids), found.vectors)

    def test_new_ids_are_never_repeated(self) -> None:
        bank = IndexBank.open(dim=DIM)
        assert bank.write(vectors(0, 3)).tolist() == [0, 1, 2]
        bank.write(vectors(1, 1), [10])
        assert bank.write(vectors(2, 2)).tolist() == [11, 12]
        assert bank.remove([12, 500]) == 1
        # 501: an id that was asked for is not given to something else
        assert bank.write(vectors(3, 1)).tolist() == [501]
        assert bank.ids().tolist() == [0, 1, 2, 10, 11, 501]

    def test_fresh_ids_over_a_store_that_has_entries(self, tmp_path: Path) -> None:
        with open_store(tmp_path / "s", dim=DIM) as store:
            store.add([7], whole_numbers(0, 1))
        with IndexBank.open(tmp_path / "s") as bank:
            assert bank.write(vectors(0, 2)).tolist() == [8, 9]

    def test_an_empty_bank_answers(self) -> None:
        bank = IndexBank.open(dim=DIM)
        found = bank.read(vectors(0, 2), 5, with_vectors=True)
        assert found.ids.shape == (2, 0)
        assert found.vectors is not None
        assert found.vectors.shape == (2, 0, DIM)
        assert torch.equal(bank.weighted_read(vectors(0, 2), 5), torch.zeros(2, DIM))
        assert len(bank.write(torch.empty(0, DIM))) == 0

    def test_reset_empties_also_the_folder(self, tmp_path: Path) -> None:
        with IndexBank.open(tmp_path / "s", dim=DIM) as bank:
            bank.write(vectors(0, 9))
            assert len(bank) == 9
            assert bank.nbytes == 9 * (4 * DIM + 8)
            bank.reset()
            assert len(bank) == bank.nbytes == 0
        with IndexBank.open(tmp_path / "s") as bank:
            assert len(bank) == 0

    def test_nothing_carries_a_gradient(self) -> None:
        bank = IndexBank.open(dim=DIM)
        bank.write(vectors(0, 9).requires_grad_())
        query = vectors(1, 2).requires_grad_()
        found = bank.read(query, 3, with_vectors=True)
        assert found.vectors is not None
        assert not found.scores.requires_grad
        assert not found.vectors.requires_grad
        assert not bank.weighted_read(query, 3).requires_grad

    @pytest.mark.gpu
    def test_results_are_where_the_query_is(self) -> None:
        bank = IndexBank.open(dim=DIM)
        bank.write(vectors(0, 50).cuda())
        found, expected = bank.read(vectors(1, 4).cuda(), 5, with_vectors=True), bank.read(vectors(1, 4), 5)
        assert found.vectors is not None
        assert found.ids.is_cuda
        assert found.scores.is_cuda
        assert found.vectors.is_cuda
        assert torch.equal(found.ids.cpu(), expected.ids)
        assert bank.weighted_read(vectors(1, 4).cuda(), 5).is_cuda

    def test_wrong_arguments_are_named(self, tmp_path: Path) -> None:
        bank = IndexBank.open(tmp_path / "s", dim=DIM)
        bank.write(vectors(0, 2))
        with pytest.raises(InputError, match=r"expected \(n, 6\)"):
            bank.write(torch.zeros(DIM))
        with pytest.raises(InputError, match="expected"):
            bank.read(torch.zeros(1, DIM + 1), 1)
        with pytest.raises(MissingIdsError):
            bank.fetch([99])
        bank.close()
        reader = IndexBank.open(tmp_path / "s", readonly=True)
        with pytest.raises(InputError, match="reading only"):
            reader.write(vectors(0, 1))
        with pytest.raises(InputError, match=r"torch\.distributed"):
            IndexBank(reader.store, sharded=True)


class TestWeightedRead:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 12), st.floats(0.1, 4), st.integers(0, 1000))
    def test_reading_all_entries_equals_attention(self, count: int, scale: float, seed: int) -> None:
        bank = IndexBank.open(dim=DIM)
        held, queries = vectors(seed, count), vectors(seed + 1, 3)
        bank.write(held)
        attention = torch.softmax(scale * queries @ held.T, -1) @ held
        torch.testing.assert_close(bank.weighted_read(queries, count + 5, scale=scale), attention)

    def test_the_refinement_of_superglobal_is_such_a_read(self) -> None:
        """Section 3.3 of arXiv 2308.06954: a descriptor and its k nearest, weighted 1 and beta times the score."""
        from visionzoo.models.superglobal.reranking import neighbour_weights, refined

        candidates = torch.nn.functional.normalize(
            torch.randn(30, 16, generator=torch.Generator().manual_seed(0)), dim=-1
        )
        bank = IndexBank.open(dim=16)
        bank.write(candidates)

        def weights(scores: torch.Tensor) -> torch.Tensor:
            weighted = 0.15 * scores
            weighted[:, 0] = 1  # itself
            return weighted / weighted.sum(-1, keepdim=True)

        places, expected = neighbour_weights(candidates[None], 9, 0.15)
        expected = refined(candidates[None], places, expected, torch.arange(30)[None])[0]
        torch.testing.assert_close(bank.weighted_read(candidates, 10, weights=weights), expected)

    def test_weights_of_another_shape(self) -> None:
        bank = IndexBank.open(dim=DIM)
        bank.write(vectors(0, 4))
        with pytest.raises(InputError, match="weights of shape"):
            bank.weighted_read(vectors(1, 2), 3, weights=lambda scores: scores[:, :1])


class TestSaving:
    @pytest.mark.parametrize("options", [{}, {"storage": "float16"}, {"backend": "faiss"}])
    @pytest.mark.parametrize("where", ["memory", "folder"])
    def test_a_saved_bank_continues_where_it_was(self, tmp_path: Path, options: dict[str, Any], where: str) -> None:
        if options.get("backend") == "faiss":
            pytest.importorskip("faiss")
        bank = IndexBank.open(tmp_path / "s" if where == "folder" else None, dim=DIM, **options)
        bank.write(vectors(0, 20))
        bank.remove([19])
        bank.save(tmp_path / "saved")
        bank.save(tmp_path / "saved")  # again, over the first
        found = bank.read(vectors(1, 3), 5)
        bank.close()
        with IndexBank.load(tmp_path / "saved") as again:
            assert again.store.backend == options.get("backend", "matrix")
            assert torch.equal(again.read(vectors(1, 3), 5).ids, found.ids)
            assert torch.equal(again.read(vectors(1, 3), 5).scores, found.scores)
            assert again.write(vectors(2, 1)).tolist() == [20]  # 19 was given out before
            again.save(tmp_path / "saved")  # where it lives
        with IndexBank.load(tmp_path / "saved", readonly=True) as again:
            assert len(again) == 20
        assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["config.json", "store"]

    @pytest.mark.parametrize("storage", ["float32", "float16"])
    def test_state_dict_of_a_bank_in_memory(self, storage: str, tmp_path: Path) -> None:
        bank = IndexBank.open(dim=DIM, storage=storage)
        bank.write(vectors(0, 20) / 3)
        bank.remove([3, 19])
        torch.save(bank.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        for again in (IndexBank.open(dim=DIM, storage=storage), IndexBank.from_config(state["config"])):
            again.write(vectors(9, 30))  # forgotten
            again.load_state_dict(state)
            assert again.ids().tolist() == bank.ids().tolist()
            assert torch.equal(again.fetch(again.ids()), bank.fetch(bank.ids()))
            assert again.write(vectors(2, 1)).tolist() == [20]

    def test_inputs_that_do_not_fit(self, tmp_path: Path) -> None:
        bank = IndexBank.open(tmp_path / "s", dim=DIM)
        with pytest.raises(InputError, match=r"is on disk.*save\(folder\)"):
            bank.state_dict()
        with pytest.raises(InputError, match="of 4 values, this bank of 6"):
            bank.load_state_dict(IndexBank.open(dim=4).state_dict())
        bank.save(tmp_path / "saved")
        (tmp_path / "saved" / "config.json").write_text('{"format": 1, "kind": "tensor", "files": []}')
        with pytest.raises(InputError, match="'tensor' bank, not a 'index'"):
            IndexBank.load(tmp_path / "saved")
        with pytest.raises(InputError, match="no memory bank"):
            IndexBank.load(tmp_path / "nothing")
        assert issubclass(IndexBank, MemoryBank)


# Two processes, each with its own rows


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_ranks_that_share_the_rows_answer_as_one_bank(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(share_rows, (os.fspath(tmp_path),), nprocs=2)
    rows = whole_numbers(0, 60)[:59]
    held = dict(enumerate(rows))  # rank r has the rows and the ids r, r + 2, …
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert got["fresh"].tolist() == list(range(rank, 59, 2))
        queries = whole_numbers(5 + rank, 3 + rank)
        ids, scores, fetched = got["small"]
        assert ids.tolist() == naive(held, queries, 7)
        np.testing.assert_array_equal(fetched.numpy(), rows[ids.numpy()])
        np.testing.assert_array_equal(scores.numpy(), np.einsum("qd,qkd->qk", queries, rows[ids.numpy()]))
        assert got["big"].tolist() == naive(held, queries, 50)
        assert got["more"].tolist() == naive(held, queries, 59)
        attention = torch.softmax(torch.from_numpy(queries @ rows.T), -1) @ torch.from_numpy(rows)
        torch.testing.assert_close(got["mixed"], attention)
        # a mistake on one rank is an error on both, and none waits
        assert len(got["errors"]) == 2
        assert "NaN" in got["errors"][0] if rank else "ranks ask" in got["errors"][0]
