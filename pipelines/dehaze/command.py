"""`visionzoo dehaze`: haze removal from images and videos, and what a part of the result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from visionzoo import options
from visionzoo.console import emit, note
from visionzoo.errors import InputError
from visionzoo.options import Device, Dtype, Engine, Json, Overwrite, Quiet

app = options.command_app(
    "dehaze",
    [
        "visionzoo dehaze samples -o hazy",
        "visionzoo dehaze hazy.jpg -o clear.jpg",
        "visionzoo dehaze survey.tif -o survey_clear.tif --dtype bfloat16",
        "visionzoo dehaze PHOTOS -o CLEAR",
        "visionzoo dehaze flight.mp4 -o clear.mp4 --smooth 0.8",
        "visionzoo dehaze attribute hazy.jpg --region 200,120,64,64 -o map.png",
    ],
)

Model = Annotated[
    str | None, Parameter(help="Registered model (`visionzoo models --task dehaze`); dehazexl_nano by default.")
]
Checkpoint = Annotated[Path | None, Parameter(help="Weights file to use instead of the model's own.")]


@app.default
def dehaze(
    inputs: Annotated[
        list[Path], options.inputs("Images and videos: files, folders (searched recursively) or glob patterns.")
    ],
    *,
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="File to write (.tif, .png, .jpg, .webp, .zarr, .npy; .mp4, .mkv, …), or a folder for several inputs.",
        ),
    ],
    model: Model = None,
    checkpoint: Checkpoint = None,
    blend: Annotated[
        bool | None,
        Parameter(
            negative="--no-blend",
            help="Hide the borders of the 256 x 256 tiles, which takes twice the time. The default depends on the model: "
            "dehazexl_nano blends.",
        ),
    ] = None,
    smooth: Annotated[
        float, Parameter(help="Videos: steady the brightness over time, from 0 (off) to below 1; 0.8 is strong.")
    ] = 0.0,
    bands: Annotated[
        str | None,
        Parameter(help="Which bands are red, green and blue, counted from 1, e.g. 4,3,2; other bands stay unchanged."),
    ] = None,
    limits: Annotated[
        str | None,
        Parameter(help="Values of black and white in 16-bit and float images, e.g. 0,3000; estimated by default."),
    ] = None,
    attention: Annotated[
        Literal["exact", "lsh"] | None,
        Parameter(
            help="How tiles attend to each other; lsh is approximate, and faster above about 16,000 pixels a side."
        ),
    ] = None,
    tiles: Annotated[
        int | None, Parameter(help="Number of tiles that go through the network together; 4 on a CPU, else 8.")
    ] = None,
    skips: Annotated[
        Literal["auto", "recompute", "device", "host", "disk"],
        Parameter(help="Where the encoder's maps are kept between the two passes, unless they are computed twice."),
    ] = "auto",
    format: Annotated[
        str | None, Parameter(help="Extension of images in the output folder, e.g. .png; by default the input's.")
    ] = None,
    engine: Engine = "local",
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove haze from images of any size and from videos."""
    from visionzoo.jobs import make_plan, raise_if_some_failed, run_files, summary

    from ...models.dehazexl.placement import StreamOptions
    from .files import KINDS, DehazeJob
    from .pipeline import DehazePipeline

    chosen = None if bands is None else tuple(number - 1 for number in options.numbers("bands", bands, (1, 3)))
    if chosen and min(chosen) < 0:
        raise InputError(f"--bands counts from 1, got {bands}")
    scale = None if limits is None else options.numbers("limits", limits, (2,), float)
    plan = make_plan(inputs, output, KINDS, format)
    plan.check(overwrite)  # arguments are checked before weights are loaded
    extra = {} if attention is None else {"attention": attention}
    pipe = DehazePipeline.create(model, device, dtype, checkpoint, **extra)
    job = DehazeJob(
        pipe,
        stream=StreamOptions(tiles, skips, blend=blend),
        bands=chosen,
        limits=None if scale is None else (scale[0], scale[1]),
        smooth=smooth,
    )
    results = run_files(job, plan, overwrite=overwrite, progress=not quiet, engine=engine)
    if json:
        emit([result.to_dict() for result in results])
    for text in summary(results, job.done):
        note(text, quiet=quiet or json)
    raise_if_some_failed(results, job.done)


@options.subcommand(app)
def attribute(
    image: Annotated[Path, Parameter(help="The hazy image.")],
    *,
    region: Annotated[str, Parameter(help="Window of the result to explain: left,top,width,height in pixels.")],
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="File for the map: .png, .jpg or .webp; or .npz for its values.")
    ],
    clear: Annotated[
        Path | None, Parameter(help="The same view without haze; by default the network's own result is used instead.")
    ] = None,
    steps: Annotated[
        int, Parameter(help="Number of points on the line from clear to hazy; more points are more accurate.")
    ] = 20,
    derivative: Annotated[
        Literal["exact", "official"],
        Parameter(
            help="What the gradient is multiplied by: hazy - clear (exact), or 2 hazy - clear as in the published code."
        ),
    ] = "exact",
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show which pixels of a hazy image a window of the clear result depends on (a dehazing attribution map).

    Example: visionzoo dehaze attribute hazy.jpg --region 200,120,64,64 -o map.png
    """
    from visionzoo.jobs import check_result

    from .attribution import ENDINGS, attribute_file
    from .pipeline import DehazePipeline

    left, top, width, height = options.numbers("region", region, (4,))
    check_result(output, overwrite=overwrite)
    if output.suffix.lower() not in ENDINGS:
        raise InputError(f"{output}: a map is written as {', '.join(ENDINGS)}")
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
        progress=not quiet,
    )
    if json:
        emit(facts)
    else:
        note(f"written: {output}", quiet=quiet)


@options.subcommand(app)
def samples(
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Folder for the images; made if it does not exist.")
    ],
    overwrite: Overwrite = False,
) -> None:
    """Write hazy images to try: a photo of a hazy day, and two images with synthetic haze and their clear originals.

    Example: visionzoo dehaze samples -o hazy
    """
    from .samples import write_samples

    for path in write_samples(output, overwrite):
        note(str(path))
    if Path("samples").is_dir() and output.absolute() != Path("samples").absolute():
        note("these are the sample images; to dehaze the folder samples, run: visionzoo dehaze ./samples -o FOLDER")


__all__ = ["app"]
