#!/usr/bin/env bash
# Expected: a 16-bit RGB TIFF gives the same 8-bit image whether its samples lie pixel by pixel or plane by plane.
# Seen (Pillow 12.3.0): pixel by pixel, and in compressed planes, the 8-bit value is the high byte of each sample. In planes without
# compression the bytes are taken as if the samples had 8 bits: noise instead of the image, without an error or a warning.
# Do: read planar 16-bit TIFFs with tifffile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import tifffile
from PIL import Image

print("pillow", version("pillow"), "tifffile", version("tifffile"))
values = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3) * 5 % 65536
values = values.astype(np.uint16)
planes = values.transpose(2, 0, 1).copy()
tifffile.imwrite("contiguous.tif", values, photometric="rgb", planarconfig="contig")
tifffile.imwrite("planes.tif", planes, photometric="rgb", planarconfig="separate")
tifffile.imwrite("compressed planes.tif", planes, photometric="rgb", planarconfig="separate", compression="zlib")
high = (values >> 8).astype(np.uint8)
right = {name: float((np.asarray(Image.open(f"{name}.tif")) == high).mean()) for name in ("contiguous", "compressed planes", "planes")}
print("share of samples that are the high byte:", {name: round(share, 3) for name, share in right.items()})
sys.exit(0 if right["contiguous"] == right["compressed planes"] == 1 and right["planes"] < 0.1 else 1)
PY
