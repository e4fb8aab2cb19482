"""Schedulers by name, made from a pipeline's own scheduler so that the noise schedule that the network was trained with is kept."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, check_kind, require, unknown

__all__ = ["check_scheduler", "inversion_pair", "make_scheduler", "scheduler_names", "scheduler_step"]

_LATENT: dict[str, Any] = {"clip_sample": False}
"""Both DDIM schedulers clip to [-1, 1] by default, but latents are larger: an inversion would be off by about 2."""

_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "cogvideox-ddim": ("CogVideoXDDIMScheduler", _LATENT),
    "cogvideox-dpm": ("CogVideoXDPMScheduler", _LATENT),
    "ddim": ("DDIMScheduler", _LATENT),
    "ddim-inverse": ("DDIMInverseScheduler", _LATENT),
    "ddpm": ("DDPMScheduler", _LATENT),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++-karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", _LATENT),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
_NOISE: dict[str, Any] = {
    "num_train_timesteps": None,
    "beta_start": None,
    "beta_end": None,
    "beta_schedule": None,
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
}
"""Settings of the noise that the network was trained with, and the value that a class without such a setting implies."""


def scheduler_names() -> list[str]:
    """The names that `make_scheduler` knows, sorted."""
    return sorted(_KINDS)


def check_scheduler(name: str) -> None:
    """Raise `InputError` unless `make_scheduler` knows the name."""
    if not isinstance(name, str) or name not in _KINDS:
        raise unknown("scheduler", name, _KINDS)


def make_scheduler(name: str, like: Any, **settings: Any) -> Any:
    """A scheduler of diffusers for the same network as another scheduler.

    It keeps the noise schedule and the type of prediction, which plain `from_config` replaces by the new class's defaults
    where the old scheduler was made with its own; everything else is as with `from_config`. Samples are not clipped
    (`clip_sample=False`), and DDIM and its inverse take their timesteps alike, "leading" where the other has "linspace".

    Args:
        name: one of `scheduler_names()`.
        like: a scheduler, or its configuration.
        **settings: arguments of the class, e.g. `timestep_spacing="trailing"`.

    Raises:
        InputError: an unknown name or setting, or a class that cannot have the noise schedule of `like`.
    """
    check_scheduler(name)
    diffusers = require("diffusers", extra="diffusion", purpose="a scheduler")

    place, fixed = _KINDS[name]
    kind: Any = getattr(diffusers, place)
    if not isinstance(like, Mapping):
        check_kind("like", like, "a scheduler of diffusers or its configuration, e.g. pipe.scheduler", "config", "step")
    config: Mapping[str, Any] = like if isinstance(like, Mapping) else like.config
    if "beta_schedule" not in config:
        raise InputError(
            f"the pipeline's scheduler {_name_of(config)} has no noise schedule of betas (flow matching?), which {name} needs"
        )
    known = inspect.signature(kind).parameters
    if bad := settings.keys() - known.keys():
        raise unknown(f"setting of the scheduler {name}", min(bad), known)
    noise = {key: config[key] for key in _NOISE if key in config}
    for key, neutral in _NOISE.items():
        value = noise.get(key, neutral)
        if key not in known and value != neutral:
            raise InputError(
                f"the scheduler {name} cannot have the {key}={value} of {_name_of(config)}; choose another"
            )
        if key in known and key not in noise and neutral is not None:
            noise[key] = neutral
    chosen = {**{key: value for key, value in noise.items() if key in known}, **fixed}
    if name in ("ddim", "ddim-inverse"):
        shared = {"steps_offset": 0, "set_alpha_to_one": True, "timestep_spacing": "leading"}
        chosen |= {key: config.get(key, value) for key, value in shared.items()}
        if chosen["timestep_spacing"] == "linspace":  # the inverse has none
            chosen["timestep_spacing"] = "leading"
    return kind.from_config(dict(config), **{**chosen, **settings})


def _name_of(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", "given"))


def inversion_pair(like: Any) -> tuple[Any, Any]:
    """DDIM inversion and DDIM sampling that undo each other, for the network of a scheduler: (inverse, forward).

    Sampling with the pipeline's own scheduler instead would not return to the start if it clips samples or has another
    offset or first alpha.
    """
    return make_scheduler("ddim-inverse", like), make_scheduler("ddim", like)


def scheduler_step(
    scheduler: Any,
    output: Tensor,
    timestep: Tensor | int,
    latents: Tensor,
    *,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
) -> Tensor:
    """One step of a scheduler in float32, whatever precision the network has; returns the next latents, float32.

    With latents in half precision, rounding adds up over the steps, and an inversion does not return to its start.

    Args:
        output: what the network predicts, (B, …).
        latents: the current latents, (B, …).
        generator, eta: passed to schedulers that take them.

    Raises:
        InputError: no scheduler, or no tensors.
    """
    check_kind("the scheduler", scheduler, "a scheduler of diffusers, e.g. pipe.scheduler", "config", "step")
    for name, value in (("the output", output), ("latents", latents)):
        check_kind(name, value, "a tensor (B, …)", "float", "shape")
    known = inspect.signature(scheduler.step).parameters
    options = {"generator": generator, "eta": eta}
    extra = {key: value for key, value in options.items() if key in known}
    return scheduler.step(output.float(), timestep, latents.float(), return_dict=False, **extra)[0]
