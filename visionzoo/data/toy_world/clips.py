"""Clips on disk: a folder for each, with video, line art, masks, captions, actions, cameras and, if wanted, the whole truth.

CLIPS/clips.jsonl          one line per clip
CLIPS/000000/clip.json     seed, size, frame rate, characters, regions and their colours, caption
             video.mp4, lines.mp4, masks/PART.mp4
             captions.jsonl, actions.jsonl, cameras.json
             truth.npz     with `truth`
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.console import counted
from visionzoo.errors import InputError, VisionZooError, require, writing
from visionzoo.io.files import make_folder, write_json, write_text
from visionzoo.io.video import VideoWriter
from visionzoo.jobs.progress import Progress, silent
from visionzoo.jobs.resume import RESUME, Interrupted, resumable

from .characters import PARTS
from .clip import Clip, Frame
from .stored_clip import ABOUT, INDEX, NAMES, STREAMS, Segment, read_json
from .world import HOLD, ToyWorld, check_seed

FORMAT = 1
"""Of the folder; clips of another format are not mixed with new ones."""

MOST_CLIPS = 10**6


@dataclass(frozen=True)
class ClipSettings:
    """What a folder of clips shows and holds. Clip n is the first take of the world with seed `seed + n`.

    Attributes:
        seed, split, places, characters: see `ToyWorld.create`.
        frames, size, actions, returns, hold, speed: see `ToyWorld.film`.
        fps: frames per second of the videos, above 0 and at most 1000.
        truth: also store regions, instances, flow and its validity, exactly.
        lossless: store the colours exactly; most browsers do not play such videos.
    """

    seed: int = 0
    split: str = "train"
    places: int | tuple[str, ...] = 4
    characters: int = 1
    frames: int = 64
    size: tuple[int, int] = (128, 128)
    actions: tuple[str, ...] | None = None
    returns: bool = False
    hold: int = HOLD
    fps: float = 12
    truth: bool = False
    lossless: bool = False
    speed: float = 1.0

    def film(self, number: int) -> Clip:
        """Clip `number`, counted from 0. Raises `InputError` for settings that the world does not have."""
        check_seed(self.seed)
        if not 0 < self.fps <= 1000:
            raise InputError(f"fps must be above 0 and at most 1000, got {self.fps:g}")
        if self.returns and self.actions is not None:
            raise InputError(
                "returns is for random actions; to come back by given actions, add the opposite ones to them"
            )
        world = ToyWorld.create(self.seed + number, self.split, places=self.places, characters=self.characters)
        return world.film(
            self.frames, size=self.size, actions=self.actions, returns=self.returns, hold=self.hold, speed=self.speed
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the format of the folder."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))


def write_clips(
    folder: str | os.PathLike[str],
    count: int,
    settings: ClipSettings = ClipSettings(),
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Write clips 0 to `count - 1` and the index `clips.jsonl`. Clips that are there already are kept, so this resumes.

    Args:
        folder: created if it does not exist.
        overwrite: first delete all clips in the folder.
        progress: called with "drawn", the number of frames that are done, and their total.

    Returns:
        The rows of the index, one for each clip in the folder, with the key "skipped": whether it was there already.

    Raises:
        InputError: settings that the world does not have, a folder that cannot be written, or clips in it that were made with
            other settings.
        VisionZooError: the disk is full; the clip in progress is deleted, and finished clips are kept.
        Interrupted: Ctrl-C, likewise.
    """
    folder = Path(folder)
    if not 1 <= count <= MOST_CLIPS:
        raise InputError(f"the number of clips must be from 1 to {MOST_CLIPS:,}, got {count}")
    settings.film(0)
    for module, purpose in (("cv2", "drawing the toy world"), ("av", "writing videos")):
        require(module, extra="toy", purpose=purpose)
    made = settings.to_dict()
    make_folder(folder)
    found = {path.name: path for path in sorted(folder.iterdir()) if re.fullmatch(r"\d{6}", path.name)}
    kept = {name: _check_clip(path, None if overwrite else made) for name, path in found.items()}
    if overwrite:
        (folder / INDEX).unlink(missing_ok=True)
        for path in found.values():
            shutil.rmtree(path)
        kept = {}
    rows = {name: {**_index_row(name, about), "skipped": True} for name, about in kept.items()}
    todo = [number for number in range(count) if f"{number:06}" not in kept]
    done, total = (count - len(todo)) * settings.frames, count * settings.frames
    progress("drawn", done, total)
    try:
        for number in todo:
            about = {"seed": settings.seed + number, "split": settings.split, "take": 0, "settings": made}
            with _resumable(folder, len(rows), overwrite):
                name = f"{number:06}"
                written = write_clip(
                    settings.film(number),
                    folder / name,
                    fps=settings.fps,
                    truth=settings.truth,
                    lossless=settings.lossless,
                    about=about,
                    progress=lambda frames, done=done: progress("drawn", done + frames, total),
                )
                rows[name] = {**_index_row(name, written), "skipped": False}
            done += settings.frames
    except BaseException:
        with contextlib.suppress(VisionZooError):  # the first error counts; the next run writes the index again
            _write_index(folder, rows)
        raise
    return _write_index(folder, rows)


