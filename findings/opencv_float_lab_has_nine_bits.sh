#!/usr/bin/env bash
# Expected: OpenCV's documentation recommends 32-bit images where 8 bits lose colours, so cvtColor(float32, COLOR_RGB2Lab) should give
# CIELAB with the precision of float32, as COLOR_RGB2Luv does.
# Seen (opencv-python-headless 4.14.0.94 and 5.0.0.93, x86-64): the result is interpolated in a coarse table of integers. 10001 greys
# give 513 different L, greys have a and b of up to 0.125, and random colours are up to 0.65 CIEDE2000 off (mean 0.09), most where they
# are dark. So colours that differ by less than about 0.2 can become equal. COLOR_RGB2Luv is within 0.02 of scikit-image, and
# COLOR_LRGB2Lab, which takes linear light, within 0.04 CIEDE2000.
# Do: undo the sRGB curve yourself and use COLOR_LRGB2Lab, or use scikit-image, where differences of about 1 or averages matter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet opencv-python-headless==5.0.0.93 scikit-image==0.26.0 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys

import cv2
import numpy as np
import skimage
from skimage.color import deltaE_ciede2000, rgb2lab, rgb2luv

print("opencv", cv2.__version__, "scikit-image", skimage.__version__)
colors = np.random.default_rng(0).random((1, 200_000, 3)).astype(np.float32)
true = rgb2lab(colors.astype(np.float64))
linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(np.float32)
off = {
    "COLOR_RGB2Lab": deltaE_ciede2000(cv2.cvtColor(colors, cv2.COLOR_RGB2Lab).astype(np.float64), true),
    "COLOR_LRGB2Lab of linear light": deltaE_ciede2000(cv2.cvtColor(linear, cv2.COLOR_LRGB2Lab).astype(np.float64), true),
}
for name, differences in off.items():
    print(f"{name}: CIEDE2000 from scikit-image at most {differences.max():.3f}, on average {differences.mean():.4f}")
luv = np.abs(cv2.cvtColor(colors, cv2.COLOR_RGB2Luv) - rgb2luv(colors.astype(np.float64))).max()
print(f"COLOR_RGB2Luv: L, u and v are at most {luv:.3f} off")
greys = np.repeat(np.linspace(0, 1, 10_001, dtype=np.float32)[None, :, None], 3, axis=2)
lab = cv2.cvtColor(greys, cv2.COLOR_RGB2Lab)[0]
print(f"{greys.shape[1]} greys: {len(np.unique(lab[:, 0]))} values of L, a and b up to {np.abs(lab[:, 1:]).max():.3f}")
if off["COLOR_RGB2Lab"].max() < 0.1 or len(np.unique(lab[:, 0])) > 5000:
    sys.exit("OpenCV computes float Lab precisely now: this finding can go")
PY
