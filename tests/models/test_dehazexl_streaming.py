"""DehazeXL in two passes: the same image wherever its state is kept, and a killed run resumes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.golden import seeded
from visionzoo.errors import InputError
from visionzoo.models.dehazexl import DehazeXL, DehazeXLConfig, streaming
from visionzoo.models.dehazexl.model import join_patches, pad_to_patches
from visionzoo.models.dehazexl.placement import Restart, StreamOptions
from visionzoo.models.dehazexl.streaming import StreamedDehaze
from visionzoo.models.dehazexl.tiles import SHIFT, Grid, Held, HeldResult, read_patch, shifted_weight

TINY = DehazeXLConfig(
    embed_dim=8,
    depths=(1, 2, 1, 1),
    heads=(1, 1, 2, 2),
    bottleneck_heads=4,
    decoder_depths=(1, 2, 1, 1),
    decoder_heads=(4, 2, 2, 1),
)
LSH = {"attention": "lsh", "lsh_min_tokens": 64, "lsh_block": 32, "lsh_samples": 32}


@cache
def network(**changes: object) -> DehazeXL:
    model = DehazeXL(DehazeXLConfig(**{**vars(TINY), **changes})).eval()  # pyright: ignore[reportArgumentType]
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model


def image(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def streamed(model: DehazeXL, x: Tensor, **options: object) -> Tensor:
    held = Held(x)
    StreamedDehaze(model, StreamOptions(**options))(held, held.sink)  # pyright: ignore[reportArgumentType]
    return held.out


def relative(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want.double()).norm() / want.double().norm())


WAYS = {
    "in memory": {},
    "streamed": {"stream": True},
    "encoded twice": {"skips": "recompute"},
    "maps on the host": {"skips": "host", "patches_at_once": 3},
    "all on disk": {"skips": "disk", "tokens": "disk", "heads_at_once": 1, "tokens_at_once": 50},
    "small pieces": {"tokens": "host", "heads_at_once": 3, "keys_at_once": 50, "patches_at_once": 16},
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"reconstruction": "scattering", "smoothing": 48}, {"upsample": "shuffle"}, LSH],
    ids=["exact", "scattering", "dam", "lsh"],
)
def test_all_ways_to_stream_equal_the_whole_image(changes: dict) -> None:
    model, x = network(**changes), image(260, 300)
    with torch.no_grad():
        want = model(x[None])[0]
    fused = model.fuse()
    errors = {name: relative(streamed(fused, x, **options), want) for name, options in WAYS.items()}
    assert all(error < 2e-6 for error in errors.values()), errors


def test_blending_in_memory_is_blending_streamed() -> None:
    model, x = network(reconstruction="scattering", smoothing=48).fuse(), image(260, 300)
    want = streamed(model, x, blend=True, stream=True)
    assert relative(streamed(model, x, blend=True), want) < 2e-6


def test_images_that_do_not_fit_in_memory_or_must_resume_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, held = network().fuse(), Held(image(64, 64))
    taken: list[str] = []
    original = streaming.dehaze_whole
    monkeypatch.setattr(streaming, "dehaze_whole", lambda *a, **k: taken.append("in memory") or original(*a, **k))
    StreamedDehaze(model)(held, held.sink)
    assert taken == ["in memory"]
    StreamedDehaze(model, StreamOptions(stream=True))(held, held.sink)
    StreamedDehaze(model)(held, held.sink, restart=Restart(tmp_path))
    monkeypatch.setattr("visionzoo.models.dehazexl.whole.free_memory", lambda device: 1 << 20)
    StreamedDehaze(model)(held, held.sink)
    assert taken == ["in memory"]


@pytest.mark.parametrize("side", [(1, 1), (31, 257), (300, 5)])
def test_any_size(side: tuple[int, int]) -> None:
    model, x = network(), image(*side)
    with torch.no_grad():
        assert relative(streamed(model, x), model(x[None])[0]) < 2e-6


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 600), width=st.integers(1, 600))
def test_patches_are_padded_as_the_whole_is(height: int, width: int) -> None:
    x = image(height, width)
    padded, grid = pad_to_patches(x[None])[0], Grid(height, width)
    for number in range(grid.count):
        top, left = grid.corner(number)
        patch = read_patch(Held(x), grid, number)
        assert patch is not None
        assert torch.equal(patch, padded[:, top : top + 256, left : left + 256])


def test_shifted_patches_cover_the_image_once() -> None:
    grid = Grid(300, 520, SHIFT)
    seen = torch.zeros(300, 520)
    for number in range(grid.count):
        rows, columns = grid.inside(number)
        top, left = grid.corner(number)
        seen[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] += 1
    assert (seen == 1).all()
    assert read_patch(Held(image(300, 520)), grid, 0) is not None
    assert grid.corner(0) == (-SHIFT, -SHIFT)


def test_weights_of_the_two_grids() -> None:
    weight = shifted_weight()
    assert weight[0, 60] < 1e-2  # at its own border, the shifted grid's patch has weight 0
    assert weight[SHIFT, 100] > 0.99  # at the border of the other grid, it has weight 1
    assert torch.equal(weight, weight.T)
    assert ((weight >= 0) & (weight <= 1)).all()


def test_blending_changes_nothing_where_patches_agree() -> None:
    """A network that adds a constant; and where patches of one grid meet, the other grid is used."""
    model = copy.deepcopy(network())
    for parameter in model.decoder.parameters():
        parameter.data.zero_()
    x = image(300, 520)
    assert torch.allclose(streamed(model, x, blend=True), x, atol=1e-6)
    model = network()
    one, both = streamed(model, x), streamed(model, x, blend=True)
    with torch.no_grad():
        shifted = model(read_all(x))[0, :, SHIFT : SHIFT + 300, SHIFT : SHIFT + 520]
    assert relative(both[:, 100, 255:257], shifted[:, 100, 255:257]) < 0.02
    assert relative(both[:, 256 - SHIFT, 60:64], one[:, 256 - SHIFT, 60:64]) < 0.02


def read_all(x: Tensor) -> Tensor:
    """The shifted grid's patches as one image (1, 3, H', W')."""
    grid = Grid(x.shape[1], x.shape[2], SHIFT)
    patches = [read_patch(Held(x), grid, number) for number in range(grid.count)]
    assert all(patch is not None for patch in patches)
    return join_patches(torch.stack([patch for patch in patches if patch is not None]), grid.rows, grid.columns)


