#!/usr/bin/env bash
# Expected: a COLMAP model as text has its poses in images.txt; who edits them there gets the edited poses.
# Seen (pycolmap 4.2.1): where frames.txt lies next to it, as every model written by COLMAP 3.12 or newer has it, the poses of images.txt are
# read and ignored without a warning; those of frames.txt count. Without frames.txt and rigs.txt, images.txt counts.
# Do: scripts that move or scale the cameras of a text model must edit frames.txt too, or delete frames.txt and rigs.txt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pycolmap==4.2.1 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pycolmap

print("pycolmap", version("pycolmap"))
options = pycolmap.SyntheticDatasetOptions()
options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 1, 1, 3, 20
folder = Path("model")
folder.mkdir()
pycolmap.synthesize_dataset(options).write_text(str(folder))
print("written:", ", ".join(sorted(path.name for path in folder.iterdir())))
lines = (folder / "images.txt").read_text().splitlines()
first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
words = lines[first].split()  # number, quaternion, translation, camera, name
words[5:8] = ["7", "8", "9"]
lines[first] = " ".join(words)
(folder / "images.txt").write_text("\n".join(lines) + "\n")


def translation() -> np.ndarray:
    return pycolmap.Reconstruction(str(folder)).images[int(words[0])].cam_from_world().translation


beside_frames = translation()
(folder / "frames.txt").unlink()
(folder / "rigs.txt").unlink()
alone = translation()
print("images.txt says 7 8 9; read with frames.txt:", beside_frames.round(3), "read without:", alone.round(3))
sys.exit(0 if np.array_equal(alone, [7, 8, 9]) and not np.allclose(beside_frames, [7, 8, 9]) else 1)
PY
