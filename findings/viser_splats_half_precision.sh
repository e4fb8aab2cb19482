#!/usr/bin/env bash
# Expected: viser's `scene.add_gaussian_splats` takes float covariances and colours, and draws them as given, in any unit of length.
# Seen (viser 1.1.1): covariances become float16. A variance below 3e-8 becomes 0 (a standard deviation of 0.1 mm in metres has 1e-8), and
# half of all flat Gaussians, as surfaces have, get a negative eigenvalue, with which close ones are skipped by the page's shader. There is
# no warning. Float colours are cut off, not rounded: 0.999 becomes 254 of 255.
# Do: scale the scene until standard deviations are near 0.1, let no axis be shorter than 0.03 of the longest, pass colours as uint8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet viser==1.1.1 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import contextlib
import io
import sys

import numpy as np
import viser

COUNT = 20_000
axes = np.linalg.qr(np.random.default_rng(0).normal(size=(COUNT, 3, 3)))[0]


def stored(*sigmas: float) -> viser.GaussianSplatHandle:
    """Gaussians with these standard deviations, turned at random, as viser holds them."""
    covariances = (axes * np.array(sigmas) ** 2) @ axes.transpose(0, 2, 1)
    return server.scene.add_gaussian_splats(
        "/splats", np.zeros((COUNT, 3)), covariances, np.full((COUNT, 3), 0.999), np.ones((COUNT, 1))
    )


def negative(*sigmas: float) -> float:
    """Share of the Gaussians whose covariance has a negative eigenvalue."""
    return float((np.linalg.eigvalsh(stored(*sigmas).covariances.astype(float)) < 0).any(1).mean())


with contextlib.redirect_stdout(io.StringIO()):
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
print("viser", viser.__version__, "numpy", np.__version__)
largest, color = stored(1e-4, 1e-4, 1e-4).covariances.max(), int(stored(1, 1, 1).rgbs[0, 0])
flat, thick = negative(0.1, 0.1, 0.0), negative(0.1, 0.1, 0.003)
print(f"standard deviation 1e-4: variance {largest:.1e} instead of 1.0e-08")
print(f"0.1, 0.1, 0: {flat:.0%} have a negative eigenvalue; 0.1, 0.1, 0.003: {thick:.0%}")
print(f"colour 0.999: {color} of 255")
with contextlib.redirect_stdout(io.StringIO()):
    server.stop()
sys.exit(0 if largest == 0 and flat > 0.3 and thick == 0 and color == 254 else 1)
PY
