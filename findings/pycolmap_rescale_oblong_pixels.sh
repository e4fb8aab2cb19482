#!/usr/bin/env bash
# Expected: Camera.rescale(0.5) halves the focal length of a camera with square pixels, and its pixels stay square.
# Seen (pycolmap 4.2.1): the new width and height are rounded, and each axis is scaled by its own rounded ratio: a PINHOLE camera gets fx != fy, and
# a SIMPLE_PINHOLE camera, which has one focal length, gets one that fits neither axis.
# Do: scale to a width and height that divide evenly, or scale images by the same two ratios (width / old width, height / old height).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pycolmap==4.2.1 numpy
"$folder/env/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import pycolmap

print("pycolmap", version("pycolmap"))
cameras = {}
for model in ("PINHOLE", "SIMPLE_PINHOLE"):
    cameras[model] = pycolmap.Camera.create_from_model_name(1, model, 500.0, 641, 361)
    cameras[model].rescale(0.5)
    c = cameras[model]
    print(f"{model}: 641 x 361, f 500 -> {c.width} x {c.height}, parameters {c.params.round(3)}")
fx, fy = cameras["PINHOLE"].params[:2]
f = cameras["SIMPLE_PINHOLE"].params[0]
sys.exit(0 if abs(fx - fy) > 0.1 and f != 250 and f not in (fx, fy) else 1)
PY
