#!/usr/bin/env bash
# Expected: gsply.plywrite(path, means, scales, quats, opacities, sh0, shN) writes the arrays that it is given.
# Seen (gsply 0.4.6): it guesses from their values whether scales are logarithms and opacities are logits. Of a scene in a large unit
# (all scales above 1, so no logarithm is negative) it takes the logarithm again; so it does with the logits of a scene whose opacities lie
# between 0.5 and 0.73. It does so in place: the arrays of the caller are changed, too.
# Do: gsply.plywrite(path, gsply.GSData.from_arrays(..., format="ply")), which guesses nothing, on copies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet gsply==0.4.6 plyfile==1.1.5 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

import gsply
import numpy as np
import plyfile

print("gsply", version("gsply"))
random = np.random.default_rng(0)
count = 100
means, scales, quats = (random.uniform(0.1, 2, size=(count, width)).astype(np.float32) for width in (3, 3, 4))  # logarithms: 1.1 to 7.4
opacities = random.uniform(0.1, 0.9, size=count).astype(np.float32)  # logits: opacities of 0.52 to 0.71
colors = random.normal(size=(count, 3)).astype(np.float32)
given = [value.copy() for value in (scales, opacities)]


def stored(path):
    rows = plyfile.PlyData.read(path)["vertex"]
    return np.stack([rows[f"scale_{i}"] for i in range(3)], axis=1), rows["opacity"]


data = gsply.GSData.from_arrays(means, scales.copy(), quats, opacities.copy(), colors, format="ply")
gsply.plywrite("stated.ply", data)
gsply.plywrite("guessed.ply", means, scales, quats, opacities, colors)
errors = {path: [float(np.abs(found - true).max()) for found, true in zip(stored(path), given)] for path in ("stated.ply", "guessed.ply")}
changed = [float(np.abs(now - true).max()) for now, true in zip((scales, opacities), given)]
print("largest error of scales and opacities:", errors, "change of the caller's arrays:", changed)
again = np.allclose(stored("guessed.ply")[0], np.log(given[0]), atol=1e-5)
sys.exit(0 if max(errors["stated.ply"]) == 0 and again and min(changed) > 0.1 else 1)
PY
