"""Reading and writing videos frame by frame, with messages for files that cannot be read. The extra `video` brings PyAV."""

from .open import VideoError
from .probe import VideoInfo, probe
from .read import Frame, read_frames
from .write import VideoWriter

__all__ = ["Frame", "VideoError", "VideoInfo", "VideoWriter", "probe", "read_frames"]
