#!/usr/bin/env bash
# Expected: the f_rest columns of a compressed .ply (PlayCanvas) lie as in any 3D Gaussian Splatting .ply: all of red, all of green, all
# of blue. gsplat and gsply write them so.
# Seen (gaussforge 0.6.0): it writes them coefficient by coefficient (red, green, blue of the first, then of the second, …), and reads
# them by channel: after a round trip through its own compressed .ply, colours that depend on the view are other ones.
# Do: write compressed .ply files with another program; files from it need their columns reordered.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet gaussforge==0.6.0 plyfile==1.1.5 numpy
cd "$folder"
env/bin/python - <<'PY'
import io
import sys
from importlib.metadata import version

import gaussforge
import numpy as np
import plyfile

print("gaussforge", version("gaussforge"))
random = np.random.default_rng(0)
count = 200
harmonics = (0.2 * random.normal(size=(count, 15, 3))).astype(np.float32)
names = [*(f"rot_{i}" for i in range(4)), "x", "y", "z", *(f"scale_{i}" for i in range(3)), "opacity", *(f"f_dc_{i}" for i in range(3))]
rows = np.zeros(count, [(name, "<f4") for name in [*names, *(f"f_rest_{i}" for i in range(45))]])
for name in names:
    rows[name] = random.normal(size=count)
for i, column in enumerate(harmonics.transpose(0, 2, 1).reshape(count, 45).T):
    rows[f"f_rest_{i}"] = column
file = io.BytesIO()
plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(file)

forge = gaussforge.GaussForge()
packed = forge.convert(file.getvalue(), "ply", "compressed.ply")["data"]
rest = plyfile.PlyData.read(io.BytesIO(packed))["sh"]
stored = (np.stack([rest[f"f_rest_{i}"] for i in range(45)], axis=1).astype(np.float32) - 127.5) / 32
by_channel = float(np.abs(stored - harmonics.transpose(0, 2, 1).reshape(count, 45)).max())
by_coefficient = float(np.abs(stored - harmonics.reshape(count, 45)).max())
back = np.frombuffer(forge.read(packed, "compressed.ply")["data"]["sh"], np.float32).reshape(count, 15, 3)
print(f"largest error: by channel {by_channel:.3f}, by coefficient {by_coefficient:.3f}; after its round trip {np.abs(back - harmonics).max():.3f}")
sys.exit(0 if by_coefficient < 0.05 < 0.5 < by_channel and np.abs(back - harmonics).max() > 0.5 else 1)
PY
