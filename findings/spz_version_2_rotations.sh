#!/usr/bin/env bash
# Expected: the rotations of an .spz file are as exact as its other 8-bit numbers, below half a degree.
# Seen (format version 2, as gaussforge 0.6.0 writes and gsply 0.4.6 reads it): x, y, z of the quaternion have 8 bits each and w is what
# is left to length 1, so rotations by nearly 180 degrees, where w is small, are off by up to 9 degrees; a quarter of random ones by
# more than 1. Thin Gaussians visibly turn. Version 3 stores the three smallest components: below 0.3 degrees.
# Do: write version 3 (gsply's default; spz_version=3 in gaussforge).
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
random = np.random.default_rng(0)
quats = random.normal(size=(2000, 4)).astype(np.float32)
quats /= np.linalg.norm(quats, axis=1, keepdims=True)
zeros = np.zeros((2000, 3), np.float32)
gsply.plywrite("scene.ply", gsply.GSData.from_arrays(zeros, zeros, quats, zeros[:, 0], zeros, format="ply"))
gsply.use_backend("cpp")  # its other reader compiles itself for half a minute
degrees = {}
for number in (2, 3):
    file = Path(f"{number}.spz")
    file.write_bytes(gaussforge.GaussForge().convert(Path("scene.ply").read_bytes(), "ply", "spz", spz_version=number)["data"])
    cosines = np.abs((gsply.read_spz(file).quats.astype(np.float64) * quats).sum(axis=1)).clip(0, 1)
    degrees[number] = np.degrees(2 * np.arccos(cosines))
print({f"version {number}": f"largest {found.max():.2f}, above 1 degree {(found > 1).mean():.1%}" for number, found in degrees.items()})
sys.exit(0 if degrees[2].max() > 5 and degrees[3].max() < 0.5 else 1)
PY
