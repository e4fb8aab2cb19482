"""`visionzoo export SCENE`: a scene as static Gaussians for other viewers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from visionzoo import options as shared
from visionzoo.options import MODEL, OUTPUT, Device, Overwrite, Reporting

app = shared.command_app(
    "export",
    [
        "visionzoo export scene.vzgs -o splats.ply",
        "visionzoo export scene.vzgs -o splats.spz --time 0.5",
        "visionzoo export scene.vzgs -o frames --times 30 --format .splat",
        "visionzoo export output/espresso -o espresso.vzgs --bits 10",
        "visionzoo export splats.ply -o splats.compressed.ply",
    ],
)
app.usage = "Usage: visionzoo export SCENE -o OUTPUT [OPTIONS]"


@app.default
def export(
    scene: Annotated[
        Path,
        shared.inputs(
            "Scene (.vzgs), an output folder of the published code of MoDec-GS, Scaffold-GS or 4DGaussians, or a file of "
            "Gaussians to convert (.ply, .compressed.ply, .spz, .splat)."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path,
        shared.output(
            "File to write: .ply (3D Gaussian Splatting), .compressed.ply, .spz or .splat, or .vzgs for the whole moving scene; "
            "with --times or --fps, a folder for one file per frame."
        ),
    ],
    time: Annotated[
        float | None,
        shared.option(OUTPUT, "Time to export, from 0 (start, the default) to 1 (end)."),
    ] = None,
    times: Annotated[
        int | None,
        shared.option(OUTPUT, "Write a sequence of this many frames, evenly spaced from start to end."),
    ] = None,
    fps: Annotated[
        float | None,
        shared.option(
            OUTPUT, "Write a sequence with this many frames per second of the recording, if its length is known."
        ),
    ] = None,
    format: Annotated[
        Literal[".ply", ".compressed.ply", ".spz", ".splat"],
        shared.option(OUTPUT, "Extension of the files of a sequence."),
    ] = ".ply",
    sh_degree: Annotated[
        int,
        shared.option(MODEL, "Degree of the colours' dependence on the view, 0 (none) to 3; a .splat file knows none."),
    ] = 3,
    view: Annotated[
        int | None,
        shared.option(
            MODEL,
            "Write exactly what the training view of this number, from 0, sees; by default, the mean over all views.",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        shared.option(
            OUTPUT, "Bits per number of a .vzgs, 8 (the default) to 16: more round less, and make it larger."
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Write a scene, at one time or as a sequence, as static Gaussians that other viewers show."""
    from visionzoo.console import emit, note
    from visionzoo.jobs import saved_to, sidecar

    from .export_options import ExportOptions, check_export

    options = ExportOptions(time, times, fps, format, sh_degree, view, bits)
    check_export(scene, output, options, overwrite=overwrite)  # before torch is loaded
    from .exporting import export_file

    result = export_file(scene, output, options, device=device, progress=not reporting.silent, overwrite=overwrite)
    if reporting.json:
        emit(result)
    note(saved_to(output, sidecar(output)), quiet=reporting.silent)


__all__ = ["app"]
