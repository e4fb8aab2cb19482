"""The results of the classification page: classes as bars, next to the part of the image that the network sees; frames of videos."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Tile, thumbnail
from visionzoo.io.image import load_image
from visionzoo.preprocess import Preprocess

from ..pipelines.classify.frames import clock, count_shots
from ..pipelines.classify.pipeline import ClassifyPipeline
from ..pipelines.classify.results import ClassificationResult, FrameClasses, Prediction
from ..pipelines.classify.results import table as table_of
from .page import Work, summary
from .uploads import IMAGE, VIDEO, checked_path, name_of, names_of
from .words import duration, explain, image_tag, plain

MAX_IMAGES = 60
"""Largest number of images at once; the command has no limit."""
MAX_FRAMES = 300
"""Largest number of frames of a video that are classified."""


@dataclass(frozen=True)
class Seen:
    """The result for one image.

    Attributes:
        image: (H, W, 3) uint8, all of it.
        crop: (size, size, 3) uint8, the part that the network sees.
        box: (x0, y0, x1, y1), position of the crop in the image.
        read_s, network_s: seconds that decoding and the network took.
    """

    image: np.ndarray
    crop: np.ndarray
    box: tuple[float, float, float, float]
    result: ClassificationResult
    read_s: float
    network_s: float

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        return self.result.predictions


def see(pipe: ClassifyPipeline, upload: Any, count: int) -> Seen:
    """Classify an upload. Raises `InputError` if it cannot be used."""
    started = time.perf_counter()
    image = load_image(checked_path(upload, IMAGE))
    read = time.perf_counter()
    result = pipe(image, top=count)
    done = time.perf_counter()
    assert isinstance(result, ClassificationResult)
    height, width = image.shape[:2]
    return Seen(
        image,
        pipe.preprocess.resize(image),
        crop_box(pipe.preprocess, width, height),
        replace(result, source=name_of(upload)),
        read - started,
        done - read,
    )


def crop_box(preprocess: Preprocess, width: int, height: int) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) in pixels of the square in the middle that `preprocess` keeps of an image of this size."""
    side = min(width, height) * preprocess.size / int(preprocess.size / preprocess.crop)
    x0, y0 = (width - side) / 2, (height - side) / 2
    return x0, y0, x0 + side, y0 + side


def see_all(
    pipe: ClassifyPipeline, uploads: Sequence[Any], count: int
) -> Iterator[tuple[str, Path | None, ClassificationResult]]:
    """(name, file, result) of each upload as it becomes ready, in order; `error` is set if there is no result.

    Raises:
        InputError: there are too many uploads.
    """
    if len(uploads) > MAX_IMAGES:
        raise InputError(f"at most {MAX_IMAGES} images at once, got {len(uploads)}; choose fewer")
    names = [name_of(upload) for upload in uploads]
    checked: list[Path | InputError] = []
    for upload in uploads:
        try:
            checked.append(checked_path(upload, IMAGE))
        except InputError as error:
            checked.append(error)
    results = pipe.classify([path for path in checked if isinstance(path, Path)], top=count, batch_size=8)
    for name, upload, path in zip(names, uploads, checked, strict=True):
        if isinstance(path, InputError):
            yield name, None, ClassificationResult(name, (), explain(path, names_of(upload)))
        else:
            result = next(results)
            error = None if result.error is None else explain(InputError(result.error), names_of(upload))
            yield name, path, ClassificationResult(name, result.predictions, error)


def watch(pipe: ClassifyPipeline, upload: Any, count: int, every: float, work: Work) -> ClassificationResult:
    """Classify a frame of an uploaded video every `every` seconds.

    Raises:
        InputError: it cannot be used, or has too many frames.
    """
    path = checked_path(upload, VIDEO)
    if (frames := count_shots(path, every)) > MAX_FRAMES:
        raise InputError(
            f"{path}: a frame every {every:g} s makes {frames:,} frames, but this page takes up to {MAX_FRAMES}; choose a longer time "
            "between frames, or cut the video first"
        )
    (result,) = pipe.classify([path], count, 8, every, lambda _, done, of: work.report("classifying frames", done, of))
    if result.error is not None:
        raise InputError(result.error)
    return replace(result, source=name_of(upload))


def table(results: Sequence[ClassificationResult]) -> str:
    """The results of readable images as CSV, with the columns of `visionzoo classify -o result.csv`, which spreadsheets open."""
    return table_of([result for result in results if result.error is None]).encode("utf-8", "replace").decode("utf-8")


