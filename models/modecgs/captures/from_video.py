"""A scene from a video: finds the camera of its frames with COLMAP (pycolmap, the extra `colmap`), on a CPU.

The folder that is written has the layout of a COLMAP model, with the frames' times in `video.json`:

    images/000012.png sparse/0/{cameras,images,points3D}.bin video.json
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from visionzoo.console import note
from visionzoo.errors import InputError, VisionZooError, require, writing
from visionzoo.io.files import make_folder, write_json
from visionzoo.io.video import VideoInfo, probe
from visionzoo.jobs.progress import Progress, silent

from .colmap import RECORD
from .json_files import read_json
from .reading import read_capture
from .video_frames import check_masks, choose_frames, list_masks, read_mask

LEAST = 8
"""Frames that a video must have."""
PLACED = 0.5
"""Share of the frames whose cameras must be found."""


def capture_from_video(
    video: str | Path,
    folder: str | Path,
    *,
    frames: int = 80,
    masks: str | Path | None = None,
    max_side: int | None = 1280,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Write a scene that `read_capture` reads, and return its folder. A folder that holds this scene already is used again.

    Args:
        video: of one camera that moves; its lens must not zoom.
        folder: is created; it may exist if it is empty, or holds the scene of the same video with the same settings.
        frames: largest number of frames to use; sharp ones are taken, evenly over the video.
        masks: a folder with one image for every frame of the video, in the order of their names: black where something moves. These
            pixels are not used to find the camera. (They are no masks for `read_capture`, which would not train there.)
        max_side: shrink frames to this many pixels on the longer side; None keeps their size.
        seed: random seed of COLMAP.
        threads: number of threads of COLMAP; None for one per core.

    Raises:
        MissingDependencyError: pycolmap is not installed.
        VideoError: the video cannot be read.
        InputError: the video is too short, its camera does not move or cannot be found, masks do not belong to it, or the folder
            holds something else.
    """
    video, folder = Path(video), Path(folder)
    if importlib.util.find_spec("pycolmap") is None:  # it is imported by another process, see mapping.py
        require("pycolmap", extra="colmap", purpose="finding the camera of a video")
    if frames < LEAST:
        raise InputError(f"frames must be at least {LEAST}, got {frames}")
    info = probe(video)
    if info.frames < LEAST:
        counted = "1 frame" if info.frames == 1 else f"{info.frames} frames"
        raise InputError(f"{video}: has {counted}; a scene needs at least {LEAST}, filmed by a camera that moves")
    mask_files = None if masks is None else list_masks(Path(masks), video, info)
    record = {
        "video": video.name,
        "sha256": _digest([video]),
        "options": {"frames": frames, "max_side": max_side, "seed": seed},
        "masks": None if mask_files is None else _digest(mask_files),
    }
    if _holds(folder, record):
        note(f"{folder}: holds the cameras of {video.name} already; they are used again")
        return folder
    make_folder(folder.absolute().parent)
    with writing(folder):
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
        try:
            times = _write_frames(work, video, info, frames, max_side, mask_files, progress)
            settings = {"seed": seed, "threads": threads or -1, "masks": mask_files is not None}
            facts = _find_cameras(work, video, {**settings, "least": _least(len(times))}, progress)
            _finish(work, folder, {**record, "facts": facts, "times": times})
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _least(frames: int) -> int:
    return max(3, round(PLACED * frames))


def _digest(paths: list[Path]) -> str:
    """SHA-256 of the contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _holds(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the folder has the scene of this record. Raises `InputError` if it has something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder")
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder}: holds other files; choose another folder for the scene")
    found = read_json(folder / RECORD, "video", *record)
    if any(found[key] != value for key, value in record.items() if key != "video"):
        raise InputError(
            f"{folder}: holds the scene of {found['video']}, made from another file or with other settings; choose another folder, or "
            "delete this one"
        )
    return True


def _write_frames(
    work: Path,
    video: Path,
    info: VideoInfo,
    count: int,
    max_side: int | None,
    masks: list[Path] | None,
    progress: Progress,
) -> dict[str, float]:
    """Write the chosen frames, and their masks as COLMAP wants them; returns name -> time in [0, 1]."""
    images, seen = make_folder(work / "images"), []
    seconds: dict[str, float] = {}
    for frame in choose_frames(video, info, count, max_side=max_side, progress=progress):
        name = f"{frame.number:06d}.png"
        seconds[name] = frame.time_s
        Image.fromarray(frame.pixels).save(images / name, compress_level=1)
        if masks is not None:
            height, width = frame.pixels.shape[:2]
            mask = read_mask(masks[min(frame.number, len(masks) - 1)], width, height)
            seen.append(float(mask.mean()))
            Image.fromarray(mask).save(make_folder(work / "masks") / f"{name}.png")
    if len(seconds) < LEAST:
        raise InputError(f"{video}: only {len(seconds)} frames can be read; a scene needs at least {LEAST}")
    if masks is not None:
        check_masks(masks[0].parent, seen)
    first, last = min(seconds.values()), max(seconds.values())
    return {name: (second - first) / max(last - first, 1e-9) for name, second in seconds.items()}


def _find_cameras(work: Path, video: Path, settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run mapping.py; returns what it reports."""
    write_json(work / "settings.json", settings)
    command = [sys.executable, "-P", str(Path(__file__).with_name("mapping.py")), str(work)]
    log = work / "errors.txt"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        last: list[Any] = []
        try:
            for line in process.stdout:
                if not line.startswith("["):  # something that pycolmap prints
                    continue
                last = json.loads(line)
                if last[0] == "progress":
                    progress(*last[1:])
        finally:
            process.kill()
    if last[:1] == ["done"]:
        return last[1]
    if last[:1] == ["failed"]:
        raise InputError(f"{video}: {_reason(last[1], last[2])}")
    why = log.read_text(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    raise VisionZooError(f"{video}: pycolmap failed ({why[0]}); try another version of it, or fewer frames")


def _reason(kind: str, facts: dict[str, Any]) -> str:
    if kind == "no matches":
        return "no two frames have details in common; film something with texture, slowly and without blur"
    if kind == "still":
        return (
            f"the camera does not move (details move by at most {facts['moved']:.1%} of the width); a scene needs a camera that moves "
            "sideways around it"
        )
    placed = f"only {facts['placed']} of" if facts["placed"] else "none of the"
    return (
        f"{placed} {facts['frames']} frames could be placed; use more frames, masks of what moves, or a video whose camera moves "
        "sideways, slowly and without blur"
    )


def _finish(work: Path, folder: Path, record: dict[str, Any]) -> None:
    """Move the scene to its place, if it can be read."""
    place = make_folder(work / "scene")
    straight = record["facts"]["straightened"]
    (work / "straight" / "images" if straight else work / "images").rename(place / "images")
    make_folder(place / "sparse")
    (work / "straight" / "sparse" if straight else work / "model").rename(place / "sparse" / "0")
    write_json(place / RECORD, record)
    read_capture(place)
    if folder.is_dir():
        folder.rmdir()
    place.rename(folder)


__all__ = ["capture_from_video"]
