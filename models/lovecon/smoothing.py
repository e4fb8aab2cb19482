"""Smoothing with frames that RIFE estimates: of the clean frames that the last denoising step predicts, and of the finished video.

Both replace or blend a frame by the middle of its neighbours. In "recursive" mode, as published, the earlier neighbour is already
smoothed, so that smoothing carries on from frame to frame. In "parallel" mode both neighbours are unsmoothed, and several frames
are computed at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.batching import Batches
from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_float, to_uint8

from .ifnet import IFNet

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

Mode = Literal["recursive", "parallel"]
_MODES = ("recursive", "parallel")


# The last denoising step


class SmoothedStep(NamedTuple):
    """A denoising step with smoothed clean frames.

    Attributes:
        latents: the next latents, (F, C, h, w) float32.
        clean: the smoothed prediction of the clean latents that they come from, (F, C, h, w) float32.
    """

    latents: Tensor
    clean: Tensor


@torch.no_grad()
def smoothed_step(
    scheduler: Any,
    output: Tensor,
    timestep: Tensor | int,
    latents: Tensor,
    *,
    vae: AutoencoderKL,
    network: IFNet,
    mode: Mode = "recursive",
    batch_size: int = 8,
    generator: torch.Generator | None = None,
) -> SmoothedStep:
    """A DDIM step of a window in which RIFE smooths the predicted clean frames; LOVECon uses it as the last step.

    The next latents are sqrt(a) x0 + sqrt(1 - a) noise, where x0 are the clean latents and a is the cumulative alpha after the step.
    So a change of x0 is added with the factor sqrt(a), whatever the network predicts.

    Args:
        scheduler: diffusers' `DDIMScheduler`, with its timesteps set.
        output: what the UNet predicts for the window, (F, C, h, w).
        timestep: the current timestep.
        latents: the current latents, (F, C, h, w); the first two frames are the references, and the others the window.
        vae, network, mode, batch_size, generator: see `smooth_clean_latents`.

    Raises:
        InputError: another kind of scheduler, or latents that do not fit the autoencoder.
    """
    if not hasattr(scheduler, "final_alpha_cumprod"):
        raise InputError(
            f"smoothing the last step needs a DDIM scheduler, got {type(scheduler).__name__}; use DDIM, or switch smoothing off"
        )
    plain = scheduler.step(output.float(), timestep, latents.float())
    clean = smooth_clean_latents(
        plain.pred_original_sample, vae, network, mode=mode, batch_size=batch_size, generator=generator
    )
    after = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alpha = scheduler.alphas_cumprod[after] if after >= 0 else scheduler.final_alpha_cumprod
    change = clean.to(plain.prev_sample) - plain.pred_original_sample
    return SmoothedStep(plain.prev_sample + alpha.to(change) ** 0.5 * change, clean)


@torch.no_grad()
def smooth_clean_latents(
    latents: Tensor,
    vae: AutoencoderKL,
    network: IFNet,
    *,
    mode: Mode = "recursive",
    batch_size: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Decode the clean latents of a window, replace frames by the middle of their neighbours, and encode them again.

    All frames are replaced except for the first two, which are references, and the last one. The second frame is the earlier neighbour
    of the third.

    Args:
        latents: (F, C, h, w), scaled, in the order in which LOVECon denoises a window: two references, then the window.
        vae: the autoencoder.
        network: an `IFNet`.
        mode: "recursive" as published: the earlier neighbour is already replaced; "parallel": both neighbours are as decoded.
        batch_size: frames that the autoencoder, and in parallel mode RIFE, processes at once; halved when memory runs out.
        generator: draw from the autoencoder's distribution, as published; None takes its mode.

    Returns:
        (F, C, h, w) float32 on the autoencoder's device.

    Raises:
        InputError: an unknown mode, or latents that do not fit the autoencoder.
    """
    _check_mode(mode)
    batches = Batches(vae.device, batch_size)
    decoded = torch.cat(batches.run(lambda part: decode_latents(vae, torch.stack(part)), list(latents)))
    middles = _smoothed(decoded[1:], network, mode, batch_size, weight=1.0)
    smoothed = torch.stack([decoded[0], *middles]).clamp(0, 1)
    made = batches.run(lambda part: encode_frames(vae, torch.stack(part), generator=generator), list(smoothed))
    return torch.cat(made)