class Stops(HeldResult):
    """A sink in which a run dies."""

    def __init__(self, out: Tensor, after: int):
        super().__init__(out)
        self.after = after

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        if self.after == 0:
            raise KeyboardInterrupt
        self.after -= 1
        super().write(top, left, pixels)


class Dies(Held):
    """A source that fails in the middle."""

    def __init__(self, image: Tensor, after: int):
        super().__init__(image)
        self.after, self.count = after, 0

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        self.count += 1
        if self.after and self.count > self.after:
            raise InputError("the file is cut off")
        return super().read(top, left, height, width)


@pytest.mark.parametrize("changes", [{}, LSH], ids=["exact", "lsh"])
def test_a_killed_run_resumes(tmp_path: Path, changes: dict) -> None:
    model, x = network(**changes), image(512, 768)
    stream = StreamedDehaze(model, StreamOptions(patches_at_once=1, skips="recompute"))
    with torch.no_grad():
        want = model(x[None])[0]
    first = Dies(x, 4)
    with pytest.raises(InputError, match="cut off"):
        stream(first, first.sink, restart=Restart(tmp_path))
    second = Dies(x, 0)
    with pytest.raises(KeyboardInterrupt):
        stream(second, Stops(second.out, 2), restart=Restart(tmp_path))
    assert second.count < 6 + 6  # encoded patches are not read again
    third = Dies(x, 0)
    third.out.copy_(second.out)
    stream(third, third.sink, restart=Restart(tmp_path))
    assert third.count == 4  # two of six patches were already finished
    assert relative(third.out, want) < 2e-6
    again = Dies(x, 0)
    stream(again, again.sink, restart=Restart(tmp_path))
    assert again.count == 0


class Holes(Held):
    """The right patch has no data."""

    def __init__(self, image: Tensor):
        super().__init__(image)
        self.kept: list[tuple[int, ...]] = []

    def read(self, top: int, left: int, height: int, width: int) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None if left >= 256 else super().read(top, left, height, width)


class KeepsHoles(HeldResult):
    def __init__(self, source: Holes):
        super().__init__(source.out)
        self.source = source

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        self.source.kept.append((top, left, height, width))


def test_missing_parts_are_ignored() -> None:
    model, x = network(), image(256, 500)
    source = Holes(x)
    StreamedDehaze(model)(source, KeepsHoles(source))
    with torch.no_grad():
        want = model(x[None, :, :, :256])[0]
    assert relative(source.out[..., :256], want) < 2e-6
    assert source.kept == [(0, 256, 256, 244)]
    with pytest.raises(InputError, match="attention='exact'"):
        StreamedDehaze(network(**LSH))(source, KeepsHoles(source))


def test_chunks_shrink_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), image(512, 512)
    with torch.no_grad():
        want = model(x[None])[0]
    encode: Callable = model.encode
    tried: list[int] = []

    def limited(patches: Tensor) -> list[Tensor]:
        tried.append(len(patches))
        if len(patches) > 1:
            raise torch.OutOfMemoryError("no memory")
        return encode(patches)

    monkeypatch.setattr(model, "encode", limited)
    with pytest.warns(UserWarning, match="out of memory; continuing with batches of 2") as caught:
        got = streamed(model, x, patches_at_once=4)
    assert relative(got, want) < 2e-6
    assert len(caught) == 1
    assert [size for size in tried if size > 1] == [
        4,
        4,
        2,
    ]  # in one go, then as a stream: 4 -> 2 -> 1, and never again


def test_progress_is_reported() -> None:
    told: list[tuple[str, int, int]] = []
    held = Held(image(256, 600))
    StreamedDehaze(network(), progress=lambda *step: told.append(step))(held, held.sink)
    assert [step for step in told if step[1] == step[2]] == [("encode", 3, 3), ("attend", 2, 2), ("decode", 3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patches_at_once": 0}, "at least 1"),
        ({"skips": "tape"}, "skips must be"),
        ({"tokens": "tape"}, "tokens must be"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamOptions(**options)