def write_clip(
    clip: Clip,
    folder: str | os.PathLike[str],
    *,
    fps: float = 12,
    truth: bool = False,
    lossless: bool = False,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Write one clip. The folder appears when it is complete.

    Args:
        folder: to create; its parent must exist.
        fps, truth, lossless: see `ClipSettings`.
        about: more facts for `clip.json`, as JSON values.
        progress: called with the number of finished frames.

    Returns:
        The content of `clip.json`.

    Raises:
        InputError: the folder exists already, or cannot be written.
        VisionZooError: the disk is full.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise InputError(f"{folder}: exists already; choose another name")
    work = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        with writing(folder):
            (work / "masks").mkdir(parents=True)
        written = _write(clip, work, fps, truth, lossless, dict(about or {}), progress)
        with writing(folder):
            os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return written


def _write(
    clip: Clip,
    work: Path,
    fps: float,
    truth: bool,
    lossless: bool,
    about: dict[str, Any],
    progress: Callable[[int], object] | None,
) -> dict[str, Any]:
    masks = masks_of(clip)
    captions, actions = [], []
    with ExitStack() as stack:

        def video(name: str, exact: bool) -> VideoWriter:
            return stack.enter_context(VideoWriter(work / STREAMS[name], fps=float(fps), lossless=exact, crf=12))

        colors, lines = video("video", lossless), video("lines", True)
        parts = {
            part: stack.enter_context(VideoWriter(work / "masks" / f"{part}.mp4", fps=float(fps), lossless=True))
            for part in masks
        }
        exact = stack.enter_context(_TruthWriter(work / STREAMS["truth"])) if truth else None
        for number, frame in enumerate(clip.frames(motion=truth)):
            colors.write(frame.rgb)
            lines.write(_gray(frame.ink))
            for part, shown in masks.items():
                parts[part].write(_gray(shown[frame.regions]))
            if exact is not None:
                exact.write(number, frame)
            captions.append(frame.caption)
            actions.append(frame.action)
            if progress is not None:
                progress(number + 1)
    spoken = segments(captions)
    _write_lines(work / STREAMS["captions"], map(asdict, spoken))
    _write_lines(work / STREAMS["actions"], map(asdict, segments(actions)))
    x, depth, zoom = clip.cameras.T.tolist()
    write_json(work / STREAMS["cameras"], {"x": x, "depth": depth, "zoom": zoom})
    content = {
        "caption": main_caption(clip, spoken),
        "frames": len(clip),
        "fps": fps,
        "height": clip.height,
        "width": clip.width,
        "lossless": lossless,
        "truth": truth,
        "masks": list(masks),
        "places": [place.kind for place in clip.places],
        "characters": [asdict(character) for character in clip.characters],
        **about,
        "regions": [asdict(region) for region in clip.regions],
    }
    write_json(work / ABOUT, content)
    return content


def masks_of(clip: Clip) -> dict[str, np.ndarray]:
    """The masks that are stored: "character" and the named parts of the first character, each as (regions,) uint8, 255 or 0."""
    found: dict[str, np.ndarray] = {}
    own = [region for region in clip.regions if clip.characters and region.instance == 1]
    for name in ("character", *PARTS):
        numbers = [region.number for region in own if name in ("character", region.part)]
        if numbers:
            found[name] = np.zeros(len(clip.regions), np.uint8)
            found[name][numbers] = 255
    return found


def segments(texts: Iterable[str]) -> list[Segment]:
    """Texts, one per frame, as segments; equal neighbours become one."""
    found: list[Segment] = []
    for number, text in enumerate(texts):
        start = found.pop().start_frame if found and found[-1].text == text else number
        found.append(Segment(start, number + 1, text))
    return found


def main_caption(clip: Clip, captions: Iterable[Segment]) -> str:
    """The caption that is true for the most frames, of those that name the first character if there are any."""
    length: dict[str, int] = {}
    for segment in captions:
        length[segment.text] = length.get(segment.text, 0) + segment.end_frame - segment.start_frame
    named = [text for text in length if clip.characters and clip.characters[0].text() in text]
    return max(named or length, key=lambda text: length[text])


class _TruthWriter:
    """An .npz file whose arrays, one of each kind per frame, are written one after another."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> _TruthWriter:
        with writing(self.path):
            self._file = zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED, compresslevel=4)
        return self

    def write(self, number: int, frame: Frame) -> None:
        for name in NAMES:
            with writing(self.path), self._file.open(f"{name}/{number:06}.npy", "w") as entry:
                np.lib.format.write_array(entry, getattr(frame, name), allow_pickle=False)

    def __exit__(self, kind: object, *_: object) -> None:
        with writing(self.path) if kind is None else contextlib.suppress(OSError, ValueError):
            self._file.close()


def _gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _index_row(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What the index says about a clip."""
    keys = ("caption", "split", "seed", "take", "frames", "fps", "height", "width", "masks", "truth", "lossless")
    return {"folder": name, **{key: about.get(key) for key in keys}}


def _write_index(folder: Path, rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the index in the order of the clips; return its rows."""
    ordered = [rows[name] for name in sorted(rows)]
    _write_lines(folder / INDEX, ({key: row[key] for key in row if key != "skipped"} for row in ordered))
    return ordered


def _check_clip(path: Path, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of `clip.json` of an existing clip; it must have been made with these settings, if any are given."""
    if not (path / ABOUT).is_file():
        raise InputError(f"{path}: exists and is not a clip of the toy world; move it or choose another folder")
    if settings is None:
        return {}
    about = read_json(path / ABOUT)
    before = {"speed": 1.0, **(about.get("settings") or {})}  # folders from before there was a speed
    other = [key for key, value in settings.items() if before.get(key) != value]
    if other:
        key = other[0]
        raise InputError(
            f"{path}: was made with other settings ({key} was {before.get(key)!r}, not {settings[key]!r}); choose another"
            f" folder, or add --overwrite to replace all clips in this one"
        )
    return about


@contextlib.contextmanager
def _resumable(folder: Path, finished: int, overwrite: bool) -> Iterator[None]:
    """Say in errors and after Ctrl-C what is kept, and how to resume."""
    try:
        yield
    except (KeyboardInterrupt, VisionZooError) as error:
        if not finished:
            raise
        kept = f"{counted(finished, 'clip')} {'is' if finished == 1 else 'are'} kept in {folder}"
        how = RESUME + (", without --overwrite" if overwrite else "")
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {kept}: {how}") from None
        raise type(error)(resumable(error, kept, how)) from error


__all__ = ["ClipSettings", "main_caption", "masks_of", "segments", "write_clip", "write_clips"]
