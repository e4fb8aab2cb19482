#!/usr/bin/env bash
# Expected: AutoencoderKLCogVideoX returns videos of the size and length it was given if their sides are multiples of 8, and tiling
# changes only the memory that this takes, apart from small differences where tiles meet.
# Seen (diffusers 0.42.1): with `enable_tiling(tile_sample_min_height=128, tile_sample_min_width=128)`, 256 x 256 becomes 33 x 32 latents
# and a video of 270 x 270, without an error, and 200 x 200 becomes 203 x 214. Tiles are a sixth and a fifth smaller than given, which is
# no multiple of 8 here, so that their latents are rounded down and do not meet; the default tiles (240 x 360) are not affected. The
# number of frames is another matter: 8 k + 1 come back as they are, but 13 as 16, 14 as 16, and 5 as 8.
# Do: choose tiles for which 5/6 of the height and 4/5 of the width are multiples of 8, e.g. 192 x 160, and 8 k + 1 frames; compare
# shapes after decoding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet diffusers==0.42.1 transformers==5.24.0 torch==2.14.1 accelerate==1.15.0
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

import torch
from diffusers import AutoencoderKLCogVideoX

print("diffusers", version("diffusers"), "torch", torch.__version__)
torch.manual_seed(0)
vae = AutoencoderKLCogVideoX(
    down_block_types=("CogVideoXDownBlock3D",) * 4,
    up_block_types=("CogVideoXUpBlock3D",) * 4,
    block_out_channels=(8, 8, 8, 8),
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=2,
).eval()


@torch.no_grad()
def back(frames: int, height: int, width: int) -> tuple[int, ...]:
    latents = vae.encode(torch.randn(1, 3, frames, height, width)).latent_dist.mode()
    found = tuple(vae.decode(latents).sample.shape[2:])
    print(f"{(frames, height, width)} -> latents {tuple(latents.shape[2:])} -> {found}")
    return found


lengths = {frames: back(frames, 16, 16)[0] for frames in (1, 5, 9, 13, 14, 17, 81)}
whole = back(9, 256, 256)
vae.enable_tiling(tile_sample_min_height=128, tile_sample_min_width=128)
print("tiles of 128 x 128:")
square, other = back(9, 256, 256), back(9, 200, 200)
vae.enable_tiling(tile_sample_min_height=192, tile_sample_min_width=160)
print("tiles of 192 x 160:")
good = back(9, 256, 256)
as_said = lengths == {1: 1, 5: 8, 9: 9, 13: 16, 14: 16, 17: 17, 81: 81}
as_said &= whole == good == (9, 256, 256) and square == (9, 270, 270) and other == (9, 203, 214)
sys.exit(0 if as_said else 1)
PY
