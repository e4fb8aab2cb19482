"""DDIM inversion of the source, window by window, and the mask from its attention to words (LOVECon, sections 3.1 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visionzoo.diffusion import inversion_pair, scheduler_step
from visionzoo.io.tensor_file import TensorFile, TensorWriter
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

INVERTED, ATTENTION = "inverted.rows", "attention.rows"


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
        kept = ("source_prompt", "steps", "window", "control_scale", "threshold", "threshold_of", "dilation")
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
        of_video = self._options.threshold_of == "video"
        names = [INVERTED, *([ATTENTION if of_video else MASKS] if self._columns else [])]
        if any(self._finished(name) is None for name in names):
            self._invert(names, progress)
        if self._columns and of_video and self._finished(MASKS) is None:
            self._write_masks(TensorFile(self._work.path / ATTENTION))
        self._latents = TensorFile(self._work.path / INVERTED)
        self._masks = TensorFile(self._work.path / MASKS) if self._columns else self._source.masks

    def _finished(self, name: str) -> TensorFile | None:
        return self._work.finished(name, {**self.facts, "file": name})

    def _writer(self, name: str, shape: Sequence[int]) -> TensorWriter:
        return self._work.writer(name, shape, {**self.facts, "file": name})

    def _invert(self, names: list[str], progress: Progress | None) -> None:
        options, source = self._options, self._source
        shapes = {
            INVERTED: (options.steps + 1, *source.latents.shape[1:]),
            MASKS: self._mask_shape,
            ATTENTION: (*self._grid, len(self._columns)),
        }
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
            files = [stack.enter_context(self._writer(name, shapes[name])) for name in names]
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
        words = WordAttention(self._columns, self._grid, len(frames)) if self._columns else None
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
            found.append(words.average().cpu() if options.threshold_of == "video" else self._mask(words.average()))
        return found

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of the layers that masks are made from."""
        height, width = (side * self._pipe.factor for side in self._source.latents.shape[2:])
        return height // self._pipe.mask_scale, width // self._pipe.mask_scale

    @property
    def _mask_shape(self) -> tuple[int, int, int]:
        return 1, self._source.latents.shape[2], self._source.latents.shape[3]

    def _mask(self, attention: Tensor, greatest: Tensor | None = None) -> Tensor:
        """The masks (n, 1, h, w) of frames."""
        options, size = self._options, self._mask_shape[1:]
        return edit_mask(
            attention, size, threshold=options.threshold, dilation=options.dilation, greatest=greatest
        ).cpu()

    def _write_masks(self, attention: TensorFile) -> None:
        """The masks of all frames, from attention in parts of the greatest in the video."""
        greatest = torch.stack([attention[number].amax((0, 1)) for number in range(len(attention))]).amax(0)
        with self._writer(MASKS, self._mask_shape) as file:
            for number in range(len(file), len(attention)):
                file.append(self._mask(attention[number : number + 1], greatest))
