"""Parts of characters in images of the toy world: the recipe learns, resumes bit for bit, and is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import visionzoo
from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.data.toy_world import COLORS, Character, ToyWorld, vocabulary
from visionzoo.data.toy_world.chance import split_of
from visionzoo.errors import InputError
from visionzoo.models.toy_world import (
    CLASSES,
    PartFramesData,
    PartsReport,
    Prompt,
    find_parts,
    held_out_prompts,
    prompt_report,
    true_parts,
)
from visionzoo.models.toy_world.frames import random_scene
from visionzoo.training.run import run
from visionzoo.weights import save_safetensors


def test_true_parts_have_their_colors() -> None:
    """Without lines, all pixels of a character's shirt have the shirt's colour, and those of the world have no part."""
    seen = 0
    for stream in range(4):
        scene = random_scene("train", stream, 96)
        frame = scene.draw()
        parts = true_parts(scene.clip, frame)
        people = (frame.instances > 0) & (frame.instances <= len(scene.clip.characters))
        flat = parts != CLASSES.index("line")
        assert ((parts > CLASSES.index("line")) == (people & flat)).all()
        for number, character in enumerate(scene.clip.characters, start=1):
            for part, color in character.colors.items():
                mask = (parts == CLASSES.index(part)) & (frame.instances == number)
                assert (frame.rgb[mask] == COLORS[color]).all()
                seen += mask.any()
    assert seen > 6


def test_training_frames_are_degraded_and_new_in_every_epoch() -> None:
    data = PartFramesData(worlds=2, takes=2, size=64, val_frames=2).training
    images, classes = data[0, 1]
    assert images.shape == (2, 3, 64, 64)
    assert classes.shape == (2, 64, 64)
    assert torch.equal(data[0, 1][0], images)
    assert not torch.equal(data[1, 1][0], images)
    colors = [
        len(np.unique(image.reshape(3, -1), axis=1).T) for epoch in range(4) for image in data[epoch, 0][0].numpy()
    ]
    assert max(colors) > 3 * min(colors)


@pytest.mark.parametrize("size", [(64, 64), (70, 101)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network: Any = visionzoo.create_model("toy_parts", channels=(4, 8))
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    found = find_parts(network, images, confidence=0)
    assert found.shape == (3, *size)
    assert found.max() < len(CLASSES)
    assert (found[1] == find_parts(network, images[1:2], confidence=0)[0]).mean() > 0.999
    assert not find_parts(network, images, confidence=1).any()


def test_the_report_counts_pixels() -> None:
    confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    hair, shirt = CLASSES.index("hair"), CLASSES.index("shirt")
    confusion[0, 0], confusion[hair, hair], confusion[hair, shirt], confusion[shirt, shirt] = 60, 20, 10, 10
    report = PartsReport.of(confusion)
    rows = {each.part: each for each in report.parts}
    assert report.accuracy == 0.9
    assert rows["hair"].iou == pytest.approx(20 / 30)
    assert rows["shirt"].iou == pytest.approx(10 / 20)
    assert (rows["hair"].recall, rows["shirt"].precision) == pytest.approx((2 / 3, 0.5))
    assert report.mean_iou == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert np.isnan(rows["bag"].iou)
    assert "| hair | 30.00% | 0.667 | 66.7% | 100.0% |" in str(report)


def test_the_recipe_learns_and_is_tested(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = [f"trainer.default_root_dir={tmp_path}"]
    first = run("fit", ["toy_world/tiny_parts"], [*root, "trainer.max_steps=1"])
    after = run("fit", ["toy_world/tiny_parts"], root)
    assert after["train/loss"] < 0.8 * first["train/loss"]
    capsys.readouterr()
    result = run("test", ["toy_world/tiny_parts"], [*root, f"model.checkpoint={tmp_path / 'weights.safetensors'}"])
    assert result["pixels"] == 4 * 64 * 64
    assert 0 < result["accuracy"] < 1
    assert "| background |" in capsys.readouterr().out


def test_resuming_inside_an_epoch(tmp_path: Path) -> None:
    words = ["data.val_frames=1", "data.worlds=8", "trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2"]
    check_resumed_inside_an_epoch("toy_world/tiny_parts", tmp_path, words, steps=3, stop=1)


# The bundled network, and images of captions


def drawn(prompt: Prompt, number: int, **colors: str) -> np.ndarray:
    """A frame that shows what a prompt asks for, but for `colors`."""
    kind = prompt.caption.split()[1]
    hat = "cap" if "hat" in prompt.parts else ""
    character = Character(kind, "long", {**prompt.parts, **colors}, (236, 190, 150), hat)
    for take in range(40):
        clip = ToyWorld.create(number, places=("park",), characters=[character]).film(8, take=take)
        frame = clip[0]
        areas = np.bincount(true_parts(clip, frame).ravel(), minlength=len(CLASSES))
        if all(areas[CLASSES.index(part)] > 25 for part in character.colors):
            return frame.rgb
    raise AssertionError("no take shows all parts")


def test_the_bundled_network_finds_parts_by_shape() -> None:
    """Also in the mirror, blurred, and in colours that no character has."""
    network: Any = visionzoo.create_model("toy_parts", pretrained=True)
    right, count = np.zeros(4), 0
    for stream in range(0, 12, 2):
        scene = random_scene("test", stream, 128)
        frame = scene.draw()
        true = true_parts(scene.clip, frame)
        blurred = cv2.GaussianBlur(frame.rgb, (0, 0), 0.7)
        odd = frame.rgb[..., [2, 0, 1]]
        found = find_parts(network, np.stack([frame.rgb, frame.rgb[:, ::-1], blurred, odd]), confidence=0)
        found[1] = found[1][:, ::-1].copy()
        parts = true > CLASSES.index("skin")
        right += ((found == true) & parts).sum((1, 2))
        count += parts.sum()
    assert count > 5000
    assert (right / count > 0.9).all(), right / count


def test_a_report_of_images_that_obey_and_of_images_that_do_not() -> None:
    prompts = {prompt.caption: (number, prompt) for number, prompt in enumerate(held_out_prompts(6))}

    def obeys(captions: list[str]) -> np.ndarray:
        return np.stack([drawn(prompts[caption][1], prompts[caption][0]) for caption in captions])

    def wrong_shirt(captions: list[str]) -> np.ndarray:
        images = []
        for caption in captions:
            number, prompt = prompts[caption]
            images.append(drawn(prompt, number, shirt="green" if prompt.parts["shirt"] != "green" else "red"))
        return np.stack(images)

    def empty(captions: list[str]) -> np.ndarray:
        return np.full((len(captions), 128, 128, 3), 200, np.uint8)

    good, bad, none = (
        prompt_report(sample, count=6, frames=4, batch_size=4, progress=False) for sample in (obeys, wrong_shirt, empty)
    )
    asked = sum(len(prompt.parts) for _, prompt in prompts.values())
    assert good.parts[-1].asked == asked
    assert good.hit > 0.9
    shirts = {report: next(each for each in report.parts if each.part == "shirt") for report in (good, bad)}
    assert shirts[good].hit >= 5 / 6
    assert shirts[bad].hit == 0
    assert shirts[bad].found >= 5 / 6
    assert bad.hit == pytest.approx(good.hit - 6 / asked, abs=1.5 / asked)
    assert none.hit == 0
    assert good.true == bad.true
    assert f"| all | {asked} |" in str(good)
    assert good.as_dict()["hit"] == good.hit


def test_prompts_are_held_out_and_stay_the_same() -> None:
    prompts = held_out_prompts(40)
    assert prompts[:9] == held_out_prompts(9)
    words = set(vocabulary())
    for prompt in prompts:
        assert set(prompt.caption.replace(",", " ,").split()) <= words
        assert all(f"{color} {part}" in prompt.caption for part, color in prompt.parts.items())
        key = (prompt.caption.split()[1], *(f"{part}={color}" for part, color in sorted(prompt.parts.items())))
        assert split_of("character", *key) == "test"
    assert held_out_prompts(1)[0].caption == (
        "a girl with red hair, a blue shirt, orange trousers, brown shoes and a green bag runs on a street"
    )


def test_the_test_of_a_text_to_image_network_reports_parts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    vae: Any = visionzoo.create_model("toy_vae", channels=[8, 8, 16, 16], groups=4)
    vae.save_pretrained(tmp_path / "vae")
    words = [f"vars.vae={tmp_path / 'vae'}", f"trainer.default_root_dir={tmp_path}"]
    config = {"channels": (8, 16, 16), "heads": 2, "groups": 4, "latent_size": 8}
    config |= {"text_width": 16, "text_layers": 1, "text_heads": 2, "latent_channels": 8}
    network = visionzoo.create_model("toy_text_to_image", **config)
    save_safetensors(network.state_dict(), tmp_path / "weights.safetensors", {"model": "toy_text_to_image"})
    words += [f"model.checkpoint={tmp_path / 'weights.safetensors'}", "model.true_frames=4"]
    result = run("test", ["toy_world/tiny_text_to_image"], words)
    assert result["images"] == 4
    assert 0 <= result["hit"] < 0.5
    assert result["true"][-1]["hit"] > 0.8
    assert result["rebuilt"][-1]["hit"] < 0.5
    assert not (tmp_path / "latents").exists()
    assert "| part | asked | found | hit | true frames | reconstructions |" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 2])
def test_images_that_do_not_belong_to_the_captions_are_refused(count: int) -> None:
    network: Any = visionzoo.create_model("toy_parts")
    with pytest.raises(
        InputError, match="count must be at least 1" if count == 0 else "returned 1 images for 2 captions"
    ):
        prompt_report(lambda captions: np.zeros((1, 128, 128, 3), np.uint8), count=count, network=network)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PartFramesData(takes=0), "data.takes and data.test_frames must be at least 1, got 1000, 0 and 400"),
        (lambda: PartFramesData(batch_size=0), "data.batch_size must be at least 1"),
        (lambda: visionzoo.create_model("toy_parts", channel=(8,)), "channels"),
        (lambda: visionzoo.create_model("toy_parts", channels=()), "must be positive numbers"),
        (
            lambda: find_parts(visionzoo.create_model("toy_parts"), np.zeros((8, 8, 3), np.uint8)),  # pyright: ignore[reportArgumentType]
            r"expected uint8 \(N, H, W, 3\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
