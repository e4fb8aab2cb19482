"""`visionzoo dehaze`: haze removal of pictures and videos, and what a part of the result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from visionzoo.console import emit, note, printable
from visionzoo.errors import InputError

if TYPE_CHECKING:
    from .pipeline import DehazedFile

EXAMPLES = """Examples:

visionzoo dehaze samples -o hazy

visionzoo dehaze hazy.jpg -o clear.jpg

visionzoo dehaze survey.tif -o survey_clear.tif --dtype bfloat16

visionzoo dehaze PHOTOS -o CLEAR

visionzoo dehaze flight.mp4 -o clear.mp4 --smooth 0.8

visionzoo dehaze attribute hazy.jpg --region 200,120,64,64 -o map.png
"""
PARAMETERS = Group("Parameters", help=EXAMPLES)  # the command's own help is its line in the list of commands

app = App(name="dehaze", group_arguments=PARAMETERS, group_parameters=PARAMETERS)

Model = Annotated[
    str | None, Parameter(help="A registered model (`visionzoo models --task dehaze`); dehazexl_nano by default.")
]
Checkpoint = Annotated[Path | None, Parameter(help="Weights instead of the model's own.")]
Device = Annotated[str, Parameter(help="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Parameter(help="What the network computes in; bfloat16 is faster on many CPUs, too."),
]
Overwrite = Annotated[bool, Parameter(negative="", help="Replace existing outputs.")]
Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress bar and no notes.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the results as JSON on standard output.")]


@app.default
def dehaze(
    inputs: Annotated[
        list[Path], Parameter(help="Pictures and videos: files, folders (searched through) or glob patterns.")
    ],
    *,
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="The file to write (.tif, .png, .jpg, .webp, .zarr, .npy; .mp4, .mkv, …), or a folder for several inputs.",
        ),
    ],
    model: Model = None,
    checkpoint: Checkpoint = None,
    blend: Annotated[
        bool | None,
        Parameter(
            negative="--no-blend",
            help="Hide the borders of the 256 x 256 tiles; takes twice the time. Without either: dehazexl_nano does.",
        ),
    ] = None,
    smooth: Annotated[
        float, Parameter(help="Videos: steady the brightness over time; 0 is off, 0.8 strong, below 1.")
    ] = 0.0,
    bands: Annotated[
        str | None,
        Parameter(help="Which bands are red, green and blue, from 1, e.g. 4,3,2; others are left as they are."),
    ] = None,
    limits: Annotated[
        str | None,
        Parameter(help="Values of black and white of 16-bit and float pictures, e.g. 0,3000; found out otherwise."),
    ] = None,
    attention: Annotated[
        Literal["exact", "lsh"] | None,
        Parameter(help="How tiles see each other; lsh is approximate, and faster from about 16,000 pixels a side on."),
    ] = None,
    tiles: Annotated[
        int | None, Parameter(help="Tiles that go through the network together; 1 on a CPU, else 8.")
    ] = None,
    skips: Annotated[
        Literal["auto", "recompute", "device", "host", "disk"],
        Parameter(help="Where the encoder's maps stay between the two passes, if they are not computed twice."),
    ] = "auto",
    format: Annotated[
        str | None, Parameter(help="Ending of pictures in the output folder, e.g. .png; the inputs' otherwise.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], Parameter(help="ray spreads the files over a Ray cluster (pip install 'ray[data]').")
    ] = "local",
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Take haze off pictures of any size and off videos."""
    from ...models.dehazexl.streaming import StreamOptions
    from .files import FileJob, check_outputs, plan
    from .pipeline import DehazePipeline

    chosen = None if bands is None else tuple(number - 1 for number in numbers("bands", bands, (1, 3)))
    if chosen and min(chosen) < 0:
        raise InputError(f"--bands counts from 1, got {bands}")
    scale = None if limits is None else numbers("limits", limits, (2,), float)
    todo = plan(inputs, output, format)
    check_outputs(todo, output, overwrite)  # mistakes are said before weights are loaded
    stream = StreamOptions(tiles, skips, blend=blend)
    extra = {} if attention is None else {"attention": attention}
    settings = {
        "stream": stream,
        "bands": chosen,
        "limits": None if scale is None else (scale[0], scale[1]),
        "smooth": smooth,
        "format": format,
        "overwrite": overwrite,
    }
    if engine == "ray":
        from .ray import run_on_ray

        create = {"model": model, "device": device, "dtype": dtype, "checkpoint": checkpoint, **extra}
        results = run_on_ray(create, settings, inputs, output, progress=not quiet)
    else:
        pipe = DehazePipeline.create(model, device, dtype, checkpoint, **extra)
        job = FileJob(pipe, **settings)
        try:
            results = job.run(inputs, output, progress=not quiet)
        except KeyboardInterrupt as error:
            raise InterruptedDehazing(what_is_left(str(error), len(todo), overwrite)) from None
    if json:
        emit([result.to_dict() for result in results])
        return
    for text in summary(results):
        note(text, quiet=quiet)


