"""Read and write videos frame by frame. The extra `video` installs PyAV."""

from .loop import MappedVideo, Window, map_video
from .open import VideoError
from .probe import VideoInfo, probe
from .read import Frame, read_frames, sample_frames
from .write import VideoWriter

__all__ = [
    "Frame",
    "MappedVideo",
    "VideoError",
    "VideoInfo",
    "VideoWriter",
    "Window",
    "map_video",
    "probe",
    "read_frames",
    "sample_frames",
]
