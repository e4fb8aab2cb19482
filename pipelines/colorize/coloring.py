"""A video that is being coloured, segment after segment (LongAnimation, arXiv 2507.01945)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.data.augmented import stream_of
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_uint8

from ...models.longanimation import (
    ClipSegment,
    ProjectedMemory,
    SegmentConditions,
    StepTails,
    VideoHistory,
    decode_segment,
    encode_reference,
    encode_sketches,
    prepare_frames,
)
from .seen_frames import SeenFrames
from .settings import Settings, plan
from .sources import SketchMaker, reference_sketch

if TYPE_CHECKING:
    from .pipeline import LongAnimationPipeline

__all__ = ["ColoredSegment", "Coloring", "MemoryFacts", "segments_of"]

Pixels = NDArray[np.uint8]

SKETCHES, REFERENCE_SKETCH = 0, 1
"""Streams of random numbers for posteriors of sketches, which the published code draws without a seed."""


@dataclass(frozen=True)
class ColoredSegment:
    """New frames of a video.

    Attributes:
        number: of the segment, from 0.
        segment: its frames in the clip, and which of them it writes.
        frames: (n, H, W, 3) uint8: those that it writes.
    """

    number: int
    segment: ClipSegment
    frames: Pixels


@dataclass(frozen=True)
class MemoryFacts:
    """What the next segment attends to.

    Attributes:
        frames: number of frames that have been remembered.
        global_tokens, local_tokens: tokens of the two stores that were read last.
        global_bytes, local_bytes: size of their banks.
    """

    frames: int = 0
    global_tokens: int = 0
    local_tokens: int = 0
    global_bytes: int = 0
    local_bytes: int = 0


class Coloring:
    """Colours a video segment by segment. Its state (memory, step tails, counters) does not grow with the segments' pixels.

    >>> coloring = pipe.begin("girl.png", options, frames=500)
    >>> for segment in coloring.segments:
    ...     new = coloring.color(frames[segment.start : segment.stop])
    ...     coloring.save("state")

    Attributes:
        settings: the options with the model's own values filled in.
        size: height and width of the video.
        total: number of frames of the clip; None if it is not known.
        segments: the plan; empty if `total` is not known.
        done: number of finished segments.
        written: number of frames that they wrote.
        pipe: the pipeline.
        history: the global and the local memory; None without memory.
        tails: last latents of the steps in which latents are blended.
        sketches: turns frames into sketches.
        tick: called after each denoising step.
    """

    def __init__(
        self,
        pipe: LongAnimationPipeline,
        settings: Settings,
        size: tuple[int, int],
        total: int | None,
        *,
        callback: Any = None,
        kind: str | None = None,
    ):
        self.pipe, self.settings, self.size, self.total, self._callback = pipe, settings, size, total, callback
        self.segments = () if total is None else plan(settings, total)
        self.done = self.written = 0
        self.tick: Callable[[], object] = lambda: None
        self.tails = StepTails(settings.fusion.count if settings.fusion is not None else 1)
        self.seen = SeenFrames(pipe.memory_image_size) if self._may_resample else None
        self.history: VideoHistory | None = None
        if settings.memory != "none":
            with pipe.memory_at_work():
                self.history = pipe.new_history(settings, self.frames_for_memory)
        self.sketches = SketchMaker(pipe.lineart, settings.options, kind)
        self._reference: tuple[Tensor, Tensor] | None = None
        self._reference_sketch: Tensor | None = None
        self._texts: dict[str, tuple[tuple[int, ...], Tensor]] = {}
        self._tokens = (0, 0)

    # The reference

    def refer_to(self, image: Tensor, sketch: Tensor | None = None) -> None:
        """Encode the reference image.

        Args:
            image: (1, 3, H, W) uint8.
            sketch: (1, 3, H, W) uint8: a line drawing of it, which replaces the one that the line-art network would make.
        """
        pipe, options = self.pipe, self.settings.options
        # as published, noise follows the reference image's posterior in the stream of random numbers of every segment
        generator = torch.Generator().manual_seed(self.settings.seed)
        vae, device, pixels = pipe.vae, pipe.run_device, 2 * (image.float() / 255) - 1
        latents = pipe.without_overflow(lambda: encode_reference(vae, pixels, generator, device))
        self._reference = latents, generator.get_state()
        lines = None
        if sketch is not None:
            lines = reference_sketch(sketch, options.line_threshold)
        elif self.sketches.extracts and options.first_sketch != "frame":
            lines = self.sketches.extract(image)
        if lines is not None:
            self._reference_sketch = self._encode(lines, self._posterior(REFERENCE_SKETCH, 0))

    def _encode(self, lines: Tensor, drawn: torch.Generator | None) -> Tensor:
        pipe = self.pipe
        return pipe.without_overflow(lambda: encode_sketches(pipe.vae, lines, drawn, pipe.run_device))

    def _posterior(self, stream: int, number: int) -> torch.Generator | None:
        if self.settings.options.sketch_posterior == "mode":
            return None
        return torch.Generator().manual_seed(stream_of(self.settings.seed, stream, number))

    # One segment

    def color(self, frames: Pixels | Tensor, segment: ClipSegment | None = None) -> Pixels | None:
        """Colour the next segment. After an error or an interruption, the state is that before the call, and it can be repeated.

        Args:
            frames: (F, H, W, 3) uint8 of any size: line drawings, or in colour; F is `segment.stop - segment.start`.
            segment: the next one of a plan; needed if the number of frames is not known.

        Returns:
            The frames that the segment writes, (n, height, width, 3) uint8; None if a callback asked to end (`pipe._interrupt`).

        Raises:
            InputError: all segments are done, or frames that cannot be used.
            TooLittleMemory: the device is out of memory; the message names what helps.
        """
        return self.pipe.in_memory(lambda: self._color(frames, segment), self.size)

    def _color(self, frames: Pixels | Tensor, segment: ClipSegment | None) -> Pixels | None:
        current = self._next(segment, len(frames))
        latents = self._sample(current, self._conditions(current, frames))
        if latents is None:
            return None
        pipe = self.pipe
        made = pipe.without_overflow(lambda: decode_segment(pipe.vae, latents, pipe.run_device, current.written))
        new = to_uint8(made / 2 + 0.5)
        if self.done + 1 != len(self.segments):  # after the last segment, nothing looks at the memory any more
            self._remember(new)
        self.done += 1
        self.written += len(new)
        return new

    def _next(self, segment: ClipSegment | None, given: int) -> ClipSegment:
        if segment is None:
            if self.total is None:
                raise InputError("the number of frames of the clip was not given: pass the segment, too")
            if self.done == len(self.segments):
                raise InputError(f"all {self.done} segments of the clip are done")
            segment = self.segments[self.done]
        count = segment.stop - segment.start
        if given != count:
            raise InputError(
                f"segment {self.done} has the frames {segment.start} to {segment.stop - 1} of the clip, {count} frames; got {given}"
            )
        return segment

    def _conditions(self, segment: ClipSegment, frames: Pixels | Tensor) -> SegmentConditions:
        pipe = self.pipe
        prepared = prepare_frames(frames, *self.size)
        if len(prepared) < segment.length:
            prepared = torch.cat([prepared, prepared[-1:].expand(segment.length - len(prepared), -1, -1, -1)])
        lines = self.sketches(prepared)
        if self._reference is None:
            if self.sketches.kind != "color":
                raise InputError("a video of line drawings needs a reference image in colour: give reference=")
            self.refer_to(prepared[:1])
        assert self._reference is not None
        drawn = self._posterior(SKETCHES, self.done)
        sketches = self._encode(lines, drawn)
        rule, first = self.settings.options.first_sketch, self._reference_sketch
        if first is None or rule == "frame" or (rule == "published" and self.done):
            first = self._encode(lines[:1], drawn)
        if self._reference_sketch is None and not self.done and rule == "reference":
            self._reference_sketch = first  # without a line-art network, the first drawing is that of the reference
        like = pipe.like
        latents = [each.to(like) for each in (sketches, first, self._reference[0])]
        return SegmentConditions(
            latents[0],
            latents[1],
            latents[2],
            self._text_states().to(like),
            self._memory(),
        )

    def _sample(self, segment: ClipSegment, conditions: SegmentConditions) -> Tensor | None:
        pipe = self.pipe
        assert self._reference is not None
        generator = torch.Generator()
        generator.set_state(self._reference[1])
        scheduler = pipe.timed_scheduler(self.settings.steps)
        pipe.start()

        def on_step(number: int, latents: Tensor) -> Tensor:
            after = pipe.after_step(self._callback, number, scheduler.timesteps[number], latents=latents)
            self.tick()
            if pipe.interrupt:
                raise _Interrupted
            return after["latents"]

        self.tails.begin(self.done)
        with contextlib.suppress(_Interrupted):
            return pipe.generate_segment(
                conditions,
                scheduler=scheduler,
                guidance=self.settings.guidance,
                generator=generator,
                fusion=self.settings.fusion,
                tails=self.tails,
                fused_latent=segment.fused_latent(self.tails.frames, self.settings.latent_frames),
                on_step=on_step,
            )
        return None

    def _text_states(self) -> Tensor:
        """(2, L, width) of the negative prompt and the prompt; (1, L, width) without guidance."""
        texts = {"prompt": self.settings.prompt(self.done)}
        if self.settings.guidance > 1:
            texts = {"negative": self.settings.options.negative_prompt, **texts}
        for name, text in texts.items():
            ids = self.pipe.tokens_of(text)
            if name not in self._texts or self._texts[name][0] != ids:  # the suffix grows until the tokens are full
                self._texts[name] = ids, self.pipe.encode_tokens(ids)
        return torch.cat([self._texts[name][1] for name in texts])

    # The memory

    @property
    def _may_resample(self) -> bool:
        if self.settings.memory == "none" or self.settings.over_limit != "resample":
            return False
        return not self.segments or self.segments[-1].first - self.segments[0].first > self.settings.memory_frames

    @property
    def frames_for_memory(self) -> Callable[[Sequence[int]], Tensor] | None:
        """Reads written frames by their numbers, for a full memory that is made from a sample of them."""
        return None if self.seen is None else self.seen.read

    def _remember(self, new: Pixels) -> None:
        if self.history is None:
            return
        frames = torch.from_numpy(new).movedim(-1, 1)
        if self.seen is not None:
            self.seen.cut(self.written)
            self.seen.append(frames)
        with self.pipe.memory_at_work():
            # after an interruption in here, a part of them may be known already
            self.history.append(frames[self.history.stream.frames - self.written :])

    def _memory(self) -> ProjectedMemory | None:
        if self.history is None or not self.done:
            return None
        with self.pipe.memory_at_work():
            found = self.history.read_stores(self.settings.memory)  # pyright: ignore[reportArgumentType]
        whole, last = found
        self._tokens = (0 if whole is None else whole.shape[3], 0 if last is None else last.shape[3])
        return self.pipe.project_memory(*(each for each in found if each is not None))

    @property
    def memory(self) -> MemoryFacts:
        """How much is remembered, and what the last segment attended to."""
        if self.history is None:
            return MemoryFacts()
        banks = self.history.banks
        sizes = banks["global"].nbytes, banks["local"].nbytes + banks["recent"].nbytes
        tokens, size = self._tokens, sizes
        return MemoryFacts(self.history.stream.frames, tokens[0], tokens[1], size[0], size[1])

    # Saving

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the networks, to which saved states belong."""
        return self.pipe.fingerprint

    @property
    def is_tiled(self) -> bool:
        """Whether the autoencoder works in tiles."""
        return bool(self.pipe.vae.use_tiling)

    def reference_tensors(self) -> dict[str, Tensor]:
        """What is kept of the reference image; empty before it is known."""
        if self._reference is None:
            return {}
        found = {"latents": self._reference[0].cpu(), "random_state": self._reference[1]}
        return found if self._reference_sketch is None else {**found, "sketch": self._reference_sketch.cpu()}

    def take_reference(self, tensors: dict[str, Tensor]) -> None:
        """Continue with `reference_tensors`."""
        self._reference = tensors["latents"], tensors["random_state"]
        self._reference_sketch = tensors.get("sketch")

    def save(self, folder: str | Path) -> None:
        """Write the state after the last finished segment, from which `pipe.resume` continues bit for bit.

        The folder always holds one complete state, the old or the new one, wherever this is interrupted.

        Raises:
            InputError: the folder holds other files.
            VisionZooError: it cannot be written.
        """
        from .saved_coloring import save_coloring

        save_coloring(folder, self)


