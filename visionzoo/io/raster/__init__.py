"""Pictures of any size, read and written by windows; the whole image is never in memory. The extra `raster` brings the packages.

| format | read | written |
|---|---|---|
| TIFF, BigTIFF, GeoTIFF, COG | by its tiles or strips; the page of full resolution | in tiles, lossless, with the tags of the source |
| zarr (version 2 or 3, one array) | by its chunks | version 3 |
| .npy | in place | yes |
| JPEG, PNG, WebP, … | decoded once: in memory up to 64 million pixels, else unpacked on disk | JPEG, PNG, WebP |

What a reader gives is upright and plain: palette and CMYK become RGB(A), one bit becomes uint8 grey (0 or 255), big-endian
values the machine's own. Everything else stays as stored: type, range, extra bands, alpha.
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
