"""A scene on the page: the files that hold one, an image of any moment from any camera, and a video."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from visionzoo.errors import InputError
from visionzoo.io.head import read_head
from visionzoo.io.video import VideoWriter

from ..models.modecgs import MoDecGS
from ..models.modecgs.captures.capture import Camera
from ..pipelines.reconstruct.paths import orbit_at
from ..pipelines.reconstruct.render import moments
from ..pipelines.reconstruct.render_options import RenderOptions
from ..pipelines.reconstruct.scene import Pixels, Scene, Show
from .uploads import Medium

MAX_MB = 100
MOST_NUMBERS = 60_000_000
"""Of a scene file: 240 MB in memory."""
MOST_GAUSSIANS = 1_000_000
_SPZ_BYTES = 65
"""Of a Gaussian with harmonics of degree 3 in an unpacked `.spz`, at most."""
SIZES = (128, 256, 384, 512)
"""Longer sides of images in pixels."""
FILM_S, FILM_FPS = 4.0, 24.0

From = Literal["orbit", "recording"]


def check_scene_file(path: Path) -> None:
    """Raise `InputError` for a file that `open_scene` does not take."""
    open_scene(path)


SCENE = Medium(
    "scene", frozenset({".vzgs", ".ply", ".spz", ".splat"}), "VZGS, PLY, SPZ or SPLAT", MAX_MB, check_scene_file
)


def open_scene(path: Path) -> Scene:
    """The scene of an upload. Nothing in it is run.

    Raises:
        InputError: another kind of file, a damaged one, or one that is too large for this page.
        MissingDependencyError: the package that reads the format is not installed.
    """
    if path.suffix.lower() == ".spz":
        _check_unpacked(path)
    scene = Scene.open(path, most_numbers=MOST_NUMBERS)
    if (count := gaussians_in(scene)) > MOST_GAUSSIANS:
        raise InputError(
            f"{path}: has up to {count:,} Gaussians; this page takes up to {MOST_GAUSSIANS:,}. Use a smaller scene"
        )
    return scene


def _check_unpacked(path: Path) -> None:
    """Raise `InputError` for an `.spz` that unpacks to more than this page takes; its reader would unpack all of it."""
    most, size = MOST_GAUSSIANS * _SPZ_BYTES, 0
    if read_head(path, "an .spz file").startswith(b"NGSP"):
        raise InputError(f"{path}: is an .spz file of version 4; this page takes versions 2 and 3. Save it as .ply")
    try:
        with gzip.open(path) as packed:
            while size <= most and (part := packed.read(1 << 20)):
                size += len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is a damaged or truncated .spz file; copy or export it again") from error
    if size > most:
        raise InputError(
            f"{path}: unpacks to over {most / 1e6:,.0f} MB, which is more than {MOST_GAUSSIANS:,} Gaussians need; use a smaller scene"
        )


def gaussians_in(scene: Scene) -> int:
    """The most Gaussians that a scene of a file can have at any time."""
    model = scene.model
    if isinstance(model, MoDecGS):
        return model.anchors.rows * model.config.num_offsets
    return len(scene.gaussians((0.0, 0.0, 0.0), 0.0))


@dataclass(frozen=True)
class Look:
    """What an image shows of a scene.

    Attributes:
        come_from: "orbit" or "recording".
        place: where on the orbit, in turns.
        number: number of the recording's camera.
        time: in [0, 1].
        show: "color", "depth" or "opacity".
        size: longer side in pixels.
    """

    come_from: From = "orbit"
    place: float = 0.0
    number: int = 0
    time: float = 0.0
    show: Show = "color"
    size: int = SIZES[1]


def camera_of(scene: Scene, look: Look) -> Camera:
    """The camera of a look, for an image of its size."""
    if look.come_from == "orbit":
        camera = orbit_at(scene, [look.place])[0]
    else:
        camera = scene.cameras[min(look.number, len(scene.cameras) - 1)].camera
    return camera.resized(*RenderOptions(resolution=str(look.size)).sides(camera.width, camera.height))


def image_of(scene: Scene, look: Look) -> Pixels:
    """(H, W, 3) uint8."""
    return scene.image(camera_of(scene, look), look.time, look.show)


def film(scene: Scene, path: Path, look: Look) -> Iterator[tuple[int, int]]:
    """Write a video in which the scene plays once while the camera goes round its orbit, of the size and kind of a look.

    Yields:
        Number of frames so far, and in total. The file is complete at the end.
    """
    options = RenderOptions(show=look.show, resolution=str(look.size), seconds=FILM_S, fps=FILM_FPS)
    shown = [replace(each, camera=_even(each.camera)) for each in moments(scene, options)]
    with VideoWriter(path, fps=FILM_FPS) as video:
        for number, each in enumerate(shown, 1):
            video.write(scene.image(each.camera, each.time, look.show))
            yield number, len(shown)


def _even(camera: Camera) -> Camera:
    """With even sides, without which many browsers do not play a video."""
    return camera.resized(camera.width + camera.width % 2, camera.height + camera.height % 2)


__all__ = [
    "FILM_S", "MOST_GAUSSIANS", "SCENE", "SIZES", "From", "Look", "camera_of", "film", "gaussians_in", "image_of", "open_scene",
]  # fmt: skip
