"""Frames to latents and back, in batches, and latents on disk that are checked against their autoencoder and frame size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batching import Batches
from ..errors import InputError, check_items, check_kind, described
from ..io.pixels import to_float, to_uint8
from ..io.tensor_file import TensorFile, TensorWriter
from ..weights import fingerprint

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

__all__ = [
    "check_frame_size",
    "decode_latents",
    "decode_stream",
    "encode_frames",
    "encode_stream",
    "encode_to_file",
    "latent_writer",
    "open_latents",
]

Frames = NDArray[np.uint8] | Tensor
"""(N, H, W, 3) uint8, or (N, 3, H, W) float in [0, 1]."""


_VIDEO = "images (H, W, 3), one after another (of a video file: visionzoo.io.video.read_frames)"


def check_vae(vae: Any) -> None:
    """Raise `InputError` unless it is an autoencoder of diffusers."""
    check_kind(
        "the autoencoder", vae, "an AutoencoderKL of diffusers, e.g. pipe.vae", "config", "encode", "decode", "device"
    )


def spatial_factor(vae: AutoencoderKL) -> int:
    """How much smaller latents are than images, along each side."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def check_frame_size(vae: AutoencoderKL, height: int, width: int) -> None:
    """Raise `InputError` unless the sides are multiples of the autoencoder's factor, which otherwise rounds sizes down."""
    check_vae(vae)
    factor = spatial_factor(vae)
    if height % factor or width % factor or not (height and width):
        near = " x ".join(str(max(factor, round(side / factor) * factor)) for side in (width, height))
        raise InputError(
            f"frames of {width} x {height} pixels do not fit the autoencoder: both sides must be multiples of {factor}; "
            f"resize or crop them, e.g. to {near}"
        )


@torch.no_grad()
def encode_frames(vae: AutoencoderKL, frames: Frames, *, generator: torch.Generator | None = None) -> Tensor:
    """Encode frames to scaled latents (N, C, h, w), float32 on the autoencoder's device, as diffusers' pipelines use them.

    Args:
        vae: an image autoencoder with a latent distribution, of any precision.
        frames: (N, H, W, 3) uint8, or (N, 3, H, W) float in [0, 1].
        generator: draw from the distribution; None takes its mode, so that equal frames have equal latents.

    Raises:
        InputError: frames of another shape, type or range, sides that are not multiples of the autoencoder's factor, or
            latents that are not finite.
    """
    check_vae(vae)
    images = _checked(frames, vae.device)
    check_frame_size(vae, *images.shape[-2:])
    encoded: Any = vae.encode((2 * images - 1).to(vae.dtype))
    posterior = encoded.latent_dist
    latents = (posterior.mode() if generator is None else posterior.sample(generator)).float()
    _check_finite(latents, vae)
    scale, shift = _scaling(vae)
    return (latents - shift) * scale


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode scaled latents (N, C, h, w) to frames (N, 3, H, W), float32 in [0, 1], clipped.

    Raises:
        InputError: latents of another shape, or frames that are not finite.
    """
    check_vae(vae)
    check_kind("latents", latents, "a tensor (N, C, h, w)", "ndim", "to")
    channels = vae.config["latent_channels"]
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise InputError(f"expected latents (N, {channels}, h, w) for this autoencoder, got {tuple(latents.shape)}")
    scale, shift = _scaling(vae)
    unscaled: Any = (latents.to(vae.device, torch.float32) / scale + shift).to(vae.dtype)
    decoded: Any = vae.decode(unscaled)
    images = decoded.sample.float()
    _check_finite(images, vae)
    return (images / 2 + 0.5).clamp(0, 1)


def _checked(frames: Frames, device: torch.device) -> Tensor:
    """Frames as float32 in [0, 1] on the device."""
    if not isinstance(frames, (np.ndarray, Tensor)):
        raise InputError(
            "expected frames as an array (N, H, W, 3) of uint8 or a tensor (N, 3, H, W) of floats in [0, 1], got "
            f"{described(frames)}; for a video file, use encode_stream(vae, read_frames(path))"
        )
    bytes_ = frames.dtype in (np.uint8, torch.uint8)
    channels = frames.shape[-1 if bytes_ else -3] if frames.ndim == 4 else 0
    if channels != 3 or not (bytes_ or (isinstance(frames, Tensor) and frames.is_floating_point())):
        raise InputError(
            "expected frames as (N, H, W, 3) uint8 or a tensor (N, 3, H, W) of floats in [0, 1], "
            f"got {tuple(frames.shape)} {str(frames.dtype).removeprefix('torch.')}"
        )
    if not len(frames):
        raise InputError("there are no frames to encode")
    if bytes_:
        return to_float(frames, device=device).contiguous()
    assert isinstance(frames, Tensor)
    low, high = (float(value) for value in frames.aminmax())
    if not (low >= 0 and high <= 1):
        raise InputError(f"expected frames with values in [0, 1], got {low:g} to {high:g}; rescale or clamp them")
    return frames.to(device, torch.float32)


def _scaling(vae: AutoencoderKL) -> tuple[float, float]:
    """Scale and shift of the latents; models without a shift have None or no such entry."""
    return float(vae.config["scaling_factor"]), float(vae.config.get("shift_factor") or 0.0)


def _check_finite(values: Tensor, vae: AutoencoderKL) -> None:
    if not values.isfinite().all():
        precision = str(vae.dtype).removeprefix("torch.")
        raise InputError(f"the autoencoder gives no finite numbers in {precision}; try float32 for it")


# Streams


def encode_stream(
    vae: AutoencoderKL,
    frames: Iterable[NDArray[np.uint8]],
    *,
    batch_size: int = 8,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Encode frames (H, W, 3) uint8, or those of `read_frames`, one batch at a time; yields latents (n, C, h, w), float32 on the CPU.

    Batches get smaller when the device runs out of memory. See `encode_frames` for arguments and errors.
    """
    check_vae(vae)
    check_items("frames", frames, _VIDEO)
    batches = Batches(vae.device, batch_size)
    source = iter(frames)
    while chunk := list(islice(source, batches.size)):
        made = batches.run(lambda part: encode_frames(vae, _stacked(part), generator=generator).cpu(), chunk)
        yield torch.cat(made)


