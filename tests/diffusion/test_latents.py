"""Latents: the values of diffusers' own pipelines, ranges and sizes checked, files refused for another autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from tests import tiny_diffusion
from visionzoo.diffusion import (
    decode_latents,
    decode_stream,
    encode_frames,
    encode_stream,
    encode_to_file,
    latent_writer,
    open_latents,
)
from visionzoo.errors import InputError

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def vae():
    return tiny_diffusion.vae()


def test_values_are_those_of_diffusers(vae) -> None:
    """Bytes and floats encode alike; VaeImageProcessor is right for PIL images only, as arrays of bytes come out as -1 to 509."""
    pixels = VaeImageProcessor().preprocess([Image.fromarray(frame) for frame in FRAMES])
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        want = posterior.mode() * vae.config.scaling_factor
    latents = encode_frames(vae, FRAMES)
    assert torch.allclose(latents, want, atol=1e-6)
    assert torch.allclose(encode_frames(vae, torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255), want, atol=1e-6)
    with torch.no_grad():
        decoded = VaeImageProcessor().postprocess(vae.decode(latents / vae.config.scaling_factor).sample, "pt")
    assert torch.allclose(decode_latents(vae, latents), decoded, atol=1e-6)
    drawn = encode_frames(vae, FRAMES, generator=torch.Generator().manual_seed(1))
    again = posterior.sample(torch.Generator().manual_seed(1)) * vae.config.scaling_factor
    assert torch.allclose(drawn, again, atol=1e-6)


def test_a_shift_is_undone(vae) -> None:
    shifted = tiny_diffusion.vae()
    shifted.register_to_config(shift_factor=0.3, scaling_factor=2.0)
    plain = encode_frames(vae, FRAMES) / vae.config.scaling_factor
    assert torch.allclose(encode_frames(shifted, FRAMES), (plain - 0.3) * 2, atol=1e-5)
    same = decode_latents(vae, plain * vae.config.scaling_factor)
    assert torch.allclose(decode_latents(shifted, (plain - 0.3) * 2), same, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            FRAMES[:, :29, :45],
            r"frames of 45 x 29 pixels do not fit the autoencoder: .* multiples of 8; .* e\.g\. to 48 x 32",
        ),
        (FRAMES[0], r"got \(32, 48, 3\) uint8"),
        (FRAMES.astype(np.float32), r"got \(5, 32, 48, 3\) float32"),
        (torch.zeros(1, 3, 8, 8) - 1, r"values in \[0, 1\], got -1 to -1; rescale or clamp"),
        (torch.full((1, 3, 8, 8), torch.nan), r"values in \[0, 1\], got nan"),
        (FRAMES[:0], "there are no frames to encode"),
        (torch.zeros(0, 3, 8, 8), "there are no frames to encode"),
        (torch.full((1, 3, 8, 8), 200), r"got \(1, 3, 8, 8\) int64"),
    ],
)
def test_frames_that_do_not_fit_are_refused(vae, frames, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_frames(vae, frames)


def test_latents_and_numbers_that_do_not_fit_are_refused(vae) -> None:
    with pytest.raises(InputError, match=r"expected latents \(N, 4, h, w\) .* got \(1, 3, 4, 4\)"):
        decode_latents(vae, torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match="no finite numbers in float32"):
        decode_latents(vae, torch.full((1, 4, 2, 2), torch.inf))


def test_streams_equal_whole_batches(vae) -> None:
    want = torch.cat([encode_frames(vae, FRAMES[first : first + 2]) for first in (0, 2, 4)])
    pieces = list(encode_stream(vae, iter(FRAMES), batch_size=2))
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert torch.equal(torch.cat(pieces), want)
    frames = np.stack(list(decode_stream(vae, want, batch_size=2)))
    assert frames.shape == FRAMES.shape
    assert frames.dtype == np.uint8
    assert np.array_equal(frames[4], np.stack(list(decode_stream(vae, want[4:])))[0])


def test_batches_shrink_when_memory_is_short(vae, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, sizes = vae.encode, []

    def short(images: torch.Tensor):
        if len(images) > 2:
            raise torch.OutOfMemoryError
        sizes.append(len(images))
        return encode(images)

    monkeypatch.setattr(vae, "encode", short)
    with pytest.warns(UserWarning, match="continuing with batches of 2"):
        latents = torch.cat(list(encode_stream(vae, FRAMES, batch_size=4)))
    assert len(latents) == sum(sizes) == 5


def test_an_interrupted_file_continues_bit_equal(vae, tmp_path: Path) -> None:
    whole = encode_to_file(vae, FRAMES, tmp_path / "whole", batch_size=2)

    def breaking():
        yield from FRAMES[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_to_file(vae, breaking(), tmp_path / "a", batch_size=2)
    with (tmp_path / "a.part").open("ab") as file:  # as if the next batch had been written in part
        file.write(bytes(5 * 4 * 4 * 6))
    counted = []
    frames = (counted.append(number) or frame for number, frame in enumerate(FRAMES))
    again = encode_to_file(vae, frames, tmp_path / "a", batch_size=2)
    assert counted == [0, 1, 2, 3, 4]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "whole").read_bytes()
    assert torch.equal(again[:], whole[:])
    assert np.array_equal(list(decode_stream(vae, whole)), list(decode_stream(vae, whole[:])))
    modified = (tmp_path / "a").stat().st_mtime_ns
    encode_to_file(vae, FRAMES, tmp_path / "a")
    assert (tmp_path / "a").stat().st_mtime_ns == modified


def test_files_of_another_autoencoder_size_or_source_are_refused(vae, tmp_path: Path) -> None:
    path = tmp_path / "latents.safetensors"
    encode_to_file(vae, FRAMES[:1], path, source="a.mp4", dtype="float16")
    assert open_latents(path, vae, height=32, width=48, source="a.mp4").shape == (1, 4, 4, 6)
    with pytest.raises(InputError, match="frames of 48 x 32 pixels, not 32 x 32; delete it"):
        open_latents(path, height=32, width=32)
    with pytest.raises(InputError, match=r"latents of 'a\.mp4', not of 'b\.mp4'"):
        open_latents(path, source="b.mp4")
    other = tiny_diffusion.vae()
    with torch.no_grad():
        other.post_quant_conv.bias += 1
    with pytest.raises(InputError, match=r"latents of another autoencoder \(weights \w{16}, not \w{16}\); delete it"):
        open_latents(path, other)
    other = tiny_diffusion.vae()
    other.register_to_config(scaling_factor=1.0)
    with pytest.raises(InputError, match=r"another scale and shift \(0\.18215 0, not 1 0\)"):
        open_latents(path, other)
    with pytest.raises(InputError, match="no frames to encode"):
        encode_to_file(vae, [], tmp_path / "none")
    with pytest.raises(InputError, match="48 x 30 pixels do not fit"):
        latent_writer(tmp_path / "b", vae, 30, 48)
