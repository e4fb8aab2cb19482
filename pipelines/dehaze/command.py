"""`visionzoo dehaze`: haze removal from images and videos, and attribution maps of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from visionzoo import options
from visionzoo.console import emit, note
from visionzoo.errors import InputError
from visionzoo.io.extensions import IMAGES_WRITTEN
from visionzoo.options import INPUT, MODEL, OUTPUT, SPEED, Checkpoint, Device, Overwrite, Processing, Reporting

EXAMPLE = "visionzoo dehaze hazy.jpg -o clear.jpg"
app = options.command_app(
    "dehaze",
    [
        "visionzoo dehaze samples -o hazy",
        EXAMPLE,
        "visionzoo dehaze survey.tif -o survey_clear.tif --dtype bfloat16",
        "visionzoo dehaze PHOTOS -o CLEAR",
        "visionzoo dehaze flight.mp4 -o clear.mp4 --smooth 0.8",
        "cat hazy.jpg | visionzoo dehaze - -o - > clear.jpg",
        "visionzoo dehaze attribute hazy.jpg --region 200,120,64,64 -o map.png",
    ],
    usage="visionzoo dehaze INPUTS -o OUTPUT [OPTIONS]",
)

MAPS_WRITTEN = (*IMAGES_WRITTEN, ".npz")
Model = Annotated[str | None, options.model("dehaze", "dehazexl_nano by default")]


@app.default
def dehaze(
    inputs: Annotated[
        list[Path],
        options.inputs(
            "Images and videos: files, folders (searched recursively), glob patterns, or - for an image from standard input. "
            "Without -o, the second of exactly two paths is the output if it does not exist yet."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        options.output(
            "File to write (.tif, .png, .jpg, .webp, .zarr, .npy; .mp4, .mkv, …), a folder for several inputs, or - for "
            "standard output."
        ),
    ] = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    blend: Annotated[
        bool | None,
        options.option(
            MODEL,
            "Hide the borders of the 256 x 256 tiles, which takes twice the time. The default depends on the model: "
            "dehazexl_nano blends.",
            negative="--no-blend",
        ),
    ] = None,
    smooth: Annotated[
        float,
        options.option(MODEL, "Videos: steady the brightness over time, from 0 (off) to below 1; 0.8 is strong."),
    ] = 0.0,
    bands: Annotated[
        str | None,
        options.option(
            INPUT, "Which bands are red, green and blue, counted from 1, e.g. 4,3,2; other bands stay unchanged."
        ),
    ] = None,
    limits: Annotated[
        str | None,
        options.option(
            INPUT, "Values of black and white in 16-bit and float images, e.g. 0,3000; by default they are estimated."
        ),
    ] = None,
    attention: Annotated[
        Literal["exact", "lsh"] | None,
        options.option(
            MODEL,
            "How tiles attend to each other; lsh is approximate, and faster above about 16,000 pixels a side.",
        ),
    ] = None,
    tiles: Annotated[
        int | None,
        options.option(SPEED, "Number of tiles that go through the network together; 4 on a CPU, else 8."),
    ] = None,
    skips: Annotated[
        Literal["auto", "recompute", "device", "host", "disk"],
        options.option(
            SPEED, "Where to keep the encoder's maps between the two passes; recompute computes them twice instead."
        ),
    ] = "auto",
    format: Annotated[
        str | None,
        options.option(OUTPUT, "Extension of images in the output folder, e.g. .png; by default the input's."),
    ] = None,
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Remove haze from images of any size and from videos."""
    from visionzoo.jobs import make_plan, run_and_report, split_output, standard_streams

    from .kinds import KINDS

    paths, where = split_output(inputs, output, EXAMPLE)
    chosen = None if bands is None else tuple(number - 1 for number in options.numbers("bands", bands, (1, 3)))
    if chosen and min(chosen) < 0:
        raise InputError(f"--bands must be counted from 1, got {bands}")
    scale = None if limits is None else options.numbers("limits", limits, (2,), float)
    extra = {} if attention is None else {"attention": attention}
    with standard_streams(paths, where, KINDS[0], format) as (sources, target):
        plan = make_plan(sources, target, KINDS, format)
        plan.check(processing.overwrite)  # before torch and the weights are loaded

        from ...models.dehazexl.placement import StreamOptions
        from .files import DehazeJob
        from .pipeline import DehazePipeline

        pipe = DehazePipeline.create(model, processing.device, processing.dtype, checkpoint, **extra)
        job = DehazeJob(
            pipe,
            stream=StreamOptions(tiles, skips, blend=blend),
            bands=chosen,
            limits=None if scale is None else (scale[0], scale[1]),
            smooth=smooth,
        )
        run_and_report(job, plan, processing, where=where)


@options.subcommand(app)
def attribute(
    image: Annotated[Path, options.inputs("The hazy image.")],
    /,
    *,
    region: Annotated[str, options.option(INPUT, "Window of the result to explain: left,top,width,height in pixels.")],
    output: Annotated[Path, options.output("File for the map: .png, .jpg or .webp; or .npz for its values.")],
    clear: Annotated[
        Path | None,
        options.option(INPUT, "The same view without haze; by default the network's own result is used instead."),
    ] = None,
    steps: Annotated[
        int,
        options.option(MODEL, "Number of points on the line from clear to hazy; more points are more accurate."),
    ] = 20,
    derivative: Annotated[
        Literal["exact", "official"],
        options.option(
            MODEL,
            "What the gradient is multiplied by: hazy - clear (exact), or 2 hazy - clear as in the published code.",
        ),
    ] = "exact",
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Show which pixels of a hazy image a window of the clear result depends on (a dehazing attribution map).

    Example: visionzoo dehaze attribute hazy.jpg --region 200,120,64,64 -o map.png
    """
    from visionzoo.io.head import read_head
    from visionzoo.jobs import check_result, refuse_inputs, saved_to, sidecar

    left, top, width, height = options.numbers("region", region, (4,))
    if steps < 1:
        raise InputError(f"--steps must be at least 1, got {steps}")
    for path in [image] if clear is None else [image, clear]:
        read_head(path, "an image file")  # before torch and the weights are loaded
    check_result(output, overwrite=overwrite)
    refuse_inputs([output], [image] if clear is None else [image, clear])
    if output.suffix.lower() not in MAPS_WRITTEN:
        raise InputError(f"{output}: a map is written as {', '.join(MAPS_WRITTEN)}")

    from .attribution import attribute_file
    from .pipeline import DehazePipeline

    pipe = DehazePipeline.create(model, device, "float32", checkpoint)
    facts = attribute_file(
        pipe,
        image,
        output,
        (top, left, height, width),
        clear,
        steps,
        derivative,
        overwrite=overwrite,
        progress=not reporting.quiet,
    )
    if reporting.json:
        emit(facts)
    note(saved_to(output, sidecar(output)), quiet=reporting.silent)


options.samples_command(
    app,
    "dehaze",
    f"{__package__}.samples:write_samples",
    folder="hazy",
    help="Write hazy images to try: a photo of a hazy day, and two images with synthetic haze and their clear originals.",
    then="visionzoo dehaze hazy -o clear",
)


__all__ = ["app"]
