"""The denoising of an edit: guided noise, fusion with the source, the step, and the smoothing in the last one (LOVECon, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visionzoo.diffusion import inversion_pair, make_scheduler, scheduler_step
from visionzoo.jobs import Progress
from visionzoo.models.lovecon import Window, WindowMemory, fuse_latents, fusion_rule, smoothed_step

from .denoiser import Denoiser, predicted_noise
from .inversion import Inversion
from .options import EditOptions
from .source import Source
from .windows import Windows
from .work import LatentState, WorkFolder

if TYPE_CHECKING:
    from .pipeline import LOVEConPipeline

__all__ = ["Editing", "sampler_like"]

EDITED = "edited.rows"


class Editing:
    """Denoises the windows of a video.

    Args:
        pipe: the networks.
        source, inversion: of the video.
        options: how to edit.
        states: (2, tokens, width) of the negative prompt and the prompt.
        work: where latents are kept.
        callback: of diffusers, called after each step of a window; None for none.
    """

    def __init__(
        self,
        pipe: LOVEConPipeline,
        source: Source,
        inversion: Inversion,
        options: EditOptions,
        states: Tensor,
        work: WorkFolder,
        callback: Any,
    ):
        self._pipe, self._source, self._inversion, self._options = pipe, source, inversion, options
        self._work, self._callback = work, callback
        guidance = pipe.config["guidance"] if options.guidance is None else options.guidance
        self._smoothing = options.smoothing if pipe.interpolator is not None else "none"
        self._rule = fusion_rule(options.edit)
        self.facts = {**inversion.facts, **options.to_dict(), "guidance": guidance}
        self.facts |= {"smoothing": self._smoothing, "sampler": pipe.sampler}
        self._memory = WindowMemory() if options.memory == "bank" else None
        self._windows = Windows(len(source), options.window, pipe.unet.device, references=self._memory is None)
        self._denoiser = Denoiser(
            pipe.unet,
            pipe.controlnet,
            states if guidance > 1 else states[1:],
            guidance=guidance,
            control_scale=options.control_scale,
            least_channels=pipe.least_channels,
            include_self=options.include_self,
            memory=self._memory,
        )
        forward = inversion_pair(pipe.scheduler)[1]
        self._kind = forward.config["prediction_type"]
        # the noise is taken from the output before the fusion, so the steps are those of a network that predicts noise
        self._scheduler = make_scheduler("ddim", forward, prediction_type="epsilon")
        self._scheduler.set_timesteps(options.steps)

    def results(self, progress: Progress | None) -> Iterator[Tensor]:
        """Yield the final latents (C, h, w) of each frame as soon as they are known.

        It ends early after `pipe._interrupt = True`, with the windows that are finished.
        """
        with suppress(_Interrupted):
            yield from self._run(progress)

    def _run(self, progress: Progress | None) -> Iterator[Tensor]:
        file = self._work.finished(EDITED, self.facts)
        if file is not None:
            yield from (file[number] for number in range(len(file)))
            return
        self._pipe.start()
        with self._work.writer(EDITED, self._source.latents.shape[1:], self.facts) as writer:
            writer.cut(len(writer) // self._options.window * self._options.window)
            yield from (writer[number] for number in range(len(writer)))
            for latents in self._together(progress) if self._memory is not None else self._each(len(writer), progress):
                writer.append(latents)
                yield from latents
            if len(writer) < len(self._source):
                raise _Interrupted

    # Windows that do not depend on each other

    def _each(self, start: int, progress: Progress | None) -> Iterator[Tensor]:
        """The results of the windows from frame `start` on."""
        tick = self._pipe.counter("editing", self._windows.left(start) * self._options.steps, progress)
        for window, latents in self._windows.run(lambda window: self._window(window, tick), start):
            if self._pipe.interrupt:
                return
            yield latents[len(window.references) :].cpu()

    def _window(self, window: Window, tick: Callable[[], object]) -> Tensor:
        latents, controls = self._start(window), self._controls(window)
        sampler = sampler_like(self._scheduler, self._pipe.sampler)
        with self._denoiser.installed():
            for step in range(self._options.steps):
                noise, latents = self.fused(step, window, latents, controls)
                latents = self._after(step, self._advance(step, noise, latents, sampler))
                tick()
                if self._pipe.interrupt:
                    break
        return latents

    # Windows that remember those before them

    def _together(self, progress: Progress | None) -> Iterator[Tensor]:
        """The results of all windows. They advance step by step, as each reads what the one before it has left."""
        state = LatentState(self._work.path, self._source.latents.shape, self.facts)
        steps = self._options.steps
        tick = self._pipe.counter("editing", self._windows.left() * (steps - state.step), progress)
        with self._denoiser.installed():
            while state.step < steps and not self._pipe.interrupt:
                if self._windows.attempt(lambda: self._all_windows(state, tick)):
                    state.finish_step()
        if state.step < steps:
            return
        for window in self._windows.plan():
            yield state.read(window.start, window.stop)
        state.delete()

    def _all_windows(self, state: LatentState, tick: Callable[[], object]) -> bool:
        """One step of all windows; returns False if it was interrupted."""
        assert self._memory is not None
        step, before = state.step, None
        with self._memory.step():
            for window in self._windows.plan():
                if self._pipe.interrupt:
                    return False
                old = state.read(window.start, window.stop) if step else self._start(window)
                noise, fused = self.fused(step, window, old.to(self._pipe.unet.device), self._controls(window))
                if before is None:
                    before = noise[:1], fused[:1]
                # the last frame of the previous window, twice, has the place of the references
                around = [torch.cat([last, last, own]) for last, own in zip(before, (noise, fused), strict=True)]
                before = noise[-1:], fused[-1:]
                state.write(window.start, self._after(step, self._advance(step, *around)[2:]).cpu())
                tick()
        return True

    # A step

    def _start(self, window: Window) -> Tensor:
        """The inverted latents of a window."""
        return self._inversion.latents(window.frames, self._options.steps).to(self._pipe.unet.device)

    def _controls(self, window: Window) -> Tensor:
        return self._source.controls[list(window.frames)].to(self._pipe.unet.device)

    def fused(self, step: int, window: Window, latents: Tensor, controls: Tensor) -> tuple[Tensor, Tensor]:
        """The noise in the latents of a window, and then the latents fused with the source."""
        steps, timestep = self._options.steps, self._scheduler.timesteps[step]
        output = self._denoiser(latents, timestep, controls)
        noise = predicted_noise(output, latents, self._scheduler.alphas_cumprod[timestep], self._kind)
        mask = self._inversion.masks(window.frames)
        if self._rule.needs_source(step, steps, mask is not None):
            source = self._inversion.latents(window.frames, steps - step).to(latents)
            latents = fuse_latents(latents, source, step=step, steps=steps, rule=self._rule, mask=mask)
        return noise, latents

    def _advance(self, step: int, noise: Tensor, latents: Tensor, sampler: Any = None) -> Tensor:
        """The latents after a step; the last one smooths the clean frames that are predicted."""
        timestep = self._scheduler.timesteps[step]
        if step + 1 < self._options.steps or self._smoothing == "none":
            return scheduler_step(sampler or self._scheduler, noise, timestep, latents)
        return smoothed_step(
            self._scheduler,
            noise,
            timestep,
            latents,
            vae=self._pipe.vae,
            network=self._pipe.interpolator,
            mode=self._smoothing,
            batch_size=self._options.batch_size,
        ).latents

    def _after(self, step: int, latents: Tensor) -> Tensor:
        return self._pipe.after_step(self._callback, step, self._scheduler.timesteps[step], latents=latents)["latents"]


def sampler_like(scheduler: Any, name: str) -> Any:
    """A scheduler that takes the same timesteps as `scheduler`, for one window.

    The latents are fused with those of the DDIM inversion at the same timesteps, which "dpm++" would otherwise choose differently.

    Args:
        scheduler: DDIM, for networks that predict noise, with its timesteps set.
        name: "ddim" or "dpm++".
    """
    if name == "ddim":
        return scheduler
    made = make_scheduler(name, scheduler)
    made.set_timesteps(timesteps=scheduler.timesteps.tolist())
    return made


class _Interrupted(Exception):
    """Ends the writing of a file that is not complete, which then can be continued."""
