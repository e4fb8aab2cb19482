"""The global and local memory of a video, the tails of its steps, and resuming from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny_diffusion import memory_encoder
from visionzoo.errors import InputError
from visionzoo.models.longanimation import PromptTokens, StepTails, VideoHistory, VideoXLMemoryEncoder, sampled_frames

PROMPT = PromptTokens((1, 2, 3), (4, 5))


def clip(count: int) -> Tensor:
    return torch.rand(count, 3, 18, 20, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def encoder() -> VideoXLMemoryEncoder:
    return memory_encoder()


def published(encoder: VideoXLMemoryEncoder, frames: Tensor, limit: int, local: int) -> Tensor:
    """Both memories as the published code makes them before a segment: from the beginning, of all frames so far."""
    chosen = frames[sampled_frames(len(frames), limit)]
    return torch.cat([encoder.encode(chosen, PROMPT), encoder.encode(chosen[-local:], PROMPT)], 3)


def test_the_memory_before_every_segment_is_the_published_one(encoder: VideoXLMemoryEncoder) -> None:
    written = clip(0)

    def frames(chosen: Sequence[int]) -> Tensor:
        return written[list(chosen)]

    history = VideoHistory(encoder, PROMPT, local_frames=4, limit=12, frames=frames)
    with pytest.raises(InputError, match="append the frames of a segment first"):
        history.read()
    for count in (7, 5, 6):  # 18 frames in the end, more than the limit
        written = torch.cat([written, clip(count)])
        history.append(clip(count))
        memory = history.read()
        wanted = published(encoder, written, 12, 4)
        assert memory.shape == wanted.shape
        assert (memory - wanted).abs().max() < 1e-4


def test_frames_pass_clip_once(encoder: VideoXLMemoryEncoder) -> None:
    seen = []
    history = VideoHistory(encoder, PROMPT, local_frames=4)
    hook = encoder.model.vision_tower.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    try:
        for count in (7, 5, 3):
            history.append(clip(count))
            first = history.read()
            assert torch.equal(history.read(), first)
    finally:
        hook.remove()
    assert sum(seen) == 15
    assert history.recent.count() == 4 * encoder.vision.tokens  # does not grow


def test_a_run_that_resumes_from_disk_remembers_the_same(encoder: VideoXLMemoryEncoder, tmp_path: Path) -> None:
    latents = torch.rand(1, 6, 4, 2, 3)
    history = VideoHistory(encoder, PROMPT, local_frames=4, placement="host")
    history.append(clip(7))
    history.tails.begin(0)
    history.tails.write(31, latents)
    history.save(tmp_path / "state")
    resumed = VideoHistory.load(tmp_path / "state", encoder)
    assert torch.equal(resumed.read(), history.read())
    resumed.tails.begin(1)
    tail = resumed.tails.read(31, latents)
    assert tail is not None
    assert torch.equal(tail, latents[:, -4:])
    for each in (history, resumed):
        each.append(clip(4))
    assert torch.equal(resumed.read(), history.read())
    resumed.save(tmp_path / "state")  # replaces the state before
    assert VideoHistory.load(tmp_path / "state", encoder).stream.frames == 11
    assert len([path for path in (tmp_path / "state").iterdir() if path.is_dir()]) == 1


def test_saving_that_is_interrupted_leaves_the_state_before(
    encoder: VideoXLMemoryEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.models.longanimation import history as module

    history = VideoHistory(encoder, PROMPT, local_frames=4)
    history.append(clip(5))
    history.save(tmp_path)
    before = history.read()
    history.append(clip(3))

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        history.save(tmp_path)
    resumed = VideoHistory.load(tmp_path, encoder)
    assert resumed.stream.frames == 5
    assert torch.equal(resumed.read(), before)


def test_damaged_states(encoder: VideoXLMemoryEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no history of a video"):
        VideoHistory.load(tmp_path, encoder)
    history = VideoHistory(encoder, PROMPT)
    history.append(clip(3))
    history.save(tmp_path)
    with pytest.raises(InputError, match="resume with the network and the prompt"):
        VideoHistory.load(tmp_path, memory_encoder(levels=(0, 1)))
    (tmp_path / "a" / "memory" / "global" / "memory.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        VideoHistory.load(tmp_path, encoder)
    (tmp_path / "history.json").write_text("{}")
    with pytest.raises(InputError, match="is not the state of a history"):
        VideoHistory.load(tmp_path, encoder)


def test_tails_are_those_of_the_segment_before() -> None:
    tails, segments = StepTails(), [torch.rand(1, 7, 2, 3, 3) for _ in range(3)]
    for number, latents in enumerate(segments):
        tails.begin(number)
        for step in (31, 32):
            previous = tails.read(step, latents)
            assert (previous is None) == (number == 0)
            if previous is not None:
                assert torch.equal(previous, step * segments[number - 1][:, -4:])
            tails.write(step, step * latents)
    assert tails.bank is not None
    assert len(tails.bank) == 2 * 2 * 4  # two segments, however many there were
    assert tails.read(30, segments[0]) is None


def test_a_segment_that_starts_again_reads_the_same_tails() -> None:
    tails, latents = StepTails(), torch.rand(1, 5, 2, 3, 3)
    tails.begin(0)
    tails.write(31, latents)
    for _ in range(2):  # the first attempt is interrupted after its write
        tails.begin(1)
        previous = tails.read(31, latents)
        assert previous is not None
        assert torch.equal(previous, latents[:, -4:])
        tails.write(31, 2 * latents)
    with pytest.raises(InputError, match=r"expected \(1, 4 or more"):
        tails.write(31, latents[:, :3])
