"""Scenes as files of static Gaussians: one time, or a folder with a file per frame."""

from __future__ import annotations

import json
import time as clock
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.io.extensions import extension
from visionzoo.io.files import make_folder
from visionzoo.jobs import Bars, Counter, Interrupted, sidecar, write_sidecar

from ...models.modecgs import Gaussians, MoDecGS, bake, read_splats, write_splats
from ...models.modecgs.compact import write_scene
from ...models.modecgs.published import read_camera_centers
from ...models.modecgs.splats.spz import offset_of
from .export_options import ExportOptions, check_export, is_splats
from .scene import Scene


def export_file(
    source: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    device: torch.device | str = "auto",
    progress: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a scene for other programs, with a sidecar. An interrupted sequence resumes with the same call.

    Args:
        source: a `.vzgs`, an output folder of a published training, or a file of Gaussians, which is converted.
        output: `.ply`, `.compressed.ply`, `.spz`, `.splat` or `.vzgs`; for a sequence, a folder for `frame_00000.ply`, …

    Returns:
        The facts of the file (see `write_splats`), or of a sequence: "frames", each with "file" and "time", and "fps".

    Raises:
        InputError: a source that cannot be read, an output that may not be written, or options that do not fit the scene.
        Interrupted: by Ctrl-C during a sequence; the message says how to resume.
    """
    source, target, how, started = Path(source), Path(output), options or ExportOptions(), clock.monotonic()
    check_export(source, target, how, overwrite=overwrite)
    if is_splats(source):
        facts = write_splats(_cut(read_splats(source), how.sh_degree), target)
    else:
        scene = Scene.open(source, device)
        baked = _Baked(scene, source, how)
        if how.is_sequence:
            return _sequence(baked, source, target, how, progress=progress, overwrite=overwrite)
        if extension(target) == ".vzgs":
            network: Any = scene.model
            size = write_scene(network, target, bits=how.bits or 8, facts=scene.facts.to_dict())
            facts = {"format": ".vzgs", "bytes": size}
        else:
            with Bars(progress, target.name, unit="Gaussian") as bars:
                facts = {"time": how.time or 0.0, **baked.write(target, how.time or 0.0, bars)}
    facts["seconds"] = round(clock.monotonic() - started, 3)
    write_sidecar(target, {"result": facts}, {"scene": str(source), **how.to_dict()})
    return facts


class _Baked:
    """Writes the Gaussians of a scene at any time.

    Raises:
        InputError: the scene has no such view.
    """

    def __init__(self, scene: Scene, source: Path, options: ExportOptions):
        self.scene, self.options = scene, options
        self.centers = _centers(scene, source)
        self.camera: Tensor | None = None
        if options.view is not None:
            count = 0 if self.centers is None else len(self.centers)
            if options.view >= count:
                expected = f"must be between 0 and {count - 1}" if count else "needs a scene with known cameras"
                raise InputError(f"{source}: --view {expected}, got {options.view}")
            assert self.centers is not None
            self.camera = self.centers[options.view]
        model: Any = scene.model
        at_rest = model.anchors["positions"] if isinstance(model, MoDecGS) else model.table["means"]
        self.offset = offset_of(at_rest.detach().cpu().numpy())  # all frames of a sequence have the same one

    def write(self, target: Path, time: float, bars: Bars) -> dict[str, Any]:
        """Write one file; returns its facts."""
        model: Any = self.scene.model
        degree = 0 if target.name.lower().endswith(".splat") else self.options.sh_degree
        gaussians = bake(
            model,
            None if self.scene.is_static else time,
            sh_degree=degree,
            centers=self.centers,
            camera=self.camera,
            progress=bars.show,
        )
        return write_splats(gaussians, target, offset=self.offset)


def _sequence(
    baked: _Baked, source: Path, folder: Path, options: ExportOptions, *, progress: bool, overwrite: bool
) -> dict[str, Any]:
    facts = baked.scene.facts
    length = facts.frames / facts.fps if facts.fps and facts.frames else None
    if options.times is not None:
        count = options.times
    elif length is None:
        raise InputError(f"{source}: does not say how long the recording was; use --times instead of --fps")
    else:
        count = max(round(length * (options.fps or 0)), 1)
    times = [float(time) for time in np.linspace(0, 1, count)]
    names = [f"frame_{number:05d}{options.format}" for number in range(count)]
    settings = {"scene": str(source), **options.to_dict()}
    _check_folder(folder, names, settings, overwrite=overwrite)
    make_folder(folder)
    result: dict[str, Any] = {
        "format": options.format,
        "fps": None if length is None else round(count / length, 6),
        "offset": baked.offset.tolist() if options.format == ".spz" else [0.0, 0.0, 0.0],
        "frames": [{"file": name, "time": round(time, 6)} for name, time in zip(names, times, strict=True)],
    }
    write_sidecar(folder, {"result": {**result, "complete": False}}, settings)
    done = 0
    try:
        with Counter(count, "exporting", "frame", shown=progress) as bar:
            for name, time in zip(names, times, strict=True):
                if overwrite or not (folder / name).exists():
                    baked.write(folder / name, time, Bars(shown=False))
                done += 1
                bar.update()
    except KeyboardInterrupt:
        again = "the same command without --overwrite resumes" if overwrite else "run the same command again to resume"
        raise Interrupted(f"interrupted; {done} of {count} frames are finished: {again}") from None
    result["bytes"] = sum((folder / name).stat().st_size for name in names)
    write_sidecar(folder, {"result": {**result, "complete": True}}, settings)
    return result


def _check_folder(folder: Path, names: list[str], settings: dict[str, Any], *, overwrite: bool) -> None:
    """Raise `InputError` if the folder is a file, or holds frames that were exported with other settings."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder for the frames; choose another name")
    if overwrite or not any((folder / name).exists() for name in names):
        return
    try:
        known = json.loads(sidecar(folder).read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known != settings:
        raise InputError(
            f"{folder}: holds frames of another scene or of other options; choose another folder or add --overwrite"
        )


def _centers(scene: Scene, source: Path) -> Tensor | None:
    """(C, 3) where the training cameras were, if that is known."""
    if scene.facts.cameras:
        return torch.tensor(np.stack([each.camera.centre for each in scene.facts.cameras]), dtype=torch.float32)
    found = read_camera_centers(source) if source.is_dir() else None
    return None if found is None else torch.from_numpy(found)


def _cut(gaussians: Gaussians, degree: int) -> Gaussians:
    """Gaussians with harmonics of at most this degree."""
    kept = min(degree, gaussians.sh_degree or 0)
    means, quats, scales, opacities, colors = gaussians.tensors
    return Gaussians(means, quats, scales, opacities, colors[:, : (kept + 1) ** 2], sh_degree=kept)


__all__ = ["export_file"]
