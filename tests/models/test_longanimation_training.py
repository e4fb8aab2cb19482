"""Training of LongAnimation: a step's inputs, which parts learn, data, and a recipe that learns, resumes and writes a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.data.toy_world import ToyWorld
from visionzoo.errors import InputError
from visionzoo.models.longanimation import (
    NANO_PROMPT,
    ColorRewardTraining,
    ColorTraining,
    SegmentData,
    SketchAugmentation,
    color_batch,
    estimate_clean,
    nano_parts,
    open_color_parts,
    open_memory_fusion,
    open_sketch_dit,
    save_color_parts,
    toy_window,
)
from visionzoo.models.longanimation.color_batch import padded
from visionzoo.models.longanimation.windows import shrunken
from visionzoo.training.run import run

RECIPE = "longanimation/tiny"
TINY: dict[str, Any] = {
    "heads": 2,
    "head": 16,
    "layers": 2,
    "sketch_layers": 1,
    "time": 32,
    "text_width": 16,
    "text_heads": 2,
    "text_length": 16,
    "memory_width": 16,
    "memory_layers": 2,
    "memory_heads": 2,
    "vision_width": 16,
    "vision_layers": 1,
    "image": 32,
    "patch": 8,
    "pool": 2,
    "ratio": 2,
    "window": 2,
    "levels": 1,
}
EVERYTHING = ["transformer", "sketch_dit", "memory_fusion", "memory_encoder", "text_encoder"]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def segment(count: int = 2) -> dict[str, Any]:
    """A batch as of `Segments`, of random numbers."""
    pixels = torch.randint(0, 256, (count, 4, 3, 32, 32), generator=torch.Generator().manual_seed(9))
    return {
        "latents": draw(0, count, 3, 8, 4, 4),
        "sketches": draw(1, count, 3, 8, 4, 4),
        "first_sketch": draw(2, count, 1, 8, 4, 4),
        "reference": draw(3, count, 1, 8, 4, 4),
        "memory": pixels.to(torch.uint8),
        "caption": ["a girl with black hair", ""][:count],
        "stream": torch.arange(count) + 5,
    }


def tiny(kind: Any = ColorTraining, **settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"vae": "inflated", "config": TINY, "local_frames": 2, "memory_share": 1.0, **settings}
    return kind(**given)


def moved(module: Any) -> Any:
    """Random values for layers that begin at zero, so that gradients reach what is before them."""
    with torch.no_grad():
        for name, layer in (("sketch_dit", "zero_conv"), ("memory_fusion", "proj_out")):
            weight = getattr(module.parts[name], layer).weight
            weight.copy_(0.2 * draw(7, *weight.shape))
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LongAnimation in diffusers' layout."""
    return moved(tiny(train=EVERYTHING, export_half=False)).save(tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of the tiny recipe, and its measures."""
    place = tmp_path_factory.mktemp("colour")
    return place, run("fit", [RECIPE], [f"trainer.default_root_dir={place}"])


# A training step


def test_a_step_is_laid_out_as_in_sampling() -> None:
    scheduler, batch = nano_parts(**TINY)["scheduler"], segment()
    times, noise = torch.tensor([100, 900]), draw(4, 2, 4, 8, 4, 4)
    parts = [batch[name] for name in ("latents", "sketches", "first_sketch", "reference")]
    given = color_batch(scheduler, *parts, times, noise)
    assert given.noisy.shape == given.image.shape == given.sketch.shape == given.target.shape == noise.shape
    assert torch.equal(given.image[:, :1], batch["reference"])
    assert given.image[:, 1:].abs().max() == 0
    assert torch.equal(given.sketch, torch.cat([batch["first_sketch"], batch["sketches"]], 1))
    clean = torch.cat([batch["latents"][:, :1], batch["latents"]], 1)
    assert torch.allclose(estimate_clean(scheduler, given.noisy, given.target, times), clean, atol=1e-4)
    even = draw(5, 1, 4, 8, 4, 4)
    assert torch.equal(padded(even, draw(6, 1, 1, 8, 4, 4)), even)  # no padding latent, so no sketch in front


def test_the_loss_is_that_of_cogvideox() -> None:
    """Its trainer divides the error of the clean latents by the share of noise, which is the error of the velocity."""
    scheduler = nano_parts(**TINY)["scheduler"]
    clean, noise, error = (draw(seed, 2, 4, 8, 4, 4) for seed in range(3))
    times = torch.tensor([50, 700])
    velocity = scheduler.get_velocity(clean, noise, times)
    noisy = scheduler.add_noise(clean, noise, times)
    made = estimate_clean(scheduler, noisy, velocity + error, times)
    weights = 1 / (1 - scheduler.alphas_cumprod[times]).float().reshape(-1, 1, 1, 1, 1)
    assert torch.allclose((weights * (made - clean).square()).mean(), error.square().mean(), rtol=1e-3)


def gradients(module: Any, loss: Tensor) -> set[str]:
    loss.backward()
    return {
        name
        for name in EVERYTHING
        if any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parts[name].parameters())
    }


@pytest.mark.parametrize("train", [["sketch_dit"], ["memory_fusion"], EVERYTHING])
def test_only_chosen_parts_learn(train: list[str]) -> None:
    module, batch = moved(tiny(train=train)), segment()
    noise, times = module.noise(batch)
    assert gradients(module, module.loss(batch, module.model, times, noise, True).mean()) == set(train)


def test_the_memory_has_an_effect_only_where_it_is_used() -> None:
    module, batch = moved(tiny(train=["memory_fusion"])), segment()
    noise, times = module.noise(batch)
    other = {**batch, "memory": 255 - batch["memory"]}
    with torch.no_grad():
        for used in (True, False):
            same = torch.equal(*(module.loss(b, module.model, times, noise, used) for b in (batch, other)))
            assert same is not used


def test_the_reward_teaches_sketchdit_and_the_memory_fusion() -> None:
    module, batch = moved(tiny(ColorRewardTraining)), segment(1)
    noise, times = module.noise(batch)
    given = module.prepare(batch, times // 3, noise)
    predicted = module.predict(batch, given, module.model, True)
    clean = estimate_clean(module.parts["scheduler"], given.noisy, predicted, given.timesteps)[:, 1:]
    value = module.inconsistency(batch, clean)
    assert 0 < value < 2
    assert gradients(module, value) == {"sketch_dit", "memory_fusion"}
    with torch.no_grad():
        assert module.inconsistency(batch, batch["latents"]) < 1e-5


# Folders


def test_a_folder_is_the_base_of_the_published_stages(folder: Path) -> None:
    parts = open_color_parts(folder)
    for name, again in (("sketch_dit", open_sketch_dit), ("memory_fusion", open_memory_fusion)):
        state = again(folder / name).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in parts[name].state_dict().items())
    stage = ColorTraining(base=str(folder), train=["memory_fusion"], memory_share=1.0, local_frames=0)
    assert torch.equal(stage.model["memory_fusion"].proj_out.weight, parts["memory_fusion"].proj_out.weight)
    text = stage.encode(stage.model, ["a girl with black hair", ""])
    assert text.shape == (2, 16, 16)
    assert not torch.equal(text[0], text[1])


def test_what_was_trained_without_memory_colours_without_it(tmp_path: Path) -> None:
    """The folder says so: nobody has to find out that --memory none is needed."""
    from visionzoo.pipelines.colorize import LongAnimationPipeline

    settings = {"segment_frames": 17, "overlap": 9, "height": 32, "width": 32, "steps": 1, "fps": 23.976}
    module = moved(tiny(train=["sketch_dit"], memory_share=0.0, export_half=False, settings=settings))
    pipe = LongAnimationPipeline.create(checkpoint=module.save(tmp_path), device="cpu")
    assert (pipe.memory_encoder, pipe.memory_fusion, pipe.config["memory"]) == (None, None, "none")
    assert pipe.config["fps"] == 23.976
    lines = np.full((17, 32, 32, 3), 255, np.uint8)
    lines[:, 8:10, 4:28] = 0
    video = pipe(lines, np.full((32, 32, 3), (200, 30, 30), np.uint8), drop_remainder=False)
    assert video.frames.shape == (17, 32, 32, 3)


def test_sketchdit_begins_with_the_blocks_of_the_transformer(folder: Path, tmp_path: Path) -> None:
    parts = {name: part for name, part in open_color_parts(folder).items() if name != "sketch_dit"}
    stage = ColorTraining(base=str(save_color_parts(parts, tmp_path, half=False)), sketch_layers=2)
    own, base = stage.model["sketch_dit"], parts["transformer"]
    for number in range(2):
        pair = (net.transformer_blocks[number].attn1.to_q.weight for net in (own, base))
        assert torch.equal(*pair)
    assert own.zero_conv.weight.abs().max() == 0
    trained = stage.save(tmp_path / "out")
    assert sorted(place.name for place in trained.iterdir() if place.is_dir()) == ["sketch_dit"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": ["unet"]}, "there is no part 'unet'"),
        ({"train": []}, "names no part to train"),
        ({"memory_share": 2.0}, r"model\.memory_share must be from 0 to 1"),
        ({"train": ["memory_fusion"], "memory_share": 0.0}, r"model\.memory_share is 0"),
        ({"config": {"hed": 1}}, "LongAnimationNanoConfig"),
        ({"config": {"head": 24}}, "head must be a multiple of 16"),
        ({"config": {**TINY, "levels": 2}}, "levels must be at least 1 and less than memory_layers=2"),
        ({"vae": "nowhere"}, "nowhere: is no folder of a video autoencoder"),
    ],
)
def test_wrong_settings_of_the_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**settings)


def test_saved_parts_do_not_tell_where_they_came_from(tmp_path: Path) -> None:
    module = tiny()
    first = module.save(tmp_path / "first")
    again = save_color_parts(open_color_parts(first), tmp_path / "second")
    found = [file for file in again.rglob("*.json") if "first" in file.read_text()]
    assert not found
    assert open_color_parts(again)["memory_fusion"].config["depth"] == 1


# Data


def test_a_window_has_the_first_frame_others_and_the_last_ones() -> None:
    """Those that are remembered: some spread from the first frame on, and the last ones before the window."""
    sizes: dict[str, Any] = {"size": 64, "recent": 2}
    window = toy_window("test", 4, frames=9, history=6, longest=60, **sizes)
    assert window.frames.shape == (15, 64, 64, 3)
    assert window.lines.shape == (15, 64, 64)
    assert window.caption.startswith("a ")
    world = ToyWorld.create(4, "test", places=2, characters=1)
    clip = list(world.film(60, size=(64, 64), speed=0.25, returns=True).frames(motion=False))
    start = next(
        index for index in range(52) if all(np.array_equal(window.frames[6 + k], clip[index + k].rgb) for k in range(9))
    )
    spread = [int(index) for index in np.linspace(0, start - 3, 4)]
    for frame, index in zip(window.frames, [*spread, start - 2, start - 1], strict=False):
        assert np.array_equal(frame, clip[index].rgb)


def test_windows_depend_on_the_seed_in_training_only() -> None:
    sizes: dict[str, Any] = {"frames": 9, "history": 0, "recent": 0, "size": 64, "longest": 9}
    test, train = ([toy_window(split, 3, seed=seed, **sizes).frames for seed in (0, 1)] for split in ("test", "train"))
    assert np.array_equal(*test)
    assert not np.array_equal(*train)
    small = shrunken(test[0][:2], 16)
    assert small.shape == (2, 3, 16, 16)
    assert abs(float(small.mean()) - float(test[0][:2].mean())) < 3


def test_a_memory_depends_on_the_frames_before_training() -> None:
    """Beacons with random weights would attend to all of a window alike, and hardly differ."""
    module = tiny()
    clips = torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)
    clips[0, :, 0], clips[1, :, 2] = 255, 255  # red, blue
    memory = module.memory(module.model, clips)
    assert (memory[0] - memory[1]).std() > 0.3 * memory.std()


@pytest.mark.parametrize("count", [3, 4])
def test_clips_are_encoded_together_as_alone(count: int) -> None:
    encoder = nano_parts(**TINY)["memory_encoder"]
    clips = segment()["memory"][:, :count]
    together = encoder.encode_clips(clips, NANO_PROMPT)
    alone = torch.cat([encoder.encode(clip, NANO_PROMPT) for clip in clips])
    assert together.requires_grad
    assert together.shape == alone.shape
    assert (together - alone).abs().max() < 1e-5


def test_more_timesteps_with_much_noise() -> None:
    batch = {"stream": torch.arange(400), "latents": draw(0, 1, 3, 8, 4, 4).expand(400, -1, -1, -1, -1)}
    (noise, even), (same, late) = tiny().noise(batch), tiny(time_power=3.0).noise(batch)
    assert torch.equal(noise, same)
    assert abs(float(even.float().mean()) - 500) < 40
    assert abs(float(late.float().mean()) - 750) < 40  # 3 / 4
    assert int(late.max()) < 1000
    assert (late[even.argsort()].diff() >= 0).all()


def test_a_part_of_the_history_in_training() -> None:
    module, batch = tiny(least_history=2), segment()
    batch["stream"] = torch.tensor([3001, 0])
    assert torch.equal(module.remembered(batch, training=True), batch["memory"][:, -2:])  # 2 + 3 % 3
    batch["stream"] = torch.tensor([4001, 0])
    assert torch.equal(module.remembered(batch, training=True), batch["memory"][:, -3:])
    assert torch.equal(module.remembered(batch, training=False), batch["memory"])
    assert torch.equal(tiny().remembered(batch, training=True), batch["memory"])


def test_sketches_are_changed_as_a_clip() -> None:
    window = toy_window("test", 2, frames=9, history=0, recent=0, size=64, longest=9)
    plain = SketchAugmentation(jitter=0, thick=0, gaps=0)(window.lines, 1)
    assert set(np.unique(plain)) == {-1.0, 1.0}
    thick = SketchAugmentation(jitter=0, thick=1, gaps=0)(window.lines, 1)
    assert ((thick - plain) >= 0).all()
    assert (thick > plain).any(axis=(1, 2)).all()
    gaps = SketchAugmentation(jitter=0, thick=0, gaps=1)(window.lines, 1)
    assert ((gaps - plain) <= 0).all()
    assert (gaps < plain).any()
    jitter = SketchAugmentation(jitter=0.2, thick=0, gaps=0)
    assert len({int((jitter(window.lines, seed) > 0).sum()) for seed in range(6)}) > 1
    assert np.array_equal(SketchAugmentation()(window.lines, 4), SketchAugmentation()(window.lines, 4))
    with pytest.raises(InputError, match=r"thresholds in \(0, 1\)"):
        SketchAugmentation(threshold=0.95)
    with pytest.raises(InputError, match=r"must be \(F, H, W\) uint8"):
        SketchAugmentation()(plain, 1)


def test_windows_are_encoded_once_and_read_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "vae": "inflated",
        "windows": 2,
        "val_windows": 1,
        "frames": 9,
        "history": 3,
        "size": 64,
    }
    data = SegmentData(**settings, memory_size=16, cache=str(tmp_path), drop=0.0)
    data.prepare_data()
    data.setup("fit")
    files = data.sets["train"].files
    before = [file.stat().st_mtime_ns for file in files]
    item = data.sets["train"][0, 1]
    assert item["latents"].shape == item["sketches"].shape == (9, 8, 8, 8)
    assert item["reference"].shape == item["first_sketch"].shape == (1, 8, 8, 8)
    assert item["memory"].shape == (3, 3, 16, 16)
    assert item["memory"].dtype == torch.uint8
    assert item["caption"]
    assert item["stream"] != data.sets["train"][1, 1]["stream"]
    files[1].write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"000001\.npz: cannot be read .*; delete it"):
        data.sets["train"][0, 1]
    files[1].unlink()
    again = SegmentData(**settings, memory_size=16, cache=str(tmp_path), drop=0.0)
    again.setup("fit")
    assert files[0].stat().st_mtime_ns == before[0]
    assert torch.equal(again.sets["train"][0, 1]["latents"], item["latents"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 16}, r"data\.frames must be 8 n \+ 1"),
        ({"size": 100}, "multiples of 16"),
        ({"size": [64, 128]}, "windows of the toy world are squares"),
        ({"longest": 48}, r"data\.longest must be at least frames \+ history, 57, got 48"),
        ({"windows": 0}, r"data\.windows must be at least 1"),
        ({"drop": 1.0}, r"data\.drop must be from 0"),
        ({"table": "a.parquet", "root": "clips"}, r"data\.table needs data\.val_table, too"),
    ],
)
def test_wrong_settings_of_the_data(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentData(**settings)


# The recipe


@pytest.mark.slow
def test_the_recipe_learns_and_its_folder_loads(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    place, found = trained
    words = [f"trainer.default_root_dir={tmp_path}", f"data.cache={place / 'segments'}", "trainer.max_epochs=1"]
    words += ["trainer.limit_train_batches=1", "trainer.check_val_every_n_epoch=1", "model.sample_steps=0"]
    first = run("fit", [RECIPE], words)
    assert found["val/loss"] < 0.97 * first["val/loss"]
    assert sorted((place / "samples").glob("*.png"))
    parts = open_color_parts(place / "pipeline")
    assert {"vae", "transformer", "sketch_dit", "memory_fusion", "memory_encoder", "text_encoder"} <= parts.keys()
    assert open_sketch_dit(place / "pipeline" / "sketch_dit").zero_conv.weight.abs().max() > 0
    assert open_memory_fusion(place / "pipeline" / "memory_fusion").proj_out.weight.abs().max() > 0


@pytest.mark.slow
def test_resuming_inside_an_epoch(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    words = ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2", f"data.cache={trained[0] / 'segments'}"]
    check_resumed_inside_an_epoch(RECIPE, tmp_path, words, steps=3, stop=1, weights=False)