class _Interrupted(Exception):
    """Ends a segment that nobody wants any more."""


def segments_of(
    settings: Settings, frames: Iterable[Pixels], total: int | None
) -> Iterator[tuple[ClipSegment, Pixels]]:
    """Each segment of a clip with its frames (F, H, W, 3); frames of at most two segments are held at a time.

    Args:
        frames: those of the clip, each (H, W, 3).
        total: use only this many of them; None: all, which are counted while they are read.

    Raises:
        InputError: there are fewer frames than `total`, or too few for one segment, or their sizes differ.
    """
    source = iter(frames) if total is None else islice(frames, total)
    stride = settings.segment_frames - settings.overlap - settings.options.aligned_overlap
    held: list[Pixels] = []
    base = 0  # number of the first frame that is held
    for number in count():
        wanted = number * stride + settings.segment_frames + 1  # one more frame tells whether this segment is the last
        held += islice(source, wanted - base - len(held))
        known = base + len(held)
        if total is not None and known < min(wanted, total):
            raise InputError(f"the video has {known} frames, expected {total}")
        segments = plan(settings, known)
        if number >= len(segments):
            return
        segment = segments[number]
        yield segment, _stacked(held[segment.start - base : segment.stop - base])
        held, base = held[segment.start - base :], segment.start  # the last segment may begin soon after this one


def _stacked(frames: Sequence[Pixels]) -> Pixels:
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise InputError(f"frames of several sizes: {', '.join(map(str, sorted(sizes)))}; resize them to one size")
    return np.stack(frames)
