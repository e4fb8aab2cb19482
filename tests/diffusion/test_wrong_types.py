"""Objects of wrong types as arguments of `visionzoo.diffusion`: one line that says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny_diffusion as tiny
from visionzoo import diffusion
from visionzoo.errors import InputError
from visionzoo.io.video import Frame

FRAMES = np.zeros((2, 16, 16, 3), np.uint8)
LATENTS = torch.zeros(1, 4, 2, 2)


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {"vae": tiny.vae(), "scheduler": tiny.scheduler(), "tokenizer": tiny.tokenizer()}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: diffusion.encode_frames(p["vae"], "x.mp4"), r"got 'x.mp4'; for a video file, use encode_stream\("),
        (lambda p: diffusion.encode_frames(None, FRAMES), "the autoencoder must be an AutoencoderKL of diffusers, .* got None"),
        (lambda p: diffusion.decode_latents(p["scheduler"], LATENTS), "got an object of class DDIMScheduler"),
        (lambda p: diffusion.decode_latents(p["vae"], None), r"latents must be a tensor \(N, C, h, w\), got None"),
        (lambda p: list(diffusion.encode_stream(p["vae"], "x.mp4")), r"video.read_frames\), got 'x.mp4'"),
        (lambda p: list(diffusion.encode_stream(p["vae"], [None])), r"each frame must be an array \(H, W, 3\) of uint8, got None"),
        (lambda p: diffusion.encode_to_file(p["vae"], None, "a"), "frames must be images .* got None"),
        (lambda p: list(diffusion.decode_stream(p["vae"], None)), r"latents must be latents \(C, h, w\), one after another, got None"),
        (lambda p: diffusion.latent_writer("a", None, 16, 16), "the autoencoder must be"),
        (lambda p: diffusion.make_scheduler("ddim", None), "like must be a scheduler of diffusers or its configuration, .* got None"),
        (lambda p: diffusion.make_scheduler(None, p["scheduler"]), "there is no scheduler None; known: cogvideox-ddim"),
        (lambda p: diffusion.inversion_pair("ddim"), "like must be a scheduler .*, got 'ddim'"),
        (lambda p: diffusion.scheduler_step(None, LATENTS, 1, LATENTS), "the scheduler must be a scheduler of diffusers, .* got None"),
        (lambda p: diffusion.scheduler_step(p["scheduler"], None, 1, LATENTS), r"the output must be a tensor \(B, …\), got None"),
        (lambda p: diffusion.noisy_batch(None, LATENTS), "the scheduler must be a scheduler of diffusers, .* got None"),
        (lambda p: diffusion.generators(None), "the seed must be a whole number or generators of torch, got None"),
        (lambda p: diffusion.install_processors(None, print), "the network must be a network of diffusers, .* got None"),
        (lambda p: diffusion.install_processors(p["vae"], None), "make must be a function .*, got None"),
        (lambda p: diffusion.list_loras(None), "the pipeline must be a pipeline of diffusers, got None"),
        (lambda p: diffusion.load_lora("pipe", "a.safetensors"), "the pipeline must be a pipeline of diffusers, got 'pipe'"),
        (lambda p: diffusion.encode_text(None, p["vae"], "red"), "the tokenizer must be a CLIPTokenizer of transformers, got None"),
        (lambda p: diffusion.encode_text(p["tokenizer"], None, "red"), "the text encoder must be a CLIPTextModel .*, got None"),
        (lambda p: diffusion.encode_text(p["tokenizer"], p["vae"], None), "texts must be a list of texts, got None"),
        (lambda p: diffusion.cache_texts(p["tokenizer"], p["vae"], "red", "a"), "captions must be a list of texts, got 'red'"),
        (lambda p: diffusion.check_words(p["tokenizer"], None), "the text must be a string, got None"),
        (lambda p: diffusion.word_tokenizer("red"), "words must be a list of texts, got 'red'"),
        (lambda p: diffusion.word_tokenizer(["red", 3]), "words must be a list of texts, got 3 among them"),
        (lambda p: diffusion.save_tokenizer(None, "a"), "the tokenizer must be"),
        (lambda p: diffusion.text_config(None, 32), "the tokenizer must be"),
    ],
)  # fmt: skip
def test_one_line_says_what_was_expected(
    call: Callable[[dict[str, Any]], Any],
    says: str,
    parts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        call(parts)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_frames_of_a_video_file_are_taken(parts: dict[str, Any], tmp_path: Path) -> None:
    from fractions import Fraction

    pixels = np.random.default_rng(0).integers(0, 256, FRAMES.shape, np.uint8)
    frames = [Frame(number, Fraction(number), Fraction(1), image) for number, image in enumerate(pixels)]
    wanted = torch.cat(list(diffusion.encode_stream(parts["vae"], list(pixels))))
    assert torch.equal(torch.cat(list(diffusion.encode_stream(parts["vae"], frames))), wanted)
    file = diffusion.encode_to_file(parts["vae"], frames, tmp_path / "latents")
    assert torch.equal(file[0], wanted[0])
