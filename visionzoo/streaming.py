"""Stream tensors that are stored elsewhere through a device, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["stream_to"]

Pieces = Iterable[tuple[Tensor, ...]]


def stream_to(device: torch.device, pieces: Pieces) -> Iterator[tuple[Tensor, ...]]:
    """Yield the pieces on `device`, in order; on CUDA, the next piece is copied while the current one is used.

    At most two pieces are on the device at a time, provided that the caller keeps none. Pieces that are already on the device are
    passed through unchanged. Host memory that is not pinned is copied through two pinned buffers.
    """
    if device.type != "cuda":
        for piece in pieces:
            yield tuple(tensor.to(device) for tensor in piece)
        return
    upload = _Upload(device)
    waiting: tuple[tuple[Tensor, ...], torch.cuda.Event | None] | None = None
    for piece in pieces:
        started = upload.start(piece)
        if waiting is not None:
            yield upload.finish(*waiting)
        waiting = started
    if waiting is not None:
        yield upload.finish(*waiting)


class _Upload:
    """Copies to a CUDA device on a side stream, through two pinned buffers in turn."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.buffers: list[list[Tensor]] = [[], []]
        self.copied: list[torch.cuda.Event | None] = [None, None]
        self.turn = 0

    def start(self, piece: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], torch.cuda.Event | None]:
        if all(tensor.device == self.device for tensor in piece):
            return piece, None
        self.turn = 1 - self.turn
        if (done := self.copied[self.turn]) is not None:
            done.synchronize()  # the device has read this buffer: it may be filled again
        sources = [self._pinned(place, tensor) for place, tensor in enumerate(piece)]
        with torch.cuda.stream(self.stream):
            there = tuple(source.to(self.device, non_blocking=True) for source in sources)
            event = torch.cuda.Event()
            event.record(self.stream)
        self.copied[self.turn] = event
        return there, event

    def _pinned(self, place: int, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu" or tensor.is_pinned():
            return tensor
        buffers, size = self.buffers[self.turn], tensor.numel() * tensor.element_size()
        if place == len(buffers):
            buffers.append(torch.empty(0, dtype=torch.uint8))
        if buffers[place].numel() < size:
            buffers[place] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        buffer = buffers[place][:size].view(tensor.dtype).view(tensor.shape)
        return buffer.copy_(tensor)

    def finish(self, there: tuple[Tensor, ...], event: torch.cuda.Event | None) -> tuple[Tensor, ...]:
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for tensor in there:
                tensor.record_stream(current)
        return there
