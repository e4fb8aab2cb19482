"""Reading and writing videos frame by frame, with messages for files that cannot be read. The extra `video` brings PyAV."""

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
