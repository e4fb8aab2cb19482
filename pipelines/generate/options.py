"""The settings of a generated video: the command, the pipeline and its jobs share them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.options import MODEL, SPEED, option

if TYPE_CHECKING:
    from ...models.slowfastvgen import TempLoRA

__all__ = ["GenerateOptions", "NoText", "Targets", "Variant"]

Variant = Literal["local", "original", "global", "single_frame"]
"""How the memory is written; "local" is published, the others are rows of its ablation table."""
Targets = Literal["temporal_linear", "temporal_qkvo", "temporal", "all_linear"]
NoText = Literal["empty", "zeros"]

_CHOICES = {"fast_variant": Variant, "fast_targets": Targets, "fast_no_text": NoText}


def _needs(condition: bool, text: str) -> None:
    if not condition:
        raise InputError(text)


@Parameter(name="*")
@dataclass(frozen=True)
class GenerateOptions:
    """How a video is generated (SlowFast-VGen, arXiv 2410.23277).

    The paper states Adam with a learning rate of 1e-4, rank 32, one step after each chunk, and the local rule. Everything else
    is not stated there; those defaults are marked as inferred.

    Attributes:
        frames_per_chunk: new frames for each action; None: the model's own, 16 for ModelScope's (inferred).
        past_frames: largest number of clean frames that a chunk continues; None: the model's own, 16 for ModelScope's (inferred).
        steps: denoising steps; None: the model's own, 50 for ModelScope's (inferred).
        guidance: scale of classifier-free guidance, 1 is none; None: the model's own, 9 for ModelScope's (inferred).
        seed: of the noise and of fast learning.
        fast_learning: learn from each chunk; False is the row "without TEMP-LORA" of the ablation table.
        fast_variant: "local": all frames of the past and the new chunk are noised and count, without text (Eq. 3). "original": the
            past is clean, and the action is given, as in Temp-LoRA (arXiv 2401.11504). "global": frames are drawn from the whole
            video ("without local rule"). "single_frame": chunks continue one frame only ("without chunk input").
        fast_targets: layers with adapters: the linear layers of temporal transformers (inferred), their attention only, also
            temporal convolutions, or all linear layers.
        fast_rank: rank of the adapters.
        fast_alpha: the adapters are scaled by alpha / rank; None: alpha is the rank (inferred).
        fast_lr: learning rate of Adam.
        fast_steps: optimizer steps after each chunk.
        fast_batch: timesteps per step, one from each of as many equal ranges (inferred: 1).
        fast_no_text: what stands for no text: the empty prompt (inferred), or zeros.
        fast_keep_optimizer: keep Adam's moments from chunk to chunk (inferred).
        fast_checkpointing: store fewer activations while learning, for one more pass through the network; the same values.
        learn_source: also learn from the chunks of a given video before the first new one (inferred; the paper begins with an image).
        batch_size: frames that go through the autoencoder together.

    Raises:
        InputError: a value out of range.
    """

    frames_per_chunk: Annotated[int | None, option(MODEL, "New frames for each action; by default the model's.")] = None
    past_frames: Annotated[
        int | None, option(MODEL, "Largest number of frames that new ones continue; by default the model's.")
    ] = None
    steps: Annotated[int | None, option(MODEL, "Number of denoising steps; by default the model's.")] = None
    guidance: Annotated[
        float | None, option(MODEL, "How strongly to follow the actions; 1 is off; by default the model's.")
    ] = None
    seed: Annotated[int, option(MODEL, "Seed for the noise and for fast learning.")] = 0
    fast_learning: Annotated[
        bool, option(MODEL, "Learn from each chunk, so that places are remembered.", negative="--no-fast-learning")
    ] = True
    fast_variant: Annotated[
        Variant,
        option(
            MODEL,
            "What is learned: local as published; original, global and single_frame are the rows of the paper's ablation table.",
        ),
    ] = "local"
    fast_targets: Annotated[Targets, option(MODEL, "Layers that learn.")] = "temporal_linear"
    fast_rank: Annotated[int, option(MODEL, "Rank of the adapters that learn.")] = 32
    fast_alpha: Annotated[
        float | None, option(MODEL, "Scale of the adapters is alpha / rank; by default alpha is the rank.")
    ] = None
    fast_lr: Annotated[float, option(MODEL, "Learning rate.")] = 1e-4
    fast_steps: Annotated[int, option(MODEL, "Optimizer steps after each chunk.")] = 1
    fast_batch: Annotated[int, option(MODEL, "Noise levels in each of these steps.")] = 1
    fast_no_text: Annotated[NoText, option(MODEL, "What no text is: the empty prompt, or zeros.")] = "empty"
    fast_keep_optimizer: Annotated[
        bool, option(MODEL, "Keep Adam's moments from chunk to chunk.", negative="--no-fast-keep-optimizer")
    ] = True
    fast_checkpointing: Annotated[
        bool, option(SPEED, "Learn in less memory, with one more pass through the network.")
    ] = False
    learn_source: Annotated[
        bool, option(MODEL, "Also learn from a given video before it is continued.", negative="--no-learn-source")
    ] = True
    batch_size: Annotated[int, option(SPEED, "Frames that go through the autoencoder together.")] = 8

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            value, known = getattr(self, name), get_args(kind)
            _needs(value in known, f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
        for name in ("frames_per_chunk", "past_frames", "steps", "fast_rank", "fast_steps", "fast_batch", "batch_size"):
            value = getattr(self, name)
            _needs(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        _needs(self.guidance is None or self.guidance >= 1, f"guidance must be at least 1, got {self.guidance}")
        _needs(0 <= self.seed < 2**63, f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        _needs(self.fast_lr > 0, f"fast_lr must be above 0, got {self.fast_lr:g}")
        _needs(self.fast_alpha is None or self.fast_alpha > 0, f"fast_alpha must be above 0, got {self.fast_alpha}")

    def temp_lora(self) -> TempLoRA:
        """The settings of the memory."""
        from ...models.slowfastvgen import TempLoRA

        return TempLoRA(
            targets=self.fast_targets,
            rank=self.fast_rank,
            alpha=self.fast_alpha,
            lr=self.fast_lr,
            steps=self.fast_steps,
            batch=self.fast_batch,
            variant=self.fast_variant if self.fast_learning else "off",
            no_text=self.fast_no_text,
            keep_optimizer=self.fast_keep_optimizer,
            checkpointing=self.fast_checkpointing,
            seed=self.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in ("batch_size", "fast_checkpointing")}
