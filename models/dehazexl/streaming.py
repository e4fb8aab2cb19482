"""DehazeXL on images that never are in memory as a whole: two passes over patches, with the bottleneck between them.

Pass 1 encodes patch by patch and keeps one token per 32 x 32 pixels. The bottleneck runs over the tokens in slices, its keys and
values in a memory bank. Pass 2 encodes each patch again (or takes its maps from where pass 1 left them), decodes it, and hands
the result out. The outputs equal `DehazeXL.forward`'s.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from visionzoo.devices import free_memory
from visionzoo.errors import InputError
from visionzoo.io.ahead import ahead
from visionzoo.memory import TensorBank

from .bottleneck import Bottleneck, BottleneckLayer, HyperDraw, hyper_attention
from .encoder import PATCH
from .model import TOKEN, DehazeXL

Placement = Literal["device", "host", "disk"]
Skips = Literal["auto", "recompute", "device", "host", "disk"]
SIDE = PATCH // TOKEN
"""Tokens along a side of a patch."""
SHIFT = PATCH // 2 + 16
"""Where blending's second grid begins: its decoder's windows, of 32 pixels and more, end elsewhere than the first grid's patches."""


class Source(Protocol):
    """A hazy image that is read by windows."""

    height: int
    width: int

    def read(self, top: int, left: int, height: int, width: int) -> Tensor | None:
        """(3, height, width) float32 in [0, 1] of a window inside the image; None where it shows nothing (no data)."""
        ...


class Sink(Protocol):
    """Takes the clear image in windows, each once (with `blend`, twice: then it is asked for what it has)."""

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        """(3, h, w) float32, not clamped, on the CPU."""
        ...

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """(3, height, width) float32 as written."""
        ...

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        """The source shows nothing in this window: what it holds there stays."""
        ...


@dataclass(frozen=True)
class StreamOptions:
    """How much memory to use for what; the result is the same.

    Attributes:
        patches_at_once: patches of 256 x 256 pixels that go through the network together; None: 1 on a CPU, else 8.
        skips: where the encoder's maps stay between the passes: "device", "host" or "disk" (11.25 values a pixel), or
            nowhere: "recompute" encodes twice, 28 % more work. "auto" takes the device or the host if they fit into
            a quarter of its free memory, else "recompute".
        tokens: where the bottleneck's tokens are (two or three times 0.75 values a pixel).
        heads_at_once: heads of which keys and values are held together; None: as many as fit.
        tokens_at_once: slice of queries and of everything else in the bottleneck.
        keys_at_once: keys per piece where keys and values are not on the device.
        blend: also run on a grid of patches that is shifted by about half a patch, and blend the two so that no border of a
            patch shows: twice the work. Not in the published method. None leaves it to a pipeline; without one it is no.
        folder: where "disk" puts its files; a temporary folder if None.
    """

    patches_at_once: int | None = None
    skips: Skips = "auto"
    tokens: Literal["auto", "device", "host", "disk"] = "auto"
    heads_at_once: int | None = None
    tokens_at_once: int = 8192
    keys_at_once: int = 65536
    blend: bool | None = False
    folder: Path | None = None

    def __post_init__(self) -> None:
        numbers = (self.patches_at_once, self.heads_at_once, self.tokens_at_once, self.keys_at_once)
        if any(number is not None and number < 1 for number in numbers):
            raise InputError("patches_at_once, heads_at_once, tokens_at_once and keys_at_once are at least 1")
        if self.skips not in ("auto", "recompute", "device", "host", "disk"):
            raise InputError(f"skips is auto, recompute, device, host or disk, got {self.skips!r}")
        if self.tokens not in ("auto", "device", "host", "disk"):
            raise InputError(f"tokens is auto, device, host or disk, got {self.tokens!r}")


@dataclass
class Restart:
    """What a killed run left, kept up to date for the next: files in `folder`, which belong to one input and one network.

    The caller makes sure that they do, and deletes the folder when the result stands.
    """

    folder: Path
    done: dict[str, np.ndarray] = field(default_factory=dict)

    def bitmap(self, name: str, count: int) -> np.ndarray:
        """(count,) uint8 on disk: 1 for every patch that is finished; all 0 at first."""
        path = self.folder / f"{name}.done"
        fresh = not path.exists() or path.stat().st_size != count
        self.done[name] = np.memmap(path, np.uint8, "w+" if fresh else "r+", shape=(count,))
        return self.done[name]


