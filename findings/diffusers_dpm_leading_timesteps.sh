#!/usr/bin/env bash
# Expected: samplers with the same settings (timestep_spacing="leading", steps_offset=1) take the same timesteps for the same number of
# steps, so that a multistep solver made with `from_config` from a pipeline's DDIM scheduler visits those of a DDIM inversion.
# Seen (diffusers 0.42.1): DDIM and Euler space 20 steps by 1000 // 20 = 50: 951, 901, …, 1. DPMSolverMultistepScheduler,
# UniPCMultistepScheduler and DEISMultistepScheduler space them by 1000 // 21 = 47, leave out the one nearest to clean, and start at 941:
# the list has the same length, no timestep in common and a less noisy start. With "trailing", all are alike. Latents of
# an inversion are then fused, or attention maps injected, at other noise levels than those of the sampler, without an error.
# Do: pass the list, `scheduler.set_timesteps(timesteps=ddim.timesteps.tolist())`, which DPMSolverMultistepScheduler takes, or use "trailing".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet diffusers==0.42.1 torch==2.14.1
cd "$folder"
env/bin/python - <<'PY'
import sys
from importlib.metadata import version

from diffusers import DDIMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

print("diffusers", version("diffusers"))


def timesteps(kind, spacing):
    like = DDIMScheduler(steps_offset=1, timestep_spacing=spacing)
    scheduler = kind.from_config(like.config)
    scheduler.set_timesteps(20)
    return [int(step) for step in scheduler.timesteps]


found = {}
for spacing in ("leading", "trailing"):
    for kind in (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
        steps = found[spacing, kind] = timesteps(kind, spacing)
        print(spacing, kind.__name__, len(steps), steps[:3], "…", steps[-2:])
ddim = DDIMScheduler(steps_offset=1)
ddim.set_timesteps(20)
given = DPMSolverMultistepScheduler.from_config(ddim.config)
given.set_timesteps(timesteps=ddim.timesteps.tolist())
multistep = (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler)
differ = all(found["leading", kind] == list(range(941, 0, -47))[:20] for kind in multistep)
alike = found["leading", DDIMScheduler] == found["leading", EulerDiscreteScheduler] == list(range(951, 0, -50))
trailing = len({tuple(steps) for (spacing, _), steps in found.items() if spacing == "trailing"}) == 1
taken = given.timesteps.tolist() == ddim.timesteps.tolist()
print(f"others differ: {differ}; DDIM and Euler alike: {alike}; trailing alike: {trailing}; a given list is taken: {taken}")
sys.exit(0 if differ and alike and trailing and taken else 1)
PY
