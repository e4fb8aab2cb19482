"""LOVEConPipeline on tiny random networks: streams, windows, memory, masks, interruption, errors."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import tiny, tiny_diffusion
from visionzoo.benchmark import peak_memory_mb
from visionzoo.diffusion import make_scheduler, scheduler_step
from visionzoo.errors import InputError
from visionzoo.io.tensor_file import TensorFile
from visionzoo.models.lovecon import FrameJointGroupNorm
from visionzoo.pipelines.edit import EditOptions, LOVEConPipeline
from visionzoo.pipelines.edit.denoiser import Denoiser
from visionzoo.pipelines.edit.editing import sampler_like
from visionzoo.pipelines.edit.pipeline import replaced_columns

RED, BLUE = "a girl with a red shirt", "a girl with a blue shirt"
SHORT: dict[str, Any] = {"steps": 3, "window": 3, "guidance": 3.0}


def silent(*_: object) -> None:
    """No progress bars."""


def same(frame: np.ndarray) -> np.ndarray:
    return frame


@pytest.fixture
def pipe() -> LOVEConPipeline:
    made = {**tiny_diffusion.parts(), "controlnet": tiny_diffusion.controlnet()}
    parts = {name: part for name, part in made.items() if part is not None}
    return LOVEConPipeline(**parts, mask_scale=16)


@pytest.fixture
def video() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (7, 64, 96, 3), dtype=np.uint8))


def edited(pipe: LOVEConPipeline, video: list[np.ndarray], **settings: Any) -> np.ndarray:
    settings = {"control": same, "progress": silent, **SHORT, **settings}
    return np.stack(pipe(video, BLUE, RED, **settings).frames)


@pytest.mark.parametrize("memory", ["none", "bank"])
def test_every_frame_is_edited_and_the_networks_stay_as_they_were(
    pipe: LOVEConPipeline, video: list[np.ndarray], memory: str
) -> None:
    before = {name: type(module) for name, module in pipe.unet.named_modules()}
    processors = dict(pipe.unet.attn_processors)
    embedding = pipe.controlnet.controlnet_cond_embedding
    result = pipe(video, BLUE, RED, control=same, progress=silent, memory=memory, **SHORT)
    assert len(result.frames) == 7
    assert {frame.shape for frame in result.frames} == {(64, 96, 3)}
    assert result.masks is not None
    assert result.masks.shape == (7, 8, 12)
    assert {name: type(module) for name, module in pipe.unet.named_modules()} == before
    assert pipe.unet.attn_processors == processors
    assert pipe.controlnet.controlnet_cond_embedding is embedding
    assert not any(isinstance(module, FrameJointGroupNorm) for module in pipe.controlnet.modules())


def test_frames_arrive_before_the_video_is_finished(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    done: list[int] = []
    options = EditOptions(BLUE, RED, batch_size=3, **SHORT)
    stream = pipe.stream(video, options, control=same, progress=lambda what, n, _: what == "editing" and done.append(n))
    first = next(stream)
    assert max(done) < 3 * 3
    assert np.array_equal(first, edited(pipe, video, batch_size=3)[0])
    assert len(list(stream)) == 6


@pytest.mark.parametrize("memory", ["none", "bank"])
@pytest.mark.parametrize("stop", [2, 8, 13, 16])
def test_an_interrupted_edit_continues_with_equal_results(
    pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path, memory: str, stop: int
) -> None:
    options = EditOptions(BLUE, RED, memory=memory, **SHORT)
    calls = 0

    def interrupting(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pipe.stream(video, options, control=same, folder=tmp_path, progress=interrupting))
    steps: list[str] = []
    frames = list(
        pipe.stream(video, options, control=same, folder=tmp_path, progress=lambda what, *_: steps.append(what))
    )
    assert np.array_equal(np.stack(frames), edited(pipe, video, memory=memory))
    assert len(steps) < 3 + 9 + 9


def test_a_work_folder_of_another_edit_is_not_used(
    pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path
) -> None:
    for prompt in (BLUE, "a girl with a green shirt"):
        options = EditOptions(prompt, RED, **SHORT)
        got = np.stack(list(pipe.stream(video, options, control=same, folder=tmp_path, progress=silent)))
    want = np.stack(pipe(video, "a girl with a green shirt", RED, control=same, progress=silent, **SHORT).frames)
    assert np.array_equal(got, want)


def test_the_memory_processes_each_frame_once(
    pipe: LOVEConPipeline, video: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    call = Denoiser.__call__

    def counting(self: Denoiser, latents: Tensor, *rest: Any) -> Tensor:
        if self.guidance > 1:
            counts.append(len(latents))
        if self.memory is not None and len(counts) > 1:
            frames = {bank.view().keys.shape[2] for bank in self.memory.banks.values()}
            assert frames <= {2 * 96, 2 * 24, 2 * 6}
        return call(self, latents, *rest)

    monkeypatch.setattr(Denoiser, "__call__", counting)
    edited(pipe, video)
    assert counts == [5] * 6 + [3] * 3  # windows of 3, 3 and 1 frames with 2 references, 3 steps each
    counts.clear()
    edited(pipe, video, memory="bank")
    assert counts == [3, 3, 1] * 3


def test_the_memory_lets_windows_depend_on_those_before(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    other = [video[0], *(255 - frame for frame in video[1:3]), *video[3:]]
    plain, bank = (
        np.abs(edited(pipe, video, memory=memory)[3:].astype(int) - edited(pipe, other, memory=memory)[3:]).mean()
        for memory in ("none", "bank")
    )
    assert bank > 0
    assert plain > 0  # through the reference, the last frame of the previous window


def test_without_a_prompt_that_differs_there_is_no_mask(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    result = pipe(video[:2], RED, RED, control=same, progress=silent, **SHORT)
    assert result.masks is None


def test_what_a_mask_leaves_out_stays_like_the_source(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    """The mask is used in the first four of five steps, so the last one still changes it."""
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    free, held = (
        edited(pipe, video, mask=given, steps=5, phrase="").astype(int)
        for given in (lambda _: np.full((64, 96), True), [mask] * 7)
    )
    source = edited(pipe, video, mask=lambda _: np.zeros((64, 96)), steps=5).astype(int)
    right = np.s_[:, :, 64:]
    assert np.abs(held[right] - source[right]).mean() < 0.8 * np.abs(free[right] - source[right]).mean()


def test_windows_get_shorter_when_memory_runs_out(
    pipe: LOVEConPipeline, video: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Denoiser.__call__

    def small(self: Denoiser, latents: Tensor, *rest: Any) -> Tensor:
        if len(latents) > 3:
            raise torch.OutOfMemoryError
        return call(self, latents, *rest)

    monkeypatch.setattr(Denoiser, "__call__", small)
    for memory in ("none", "bank"):
        with pytest.warns(UserWarning, match="continuing with windows of"):
            assert len(edited(pipe, video, window=4, memory=memory)) == 7


def test_a_callback_ends_the_edit_with_whole_windows(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    seen: list[tuple[int, int]] = []

    def callback(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, len(tensors["latents"])))
        pipe._interrupt = len(seen) == 5
        return tensors

    assert len(edited(pipe, video, callback_on_step_end=callback)) == 3
    assert seen == [(0, 5), (1, 5), (2, 5), (0, 5), (1, 5)]
    assert len(edited(pipe, video)) == 7


def test_a_saved_pipeline_has_its_settings(pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "p")
    again = LOVEConPipeline.create(checkpoint=tmp_path / "p")
    assert again.mask_scale == 16
    assert again.interpolator is None
    assert np.array_equal(edited(again, video[:3]), edited(pipe, video[:3]))
    assert json.loads((tmp_path / "p" / "pipeline.json").read_text())["task"] == "edit"


@pytest.mark.parametrize("memory", ["none", "bank"])
def test_memory_does_not_grow_with_the_video(pipe: LOVEConPipeline, memory: str) -> None:
    options = EditOptions(BLUE, RED, memory=memory, steps=1, window=4, guidance=3.0, batch_size=4)

    def peak(count: int) -> float:
        frames = (np.full((64, 96, 3), number, np.uint8) for number in range(count))
        stream = pipe.stream(frames, options, control=same, progress=silent)
        return peak_memory_mb(lambda: deque(stream, maxlen=0))

    assert peak(64) < 1.05 * peak(8)


def test_a_saved_pipeline_keeps_its_smoother(pipe: LOVEConPipeline, tmp_path: Path) -> None:
    """diffusers leaves out parts that are not of its own kind, with a log line only."""
    parts = {**pipe.components, "interpolator": tiny.ifnet()}
    LOVEConPipeline(**parts).save_pretrained(tmp_path / "p")
    again = LOVEConPipeline.create(checkpoint=tmp_path / "p", device="cpu", dtype="float32")
    loaded = again.interpolator.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in tiny.ifnet().state_dict().items())


@pytest.mark.parametrize(("name", "error"), [("ddim", 0.03), ("dpm++", 0.002)])
def test_schedulers_follow_the_exact_solution(name: str, error: float) -> None:
    """For Gaussian data of deviation s, the best noise is known, and so is the path: x grows like sqrt(a s^2 + 1 - a).

    The step to the last timestep is a large one: there, the noise falls to a fifth.
    """
    scheduler, deviation = make_scheduler("ddim", tiny_diffusion.scheduler()), 0.5
    scheduler.set_timesteps(20)
    sampler, alphas = sampler_like(scheduler, name), scheduler.alphas_cumprod
    assert sampler.timesteps.tolist() == scheduler.timesteps.tolist()

    def size(alpha: Tensor) -> Tensor:
        return (alpha * deviation**2 + 1 - alpha).sqrt()

    x = torch.linspace(-1, 1, 5) * size(alphas[scheduler.timesteps[0]])
    for number, time in enumerate(scheduler.timesteps):
        a = alphas[time]
        want = torch.linspace(-1, 1, 5) * size(a)
        assert (x - want).abs().max() <= (error if number < 19 else 0.06)
        if number + 1 < len(scheduler.timesteps):
            x = scheduler_step(sampler, (1 - a).sqrt() * x / size(a) ** 2, time, x)


def test_other_samplers(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    plain = edited(pipe, video[:3], phrase="", edit="style")
    pipe.set_scheduler("dpm++")
    assert pipe.sampler == "dpm++"
    other = edited(pipe, video[:3], phrase="", edit="style")
    assert not np.array_equal(other, plain)
    assert pipe.facts()["sampler"] == "dpm++"
    with pytest.raises(InputError, match="works with the scheduler ddim"):
        edited(pipe, video[:3], memory="bank")
    with pytest.raises(InputError, match="not with euler-ancestral"):
        pipe.set_scheduler("euler-ancestral")


def test_a_lora_in_the_format_of_diffusers(pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_state_dict_to_diffusers

    unet = tiny_diffusion.unet()
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    state = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(unet))
    StableDiffusionLoraLoaderMixin.save_lora_weights(tmp_path, unet_lora_layers=state)
    plain = edited(pipe, video[:2])
    pipe.load_lora_weights(tmp_path)
    assert not np.array_equal(edited(pipe, video[:2]), plain)
    pipe.unload_lora_weights()
    assert np.array_equal(edited(pipe, video[:2]), plain)


def test_a_folder_of_diffusers_own_pipeline(pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path) -> None:
    from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline

    parts = {**tiny_diffusion.parts(), "controlnet": tiny_diffusion.controlnet()}
    stock = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    stock.save_pretrained(tmp_path / "p")
    made = LOVEConPipeline.create(checkpoint=tmp_path / "p"), LOVEConPipeline.create(stock)
    want = edited(pipe, video[:2], phrase="")
    assert all(np.array_equal(edited(each, video[:2], phrase=""), want) for each in made)


def test_one_frame(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    for memory in ("none", "bank"):
        assert edited(pipe, video[:1], memory=memory).shape == (1, 64, 96, 3)


def test_working_sizes(pipe: LOVEConPipeline) -> None:
    assert pipe.unit == 16
    assert pipe.working_size(480, 640) == (64, 80)
    assert pipe.working_size(640, 480, 128) == (176, 128)
    with pytest.raises(InputError, match="at least 16 pixels"):
        pipe.working_size(640, 480, 8)


@pytest.mark.parametrize(
    ("before", "after", "columns"),
    [
        (RED, BLUE, [5]),
        ("a girl with a red hat and a red shirt", "a girl with a red hat and a blue shirt", [9]),
        (RED, RED, []),
        ("a red hat", "a hat", [2]),
        ("a girl", "a girl with a hat", []),
    ],
)
def test_replaced_tokens_are_found_where_they_are(before: str, after: str, columns: list[int]) -> None:
    assert replaced_columns(tiny_diffusion.tokenizer(), before, after) == columns


def frames_of(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "no prompt"),
        ({"source_prompt": ""}, "no source prompt"),
        ({"prompt": "a girl with a bleu shirt"}, "did you mean blue"),
        ({"phrase": "hat"}, "does not occur in the source prompt"),
        ({"video": []}, "the video has no frames"),
        ({"video": frames_of((64, 96), (64, 64))}, "frame 1 is 64 x 64, and frame 0 96 x 64"),
        ({"video": frames_of((60, 96))}, "both sides must be multiples of"),
        ({"video": [np.zeros((64, 96, 3))]}, "expected .H, W, 3. uint8"),
        ({"control": frames_of((64, 96))}, "the video has more frames than there are control frames .1."),
        ({"control": frames_of(*[(64, 96)] * 9)}, "more control frames than the video has frames .7."),
        ({"control": [np.zeros((64, 96, 3))] * 7}, "a control frame is"),
        ({"mask": [np.zeros((64, 96))]}, "the video has more frames than there are masks .1."),
        ({"mask": lambda _: np.full((64, 96), 2.0)}, "a mask must be bool, 0 to 255"),
        ({"mask": lambda frame: frame}, "a mask is .64, 96, 3., expected .H, W."),
        ({"mask": 5}, "masks must be a function of a frame, or one for each frame, got int"),
        ({"control": None}, "control frames must be a function"),
        ({"video": None}, "expected frames .H, W, 3. uint8 or the path of a video, got NoneType"),
        ({"edit": "background"}, "a background edit keeps what its mask covers: name that"),
        ({"edit": "colour"}, "edit must be attribute, background, style or shape"),
        ({"guidance": 0.5}, "guidance must be at least 1"),
        ({"dilation": 2}, "dilation must be odd"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_errors(pipe: LOVEConPipeline, video: list[np.ndarray], changes: dict[str, Any], message: str) -> None:
    given = {"video": video, "prompt": BLUE, "source_prompt": RED, "control": same, "progress": silent, **SHORT}
    with pytest.raises(InputError, match=message):
        pipe(**{**given, **changes})


def test_networks_that_do_not_belong_together() -> None:
    parts = {**tiny_diffusion.parts(), "controlnet": tiny_diffusion.controlnet()}
    parts = {name: part for name, part in parts.items() if part is not None}
    parts["unet"].register_to_config(addition_embed_type="text_time")
    with pytest.raises(InputError, match="SDXL"):
        LOVEConPipeline(**parts)
    parts["unet"] = tiny_diffusion.unet()
    parts["unet"].register_to_config(cross_attention_dim=1024)
    with pytest.raises(InputError, match="Stable Diffusion 2 has 1024"):
        LOVEConPipeline(**parts)


def test_a_generator_of_frames_is_read_once(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from video

    options = EditOptions(BLUE, RED, **SHORT)
    stream = pipe.stream(frames(), options, control=same, progress=silent)
    assert np.array_equal(next(islice(stream, 6, None)), edited(pipe, video)[6])


def test_masks_by_the_greatest_attention_of_the_video(
    pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path
) -> None:
    """They lie inside those by the greatest of each frame, and are those for the frame that has it; an edit with them resumes."""

    def masks(**more: Any) -> np.ndarray:
        found = pipe(video, BLUE, RED, control=same, progress=silent, **SHORT, threshold=0.99, dilation=1, **more).masks
        assert found is not None
        return found > 0

    own, whole = masks(), masks(threshold_of="video")
    assert not (whole & ~own).any()
    assert whole.any()
    assert any(np.array_equal(a, b) for a, b in zip(own, whole, strict=True))
    assert whole.sum() < own.sum()

    def stop(what: str, *_: object) -> None:
        if what == "editing":
            raise KeyboardInterrupt

    options = EditOptions(BLUE, RED, **SHORT, threshold=0.99, dilation=1, threshold_of="video")
    with pytest.raises(KeyboardInterrupt):
        list(pipe.stream(video, options, control=same, folder=tmp_path, progress=stop))
    for name in ("masks.rows", "attention.rows"):
        assert (tmp_path / name).exists()
    (tmp_path / "masks.rows").unlink()
    calls: list[str] = []
    frames = list(
        pipe.stream(video, options, control=same, folder=tmp_path, progress=lambda what, *_: calls.append(what))
    )
    assert set(calls) == {"editing"}
    assert np.array_equal(np.stack(frames), edited(pipe, video, threshold=0.99, dilation=1, threshold_of="video"))


def test_work_files_have_a_row_per_frame(pipe: LOVEConPipeline, video: list[np.ndarray], tmp_path: Path) -> None:
    list(pipe.stream(video, EditOptions(BLUE, RED, **SHORT), control=same, folder=tmp_path, progress=silent))
    shapes = {path.name: TensorFile(path).shape for path in tmp_path.iterdir()}
    assert shapes == {
        "source.rows": (7, 4, 8, 12),
        "controls.rows": (7, 32, 8, 12),
        "inverted.rows": (7, 4, 4, 8, 12),
        "masks.rows": (7, 1, 8, 12),
        "edited.rows": (7, 4, 8, 12),
    }


def test_pil_images_are_frames_and_other_types_are_named(pipe: LOVEConPipeline, video: list[np.ndarray]) -> None:
    images: Any = [Image.fromarray(frame) for frame in video]
    np.testing.assert_array_equal(edited(pipe, images), edited(pipe, video))
    wrong: Any = ["a.png"]
    with pytest.raises(InputError, match="frame 0 is of type str, expected an array"):
        edited(pipe, wrong)