def decode_stream(
    vae: AutoencoderKL, latents: TensorFile | TensorWriter | Tensor | Iterable[Tensor], *, batch_size: int = 8
) -> Iterator[NDArray[np.uint8]]:
    """Decode latents, each (C, h, w), one batch at a time; yields frames (H, W, 3) uint8. See `decode_latents` for errors."""
    check_vae(vae)
    check_items("latents", latents, "latents (C, h, w), one after another")
    batches = Batches(vae.device, batch_size)
    source = (
        (latents[i] for i in range(len(latents))) if isinstance(latents, (TensorFile, TensorWriter)) else iter(latents)
    )
    while chunk := list(islice(source, batches.size)):
        for part in batches.run(lambda part: to_uint8(decode_latents(vae, torch.stack(part))), chunk):
            yield from part


def _stacked(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    images = [_pixels(frame) for frame in frames]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise InputError(f"frames of several sizes: {', '.join(map(str, sorted(sizes)))}; resize them to one size")
    return np.stack(images)


def _pixels(frame: Any) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a frame, also of one from `read_frames`."""
    image = getattr(frame, "pixels", frame)
    if not isinstance(image, np.ndarray):
        raise InputError(f"each frame must be an array (H, W, 3) of uint8, got {described(image)}")
    return image


# Latents on disk


def _facts(vae: AutoencoderKL, height: int, width: int, source: str) -> dict[str, str]:
    scale, shift = _scaling(vae)
    return {
        "content": "latents",
        "vae": fingerprint(vae),
        "scaling": f"{scale:g} {shift:g}",
        "size": f"{width} x {height}",
        "source": source,
    }


def latent_writer(
    path: str | Path, vae: AutoencoderKL, height: int, width: int, *, dtype: str = "float32", source: str = ""
) -> TensorWriter:
    """A file for latents of frames of `height` x `width` pixels; see `TensorWriter` for writing, resuming and errors.

    Args:
        dtype: "float32", or "float16" for half the size, which is enough for training data but not for an inversion.
        source: what the latents depend on, besides the autoencoder, e.g. a file and its settings.
    """
    check_frame_size(vae, height, width)
    factor = spatial_factor(vae)
    row = (vae.config["latent_channels"], height // factor, width // factor)
    return TensorWriter(path, row, dtype, _facts(vae, height, width, source))


def open_latents(
    path: str | Path,
    vae: AutoencoderKL | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    source: str | None = None,
) -> TensorFile:
    """Open a file of latents, (N, C, h, w), after checking it against what is given.

    Raises:
        InputError: the file cannot be read, or was made by another autoencoder, from frames of another size, or from
            another source.
    """
    file = TensorFile(path)
    if file.facts.get("content") != "latents":
        raise InputError(f"{path}: holds no latents, but {file.facts.get('content', 'other rows')}")
    again = "delete it, so that the frames are encoded again"
    if vae is not None:
        check_vae(vae)
        want = _facts(vae, 0, 0, "")
        if file.facts["vae"] != want["vae"]:
            raise InputError(
                f"{path}: holds latents of another autoencoder (weights {file.facts['vae']}, not {want['vae']}); {again}"
            )
        if file.facts["scaling"] != want["scaling"]:
            raise InputError(
                f"{path}: holds latents with another scale and shift ({file.facts['scaling']}, not {want['scaling']}); {again}"
            )
    if height is not None and width is not None and file.facts["size"] != f"{width} x {height}":
        raise InputError(
            f"{path}: holds latents of frames of {file.facts['size']} pixels, not {width} x {height}; {again}"
        )
    if source is not None and file.facts["source"] != source:
        raise InputError(f"{path}: holds latents of {file.facts['source']!r}, not of {source!r}; {again}")
    return file


def encode_to_file(
    vae: AutoencoderKL,
    frames: Iterable[NDArray[np.uint8]],
    path: str | Path,
    *,
    dtype: str = "float32",
    source: str = "",
    batch_size: int = 8,
) -> TensorFile:
    """Encode frames (H, W, 3) uint8 to a file of latents, and open it; a file that exists and fits is only opened.

    After an interruption, the same call continues with the batch that is due (earlier frames are read but not encoded).

    Args:
        dtype, source: see `latent_writer`.

    Raises:
        InputError: see `open_latents` for a file that exists, `encode_frames` for the frames; or there are no frames.
        VisionZooError: the disk is full; the latents so far are kept.
    """
    check_items("frames", frames, _VIDEO)
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise InputError(f"{path}: there are no frames to encode")
    height, width = _pixels(first).shape[:2]
    if Path(path).exists():
        return open_latents(path, vae, height=height, width=width, source=source)

    def left(done: int) -> Iterator[NDArray[np.uint8]]:
        if not done:
            yield first
        yield from islice(stream, max(0, done - 1), None)

    with latent_writer(path, vae, height, width, dtype=dtype, source=source) as writer:
        writer.cut(len(writer) // batch_size * batch_size)  # results depend on the batch in their last bits
        for latents in encode_stream(vae, left(len(writer)), batch_size=batch_size):
            writer.append(latents)
    return open_latents(path)
