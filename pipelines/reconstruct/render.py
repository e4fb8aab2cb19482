"""Videos and images of a scene."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path
from visionzoo.io.video import Window, map_video
from visionzoo.jobs import FileResult, check_result, write_sidecar
from visionzoo.jobs.progress import Counter

from ...models.modecgs.facts import TimedCamera
from .paths import camera_path
from .render_options import RenderOptions, is_image
from .scene import Pixels, Scene, Show

DEFAULT_SECONDS = 5.0


@dataclass(frozen=True)
class _Moment:
    """A frame of the video to be."""

    number: int
    time: Fraction
    duration: Fraction


def render_file(
    scene: Scene,
    output: str | Path,
    options: RenderOptions | None = None,
    *,
    source: str | Path = "",
    progress: bool = True,
    overwrite: bool = False,
) -> FileResult:
    """Render a scene to a video, or to an image of one moment, with a sidecar. An interrupted video resumes.

    Args:
        source: the file of the scene, which is recorded, and which a resumed video must have in common.

    Raises:
        InputError: the output cannot be written, or no such view.
    """
    how, target, started = options or RenderOptions(), Path(output), time.monotonic()
    check_result(target, overwrite=overwrite)
    facts = {"scene": str(source), **how.to_dict(), "device": str(scene.device)}
    if is_image(target):
        pixels = render_image(scene, how)
        with atomic_path(target) as temporary:
            Image.fromarray(pixels).save(temporary)
        height, width, frames = *pixels.shape[:2], 1
    else:
        shown = moments(scene, how)
        fps = Fraction(how.fps).limit_denominator(1001)
        with Counter(len(shown), "rendering", "frame", shown=progress, leave=False) as bar:
            made = map_video(
                [_Moment(number, number / fps, 1 / fps) for number in range(len(shown))],
                target,
                _Frames(scene, shown, how.show),
                fps=fps,
                frames=len(shown),
                sound=False,
                settings={**facts, "file": _stamp(source)},
                overwrite=True,  # checked above
                progress=lambda done, of: bar.update(done - bar.done),
            )
        width, height, frames = made.width, made.height, made.frames
    result = FileResult(str(source), str(target), width, height, frames, round(time.monotonic() - started, 3))
    write_sidecar(target, {"result": result.to_dict()}, facts)
    return result


def render_image(scene: Scene, options: RenderOptions) -> Pixels:
    """(H, W, 3) uint8: the scene from one of its views, at `options.time` or else at the time of the view."""
    _check_view(scene, options)
    chosen = scene.cameras[options.view]
    camera = chosen.camera.resized(*options.sides(chosen.camera.width, chosen.camera.height))
    return scene.image(camera, chosen.time if options.time is None else options.time, options.show)


def moments(scene: Scene, options: RenderOptions) -> list[TimedCamera]:
    """The cameras of a video, at its size."""
    _check_view(scene, options)
    seconds = options.seconds
    if seconds is None:
        recorded = options.path == "input" and scene.facts.fps and scene.facts.frames
        seconds = scene.facts.frames / scene.facts.fps if recorded and scene.facts.fps else DEFAULT_SECONDS
    count = max(1, round(seconds * options.fps))
    path = camera_path(scene, options.path, count, time=options.time, turns=options.turns, view=options.view)
    return [
        replace(each, camera=each.camera.resized(*options.sides(each.camera.width, each.camera.height)))
        for each in path
    ]


def _check_view(scene: Scene, options: RenderOptions) -> None:
    if options.view >= len(scene.cameras):
        raise InputError(f"--view must be between 0 and {len(scene.cameras) - 1}, got {options.view}")


class _Frames:
    """Renders the frames of a window."""

    def __init__(self, scene: Scene, shown: Sequence[TimedCamera], show: Show):
        self._scene, self._shown = scene, shown
        self._show: Show = show

    def __call__(self, window: Window[_Moment]) -> Iterator[np.ndarray]:
        for moment in window.items:
            each = self._shown[moment.number]
            yield self._scene.image(each.camera, each.time, self._show)


def _stamp(source: str | Path) -> list[int] | None:
    """What tells whether the file of the scene has changed."""
    path = Path(source)
    if not str(source) or not path.exists():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


__all__ = ["moments", "render_file", "render_image"]
