"""Colours long line-art animations from one reference image, with a memory of all frames so far (LongAnimation, arXiv 2507.01945)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.config import configure
from visionzoo.diffusion import check_words
from visionzoo.errors import InputError
from visionzoo.jobs import Progress

from ...models.longanimation import (
    LineartGenerator,
    LineartModel,
    LongAnimationTransformer,
    PromptTokens,
    SegmentConditions,
    VideoHistory,
    check_size,
    frame_by_frame,
    sample_segment,
)
from .coloring import ColoredSegment, Coloring, segments_of
from .opening import Opening, check_family
from .options import ColorizeOptions
from .placement import WhereToRun
from .saved_coloring import load_coloring
from .settings import Settings, settings_for
from .sources import frames_of, prepare_reference, warn_of_grey

__all__ = ["SUFFIX", "ColorizedVideo", "LongAnimationPipeline"]

Pixels = NDArray[np.uint8]

SUFFIX = " High quality, masterpiece, best quality, highres, ultra-detailed, fantastic."
"""What the published code appends to prompts."""


@dataclass(frozen=True)
class ColorizedVideo:
    """A coloured video.

    Attributes:
        frames: (N, H, W, 3) uint8.
        first: number of the first of them in the clip; 1 as published.
        segments: of the clip.
        coloring: its state, with the memory.
    """

    frames: Pixels
    first: int
    segments: list[ColoredSegment]
    coloring: Coloring


class LongAnimationPipeline(Opening, WhereToRun):
    """Colours line art, or the lines of a video, segment after segment.

    >>> pipe = LongAnimationPipeline.create(checkpoint="weights/longanimation")
    >>> video = pipe("lines.mp4", "girl.png", prompt="a girl with a red shirt walks along a street")
    >>> for part in pipe.stream("lines.mp4", "girl.png"):  # a long video
    ...     write(part.frames)

    Args:
        tokenizer, text_encoder, vae, transformer: those of CogVideoX1.5-5B-I2V, or of a model of the same kind. The text encoder may
            be one of CLIP. An autoencoder that sees one frame takes frames one by one, see `frame_by_frame`.
        sketch_dit: SketchDiT.
        scheduler: samples; CogVideoXDPMScheduler as published.
        memory_fusion: DGLM; None: segments attend to no memory.
        memory_encoder: a VideoXLMemoryEncoder; None: as above.
        lineart: a LineartGenerator; None: only line drawings can be coloured.
        segment_frames, overlap, height, width, steps, guidance, fusion_start, memory, memory_frames, over_limit, local_frames:
            what is used if the options give nothing. The published script colours at 768 x 1360, the size of training is 576 x 1024.
        prompt_suffix: words of quality that are appended to prompts.
        memory_prompt: token ids before and after the video in the prompt of the memory encoder; None: those of its tokenizer.
        fps: frames per second that the model was trained for.

    Raises:
        InputError: parts that do not belong together.
    """

    model_cpu_offload_seq = "text_encoder->vae"
    _optional_components: ClassVar[list[str]] = ["memory_fusion", "memory_encoder", "lineart"]

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        vae: Any,
        transformer: Any,
        sketch_dit: Any,
        scheduler: Any,
        memory_fusion: Any = None,
        memory_encoder: Any = None,
        lineart: Any = None,
        segment_frames: int = 81,
        overlap: int = 16,
        height: int = 576,
        width: int = 1024,
        steps: int = 50,
        guidance: float = 6.0,
        fusion_start: int = 31,
        memory: str = "both",
        memory_frames: int = 650,
        over_limit: str = "resample",
        local_frames: int = 20,
        prompt_suffix: str = SUFFIX,
        memory_prompt: Sequence[Sequence[int]] | None = None,
        fps: float = 24.0,
    ):
        super().__init__()
        transformer = LongAnimationTransformer.of(transformer)
        check_size(height, width)
        check_family(vae, transformer, sketch_dit, memory_fusion, memory_encoder)
        if memory_prompt is None and memory_encoder is not None and memory_encoder.tokenizer is not None:
            prompt = memory_encoder.prompt_tokens()
            memory_prompt = [prompt.before, prompt.after]
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=frame_by_frame(vae),
            transformer=transformer,
            sketch_dit=sketch_dit,
            scheduler=scheduler,
            memory_fusion=memory_fusion,
            memory_encoder=memory_encoder,
            lineart=LineartModel.of(lineart) if isinstance(lineart, LineartGenerator) else lineart,
        )
        self.register_to_config(
            segment_frames=segment_frames,
            overlap=overlap,
            height=height,
            width=width,
            steps=steps,
            guidance=guidance,
            fusion_start=fusion_start,
            memory=memory,
            memory_frames=memory_frames,
            over_limit=over_limit,
            local_frames=local_frames,
            prompt_suffix=prompt_suffix,
            memory_prompt=None if memory_prompt is None else [list(ids) for ids in memory_prompt],
            fps=fps,
        )

    # What it is

    @property
    def factor(self) -> int:
        """How much smaller latents are than frames, along each side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def latent_frames(self) -> int:
        """Frames per latent, after the first latent, which has one."""
        return self.vae.config["temporal_compression_ratio"]

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames that the model was trained with."""
        return self.config["height"], self.config["width"]

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, multiples of 16, with about as many pixels as `frame_size` and the proportions of height x width."""
        scale = (self.config["height"] * self.config["width"] / (height * width)) ** 0.5
        return max(16, 16 * round(height * scale / 16)), max(16, 16 * round(width * scale / 16))

    @property
    def memory_image_size(self) -> int:
        """Side of the square of a frame that the memory encoder sees."""
        return 1 if self.memory_encoder is None else self.memory_encoder.vision.image_size

    def facts(self) -> dict[str, Any]:
        own = ("segment_frames", "overlap", "steps", "guidance", "fusion_start", "memory", "prompt_suffix")
        own += ("memory_frames", "over_limit", "local_frames")
        return {**super().facts(), **{name: self.config[name] for name in own}}

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "memory_placement": self._memory_placement}

    # Colouring

    def __call__(
        self,
        source: Any,
        reference: Any,
        *,
        options: ColorizeOptions | None = None,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        reference_sketch: Any = None,
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
        callback_on_segment_end: Callable[[ColoredSegment], object] | None = None,
        **settings: Any,
    ) -> ColorizedVideo:
        """Colour a video and hold its frames; `stream` is for long ones, and `run` for files.

        Args:
            source, reference, frames, size, reference_sketch, progress, callback_on_step_end: see `stream`.
            options: how to colour.
            callback_on_segment_end: called with each `ColoredSegment`.
            **settings: fields of `ColorizeOptions`, e.g. steps=20, prompt="a girl with a red shirt".

        Raises:
            InputError: see `stream`.
        """
        chosen = configure(options or ColorizeOptions(), settings)
        coloring, parts = self._begin_stream(
            source, reference, chosen, frames, size, reference_sketch, progress, callback_on_step_end
        )
        found: list[ColoredSegment] = []
        for part in parts:
            found.append(part)
            if callback_on_segment_end is not None:
                callback_on_segment_end(part)
        shape = (0, *coloring.size, 3)
        joined = np.concatenate([part.frames for part in found]) if found else np.zeros(shape, np.uint8)
        return ColorizedVideo(joined, found[0].segment.first if found else 0, found, coloring)

    def stream(
        self,
        source: Any,
        reference: Any,
        options: ColorizeOptions | None = None,
        *,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        reference_sketch: Any = None,
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
    ) -> Iterator[ColoredSegment]:
        """Colour a video segment by segment; frames of two segments are in memory, however long it is.

        Args:
            source: path of a video or of a folder of numbered images, an array (N, H, W, 3) uint8, or images one after another, which
                are read when they are needed: line drawings, or in colour, whose lines are extracted then. They are scaled to cover
                `size`, and cropped.
            reference: path of an image, a PIL image, or an array (H, W, 3) uint8, in the colours that the video gets; None: the first
                frame of a video in colour.
            options: how to colour.
            frames: use only this many frames; None: all.
            size: height and width of the result, multiples of 16; None: the model's own, see also `fitting_size`.
            reference_sketch: a line drawing of the reference image; by default the line-art network makes it, or, without that
                network, the first frame's drawing is used.
            progress: called with ("colouring", done, total) after each step; the total is 0 where it is not known.
            callback_on_step_end: as in diffusers, called after each denoising step with its `latents` (1, T, C, h, w).

        Yields:
            Segments, and the frames that each of them writes.

        Raises:
            InputError: sizes or numbers of frames that do not fit, an unreadable source, or one that is neither line art nor usable
                as a video in colour.
        """
        chosen = options or ColorizeOptions()
        _, parts = self._begin_stream(
            source, reference, chosen, frames, size, reference_sketch, progress, callback_on_step_end
        )
        yield from parts

    def _begin_stream(
        self, source: Any, reference: Any, options: ColorizeOptions, frames: int | None, size: Any, sketch: Any,
        progress: Progress | None, callback: Any,
    ) -> tuple[Coloring, Iterator[ColoredSegment]]:  # fmt: skip
        pixels, known = frames_of(source)
        if frames is not None and known is not None and frames > known:
            raise InputError(f"the video has {known} frames, expected {frames}")
        total = known if frames is None else frames
        coloring = self.begin(
            reference,
            options,
            frames=total,
            size=size,
            reference_sketch=sketch,
            callback_on_step_end=callback,
        )
        coloring.tick = self.counter("colouring", len(coloring.segments) * coloring.settings.steps, progress)

        def parts() -> Iterator[ColoredSegment]:
            for segment, chunk in segments_of(coloring.settings, pixels, total):
                made = coloring.color(chunk, segment)
                if made is None:
                    return
                yield ColoredSegment(coloring.done - 1, segment, made)

        return coloring, parts()

    def begin(
        self,
        reference: Any,
        options: ColorizeOptions | None = None,
        *,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        reference_sketch: Any = None,
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
    ) -> Coloring:
        """Plan a video and encode its reference image; the result colours segment after segment, and can be saved between them.

        Args:
            reference, options, size, reference_sketch, progress, callback_on_step_end: see `stream`.
            frames: number of frames of the clip; None: not known, then `Coloring.color` needs the segments.

        Raises:
            InputError: see `stream`.
        """
        settings = settings_for(options or ColorizeOptions(), self.config, self.latent_frames)
        height, width = size or self.frame_size
        check_size(height, width)
        self._check_memory(settings)
        for text in (settings.options.prompt, settings.options.negative_prompt):
            check_words(self.tokenizer, text)
        self._warn_of_long_prompt(settings.options.prompt)
        coloring = self.in_memory(
            lambda: Coloring(self, settings, (height, width), frames, callback=callback_on_step_end), (height, width)
        )
        _count_steps(coloring, progress)
        if reference is not None:
            image = prepare_reference(reference, coloring.size, settings.options.reference_fit)
            warn_of_grey(image)
            drawn = None
            if reference_sketch is not None:
                drawn = prepare_reference(reference_sketch, coloring.size, settings.options.reference_fit)
            self.in_memory(lambda: coloring.refer_to(image, drawn), coloring.size)
        return coloring

    def resume(
        self, folder: str | Path, *, progress: Progress | None = None, callback_on_step_end: Any = None
    ) -> Coloring:
        """Continue a video from what `Coloring.save` wrote; the frames that follow are bit-equal to those of an uninterrupted run.

        Args:
            folder: of the state. It holds the options and the encoded reference, too.
            progress, callback_on_step_end: see `stream`.

        Raises:
            InputError: the folder holds no state, a damaged one, or that of other networks.
        """
        coloring = load_coloring(folder, self, Coloring, callback_on_step_end)
        _count_steps(coloring, progress)
        return coloring

    def generate_segment(
        self,
        conditions: SegmentConditions,
        *,
        scheduler: Any = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """Sample the latents of one segment, (1, T + 1, C, h, w) float32; `decode_segment` makes frames of them.

        Args:
            conditions: sketches, reference, text and memory.
            scheduler: with its timesteps set; None: the pipeline's with the model's number of steps.
            guidance: scale of classifier-free guidance; None: the model's.
            generator, latents, **more: see `sample_segment`.
        """
        return sample_segment(
            self.transformer,
            self.sketch_dit,
            self.memory_fusion,
            scheduler or self.timed_scheduler(self.config["steps"]),
            conditions,
            guidance=self.config["guidance"] if guidance is None else guidance,
            generator=generator,
            latents=latents,
            **more,
        )

    # Parts of a segment

    def timed_scheduler(self, steps: int) -> Any:
        """A copy of the scheduler with the timesteps of a number of steps."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(steps)
        return scheduler

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt, cut off and padded to the number that the networks were trained with."""
        found = self.tokenizer(text, padding="max_length", max_length=self._text_length, truncation=True)
        return tuple(found.input_ids)

    @property
    def _text_length(self) -> int:
        return self.transformer.config["max_text_seq_length"]

    @torch.no_grad()
    def encode_tokens(self, ids: Sequence[int]) -> Tensor:
        """The hidden states (1, L, width) of token ids. As published, padding is not masked."""
        return self.text_encoder(torch.tensor([ids], device=self.run_device))[0]

    def _warn_of_long_prompt(self, prompt: str) -> None:
        ids, limit = self.tokenizer(prompt, verbose=False).input_ids, self._text_length
        if len(ids) > limit:
            lost = self.tokenizer.decode(ids[limit - 1 : -1])
            warnings.warn(f"the prompt has more than {limit - 1} tokens, so its end is ignored: {lost}", stacklevel=3)

    def _check_memory(self, settings: Settings) -> None:
        if settings.memory == "none":
            return
        missing = [name for name in ("memory_encoder", "memory_fusion") if getattr(self, name) is None]
        if missing:
            raise InputError(
                f"this pipeline has no {' and no '.join(missing)}, which memory={settings.memory!r} needs; use memory='none' "
                "(--memory none), or add VideoXL_weight_8 of sy1998/Video_XL and glm_module.safetensors"
            )
        if self.config["memory_prompt"] is None:
            raise InputError("the memory encoder has no tokenizer; give its token ids as memory_prompt=(before, after)")

    def new_history(self, settings: Settings, frames: Any) -> VideoHistory:
        """An empty memory of a video.

        Args:
            frames: reads written frames by their numbers, for a memory that is full.
        """
        encoder = self.memory_encoder
        assert encoder is not None
        return VideoHistory(
            encoder,
            PromptTokens(*self.config["memory_prompt"]),
            local_frames=settings.local_frames,
            limit=settings.memory_frames,
            over_limit=settings.over_limit,
            frames=frames,
        )

    @torch.no_grad()
    def project_memory(self, *memories: Tensor) -> Any:
        """Keys and values that DGLM attends to in all steps of a segment."""
        return self.memory_fusion.project(*(each.to(self.run_device) for each in memories))


def _count_steps(coloring: Coloring, progress: Progress | None) -> None:
    if progress is None:
        return
    steps = coloring.settings.steps
    numbers, total = count(coloring.done * steps + 1), len(coloring.segments) * steps
    coloring.tick = lambda: progress("colouring", next(numbers), total)
