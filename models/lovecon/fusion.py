"""Fusion of the edited latents with the inverted latents of the source video (LOVECon, arXiv:2310.09711, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from visionzoo.errors import InputError, unknown

__all__ = ["FUSION_RULES", "FusionRule", "fuse_latents", "fusion_rule"]


@dataclass(frozen=True)
class FusionRule:
    """How much of the source the latents get at which steps. The published rules are in `FUSION_RULES`.

    First, `source_share` of the latents is replaced by the source; then, the source replaces the part that must not change.

    Attributes:
        source_share: weight of the source in the sum, 0 to 1.
        share_until: the sum is computed in this first part of the steps, 0 to 1.
        mask_until: the mask is used in this first part of the steps, 0 to 1.
        mask_names: what the mask covers: the "edited" part, or the "kept" part.
    """

    source_share: float = 0.0
    share_until: float = 0.0
    mask_until: float = 0.0
    mask_names: Literal["edited", "kept"] = "edited"

    def __post_init__(self) -> None:
        for name in ("source_share", "share_until", "mask_until"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"{name} of a fusion rule is a part from 0 to 1, got {value}")
        if self.mask_names not in ("edited", "kept"):
            raise unknown("kind of mask", self.mask_names, ("edited", "kept"))

    def adds_source(self, step: int, steps: int) -> bool:
        return self.source_share > 0 and _within(step, steps, self.share_until)

    def uses_mask(self, step: int, steps: int) -> bool:
        return _within(step, steps, self.mask_until)

    def needs_source(self, step: int, steps: int, has_mask: bool) -> bool:
        """Whether the inverted latents of this step are read at all."""
        return self.adds_source(step, steps) or (has_mask and self.uses_mask(step, steps))


FUSION_RULES: dict[str, FusionRule] = {
    "attribute": FusionRule(source_share=0.03, share_until=0.6, mask_until=0.8),
    "background": FusionRule(mask_until=0.4, mask_names="kept"),
    "style": FusionRule(source_share=0.05, share_until=0.4),
    "shape": FusionRule(mask_until=0.8),
}
"""The rules of the release, whose 20, 30 and 40 of 50 steps are 0.4, 0.6 and 0.8 here."""


def fusion_rule(edit: str) -> FusionRule:
    """The rule of a type of edit.

    Raises:
        InputError: an unknown type; the message lists the known ones.
    """
    if edit not in FUSION_RULES:
        raise unknown("type of edit", edit, FUSION_RULES)
    return FUSION_RULES[edit]


def fuse_latents(
    latents: Tensor, source: Tensor, *, step: int, steps: int, rule: FusionRule, mask: Tensor | None = None
) -> Tensor:
    """The latents of a step, fused with the source. Call it after the noise was predicted and before the scheduler's step.

    Args:
        latents: (frames, channels, height, width) at the time of step `step`.
        source: inverted latents of the same frames at the same time, i.e. number `steps - step` of the inversion, whose number 0 is
            the clean source.
        step: 0 to `steps` - 1.
        steps: number of denoising steps.
        rule: `fusion_rule("attribute")` etc.
        mask: (frames or 1, 1, height, width), 0 to 1; a part between 0 and 1 mixes. None: no part is treated differently.

    Returns:
        Like `latents`; `latents` itself if this step fuses nothing.

    Raises:
        InputError: shapes that differ, or a step outside the range.
    """
    if not 0 <= step < steps:
        raise InputError(f"step {step} is not one of {steps} steps, counted from 0")
    if source.shape != latents.shape:
        raise InputError(
            f"latents {tuple(latents.shape)} and source {tuple(source.shape)} differ; they hold the same frames"
        )
    if rule.adds_source(step, steps):
        latents = (1 - rule.source_share) * latents + rule.source_share * source
    if mask is not None and rule.uses_mask(step, steps):
        covered = mask.to(latents)
        edited = covered if rule.mask_names == "edited" else 1 - covered
        latents = edited * latents + (1 - edited) * source
    return latents


def _within(step: int, steps: int, part: float) -> bool:
    """Whether a step lies in the first `part` of all; the tolerance is for parts such as 0.7, which 7 of 10 steps must not exceed."""
    return step < part * steps - 1e-6
