"""File extensions of images, rasters and videos, used by every command, data set and page.

An extension only decides which files of a *folder* are used and what kind they are; the readers look at the content.
"""

from __future__ import annotations

import os
from pathlib import Path

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif")
_TIFF = (".tif", ".tiff", ".btf", ".tf8")

IMAGES = frozenset(
    {
        *_JPEG,
        *_TIFF,
        *(".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".ico", ".tga"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".hif"),
    }
)
"""Image files. Those that cannot be decoded here (e.g. HEIC without a plug-in) are reported, not silently skipped."""

RASTERS = frozenset({*_TIFF, ".zarr", ".npy"})
"""Files, and zarr array folders, that are read by windows."""

VIDEOS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v", ".ogv"),
        *(".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".mxf"),  # camcorders, broadcast
        *(".3gp", ".3gpp", ".3g2"),  # phones
        *(".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".ivf", ".mjpeg", ".mjpg"),  # streams without a container
    }
)
"""Video files."""

ANIMATIONS = frozenset({".gif"})
"""Images that may hold a video: read as an image (the first frame) where images are accepted, as a video where only videos are."""

IMAGES_WRITTEN = (".png", ".jpg", ".jpeg", ".webp")
"""Image files that can be written."""

RASTERS_WRITTEN = (".tif", ".tiff", *IMAGES_WRITTEN, ".zarr", ".npy")
"""Image files, and zarr array folders, that can be written by windows."""

VIDEOS_WRITTEN = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Video files that can be written."""

SHEETS_WRITTEN = (".html", ".htm", ".jpg", ".jpeg", ".png", ".webp")
"""Sheets of results: an HTML page or an image."""


def extension(path: str | os.PathLike[str]) -> str:
    """The extension in lower case with its dot, e.g. ".jpg"; empty if there is none."""
    return Path(path).suffix.lower()


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the name has the extension of an image file."""
    return extension(path) in IMAGES


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name has the extension of a video file (a GIF counts as an image)."""
    return extension(path) in VIDEOS
