"""DDIM inversion of the source, window by window, and the mask from its attention to words (LOVECon, sections 3.1 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visionzoo.diffusion import inversion_pair, scheduler_step
from visionzoo.io.tensor_file import TensorFile
from visionzoo.jobs import Progress
from visionzoo.models.lovecon import Window, WordAttention, edit_mask

from .denoiser import Denoiser
from .options import EditOptions
from .source import Source
from .windows import Windows
from .work import MASKS, WorkFolder

if TYPE_CHECKING:
    from .pipeline import LOVEConPipeline

__all__ = ["Inversion"]

INVERTED = "inverted.rows"


class Inversion:
    """The latents of the source at every step, and the mask.

    Args:
        pipe: the networks.
        source: what to invert.
        options: how.
        states: (1, tokens, width) of the source prompt.
        columns: positions of the words whose attention makes the mask; empty for none.
        work: where the latents are kept.
        identity: what they depend on besides the options.
    """

    def __init__(
        self,
        pipe: LOVEConPipeline,
        source: Source,
        options: EditOptions,
        states: Tensor,
        columns: Sequence[int],
        work: WorkFolder,
        identity: dict[str, Any],
    ):
        self._pipe, self._source, self._options, self._states = pipe, source, options, states
        self._columns, self._work = columns, work
        kept = ("source_prompt", "steps", "window", "control_scale", "threshold", "dilation")
        self.facts = {**identity, **{name: getattr(options, name) for name in kept}, "columns": list(columns)}
        self._latents: TensorFile | None = None
        self._masks = source.masks

    def latents(self, frames: Sequence[int], number: int) -> Tensor:
        """Latents (N, C, h, w) of frames after `number` steps of inversion; 0 is the source."""
        assert self._latents is not None, "run comes first"
        return self._latents[list(frames), number]

    def masks(self, frames: Sequence[int]) -> Tensor | None:
        """(N, 1, h, w), or None without a mask."""
        return None if self._masks is None else self._masks[list(frames)]

    def run(self, progress: Progress | None) -> None:
        """Invert what is not inverted yet."""
        names = [INVERTED, *([MASKS] if self._columns else [])]
        found = [self._work.finished(name, {**self.facts, "file": name}) for name in names]
        if any(file is None for file in found):
            self._invert(names, progress)
            found = [TensorFile(self._work.path / name) for name in names]
        self._latents = found[0]
        self._masks = found[1] if self._columns else self._source.masks

    def _invert(self, names: list[str], progress: Progress | None) -> None:
        options, source = self._options, self._source
        shapes = {INVERTED: (options.steps + 1, *source.latents.shape[1:]), MASKS: (1, *source.latents.shape[2:])}
        for name in names:
            (self._work.path / name).unlink(missing_ok=True)
        windows = Windows(len(source), options.window, self._pipe.unet.device, references=False)
        denoiser = Denoiser(
            self._pipe.unet,
            self._pipe.controlnet,
            self._states,
            control_scale=options.control_scale,
            least_channels=self._pipe.least_channels,
        )
        with ExitStack() as stack:
            files = [stack.enter_context(self._work.writer(n, shapes[n], {**self.facts, "file": n})) for n in names]
            done = min(len(file) for file in files) // options.window * options.window
            for file in files:
                file.cut(done)
            tick = self._pipe.counter("inverting", windows.left(done) * options.steps, progress)
            for _, rows in windows.run(lambda window: self._window(denoiser, window, tick), done):
                for file, values in zip(files, rows, strict=True):
                    file.append(values)

    def _window(self, denoiser: Denoiser, window: Window, tick: Callable[[], object]) -> list[Tensor]:
        """The latents of a window at all steps, (n, steps + 1, C, h, w), and its mask, if there is one."""
        options, source = self._options, self._source
        scheduler = inversion_pair(self._pipe.scheduler)[0]
        scheduler.set_timesteps(options.steps)
        device, frames = self._pipe.unet.device, list(window.frames)
        controls = source.controls[frames].to(device)
        latents = source.latents[frames].to(device)
        height, width = (side * self._pipe.factor for side in latents.shape[2:])
        grid = height // self._pipe.mask_scale, width // self._pipe.mask_scale
        words = WordAttention(self._columns, grid, len(frames)) if self._columns else None
        kept = [latents.cpu()]
        with denoiser.installed(words):
            for timestep in scheduler.timesteps:
                with words.recording(0, len(frames)) if words else nullcontext():
                    output = denoiser(latents, timestep, controls)
                latents = scheduler_step(scheduler, output, timestep, latents)
                kept.append(latents.cpu())
                tick()
        found = [torch.stack(kept, 1)]
        if words:
            size = (latents.shape[2], latents.shape[3])
            found.append(edit_mask(words.average(), size, threshold=options.threshold, dilation=options.dilation).cpu())
        return found