# The finished video


def smooth_video(
    frames: Iterable[NDArray[np.uint8]], network: IFNet, *, mode: Mode = "recursive", batch_size: int = 8
) -> Iterator[NDArray[np.uint8]]:
    """Smooth a video of 8-bit frames (H, W, 3) one by one; see `smooth_frames`.

    Results are rounded to the nearest level; the published code rounds down, which darkens the video by half a level.
    """
    planes = (to_float(frame).contiguous() for frame in frames)
    for smoothed in smooth_frames(planes, network, mode=mode, batch_size=batch_size):
        yield to_uint8(smoothed)


def smooth_frames(
    frames: Iterable[Tensor], network: IFNet, *, mode: Mode = "recursive", batch_size: int = 8
) -> Iterator[Tensor]:
    """Replace each frame of a video, except for the first and the last, by its mean with the middle of its neighbours.

    The video can be of any length: three frames are in memory, and in parallel mode `batch_size` more.

    Args:
        frames: each (3, H, W) float in [0, 1], of one size.
        network: an `IFNet`.
        mode: "recursive" as published: the earlier neighbour is already smoothed; "parallel": both are the video's own frames.
        batch_size: frames that RIFE estimates at once in parallel mode; halved when memory runs out.

    Yields:
        (3, H, W) float32 on the CPU, one for each frame.

    Raises:
        InputError: an unknown mode, or frames of another shape or of several sizes.
    """
    _check_mode(mode)
    return _on_cpu(_smoothed(_same_size(frames), network, mode, batch_size, weight=0.5))


def _smoothed(
    frames: Iterable[Tensor], network: IFNet, mode: Mode, batch_size: int, *, weight: float
) -> Iterator[Tensor]:
    """Blend each inner frame with the middle of its neighbours, which has the given weight."""
    device = next(network.parameters()).device
    source = (frame.to(device, torch.float32) for frame in frames)
    return (_recursive if mode == "recursive" else _parallel)(source, network, weight, batch_size)


def _recursive(source: Iterator[Tensor], network: IFNet, weight: float, _batch_size: int) -> Iterator[Tensor]:
    window = list(islice(source, 2))
    yield from window[:1]
    for following in source:
        before, frame = window
        middle = network.middle_frame(before[None], following[None])[0]
        frame = torch.lerp(frame, middle, weight)
        yield frame
        window = [frame, following]
    yield from window[1:]


def _parallel(source: Iterator[Tensor], network: IFNet, weight: float, batch_size: int) -> Iterator[Tensor]:
    batches = Batches(next(network.parameters()).device, batch_size)
    window = list(islice(source, 2))
    yield from window[:1]
    while following := list(islice(source, batches.size)):
        window += following
        triples = list(zip(window, window[1:], window[2:], strict=False))
        for part in batches.run(lambda part: _blended(part, network, weight), triples):
            yield from part
        window = window[-2:]
    yield from window[1:]


def _blended(triples: list[tuple[Tensor, Tensor, Tensor]], network: IFNet, weight: float) -> Tensor:
    before, frame, after = (torch.stack(frames) for frames in zip(*triples, strict=True))
    return torch.lerp(frame, network.middle_frame(before, after), weight)


def _same_size(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    size = None
    for number, frame in enumerate(frames):
        size = size or frame.shape
        if frame.ndim != 3 or frame.shape[0] != 3 or not frame.is_floating_point():
            raise InputError(
                f"frame {number} is {tuple(frame.shape)} {frame.dtype}, expected floats (3, H, W) in [0, 1]"
            )
        if frame.shape != size:
            raise InputError(
                f"frame {number} is {tuple(frame.shape)}, and frame 0 {tuple(size)}; resize them to one size"
            )
        yield frame


def _on_cpu(frames: Iterator[Tensor]) -> Iterator[Tensor]:
    for frame in frames:
        yield frame.cpu()


def _check_mode(mode: str) -> None:
    if mode not in _MODES:
        raise InputError(f"smoothing mode must be {' or '.join(_MODES)}, got {mode!r}")


__all__ = ["Mode", "SmoothedStep", "smooth_clean_latents", "smooth_frames", "smooth_video", "smoothed_step"]
