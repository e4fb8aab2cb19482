"""The toy world's networks: recipes learn, resume bit for bit and in several processes, and load in stock diffusers pipelines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.data.toy_world import vocabulary
from visionzoo.diffusion import decode_latents, noise_and_times, noise_of
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_uint8
from visionzoo.models.toy_world import (
    CaptionedLatentsData,
    TextToImage,
    ToyWorldData,
    build,
    open_text_to_image,
    open_vae,
    reconstruction_report,
    sample_latents,
)
from visionzoo.models.toy_world.frames import portrait
from visionzoo.models.toy_world.parts import CLASSES, true_parts
from visionzoo.registry import create_model
from visionzoo.training.run import run
from visionzoo.weights import read_checkpoint

TINY_VAE = {"channels": (8, 8, 16, 16), "groups": 4}
TINY_TEXT = {
    "channels": (8, 16, 16),
    "heads": 2,
    "groups": 4,
    "latent_size": 8,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random autoencoder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    network: Any = build("toy_vae", **TINY_VAE)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, vae_folder: Path) -> tuple[Path, float]:
    """A run of the tiny text-to-image recipe, and its loss."""
    folder = tmp_path_factory.mktemp("text")
    words = [f"vars.vae={vae_folder}", f"trainer.default_root_dir={folder}", "trainer.max_steps=32"]
    result = run("fit", ["toy_world/tiny_text_to_image"], words)
    return folder, result["val/loss"]


# The autoencoder


def test_the_autoencoder_learns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def quality(steps: int) -> float:
        words = [f"trainer.default_root_dir={tmp_path / str(steps)}", f"trainer.max_steps={steps}", "data.val_frames=2"]
        run("fit", ["toy_world/tiny_vae"], words)
        return reconstruction_report(
            open_vae(tmp_path / str(steps) / "vae"), frames=4, size=64, split="train", progress=False
        ).psnr

    before, after = quality(1), quality(32)
    assert after > before + 0.7
    assert str(tmp_path / "32" / "vae") in capsys.readouterr().err


@pytest.mark.parametrize("half", [False, True])
def test_the_folder_of_the_autoencoder_has_unit_latents(half: bool, tmp_path: Path) -> None:
    words = [f"trainer.default_root_dir={tmp_path}", "trainer.max_steps=16", f"model.export_half={half}"]
    run("fit", ["toy_world/tiny_vae"], words)
    vae = open_vae(tmp_path / "vae")
    images = ToyWorldData(size=64, crop=32, val_frames=4).validation
    with torch.no_grad():
        latents = vae.encode(torch.stack([images[k] for k in range(4)])).latent_dist.mode()
    assert float(latents.std()) * vae.config["scaling_factor"] == pytest.approx(1, abs=0.05)
    state = read_checkpoint(tmp_path / "weights.safetensors")
    assert all(torch.equal(value, state[key].float()) for key, value in vae.state_dict().items())


@pytest.mark.parametrize("recipe", ["tiny_vae", "tiny_text_to_image"])
def test_resuming_inside_an_epoch(recipe: str, tmp_path: Path, vae_folder: Path) -> None:
    words = ["data.val_frames=2", "trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2"]
    if recipe == "tiny_text_to_image":
        words += [f"vars.vae={vae_folder}", f"data.cache={tmp_path / 'latents'}"]
    check_resumed_inside_an_epoch(f"toy_world/{recipe}", tmp_path, words, steps=3, stop=1)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tiny_vae", "tiny_text_to_image"])
def test_two_processes_train_as_one_with_twice_the_batch(recipe: str, tmp_path: Path, vae_folder: Path) -> None:
    """Data-parallel training on the CPU gives the weights of one process that has all items, within rounding.

    In float64, because Muon and AdamW enlarge the rounding of small gradients.
    """
    words = ["data.val_frames=2", "trainer.check_val_every_n_epoch=9", "trainer.max_steps=4", "model.ema_decay=null"]
    words += ["trainer.precision=64-true"]
    if recipe == "tiny_text_to_image":
        words += [f"vars.vae={vae_folder}", f"data.cache={tmp_path / 'latents'}"]

    def weights(name: str, *more: str) -> dict[str, torch.Tensor]:
        run("fit", [f"toy_world/{recipe}"], [*words, f"trainer.default_root_dir={tmp_path / name}", *more])
        return read_checkpoint(tmp_path / name / "weights.safetensors")

    start = weights("start", "data.batch_size=4", "trainer.max_steps=1")
    one = weights("one", "data.batch_size=4")
    command = ["-m", "visionzoo", "fit", "--config", f"toy_world/{recipe}", *words, "data.batch_size=2"]
    command += ["trainer.devices=2", "trainer.strategy=ddp", f"trainer.default_root_dir={tmp_path / 'two'}"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    two = read_checkpoint(tmp_path / "two" / "weights.safetensors")
    moved = max(float((one[key] - start[key]).abs().max()) for key in one)
    apart = max(float((one[key] - two[key]).abs().max()) for key in one)
    assert moved > 3e-3
    assert apart < 1e-3 * moved


def test_the_bundled_autoencoder_keeps_every_part() -> None:
    """`visionzoo test` on 400 frames finds 98.1 % or more for every part; 40 frames have too few parts for that precision."""
    vae = open_vae()
    report = reconstruction_report(vae, frames=40, progress=False)
    assert report.psnr > 29.5
    assert min(part.hit for part in report.parts if part.count >= 30) >= 0.95
    network = create_model("toy_vae", pretrained=True)
    assert all(torch.equal(value, vae.state_dict()[key]) for key, value in network.state_dict().items())
    images = ToyWorldData(val_frames=16).validation
    with torch.no_grad():
        latents = vae.encode(torch.stack([images[k] for k in range(16)])).latent_dist.mode()
    assert float(latents.std()) * vae.config["scaling_factor"] == pytest.approx(1, abs=0.05)


def test_the_report_measures_parts_without_lines() -> None:
    """In the true frames every part has its colour; an autoencoder that paints all grey keeps none."""
    torch.manual_seed(0)
    grey: Any = build("toy_vae", **TINY_VAE)
    torch.nn.init.zeros_(grey.decoder.conv_out.weight)
    torch.nn.init.zeros_(grey.decoder.conv_out.bias)
    report = reconstruction_report(grey.eval(), frames=12, progress=False)
    assert {"hair", "shirt", "shoes"} <= {part.part for part in report.parts}
    assert all(part.own_hit == 1 for part in report.parts)
    assert report.lowest_hit < 0.4
    assert report.psnr < 12
    assert "| shirt |" in str(report)


def test_the_test_command_reports_parts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("fit", ["toy_world/tiny_vae"], [f"trainer.default_root_dir={tmp_path}", "trainer.max_steps=2"])
    result = run(
        "test",
        ["toy_world/tiny_vae"],
        [f"trainer.default_root_dir={tmp_path}", f"model.checkpoint={tmp_path / 'weights.safetensors'}"],
    )
    assert result["frames"] == 4
    assert any(part["part"] == "shirt" for part in result["parts"])
    assert re.search(r"4 frames: PSNR \d+\.\d\d dB", capsys.readouterr().out)


# Text to image


def test_the_text_to_image_recipe_learns(trained: tuple[Path, float], vae_folder: Path, tmp_path: Path) -> None:
    words = [f"vars.vae={vae_folder}", f"trainer.default_root_dir={tmp_path}", f"data.cache={trained[0] / 'latents'}"]
    words += ["trainer.limit_train_batches=1", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1"]
    first = run("fit", ["toy_world/tiny_text_to_image"], words)
    assert trained[1] < 0.9 * first["val/loss"]
    assert sorted((trained[0] / "samples").glob("*.png"))


def test_a_stock_pipeline_gives_the_same_image_as_our_sampler(trained: tuple[Path, float], vae_folder: Path) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(trained[0] / "pipeline", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    network = TextToImage(build("toy_text_to_image", **TINY_TEXT).config)
    network.load_state_dict(read_checkpoint(trained[0] / "weights.safetensors"))
    network.eval()
    caption = "a girl with a red shirt walks in a park"
    ours = to_uint8(decode_latents(open_vae(vae_folder), sample_latents(network, [caption], steps=4, seed=5)))[0]
    theirs = pipe(
        caption,
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    assert np.abs(theirs * 255 - ours).max() <= 1
    assert ours.std() > 1


def test_the_pipeline_folder_has_names_that_transformers_4_reads(trained: tuple[Path, float]) -> None:
    keys = read_checkpoint(trained[0] / "pipeline" / "text_encoder" / "model.safetensors").keys()
    assert all(key.startswith("text_model.") for key in keys)
    assert (trained[0] / "pipeline" / "tokenizer" / "merges.txt").is_file()


def test_the_bundled_text_to_image_folder_knows_the_words_of_the_world() -> None:
    pipe = open_text_to_image()
    pipe.set_progress_bar_config(disable=True)
    tokens = pipe.tokenizer(" ".join(word for word in vocabulary() if word != ",")).input_ids
    assert len(tokens) == len(vocabulary()) + 1  # without the comma, with start and end
    prompts = ["a boy with a red shirt stands in a park", "a boy with a blue shirt stands in a park"]
    generators = [torch.Generator().manual_seed(0) for _ in prompts]
    images = pipe(
        prompts,
        height=128,
        width=128,
        num_inference_steps=6,
        guidance_scale=3.0,
        generator=generators,
        output_type="np",
    ).images
    red, blue = (image[..., 0].mean() - image[..., 2].mean() for image in images)
    assert red > blue


def test_training_starts_from_a_folder(trained: tuple[Path, float], vae_folder: Path) -> None:
    from visionzoo.models.toy_world import TextToImageTraining

    module = TextToImageTraining(config=dict(TINY_TEXT), checkpoint=str(trained[0] / "pipeline"), vae=str(vae_folder))
    state = read_checkpoint(trained[0] / "weights.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in module.model.state_dict().items())


def test_captions_of_training_are_full_brief_or_empty(vae_folder: Path, tmp_path: Path) -> None:
    data = CaptionedLatentsData(str(vae_folder), frames=24, val_frames=2, size=64, drop=0.3, cache=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    train = data.sets["train"]
    seen = [train[epoch, index]["caption"] for epoch in range(6) for index in range(24)]
    empty = sum(caption == "" for caption in seen) / len(seen)
    assert 0.15 < empty < 0.45
    full, brief = zip(*train.captions, strict=True)
    assert {caption for caption in seen if caption} <= {*full, *brief}
    assert np.mean([len(text) for text in brief]) < 0.8 * np.mean([len(text) for text in full])
    again = CaptionedLatentsData(str(vae_folder), frames=24, val_frames=2, size=64, drop=0.3, cache=str(tmp_path))
    again.setup("fit")
    assert again.sets["train"].captions == train.captions
    assert torch.equal(again.sets["train"][0, 3]["latents"], train[0, 3]["latents"])


def test_portraits_show_one_whole_character() -> None:
    for stream in range(5):
        scene, frame = portrait("train", stream, 64)
        assert len(scene.clip.characters) == 1
        person = frame.instances == 1
        assert not person[[0, -1]].any()
        assert not person[:, [0, -1]].any()
        areas = np.bincount(true_parts(scene.clip, frame).ravel(), minlength=len(CLASSES))
        assert min(areas[CLASSES.index(part)] for part in scene.clip.characters[0].colors) >= 0.0025 * 64 * 64


def test_portraits_have_a_cache_of_their_own(vae_folder: Path, tmp_path: Path) -> None:
    for portraits in (False, True):
        data = CaptionedLatentsData(
            str(vae_folder), frames=3, val_frames=1, size=64, portraits=portraits, brief=0, drop=0, cache=str(tmp_path)
        )
        data.prepare_data()
        data.setup("fit")
        train = data.sets["train"]
        full = [captions[0] for captions in train.captions]
        assert [train[5, index]["caption"] for index in range(3)] == full
    assert len(list(tmp_path.glob("train-*.latents"))) == 2


def test_a_cache_of_another_autoencoder_is_refused(vae_folder: Path, tmp_path: Path) -> None:
    CaptionedLatentsData(str(vae_folder), frames=2, val_frames=1, size=64, cache=str(tmp_path)).prepare_data()
    torch.manual_seed(1)
    other: Any = build("toy_vae", **TINY_VAE)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="latents of another autoencoder"):
        CaptionedLatentsData(str(tmp_path / "other"), frames=2, val_frames=1, size=64, cache=str(tmp_path)).setup("fit")


# Noise and bad input


def test_noise_belongs_to_the_item() -> None:
    noise, times = noise_and_times([3, 4, 5], (2, 4), 1000)
    other, later = noise_and_times(torch.tensor([5, 3]), (2, 4), 1000)
    assert torch.equal(noise[[2, 0]], other)
    assert torch.equal(times[[2, 0]], later)
    assert torch.equal(noise_of([4], (2, 4)), noise[1:2])
    many = noise_and_times(range(4000), (2,), 10)[1]
    assert torch.bincount(many, minlength=10).min() > 300


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToyWorldData(crop=60), "data.crop must be a multiple of 8 from 8 to data.size=128, got 60"),
        (lambda: ToyWorldData(frames=0), "data.frames must be at least 1"),
        (lambda: CaptionedLatentsData(drop=1.0), "data.drop must be from 0 to below 1"),
        (lambda: CaptionedLatentsData(brief=-0.1), "data.brief must be from 0 to below 1, got -0.1"),
        (lambda: open_vae("nowhere"), "nowhere: is no folder of an autoencoder"),
        (lambda: build("toy_vae", chanels=(8,)), "channels"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
