"""Slow learning: clean past frames, a recipe that learns and resumes bit for bit, own videos as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.data.toy_world import ToyWorld, write_clip
from visionzoo.errors import InputError
from visionzoo.io.files import bundled
from visionzoo.models.slowfastvgen import (
    ChunkData,
    SlowFastNano,
    SlowFastNanoConfig,
    SlowLearning,
    compose,
    masked_batch,
    masked_errors,
    open_parts,
    sample_chunk,
    start_from_images,
)
from visionzoo.models.slowfastvgen.episodes import find_episodes, read_action_file
from visionzoo.models.toy_world import noise_schedule
from visionzoo.training.run import run
from visionzoo.weights import WeightsError, read_checkpoint

RECIPE = "slowfastvgen/tiny"
TINY: dict[str, Any] = {
    "channels": (8, 16),
    "head": 8,
    "groups": 4,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run of the tiny recipe, and its validation loss."""
    folder = tmp_path_factory.mktemp("slow")
    return folder, run("fit", [RECIPE], [f"trainer.default_root_dir={folder}"])["val/loss"]


def latents(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Masked conditioning


def test_past_frames_stay_clean_and_do_not_count() -> None:
    clean, noise = latents(0, 2, 8, 5, 4, 4), latents(1, 2, 8, 3, 4, 4)
    batch = masked_batch(noise_schedule(), clean, 2, timesteps=torch.tensor([10, 900]), noise=noise)
    assert torch.equal(batch.latents[:, :, :2], clean[:, :, :2])
    level = noise_schedule().alphas_cumprod[900]
    expected = level.sqrt() * clean[1, :, 2:] + (1 - level).sqrt() * noise[1]
    assert torch.allclose(batch.latents[1, :, 2:], expected, atol=1e-6)
    predicted = torch.cat([torch.full((2, 8, 2, 4, 4), 99.0), batch.target + 2], dim=2)
    assert torch.allclose(masked_errors(predicted, batch), torch.tensor([4.0, 4.0]))


@pytest.mark.parametrize("past", [5, -1])
def test_a_chunk_needs_new_frames(past: int) -> None:
    with pytest.raises(InputError, match="leave no new ones"):
        masked_batch(noise_schedule(), latents(0, 1, 8, 5, 4, 4), past)


def test_one_past_serves_a_batch_and_must_fit() -> None:
    assert compose(latents(0, 1, 8, 2, 4, 4), latents(1, 3, 8, 4, 4, 4)).shape == (3, 8, 6, 4, 4)
    assert compose(None, latents(1, 3, 8, 4, 4, 4)).shape == (3, 8, 4, 4, 4)
    with pytest.raises(InputError, match="do not fit"):
        compose(latents(0, 1, 4, 2, 4, 4), latents(1, 3, 8, 4, 4, 4))


class Recorder(nn.Module):
    """Predicts the mean of the past for all frames, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, given: Tensor, time: Tensor, states: Tensor) -> Any:
        self.seen.append(given)
        return type("Output", (), {"sample": given[:, :, :2].mean(2, keepdim=True).expand_as(given) * states.mean()})()


def test_sampling_leaves_the_past_alone() -> None:
    past, noise, scheduler = latents(0, 1, 8, 2, 4, 4), latents(1, 1, 8, 3, 4, 4), noise_schedule()
    scheduler.set_timesteps(3)
    network, steps = Recorder(), []
    text, none = torch.ones(1, 4, 6), torch.zeros(1, 4, 6)
    made = sample_chunk(network, scheduler, noise, past, text, none, guidance=3.0, on_step=lambda k, _: steps.append(k))
    assert made.shape == noise.shape
    assert steps == [0, 1, 2]
    assert all(torch.equal(seen[:, :, :2], past.expand(2, -1, -1, -1, -1)) for seen in network.seen)
    alone = Recorder()
    sample_chunk(alone, scheduler, noise, past, text, none, guidance=1.0)
    assert [len(seen) for seen in alone.seen] == [1, 1, 1]


# The recipe


def test_the_recipe_learns(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = [f"trainer.default_root_dir={tmp_path}", f"data.cache={trained[0] / 'latents'}", "trainer.max_epochs=1"]
    words += ["trainer.limit_train_batches=1", "trainer.check_val_every_n_epoch=1", "model.sample_steps=0"]
    first = run("fit", [RECIPE], words)
    assert trained[1] < 0.97 * first["val/loss"]
    assert not (tmp_path / "samples").exists()
    assert sorted((trained[0] / "samples").glob("*.png"))


def test_resuming_inside_an_epoch(trained: tuple[Path, float], tmp_path: Path) -> None:
    words = ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2", f"data.cache={trained[0] / 'latents'}"]
    check_resumed_inside_an_epoch(RECIPE, tmp_path, words, steps=3, stop=1)


def test_the_folder_has_the_trained_networks(trained: tuple[Path, float]) -> None:
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    parts = open_parts(trained[0] / "pipeline")
    stock = UNet3DConditionModel.from_pretrained(trained[0] / "pipeline" / "unet")
    state = read_checkpoint(trained[0] / "weights.safetensors")
    for network in (parts["unet"], stock):
        assert all(torch.equal(value, state[f"unet.{key}"]) for key, value in network.state_dict().items())
    again = SlowLearning(base=str(trained[0] / "pipeline"))
    assert torch.equal(again.model["unet"].conv_in.weight, state["unet.conv_in.weight"])


def test_a_frozen_text_encoder_gets_no_gradient() -> None:
    torch.manual_seed(0)
    module = SlowLearning(config=TINY)
    batch = {"latents": latents(0, 2, 8, 5, 4, 4), "past": torch.tensor([1, 1]), "action": ["go left", ""]}
    states = module.encode(module.model, batch["action"])
    assert not states.requires_grad
    assert torch.equal(states, module.encode(module.model, batch["action"]))
    module.loss(batch, module.model).mean().backward()
    assert all(parameter.grad is None for parameter in module.parts["text_encoder"].parameters())
    assert module.model["unet"].conv_in.weight.grad is not None


# Starting from images


def test_a_new_network_treats_each_frame_alone() -> None:
    torch.manual_seed(0)
    network = SlowFastNano(SlowFastNanoConfig(**TINY)).eval()
    images = read_checkpoint(bundled("weights", "lovecon", "unet", "diffusion_pytorch_model.safetensors"))
    clip, time = latents(0, 1, 8, 3, 8, 8), torch.tensor([5])
    with torch.no_grad():
        states = network.encode(["wait"])
        norms = [m for m in network.unet.modules() if isinstance(m, nn.GroupNorm)]
        assert norms
        # group norms of the spatial layers see single frames, so without temporal layers frames are independent
        whole = network(clip, time, states)
        single = network(clip[:, :, 1:2], time, states)
    assert torch.allclose(whole[:, :, 1:2], single, atol=1e-5)
    big = SlowFastNano(SlowFastNanoConfig())
    copied = start_from_images(big.unet, images)
    assert {"conv_in.weight", "down_blocks.1.attentions.0.proj_in.weight"} <= set(copied)
    assert not any("temp_" in key for key in copied)
    assert torch.equal(
        big.unet.state_dict()["down_blocks.1.attentions.0.proj_in.weight"],
        images["down_blocks.1.attentions.0.proj_in.weight"][..., 0, 0].float(),
    )
    with pytest.raises(InputError, match="no layer"):
        start_from_images(big.unet, {"other": torch.zeros(1)})


# Own videos


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the toy world with actions, and one of them again as a plain video with a caption."""
    folder = tmp_path_factory.mktemp("episodes")
    for number in range(2):
        clip = ToyWorld.create(number, "train", places=2).film(17, size=(64, 80), hold=4)
        write_clip(clip, folder / f"{number}")
    (folder / "plain.mp4").write_bytes((folder / "0" / "video.mp4").read_bytes())
    (folder / "plain.txt").write_text("a walk\nin a park\n")
    return folder


def test_own_videos_become_chunks(episodes: Path, tmp_path: Path) -> None:
    found = find_episodes(episodes, 64)
    assert [len(each.actions) for each in found[2:]] == [1]
    assert found[2].actions[0].text == "a walk in a park"
    assert next(found[0].frames()).shape == (64, 64, 3)
    data = ChunkData(
        str(episodes), str(episodes), size=64, frames=4, past={4: 1.0}, cache=str(tmp_path), batch_size=2, drop=0.0
    )
    data.prepare_data()
    data.setup("fit")
    chunks = data.sets["validation"]
    actions = [chunk.action for chunk in chunks.chunks]
    assert actions.count("a walk in a park") == 3
    item = chunks[0]
    assert item["latents"].shape == (8, 8, 8, 8)
    batches = list(data.train_dataloader())
    assert {int(batch["past"][0]) for batch in batches} == {4}


def test_batches_have_one_number_of_past_frames(episodes: Path, tmp_path: Path) -> None:
    data = ChunkData(
        str(episodes), str(episodes), size=64, frames=4, past={4: 1, 1: 1, 0: 1}, cache=str(tmp_path), batch_size=2
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    lengths = [batch["past"].unique().tolist() for batch in batches]
    assert all(len(each) == 1 for each in lengths)
    assert [batch["latents"].shape[2] for batch in batches] == [4 + each[0] for each in lengths]
    assert len({each[0] for each in lengths}) > 1


def test_a_smaller_cache_of_other_episodes_is_not_taken(episodes: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"size": 64, "frames": 4, "past": {4: 1.0}, "cache": str(tmp_path)}
    ChunkData(str(episodes), str(episodes), **settings).setup("fit")
    before = sorted(tmp_path.glob("*.latents"))
    ChunkData(str(episodes), str(episodes), **settings).setup("fit")
    assert sorted(tmp_path.glob("*.latents")) == before
    ChunkData(str(episodes), str(episodes), **{**settings, "size": 72}).setup("fit")
    assert len(sorted(tmp_path.glob("*.latents"))) == len(before) + 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["go left"], "line 1 is no action"),
        ([{"start_frame": 0, "end_frame": 4}], "line 1 is no action"),
        ([{"start_frame": 4, "end_frame": 4, "text": "go left"}], "line 1 covers the frames 4 to before 4"),
        (
            [{"start_frame": 0, "end_frame": 4, "text": "a"}, {"start_frame": 3, "end_frame": 8, "text": "b"}],
            "line 2 covers .* none of them before 4",
        ),
        ([], "holds no actions"),
    ],
)
def test_bad_actions_are_named(lines: list[Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "actions.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines) or "\n")
    with pytest.raises(InputError, match=message):
        read_action_file(file)


def test_actions_longer_than_the_video_are_named(episodes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "episodes" / "a"
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes((episodes / "0" / "video.mp4").read_bytes())
    (folder / "actions.jsonl").write_text(json.dumps({"start_frame": 1, "end_frame": 40, "text": "go left"}))
    data = ChunkData(
        str(folder.parent), str(folder.parent), size=64, frames=4, past={1: 1.0}, cache=str(tmp_path / "cache")
    )
    with pytest.raises(InputError, match="the video has 17 frames, but its actions end with frame 39"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "data.frames"),
        ({"past": {-1: 1.0}}, "data.past"),
        ({"past": {1: 0.0}}, "data.past"),
        ({"drop": 1.0}, "data.drop"),
        ({"episodes": "somewhere"}, "belong together"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChunkData(**settings)


def test_folders_without_episodes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither sub-folders"):
        find_episodes(tmp_path, 64)
    with pytest.raises(InputError, match="no such folder"):
        find_episodes(tmp_path / "none", 64)
    with pytest.raises(WeightsError, match="no folder of a pipeline"):
        open_parts(tmp_path)


def test_the_same_seed_gives_the_same_worlds() -> None:
    from visionzoo.models.slowfastvgen.episodes import toy_episode

    one, two = (toy_episode("train", 3, chunks=2, hold=4, size=64) for _ in range(2))
    assert one.actions == two.actions
    assert all(np.array_equal(a, b) for a, b in zip(one.frames(), two.frames(), strict=True))
    assert toy_episode("train", 3, chunks=2, hold=4, size=64, seed=1).actions != one.actions or not np.array_equal(
        next(toy_episode("train", 3, chunks=2, hold=4, size=64, seed=1).frames()), next(one.frames())
    )
