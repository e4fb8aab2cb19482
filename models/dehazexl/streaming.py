"""DehazeXL on images of any size: two passes over patches, with the bottleneck between them.

Pass 1 encodes patch by patch and keeps one token per 32 x 32 pixels. The bottleneck runs over the tokens in slices, with its keys
and values in a memory bank. Pass 2 encodes each patch again (or reads the maps that pass 1 kept), decodes it, and writes the
result. The outputs equal those of `DehazeXL.forward`. Images that fit in memory take the short path of `whole.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visionzoo.batching import Batches, ahead
from visionzoo.devices import free_memory
from visionzoo.errors import InputError

from .bottleneck import HyperDraw
from .encoder import PATCH
from .model import DehazeXL
from .placement import Placement, Restart, SkipCache, StreamOptions, TileStore
from .streamed_bottleneck import StreamedBottleneck
from .tiles import SHIFT, SIDE, Grid, Sink, Source, read_patch, shifted_weight
from .whole import dehaze_whole, fits_in_memory


class StreamedDehaze:
    """Run a `DehazeXL` over images of any size in bounded memory.

    Args:
        model: the network in eval mode, on the device and in the dtype to compute in, preferably fused (`fuse()`).
        options: see `StreamOptions`.
        progress: called with (step, done, of) as patches and slices of tokens are finished; step is "encode", "attend" or
            "decode".
    """

    def __init__(
        self,
        model: DehazeXL,
        options: StreamOptions | None = None,
        progress: Callable[[str, int, int], object] | None = None,
    ):
        self.model, self.options = model, options or StreamOptions()
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.progress = progress or (lambda step, done, of: None)
        self.batches = Batches(self.device, self.options.patches_at_once or (4 if self.device.type == "cpu" else 8))

    @torch.inference_mode()
    def __call__(
        self,
        source: Source,
        sink: Sink,
        *,
        draws: Sequence[HyperDraw | None] | None = None,
        restart: Restart | None = None,
    ) -> None:
        """Dehaze `source` into `sink`.

        Args:
            draws: the random part of HyperAttention, see `Bottleneck.draw`.
            restart: resume from its files, and write the files that the next run needs to resume.

        Raises:
            InputError: the image has no pixels, or has missing parts and the network uses HyperAttention.
        """
        if min(source.height, source.width) < 1:
            raise InputError(f"expected an image of at least 1 x 1 pixels, got {source.width} x {source.height}")
        if restart is None and self._whole(source, sink, draws):
            return
        with tempfile.TemporaryDirectory(dir=self.options.folder) as temporary:
            for number, offset in enumerate((0, SHIFT) if self.options.blend else (0,)):
                grid = Grid(source.height, source.width, offset)
                run = _Run(self, source, sink, grid, Path(temporary), restart, f"{number}")
                run(draws, blended=number > 0)

    def _whole(self, source: Source, sink: Sink, draws: Sequence[HyperDraw | None] | None) -> bool:
        """Take the short path if the image fits in memory; return False, with nothing written, if it was not possible."""
        if self.options.must_stream or not fits_in_memory(self.model, source.height, source.width):
            return False
        try:
            return dehaze_whole(
                self.model,
                source,
                sink,
                blend=bool(self.options.blend),
                patches_at_once=self.batches.size,
                progress=self.progress,
                draws=draws,
            )
        except torch.OutOfMemoryError:
            return False


class _Run:
    """One grid of patches of one image."""

    def __init__(
        self,
        stream: StreamedDehaze,
        source: Source,
        sink: Sink,
        grid: Grid,
        folder: Path,
        restart: Restart | None,
        name: str,
    ):
        self.stream, self.model, self.source, self.sink, self.grid = stream, stream.model, source, sink, grid
        self.device, self.dtype, self.options = stream.device, stream.dtype, stream.options
        self.folder, self.restart, self.name = folder, restart, name
        self.dim = self.model.config.dim
        count = grid.count
        if restart is None:
            self.encoded, self.decoded = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
            self.attended = np.zeros(1, np.uint8)
        else:
            self.encoded = restart.bitmap(f"encoded{name}", count)
            self.decoded = restart.bitmap(f"decoded{name}", count)
            self.attended = restart.bitmap(f"attended{name}", 1)
        self.tokens_at: Placement = self._place_tokens()
        self.skips = self._place_skips()
        self.tokens = self._store("tokens", keep=restart is not None)

    # Storage

    def _place_tokens(self) -> Placement:
        if self.options.tokens != "auto":
            return self.options.tokens
        need = 3 * self.grid.count * SIDE * SIDE * self.dim * self.dtype.itemsize
        if self.device.type != "cpu" and need < free_memory(self.device) / 2:
            return "device"
        return "host" if need < free_memory(torch.device("cpu")) / 2 else "disk"

    def _place_skips(self) -> SkipCache | None:
        wanted = self.options.skips
        if wanted == "auto":
            need = self.grid.count * PATCH * PATCH * 15 * self.model.config.embed_dim // 128 * self.dtype.itemsize
            here = need < free_memory(self.device) / 4
            wanted = "device" if here else "host" if need < free_memory(torch.device("cpu")) / 4 else "recompute"
        return None if wanted == "recompute" else SkipCache(wanted, self.device, self.folder)

    def _store(self, name: str, *, keep: bool = False) -> TileStore:
        """Storage for tokens, (rows, columns, C); `keep` if the next run should resume from it."""
        shape = (SIDE * self.grid.rows, SIDE * self.grid.columns, self.dim)
        if keep and self.restart is not None:
            return TileStore(shape, self.dtype, self.device, "disk", self.restart.folder / f"{name}{self.name}.raw")
        return TileStore(shape, self.dtype, self.device, self.tokens_at, self.folder / f"{name}{self.name}.raw")

    # The passes

    def __call__(self, draws: Sequence[HyperDraw | None] | None, *, blended: bool) -> None:
        if self.decoded.all():
            return
        if not self.attended[0]:
            self.encode()
            valid = torch.from_numpy(self.encoded == 1)
            context = self.attend(valid, draws)
            self.attended[0] = 1
        else:
            context = self._store("context", keep=True)
        self.decode(context, blended)

    def _chunks(self, todo: np.ndarray) -> Iterator[tuple[list[int], list[Tensor | None]]]:
        """Unfinished patches, which a thread reads ahead."""
        numbers = np.flatnonzero(todo).tolist()
        pending: list[tuple[int, Tensor | None]] = []
        reads = ahead(
            lambda number: read_patch(self.source, self.grid, number), numbers, 1, 2 * self.stream.batches.size
        )
        for number, patch in reads:
            if isinstance(patch, InputError):
                raise patch
            pending.append((number, patch))
            if len(pending) >= self.stream.batches.size:
                yield [n for n, _ in pending], [p for _, p in pending]
                pending = []
        if pending:
            yield [n for n, _ in pending], [p for _, p in pending]

    def _place(self, number: int) -> tuple[slice, slice]:
        row, column = divmod(number, self.grid.columns)
        return slice(SIDE * row, SIDE * row + SIDE), slice(SIDE * column, SIDE * column + SIDE)

    def _stack(self, patches: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(patches)).to(self.device, self.dtype, non_blocking=True)

    def encode(self) -> None:
        """Pass 1: write every patch's last map into `tokens`. In `encoded`, 1 marks a finished patch, 2 one without data."""
        total = self.grid.count
        sorts = self.model.bottleneck.draw(1, total * SIDE * SIDE)[0] is not None
        self.stream.progress("encode", int((self.encoded > 0).sum()), total)
        for numbers, patches in self._chunks(self.encoded == 0):
            if sorts and any(patch is None for patch in patches):
                raise InputError("HyperAttention (lsh) takes no images with missing parts; use attention='exact'")
            held = {n: p for n, p in zip(numbers, patches, strict=True) if p is not None}

            def compute(chunk: list[int], held: dict[int, Tensor] = held) -> None:
                maps = self.model.encode(self._stack([held[n] for n in chunk]))
                for n, last in zip(chunk, maps[-1].permute(0, 2, 3, 1), strict=True):
                    rows, columns = self._place(n)
                    self.tokens.data[rows, columns] = last.to(self.tokens.data.device)
                if self.skips is not None:
                    for place, n in enumerate(chunk):
                        self.skips.put(n, [part[place : place + 1] for part in maps])

            if held:
                self.stream.batches.run(compute, list(held))
            for n, patch in zip(numbers, patches, strict=True):
                self.encoded[n] = 2 if patch is None else 1
            self.stream.progress("encode", int((self.encoded > 0).sum()), total)

    def attend(self, valid: Tensor, draws: Sequence[HyperDraw | None] | None) -> TileStore:
        """Run the bottleneck over all tokens. Patches that are not `valid` (patches,) are ignored."""
        bottleneck, tokens = self.model.bottleneck, self.grid.count * SIDE * SIDE
        draws = bottleneck.draw(1, tokens, None) if draws is None else draws
        context = (
            self.tokens if self.restart is None else self._store("context", keep=True)
        )  # else both are needed again
        seen = None
        if not valid.all():
            seen = valid.view(self.grid.rows, self.grid.columns)
            seen = seen.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1).flatten()
        StreamedBottleneck(bottleneck, self.options, self.tokens_at, self.stream.progress)(
            self.tokens, context, self._store("mixed"), seen, draws
        )
        return context

    def decode(self, context: TileStore, blended: bool) -> None:
        """Pass 2: decode every patch and write it to the sink."""
        total = self.grid.count
        self.stream.progress("decode", int(self.decoded.sum()), total)
        for numbers, patches in self._chunks(self.decoded == 0):
            held = {n: p for n, p in zip(numbers, patches, strict=True) if p is not None}

            def compute(chunk: list[int], held: dict[int, Tensor] = held) -> None:
                x = self._stack([held[n] for n in chunk])
                maps = self._maps(chunk, x)
                around = torch.stack([context.data[self._place(n)].to(self.device) for n in chunk])
                change = self.model.decode(around.permute(0, 3, 1, 2), maps)
                exact = torch.stack([held[n] for n in chunk]).to(self.device)  # the image itself is never rounded
                result = self.model.restore(exact, change.float()).cpu()
                for n, pixels in zip(chunk, result, strict=True):
                    self._write(n, pixels, blended)

            if held:
                self.stream.batches.run(compute, list(held))
            for n in set(numbers) - set(held):
                rows, columns = self.grid.inside(n)
                top, left = self.grid.corner(n)
                if not blended:
                    self.sink.keep(
                        top + rows.start, left + columns.start, rows.stop - rows.start, columns.stop - columns.start
                    )
            self.decoded[numbers] = 1
            self.stream.progress("decode", int(self.decoded.sum()), total)

    def _maps(self, chunk: list[int], x: Tensor) -> list[Tensor]:
        if self.skips is not None:
            kept = [self.skips.take(n) for n in chunk]
            if all(maps is not None for maps in kept):
                return [torch.cat(parts) for parts in zip(*(maps for maps in kept if maps is not None), strict=True)]
        return self.model.encode(x)

    def _write(self, number: int, pixels: Tensor, blended: bool) -> None:
        rows, columns = self.grid.inside(number)
        top, left = self.grid.corner(number)
        part = pixels[:, rows, columns]
        top, left = top + rows.start, left + columns.start
        if blended:
            weight = shifted_weight()[rows, columns]
            part = torch.lerp(self.sink.read(top, left, part.shape[1], part.shape[2]), part, weight)
        self.sink.write(top, left, part)
