"""`visionzoo classify`: what images show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from visionzoo import options
from visionzoo.console import emit, note, printable
from visionzoo.options import Device, Dtype, Engine, Json, Overwrite, Quiet

if TYPE_CHECKING:
    from .results import ClassificationResult

app = options.command_app(
    "classify",
    [
        "visionzoo classify photo.jpg",
        "visionzoo classify PHOTOS --top 3 -o result.html",
        "visionzoo classify PHOTOS --model shvit_s1 --features vectors.npz",
    ],
)


@app.default
def classify(
    inputs: Annotated[list[Path], options.inputs("Images: files, folders (searched recursively) or glob patterns.")],
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="Contact sheet (.html, .jpg, .png, .webp), table (.csv), pooled vectors (.npz), or .json. The results are "
            "also written to OUTPUT.json.",
        ),
    ] = None,
    top: Annotated[
        int | None, Parameter(help="Number of classes to show for each image; by default 5, or 1 in a list of many.")
    ] = None,
    model: Annotated[
        str | None, Parameter(help="Registered model (`visionzoo models --task classify`); shvit_s4 by default.")
    ] = None,
    checkpoint: Annotated[Path | None, Parameter(help="Weights file to use instead of the published weights.")] = None,
    labels: Annotated[
        Path | None, Parameter(help="File with the names of the classes: one per line, or a JSON list.")
    ] = None,
    image_size: Annotated[int | None, Parameter(help="Side of the network's input in pixels.")] = None,
    batch_size: Annotated[int, Parameter(help="Number of images that go through the network together.")] = 32,
    features: Annotated[Path | None, Parameter(help="Also write pooled vectors to this .npz file.")] = None,
    runtime: Annotated[
        Literal["torch", "compiled", "onnxruntime"],
        Parameter(
            help="What runs the network; compiled and onnxruntime are prepared once (half a minute) and are faster on a CPU."
        ),
    ] = "torch",
    compile: Annotated[
        bool,
        Parameter(
            negative="",
            help="Compile the network first, which takes half a minute and is kept for the next time: it then runs faster.",
        ),
    ] = False,
    engine: Engine = "local",
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say what images show: the most probable classes, with their probabilities."""
    from tqdm import tqdm

    from visionzoo.io.extensions import IMAGES
    from visionzoo.io.find import find_inputs
    from visionzoo.jobs import SomeFailed, sidecar

    from .pipeline import ClassifyPipeline
    from .results import check_outputs

    count = len(find_inputs(inputs, IMAGES))  # arguments are checked before weights are loaded
    check_outputs(output, features, overwrite)
    pipe = ClassifyPipeline.create(model, device, dtype, checkpoint, image_size, labels, compile, runtime)
    tables = count == 1 or top is not None

    def show(result: ClassificationResult) -> None:
        lines = table(result, title=count > 1) if tables else [line(result)]
        tqdm.write("\n".join(lines))  # which keeps clear of the progress bar
        sys.stdout.flush()

    results = pipe.run(
        inputs, output, progress=not quiet, top=5 if top is None else top, batch_size=batch_size, features=features,
        overwrite=overwrite, engine=engine, on_result=None if json else show,
    )  # fmt: skip
    if json:
        emit([result.to_dict() for result in results])
    outputs = [path for path in (output, features) if path is not None]
    if outputs:
        written = dict.fromkeys([*outputs, sidecar(outputs[0])])
        note(f"written: {', '.join(map(str, written))}", quiet=quiet or json)
    failed = sum(result.error is not None for result in results)
    if failed:
        raise SomeFailed(f"{failed} of {count} images could not be read; the warnings above say why")


def line(result: ClassificationResult) -> str:
    """One image of many: its best class."""
    best = result.predictions[0]
    return f"{best.probability:>6.1%}  {printable(best.label):<28}  {printable(result.source)}"


def table(result: ClassificationResult, *, title: bool, width: int = 24) -> list[str]:
    """An image's classes with bars, below its name if `title`."""
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
