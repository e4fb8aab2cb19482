"""Videos that are being coloured on disk: memory, step tails, reference, and how far they have come."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from visionzoo.errors import InputError, writing
from visionzoo.io.files import check_name, make_folder, write_json
from visionzoo.memory import load_memory, save_memory
from visionzoo.weights import save_safetensors

from ...models.longanimation import StepTails, VideoHistory
from .options import ColorizeOptions
from .settings import settings_for

if TYPE_CHECKING:
    from .coloring import Coloring
    from .pipeline import LongAnimationPipeline

__all__ = ["is_coloring", "load_coloring", "save_coloring"]

ABOUT, HISTORY, TAILS, REFERENCE = "coloring.json", "history", "tails", "reference.safetensors"


def is_coloring(folder: str | Path) -> bool:
    """Whether a folder holds a saved state."""
    return (Path(folder) / ABOUT).is_file()


def save_coloring(folder: str | Path, coloring: Coloring) -> None:
    """See `Coloring.save`."""
    place = check_name(folder)
    if place.exists() and not is_coloring(place) and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place}: exists and holds no video in colouring; choose another folder")
    make_folder(place)
    with writing(place):
        before = _read_about(place)["part"] if is_coloring(place) else ""
        part = "b" if before == "a" else "a"
        shutil.rmtree(place / part, ignore_errors=True)
        (place / part).mkdir()
        _write_part(place / part, coloring)
        if coloring.seen is not None:
            coloring.seen.save(place)
        about = {
            "part": part,
            "done": coloring.done,
            "written": coloring.written,
            "total": coloring.total,
            "size": list(coloring.size),
            "lines": coloring.sketches.kind,
            "options": asdict(coloring.settings.options),
            "weights": coloring.weights,
            "tiling": coloring.is_tiled,
        }
        write_json(place / ABOUT, about)
        shutil.rmtree(place / before, ignore_errors=True) if before else None


def _write_part(part: Path, coloring: Coloring) -> None:
    if coloring.history is not None:
        coloring.history.save(part / HISTORY)
    if coloring.tails.bank is not None:
        save_memory({TAILS: coloring.tails.bank}, part / TAILS)
    if tensors := coloring.reference_tensors():
        save_safetensors(tensors, part / REFERENCE, {"content": "reference of a video in colouring"})


def load_coloring(
    folder: str | Path, pipe: LongAnimationPipeline, kind: type[Coloring], callback: Any = None
) -> Coloring:
    """Continue a saved video.

    Args:
        kind: the class `Coloring`.
        callback: see `LongAnimationPipeline.resume`.

    Raises:
        InputError: there is none in the folder, a file is missing or damaged, or it belongs to other networks.
    """
    place = Path(folder)
    about = _read_about(place)
    try:
        options = ColorizeOptions(**about["options"])
        coloring = kind(
            pipe,
            settings_for(options, pipe.config, pipe.latent_frames),
            (int(about["size"][0]), int(about["size"][1])),
            about["total"],
            callback=callback,
            kind=about["lines"],
        )
        if about["weights"] != coloring.weights:
            raise InputError(
                f"{place}: the video was begun with other networks (weights {about['weights']}, not {coloring.weights}); use the same "
                "model and checkpoint"
            )
        _read_part(place / about["part"], coloring)
        coloring.done, coloring.written = int(about["done"]), int(about["written"])
        if coloring.seen is not None:
            assert coloring.history is not None
            coloring.seen.load(place, coloring.history.stream.frames)  # those of the last segment are not remembered
        if about["tiling"]:
            pipe.use_tiling()
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place}: the saved video is damaged ({error!r}); begin a new one") from error
    return coloring


def _read_part(part: Path, coloring: Coloring) -> None:
    if coloring.history is not None:
        with coloring.pipe.memory_at_work():
            coloring.history = VideoHistory.load(
                part / HISTORY, coloring.history.encoder, frames=coloring.frames_for_memory
            )
    if (part / TAILS).is_dir():
        coloring.tails = StepTails(coloring.tails.frames, load_memory(part / TAILS)[TAILS])  # pyright: ignore[reportArgumentType]
    if (part / REFERENCE).is_file():
        coloring.take_reference(load_file(part / REFERENCE))


def _read_about(place: Path) -> dict[str, Any]:
    if not is_coloring(place):
        raise InputError(f"{place}: holds no video in colouring ({ABOUT} is missing)")
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        return {**about, "part": {"a": "a", "b": "b"}[about["part"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: the saved video is damaged ({error!r}); begin a new one") from error
