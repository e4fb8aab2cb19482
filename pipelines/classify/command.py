"""`visionzoo classify`: the classes of images and videos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from visionzoo import options
from visionzoo.console import counted, emit, note, printable
from visionzoo.errors import InputError
from visionzoo.options import MODEL, OUTPUT, SPEED, Checkpoint, Processing

if TYPE_CHECKING:
    from .results import ClassificationResult

DEFAULT = (
    "by default shvit_s4 if its weights are in the cache, else efficientnet_lite0, whose weights come with visionzoo"
)

app = options.command_app(
    "classify",
    [
        "visionzoo classify photo.jpg",
        "visionzoo classify PHOTOS --top 3 -o result.html",
        "visionzoo classify PHOTOS --model shvit_s1 --features vectors.npz",
        "visionzoo classify clip.mp4 --every 5 -o clip.html",
    ],
)


@app.default
def classify(
    inputs: Annotated[
        list[Path],
        options.inputs(
            "Images and videos: files, folders (searched recursively), glob patterns, or - for standard input."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        options.output(
            "Contact sheet (.html, .jpg, .png, .webp), table (.csv), pooled vectors (.npz), or .json. The results are "
            "also written to OUTPUT.json."
        ),
    ] = None,
    top: Annotated[
        int | None,
        options.option(OUTPUT, "Number of classes to show for each image; by default 5, or 1 for several images."),
    ] = None,
    model: Annotated[str | None, options.model("classify", DEFAULT)] = None,
    checkpoint: Checkpoint = None,
    labels: Annotated[
        Path | None,
        options.option(MODEL, "File with the names of the classes: one per line, or a JSON list."),
    ] = None,
    image_size: Annotated[int | None, options.option(MODEL, "Side of the network's input in pixels.")] = None,
    batch_size: Annotated[int, options.option(SPEED, "Number of images that go through the network together.")] = 32,
    every: Annotated[float, options.option(MODEL, "Seconds between two frames of a video.")] = 1.0,
    features: Annotated[Path | None, options.option(OUTPUT, "Also write pooled vectors to this .npz file.")] = None,
    runtime: Annotated[
        Literal["torch", "compiled", "onnxruntime"],
        options.option(
            SPEED,
            "What runs the network; compiled and onnxruntime are faster on a CPU, after half a minute of preparation once.",
        ),
    ] = "torch",
    compile: Annotated[
        bool,
        options.option(
            SPEED,
            "Compile the network so that it runs faster; this takes half a minute, and the result is kept for later runs.",
        ),
    ] = False,
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Show the most probable classes of images and videos, with their probabilities."""
    from tqdm import tqdm

    from visionzoo.io.extensions import is_video
    from visionzoo.jobs import Kind, SomeFailed, refuse_inputs, saved_to, sidecar, standard_input

    from .files import KINDS, check_readable, find_files
    from .results import check_outputs

    with standard_input(inputs, Kind("image or video", KINDS, "image", (), "")) as sources:
        found = find_files(sources)  # before torch and the weights are loaded
        check_outputs(output, features, processing.overwrite)
        outputs = [path for path in (output, features) if path is not None]
        refuse_inputs(outputs, found)
        if top is not None and top < 1:
            raise InputError(f"--top must be at least 1, got {top}")
        if batch_size < 1:
            raise InputError(f"--batch-size must be at least 1, got {batch_size}")
        if not 0.001 <= every < float("inf"):
            raise InputError(f"--every must be at least 0.001 seconds, got {every:g}")
        check_readable(found)

        from .pipeline import ClassifyPipeline

        if model is None and checkpoint is None:
            note(ClassifyPipeline.about_default(), quiet=processing.silent)
        pipe = ClassifyPipeline.create(
            model, processing.device, processing.dtype, checkpoint, image_size=image_size, labels=labels,
            compile=compile, runtime=runtime,
        )  # fmt: skip
        tables = len(found) == 1 or top is not None

        def show(result: ClassificationResult) -> None:
            lines = table(result, title=len(found) > 1) if tables else [line(result)]
            if len(found) == 1:
                lines = [*timeline(result), *lines]
            tqdm.write("\n".join(lines))  # which does not disturb the progress bar
            sys.stdout.flush()

        results = pipe.run(
            sources, output, progress=not processing.quiet, top=5 if top is None else top, batch_size=batch_size,
            every=every, features=features, overwrite=processing.overwrite, engine=processing.engine,
            on_result=None if processing.json else show,
        )  # fmt: skip
    if processing.json:
        emit([result.to_dict() for result in results])
    if outputs:
        note(saved_to(*dict.fromkeys([*outputs, sidecar(outputs[0])])), quiet=processing.silent)
    failed = sum(result.error is not None for result in results)
    if failed:
        what = "file" if any(map(is_video, found)) else "image"
        raise SomeFailed(f"{failed} of {counted(len(results), what)} could not be read; the warnings above say why")


def line(result: ClassificationResult) -> str:
    """The line for one of several images: its best class."""
    best = result.predictions[0]
    return f"{best.probability:>6.1%}  {printable(best.label):<28}  {printable(result.source)}"


def timeline(result: ClassificationResult) -> list[str]:
    """The best class of each frame of a video, and a line that introduces their mean; empty for an image."""
    from .frames import clock

    times = [clock(frame.time) for frame in result.frames]
    width = max(map(len, times), default=0)
    rows = [
        f"{time:>{width}}  {frame.predictions[0].probability:>6.1%}  {printable(frame.predictions[0].label)}"
        for time, frame in zip(times, result.frames, strict=True)
    ]
    return [*rows, "", f"mean of {len(rows)} frames:" if len(rows) > 1 else "one frame:"] if rows else []


def table(result: ClassificationResult, *, title: bool, width: int = 24) -> list[str]:
    """An image's classes with bars, below its name if `title`."""
    rows = [printable(result.source)] if title else []
    for p in result.predictions:
        rows.append(f"{p.rank:>4}  {p.probability:>6.1%}  {bar(p.probability, width):<{width}}  {printable(p.label)}")
    return rows


def bar(share: float, width: int) -> str:
    """A bar of at most `width` characters, in eighths of a character if the terminal has them."""
    eighths = round(share * width * 8)
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#" * (eighths // 8)
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


__all__ = ["app"]
