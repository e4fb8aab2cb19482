#!/usr/bin/env bash
# Expected: a model made with `AutoencoderKL.from_config(vae.config)` has the configuration that `vae.config` shows, so also a
# scaling_factor that was set with `vae.register_to_config(scaling_factor=…)` after training.
# Seen (diffusers 0.42.1): a value that the constructor took by default goes back to the default, 0.18215; the same value is kept if the
# constructor was given the argument, or after save_pretrained and from_pretrained. Copies of a trained autoencoder, e.g. in half
# precision, so scale their latents wrongly, without an error.
# Do: give such arguments to the constructor, or copy with deepcopy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet diffusers==0.42.1 transformers==5.24.0 torch==2.14.1 accelerate==1.15.0
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

from diffusers import AutoencoderKL

print("diffusers", version("diffusers"))


def copied(vae):
    vae.register_to_config(scaling_factor=0.5)
    assert vae.config.scaling_factor == 0.5
    return AutoencoderKL.from_config(vae.config).config.scaling_factor


small = {"block_out_channels": (8,), "norm_num_groups": 4}
default = copied(AutoencoderKL(**small))
given = copied(AutoencoderKL(**small, scaling_factor=1.0))
vae = AutoencoderKL(**small)
vae.register_to_config(scaling_factor=0.5)
vae.save_pretrained("saved")
saved = AutoencoderKL.from_pretrained("saved").config.scaling_factor
print(f"registered 0.5; from_config has {default}, with the argument given {given}, from_pretrained {saved}")
sys.exit(0 if (default, given, saved) == (0.18215, 0.5, 0.5) else 1)
PY
