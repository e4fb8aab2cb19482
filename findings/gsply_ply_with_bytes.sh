#!/usr/bin/env bash
# Expected: gsply.plyread reads a 3D Gaussian Splatting .ply that also has colours as bytes (red, green, blue), or refuses it.
# Seen (gsply 0.4.6): it counts the float columns only, so each row is taken to be 3 bytes shorter than it is: after the first row,
# all numbers are other bytes of the file. No error, no warning. gaussforge refuses the same file.
# Do: read .ply files by name and type, e.g. with plyfile.
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
names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
values = np.random.default_rng(0).normal(size=(100, len(names))).astype(np.float32)


def written(path, bytes_after):
    kinds = [(name, "<f4") for name in names]
    for number, name in enumerate(bytes_after):
        kinds.insert(3 + number, (name, "u1"))
    rows = np.zeros(len(values), kinds)
    for number, name in enumerate(names):
        rows[name] = values[:, number]
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(path)
    return path


plain = gsply.plyread(written("plain.ply", [])).means
mixed = gsply.plyread(written("mixed.ply", ["red", "green", "blue"])).means
right = plyfile.PlyData.read("mixed.ply")["vertex"]["x"]
same = [float((found[:, 0] == values[:, 0]).mean()) for found in (plain, mixed)]
print("share of x that is right: floats only", same[0], "with bytes", same[1], "with bytes, by plyfile", float((right == values[:, 0]).mean()))
sys.exit(0 if same[0] == 1 and same[1] < 0.1 and len(mixed) == len(values) else 1)
PY
