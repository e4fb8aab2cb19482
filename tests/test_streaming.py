"""Tensors that pass through a device one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from visionzoo.streaming import stream_to


def test_on_the_cpu_pieces_pass_through_uncopied_and_one_at_a_time() -> None:
    made: list[int] = []

    def pieces() -> Iterator[tuple[torch.Tensor, ...]]:
        for number in range(3):
            made.append(number)
            yield torch.full((2,), number), torch.zeros(1)

    stream = stream_to(torch.device("cpu"), pieces())
    first = next(stream)
    assert made == [0]
    assert first[0].tolist() == [0, 0]
    assert [piece[0][0].item() for piece in stream] == [1, 2]
    held = torch.zeros(3)
    assert next(stream_to(torch.device("cpu"), [(held,)]))[0].data_ptr() == held.data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("pinned", [False, True])
def test_on_cuda_every_piece_arrives_whole_and_two_at_most_are_there(pinned: bool) -> None:
    host = torch.randn(9, 1 << 22)
    pieces = [(row.pin_memory() if pinned else row, torch.tensor([n])) for n, row in enumerate(host)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for number, (row, place) in enumerate(stream_to(torch.device("cuda"), pieces)):
        assert place.item() == number
        assert torch.equal(row.cpu(), host[number])
        del row, place
    assert torch.cuda.max_memory_allocated() - before <= 3 * host[0].numel() * 4  # two, and one being handed over
