"""`visionzoo interpolate`: more frames per second, or slow motion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from visionzoo import options
from visionzoo.options import MODEL, OUTPUT, Checkpoint, Processing

app = options.command_app(
    "interpolate",
    [
        "visionzoo interpolate samples -o clips",
        "visionzoo interpolate clips/walk.mp4 -o smooth.mp4 --factor 4 --checkpoint flownet.pkl",
        "visionzoo interpolate clip.mp4 -o slow.mp4 --factor 4 --fps 25",
        "visionzoo interpolate CLIPS -o SMOOTH",
    ],
    usage="visionzoo interpolate VIDEOS -o OUTPUT [OPTIONS]",
)


@app.default
def interpolate(
    videos: Annotated[list[Path], options.inputs("Videos: files, folders (searched recursively) or glob patterns.")],
    /,
    *,
    output: Annotated[Path, options.output("Video to write (.mp4, .mkv, .webm, …), or a folder for several videos.")],
    factor: Annotated[
        int,
        options.option(
            OUTPUT,
            "How many frames the result has for each frame of the video, from 2 to 32. Frames are exactly in between for 2, 4, 8, "
            "16 and 32; for other factors their places are rounded to 1/32 of the interval.",
        ),
    ] = 2,
    fps: Annotated[
        float | None,
        options.option(
            OUTPUT,
            "Frame rate of the result; by default FACTOR times that of the video, so that speed and sound are unchanged. With the "
            "video's own rate, the result is in slow motion, without sound.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        options.model("interpolate", "by default the checkpoint's, or rife_hdv3, whose weights are downloaded by hand"),
    ] = None,
    checkpoint: Checkpoint = None,
    scale: Annotated[
        float,
        options.option(
            MODEL, "Resolution of the motion: 0.25, 0.5, 1, 2 or 4; less than 1 for large movements in large frames."
        ),
    ] = 1.0,
    cut: Annotated[
        float,
        options.option(
            MODEL,
            "How much two frames must differ, from 0 to 1, to count as a cut, where the first one is repeated; 1 for no cuts.",
        ),
    ] = 0.4,
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Add frames to videos, for smoother motion or slow motion."""
    from visionzoo.jobs import make_plan, run_and_report

    from .fractions import check_factor
    from .kinds import KINDS, check_video

    check_factor(factor)
    plan = make_plan(videos, output, KINDS)
    plan.check(processing.overwrite)  # before torch and the weights are loaded
    if plan.single:
        check_video(plan.pairs[0][0])

    from .files import InterpolateJob
    from .pipeline import InterpolatePipeline

    pipe = InterpolatePipeline.create(model, processing.device, processing.dtype, checkpoint)
    run_and_report(InterpolateJob(pipe, factor, fps, scale, cut), plan, processing)


options.samples_command(
    app,
    "interpolate",
    f"{__package__}.samples:write_samples",
    folder="clips",
    help="Write two short videos to try: a cartoon character who walks, and a photo that the camera moves over.",
    then="visionzoo interpolate clips/walk.mp4 -o smooth.mp4 --factor 4 --checkpoint flownet.pkl",
)


__all__ = ["app"]
