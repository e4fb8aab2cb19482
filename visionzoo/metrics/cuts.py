"""Scene cuts: how often a generated video jumps instead of continuing (SCuts of StreamingT2V, arXiv 2403.14773, and SlowFast-VGen).

The cuts are those that PySceneDetect (extra `cuts`) finds. Their number depends on its detector and settings, which neither paper
states, so every result has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from visionzoo.errors import InputError, require
from visionzoo.io.pixels import to_uint8

from .frames import Pixels, video_planes

Detector = Literal["adaptive", "content"]

THRESHOLDS: dict[str, float] = {"adaptive": 3.0, "content": 27.0}
"""PySceneDetect's default thresholds: a ratio to neighbouring changes, and a change."""


@dataclass(frozen=True)
class SceneCuts:
    """The cuts in a video, and what is needed to compare their number with others.

    Attributes:
        cuts: numbers of the first frames after the cuts, counted from 0.
        frames: T, the length of the video.
        detector: "adaptive" or "content".
        threshold: of the detector.
        min_scene_len: a cut fewer frames after the last one, or after the beginning, is not reported.
        version: of PySceneDetect.
    """

    cuts: tuple[int, ...]
    frames: int
    detector: str
    threshold: float
    min_scene_len: int
    version: str

    @property
    def count(self) -> int:
        """SCuts of this video."""
        return len(self.cuts)

    @property
    def settings(self) -> str:
        """For reports, e.g. "AdaptiveDetector, threshold 3, min_scene_len 15 frames, scenedetect 0.7.2"."""
        return (
            f"{self.detector.capitalize()}Detector, threshold {self.threshold:g}, min_scene_len {self.min_scene_len} frames, "
            f"scenedetect {self.version}"
        )


class CutStream:
    """Finds cuts frame by frame; `scene_cuts` describes the arguments."""

    def __init__(
        self, detector: Detector = "adaptive", threshold: float | None = None, min_scene_len: int = 15
    ) -> None:
        if detector not in get_args(Detector):
            raise InputError(f"the detector must be one of {', '.join(get_args(Detector))}, got {detector!r}")
        if threshold is not None and not threshold > 0:
            raise InputError(f"the threshold must be above 0, got {threshold:g}")
        if min_scene_len < 1:
            raise InputError(f"min_scene_len must be at least 1 frame, got {min_scene_len}")
        package: Any = require("scenedetect", extra="cuts", purpose="counting scene cuts")
        self._package, self._version = package, str(package.__version__)
        self.detector, self.min_scene_len = detector, min_scene_len
        self.threshold = THRESHOLDS[detector] if threshold is None else float(threshold)
        # a detector remembers frames, so every video needs its own
        self._detector = (
            package.AdaptiveDetector(adaptive_threshold=self.threshold, min_scene_len=min_scene_len)
            if detector == "adaptive"
            else package.ContentDetector(threshold=self.threshold, min_scene_len=min_scene_len)
        )
        self._cuts: list[int] = []
        self._frames = 0

    def add(self, planes: Tensor) -> None:
        """Add a frame (3, H, W), RGB in [0, 1]. Large ones are scaled down as by PySceneDetect's own reader."""
        import cv2

        image = np.ascontiguousarray(to_uint8(planes[None])[0][..., ::-1])  # BGR, as the detectors expect
        height, width = image.shape[:2]
        factor = self._package.scene_manager.compute_downscale_factor(max(height, width))
        if factor > 1:
            size = max(1, round(width / factor)), max(1, round(height / factor))
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        self._keep(self._detector.process_frame(self._time(self._frames), image))
        self._frames += 1

    def cuts(self) -> SceneCuts:
        """The result, after the last frame.

        Raises:
            InputError: there was no frame.
        """
        if not self._frames:
            raise InputError("the video has no frames")
        self._keep(self._detector.post_process(self._time(self._frames - 1)))
        settings = self.detector, self.threshold, self.min_scene_len, self._version
        return SceneCuts(tuple(sorted(set(self._cuts))), self._frames, *settings)

    def _time(self, frame: int) -> Any:
        return self._package.FrameTimecode(frame, fps=1.0)  # all settings are in frames, so the rate has no effect

    def _keep(self, times: Iterable[Any]) -> None:
        self._cuts += [int(time.frame_num) for time in times]


def scene_cuts(
    frames: Iterable[Pixels],
    *,
    detector: Detector = "adaptive",
    threshold: float | None = None,
    min_scene_len: int = 15,
) -> SceneCuts:
    """Find the scene cuts in a video. Few frames are in memory.

    PySceneDetect's defaults hide cuts that follow one another within 15 frames, at 8 frames per second nearly 2 s; the adaptive
    detector also reports none within the first and last two frames.

    Args:
        frames: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        detector: "adaptive" compares the change between two frames with the changes around it, so that fast motion is no cut; it
            is what StreamingT2V is understood to use. "content" compares the change itself.
        threshold: of the detector; None is PySceneDetect's default, 3 (adaptive) or 27 (content).
        min_scene_len: shortest scene in frames.

    Raises:
        MissingDependencyError: PySceneDetect is not installed.
        InputError: no frames, a setting out of range, or wrong shapes, types or values.
    """
    stream = CutStream(detector, threshold, min_scene_len)
    for planes in video_planes(frames):
        stream.add(planes)
    return stream.cuts()


__all__ = ["CutStream", "Detector", "SceneCuts", "scene_cuts"]
