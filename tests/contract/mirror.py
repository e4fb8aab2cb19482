"""A fake task that mirrors images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from PIL import Image

from visionzoo import options
from visionzoo.io.extensions import IMAGES, IMAGES_WRITTEN
from visionzoo.io.files import atomic_path
from visionzoo.io.image import load_image
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, make_plan, run_and_report, write_sidecar
from visionzoo.options import Checkpoint, Processing

app = options.command_app("mirror", ["visionzoo mirror a.jpg -o b.png"])


class MirrorJob(FileJob):
    kinds: ClassVar[tuple[Kind, ...]] = (Kind("image", IMAGES, "image", IMAGES_WRITTEN, ".png"),)
    done: ClassVar[str] = "turned around"

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        image = Image.fromarray(load_image(source)[:, ::-1])
        with atomic_path(target) as temporary:
            image.save(temporary)
        result = FileResult(str(source), str(target), *image.size, seconds=0.1)
        write_sidecar(target, {"result": result.to_dict()}, {})
        return result


class MirrorPipeline:
    files = "tests.contract.mirror:MirrorJob"


@app.default
def mirror(
    inputs: Annotated[list[Path], options.inputs("Images.")],
    /,
    *,
    output: Annotated[Path, options.output("File or folder.")],
    checkpoint: Checkpoint = None,
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Mirror images."""
    plan = make_plan(inputs, output, MirrorJob.kinds)
    plan.check(processing.overwrite)
    run_and_report(MirrorJob(), plan, processing)
