"""The settings of a coloured video: the command, the pipeline and its jobs share them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, SPEED, option

__all__ = ["ColorizeOptions", "FirstSketch", "LineSource", "Memory", "ReferenceFit"]

Memory = Literal["both", "global", "local", "none"]
"""What later segments attend to: all frames so far, the last ones, both as published, or nothing."""
OverLimit = Literal["resample", "evict", "grow"]
FirstSketch = Literal["published", "reference", "frame"]
LineSource = Literal["auto", "drawings", "color"]
ReferenceFit = Literal["stretch", "crop"]
Posterior = Literal["sample", "mode"]

SHORTEST, LEAST_OVERLAP = 17, 9
"""Frames of the shortest segment, and the fewest that neighbouring segments share: the last eight of a segment are not written."""

_CHOICES = {
    "memory": Memory,
    "over_limit": OverLimit,
    "first_sketch": FirstSketch,
    "line_source": LineSource,
    "reference_fit": ReferenceFit,
    "sketch_posterior": Posterior,
}


def _needs(condition: bool, text: str) -> None:
    if not condition:
        raise InputError(text)


@Parameter(name="*")
@dataclass(frozen=True)
class ColorizeOptions:
    """How a video is coloured (LongAnimation, arXiv 2507.01945). The defaults are those of the published code.

    Attributes:
        prompt: what the video shows, and its background; may be empty.
        negative_prompt: what it must not show.
        steps: denoising steps; None: the model's own, 50 as published.
        guidance: scale of classifier-free guidance, 1 is none; None: the model's own, 6 as published.
        seed: of the noise. All segments begin with the same noise, as published, so that they resemble each other.
        memory: what segments after the first one attend to: "both" stores, the memory of all frames ("global"), that of the last
            frames ("local"), or "none". None: the model's own.
        memory_frames: number of frames above which `over_limit` applies to the global memory; None: the model's own, 650 as published.
        over_limit: "resample", as published: `memory_frames` of all frames, evenly spread, are encoded again before each segment;
            "evict": the memory of old frames is thinned out and nothing is encoded again, which gives another memory; "grow": all
            frames are kept. None: the model's own.
        local_frames: number of last frames in the local memory; None: the model's own, 20 as published.
        fusion: blend the latents of neighbouring segments in late denoising steps.
        fusion_start: first step, counted from 0, after which they are blended. None: the model's own, 31 of 50 as published, in
            proportion to `steps`. Starting earlier makes the brightness jump between segments.
        segment_frames: frames that are generated together, 8 k + 1; None: the model's own, 81 as published.
        overlap: frames that neighbouring segments share; None: the model's own, 16 as published.
        aligned_overlap: share one frame more, so that blended latents are of the same frames. As published, they are one frame
            apart.
        drop_remainder: as published, leave out the first frame, the last eight, and what is left after the last whole segment;
            False writes every frame, and colours clips that are shorter than a segment.
        first_sketch: the sketch beside the reference image: "published": of the reference image in the first segment, and of their own
            first frame in the others; "reference": always of the reference image; "frame": always of the segment's first frame.
        repeat_suffix: append the model's praise of quality to the prompt once more in every segment, as published; False: once.
        line_source: what the video is: "drawings" are used as they are, from "color" lines are extracted; "auto" looks.
        inverted: drawings have bright lines on dark paper.
        line_threshold: brightness above which a pixel is paper.
        reference_fit: how a reference image of another aspect is used: "stretch" scales both sides, as published; "crop" scales it
            to cover the frame and cuts off what is outside.
        sketch_posterior: draw the latents of sketches from the autoencoder's distribution, as published, or take its "mode".
        batch_size: frames that the line-art network sees at once.

    Raises:
        InputError: a value out of range.
    """

    prompt: Annotated[str, option(INPUT, "What the video shows, and its background, in words.")] = ""
    negative_prompt: Annotated[str, option(MODEL, "What the video must not show.")] = ""
    steps: Annotated[int | None, option(MODEL, "Number of denoising steps; by default the model's.")] = None
    guidance: Annotated[
        float | None, option(MODEL, "How strongly to follow the prompt; 1 is off; by default the model's.")
    ] = None
    seed: Annotated[int, option(MODEL, "Seed for the noise.")] = 42
    memory: Annotated[
        Memory | None,
        option(
            MODEL,
            "What later segments attend to: all frames so far, the last ones, both, or none; by default the model's.",
        ),
    ] = None
    memory_frames: Annotated[
        int | None, option(MODEL, "Number of frames above which --over-limit applies; by default the model's.")
    ] = None
    over_limit: Annotated[
        OverLimit | None,
        option(
            MODEL,
            "What happens to a full memory: resample as published, evict (faster, another result), or grow; by default the model's.",
        ),
    ] = None
    local_frames: Annotated[
        int | None, option(MODEL, "Number of last frames that the local memory holds; by default the model's.")
    ] = None
    fusion: Annotated[
        bool, option(MODEL, "Blend the latents of neighbouring segments in late steps.", negative="--no-fusion")
    ] = True
    fusion_start: Annotated[
        int | None, option(MODEL, "First step, from 0, after which latents are blended; by default the model's.")
    ] = None
    segment_frames: Annotated[
        int | None, option(MODEL, "Frames that are generated together, 8 k + 1; by default the model's.")
    ] = None
    overlap: Annotated[
        int | None, option(MODEL, "Frames that neighbouring segments share; by default the model's.")
    ] = None
    aligned_overlap: Annotated[
        bool, option(MODEL, "Share one frame more, so that blended latents are of the same frames.")
    ] = False
    drop_remainder: Annotated[
        bool,
        option(
            MODEL,
            "Leave out the first frame, the last eight and what follows the last whole segment, as published.",
            negative="--no-drop-remainder",
        ),
    ] = True
    first_sketch: Annotated[
        FirstSketch,
        option(
            MODEL, "Sketch beside the reference image: as published, of the reference, or of the segment's first frame."
        ),
    ] = "published"
    repeat_suffix: Annotated[
        bool,
        option(
            MODEL,
            "Append the model's words of quality to the prompt again in every segment, as published.",
            negative="--no-repeat-suffix",
        ),
    ] = True
    line_source: Annotated[
        LineSource, option(INPUT, "What the video is: drawings, or in color, so that its lines are extracted.")
    ] = "auto"
    inverted: Annotated[bool, option(INPUT, "The drawings have bright lines on dark paper.")] = False
    line_threshold: Annotated[float, option(INPUT, "Brightness in (0, 1) above which a pixel is paper.")] = 0.78
    reference_fit: Annotated[
        ReferenceFit, option(INPUT, "How to use a reference image of another aspect: stretch as published, or crop.")
    ] = "stretch"
    sketch_posterior: Annotated[
        Posterior, option(MODEL, "Latents of sketches: sample as published, or the mode of the distribution.")
    ] = "sample"
    batch_size: Annotated[int, option(SPEED, "Frames that go through the line-art network together.")] = 8

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            value, known = getattr(self, name), get_args(kind)
            if value is None and name in ("memory", "over_limit"):
                continue
            _needs(value in known, f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
        for name in ("steps", "memory_frames", "local_frames", "batch_size"):
            value = getattr(self, name)
            _needs(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        length, overlap = self.segment_frames, self.overlap
        _needs(
            length is None or (length >= SHORTEST and length % 8 == 1),
            f"segment_frames must be 8 k + 1 frames and at least {SHORTEST}, e.g. 81, got {length}",
        )
        _needs(overlap is None or overlap >= LEAST_OVERLAP, f"overlap must be at least {LEAST_OVERLAP}, got {overlap}")
        guidance_is_usable = self.guidance is None or 1 <= self.guidance < float("inf")
        _needs(guidance_is_usable, f"guidance must be at least 1, got {self.guidance}")
        _needs(0 <= self.seed < 2**63, f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        _needs(
            self.fusion_start is None or self.fusion_start >= 0,
            f"fusion_start must be at least 0, got {self.fusion_start}",
        )
        _needs(0 < self.line_threshold < 1, f"line_threshold must be above 0 and below 1, got {self.line_threshold:g}")
        for name in ("prompt", "negative_prompt"):
            _needs(isinstance(getattr(self, name), str), f"{name} must be a text, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        return {key: value for key, value in asdict(self).items() if key != "batch_size"}
