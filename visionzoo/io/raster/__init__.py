"""Images of any size, read and written by windows; the whole image is never in memory. The extra `raster` installs the packages.

| format | read | written |
|---|---|---|
| TIFF, BigTIFF, GeoTIFF, COG | by its tiles or strips; the page of full resolution | in tiles, lossless, with tags, EXIF and mask |
| zarr (version 2 or 3, one array) | by its chunks | version 3 |
| .npy | in place | yes |
| JPEG, PNG, WebP, … | decoded once: in memory up to 64 million pixels, else unpacked on disk | JPEG, PNG, WebP |

What a reader gives is upright and plain: palette, CMYK, YCbCr and Lab become RGB, integers of which 0 is white are inverted, 1 to 7
bits are spread over uint8, big-endian values become the machine's own. Everything else stays as stored: type, range, extra bands,
alpha. `missing.py` states what counts as missing, `metadata.py` and `sidecars.py` what goes along, and `formats.py` what a format
can hold.
"""

from .base import Raster, RasterError, Window
from .metadata import RasterProfile
from .opening import TIFF_STARTS, open_raster
from .whole import WholeImage, read_whole
from .writer import RasterWriter

__all__ = [
    "TIFF_STARTS",
    "Raster",
    "RasterError",
    "RasterProfile",
    "RasterWriter",
    "WholeImage",
    "Window",
    "open_raster",
    "read_whole",
]
