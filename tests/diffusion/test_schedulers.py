"""Schedulers by name keep the noise schedule of the network, and DDIM inversion returns to its start."""

from __future__ import annotations

import diffusers
import pytest
import torch

from tests import tiny_diffusion
from visionzoo.diffusion import inversion_pair, make_scheduler, scheduler_names, scheduler_step
from visionzoo.errors import InputError

OTHERS = [
    diffusers.DDIMScheduler(),  # clips by default
    tiny_diffusion.scheduler(),
    diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),  # linspace
    diffusers.DPMSolverMultistepScheduler(beta_start=0.001, beta_schedule="linear"),
    diffusers.PNDMScheduler(steps_offset=1, set_alpha_to_one=False, beta_schedule="scaled_linear"),
    diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"),
]


def ids(scheduler: object) -> str:
    return type(scheduler).__name__


@pytest.mark.parametrize("like", OTHERS[:5], ids=ids)
@pytest.mark.parametrize("name", [name for name in scheduler_names() if "cogvideox" not in name])
def test_the_noise_schedule_is_kept(name: str, like) -> None:
    """LCM's own defaults, for one, are another schedule."""
    made = make_scheduler(name, like)
    assert torch.allclose(made.alphas_cumprod, like.alphas_cumprod)
    assert made.config.prediction_type == like.config.prediction_type
    assert not made.config.get("clip_sample", False)
    made.set_timesteps(4)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for timestep in made.timesteps:
        step = scheduler_step(made, latents, timestep, latents, generator=torch.Generator().manual_seed(0))
        assert step.isfinite().all()


@pytest.mark.parametrize("name", ["dpm++", "euler", "ddim"])
def test_images_are_those_of_plain_diffusers(name: str) -> None:
    """For Stable Diffusion's own configuration, the usual recipe gives the same."""
    kind = {
        "dpm++": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "ddim": diffusers.DDIMScheduler,
    }[name]
    made, plain = make_scheduler(name, tiny_diffusion.scheduler()), kind.from_config(tiny_diffusion.scheduler().config)
    made.set_timesteps(6)
    plain.set_timesteps(6)
    assert torch.equal(made.timesteps, plain.timesteps)
    assert {k: v for k, v in made.config.items() if k[0] != "_"} == {
        k: v for k, v in plain.config.items() if k[0] != "_"
    }


@pytest.mark.parametrize("like", OTHERS[:5], ids=ids)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_inversion_returns_to_its_start(like, precision: torch.dtype) -> None:
    """For a network that predicts the same everywhere, sampling undoes inversion exactly, whatever its precision."""
    inverse, forward = inversion_pair(like)
    start = 3 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(precision)
    if like.config.prediction_type != "epsilon":
        inverse.register_to_config(prediction_type="epsilon")
        forward.register_to_config(prediction_type="epsilon")
    latents = start
    inverse.set_timesteps(50)
    forward.set_timesteps(50)
    assert torch.equal(inverse.timesteps.flip(0), forward.timesteps)
    for timestep in inverse.timesteps:
        latents = scheduler_step(inverse, noise, timestep, latents)
    assert latents.dtype == torch.float32
    assert (latents - start).abs().max() > 1
    for timestep in forward.timesteps:
        latents = scheduler_step(forward, noise, timestep, latents)
    assert (latents - start).abs().max() < 1e-4


def test_one_step_follows_the_equation() -> None:
    """DDIM with noise, Eq. 12 of arXiv:2010.02502; the generator decides the noise, and sampling without it needs none."""
    scheduler = make_scheduler("ddim", tiny_diffusion.scheduler())
    scheduler.set_timesteps(10)
    latents, output = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    now = int(scheduler.timesteps[3])
    a, b = scheduler.alphas_cumprod[now], scheduler.alphas_cumprod[now - 100]
    clean = (latents - (1 - a).sqrt() * output) / a.sqrt()
    want = b.sqrt() * clean + (1 - b).sqrt() * output
    assert torch.allclose(scheduler_step(scheduler, output, now, latents), want, atol=1e-5)
    sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    want = b.sqrt() * clean + (1 - b - sigma**2).sqrt() * output + sigma * noise
    drawn = scheduler_step(scheduler, output, now, latents, generator=torch.Generator().manual_seed(5), eta=1.0)
    assert torch.allclose(drawn, want, atol=1e-5)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(InputError, match="there is no scheduler 'eular'; did you mean euler"):
        make_scheduler("eular", OTHERS[0])
    with pytest.raises(InputError, match="there is no setting of the scheduler euler 'sigma'"):
        make_scheduler("euler", OTHERS[0], sigma=1)
    with pytest.raises(InputError, match="heun cannot have the rescale_betas_zero_snr=True of .*; choose another"):
        make_scheduler("heun", OTHERS[5])
    with pytest.raises(InputError, match="flow matching"):
        make_scheduler("euler", diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InputError, match=r"ddim cannot have the snr_shift_scale=3\.0"):
        make_scheduler("ddim", diffusers.CogVideoXDDIMScheduler())


def test_settings_win_and_cogvideox_keeps_its_shift() -> None:
    assert make_scheduler("ddim", OTHERS[0], timestep_spacing="trailing").config.timestep_spacing == "trailing"
    like = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.5)
    made = make_scheduler("cogvideox-dpm", like)
    assert torch.equal(made.alphas_cumprod, like.alphas_cumprod)
    plain = make_scheduler("cogvideox-ddim", tiny_diffusion.scheduler())
    assert torch.allclose(plain.alphas_cumprod.float(), tiny_diffusion.scheduler().alphas_cumprod, atol=1e-6)
