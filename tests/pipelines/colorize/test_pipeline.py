"""LongAnimationPipeline on tiny random networks: segments, streams, memory, saved states, and what it refuses."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny, tiny_animation
from tests.tiny_animation import colored, drawings
from visionzoo.errors import InputError
from visionzoo.models.longanimation import sampling
from visionzoo.pipelines.colorize import ColorizeOptions, LongAnimationPipeline, is_coloring
from visionzoo.pipelines.colorize.placement import TooLittleMemory

FRAMES = 33
"""Three segments of 17 frames that begin every 8 frames."""
RED: dict[str, Any] = {"prompt": "a red boat"}


def silent(*_: object) -> None:
    """No progress bars."""


@pytest.fixture
def pipe() -> LongAnimationPipeline:
    return tiny.colorize()


@pytest.fixture
def reference() -> np.ndarray:
    return colored(1)[0]


def made(pipe: LongAnimationPipeline, source: Any, reference: Any, **settings: Any) -> np.ndarray:
    return pipe(source, reference, progress=silent, **{**RED, **settings}).frames


# Segments


def test_segments_write_what_the_published_plan_writes(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    video = pipe(drawings(FRAMES), reference, progress=lambda *now: told.append(now), **RED)
    written = [(part.segment.first, part.segment.last) for part in video.segments]
    assert written == [(1, 9), (9, 17), (17, 25)]
    assert video.frames.shape == (24, 32, 32, 3)
    assert video.first == 1
    assert told == [("colouring", step, 6) for step in range(1, 7)]


def test_every_frame_is_written_if_asked_for(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    """Also the first and the last ones, those after the last whole segment, and those of a clip that is shorter than one."""
    video = pipe(drawings(30), reference, progress=silent, drop_remainder=False, steps=1)
    assert [(part.segment.start, part.segment.first, part.segment.last) for part in video.segments] == [
        (0, 0, 9),
        (8, 9, 17),
        (13, 17, 30),
    ]
    short = pipe(drawings(7), reference, progress=silent, drop_remainder=False, steps=1)
    assert short.frames.shape == (7, 32, 32, 3)


def test_a_stream_reads_no_more_than_it_needs(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    """The number of frames need not be known, and frames that were used are released."""
    alive: list[weakref.ref[Any]] = []
    for settings in ({}, {"drop_remainder": False}):
        known = pipe(drawings(30), reference, progress=silent, steps=1, **settings)
        read: list[int] = []

        def frames(read: list[int] = read) -> Iterator[np.ndarray]:
            for number, frame in enumerate(drawings(30)):
                read.append(number)
                frame = frame.copy()
                alive.append(weakref.ref(frame))
                yield frame

        stream = pipe.stream(frames(), reference, ColorizeOptions(steps=1, **settings), progress=silent)
        parts = [next(stream)]
        assert len(read) == 18
        for part in stream:
            parts.append(part)
            assert sum(each() is not None for each in alive) <= 2 * 17 + 1
        assert np.array_equal(np.concatenate([part.frames for part in parts]), known.frames)
        assert [part.segment for part in parts] == [part.segment for part in known.segments]


def test_segments_without_memory_and_fusion_depend_on_their_own_frames_only(
    pipe: LongAnimationPipeline, reference: np.ndarray
) -> None:
    lines = drawings(FRAMES)[:25]  # two segments
    other = lines.copy()
    other[0:4] = drawings(40)[36:]
    for settings, same in (
        ({"memory": "none", "fusion": False}, True),
        ({"memory": "both", "fusion": False}, False),
        ({"memory": "global", "fusion": False}, False),
        ({"memory": "none", "fusion": True}, False),
    ):
        chosen = {**settings, "sketch_posterior": "mode", "steps": 1}
        first, second = (made(pipe, source, reference, **chosen) for source in (lines, other))
        assert np.array_equal(first[8:16], second[8:16]) == same, settings


def test_memory_modes_differ(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    found = [
        made(pipe, drawings(25), reference, memory=memory, local_frames=3, steps=1)
        for memory in ("both", "global", "local", "none")
    ]
    for first in range(4):
        assert np.array_equal(found[first][:8], found[0][:8])
        assert all(not np.array_equal(found[first][8:], found[second][8:]) for second in range(first))


def test_results_depend_on_what_is_given(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    lines = drawings(17)
    plain = made(pipe, lines, reference)
    assert np.array_equal(made(pipe, lines, reference), plain)
    for settings in (
        {"seed": 1},
        {"prompt": "a green boat"},
        {"negative_prompt": "blue"},
        {"guidance": 1.0},
        {"steps": 3},
        {"sketch_posterior": "mode"},
    ):
        assert not np.array_equal(made(pipe, lines, reference, **settings), plain), settings
    assert not np.array_equal(made(pipe, lines, 255 - reference), plain)
    assert not np.array_equal(made(pipe, lines[::-1].copy(), reference), plain)


def test_the_prompts_suffix_is_repeated_as_published(
    pipe: LongAnimationPipeline, reference: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = LongAnimationPipeline.encode_tokens
    monkeypatch.setattr(
        LongAnimationPipeline,
        "encode_tokens",
        lambda self, ids: (seen.append(sum(map(bool, ids))), encode(self, ids))[1],
    )
    pipe(drawings(FRAMES), reference, progress=silent, steps=1, **RED)
    assert seen == [1, 5, 6, 7]  # "" and its end; three words, the suffix once, twice, three times, and the end
    seen.clear()
    pipe(drawings(FRAMES), reference, progress=silent, steps=1, repeat_suffix=False, **RED)
    assert seen == [1, 5]


def test_memory_is_projected_once_per_segment(
    pipe: LongAnimationPipeline, reference: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    project = pipe.memory_fusion.project
    monkeypatch.setattr(pipe.memory_fusion, "project", lambda *m: (calls.append(m[0].shape[3]), project(*m))[1])
    pipe(drawings(FRAMES), reference, progress=silent, steps=3, **RED)
    assert len(calls) == 2
    assert calls[1] > calls[0]


# What is coloured


def test_drawings_and_colour_are_told_apart(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    for source, kind in ((drawings(17), "drawings"), (colored(17), "color")):
        assert pipe(source, reference, progress=silent, steps=1).coloring.sketches.kind == kind


def test_the_first_frame_in_colour_can_be_the_reference(pipe: LongAnimationPipeline) -> None:
    source = colored(17)
    assert np.array_equal(
        made(pipe, source, None, reference_fit="crop"), made(pipe, source, source[0], reference_fit="crop")
    )
    with pytest.raises(InputError, match="line drawings needs a reference image in colour"):
        made(pipe, drawings(17), None)


def test_mistaken_sources(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    without = LongAnimationPipeline.create(pipe, device="cpu", lineart=None)
    with pytest.raises(InputError, match=r"in colour, and this pipeline has no line-art network .*sk_model\.pth"):
        made(without, colored(17), reference)
    with pytest.raises(InputError, match="no line drawings: too many pixels are coloured"):
        made(pipe, colored(17), reference, line_source="drawings")
    with pytest.raises(InputError, match=r"bright lines on dark paper; pass inverted=True \(--inverted\)"):
        made(pipe, 255 - drawings(17), reference)
    assert np.array_equal(made(pipe, 255 - drawings(17), reference, inverted=True), made(pipe, drawings(17), reference))
    with pytest.warns(UserWarning, match="looks like line drawings"):
        made(pipe, drawings(17), reference, line_source="color")


def test_sizes(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    """Frames of any size cover the size of the result; a reference of another aspect is stretched, with a warning, or cropped."""
    large = np.repeat(np.repeat(drawings(17, 32, 48), 2, 1), 2, 2)
    assert pipe(large, reference, progress=silent, steps=1, size=(32, 48)).frames.shape == (8, 32, 48, 3)
    assert pipe(large, reference, progress=silent, steps=1).frames.shape == (8, 32, 32, 3)
    wide = Image.fromarray(reference).resize((64, 32))
    with pytest.warns(UserWarning, match=r"64 x 32 pixels and is stretched to 32 x 32 as published"):
        made(pipe, drawings(17), wide)
    made(pipe, drawings(17), wide, reference_fit="crop")
    with pytest.raises(InputError, match="multiples of 16, got 30 x 40; the nearest are 32 x 48|32 x 32"):
        pipe(drawings(17), reference, size=(30, 40))
    assert pipe.fitting_size(1080, 1920) == (32, 48)


def test_numbers_that_allow_no_plan(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"has 16 frames, but a segment has 17.*--no-drop-remainder"):
        made(pipe, drawings(16), reference)
    with pytest.raises(InputError, match=r"8 k \+ 1 frames"):
        made(pipe, drawings(40), reference, segment_frames=20)
    with pytest.raises(InputError, match="has 17 frames, expected 40"):
        made(pipe, drawings(17), reference, frames=40)
    with pytest.raises(InputError, match="has 17 frames, expected 40"):
        list(pipe.stream(iter(drawings(17)), reference, frames=40, progress=silent))
    with pytest.raises(InputError, match="memory must be both, global, local or none, got 'all'"):
        made(pipe, drawings(17), reference, memory="all")


# States


@pytest.mark.parametrize("settings", [{}, {"memory": "none"}, {"memory_frames": 12}, {"drop_remainder": False}])
def test_a_saved_state_continues_bit_for_bit(
    pipe: LongAnimationPipeline, reference: np.ndarray, tmp_path: Path, settings: dict[str, Any]
) -> None:
    lines, options = drawings(FRAMES), ColorizeOptions(**RED, **settings)
    want = made(pipe, lines, reference, **settings)
    coloring, found = pipe.begin(reference, options, frames=len(lines)), []
    for segment in coloring.segments:
        found.append(coloring.color(lines[segment.start : segment.stop]))
        coloring.save(tmp_path / "state")
        torch.manual_seed(len(found))  # no hidden random numbers
        coloring = pipe.resume(tmp_path / "state")
        assert coloring.done == len(found)
    assert np.array_equal(np.concatenate(found), want)
    assert is_coloring(tmp_path / "state")
    with pytest.raises(InputError, match="all 3 segments of the clip are done"):
        coloring.color(lines[:17])


def test_an_interrupted_segment_can_be_repeated(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    lines, options = drawings(FRAMES), ColorizeOptions(**RED)
    want = made(pipe, lines, reference)
    coloring, found, failed = pipe.begin(reference, options, frames=len(lines)), [], 0

    def fail() -> None:
        raise KeyboardInterrupt

    for segment in coloring.segments:
        coloring.tick = fail
        with pytest.raises(KeyboardInterrupt):
            coloring.color(lines[segment.start : segment.stop])
        failed += 1
        coloring.tick = lambda: None
        found.append(coloring.color(lines[segment.start : segment.stop]))
    assert failed == 3
    assert np.array_equal(np.concatenate(found), want)


def test_a_callback_ends_it_after_a_step(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    def end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert tensors["latents"].shape == (1, 6, 4, 4, 4)
        pipe._interrupt = True
        return {}

    video = pipe(drawings(FRAMES), reference, progress=silent, callback_on_step_end=end)
    assert video.frames.shape == (0, 32, 32, 3)
    assert video.coloring.done == 0


def test_states_of_others_are_refused(pipe: LongAnimationPipeline, reference: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no video in colouring"):
        pipe.resume(tmp_path)
    coloring = pipe.begin(reference, frames=17)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(InputError, match="exists and holds no video in colouring"):
        coloring.save(tmp_path / "mine")
    coloring.save(tmp_path / "state")
    other = LongAnimationPipeline(**tiny_animation.parts(lineart=False), **tiny_animation.SETTINGS)
    with pytest.raises(InputError, match="begun with other networks"):
        other.resume(tmp_path / "state")
    (tmp_path / "state" / "coloring.json").write_text("{")
    with pytest.raises(InputError, match="the saved video is damaged"):
        pipe.resume(tmp_path / "state")


def test_the_state_does_not_grow_with_the_segments(pipe: LongAnimationPipeline, reference: np.ndarray) -> None:
    lines = drawings(65)
    coloring = pipe.begin(reference, ColorizeOptions(steps=2, over_limit="evict", memory_frames=8), frames=65)
    sizes = []
    for segment in coloring.segments:
        coloring.color(lines[segment.start : segment.stop])
        assert coloring.tails.bank is not None
        sizes.append((coloring.tails.bank.nbytes, coloring.memory.global_bytes))
    assert len(set(sizes[2:])) == 1, sizes


# A device that is too small


def test_out_of_memory_continues_in_tiles(reference: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = LongAnimationPipeline(**tiny_animation.parts(), **tiny_animation.SETTINGS)
    want = made(pipe, drawings(17), reference)
    encode = sampling._encode
    monkeypatch.setattr(sampling, "_encode", lambda vae, *rest: encode(vae, *rest) if vae.use_tiling else _fail())
    with pytest.warns(UserWarning, match="out of memory; the autoencoder continues in tiles of 240 pixels") as warned:
        found = made(pipe, drawings(17), reference)
    assert len(warned) == 1
    assert np.array_equal(found, want)  # a frame is smaller than a tile
    monkeypatch.setattr(sampling, "_encode", lambda *_: _fail())
    with pytest.raises(
        TooLittleMemory, match="cpu is out of memory at 32 x 32 pixels; run the command again with a --size smaller"
    ):
        made(pipe, drawings(17), reference)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_errors_of_memory(error: Exception) -> None:
    with pytest.raises(TooLittleMemory):
        tiny.colorize().in_memory(lambda: _fail(error))


def _fail(error: Exception | None = None) -> Any:
    raise error or torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("offload", "memory_placement", "dtype", "helps"),
    [
        (
            "none", "device", torch.bfloat16,
            "run the command again with --offload model or --memory-placement host, which leaves the memory encoder on the CPU, or "
            "from the beginning with a --size smaller than 1024x576",
        ),
        ("model", "host", torch.float32, "again with --offload group, or from the beginning with --dtype bfloat16 or a --size"),
        ("sequential", "host", torch.bfloat16, "576 pixels; run the command again with a --size smaller than 1024x576"),
    ],
)  # fmt: skip
def test_what_helps_a_gpu_that_is_too_small(
    offload: Any, memory_placement: Any, dtype: torch.dtype, helps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that are in use already are not named; those that keep finished segments come first."""
    pipe, gpu = (
        LongAnimationPipeline(**tiny_animation.parts(), **tiny_animation.SETTINGS).to(dtype=dtype),
        torch.device("cuda:0"),
    )
    monkeypatch.setattr(pipe, "_offload", offload)
    monkeypatch.setattr(pipe, "_memory_placement", memory_placement)
    with pytest.raises(TooLittleMemory, match="^cuda:0 is out of memory at 1024 x 576 pixels; ") as caught:
        pipe.in_memory(_fail, (576, 1024), gpu)
    assert helps in str(caught.value)
    assert caught.value.__context__ is None  # which would keep the tensors of the failed step alive


