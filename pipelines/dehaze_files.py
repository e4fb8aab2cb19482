"""Haze removal of files: pictures of any size, whole folders, videos; finished outputs are not made again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from visionzoo.errors import InputError
from visionzoo.io.files import check_output, record, write_json
from visionzoo.io.image import list_images
from visionzoo.io.video import probe, read_frames

from ..models.dehazexl.streaming import StreamOptions
from .dehaze import DehazedFile, DehazePipeline, tile_bar, to_uint8

VIDEOS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})
WRITTEN = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp", ".zarr", ".npy")
"""Endings of pictures that can be written."""


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def find_inputs(sources: str | Path | Sequence[str | Path]) -> list[tuple[Path, Path]]:
    """Pictures and videos named by paths, folders and glob patterns, each with its place below what named it.

    Raises:
        InputError: a source does not exist, or nothing was found.
    """
    found: dict[Path, Path] = {}
    for source in [sources] if isinstance(sources, (str, Path)) else sources:
        path = Path(source)
        if path.is_dir() and path.suffix.lower() != ".zarr":
            clips = sorted(file for file in path.rglob("*") if file.is_file() and is_video(file))
            try:
                files = list_images(path)
            except InputError:
                if not clips:
                    raise
                files = []
            found.update((file, file.relative_to(path)) for file in [*files, *clips])
        elif path.exists():
            found[path] = Path(path.name)
        else:
            hits = [file for file in Path().glob(str(source)) if is_video(file)] if not path.is_absolute() else []
            files = hits or list_images(source)
            found.update((file, Path(file.name)) for file in files)
    if not found:
        raise InputError(f"{sources}: no pictures or videos found")
    return list(found.items())


@dataclass(frozen=True)
class FileJob:
    """Dehazes files with a pipeline.

    Attributes:
        stream: memory and blending, see `StreamOptions`.
        bands, limits: of pictures, see `visionzoo.models.dehazexl.rasters.RasterPicture`.
        smooth: of videos, in [0, 1): how much of the brightness and colour that are added to a frame come from the frames before.
        format: ending of outputs in a folder, e.g. ".png"; None keeps the input's where it can be written, else ".png".
        overwrite: make existing outputs anew.
        on_result: called with each file's result.
    """

    pipe: DehazePipeline
    stream: StreamOptions = field(default_factory=StreamOptions)
    bands: tuple[int, ...] | None = None
    limits: tuple[float, float] | None = None
    smooth: float = 0.0
    format: str | None = None
    overwrite: bool = False
    on_result: Callable[[DehazedFile], None] | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.smooth < 1:
            raise InputError(f"smooth is at least 0 and below 1, got {self.smooth:g}")
        if self.format is not None and self.format.lower() not in WRITTEN:
            raise InputError(f"pictures are written as {', '.join(WRITTEN)}; got {self.format}")

    def run(
        self, path_in: str | Path | Sequence[str | Path], path_out: Path, progress: bool = True
    ) -> list[DehazedFile]:
        """One file to a file, or several to a folder.

        In a folder, outputs that are there already are left alone (unless `overwrite`); inputs that cannot be read are warned
        of and passed over.

        Raises:
            InputError: nothing found, none of several readable, or the output cannot be written.
        """
        todo = plan(path_in, path_out, self.format)
        single = len(todo) == 1 and not path_out.is_dir() and todo[0][1] == path_out
        if not single:
            make_folder(path_out)
        results: list[DehazedFile] = []
        with tqdm(
            total=len(todo), desc="files", unit="file", disable=None if progress and len(todo) > 1 else True
        ) as bar:
            for source, target in todo:
                results.append(self._file(source, target, single, progress))
                bar.update()
                if self.on_result is not None:
                    self.on_result(results[-1])
        if all(result.error for result in results):
            raise InputError(
                results[0].error if len(results) == 1 else f"none of {len(results)} files could be dehazed"
            )
        return results

    def _file(self, source: Path, target: Path, single: bool, progress: bool) -> DehazedFile:
        if not single and target.exists() and not self.overwrite:
            return DehazedFile(str(source), str(target))
        if not single:
            make_folder(target.parent)
        try:
            with tile_bar(source.name, progress) as show:
                return self.video(source, target, show) if is_video(source) else self.picture(source, target, show)
        except InputError as error:
            if single:
                raise
            warnings.warn(str(error), stacklevel=2)
            return DehazedFile(str(source), error=str(error))

    def picture(self, source: Path, target: Path, show: Callable[[str, int, int], None]) -> DehazedFile:
        """Dehaze a picture file."""
        return self.pipe.raster(
            source,
            target,
            options=self.stream,
            bands=self.bands,
            limits=self.limits,
            overwrite=self.overwrite,
            progress=show,
            facts=self.facts(),
        )

    def video(self, source: Path, target: Path, show: Callable[[str, int, int], None]) -> DehazedFile:
        """Dehaze a video frame by frame; its sound is copied."""
        started = time.monotonic()
        check_output(target, overwrite=self.overwrite)
        info = probe(source)
        smoother = Smoother(self.smooth)
        with VideoWriter(target, fps=info.fps, audio_from=source, overwrite=self.overwrite) as writer:
            for frame in read_frames(source):
                image = torch.from_numpy(frame.pixels.transpose(2, 0, 1).copy()).float() / 255
                clear = self.pipe.restore_tensor(image, self.stream)
                writer.write(to_uint8(smoother(image, clear)))
                show("decode", writer.frames, max(info.frames, writer.frames))
        seconds = round(time.monotonic() - started, 3)
        result = DehazedFile(str(source), str(target), info.width, info.height, writer.frames, seconds)
        write_json(f"{target}.json", {"result": result.to_dict(), **record({**self.pipe.facts(), **self.facts()})})
        return result

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        given = {"blend": self.stream.blend, "smooth": self.smooth, "bands": self.bands, "limits": self.limits}
        return {**given, **(self.options or {})}


class Smoother:
    """Steadies a video: the coarse part of what is added to a frame follows the frames before.

    Haze changes slowly, but the network sees each frame anew, and so its brightness may flicker. Only the change's coarse part
    (over 32 x 32 pixels) is averaged in time, so nothing that moves leaves a trace; a cut in the film starts anew.
    """

    def __init__(self, amount: float, cell: int = 32, cut: float = 0.15):
        self.amount, self.cell, self.cut = amount, cell, cut
        self._held: Tensor | None = None
        self._seen: Tensor | None = None

    def __call__(self, hazy: Tensor, clear: Tensor) -> Tensor:
        """(3, H, W) the frame and what the network made of it -> the steadied result."""
        if not self.amount:
            return clear
        size = (max(1, hazy.shape[1] // self.cell), max(1, hazy.shape[2] // self.cell))
        coarse = F.adaptive_avg_pool2d((clear - hazy)[None], size)
        view = F.adaptive_avg_pool2d(hazy[None], size)
        if self._held is None or self._seen is None or (view - self._seen).abs().mean() > self.cut:
            self._held = coarse
        self._held = self.amount * self._held + (1 - self.amount) * coarse
        self._seen = view
        move = F.interpolate(self._held - coarse, size=hazy.shape[1:], mode="bilinear", align_corners=False)
        return clear + move[0]


def plan(
    path_in: str | Path | Sequence[str | Path], path_out: Path, format: str | None = None
) -> list[tuple[Path, Path]]:
    """Inputs and the outputs that they become.

    Raises:
        InputError: several inputs and an output that is a file's name, or two inputs that would become one output.
    """
    inputs = find_inputs(path_in)
    named_file = path_out.suffix.lower() in WRITTEN or is_video(path_out)
    if len(inputs) == 1 and named_file and not (path_out.is_dir() and path_out.suffix.lower() != ".zarr"):
        source = inputs[0][0]
        if is_video(source) != is_video(path_out):
            raise InputError(
                f"{path_out}: {source} is a {'video' if is_video(source) else 'picture'}; choose an output of its kind"
            )
        return [(source, path_out)]
    if named_file and not path_out.is_dir():
        raise InputError(f"{path_out}: several inputs need a folder as the output; leave the ending away")
    targets: dict[Path, Path] = {}
    for source, place in inputs:
        ending = source.suffix.lower()
        if not is_video(source):
            ending = format or (ending if ending in WRITTEN else ".png")
        target = (path_out / place).with_suffix(ending if format or ending != source.suffix.lower() else source.suffix)
        if target in targets:
            raise InputError(
                f"{source} and {targets[target]} would both become {target}; dehaze them one after the other"
            )
        targets[target] = source
    return [(source, target) for target, source in targets.items()]


def check_outputs(todo: Sequence[tuple[Path, Path]], path_out: Path, overwrite: bool) -> None:
    """Raise `InputError` where a single output may not be written."""
    if len(todo) == 1 and todo[0][1] == path_out:
        check_output(path_out, overwrite=overwrite)


def make_folder(path: Path) -> None:
    """Make a folder for outputs. Raises `InputError` if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder ({error.strerror})") from error


__all__ = ["FileJob", "Smoother", "find_inputs", "plan"]