@dataclass(frozen=True)
class Grid:
    """Patches over an image, beginning `offset` pixels before its upper left corner."""

    height: int
    width: int
    offset: int = 0

    @property
    def rows(self) -> int:
        return -(-(self.height + self.offset) // PATCH)

    @property
    def columns(self) -> int:
        return -(-(self.width + self.offset) // PATCH)

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def corner(self, number: int) -> tuple[int, int]:
        """Row and column of the first pixel of a patch; negative where it begins outside the image."""
        row, column = divmod(number, self.columns)
        return row * PATCH - self.offset, column * PATCH - self.offset

    def inside(self, number: int) -> tuple[slice, slice]:
        """The part of a patch that is in the image, in the patch's own rows and columns."""
        top, left = self.corner(number)
        return (
            slice(max(0, -top), min(PATCH, self.height - top)),
            slice(max(0, -left), min(PATCH, self.width - left)),
        )


def mirrored(start: int, size: int) -> np.ndarray:
    """(256,) which of an image's `size` rows stand for the rows from `start` on, as `pad_to_patches` pads.

    Outside the image it is mirrored, its border once; where it is smaller than what is missing, the border is repeated.
    """
    place = np.arange(start, start + PATCH)
    if max(start + PATCH - size, -start) < size:
        place = np.where(place < 0, -place, place)
        place = np.where(place >= size, 2 * (size - 1) - place, place)
    return np.clip(place, 0, size - 1)


def read_patch(source: Source, grid: Grid, number: int) -> Tensor | None:
    """(3, 256, 256) in [0, 1], mirrored beyond the image's edges; None where the image shows nothing."""
    top, left = grid.corner(number)
    rows, columns = mirrored(top, grid.height), mirrored(left, grid.width)
    first, start = int(rows.min()), int(columns.min())
    window = source.read(first, start, int(rows.max()) - first + 1, int(columns.max()) - start + 1)
    inside = top >= 0 and left >= 0 and top + PATCH <= grid.height and left + PATCH <= grid.width
    if window is None or inside:
        return window
    return window[:, torch.from_numpy(rows - first)][:, :, torch.from_numpy(columns - start)]


class Held:
    """An image in memory as source and sink: (3, H, W) float32 in [0, 1] in, `out` of the same shape out."""

    def __init__(self, image: Tensor):
        self.image, self.out = image, torch.empty_like(image)
        self.height, self.width = image.shape[1:]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return self.image[:, top : top + height, left : left + width]

    @property
    def sink(self) -> HeldResult:
        return HeldResult(self.out)


class HeldResult:
    """The sink of a `Held` image."""

    def __init__(self, out: Tensor):
        self.out = out

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        self.out[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return self.out[:, top : top + height, left : left + width]

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        raise AssertionError("an image in memory has no missing parts")


class Shelf:
    """A (rows, ...) tensor on the device, in main memory or in a file; slices of rows come and go to the device."""

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, placement: Placement, file: Path | None
    ):
        self.device = device
        if placement == "disk":
            assert file is not None
            size = int(np.prod(shape))
            if not file.exists() or file.stat().st_size != size * dtype.itemsize:
                with file.open("wb") as handle:
                    handle.truncate(size * dtype.itemsize)
            self.data = torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(*shape)
        else:
            self.data = torch.zeros(*shape, dtype=dtype, device=device if placement == "device" else "cpu")

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.data[rows].to(self.device)

    def __setitem__(self, rows: slice | Tensor, value: Tensor) -> None:
        self.data[rows] = value.to(self.data.device, self.data.dtype)


class SkipCache:
    """The encoder's four maps of each chunk of patches, between the passes."""

    def __init__(self, placement: Placement, device: torch.device, folder: Path):
        self.placement, self.device, self.folder = placement, device, folder
        self._kept: dict[int, list[Tensor]] = {}

    def put(self, first: int, maps: Sequence[Tensor]) -> None:
        if self.placement == "disk":
            torch.save([part.cpu() for part in maps], self.folder / f"maps_{first}.pt")
        else:
            self._kept[first] = [part if self.placement == "device" else part.cpu() for part in maps]

    def take(self, first: int) -> list[Tensor] | None:
        """The maps of the chunk that begins with patch `first`, once; None if they were never put here."""
        file = self.folder / f"maps_{first}.pt"
        if self.placement == "disk" and file.exists():
            maps = torch.load(file, weights_only=True)
            file.unlink()
        else:
            maps = self._kept.pop(first, None)
        return None if maps is None else [part.to(self.device) for part in maps]


class StreamedDehaze:
    """Runs a `DehazeXL` over images of any size in bounded memory.

    The network is on the device and in the dtype that compute; give it `fuse()`d.

    Args:
        model: in eval mode.
        options: see there.
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
        self.patches_at_once = self.options.patches_at_once or (1 if self.device.type == "cpu" else 8)

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
            restart: go on from what is there, and leave what is needed to go on from here.

        Raises:
            InputError: an image without pixels, or with missing parts under HyperAttention.
        """
        if min(source.height, source.width) < 1:
            raise InputError(f"expected an image of at least 1 x 1 pixels, got {source.width} x {source.height}")
        with tempfile.TemporaryDirectory(dir=self.options.folder) as temporary:
            for number, offset in enumerate((0, SHIFT) if self.options.blend else (0,)):
                grid = Grid(source.height, source.width, offset)
                run = _Run(self, source, sink, grid, Path(temporary), restart, f"{number}")
                run(draws, blended=number > 0)

    def split(self, compute: Callable[[list[int]], None], numbers: list[int]) -> None:
        """`compute` on the patches, in two halves where memory does not suffice; later chunks are smaller from the start."""
        try:
            compute(numbers)
            return
        except torch.OutOfMemoryError:
            if len(numbers) == 1:
                raise
        half = -(-len(numbers) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.patches_at_once > half:
            self.patches_at_once = half
            warnings.warn(f"not enough memory on {self.device}: going on with {half} patches at once", stacklevel=2)
        self.split(compute, numbers[:half])
        self.split(compute, numbers[half:])


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
        self.tokens = self._shelf("tokens", keep=restart is not None)

    # Where things are

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

    def _shelf(self, name: str, *, keep: bool = False) -> Shelf:
        """(rows of tokens, columns, C); `keep` for what the next run goes on from."""
        shape = (SIDE * self.grid.rows, SIDE * self.grid.columns, self.dim)
        if keep and self.restart is not None:
            return Shelf(shape, self.dtype, self.device, "disk", self.restart.folder / f"{name}{self.name}.raw")
        return Shelf(shape, self.dtype, self.device, self.tokens_at, self.folder / f"{name}{self.name}.raw")

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
            context = self._shelf("context", keep=True)
        self.decode(context, blended)

    def _chunks(self, todo: np.ndarray) -> Iterator[tuple[list[int], list[Tensor | None]]]:
        """Patches that are still to do, read ahead by a thread."""
        numbers = np.flatnonzero(todo).tolist()
        pending: list[tuple[int, Tensor | None]] = []
        reads = ahead(
            lambda number: read_patch(self.source, self.grid, number), numbers, 1, 2 * self.stream.patches_at_once
        )
        for number, patch in reads:
            if isinstance(patch, InputError):
                raise patch
            pending.append((number, patch))
            if len(pending) >= self.stream.patches_at_once:
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
        """Pass 1: every patch's last map into `tokens`. In `encoded`, 1 stands for a patch and 2 for one without data."""
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
                self.stream.split(compute, list(held))
            for n, patch in zip(numbers, patches, strict=True):
                self.encoded[n] = 2 if patch is None else 1
            self.stream.progress("encode", int((self.encoded > 0).sum()), total)

    def attend(self, valid: Tensor, draws: Sequence[HyperDraw | None] | None) -> Shelf:
        """The bottleneck over all tokens. Patches that are not `valid` (patches,) are neither read nor seen."""
        bottleneck, tokens = self.model.bottleneck, self.grid.count * SIDE * SIDE
        draws = bottleneck.draw(1, tokens, None) if draws is None else draws
        context = (
            self.tokens if self.restart is None else self._shelf("context", keep=True)
        )  # else both are needed again
        seen = None
        if not valid.all():
            seen = valid.view(self.grid.rows, self.grid.columns)
            seen = seen.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1).flatten()
        StreamedBottleneck(bottleneck, self.options, self.tokens_at, self.stream.progress)(
            self.tokens, context, self._shelf("mixed"), seen, draws
        )
        return context

    def decode(self, context: Shelf, blended: bool) -> None:
        """Pass 2: every patch into the sink."""
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
                self.stream.split(compute, list(held))
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
            part = weight * part + (1 - weight) * self.sink.read(top, left, part.shape[1], part.shape[2])
        self.sink.write(top, left, part)


def shifted_weight() -> Tensor:
    """(256, 256): the share of the shifted grid's patch, 0 at its own border and 1 at the border of the other grid's."""
    place = torch.arange(PATCH, dtype=torch.float32) + 0.5
    own = torch.minimum(place, PATCH - place)  # distance to the border of this grid's patch
    other = (place - SHIFT).abs()  # and to the other grid's
    other = torch.minimum(other, PATCH - other)
    mine = torch.minimum(own[:, None], own[None])
    theirs = torch.minimum(other[:, None], other[None])
    return torch.sin(torch.pi / 2 * mine / (mine + theirs)).square()


class StreamedBottleneck:
    """A `Bottleneck` over tokens that are anywhere, in slices; keys and values of a group of heads in a `TensorBank`."""

    def __init__(
        self,
        bottleneck: Bottleneck,
        options: StreamOptions,
        placement: Placement,
        progress: Callable[[str, int, int], object],
    ):
        self.bottleneck, self.options, self.placement, self.progress = bottleneck, options, placement, progress
        weight = next(bottleneck.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    def __call__(
        self, source: Shelf, out: Shelf, mixed: Shelf, seen: Tensor | None, draws: Sequence[HyperDraw | None]
    ) -> None:
        """
        Args:
            source: (h, w, C), the encoder's maps.
            out: (h, w, C), gets the bottleneck's; may be `source` itself.
            mixed: (h, w, C), scratch.
            seen: (h * w,) boolean, the tokens that exist; None for all.
            draws: per layer.
        """
        height, width, dim = source.data.shape
        step = max(1, self.options.tokens_at_once // width)
        groups = self.groups(height * width)
        total = len(self.bottleneck.layers) * len(groups) * len([*self.slices(height * width)])
        done = 0
        self.progress("attend", 0, total)
        for row in range(0, height, step):
            rows = source[slice(row, row + step)]
            out[slice(row, row + step)] = self.bottleneck.embed(rows.permute(2, 0, 1)[None], row).view(rows.shape)
        tokens, attended = out.data.view(-1, dim), mixed.data.view(-1, dim)
        for layer, draw in zip(self.bottleneck.layers, draws, strict=True):
            assert isinstance(layer, BottleneckLayer)
            head = dim // self.bottleneck.heads
            for group in groups:
                columns = slice(group.start * head, group.stop * head)
                mix = self.exact(layer, tokens, group, seen) if draw is None else self.hyper(layer, tokens, group, draw)
                for part, values in mix:
                    attended[part, columns] = values.transpose(1, 2).flatten(2)[0].to(attended.device, self.dtype)
                    done += 1
                    self.progress("attend", min(done, total), total)
            for part in self.slices(len(tokens)):
                x = tokens[part][None].to(self.device)
                x = x + layer.attention.proj(attended[part][None].to(self.device))
                tokens[part] = layer.feed_forward(x)[0].to(tokens.device)

    def slices(self, count: int) -> Iterator[slice]:
        step = self.options.tokens_at_once
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def groups(self, tokens: int) -> list[slice]:
        """The heads in groups of which keys and values fit into a quarter of the device's free memory."""
        heads = self.bottleneck.heads
        size = self.options.heads_at_once
        if size is None:
            one = 2 * tokens * self.bottleneck.input_proj.in_features // heads * self.dtype.itemsize
            size = max(1, min(heads, int(free_memory(self.device) / 4 // max(one, 1))))
        return [slice(start, min(start + size, heads)) for start in range(0, heads, size)]

    def project(self, layer: BottleneckLayer, tokens: Tensor, group: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(n, C) -> q, k, v, each (1, heads of the group, n, C / H)."""
        return layer.attention.project(layer.norm1(tokens[None].to(self.device)), group)

    def exact(
        self, layer: BottleneckLayer, tokens: Tensor, group: slice, seen: Tensor | None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Attention of a group of heads: slices of tokens and (1, heads, n, C / H) for each."""
        bank = self.bank(layer, tokens, group, seen)
        for part in self.slices(len(tokens)):
            yield part, bank.read(self.project(layer, tokens[part], group)[0]).output

    def hyper(
        self, layer: BottleneckLayer, tokens: Tensor, group: slice, draw: HyperDraw
    ) -> Iterator[tuple[slice, Tensor]]:
        """HyperAttention of a group of heads; it sorts all tokens, so all of them are here at once."""
        assert self.bottleneck.hyper is not None
        parts = [self.project(layer, tokens[part], group) for part in self.slices(len(tokens))]
        q, k, v = (torch.cat(pieces, 2) for pieces in zip(*parts, strict=True))
        here = HyperDraw(draw.projections.to(self.device), draw.samples[:, group].to(self.device))
        mix = hyper_attention(q, k, v, here, self.bottleneck.hyper.block)[0]
        yield from ((part, mix[:, :, part]) for part in self.slices(len(tokens)))

    def bank(self, layer: BottleneckLayer, tokens: Tensor, group: slice, seen: Tensor | None) -> TensorBank:
        """Keys and values of a group of heads, of all tokens that exist."""
        head, count = self.bottleneck.input_proj.in_features // self.bottleneck.heads, group.stop - group.start
        size = len(tokens) if seen is None else int(seen.sum())
        fits = 2 * size * head * count * self.dtype.itemsize < free_memory(self.device) / 2
        bank = TensorBank(
            head,
            head,
            capacity=size,
            heads=count,
            device=self.device,
            dtype=self.dtype,
            placement="device" if fits else "disk" if self.placement == "disk" else "host",
            stream_block=self.options.keys_at_once,
            folder=self.options.folder,
        )
        for part in self.slices(len(tokens)):
            _, k, v = self.project(layer, tokens[part], group)
            if seen is not None:
                there = seen[part].nonzero().squeeze(1).to(self.device)
                k, v = k[:, :, there], v[:, :, there]
            if k.shape[2]:
                bank.write(k, v)
        return bank
