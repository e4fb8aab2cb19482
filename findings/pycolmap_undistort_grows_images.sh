#!/usr/bin/env bash
# Expected: undistorted images have the size of the images, or are cropped to what every pixel of them was seen in: 480 x 360 or less.
# Seen (pycolmap 4.2.1): the focal length is kept and the size changes: barrel distortion (k < 0) makes images larger (523 x 375), pincushion distortion
# makes them smaller (437 x 328). Masks, depth maps and other per-pixel files of the original frames no longer fit.
# Do: take the size from the undistorted model, and undistort every per-pixel file with the same model.
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
sizes = {}
for k in (-0.2, -0.1, 0.1, 0.2):
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", 400.0, 480, 360)
    camera.params = [400, 240, 180, k]
    straight = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)
    sizes[k] = straight.width, straight.height
    print(f"k = {k:4.1f}: 480 x 360 -> {straight.width} x {straight.height}, focal length {straight.params[0]:g}")
sys.exit(0 if sizes[-0.2] > (480, 360) and sizes[0.2] < (480, 360) else 1)
PY
