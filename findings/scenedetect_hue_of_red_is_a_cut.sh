#!/usr/bin/env bash
# Expected: PySceneDetect's detectors compare frames by how much their colours change, so a red that becomes invisibly more purple is
# no cut.
# Seen (scenedetect-headless 0.7.2, opencv-python-headless 5.0.0.93): hue is compared as a number although it is an angle. Between
# RGB (200, 4, 0) and (200, 0, 4), two levels of OpenCV's hue apart, the change counts as 178 of 180. ContentDetector and
# AdaptiveDetector both report a cut with their default thresholds; the same step in green gives none.
# Do: do not trust cuts in frames that are mostly red, e.g. generated ones whose colours flicker, without looking at them; or detect
# with luma_only=True.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet scenedetect-headless==0.7.2 opencv-python-headless==5.0.0.93 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys

import cv2
import numpy as np
import scenedetect
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode

print("scenedetect", scenedetect.__version__, "opencv", cv2.__version__)


def cuts(detector, first, second):
    frames = [np.full((64, 96, 3), color[::-1], np.uint8) for color in [first] * 30 + [second] * 30]
    found = []
    for number, frame in enumerate(frames):
        found += detector.process_frame(FrameTimecode(number, fps=8.0), frame)
    return [time.frame_num for time in found]


seen = {}
for name, first, second in (("red", (200, 4, 0), (200, 0, 4)), ("green", (4, 200, 0), (0, 200, 4))):
    for make in (ContentDetector, AdaptiveDetector):
        seen[name, make.__name__] = cuts(make(), first, second)
        print(f"{name}, {first} to {second}, {make.__name__}: cuts at {seen[name, make.__name__]}")
if any(seen["green", name] or not seen["red", name] for name in ("ContentDetector", "AdaptiveDetector")):
    sys.exit("hue is compared as an angle now: this finding can go")
PY
