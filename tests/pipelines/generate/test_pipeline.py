"""SlowFastVGenPipeline on tiny random networks: chunks, streams, callbacks, sources, and what it refuses."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet3DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny, tiny_diffusion
from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.models.slowfastvgen import SlowFastUNet
from visionzoo.pipelines.generate import Chunk, GenerateOptions, SlowFastVGenPipeline

PLAIN: dict[str, Any] = {"fast_learning": False, "guidance": 1.0}
RED, BLUE = "a red boat", "a blue boat"


def silent(*_: object) -> None:
    """No progress bars."""


@pytest.fixture
def pipe() -> SlowFastVGenPipeline:
    return tiny.generate()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def video_file(path: Path, frames: int, height: int = 64, width: int = 64) -> Path:
    with VideoWriter(path, fps=10, lossless=True) as writer:
        for number in range(frames):
            writer.write(np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8))
    return path


def made(pipe: SlowFastVGenPipeline, source: Any, actions: Any = (RED, BLUE), **settings: Any) -> np.ndarray:
    return np.stack(pipe(source, list(actions), progress=silent, **{**PLAIN, **settings}).frames)


# Chunks


def test_a_video_is_its_image_and_a_chunk_for_each_action(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    result = pipe(image, [RED, BLUE, RED], progress=lambda *now: told.append(now), **PLAIN)
    assert len(result.frames) == 1 + 3 * 4
    assert result.actions == [RED, BLUE, RED]
    assert result.losses == [(), (), ()]
    assert result.memory is None
    first = decode_latents(pipe.vae, encode_frames(pipe.vae, image[None]))[0]
    assert np.abs(result.frames[0] / 255 - first.permute(1, 2, 0).numpy()).max() < 0.5 / 255 + 1e-6
    assert told == [("reading", 1, 0), *(("generating", step, 6) for step in range(1, 7))]


def test_each_chunk_continues_clean_latents_of_the_one_before(
    pipe: SlowFastVGenPipeline, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One past frame at first, then as many as fit; nothing is decoded or encoded in between, and the past stays clean."""
    seen: list[Tensor] = []
    forward = pipe.unet.forward
    monkeypatch.setattr(
        pipe.unet, "forward", lambda x, *rest, **more: (seen.append(x.clone()), forward(x, *rest, **more))[1]
    )
    chunks = list(pipe.stream(image, [RED, BLUE, RED], GenerateOptions(**PLAIN), progress=silent))
    assert [x.shape[2] for x in seen] == [5, 5, 8, 8, 8, 8]
    assert torch.equal(seen[0][0, :, 0], encode_frames(pipe.vae, image[None])[0])
    for step in (2, 3):
        assert torch.equal(seen[step][0, :, :4], chunks[0].latents)
    assert torch.equal(seen[4][0, :, :4], chunks[1].latents)