def show(seen: Seen, pipe: ClassifyPipeline) -> str:
    """Classes as bars, and the image next to the part that the network sees, as HTML with embedded images."""
    best = seen.predictions[0]
    timing = (
        f"read in {duration(seen.read_s)}, classified in {duration(seen.network_s)} on {_device(pipe)} "
        f"by {plain(pipe.name)}"
    )
    height, width = seen.image.shape[:2]
    size = pipe.image_size
    whole = _image(
        thumbnail(Tile(seen.image, "", box=seen.box), 420),
        "the image, with a frame around the part that the network sees",
    )
    crop = _image(Image.fromarray(seen.crop), "what the network sees")
    return (
        f'<div class="vz-best"><strong>{plain(best.label)}</strong><span><b>{_percent(best.probability)}</b>, '
        f'{timing}</span></div><div class="vz-stages">'
        '<section class="vz-stage"><h2>Classes</h2>'
        f"<p>The best {len(seen.predictions)} of {len(pipe.classes):,}.</p>{_bars(seen.predictions)}</section>"
        '<section class="vz-stage"><h2>What the network sees</h2><p>The frame, reduced.</p><div class="vz-views">'
        f"<figure>{whole}<figcaption>{width} x {height} pixels</figcaption></figure>"
        f"<figure>{crop}<figcaption>{size} x {size} pixels</figcaption></figure></div></section></div>{_known(pipe)}"
    )


def show_all(
    found: Sequence[tuple[str, Path | None, ClassificationResult]], pipe: ClassifyPipeline, took_s: float
) -> str:
    """Each image with its best class, and a link to the table, as HTML with embedded images."""
    results = [result for *_, result in found]
    readable = sum(result.error is None for result in results)
    failed = len(results) - readable
    counted = f"{readable} {'image' if readable == 1 else 'images'}"
    problem = f", {failed} cannot be used" if failed else ""
    tiles = "".join(_tile(*one) for one in found)
    done = summary(f"{counted}{problem}", f"in {duration(took_s)} on {_device(pipe)}", f"by {pipe.name}")
    return f'{done}<ul class="vz-grid">{tiles}</ul>{_known(pipe)}'


def show_video(result: ClassificationResult, pipe: ClassifyPipeline, took_s: float) -> str:
    """The mean of the frames as bars, and each frame with its best class, as HTML with embedded images."""
    best = result.predictions[0]
    count = len(result.frames)
    frames = f"the mean of {count} frames, classified" if count > 1 else "one frame, classified"
    tiles = "".join(map(_frame, result.frames))
    return (
        f'<div class="vz-best"><strong>{plain(best.label)}</strong><span><b>{_percent(best.probability)}</b>, '
        f"{frames} in {duration(took_s)} on {_device(pipe)} by {plain(pipe.name)}</span></div>"
        '<div class="vz-stages"><section class="vz-stage"><h2>Classes</h2>'
        f"<p>The best {len(result.predictions)} of {len(pipe.classes):,}.</p>{_bars(result.predictions)}</section>"
        '<section class="vz-stage"><h2>Frames</h2><p>The best class of each.</p>'
        f'<ul class="vz-grid">{tiles}</ul></section></div>{_known(pipe)}'
    )


def _frame(frame: FrameClasses) -> str:
    best, time_s = frame.predictions[0], clock(frame.time)
    return (
        f'<li><div class="vz-frame">{_image(Image.open(io.BytesIO(frame.thumbnail)), f"the frame at {time_s}")}</div>'
        f'<div class="vz-line"><span class="vz-label">{plain(best.label)}</span>'
        f'<span class="vz-score">{_percent(best.probability)}</span></div>{_track(best.probability)}'
        f'<div class="vz-name">{time_s}</div></li>'
    )


def _bars(predictions: Sequence[Prediction]) -> str:
    rows = []
    for prediction in predictions:
        mark = ' class="vz-first"' if prediction.rank == 1 else ""
        rows.append(
            f'<li{mark}><span class="vz-label">{plain(prediction.label)}</span>'
            f'<span class="vz-share">{_percent(prediction.probability)}</span>{_track(prediction.probability)}</li>'
        )
    return f'<ol class="vz-bars">{"".join(rows)}</ol>'


def _tile(name: str, path: Path | None, result: ClassificationResult) -> str:
    caption = f'<div class="vz-name" title="{plain(name)}">{plain(name)}</div>'
    if result.error is not None:
        return f'<li class="vz-bad"><div class="vz-frame"><em>{plain(result.error)}</em></div>{caption}</li>'
    best = result.predictions[0]
    return (
        f'<li><div class="vz-frame">{_image(path and thumbnail(Tile(path, ""), 260), name)}</div>'
        f'<div class="vz-line"><span class="vz-label">{plain(best.label)}</span>'
        f'<span class="vz-score">{_percent(best.probability)}</span></div>{_track(best.probability)}{caption}</li>'
    )


def _device(pipe: ClassifyPipeline) -> str:
    return "the CPU" if pipe.device.type == "cpu" else "the GPU"


def _track(share: float) -> str:
    return f'<span class="vz-track"><i style="width:{share:.2%}"></i></span>'


def _known(pipe: ClassifyPipeline) -> str:
    names = ", ".join(plain(name) for name in pipe.classes)
    return (
        f'<details class="vz-known"><summary>The {len(pipe.classes):,} classes that it knows</summary>'
        f"<p>{names}</p></details>"
    )


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "< 0.1%"


def _image(image: Image.Image | None, label: str) -> str:
    return "<em>the upload no longer exists</em>" if image is None else image_tag(image, label)


__all__ = ["MAX_IMAGES", "Seen", "crop_box", "see", "see_all", "show", "show_all", "table"]
