"""The toy world's video autoencoder: inflated from the image autoencoder, trained, resumed and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.errors import InputError
from visionzoo.models.longanimation import (
    ToyClipsData,
    VideoAutoencoderConfig,
    decode_segment,
    frame_by_frame,
    inflate,
    make_video_vae,
    open_video_vae,
    sees_one_frame,
    toy_clip,
    video_reconstruction_report,
)
from visionzoo.models.longanimation.toy_clips import KINDS, ClipCrops, clip_pixels
from visionzoo.models.toy_world import AutoencoderConfig, open_vae
from visionzoo.models.toy_world.networks import build
from visionzoo.training.run import run
from visionzoo.weights import read_checkpoint

RECIPE = "longanimation/tiny_vae"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of the tiny recipe, and its measures."""
    folder = tmp_path_factory.mktemp("vae")
    return folder, run("fit", [RECIPE], [f"trainer.default_root_dir={folder}"])


def decibels(made: Tensor, true: Tensor) -> float:
    return float(-10 * torch.log10(((made.clamp(-1, 1) - true) / 2).square().mean()))


@torch.no_grad()
def test_an_inflated_autoencoder_keeps_a_video() -> None:
    """Frame by frame; what it lacks is the attention of the image autoencoder."""
    image, video = open_vae(), open_video_vae()
    clip = clip_pixels(list(toy_clip("test", 5, 9, 128).frames(motion=False)), "colour")
    latents = video.encode(clip[None]).latent_dist.mode()
    assert latents.shape == (1, 8, 9, 16, 16)
    rebuilt = video.decode(latents).sample
    alone = image(clip.transpose(0, 1)).sample.transpose(0, 1)
    assert decibels(rebuilt, clip) > decibels(alone, clip) - 1.5
    assert decibels(rebuilt, clip) > 27
    assert torch.allclose(video.encode(clip[None, :, 4:5]).latent_dist.mode(), latents[:, :, 4:5], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("time", [1, 4])
def test_convolutions_of_images_change_nothing(time: int) -> None:
    sizes: dict[str, Any] = {"channels": (8, 8, 16), "latent_channels": 4, "groups": 4}
    image: Any = build("toy_vae", **sizes).eval()
    video = make_video_vae(VideoAutoencoderConfig(**sizes, time_compression=time)).eval()
    inflate(video, image)
    clip = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    assert sees_one_frame(video) == (time == 1)
    video.num_sample_frames_batch_size = video.num_latent_frames_batch_size = 1
    latents = video.encode(clip).latent_dist.mode()
    frames = video.decode(latents).sample
    before = {name: type(module) for name, module in video.named_modules()}
    keys = video.state_dict().keys()
    assert frame_by_frame(video) is video
    found = video.encode(clip).latent_dist.mode()
    assert (found - latents).abs().max() < 1e-5
    assert (video.decode(found).sample - frames).abs().max() < 1e-5
    assert video.state_dict().keys() == keys
    changed = {name for name, module in video.named_modules() if type(module) is not before[name]}
    assert bool(changed) == (time == 1)


@torch.no_grad()
def test_only_frames_that_are_wanted_are_decoded() -> None:
    video = open_video_vae()
    latents = torch.randn(1, 6, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    whole, part = decode_segment(video, latents), decode_segment(video, latents, frames=slice(1, 3))
    assert whole.shape == (5, 3, 32, 32)
    assert part.shape == (2, 3, 32, 32)
    assert (part - whole[1:3]).abs().max() < 1e-5


@torch.no_grad()
def test_weights_for_earlier_frames_need_videos() -> None:
    video = open_video_vae()
    assert sees_one_frame(video)
    video.encoder.conv_in.conv.weight[0, 0, 1] = 0.1
    assert not sees_one_frame(video)


@torch.no_grad()
def test_inflating_is_exact_without_attention() -> None:
    """Without the attention of the middle blocks, and with as many channels, every frame of a still video is the image's."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": (8, 8, 16), "latent_channels": 4, "groups": 4}
    image: Any = build("toy_vae", **sizes).eval()
    sizes["time_compression"] = 4
    for half in (image.encoder, image.decoder):
        half.mid_block.attentions[0].to_out[0].weight.zero_()
        half.mid_block.attentions[0].to_out[0].bias.zero_()
    video = make_video_vae(VideoAutoencoderConfig(**sizes)).eval()
    inflate(video, image)
    frame = torch.rand(1, 3, 32, 32) * 2 - 1
    moments = image.encode(frame).latent_dist
    found = video.encode(frame[:, :, None].expand(-1, -1, 17, -1, -1)).latent_dist
    assert found.mean.shape[2] == 5
    for one, other in ((found.mean, moments.mean), (found.logvar, moments.logvar)):
        assert (one - other[:, :, None]).abs().max() < 1e-4
    rebuilt = video.decode(found.mean).sample
    assert rebuilt.shape[2] == 17
    assert (rebuilt - image.decode(moments.mean).sample[:, :, None]).abs().max() < 1e-4


def test_networks_of_other_sizes_are_refused() -> None:
    image: Any = build("toy_vae", channels=(8, 8, 16), latent_channels=4, groups=4)
    with pytest.raises(InputError, match="has no .*; the two need the same levels"):
        inflate(make_video_vae(VideoAutoencoderConfig((8, 8, 16, 16), groups=4)), image)
    with pytest.raises(InputError, match="has the shape"):
        inflate(make_video_vae(VideoAutoencoderConfig((8, 16, 16), groups=4)), image)
    with pytest.raises(InputError, match="4 latent channels, the video autoencoder only 2"):
        inflate(make_video_vae(VideoAutoencoderConfig((8, 8, 16), 2, groups=4)), image)
    with pytest.raises(InputError, match="must be 1, 2 or 4, and there must be more levels"):
        make_video_vae(VideoAutoencoderConfig((8, 8), time_compression=4))


def test_clips_of_three_kinds() -> None:
    clip = toy_clip("train", 3, 9, 64)
    frames = list(clip.frames(motion=False))
    colour, drawing, sketch = (clip_pixels(frames, kind) for kind in KINDS)
    assert colour.shape == drawing.shape == sketch.shape == (3, 9, 64, 64)
    assert set(sketch.unique().tolist()) == {-1.0, 1.0}
    assert (drawing == 1).float().mean() > 0.5
    assert sketch[drawing == 1].max() == -1  # paper
    assert (drawing[0][sketch[0] == 1] < 0.6).all()


def test_crops_depend_on_their_key_and_have_all_kinds() -> None:
    data = ClipCrops(60, 9, 64, 32, 0.5, 1.0, seed=0)
    assert torch.equal(data[0, 3][0], data[0, 3][0])
    assert not torch.equal(data[0, 3][0], data[1, 3][0])
    items = [data[0, index] for index in range(16)]
    assert all(pixels.shape == (3, 9, 32, 32) and weights.shape == (1, 9, 32, 32) for pixels, weights, _ in items)
    grey = [bool((pixels[0] == pixels[1]).all()) for pixels, _, _ in items]
    assert 3 <= sum(grey) <= 13
    assert {weights.max().item() for _, weights, _ in items} == {2.0} or any(w.max() == 2 for _, w, _ in items)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 14}, r"data\.frames must be 8 n \+ 1, such as 9 or 17, got 14"),
        ({"crop": 20}, r"data\.crop must be a multiple of 8"),
        ({"drawn": 1.5}, r"data\.drawn must be from 0 to 1"),
        ({"clips": 0}, r"data\.clips must be at least 1"),
    ],
)
def test_wrong_data_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ToyClipsData(**settings)


@pytest.mark.slow
def test_the_recipe_learns_and_diffusers_loads_its_folder(trained: tuple[Path, dict[str, Any]]) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    folder, found = trained
    assert found["train/loss_epoch"] < 1.5
    network = AutoencoderKLCogVideoX.from_pretrained(folder / "vae").eval()
    state = read_checkpoint(folder / "weights.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert network.config["scaling_factor"] != 1
    report = video_reconstruction_report(network, clips=2, frames=9, size=64, split="validation")
    assert 5 < report.psnr < 40
    assert report.lowest_psnr <= report.psnr
    assert 0 <= report.lowest_hit <= 1
    assert "dB" in str(report)


@pytest.mark.slow
def test_resuming_inside_an_epoch(tmp_path: Path) -> None:
    check_resumed_inside_an_epoch(
        RECIPE, tmp_path, ["trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2"], steps=4, stop=2
    )


def test_sizes_of_the_image_autoencoder() -> None:
    ours, theirs = VideoAutoencoderConfig(), AutoencoderConfig()
    assert (ours.channels, ours.layers, ours.groups) == (theirs.channels, theirs.layers, theirs.groups)
    assert ours.latent_channels == theirs.latent_channels