def test_networks_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = LongAnimationPipeline(**tiny_animation.parts(), **tiny_animation.SETTINGS)
    monkeypatch.setattr(pipe.memory_encoder, "to", lambda *_: _fail())
    with pytest.raises(TooLittleMemory) as caught:
        pipe.place(torch.device("cpu"))
    assert (
        str(caught.value)
        == "cpu is out of memory while the networks are loaded; end other programs, or use a machine with more memory"
    )
    with pytest.raises(RuntimeError, match="a bug"):  # not every error is one of memory
        pipe.in_memory(lambda: _fail(RuntimeError("a bug")))


def test_a_pipeline_on_a_gpu_is_recorded_and_made_again_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights that are kept in main memory say nothing about the device: another placement neither begins again nor moves."""
    LongAnimationPipeline(**tiny_animation.parts(), **tiny_animation.SETTINGS).save_pretrained(tmp_path)
    pipe = LongAnimationPipeline.create(checkpoint=tmp_path, device="cpu", memory_placement="host")
    monkeypatch.setattr(LongAnimationPipeline, "_execution_device", torch.device("cuda:0"))
    monkeypatch.setattr(pipe, "_offload", "model")
    assert pipe.device.type == "cpu"
    assert (pipe.facts()["device"], pipe.gpus) == ("cuda:0", 1.0)
    again = {"device": "cuda", "offload": "model", "memory_placement": "host", "checkpoint": str(tmp_path)}
    assert again.items() <= pipe.arguments().items()


def test_tiles_keep_the_size_of_frames() -> None:
    pipe = LongAnimationPipeline(**tiny_animation.parts(), **tiny_animation.SETTINGS)
    frames = torch.rand(1, 3, 1, 320, 352)
    whole = pipe.vae.encode(frames).latent_dist.mode()
    pipe.use_tiling()
    latents = pipe.vae.encode(frames).latent_dist.mode()
    assert latents.shape == whole.shape == (1, 4, 1, 40, 44)
    assert pipe.vae.decode(latents).sample.shape == frames.shape