def test_guidance_is_for_the_new_frames_only(
    pipe: SlowFastVGenPipeline, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = pipe.unet.forward
    monkeypatch.setattr(
        pipe.unet, "forward", lambda x, *rest, **more: (seen.append(x.clone()), forward(x, *rest, **more))[1]
    )
    past = encode_frames(pipe.vae, image[None])[0]
    pipe(image, [RED], progress=silent, fast_learning=False, guidance=4.0)
    assert [x.shape for x in seen] == [(2, 4, 5, 8, 8)] * 2
    assert all(torch.equal(x[half, :, 0], past) for x in seen for half in (0, 1))


def test_a_stream_takes_actions_while_the_video_is_made(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    asked: list[int] = []

    def keys() -> Iterator[str]:
        for number in range(3):
            asked.append(number)
            yield RED

    chunks = pipe.stream(image, keys(), GenerateOptions(**PLAIN), progress=silent)
    first = next(chunks)
    assert (first.number, first.action, asked) == (0, RED, [0])
    assert len(first.frames) == 4
    assert [chunk.number for chunk in chunks] == [1, 2]


def test_chunks_that_were_used_are_not_kept(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    """However long the video: the chunk that is looked at is the only one in memory."""
    alive = []
    for chunk in pipe.stream(image, [RED] * 5, GenerateOptions(**PLAIN, steps=1), progress=silent):
        assert len(chunk.frames) == 4
        alive.append(sum(isinstance(thing, Chunk) for thing in gc.get_objects()))
    assert max(alive) <= 2


def test_results_depend_on_the_seed_and_on_the_action(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    plain = made(pipe, image)
    assert np.array_equal(made(pipe, image), plain)
    assert not np.array_equal(made(pipe, image, seed=1), plain)
    other = made(pipe, image, [RED, RED])
    assert np.array_equal(other[:5], plain[:5])
    assert not np.array_equal(other[5:], plain[5:])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler"])
def test_schedulers_sample_what_the_network_predicts(image: np.ndarray, kind: str, name: str) -> None:
    """A network that knows the answer: whatever it predicts and whatever samples, the answer comes out."""
    pipe = SlowFastVGenPipeline.create(tiny.generate(), device="cpu")
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=kind)
    answer = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    pipe.set_scheduler(name, timestep_spacing="trailing")
    alphas = tiny_diffusion.scheduler().alphas_cumprod

    class Knowing(SlowFastUNet):
        def forward(self, x: Tensor, time: Tensor, states: Tensor, **_: Any) -> Any:
            alpha = alphas[int(time.round())]
            noise = (x[:, :, 1:] - alpha.sqrt() * answer) / (1 - alpha).sqrt()
            told = noise if kind == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * answer
            return type("Output", (), {"sample": torch.cat([x[:, :, :1], told], dim=2)})()

    pipe.unet.__class__ = Knowing
    try:
        (chunk,) = pipe.stream(image, [RED], GenerateOptions(steps=12, **PLAIN), progress=silent)
    finally:
        pipe.unet.__class__ = SlowFastUNet
    assert (chunk.latents - answer[0]).abs().max() < 0.15
    assert (chunk.latents - answer[0]).square().mean() < 2e-3


def test_callbacks_see_each_step_and_chunk_and_may_end_the_video(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    steps: list[int] = []
    taken: list[int] = []

    def callback(one: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        assert tensors["latents"].shape == (1, 4, 4, 8, 8)
        one._interrupt = len(steps) == 3
        return {"latents": 0 * tensors["latents"]} if step == 1 else {}

    result = pipe(
        image,
        [RED, BLUE, RED],
        progress=silent,
        callback_on_step_end=callback,
        callback_on_chunk_end=lambda chunk: taken.append(chunk.number),
        **PLAIN,
    )
    assert steps == [0, 1, 0]
    assert taken == [0]
    assert len(result.frames) == 5
    zeros = decode_latents(pipe.vae, torch.zeros(4, 4, 8, 8))
    assert np.abs(np.stack(result.frames[1:]) / 255 - zeros.permute(0, 2, 3, 1).numpy()).max() < 0.5 / 255 + 1e-6


# Sources


def test_a_video_is_continued_from_its_last_frames(pipe: SlowFastVGenPipeline, tmp_path: Path) -> None:
    path = video_file(tmp_path / "a.mkv", 7)
    result = pipe(path, [RED], progress=silent, **PLAIN)
    assert len(result.frames) == 7 + 4
    only = list(pipe.stream(video_file(tmp_path / "b.mkv", 7), [RED], GenerateOptions(**PLAIN), progress=silent))
    assert np.array_equal(np.stack(result.frames[7:]), np.stack(only[0].frames))
    fewer = pipe.begin(path, GenerateOptions(past_frames=2, **PLAIN), progress=silent)
    assert fewer.past is not None
    assert fewer.past.shape == (4, 2, 8, 8)


def test_other_sizes_are_cropped_stretched_or_refused(pipe: SlowFastVGenPipeline, tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 20:76] = 255  # the middle third and what scaling reads around it
    crop, stretch = (
        pipe.begin(wide, GenerateOptions(**PLAIN), fit=fit, progress=silent) for fit in ("crop", "stretch")
    )
    white = encode_frames(pipe.vae, np.full((1, 64, 64, 3), 255, np.uint8))
    assert torch.equal(crop.past, white.transpose(0, 1))
    assert not torch.equal(stretch.past, white.transpose(0, 1))
    with pytest.raises(InputError, match=r"the image has 96 x 32 pixels, and the video 64 x 64; resize it, or use fit"):
        pipe.begin(wide, GenerateOptions(**PLAIN), fit="exact")
    tall = pipe(wide, [RED], size=(96, 48), progress=silent, **PLAIN)
    assert tall.frames[-1].shape == (96, 48, 3)
    with pytest.raises(InputError, match="both sides must be multiples of 8"):
        pipe(wide, [RED], size=(60, 64), progress=silent, **PLAIN)


# What is refused


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ([], "no actions: describe what happens"),
        ([" "], "an action is empty; describe what happens, e.g. 'go left'"),
        ([3], "an action must be a text such as 'go left', got 3"),
        (["a purple boat"], "unknown word 'purple' in 'a purple boat'"),
    ],
)
def test_actions_are_checked_before_anything_is_made(
    pipe: SlowFastVGenPipeline, image: np.ndarray, actions: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe.unet, "forward", None)
    with pytest.raises(InputError, match=reason):
        pipe(image, [RED, *actions] if actions else actions, progress=silent, **PLAIN)


def test_a_model_that_knows_few_actions_names_them(image: np.ndarray) -> None:
    pipe = SlowFastVGenPipeline(**tiny.generate().components, actions=["a red boat", "a hat"])
    with pytest.raises(InputError, match="the model does not know the action 'jump'; it knows: a red boat, a hat"):
        pipe(image, ["A red  boat", "jump"], progress=silent, **PLAIN)
    assert pipe(image, ["A red  boat"], progress=silent, frames_per_chunk=2, steps=1, **PLAIN).actions == [RED]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frames_per_chunk": 8}, "frames_per_chunk is 8, but the model sees 8 frames at once"),
        ({"frames_per_chunk": 6, "past_frames": 3}, "use at most 2 past frames, or fewer new ones"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"guidance": 0.5}, "guidance must be at least 1, got 0.5"),
        ({"fast_variant": "lokal"}, "fast_variant must be local, original, global or single_frame, got 'lokal'"),
        ({"colour": 1}, "GenerateOptions has no field 'colour'"),
    ],
)
def test_settings_out_of_range(
    pipe: SlowFastVGenPipeline, image: np.ndarray, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        pipe(image, [RED], progress=silent, **settings)


def test_nothing_to_continue(pipe: SlowFastVGenPipeline, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="nothing to continue: give an image, a video, or the folder of a saved episode"
    ):
        pipe(None, [RED], progress=silent, **PLAIN)
    with pytest.raises(InputError, match="the source has no frames"):
        pipe([], [RED], progress=silent, **PLAIN)
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        pipe(tmp_path / "gone.png", [RED], progress=silent, **PLAIN)


def test_networks_that_do_not_belong_together() -> None:
    parts = dict(tiny.generate().components)
    with pytest.raises(InputError, match="expected a UNet3DConditionModel, as of ModelScope's .* got a UNet2DCond"):
        SlowFastVGenPipeline(**{**parts, "unet": tiny_diffusion.unet()})
    wide = UNet3DConditionModel.from_config({**parts["unet"].config, "cross_attention_dim": 48})
    with pytest.raises(InputError, match="the UNet takes texts of width 48, and the text encoder gives 32"):
        SlowFastVGenPipeline(**{**parts, "unet": wide})


# Memory


FAST: dict[str, Any] = {"guidance": 1.0, "fast_rank": 2, "fast_lr": 1e-2, "progress": silent}


def test_the_memory_learns_each_chunk_and_the_networks_stay(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    """The first chunk knows nothing yet; a video without memory is the same before, between and after."""
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    plain = made(pipe, image)
    learned = pipe(image, [RED, BLUE], **FAST)
    assert [len(losses) for losses in learned.losses] == [1, 1]
    frames = np.stack(learned.frames)
    assert np.array_equal(frames[:5], plain[:5])
    assert not np.array_equal(frames[5:], plain[5:])
    assert np.array_equal(made(pipe, image), plain)
    assert np.array_equal(np.stack(pipe(image, [RED, BLUE], **FAST).frames), frames)
    assert pipe.unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in pipe.unet.state_dict().items())
    assert "loras" not in pipe.facts()


def test_videos_take_turns(pipe: SlowFastVGenPipeline, image: np.ndarray) -> None:
    options = GenerateOptions(guidance=1.0, fast_rank=2, fast_lr=1e-2)
    want = [chunk.latents for chunk in pipe.stream(image, [RED, BLUE], options, progress=silent)]
    one, other = (pipe.begin(image, options, progress=silent) for _ in range(2))
    found = []
    for action in (RED, BLUE):
        found.append(one.take(action))
        other.take(BLUE)
    assert all(torch.equal(chunk.latents, latents) for chunk, latents in zip(found, want, strict=True))


@pytest.mark.parametrize("variant", ["original", "global", "single_frame"])
def test_variants_learn_something_else(pipe: SlowFastVGenPipeline, image: np.ndarray, variant: str) -> None:
    local = np.stack(pipe(image, [RED, BLUE], **FAST, steps=1).frames)
    other = pipe(image, [RED, BLUE], **FAST, steps=1, fast_variant=variant)
    assert not np.array_equal(np.stack(other.frames)[5:], local[5:])
    assert other.episode.settings.past_frames == (1 if variant == "single_frame" else 4)


def test_a_loss_that_is_not_finite_is_skipped_and_reported(
    pipe: SlowFastVGenPipeline, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.models.slowfastvgen import episode

    loss = episode.fast_loss
    monkeypatch.setattr(episode, "fast_loss", lambda *given: torch.nan * loss(*given))
    with pytest.warns(episode.StepSkipped, match="1 of 1 steps after chunk 1 had a loss that is not finite"):
        result = pipe(image, [RED, BLUE], **FAST)
    assert np.isnan(result.losses).all()
    assert np.array_equal(np.stack(result.frames), made(pipe, image))


def test_a_saved_episode_continues_bit_for_bit(pipe: SlowFastVGenPipeline, image: np.ndarray, tmp_path: Path) -> None:
    whole = pipe(image, [RED, BLUE, RED], **FAST)
    first = pipe(image, [RED, BLUE], **FAST)
    first.episode.save(tmp_path / "walk")
    rest = pipe(None, [RED], episode=tmp_path / "walk", **FAST)
    assert np.array_equal(np.stack(rest.frames), np.stack(whole.frames[-4:]))
    assert rest.losses == whole.losses[-1:]
    pipe.save_pretrained(tmp_path / "model")
    assert not [key for key in load_file(next((tmp_path / "model" / "unet").glob("*.safetensors"))) if "lora" in key]
    assert first.episode.take(RED).losses == whole.losses[-1]  # what was taken out of the network is put back


# Folders


def test_folders_are_those_of_diffusers(pipe: SlowFastVGenPipeline, image: np.ndarray, tmp_path: Path) -> None:
    """What is saved names diffusers' own class of the UNet; settings of the model come back; results are equal."""
    pipe.save_pretrained(tmp_path)
    assert '"UNet3DConditionModel"' in (tmp_path / "model_index.json").read_text()
    again = SlowFastVGenPipeline.from_pretrained(tmp_path)
    assert isinstance(again.unet, SlowFastUNet)
    assert (again.config["window"], again.config["guidance"]) == (8, 2.0)
    assert np.array_equal(made(again, image), made(pipe, image))
    again.set_progress_bar_config(disable=True)
    stock = UNet3DConditionModel.from_pretrained(tmp_path / "unet")
    assert SlowFastVGenPipeline(**{**pipe.components, "unet": stock}).fingerprint == pipe.fingerprint


@pytest.mark.parametrize("actions", [["go left", "go right", "wait"], ["a red boat", "a hat"], ["jump", "run"]])
def test_the_actions_of_a_model_are_saved(actions: list[str], tmp_path: Path) -> None:
    SlowFastVGenPipeline(**tiny.generate().components, actions=actions).save_pretrained(tmp_path)
    assert SlowFastVGenPipeline.from_pretrained(tmp_path).actions == actions


def test_a_missing_folder_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*ali-vilab/text-to-video-ms-1\.7b .*not for commercial use"):
        SlowFastVGenPipeline.create(checkpoint=tmp_path / "gone", device="cpu")
