"""Options of a reconstruction: for the command, Python and the demo page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, OUTPUT, option

from ...models.modecgs.config import check_bits

MOST_SEED = 2**63 - 1
"""The largest seed that torch takes and a checkpoint stores."""


@Parameter(name="*")
@dataclass(frozen=True)
class ReconstructOptions:
    """Options of a reconstruction.

    Attributes:
        steps: iterations of both stages together; None: those of the preset.
        static: fit a scene that does not move, e.g. for comparison.
        max_side: images are shrunk to this many pixels on the longer side; None: as the preset says; 0 keeps their size.
        downscale: which of several stored sizes to read, in layouts that hold them.
        masks: folder of masks: for a COLMAP model, white where pixels count; for a video, one per frame, black where things move,
            which is then left out when the cameras are found.
        protocol: which frames of a COLMAP model are test views.
        frames: number of frames to use of a video.
        bits: bits per number in the scene file, 8 to 16.
        seed: random seed of the weights, the order of frames, and growing.
    """

    steps: Annotated[
        int | None,
        option(MODEL, "Iterations of both stages together; by default those of the preset, with the same shares."),
    ] = None
    static: Annotated[bool, option(MODEL, "Fit a scene that does not move, e.g. to compare.")] = False
    max_side: Annotated[
        int | None,
        option(
            MODEL,
            "Shrink images to this many pixels on the longer side; 0 keeps their size. By default 128 with the preset quick, "
            "and their size with published.",
        ),
    ] = None
    downscale: Annotated[
        int | None,
        option(INPUT, "Which stored size to read, in layouts that hold several, e.g. 2 for rgb/2x (the default)."),
    ] = None
    masks: Annotated[
        Path | None,
        option(
            INPUT,
            "Folder of masks: for a COLMAP model, white where pixels count; for a video, one per frame, black where things move.",
        ),
    ] = None
    protocol: Annotated[
        Literal["held-out", "released"],
        option(
            INPUT,
            "Test views of a COLMAP model: held-out keeps every 8th frame out of training; released also trains on them, as "
            "the published code does.",
        ),
    ] = "held-out"
    frames: Annotated[int, option(INPUT, "Number of frames of a video to use.")] = 80
    bits: Annotated[
        int, option(OUTPUT, "Bits per number in the scene file, 8 to 16: more round less, and make it larger.")
    ] = 8
    seed: Annotated[
        int, option(MODEL, "Random seed for the weights, for the order of the frames, and for growing.")
    ] = 6666

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 2:
            raise InputError(f"--steps must be at least 2, got {self.steps}")
        if self.max_side is not None and (self.max_side < 0 or 0 < self.max_side < 16):
            raise InputError(f"--max-side must be 0 or at least 16, got {self.max_side}")
        if self.downscale is not None and self.downscale < 1:
            raise InputError(f"--downscale must be at least 1, got {self.downscale}")
        if self.frames < 8:
            raise InputError(f"--frames must be at least 8, got {self.frames}")
        check_bits("--bits", self.bits)
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"--seed must be between 0 and {MOST_SEED}, got {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


__all__ = ["ReconstructOptions"]
