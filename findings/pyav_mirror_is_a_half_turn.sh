#!/usr/bin/env bash
# Expected: frame.rotation together with the size says how to show a frame.
# Seen (PyAV 18.1.0): a display matrix that mirrors left and right (as some front cameras write) reads as rotation -180, the same
# as that of a clip that is upside down; nothing in the frame's attributes tells the two apart.
# Do: read the nine numbers of the display matrix from the side data and look at the sign of its determinant.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet av==18.1.0 numpy
cd "$folder"
env/bin/python - <<'PY'
import struct
import sys
from importlib.metadata import version

import av
import numpy as np

print("av", version("av"))
with av.open("plain.mp4", "w") as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for _ in range(3):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
    container.mux(stream.encode())
data = open("plain.mp4", "rb").read()
identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
at = data.index(identity, data.index(b"tkhd"))  # the track's own matrix, not the movie's
rotations = {}
for name, (a, d) in {"mirrored left and right": (-1, 1), "upside down": (-1, -1)}.items():
    matrix = struct.pack(">9i", a * (1 << 16), 0, 0, 0, d * (1 << 16), 0, 0, 0, 1 << 30)
    open("changed.mp4", "wb").write(data[:at] + matrix + data[at + 36 :])
    with av.open("changed.mp4") as container:
        rotations[name] = next(container.decode(video=0)).rotation
print(rotations)
sys.exit(0 if {abs(value) for value in rotations.values()} == {180} else 1)
PY
