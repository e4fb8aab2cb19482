"""Haze removal of files: pictures of any size, whole folders, videos; finished outputs are not made again."""

from __future__ import annotations

import errno
import glob
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from visionzoo.errors import InputError
from visionzoo.io.extensions import IMAGES, RASTERS_WRITTEN, VIDEOS, VIDEOS_WRITTEN, extension, is_video
from visionzoo.io.files import check_output, record, write_json
from visionzoo.io.image import list_images
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.io.video import VideoWriter, probe, read_frames

from ...models.dehazexl.rasters import check_limits
from ...models.dehazexl.streaming import StreamOptions
from .pipeline import DehazedFile, DehazePipeline, check_target, tile_bar


def find_inputs(sources: str | Path | Sequence[str | Path], path_out: Path | None = None) -> list[tuple[Path, Path]]:
    """Pictures and videos named by paths, folders and glob patterns, each with its place below what named it.

    Args:
        path_out: what is in this folder within a folder that is searched are outputs of before, not inputs.

    Raises:
        InputError: a source does not exist or names nothing.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for source in [sources] if isinstance(sources, (str, Path)) else sources:
        path = Path(source)
        if path.exists() and not (path.is_dir() and path.suffix.lower() != ".zarr"):
            found.setdefault(os.path.abspath(path), (path, Path(path.name)))
            continue
        if path.is_dir():
            base, files = path, _in_folder(path)
        elif glob.has_magic(str(source)):
            base, files = _matches(str(source))
        else:
            raise InputError(f"{source}: no such file or folder")
        if path_out is not None and _strictly_below(path_out, base):
            files = [file for file in files if not _strictly_below(file, path_out)]
        if not files:
            raise InputError(
                f"{source}: no pictures or videos found; expected files ending in .jpg, .png, .tif, .mp4, …"
            )
        for file in files:
            found.setdefault(os.path.abspath(file), (file, file.relative_to(base)))
    if not found:
        raise InputError("the list of inputs is empty")
    return list(found.values())


def _in_folder(folder: Path) -> list[Path]:
    """Pictures and videos at any depth, without hidden ones."""
    try:
        pictures = list_images(folder)
    except InputError:  # none
        pictures = []
    clips = [file for file in folder.rglob("*") if is_video(file) and file.is_file()]
    shown = [file for file in clips if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return [*pictures, *sorted(shown)]


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    """The folder above the first wildcard, and the pictures and videos that match."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    hits = [Path(hit) for hit in sorted(glob.glob(pattern, recursive=True))]
    return Path(*parts[:fixed]), [
        hit
        for hit in hits
        if extension(hit) in IMAGES | VIDEOS | {*RASTERS_WRITTEN} and hit.is_dir() == (hit.suffix.lower() == ".zarr")
    ]


def _strictly_below(path: Path, folder: Path) -> bool:
    inner, outer = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return inner != outer and inner.is_relative_to(outer)


