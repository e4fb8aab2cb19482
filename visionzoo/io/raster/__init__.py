"""Read and write images of any size by windows, never the whole image in memory. The extra `raster` installs the packages.

| format | read | written |
|---|---|---|
| TIFF, BigTIFF, GeoTIFF, COG | by tiles or strips; the full-resolution page | in tiles, lossless, with tags, EXIF and mask |
| zarr (version 2 or 3, one array) | by chunks | version 3 |
| .npy | in place | yes |
| JPEG, PNG, WebP, … | decoded once: in memory up to 64 million pixels, else to disk | JPEG, PNG, WebP |

Readers return upright pixels in plain form: palette, CMYK, YCbCr and Lab become RGB, integers whose 0 is white are inverted, 1 to 7
bits are scaled to uint8, and big-endian values get native byte order. Type, range, extra bands and alpha stay as stored.
`missing.py` states what counts as missing, `metadata.py` and `sidecars.py` which metadata are kept, and `formats.py` what each
format can hold.
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
