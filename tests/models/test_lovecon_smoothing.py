"""Smoothing with RIFE: of a video of any length, and of the clean frames that the last denoising step predicts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny_diffusion
from tests.golden import seeded
from tests.models.test_lovecon_ifnet import network, without_motion
from visionzoo.diffusion import decode_latents, encode_frames, make_scheduler
from visionzoo.errors import InputError
from visionzoo.models.lovecon import smooth_clean_latents, smooth_frames, smooth_video, smoothed_step

MODES = ["recursive", "parallel"]


def frames(count: int, height: int = 32, width: int = 32) -> list[Tensor]:
    return list(seeded.tensor("frames", (count, 3, height, width)))


def plainly(video: list[Tensor], mode: str) -> list[Tensor]:
    """The definition: in place, or from the unsmoothed frames."""
    model, smoothed = network(), list(video)
    source = smoothed if mode == "recursive" else video
    for i in range(1, len(video) - 1):
        middle = model.middle_frame(source[i - 1][None], video[i + 1][None])[0]
        smoothed[i] = (video[i] + middle) / 2
    return smoothed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_streams_give_what_the_definition_gives(mode: str, count: int) -> None:
    found = list(smooth_frames(iter(frames(count)), network(), mode=mode, batch_size=3))  # pyright: ignore[reportArgumentType]
    wanted = plainly(frames(count), mode)
    assert len(found) == count
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "ahead"), [("recursive", 2), ("parallel", 5)])
def test_few_frames_are_read_ahead(mode: str, ahead: int) -> None:
    read = 0

    def video() -> Iterator[Tensor]:
        nonlocal read
        for frame in frames(20, 8, 8):
            read += 1
            yield frame

    made = 0
    for _ in smooth_frames(video(), without_motion(), mode=mode, batch_size=4):  # pyright: ignore[reportArgumentType]
        made += 1
        assert read - made < ahead
    assert made == 20


def test_a_still_video_of_bytes_stays() -> None:
    still = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for frame in smooth_video([still] * 5, without_motion()):
        np.testing.assert_array_equal(frame, still)


def test_flicker_is_halved() -> None:
    bright, dark = (np.full((16, 16, 3), value, np.uint8) for value in (200, 100))
    video = list(smooth_video([bright, dark, bright, dark, bright], without_motion(), mode="parallel"))
    assert [int(frame[0, 0, 0]) for frame in video] == [200, 150, 150, 150, 200]


def test_wrong_frames_are_named() -> None:
    video = [*frames(3), torch.zeros(3, 16, 32)]
    with pytest.raises(InputError, match=r"frame 3 is \(3, 16, 32\), and frame 0 \(3, 32, 32\)"):
        list(smooth_frames(video, network()))
    with pytest.raises(InputError, match=r"frame 0 is \(32, 32, 3\)"):
        list(smooth_frames([torch.zeros(32, 32, 3)], network()))
    with pytest.raises(InputError, match="recursive or parallel, got 'fast'"):
        smooth_frames(video, network(), mode="fast")  # pyright: ignore[reportArgumentType]


# The last step


def test_references_and_the_last_frame_are_only_encoded_again() -> None:
    vae, latents = tiny_diffusion.vae(), seeded.tensor("latents", (6, 4, 4, 4), kind="normal")
    smoothed = smooth_clean_latents(latents, vae, without_motion(), mode="parallel", batch_size=4)
    decoded = decode_latents(vae, latents)
    torch.testing.assert_close(smoothed[[0, 1, 5]], encode_frames(vae, decoded[[0, 1, 5]]), rtol=1e-3, atol=1e-5)
    means = (decoded[1:4] + decoded[3:6]) / 2
    torch.testing.assert_close(smoothed[2:5], encode_frames(vae, means), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_step_is_ddim_with_other_clean_latents(prediction: str) -> None:
    scheduler = make_scheduler("ddim", tiny_diffusion.scheduler(), prediction_type=prediction)
    scheduler.set_timesteps(4)
    latents, output = (seeded.tensor(name, (5, 4, 4, 4), kind="normal") for name in ("latents", "output"))
    timestep = scheduler.timesteps[-2]
    vae = tiny_diffusion.vae()
    found = smoothed_step(scheduler, output, timestep, latents, vae=vae, network=without_motion())
    alpha, after = (scheduler.alphas_cumprod[int(time)] for time in (timestep, scheduler.timesteps[-1]))
    plain = scheduler.step(output, timestep, latents).pred_original_sample
    noise = (latents - alpha.sqrt() * plain) / (1 - alpha).sqrt()
    wanted = after.sqrt() * smooth_clean_latents(plain, vae, without_motion()) + (1 - after).sqrt() * noise
    torch.testing.assert_close(found.latents, wanted, rtol=1e-4, atol=1e-4)


def test_other_schedulers_are_refused() -> None:
    scheduler = make_scheduler("euler", tiny_diffusion.scheduler())
    latents = torch.zeros(5, 4, 4, 4)
    with pytest.raises(InputError, match="needs a DDIM scheduler, got EulerDiscreteScheduler"):
        smoothed_step(scheduler, latents, 1, latents, vae=tiny_diffusion.vae(), network=without_motion())
