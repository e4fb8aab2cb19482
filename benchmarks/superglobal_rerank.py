"""Reranking the top 400, compared with the published form, written straightforwardly in torch.

    visionzoo bench superglobal-rerank

The published form gathers a (Q, M, K + 1, D) tensor of neighbours, builds all M refined vectors, and sorts whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.benchmark import Contestant, Table, compare
from visionzoo.models.superglobal import rerank

M, K, BETA = 400, 9, 0.15


def published_form(queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Order and sorted scores, as section 3.3 of the paper and the released modules compute them: (Q, D), (Q, M, D)."""
    similarity = torch.einsum("qmd,qnd->qmn", candidates, candidates)
    nearest = similarity.argsort(dim=-1, descending=True)[..., : K + 1]
    weights = similarity.sort(dim=-1, descending=True).values[..., : K + 1] * BETA
    weights[..., 0] = 1
    neighbours = torch.stack([c[places] for c, places in zip(candidates, nearest, strict=True)])
    refined = (neighbours * weights[..., None]).sum(2) / weights.sum(2, keepdim=True)
    s1 = torch.einsum("qd,qmd->qm", queries, refined)
    order = s1.argsort(dim=-1, descending=True)
    best = refined.take_along_dim(order[:, : K + 1, None], 1).amax(1)
    s2 = torch.einsum("qd,qmd->qm", best, refined.take_along_dim(order[..., None], 1))
    final = (s1.sort(dim=-1, descending=True).values + s2) / 2
    second = final.argsort(dim=-1, descending=True)
    return order.gather(1, second), final.gather(1, second)


def lean_form(queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    result = rerank(queries, candidates, k=K, beta=BETA)
    return result.order, result.scores.gather(1, result.order)


def top_candidates(queries: int, rows: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Queries and their M nearest of `rows` clustered unit vectors."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(rows // 30, dim, generator=draw)
    database = F.normalize(
        centers[torch.arange(rows) % len(centers)] + 1.2 * torch.randn(rows, dim, generator=draw), dim=-1
    )
    asked = F.normalize(centers[torch.arange(queries)] + 1.2 * torch.randn(queries, dim, generator=draw), dim=-1)
    nearest = (asked @ database.T).topk(M).indices
    return asked.to(device), database[nearest].to(device)


def judge(outputs: Sequence[tuple[Tensor, Tensor]]) -> list[str]:
    """How many places of the ranking differ from the peer's, and how far the sorted scores are apart."""
    order, scores = outputs[0]
    return [
        f"{(o != order).sum().item()} of {order.numel()} places differ, scores by {(s - scores).abs().max():.1e}"
        for o, s in outputs
    ]


def benchmark(rounds: int = 5, command: str = "", queries: int = 8, rows: int = 6322, dim: int = 2048) -> Table:
    """The table; on the CPU with one thread."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        asked, candidates = top_candidates(queries, rows, dim, device)
        contestants = [
            Contestant("published form, straightforward torch", lambda: published_form(asked, candidates)),
            Contestant("visionzoo", lambda: lean_form(asked, candidates)),
        ]
        title = f"Reranking {queries} queries, top {M} of {rows} descriptors of {dim}"
        return compare(title, contestants, rounds=rounds, command=command, items=queries, unit="queries", judge=judge)
    finally:
        torch.set_num_threads(threads)
