"""The settings of an edit: the command, the pipeline and its jobs share them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, SPEED, option

__all__ = ["EditOptions", "EditType", "Memory", "Smoothing", "ThresholdOf", "check_kept"]

EditType = Literal["attribute", "background", "style", "shape"]
"""What is edited, which decides how the source is blended in: see `visionzoo.models.lovecon.FUSION_RULES`."""
Memory = Literal["none", "bank"]
Smoothing = Literal["recursive", "parallel", "none"]
ThresholdOf = Literal["frame", "video"]

_CHOICES = {"edit": EditType, "memory": Memory, "smoothing": Smoothing, "threshold_of": ThresholdOf}


def _needs(condition: bool, text: str) -> None:
    if not condition:
        raise InputError(text)


@Parameter(name="*")
@dataclass(frozen=True)
class EditOptions:
    """How a video is edited (LOVECon, arXiv:2310.09711). The defaults are those of the release.

    Attributes:
        prompt: describes the edited video.
        source_prompt: describes the source; needed for its inversion.
        negative_prompt: what the edited video must not show.
        edit: type of the edit.
        phrase: words of the source prompt that name the object to change, or to keep in a background edit; the mask covers what
            attends to them. Empty: no mask. None: with "attribute", the words that the prompt replaces, where they are; otherwise
            no mask.
        steps: number of denoising steps, of the inversion as well.
        guidance: scale of classifier-free guidance, from 1 (off); None: the model's own, 12 for Stable Diffusion.
        control_scale: weight of the ControlNet.
        window: frames per window.
        memory: "none" processes frame 0 and the last frame of the previous window again in each window, as released; "bank" keeps
            their keys and values of the current step in a memory bank, and processes each frame once.
        include_self: frames also attend to their own tokens in the layers that look at other frames.
        smoothing: "recursive" as released, "parallel", or "none"; see `visionzoo.models.lovecon.smooth_frames`. Without an
            interpolation network in the pipeline, nothing is smoothed.
        threshold: of the mask, in parts of the greatest attention, above 0 to 1.
        threshold_of: whose greatest attention: "frame", that of each frame, as released, so that a mask is never empty; or "video", so
            that the mask is small or empty in frames that do not show the thing.
        dilation: width in tokens of the square by which the mask grows; odd, 1 for none.
        batch_size: frames that go through the autoencoder together.

    Raises:
        InputError: a value out of range, or no prompt.
    """

    prompt: Annotated[str, option(INPUT, help="Text that describes the edited video.")] = ""
    source_prompt: Annotated[str, option(INPUT, help="Text that describes the source video.")] = ""
    negative_prompt: Annotated[str, option(MODEL, help="Text that describes what must not be seen.")] = ""
    edit: Annotated[
        EditType,
        option(MODEL, help="attribute changes a thing's look, background all but a thing, style the whole picture."),
    ] = "attribute"
    phrase: Annotated[
        str | None,
        option(
            MODEL,
            help="Words of the source prompt that name what to change (or with background: what to keep); by default those "
            "that the prompt replaces. An empty text: no mask.",
        ),
    ] = None
    steps: Annotated[int, option(MODEL, help="Number of denoising steps.")] = 50
    guidance: Annotated[
        float | None,
        option(
            MODEL,
            help="How strongly to follow the prompt, from 1; by default the model's value (Stable Diffusion: 12).",
        ),
    ] = None
    control_scale: Annotated[float, option(MODEL, help="How strongly to follow the control, from 0.")] = 1.0
    window: Annotated[int, option(MODEL, help="Frames that are edited together.")] = 8
    memory: Annotated[
        Memory,
        option(
            MODEL,
            help="none: two frames of context are processed again in each window, as published; bank: they are remembered, "
            "which takes less time.",
        ),
    ] = "none"
    include_self: Annotated[
        bool, option(MODEL, negative="", help="Frames also attend to themselves in all layers.")
    ] = False
    smoothing: Annotated[
        Smoothing,
        option(MODEL, help="Smoothing by frame interpolation: recursive as published, parallel (faster), or none."),
    ] = "recursive"
    threshold: Annotated[
        float, option(MODEL, help="Least attention inside the mask, in parts of the greatest, above 0 to 1.")
    ] = 100 / 255
    threshold_of: Annotated[
        ThresholdOf,
        option(
            MODEL,
            help="Whose greatest attention that is: each frame's, as published, or the video's, so that nothing is edited in frames "
            "that do not show the thing.",
        ),
    ] = "frame"
    dilation: Annotated[int, option(MODEL, help="Growth of the mask, an odd number of tokens; 1 for none.")] = 3
    batch_size: Annotated[int, option(SPEED, help="Frames that go through the autoencoder together.")] = 8

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            value, known = getattr(self, name), get_args(kind)
            _needs(value in known, f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
        _needs(
            bool(self.prompt.strip()), 'no prompt: describe the edited video, e.g. --prompt "a girl with a blue shirt"'
        )
        _needs(
            bool(self.source_prompt.strip()),
            'no source prompt: describe the source video, e.g. --source-prompt "a girl with a red shirt"',
        )
        for name in ("steps", "window", "batch_size"):
            _needs(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _needs(self.guidance is None or self.guidance >= 1, f"guidance must be at least 1, got {self.guidance}")
        _needs(self.control_scale >= 0, f"control_scale must be at least 0, got {self.control_scale:g}")
        _needs(0 < self.threshold <= 1, f"threshold must be above 0 and at most 1, got {self.threshold:g}")
        _needs(
            self.dilation >= 1 and self.dilation % 2 == 1, f"dilation must be odd and at least 1, got {self.dilation}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        return {key: value for key, value in asdict(self).items() if key != "batch_size"}


def check_kept(options: EditOptions, *, has_mask: bool) -> None:
    """Raise `InputError` for a background edit for which nothing says what to keep."""
    if options.edit == "background" and options.phrase is None and not has_mask:
        raise InputError(
            "a background edit keeps what its mask covers: name that in words of the source prompt, e.g. --phrase bear, or give a "
            "mask; with an empty phrase, nothing is kept"
        )
