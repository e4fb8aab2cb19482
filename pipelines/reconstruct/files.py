"""Reconstruction from a folder to a `.vzgs` file: progress, preview, resume, sidecar."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visionzoo.console import note
from visionzoo.errors import InputError
from visionzoo.io.extensions import extension
from visionzoo.io.files import atomic_path
from visionzoo.io.video import probe
from visionzoo.jobs import check_result, write_sidecar
from visionzoo.jobs.progress import Bars, Counter
from visionzoo.jobs.resume import RESUME, Interrupted

from ...models.modecgs.compact import write_scene
from .fitting import Fitting, comparison
from .options import ReconstructOptions

if TYPE_CHECKING:
    from .pipeline import ReconstructPipeline

SAVE_EVERY_S = 60.0
PREVIEW_EVERY_S = 20.0
SMALLEST_PREVIEW = 256
"""Previews of smaller images are enlarged to about this height in pixels."""

RECENT = 50
"""The PSNR that is shown is the mean of this many iterations."""


def preview_of(output: Path) -> Path:
    """The image beside a scene that compares it with the truth: `scene.vzgs.png`."""
    return output.with_name(f"{output.name}.png")


def state_of(output: Path) -> Path:
    """The file beside a scene that holds the state of an interrupted training."""
    return output.with_name(f"{output.name}.part")


def cameras_of(output: Path) -> Path:
    """The folder beside a scene that holds the frames of its video and their cameras."""
    return output.with_name(f"{output.name}.capture")


def check_files(source: str | Path, output: str | Path, *, overwrite: bool) -> Path:
    """The output's path, if it, its sidecar and its preview may be written.

    Raises:
        InputError: the source is missing, the output has another extension than .vzgs, or a file exists.
    """
    path = Path(output)
    if not Path(source).exists():
        raise InputError(
            f"{source}: no such file or folder; expected a scene (a folder of images with cameras) or a video"
        )
    if extension(path) != ".vzgs":
        raise InputError(
            f"{path}: unknown extension {path.suffix or 'of a file without one'}; scenes are written as .vzgs"
        )
    check_result(path, overwrite=overwrite)
    if (
        preview_of(path).exists()
        and not overwrite
        and not path.with_name(f"{path.name}.json").exists()
        and not state_of(path).exists()
    ):
        raise InputError(f"{preview_of(path)}: exists already; choose another name or add --overwrite")
    return path


def reconstruct_file(
    pipe: ReconstructPipeline,
    source: str | Path,
    output: str | Path,
    options: ReconstructOptions,
    *,
    progress: bool = True,
    overwrite: bool = False,
    watch: Callable[[Fitting], object] | None = None,
) -> dict[str, Any]:
    """Train a scene and write it with its sidecar and preview; returns the result that the sidecar states.

    Args:
        watch: called with the training after every iteration, e.g. by a live viewer.

    Raises:
        InputError: see `ReconstructPipeline.run`.
        Interrupted: by Ctrl-C, after the state was saved.
    """
    path = check_files(source, output, overwrite=overwrite)
    started = time.monotonic()
    with Bars(progress) as bars:
        capture = pipe.capture(source, options, cameras=cameras_of(path), progress=bars.show)
    note(capture.describe(), quiet=not progress)
    for line in capture.notes:
        note(line, quiet=not progress)
    fitting = pipe.fitting(capture, options)
    state = state_of(path)
    if state.exists() and fitting.load(state):
        note(f"resuming after iteration {fitting.iteration:,} of {fitting.recipe.steps:,}", quiet=not progress)
    elif state.exists() and not overwrite:  # it may hold hours of work
        raise InputError(
            f"{state}: holds an interrupted training of another scene or with other settings; run that command again to resume "
            "it, choose another output, or add --overwrite to start over"
        )
    note(f"preview: {preview_of(path)} (above, the views; below, the scene so far)", quiet=not progress)
    try:
        _train(fitting, path, progress=progress, watch=watch)
    except KeyboardInterrupt:
        if not fitting.iteration:
            raise
        fitting.save(state)
        raise Interrupted(
            f"interrupted after iteration {fitting.iteration:,}; its state is kept in {state}: {RESUME}"
        ) from None
    scores = fitting.scores()
    facts = {**pipe.facts(), **options.to_dict()}
    size = write_scene(
        fitting.model, path, bits=options.bits,
        facts=fitting.facts(
            scores=scores, fps=_fps(source, fitting), training={"preset": pipe.preset_name, **_plain(options)}
        ).to_dict(),
    )  # fmt: skip
    write_preview(fitting, path)
    result = {
        "source": str(source), "output": str(path), "scores": scores, "bytes": size, "anchors": fitting.model.anchors.rows,
        "iterations": fitting.iteration, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    write_sidecar(path, {"result": result, "history": thinned(fitting.history)}, facts)
    state.unlink(missing_ok=True)
    return result


def _train(fitting: Fitting, path: Path, *, progress: bool, watch: Callable[[Fitting], object] | None) -> None:
    saved = shown = time.monotonic()
    title = "training"
    with Counter(fitting.recipe.steps, title, "iteration", shown=progress, initial=fitting.iteration) as bar:
        for done in fitting.run():
            bar.update(note=f"{recent(fitting.history):.1f} dB, {done.anchors:,} anchors")
            if done.skipped:
                note(
                    f"iteration {done.iteration} was skipped: its loss or gradients were not finite", quiet=not progress
                )
            if watch is not None:
                watch(fitting)
            now = time.monotonic()
            if now - shown > PREVIEW_EVERY_S:
                write_preview(fitting, path)
                shown = time.monotonic()
            if now - saved > SAVE_EVERY_S:
                fitting.save(state_of(path))
                saved = time.monotonic()


def write_preview(fitting: Fitting, path: Path) -> None:
    """The image that compares views with the scene so far."""
    image = Image.fromarray(comparison(fitting))
    scale = max(1, SMALLEST_PREVIEW // image.height)
    with atomic_path(preview_of(path)) as temporary:
        image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST).save(temporary, "PNG")


def recent(history: list[tuple[int, float]]) -> float:
    """Mean PSNR in dB of the last iterations; those that were skipped do not count."""
    values = [value for _, value in history[-RECENT:] if np.isfinite(value)]
    return float(np.mean(values)) if values else float("nan")


def thinned(history: list[tuple[int, float]], most: int = 200) -> list[list[float]]:
    """The course of the PSNR: means of consecutive iterations, at most `most`, as [iteration, dB]."""
    usable = [(step, value) for step, value in history if np.isfinite(value)]
    parts = np.array_split(np.array(usable).reshape(-1, 2), min(most, max(len(usable), 1)))
    return [[int(part[-1, 0]), round(float(part[:, 1].mean()), 3)] for part in parts if len(part)]


def _fps(source: str | Path, fitting: Fitting) -> float | None:
    """Frames per second of the views of a video, which are fewer than its frames; None for other sources."""
    if not Path(source).is_file():
        return None
    info = probe(source)
    length = info.frames / info.fps
    return float(len({view.time for view in fitting.capture.train}) / length) if length else None


def _plain(options: ReconstructOptions) -> dict[str, Any]:
    return {key: value for key, value in options.to_dict().items() if value is not None and key != "masks"}


__all__ = ["check_files", "preview_of", "recent", "reconstruct_file", "state_of", "thinned", "write_preview"]
