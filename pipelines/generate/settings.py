"""The options of a generation, with the model's own values where the user gave none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visionzoo.errors import InputError

from .options import GenerateOptions

__all__ = ["Settings", "settings_for"]


@dataclass(frozen=True)
class Settings:
    """What a generation depends on besides its networks, its source and its actions.

    Attributes:
        options: as given.
        frames_per_chunk, past_frames, steps, guidance: as given, or the model's own.
    """

    options: GenerateOptions
    frames_per_chunk: int
    past_frames: int
    steps: int
    guidance: float

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def batch_size(self) -> int:
        return self.options.batch_size

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        own = {name: getattr(self, name) for name in ("frames_per_chunk", "past_frames", "steps", "guidance")}
        return {**self.options.to_dict(), **own}


def settings_for(options: GenerateOptions, model: Any) -> Settings:
    """Fill in what the options leave to the model.

    Args:
        model: configuration of the pipeline: window, frames_per_chunk, past_frames, steps and guidance.

    Raises:
        InputError: more frames than the model's window has.
    """
    own = {name: getattr(options, name) for name in ("frames_per_chunk", "past_frames", "steps", "guidance")}
    chosen = {name: model[name] if value is None else value for name, value in own.items()}
    window, new = model["window"], chosen["frames_per_chunk"]
    if new >= window:
        raise InputError(
            f"frames_per_chunk is {new}, but the model sees {window} frames at once, at least one of them past; use at most "
            f"{window - 1}"
        )
    if options.fast_learning and options.fast_variant == "single_frame":
        chosen["past_frames"] = 1
    elif options.past_frames is None:
        chosen["past_frames"] = min(chosen["past_frames"], window - new)
    if chosen["past_frames"] + new > window:
        raise InputError(
            f"past_frames {chosen['past_frames']} and frames_per_chunk {new} are more than the {window} frames that the model sees at "
            f"once; use at most {window - new} past frames, or fewer new ones"
        )
    return Settings(options, **chosen)
