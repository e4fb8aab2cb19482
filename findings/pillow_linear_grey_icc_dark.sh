#!/usr/bin/env bash
# Expected: ImageCms converts grey of a linear profile (gamma 1, common for scans and renderings) to sRGB to within one level of 255.
# Seen (Pillow 12.3.0 with littlecms 2.19): shadows are up to 10 levels too dark, grey 1 becomes 6 instead of 13. The transform is optimised into
# a table of evenly spaced nodes, which the steep start of the curve falls between. RGB profiles of the same gamma are converted exactly.
# Do: build transforms from grey with flags=ImageCms.Flags.NOOPTIMIZE.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pillow==12.3.0 numpy
cd "$folder"
env/bin/python - <<'PY'
import io
import struct
import sys
from importlib.metadata import version

import numpy as np
from PIL import Image, ImageCms, features


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


white = fixed(0.9642, 1.0, 0.8249)
tags = [
    (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + b"\0" * 79),
    (b"wtpt", b"XYZ \0\0\0\0" + white),
    (b"kTRC", b"curv\0\0\0\0" + struct.pack(">IH", 1, 256) + b"\0\0"),  # gamma 1
]
table = data = b""
for name, value in tags:
    table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
    data += value
body = struct.pack(">I", len(tags)) + table + data
header = bytearray(128)
header[0:4], header[8:12] = struct.pack(">I", 128 + len(body)), struct.pack(">I", 0x02100000)
header[12:24], header[24:36], header[36:40], header[68:80] = b"mntrGRAYXYZ ", struct.pack(">6H", 2020, 1, 1, 0, 0, 0), b"acsp", white
profile = bytes(header) + body

grey = np.arange(256, dtype=np.uint8)[None]
linear = grey[0] / 255
right = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
print("pillow", version("pillow"), "littlecms", features.version("littlecms2"))
error = {}
for name, flags in (("default", ImageCms.Flags.NONE), ("NOOPTIMIZE", ImageCms.Flags.NOOPTIMIZE)):
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "L", "RGB", renderingIntent=1, flags=flags)
    shown = np.asarray(transform.apply(Image.fromarray(grey)))[0, :, 0]
    error[name] = float(np.abs(shown - right).max())
    print(f"{name}: greys 1 to 4 become {shown[1:5].tolist()}, expected {right[1:5].round().astype(int).tolist()}; off by up to {error[name]:.1f} of 255")
sys.exit(0 if error["default"] > 5 and error["NOOPTIMIZE"] < 1 else 1)
PY
