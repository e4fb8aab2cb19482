#!/usr/bin/env bash
# Expected: a skinned glTF model is loaded in the pose of its skeleton, or with a warning that the skeleton is not read.
# Seen (trimesh 5.2.0): the vertices are those of the bind pose. Joints, weights and animations are dropped without a warning; a mesh whose joint
# has moved it by (5, 0, 0) is loaded where it was bound. Viewers that follow the format show it at x = 5.
# Do: skin the vertices yourself (weighted joint matrices times inverse bind matrices) before geometry is taken from animated models.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet trimesh==5.2.0 numpy
cd "$folder"
env/bin/python - <<'PY'
import base64
import json
import sys
from importlib.metadata import version

import numpy as np
import trimesh

print("trimesh", version("trimesh"))
arrays = {
    "POSITION": ("VEC3", np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")),
    "JOINTS_0": ("VEC4", np.zeros((3, 4), "<u2")),
    "WEIGHTS_0": ("VEC4", np.tile(np.array([1, 0, 0, 0], "<f4"), (3, 1))),
    "bind": ("MAT4", np.eye(4, dtype="<f4").reshape(1, 16)),
}
buffer, views, accessors = b"", [], []
for kind, array in arrays.values():
    views.append({"buffer": 0, "byteOffset": len(buffer), "byteLength": array.nbytes})
    component = 5123 if array.dtype.kind == "u" else 5126
    accessor = {"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": kind}
    accessors.append(accessor | ({"min": [0, 0, 0], "max": [1, 1, 0]} if len(views) == 1 else {}))
    buffer += array.tobytes()
model = {
    "asset": {"version": "2.0"},
    "buffers": [
        {"uri": "data:application/octet-stream;base64," + base64.b64encode(buffer).decode(), "byteLength": len(buffer)}
    ],
    "bufferViews": views,
    "accessors": accessors,
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 2}}]}],
    "nodes": [{"translation": [5, 0, 0]}, {"mesh": 0, "skin": 0}],
    "skins": [{"joints": [0], "inverseBindMatrices": 3}],
    "scenes": [{"nodes": [0, 1]}],
    "scene": 0,
}
with open("model.gltf", "w") as file:
    json.dump(model, file)
loaded = trimesh.load_scene("model.gltf")
vertices = loaded.to_geometry().vertices
print("joint at x = 5; lowest x of the loaded vertices:", vertices[:, 0].min())
sys.exit(0 if abs(vertices[:, 0].min()) < 1e-6 else 1)
PY
