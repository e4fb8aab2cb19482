"""DehazeXL on an image that fits in memory: encode all patches, the bottleneck, decode all patches.

`visionzoo.models.dehazexl.streaming` gives the same result (to rounding) in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from visionzoo.devices import free_memory

from .bottleneck import HyperDraw
from .encoder import PATCH
from .model import DehazeXL, join_patches, split_patches
from .tiles import SHIFT, SIDE, Grid, Sink, Source, read_patch, shifted_weight

Progress = Callable[[str, int, int], object]


def fits_in_memory(model: DehazeXL, height: int, width: int) -> bool:
    """Whether an image needs at most a quarter of the free memory, of the device and of the host.

    A pixel needs 48 bytes on the host (input, output, result and the patches of one grid in float32). On the device it needs
    15/128 * C values of the encoder's maps, and 12 values for each of the 8 C channels of a token of 32 x 32 pixels.
    """
    weight, grid = next(model.parameters()), Grid(height, width, SHIFT)
    pixels = grid.count * PATCH * PATCH
    channels = model.config.embed_dim
    maps = int(pixels * (15 / 128 + 12 * 8 / 32**2) * channels) * weight.dtype.itemsize
    host, device = 48 * pixels, maps
    if weight.device.type == "cpu":
        return host + device < free_memory(weight.device) / 4
    return host < free_memory(torch.device("cpu")) / 4 and device < free_memory(weight.device) / 4


def dehaze_whole(
    model: DehazeXL,
    source: Source,
    sink: Sink,
    *,
    blend: bool,
    patches_at_once: int,
    progress: Progress,
    draws: Sequence[HyperDraw | None] | None = None,
) -> bool:
    """Dehaze `source` into `sink` in one pass.

    Args:
        blend, patches_at_once: as in `StreamOptions`.
        progress, draws: as in `StreamedDehaze`.

    Returns:
        False, with nothing written, if a patch of the source has no data: such images are streamed.
    """
    clear = torch.empty(3, source.height, source.width)
    for offset in (0, SHIFT) if blend else (0,):
        grid = Grid(source.height, source.width, offset)
        patches = [patch for n in range(grid.count) if (patch := read_patch(source, grid, n)) is not None]
        if len(patches) < grid.count:
            return False
        for number, pixels in enumerate(restored(model, patches, grid, patches_at_once, progress, draws)):
            rows, columns = grid.inside(number)
            place = grid.window(number)
            part = pixels[:, rows, columns]
            clear[place] = torch.lerp(clear[place], part, shifted_weight()[rows, columns]) if offset else part
    grid = Grid(source.height, source.width)
    for number in range(grid.count):
        sink.write(*grid.corner(number), clear[grid.window(number)])
    return True


def restored(
    model: DehazeXL,
    patches: Sequence[Tensor],
    grid: Grid,
    patches_at_once: int,
    progress: Progress,
    draws: Sequence[HyperDraw | None] | None,
) -> Iterator[Tensor]:
    """The hazy patches of a grid (3, 256, 256) float32 -> the clear patches one by one, on the CPU."""
    weight = next(model.parameters())
    chunks = [
        torch.stack(list(patches[first : first + patches_at_once])).to(weight.device)
        for first in range(0, grid.count, patches_at_once)
    ]
    maps: list[list[Tensor]] = []
    for number, chunk in enumerate(chunks):
        progress("encode", number * patches_at_once, grid.count)
        maps.append(model.encode(chunk.to(weight.dtype)))
    progress("encode", grid.count, grid.count)

    layers = len(model.bottleneck.layers)
    progress("attend", 0, layers)
    tokens = join_patches(torch.cat([parts[-1] for parts in maps]), grid.rows, grid.columns)
    context = split_patches(model.bottleneck(tokens, draws), SIDE).split(patches_at_once)
    progress("attend", layers, layers)

    for number in range(len(chunks)):
        progress("decode", number * patches_at_once, grid.count)
        chunk, parts = chunks[number], maps[number]
        chunks[number], maps[number] = chunk.new_empty(0), []  # each is read once
        yield from model.restore(chunk, model.decode(context[number], parts).float()).cpu()
    progress("decode", grid.count, grid.count)
