"""Options of `visionzoo export SCENE`, and their checks before torch is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError
from visionzoo.io.extensions import extension
from visionzoo.jobs import check_result, refuse_inputs

from ...models.modecgs.config import check_bits
from ...models.modecgs.splats.formats import FORMATS, format_of

MOST_FRAMES = 100_000
"""Names of frames have five digits."""


@dataclass(frozen=True)
class ExportOptions:
    """How a scene becomes static Gaussians.

    Attributes:
        time: in [0, 1]; None is 0.
        times: number of frames of a sequence; None for a single file.
        fps: frames of a sequence per second of the recording; None if `times` says how many, or for a single file.
        format: extension of the files of a sequence, one of `FORMATS`.
        sh_degree: degree of the colours' harmonics, 0 to 3.
        view: number of the training view whose Gaussians are written; None for the mean over views.
        bits: bits per number of a `.vzgs`, 8 to 16; None is 8.
    """

    time: float | None = None
    times: int | None = None
    fps: float | None = None
    format: str = ".ply"
    sh_degree: int = 3
    view: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.time is not None and not 0 <= self.time <= 1:
            raise InputError(f"--time must be in [0, 1], got {self.time:g}")
        if self.times is not None and not 1 <= self.times <= MOST_FRAMES:
            raise InputError(f"--times must be between 1 and {MOST_FRAMES}, got {self.times}")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise InputError(f"--fps must be above 0 and at most 1000, got {self.fps:g}")
        if sum(value is not None for value in (self.time, self.times, self.fps)) > 1:
            raise InputError("give only one of --time, --times and --fps")
        if self.format not in FORMATS:
            raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {self.format}")
        if not 0 <= self.sh_degree <= 3:
            raise InputError(f"--sh-degree must be between 0 and 3, got {self.sh_degree}")
        if self.view is not None and self.view < 0:
            raise InputError(f"--view must be at least 0, got {self.view}")
        if self.bits is not None:
            check_bits("--bits", self.bits)

    @property
    def is_sequence(self) -> bool:
        return self.times is not None or self.fps is not None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_export(scene: Path, output: Path, options: ExportOptions, *, overwrite: bool) -> None:
    """Check input and output before anything is loaded.

    Raises:
        InputError: no such scene, an output that does not fit, that exists or is the input.
    """
    if not scene.exists():
        raise InputError(f"{scene}: no such file; make a scene with: visionzoo reconstruct FOLDER -o scene.vzgs")
    ending, moving = format_of(output), extension(output) == ".vzgs"
    if is_splats(scene) and (options.is_sequence or options.time is not None or options.view is not None or moving):
        raise InputError(f"{scene}: holds Gaussians of one time; it can only be converted to {', '.join(FORMATS)}")
    if options.bits is not None and not moving:
        raise InputError(f"{output}: --bits is for moving scenes (.vzgs); omit it")
    if options.is_sequence:
        if ending or moving:
            raise InputError(
                f"{output}: with --times or --fps, the output must be a folder; --format {ending or '.ply'} sets the files"
            )
        return
    if not ending and not moving:
        raise InputError(
            f"{output}: the extension chooses the format and must be one of {', '.join(FORMATS)}, .vzgs; for a folder with a "
            "file per frame, add --times 30"
        )
    if moving and (options.time is not None or options.view is not None):
        raise InputError(f"{output}: holds all times and views; leave --time and --view away")
    check_result(output, overwrite=overwrite)
    refuse_inputs([output], [scene])


def is_splats(scene: Path) -> bool:
    """Whether a file holds static Gaussians, not a moving scene."""
    return format_of(scene) is not None and not scene.is_dir()


__all__ = ["ExportOptions", "check_export", "is_splats"]
