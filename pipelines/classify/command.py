"""`visionzoo classify`: what pictures show."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from visionzoo.console import emit, note, printable

if TYPE_CHECKING:
    from .pipeline import ClassificationResult

EXAMPLES = """Examples:

visionzoo classify photo.jpg

visionzoo classify PHOTOS --top 3 -o result.html

visionzoo classify PHOTOS --model shvit_s1 --features vectors.npz
"""
PARAMETERS = Group("Parameters", help=EXAMPLES)  # the command's own help is its line in the list of commands

app = App(name="classify", group_arguments=PARAMETERS, group_parameters=PARAMETERS)


@app.default
def classify(
    inputs: Annotated[list[Path], Parameter(help="Pictures: files, folders (searched through) or glob patterns.")],
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="Contact sheet (.html, .jpg, .png, .webp), table (.csv) or pooled vectors (.npz), each with the results as "
            ".json beside it; or .json alone.",
        ),
    ] = None,
    top: Annotated[
        int | None, Parameter(help="Classes to show of each picture; 5, and in the list of many one.")
    ] = None,
    model: Annotated[
        str | None, Parameter(help="A registered model (`visionzoo models --task classify`); shvit_s4 by default.")
    ] = None,
    checkpoint: Annotated[Path | None, Parameter(help="Weights instead of the published ones.")] = None,
    labels: Annotated[Path | None, Parameter(help="Names of the classes: one a line, or a JSON list.")] = None,
    image_size: Annotated[int | None, Parameter(help="Side of the network's input in pixels.")] = None,
    batch_size: Annotated[int, Parameter(help="Pictures that go through the network at once.")] = 32,
    features: Annotated[Path | None, Parameter(help="Also write pooled vectors to this .npz file.")] = None,
    device: Annotated[str, Parameter(help="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Parameter(help="What the network computes in.")
    ] = "auto",
    compile: Annotated[
        bool,
        Parameter(
            negative="", help="Compile the network first (half a minute; kept for the next time): it runs faster."
        ),
    ] = False,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace existing output files.")] = False,
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress bar and no notes.")
    ] = False,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print the results as JSON on standard output.")
    ] = False,
) -> None:
    """Say what pictures show: the most probable classes, with their probabilities."""
    from tqdm import tqdm

    from visionzoo.io.image import list_images

    from .pipeline import ClassifyPipeline

    files = list_images(inputs)  # a wrong name is said before weights are loaded
    pipe = ClassifyPipeline.create(model, device, dtype, checkpoint, image_size, labels, compile)
    tables = len(files) == 1 or top is not None
    paths = [path for path in (output, features) if path is not None]
    written = list(dict.fromkeys([*paths, *(path.with_suffix(".json") for path in paths[:1])]))
    started = time.time()

    def show(result: ClassificationResult) -> None:
        lines = table(result, title=len(files) > 1) if tables else [line(result)]
        tqdm.write("\n".join(lines))  # which keeps clear of the progress bar
        sys.stdout.flush()

    try:
        results = pipe.run(
            files, output, progress=not quiet, top=5 if top is None else top, batch_size=batch_size, features=features,
            overwrite=overwrite, on_result=None if json else show,
        )  # fmt: skip
    except KeyboardInterrupt:
        whole = [str(path) for path in written if path.exists() and path.stat().st_mtime >= started]
        left = f"written, and whole: {', '.join(whole)}" if whole else "no file was written"
        raise InterruptedClassifying(f"interrupted; {left}; run the same command again to start over") from None
    if json:
        emit([result.to_dict() for result in results])
    if written:
        note(f"written: {', '.join(map(str, written))}", quiet=quiet or json)


class InterruptedClassifying(KeyboardInterrupt):
    """Ctrl-C with a message on what is left."""


def line(result: ClassificationResult) -> str:
    """One picture of many: its best class."""
    best = result.predictions[0]
    return f"{best.probability:>6.1%}  {printable(best.label):<28}  {printable(result.source)}"


def table(result: ClassificationResult, *, title: bool, width: int = 24) -> list[str]:
    """A picture's classes with bars, below its name if `title`."""
    rows = [printable(result.source)] if title else []
    for p in result.predictions:
        rows.append(f"{p.rank:>4}  {p.probability:>6.1%}  {bar(p.probability, width):<{width}}  {printable(p.label)}")
    return rows


def bar(share: float, width: int) -> str:
    """A bar of at most `width` characters, in eighths of one where the terminal has such."""
    eighths = round(share * width * 8)
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#" * (eighths // 8)
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


__all__ = ["app"]
