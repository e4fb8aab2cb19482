"""Trainings around LOVECon: recipes learn and resume bit for bit, and stock pipelines of diffusers load what they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.resuming import check_resumed_inside_an_epoch, checkpoint
from visionzoo.data.toy_world import COLORS, ToyWorld
from visionzoo.diffusion import encode_frames, encode_text, load_lora, noise_of, noisy_batch, unload_lora
from visionzoo.errors import InputError
from visionzoo.io.files import bundled
from visionzoo.io.pixels import to_uint8
from visionzoo.metrics.color import color_hit
from visionzoo.models.lovecon import (
    CaptionedImagesData,
    Controlled,
    ControlledFramesData,
    ControlNetTraining,
    LoraTraining,
    PackedMasks,
    canny_edges,
    open_controlnet,
    read_captions,
)
from visionzoo.models.toy_world import CLASSES, open_text_to_image, true_parts
from visionzoo.registry import create_model
from visionzoo.training.run import run
from visionzoo.weights import WeightsError, read_checkpoint

PROMPT = "a girl with a red shirt walks in a park"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run of the tiny recipe, and its validation loss."""
    folder = tmp_path_factory.mktemp("control")
    result = run("fit", ["lovecon/tiny_controlnet"], [f"trainer.default_root_dir={folder}"])
    return folder, result["val/loss"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images with captions: discs in front of stripes."""
    folder = tmp_path_factory.mktemp("images")
    for number, color in enumerate(list(COLORS)[:7]):
        picture = np.full((80, 100, 3), 230, np.uint8)
        picture[:, ::9] = 40
        cv2.circle(picture, (50, 40), 20, COLORS[color], -1)
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {color} ball in a park\n")
    return folder


def sample(pipe: Any, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(PROMPT, num_inference_steps=2, generator=generator, output_type="np", **options).images[0]


# ControlNet with UNet and text encoder


def test_the_recipe_learns(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = [f"trainer.default_root_dir={tmp_path}", f"data.cache={trained[0] / 'latents'}", "trainer.max_epochs=1"]
    words += ["trainer.limit_train_batches=1", "trainer.check_val_every_n_epoch=1", "model.sample_steps=0"]
    first = run("fit", ["lovecon/tiny_controlnet"], words)
    assert trained[1] < 0.9 * first["val/loss"]
    assert not (tmp_path / "samples").exists()
    assert sorted((trained[0] / "samples").glob("*.png"))


def test_a_stock_pipeline_follows_the_edges(trained: tuple[Path, float]) -> None:
    from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline

    pipe: Any = StableDiffusionControlNetPipeline.from_pretrained(trained[0] / "pipeline", torch_dtype=torch.float32)
    state = read_checkpoint(trained[0] / "weights.safetensors")
    for name in ("unet", "controlnet"):
        own = getattr(pipe, name).state_dict()
        assert all(torch.equal(value, state[f"{name}.{key}"]) for key, value in own.items())
    edges = torch.zeros(1, 3, 64, 64)
    edges[..., ::4, :] = 1
    for scale in (0.0, 1.0):  # after a few steps, edges make a small difference
        images = [sample(pipe, image=each, controlnet_conditioning_scale=scale) for each in (edges, 0 * edges)]
        assert np.isfinite(images[0]).all()
        assert np.array_equal(*images) == (scale == 0)
    keys = read_checkpoint(trained[0] / "pipeline" / "text_encoder" / "model.safetensors").keys()
    assert all(key.startswith("text_model.") for key in keys)


def test_resuming_inside_an_epoch(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2", f"data.cache={trained[0] / 'latents'}"]
    check_resumed_inside_an_epoch("lovecon/tiny_controlnet", tmp_path, words, steps=3, stop=1)


def test_without_control_the_unet_works_alone() -> None:
    torch.manual_seed(0)
    module = ControlNetTraining(train="all", config=TINY)
    with torch.no_grad():
        for parameter in module.model["controlnet"].parameters():
            parameter.normal_(std=0.2)  # a new ControlNet adds nothing
    batch = {
        "latents": torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)),
        "caption": [PROMPT, ""],
        "control": torch.zeros(2, 3, 64, 64),
        "keep": torch.tensor([0.0, 1.0]),
    }
    other = {**batch, "control": torch.ones(2, 3, 64, 64)}
    times, noise = torch.tensor([500, 500]), torch.zeros(2, 8, 8, 8)
    module.model.eval()
    with torch.no_grad():
        one, two = (module.loss(each, module.model, times, noise) for each in (batch, other))
    assert one[0] == two[0]
    assert one[1] != two[1]


TINY = {
    "channels": [8, 16, 16],
    "heads": 2,
    "groups": 4,
    "latent_size": 8,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
    "hint": [4, 4, 8, 8],
}


def test_the_bundled_networks_recolor_a_shirt() -> None:
    """In 32 held-out frames, 88 % of the shirts get the colour that the caption asks for: see the model card."""
    from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline

    folder = bundled("weights", "lovecon")
    pipe: Any = StableDiffusionControlNetPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    network: Any = create_model("lovecon_nano", pretrained=True)
    for part in ("unet", "controlnet", "text_encoder"):
        own = getattr(pipe, part).state_dict()
        assert all(torch.equal(value, own[key]) for key, value in getattr(network, part).state_dict().items())
    world = ToyWorld.create(2, "test", places=1, characters=1)
    clip = world.film(12, size=(128, 128))
    frame = next(clip.frames(6, 7, motion=False))
    edges = torch.from_numpy(canny_edges(frame.rgb)).float().expand(1, 3, -1, -1)
    shirt = true_parts(clip, frame) == CLASSES.index("shirt")
    assert shirt.sum() > 40
    old = clip.characters[0].colors["shirt"]
    for color in ("red", "green"):
        prompt = frame.caption.replace(f"{old} shirt", f"{color} shirt")
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        image = pipe(
            prompt, image=edges, num_inference_steps=10, guidance_scale=3.0, generator=generator, output_type="pt"
        )
        assert color_hit(to_uint8(image.images)[0], shirt, color, COLORS, erode=1)


# A ControlNet alone, and LoRA, on own images


def test_a_controlnet_alone_leaves_the_rest_alone(trained: tuple[Path, float], images: Path, tmp_path: Path) -> None:
    base = trained[0] / "pipeline"
    words = [f"vars.base={base}", f"data.root={images}", "data.size=64", "data.val_images=1", "data.batch_size=2"]
    words += [f"data.cache={tmp_path / 'cache'}", f"trainer.default_root_dir={tmp_path}", "trainer.max_steps=3"]
    words += ["trainer.accelerator=cpu", "trainer.val_check_interval=3", "trainer.logger=false", "model.sample_steps=2"]
    run("fit", ["lovecon/controlnet"], words)
    before, after = (open_controlnet(folder).state_dict() for folder in (base, tmp_path))
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    assert not (tmp_path / "pipeline").exists()
    assert all("controlnet" in key for key in checkpoint(tmp_path)["state_dict"])


def test_lora_learns_and_loads(images: Path, tmp_path: Path) -> None:
    run("fit", ["lovecon/tiny_lora"], [f"data.root={images}", f"trainer.default_root_dir={tmp_path}"])
    assert all("lora" not in key and key.startswith("model.") for key in checkpoint(tmp_path)["state_dict"])

    pipe = open_text_to_image()
    captions = read_captions(images)
    frames = np.stack([np.asarray(Image.open(path).resize((64, 64))) for path in captions])
    latents, texts = (
        encode_frames(pipe.vae, frames),
        encode_text(pipe.tokenizer, pipe.text_encoder, list(captions.values())),
    )
    times, noise = torch.linspace(100, 900, 28).long(), noise_of(range(28), latents.shape[1:])
    noisy = noisy_batch(pipe.scheduler, latents.repeat(4, 1, 1, 1), timesteps=times, noise=noise)

    @torch.no_grad()
    def error() -> float:
        predicted = pipe.unet(noisy.latents, noisy.timesteps, texts.repeat(4, 1, 1)).sample
        return float((predicted - noisy.target).square().mean())

    plain, before = sample(pipe, height=64, width=64), error()
    load_lora(pipe, tmp_path / "lora")
    ours = sample(pipe, height=64, width=64)
    assert error() < 0.9 * before
    unload_lora(pipe)
    assert np.array_equal(sample(pipe, height=64, width=64), plain)
    pipe.load_lora_weights(tmp_path / "lora")
    theirs = sample(pipe, height=64, width=64)
    assert np.abs(ours - plain).max() > 0.02
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.slow
def test_lora_resumes_inside_an_epoch(images: Path, tmp_path: Path) -> None:
    words = [f"data.root={images}", f"data.cache={tmp_path / 'cache'}", "data.batch_size=2", "trainer.max_epochs=2"]
    check_resumed_inside_an_epoch("lovecon/tiny_lora", tmp_path, words, steps=3, stop=1, weights=False)


# Data


def test_edges_are_those_of_opencv_and_survive_packing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 24, 20, 3), np.uint8)
    masks = [canny_edges(frame) for frame in frames]
    packed = PackedMasks(np.stack([PackedMasks.pack(mask) for mask in masks]), (24, 20))
    packed.save(tmp_path / "edges.npy")
    loaded = PackedMasks.load(tmp_path / "edges.npy", (24, 20))
    for frame, mask in zip(frames, loaded, strict=True):
        assert np.array_equal(mask[0].numpy() * 255, cv2.Canny(frame, 100, 100))
    with pytest.raises(InputError, match=r"edges\.npy: holds masks of another size"):
        PackedMasks.load(tmp_path / "edges.npy", (24, 30))
    with pytest.raises(InputError, match=r"none\.npy: cannot be read"):
        PackedMasks.load(tmp_path / "none.npy", (24, 20))


def test_control_is_dropped_in_training_only() -> None:
    items = [{"caption": str(number)} for number in range(50)]
    keyed = type("Keyed", (list,), {"__getitem__": lambda self, key: items[key if isinstance(key, int) else key[1]]})
    edges = PackedMasks(np.zeros((50, 2), np.uint8), (4, 4))
    data = Controlled(keyed(items), edges, drop=0.3)
    kept = np.array([[data[epoch, index]["keep"] for index in range(50)] for epoch in range(8)])
    assert 0.6 < kept.mean() < 0.8
    assert not np.array_equal(kept[0], kept[1])
    assert all(data[index]["keep"] == 1 for index in range(50))
    assert data[3]["control"].shape == (3, 4, 4)
    with pytest.raises(InputError, match="50 edge images for 2 items"):
        Controlled(items[:2], edges, drop=0.1)


def test_the_focus_is_on_characters(trained: tuple[Path, float]) -> None:
    data = ControlledFramesData(frames=32, val_frames=4, size=64, cache=str(trained[0] / "latents"))
    data.setup("fit")
    items = [data.sets["train"][0, index] for index in range(32)]
    shares = [float(item["focus"].mean()) for item in items if any(kind in item["caption"] for kind in ("girl", "man"))]
    assert items[0]["focus"].shape == (1, 8, 8)
    assert np.mean([share > 0 for share in shares]) > 0.9
    assert max(shares) < 0.9


def test_captions_come_from_a_list_or_from_files(images: Path, tmp_path: Path) -> None:
    assert next(iter(read_captions(images).values())) == f"a {next(iter(COLORS))} ball in a park"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a house"}) + "\n\n")
    assert read_captions(tmp_path) == {tmp_path / "a.png": "a house"}
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png: has no caption; expected a line in .*metadata\.jsonl"):
        read_captions(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png"}\n')
    with pytest.raises(InputError, match=r"metadata\.jsonl, line 1: is not of the form"):
        read_captions(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match=r"a\.png: has no caption; expected a\.txt beside it"):
        read_captions(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ControlledFramesData(control_drop=1.0), "data.control_drop must be from 0 to below 1"),
        (lambda: CaptionedImagesData("images", val_images=0), "data.val_images must be at least 1"),
        (lambda: CaptionedImagesData("images", drop=-0.1), "data.drop must be from 0 to below 1"),
        (lambda: LoraTraining(rank=0), "model.rank must be at least 1"),
        (lambda: ControlNetTraining(base="nowhere"), "nowhere: is no text-to-image folder"),
        (lambda: ControlNetTraining(controlnet="nowhere"), "nowhere: holds no ControlNet .no such folder."),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, message: str) -> None:
    with pytest.raises((InputError, WeightsError), match=message):
        make()


def test_too_few_images_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 7 images, of which data\.val_images=7 are held out"):
        CaptionedImagesData(str(images), val_images=7, cache=str(tmp_path)).setup("fit")
