"""The loop over the denoising steps of a pipeline: progress, interruption, and the callbacks of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from ..errors import InputError
from ..jobs import Progress

__all__ = ["Steps"]

StepCallback = (
    Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
    | PipelineCallback
    | MultiPipelineCallbacks
)


class Steps:
    """The steps of a pipeline of diffusers."""

    _interrupt: bool

    def steps(
        self, timesteps: Tensor, progress: Progress | None = None, what: str = "denoising"
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, timestep) of each step, and report progress after it.

        An error that `progress` raises cancels the work. As in diffusers, `pipe._interrupt = True` (e.g. in a callback) ends it after
        the current step, with the result so far.

        Args:
            timesteps: those of the scheduler, (steps,).
            progress: called with (what, done, steps); None shows the progress bar of diffusers, see `set_progress_bar_config`.
        """
        self._interrupt = False
        total = len(timesteps)
        if progress is not None:
            for index, timestep in enumerate(timesteps):
                if self._interrupt:
                    return
                yield index, timestep
                progress(what, index + 1, total)
            return
        this: Any = self
        with this.progress_bar(total=total) as bar:
            for index, timestep in enumerate(timesteps):
                if self._interrupt:
                    return
                yield index, timestep
                bar.update()

    def start(self) -> None:
        """Forget an earlier request to end after the current step."""
        self._interrupt = False

    def counter(self, what: str, total: int, progress: Progress | None) -> Callable[[], object]:
        """A function to call after each of `total` steps, which reports progress; 0 stands for an unknown number.

        Args:
            progress: called with (what, done, total); None shows the progress bar of diffusers, see `set_progress_bar_config`.
        """
        if progress is None:
            this: Any = self
            return this.progress_bar(total=total).update
        numbers = count(1)
        return lambda: progress(what, next(numbers), total)

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked to end after the current step."""
        return self._interrupt

    def after_step(
        self,
        callback: StepCallback | None,
        index: int,
        timestep: Tensor,
        inputs: Sequence[str] = ("latents",),
        **tensors: Tensor,
    ) -> dict[str, Tensor]:
        """Call a `callback_on_step_end` of diffusers; return `tensors` with those that it replaced.

        Args:
            inputs: names of the tensors that the callback gets (`callback_on_step_end_tensor_inputs`); callbacks of diffusers'
                own classes state theirs.

        Raises:
            InputError: a name that is not among `tensors`, asked for or returned.
        """
        if callback is None:
            return tensors
        inputs = getattr(callback, "tensor_inputs", inputs)
        self._check_names(inputs, tensors)
        returned = callback(self, index, timestep, {name: tensors[name] for name in inputs}) or {}
        self._check_names(returned, tensors)
        return {**tensors, **returned}

    @staticmethod
    def _check_names(names: Any, tensors: Mapping[str, Tensor]) -> None:
        if unknown := [name for name in names if name not in tensors]:
            raise InputError(f"callback_on_step_end has no tensor {unknown[0]!r}; it has {', '.join(tensors)}")
