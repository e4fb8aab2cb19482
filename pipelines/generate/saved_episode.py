"""Episodes on disk: the memory, the last frames, and how far the episode has come."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from visionzoo.errors import InputError, writing
from visionzoo.io.files import check_name, make_folder, write_json
from visionzoo.weights import save_safetensors

if TYPE_CHECKING:
    from torch import Tensor

    from .generation import Generation

__all__ = ["check_place", "is_episode", "load_episode", "load_memory", "save_episode", "write_episode"]

ABOUT, PAST, MEMORY = "episode.json", "past.safetensors", "memory"


def is_episode(folder: str | Path) -> bool:
    """Whether a folder holds a saved episode."""
    return (Path(folder) / ABOUT).is_file()


def check_place(folder: str | Path) -> Path:
    """The folder, if an episode may be written there. Raises `InputError` if it holds other files."""
    place = check_name(folder)
    if place.exists() and not is_episode(place) and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place}: exists and holds no episode; choose another folder")
    return place


def save_episode(folder: str | Path, video: Generation) -> None:
    """Write the episode of a video to a folder; an older one there is replaced when all files are written.

    Raises:
        InputError: the folder holds other files.
        VisionZooError: it cannot be written.
    """
    place = check_place(folder)
    made, old = (place.with_name(f".{place.name}.{what}") for what in ("new", "old"))
    with writing(place):
        shutil.rmtree(made, ignore_errors=True)
        make_folder(made)
        write_episode(made, video)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
        made.rename(place)
        shutil.rmtree(old, ignore_errors=True)


def write_episode(folder: Path, video: Generation) -> None:
    """Write the files of an episode into a folder that exists."""
    assert video.past is not None
    if video.memory is not None:
        with video.remembering():
            video.memory.save(folder / MEMORY)
    save_safetensors({"latents": video.past.contiguous()}, folder / PAST, {"content": "last frames"})
    write_json(folder / ABOUT, {"chunks": video.chunks, "weights": video.weights})


def load_episode(folder: str | Path, video: Generation) -> None:
    """Continue a saved episode in a video that has not begun.

    Raises:
        InputError: there is no episode in the folder, a file is missing or damaged, or it belongs to other networks or settings.
    """
    place = Path(folder)
    chunks, past = _read(place, video)
    if video.memory is not None:
        remedy = "continue it with --no-fast-learning"
        with video.remembering() as memory:
            assert memory is not None
            memory.load(_memory_of(place, remedy), name=memory.active)
    video.past, video.chunks = past[:, -video.settings.past_frames :], chunks


def load_memory(folder: str | Path, video: Generation, name: str) -> None:
    """Keep the memory of a saved episode under a name in a video that has begun; what the video shows stays.

    Raises:
        InputError: as `load_episode`; the video is unchanged then.
    """
    place = Path(folder)
    _read(place, video)
    with video.remembering() as memory:
        if memory is None:
            raise InputError("this video has no memory: it was begun without fast learning")
        memory.load(_memory_of(place, "choose another"), name=name)


def _read(place: Path, video: Generation) -> tuple[int, Tensor]:
    """Number of chunks and last latents of an episode, which must belong to the networks of the video."""
    if not is_episode(place):
        raise InputError(f"{place}: holds no saved episode ({ABOUT} is missing)")
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        chunks, weights = int(about["chunks"]), about["weights"]
        past = load_file(place / PAST)["latents"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{place}: the saved episode is damaged ({error}); begin a new one") from error
    if weights != video.weights:
        raise InputError(
            f"{place}: the episode was made with other networks (weights {weights}, not {video.weights}); use the same model and "
            "checkpoint"
        )
    return chunks, past


def _memory_of(place: Path, remedy: str) -> Path:
    if not (place / MEMORY).is_dir():
        raise InputError(f"{place}: the episode has no memory, as it was made without fast learning; {remedy}")
    return place / MEMORY