@dataclass(frozen=True)
class FileJob:
    """Dehazes files with a pipeline.

    Attributes:
        stream: memory and blending, see `StreamOptions`; None leaves all to the pipeline.
        bands, limits: of pictures, see `visionzoo.models.dehazexl.rasters.RasterPicture`.
        smooth: of videos, in [0, 1): how much of the brightness and colour that are added to a frame come from the frames before.
        format: ending of pictures in an output folder, e.g. ".png"; None keeps the input's where it can be written, else ".png"
            (videos: ".mp4").
        overwrite: make existing outputs anew.
        on_result: called with each file's result.
    """

    pipe: DehazePipeline
    stream: StreamOptions | None = None
    bands: tuple[int, ...] | None = None
    limits: tuple[float, float] | None = None
    smooth: float = 0.0
    format: str | None = None
    overwrite: bool = False
    on_result: Callable[[DehazedFile], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.smooth < 1:
            raise InputError(f"smooth is at least 0 and below 1, got {self.smooth:g}")
        if self.limits is not None:
            check_limits(self.limits)
        ending_of(self.format)

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
        single = len(todo) == 1 and todo[0][1] == path_out
        if not single:
            make_folder(path_out)
        results: list[DehazedFile] = []
        with tqdm(
            total=len(todo), desc="files", unit="file", disable=None if progress and len(todo) > 1 else True
        ) as bar:
            for source, target in todo:
                results.append(self.one(source, target, strict=single, progress=progress))
                bar.update()
                if self.on_result is not None:
                    self.on_result(results[-1])
        if all(result.error for result in results):
            raise InputError(f"none of {len(results)} files could be dehazed, e.g. {results[0].error}")
        return results

    def one(self, source: Path, target: Path, *, strict: bool = False, progress: bool = False) -> DehazedFile:
        """One file of a folder: left alone if its output is there; what goes wrong is warned of and noted in the result.

        Args:
            strict: the only file: an output that is there, and whatever goes wrong, is an error.
        """
        if not strict and target.exists() and not self.overwrite:
            return DehazedFile(str(source), str(target))
        if not strict:
            make_folder(target.parent)
        try:
            with tile_bar(source.name, progress) as show:
                return self.video(source, target, show) if is_video(source) else self.picture(source, target, show)
        except InputError as error:
            if strict or disk_is_full(error):
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
                image = to_float(frame.pixels).contiguous()
                clear = self.pipe.restore_tensor(image, self.stream)
                writer.write(to_uint8(smoother(image, clear)))
                show("decode", writer.frames, max(info.frames, writer.frames))
        seconds = round(time.monotonic() - started, 3)
        result = DehazedFile(str(source), str(target), info.width, info.height, writer.frames, seconds)
        write_json(f"{target}.json", {"result": result.to_dict(), **record({**self.pipe.facts(), **self.facts()})})
        return result

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        return {
            "blend": self.pipe.settled(self.stream).blend,
            "smooth": self.smooth,
            "bands": self.bands,
            "limits": self.limits,
        }


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
        InputError: several inputs and an output that is a file's name, an ending that cannot be written, an output that is
            an input, or two inputs that would become one output.
    """
    chosen, inputs = ending_of(format), find_inputs(path_in, path_out)
    ending = path_out.suffix.lower()
    named_file = ending in (*RASTERS_WRITTEN, *VIDEOS_WRITTEN) and not (path_out.is_dir() and ending != ".zarr")
    if len(inputs) == 1 and named_file:
        source = inputs[0][0]
        if is_video(source) != is_video(path_out):
            raise InputError(
                f"{path_out}: {source} is a {'video' if is_video(source) else 'picture'}; choose an output of its kind"
            )
        targets = {path_out: source}
    else:
        if named_file or (ending in IMAGES | VIDEOS and len(inputs) > 1 and not path_out.is_dir()):
            raise InputError(f"{path_out}: several inputs need a folder as the output; leave the ending away")
        if ending and len(inputs) == 1 and inputs[0][1] == Path(inputs[0][0].name) and not path_out.is_dir():
            raise InputError(
                f"{path_out}: unknown ending {ending}; pictures are written as {', '.join(RASTERS_WRITTEN)}, videos as "
                f"{', '.join(VIDEOS_WRITTEN)}; if it is to be a folder, make it first"
            )
        targets = {}
        for source, place in inputs:
            own = source.suffix
            if is_video(source):
                suffix = own if own.lower() in VIDEOS_WRITTEN else ".mp4"
            else:
                suffix = chosen or (own if own.lower() in RASTERS_WRITTEN else ".png")
            target = (path_out / place).with_suffix(suffix)
            if target in targets:
                raise InputError(
                    f"{source} and {targets[target]} would both become {target}; dehaze one of them to another folder"
                )
            targets[target] = source
    for target, source in targets.items():
        if os.path.abspath(target) == os.path.abspath(source):
            raise InputError(f"{target}: is the input itself, which is never replaced; choose another output")
    return [(source, target) for target, source in targets.items()]


def ending_of(format: str | None) -> str | None:
    """ "PNG" or ".png" -> ".png". Raises `InputError` unless pictures can be written so."""
    if format is None:
        return None
    ending = f".{format.lower().removeprefix('.')}"
    if ending not in RASTERS_WRITTEN:
        raise InputError(f"pictures are written as {', '.join(RASTERS_WRITTEN)}; got {format}")
    return ending


def check_outputs(todo: Sequence[tuple[Path, Path]], path_out: Path, overwrite: bool) -> None:
    """Raise `InputError` where a single output may not be written, or the folder for several cannot be one."""
    if len(todo) == 1 and todo[0][1] == path_out:
        check_target(path_out, overwrite)
    elif path_out.exists() and not path_out.is_dir():
        raise InputError(f"{path_out}: is a file, expected a folder for the outputs; choose another name")


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error comes from a full disk: no other file would fit either."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def make_folder(path: Path) -> None:
    """Make a folder for outputs. Raises `InputError` if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder ({error.strerror})") from error


__all__ = ["FileJob", "Smoother", "find_inputs", "plan"]
