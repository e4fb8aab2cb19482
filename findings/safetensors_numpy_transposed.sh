#!/usr/bin/env bash
# Expected: safetensors.numpy.save_file writes the array it is given, whatever its memory layout.
# Seen (safetensors 0.8.0, numpy): a transposed array is written with the right shape and its values in memory order, so reading
# it gives other values at the same places. No error, no warning.
# Do: numpy.ascontiguousarray before saving.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet safetensors==0.8.0 numpy
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load_file, save_file

print("safetensors", version("safetensors"), "numpy", version("numpy"))
array = np.arange(6, dtype=np.float32).reshape(2, 3).T
save_file({"x": array}, "x.safetensors")
read = load_file("x.safetensors")["x"]
print("saved", array.tolist(), "read", read.tolist())
sys.exit(0 if read.shape == array.shape and not np.array_equal(read, array) else 1)
PY
