"""The scene that is being trained, in the browser.

The thread that trains also renders, between two iterations, so nothing is computed on a model that changes. Rendering draws no random
numbers: a training gives the same scene with and without a preview.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from visionzoo.console import counted, note
from visionzoo.errors import require
from visionzoo.serving import check_address

from .fitting import Fitting
from .scene import Scene
from .viewer import Viewer, address_of

SHARE = 0.25
"""The preview takes about this share of the time, unless the training is paused."""

EVERY_S = 1.0
"""A new state of the model is shown this often."""

POINTS = 200
"""The plot of the PSNR has at most this many points."""

PAUSE, RESUME = "Pause training", "Resume training"


class Preview:
    """A viewer of a training.

        with Preview(fitting.scene(), port=8080) as preview:
            for _ in fitting.run():
                preview.show(fitting.scene, fitting.iteration, fitting.recipe.steps, fitting.history)

    Args:
        scene: the scene before the training.
        host, port: address to listen at.

    Attributes:
        viewer: the viewer.
        paused: whether `show` waits.

    Raises:
        InputError: the port is in use, or the host is not an address of this machine.
        MissingDependencyError: viser is not installed.
    """

    def __init__(self, scene: Scene, *, host: str = "127.0.0.1", port: int = 8080):
        self.viewer = Viewer(scene, host=host, port=port, title="training")
        self.paused = self._has_failed = False
        self._since = time.monotonic()
        self._spent, self._shown_at = 0.0, -math.inf
        gui: Any = self.viewer.server.gui
        with gui.add_folder("Training", order=-1):
            self._progress = gui.add_markdown("")
            self._button = gui.add_button(PAUSE)
            self._plot = _psnr_plot(gui)
        self._button.on_click(lambda event: self.viewer.ask(self._toggle))

    def __enter__(self) -> Preview:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        self.viewer.close()

    def show(
        self,
        scene: Callable[[], Scene],
        iteration: int,
        steps: int,
        history: Sequence[tuple[int, float]],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send the browsers what they ask for; while the training is paused, this does not return.

        A preview that fails ends with a warning, and the training continues.

        Args:
            scene: called for the current scene, if it is shown.
            iteration, steps: how far the training is.
            history: (iteration, PSNR in dB).
            interrupted: whether to return although the training is paused.
        """
        if self._has_failed:
            return
        try:
            self._show(scene, iteration, steps, history)
            while self.paused and not interrupted():
                self.viewer.step(0.05)
        except Exception as error:
            self._has_failed = True
            self.close()
            warnings.warn(
                f"the preview has ended ({type(error).__name__}: {error}); the training continues", stacklevel=2
            )

    def _show(
        self, scene: Callable[[], Scene], iteration: int, steps: int, history: Sequence[tuple[int, float]]
    ) -> None:
        started = time.monotonic()
        if self._spent > SHARE * (started - self._since) and iteration < steps:
            return
        if started - self._shown_at >= EVERY_S or iteration >= steps:
            self._shown_at = started
            self._tell(iteration, steps, history)
            if self.viewer.has_visitors:
                self.viewer.replace(scene())
        self.viewer.step()
        self._spent += time.monotonic() - started

    def watch(self, fitting: Fitting) -> None:
        """Show a training after an iteration."""
        self.show(fitting.scene, fitting.iteration, fitting.recipe.steps, fitting.history)

    def _toggle(self) -> None:
        self.paused = not self.paused
        self._button.label = RESUME if self.paused else PAUSE

    def _tell(self, iteration: int, steps: int, history: Sequence[tuple[int, float]]) -> None:
        at, psnr = course(history)
        now = f", {psnr[-1]:.1f} dB" if len(psnr) else ""
        self._progress.content = f"{iteration:,} of {counted(steps, 'iteration')}{now}"
        if len(at) > 1:
            self._plot.data = (at, psnr)
            self._plot.visible = True


@contextmanager
def previewing(
    *, host: str = "127.0.0.1", port: int = 8080, quiet: bool = False
) -> Iterator[Callable[[Fitting], None]]:
    """A function to watch a training with, e.g. `reconstruct_file(…, watch=watch)`; the preview opens with the first call.

    Raises:
        InputError, MissingDependencyError: see `Preview`.
    """
    require("viser", extra="gs", purpose="a preview in the browser")
    check_address(host, port)
    note(f"the training can be watched at {address_of(host, port)}", quiet=quiet)
    opened: list[Preview] = []

    def watch(fitting: Fitting) -> None:
        if not opened:
            opened.append(Preview(fitting.scene(), host=host, port=port))
        opened[0].watch(fitting)

    try:
        yield watch
    finally:
        for preview in opened:
            preview.close()


def course(history: Sequence[tuple[int, float]], most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and PSNR in dB for a plot: means of consecutive iterations; those that were skipped do not count."""
    usable = np.array([each for each in history if math.isfinite(each[1])], float).reshape(-1, 2)
    parts = [part for part in np.array_split(usable, min(most, max(len(usable), 1))) if len(part)]
    means = np.array([part.mean(0) for part in parts]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _psnr_plot(gui: Any) -> Any:
    import viser.uplot

    return gui.add_uplot(
        (np.zeros(1), np.zeros(1)),
        (viser.uplot.Series(label="iteration"), viser.uplot.Series(label="PSNR (dB)", stroke="#228be6", width=2)),
        scales={"x": viser.uplot.Scale(time=False), "y": viser.uplot.Scale(auto=True)},
        aspect=2.0,
        visible=False,
    )


__all__ = ["Preview", "course", "previewing"]
