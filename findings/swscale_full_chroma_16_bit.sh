#!/usr/bin/env bash
# Expected: the scaler flag FULL_CHR_H_INT, which asks for more accurate colour, changes a conversion by rounding only.
# Seen (PyAV 18.1.0 with FFmpeg 8.1.2): 4:2:0 YUV of 10 bits to packed RGB of 16 bits (rgb48le), with the filter AREA at the same
# size, gives other colours with the flag, without an error: 126 of 255 becomes 0. BICUBIC, 4:4:4, planar gbrp16le and 8 bits are right.
# Do: convert to gbrp16le, or leave the flag out for rgb48le and rgba64le.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import sys

import av
import numpy as np

AREA, BICUBIC, FULL_CHROMA = 0x20, 0x4, 0x2000
print("PyAV", av.__version__, "libswscale", av.library_versions["libswscale"])
rgb = np.full((48, 64, 3), (140, 126, 75), np.uint8)
damaged = 0
for source in ("yuv420p10le", "yuv444p10le"):
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=source)
    for name, flags in (("area", AREA), ("area, full chroma", AREA | FULL_CHROMA), ("bicubic, full chroma", BICUBIC | FULL_CHROMA)):
        pixels = {
            target: frame.to_ndarray(format=target, interpolation=flags, width=64, height=48)[20, 20] >> 8
            for target in ("gbrp16le", "rgb48le")
        }
        print(f"{source}, {name}:", {target: value.tolist() for target, value in pixels.items()})
        damaged += bool(np.abs(pixels["rgb48le"].astype(int) - pixels["gbrp16le"]).max() > 8)
print(damaged, "of 6 conversions to rgb48le are damaged")
sys.exit(not damaged)
PY