@app.command
def attribute(
    image: Annotated[Path, Parameter(help="The hazy picture.")],
    *,
    region: Annotated[str, Parameter(help="The window of the result to explain: left,top,width,height in pixels.")],
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The map, as .png, .jpg or .webp; or .npz, values.")
    ],
    clear: Annotated[
        Path | None, Parameter(help="The same view without haze; without one, the network's own result stands in.")
    ] = None,
    steps: Annotated[int, Parameter(help="Points on the line from clear to hazy; more is more exact.")] = 20,
    derivative: Annotated[
        Literal["exact", "official"],
        Parameter(help="Of the line: hazy - clear, or what the published code multiplies by, 2 hazy - clear."),
    ] = "exact",
    model: Model = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show which pixels of a hazy picture a window of the clear result depends on (a dehazing attribution map).

    Example: visionzoo dehaze attribute hazy.jpg --region 200,120,64,64 -o map.png
    """
    from visionzoo.io.files import check_output

    from .attribution import ENDINGS, attribute_file
    from .pipeline import DehazePipeline

    left, top, width, height = (int(number) for number in numbers("region", region, (4,)))
    check_output(output, overwrite=overwrite)
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


@app.command
def samples(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The folder to write them to.")],
    overwrite: Overwrite = False,
) -> None:
    """Write hazy pictures to try: a photo of a hazy day, and two with drawn haze and their clear originals.

    Example: visionzoo dehaze samples -o hazy
    """
    from .samples import write_samples

    for path in write_samples(output, overwrite):
        note(str(path))
    if Path("samples").is_dir() and output.absolute() != Path("samples").absolute():
        note("these are the sample pictures; the folder samples is dehazed by: visionzoo dehaze ./samples -o FOLDER")


class InterruptedDehazing(KeyboardInterrupt):
    """Ctrl-C with a message on what is left."""


def what_is_left(said: str, files: int, overwrite: bool) -> str:
    """What Ctrl-C leaves behind.

    Args:
        said: by the picture that it met, if that can be gone on with.
    """
    if files == 1:
        return said or "interrupted; no file was written"
    others = "finished outputs are whole" + ("" if overwrite else ", and the same command goes on with the others")
    return f"{said or 'interrupted'}; {others}"


def numbers(name: str, text: str, counts: tuple[int, ...], kind: type = int) -> tuple:
    """ "1,2,3" -> (1, 2, 3). Raises `InputError` unless there are as many as one of `counts`."""
    try:
        found = tuple(kind(word) for word in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in counts:
        wanted = " or ".join(map(str, counts))
        raise InputError(f"--{name} takes {wanted} numbers with commas between them, got {text!r}")
    return found


def summary(results: list[DehazedFile]) -> list[str]:
    """What a run did, in a line or two."""
    made = [result for result in results if result.output and result.seconds]
    kept = [result for result in results if result.output and not result.seconds]
    failed = [result for result in results if result.error]
    lines = []
    if len(results) == 1 and made:
        pixels = made[0].width * made[0].height * made[0].frames / 1e6
        lines.append(
            f"written: {printable(str(made[0].output))} ({made[0].width} x {made[0].height}, {made[0].seconds:.1f} s, "
            f"{made[0].seconds / max(pixels, 1e-6):.2f} s a megapixel)"
        )
    else:
        lines.append(f"{len(made)} written")
        if kept:
            lines.append(f"{len(kept)} there already, left as they are; --overwrite makes them anew")
        if failed:
            lines.append(f"{len(failed)} could not be dehazed, see the warnings")
    return lines


__all__ = ["app"]
