#!/usr/bin/env bash
# Expected: a position that an .spz file cannot hold is an error when it is written, or the file's scale fits it (the header has a
# field for the number of bits behind the point).
# Seen (gsply 0.4.6, gaussforge 0.6.0): both write 24-bit positions with 12 bits behind the point, so ±2048, whatever the scene.
# gsply puts what lies further at the edge, gaussforge wraps it to the other side: 3000 becomes -1096. No error, no warning.
# Do: move the scene to the origin, or pass fractional_bits to gsply.write_spz; both readers follow the header.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet gsply==0.4.6 gaussforge==0.6.0 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import gaussforge
import gsply
import numpy as np

print("gsply", version("gsply"), "gaussforge", version("gaussforge"))
means = np.array([[3000, 0, 0], [-5000, 1, 2], [10, 20, 30]], np.float32)
quats = np.tile(np.array([1, 0, 0, 0], np.float32), (3, 1))
zeros = np.zeros((3, 3), np.float32)
data = gsply.GSData.from_arrays(means, zeros, quats, zeros[:, 0], zeros, format="ply")
gsply.plywrite("scene.ply", data)
gsply.write_spz("clamped.spz", data)
gsply.write_spz("wide.spz", data, fractional_bits=10)
Path("wrapped.spz").write_bytes(gaussforge.GaussForge().convert(Path("scene.ply").read_bytes(), "ply", "spz")["data"])
gsply.use_backend("cpp")  # its other reader compiles itself for half a minute
found = {name: gsply.read_spz(f"{name}.spz").means[:, 0].round(2).tolist() for name in ("clamped", "wrapped", "wide")}
print("x of", means[:, 0].tolist(), "is", found)
sys.exit(0 if found["clamped"][0] < 2049 and found["wrapped"][:2] == [-1096, -904] and found["wide"][:2] == [3000, -5000] else 1)
PY
