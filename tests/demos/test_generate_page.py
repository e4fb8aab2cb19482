"""The demo page of generated videos: a walk with and without memory, its memories, and a visitor's way through the page."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from visionzoo.errors import InputError
from visionzoo.io.video import probe
from visionzoo.pipelines.generate import GenerateOptions

from .conftest import Visit, serving

pytest.importorskip("gradio")

OPTIONS = GenerateOptions(steps=1, guidance=1.0, fast_rank=2, fast_lr=1e-2)
RED, BLUE = "a red boat", "a blue boat"


@pytest.fixture
def walk() -> Any:
    from visionzoo.demos.generate_walk import Walk

    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Walk.begin(tiny.generate(), image, OPTIONS, both=True)


def test_both_walks_begin_alike_and_differ_by_what_was_learned(walk: Any, tmp_path: Path) -> None:
    from visionzoo.demos.generate_walk import WITH, WITHOUT

    told: list[tuple[str, int, int]] = []
    for action in (RED, BLUE):
        walk.take(action, lambda *now: told.append(now))
    frames = {name: np.stack(found) for name, found in walk.frames.items()}
    assert np.array_equal(frames[WITH][:5], frames[WITHOUT][:5])
    assert not np.array_equal(frames[WITH][5:], frames[WITHOUT][5:])
    assert told[:2] == [("a red boat, with memory", 1, 1), ("a red boat, without memory", 1, 1)]
    made = walk.write(tmp_path, 4)
    assert {name: (probe(path).frames, probe(path).height) for name, path in made.items()} == {
        WITH: (4, 256), WITHOUT: (4, 256)
    }  # fmt: skip
    assert probe(walk.write(tmp_path)[WITH]).frames == 9


def test_memories_are_saved_loaded_and_mixed(walk: Any, tmp_path: Path) -> None:
    """What comes next depends on the memory that is loaded, and a mixture with a share of nothing is the first one."""
    with pytest.raises(InputError, match="give the memory a name first"):
        walk.save(" ", tmp_path)
    with pytest.raises(InputError, match="save a memory first, and choose it"):
        walk.load("one")
    walk.take(RED)
    archive = walk.save("one", tmp_path)
    assert "episode.json" in zipfile.ZipFile(archive).namelist()
    walk.take(BLUE)
    walk.save("two", tmp_path / "two")
    assert walk.episodes == ["one", "two"]
    with pytest.raises(InputError, match="choose two different memories"):
        walk.mix("one", "one", 0.5)
    video = walk.videos["with memory"]
    past, chunks = video.past, video.chunks

    def following() -> np.ndarray:
        video.past, video.chunks = past, chunks
        return video.sample(past[None], video.text_states(RED)).numpy()

    found = {}
    for name in ("one", "two"):
        walk.load(name)
        found[name] = following()
    walk.mix("one", "two", 0.0)
    assert np.allclose(following(), found["one"], atol=1e-5)
    walk.mix("one", "two", 0.5)
    assert not np.allclose(following(), found["one"], atol=1e-5)
    assert not np.allclose(found["one"], found["two"], atol=1e-5)


def test_a_memory_of_another_visit_is_taken_up(walk: Any, tmp_path: Path) -> None:
    from visionzoo.demos.generate_walk import Walk

    walk.take(RED)
    archive = walk.save("harbour", tmp_path).rename(tmp_path / "harbour.zip")
    image = np.zeros((64, 64, 3), np.uint8)
    later = Walk.begin(walk.pipe, image, OPTIONS, both=False)
    assert later.upload(archive, tmp_path) == "harbour"
    assert later.upload(archive, tmp_path) == "harbour 2"
    later.load("harbour 2")
    past = walk.videos["with memory"].past
    found = []
    for video in (walk.videos["with memory"], later.videos["with memory"]):
        video.past, video.chunks = past, 1
        found.append(video.sample(past[None], video.text_states(BLUE)))
    assert np.array_equal(*found)
    others = Walk.begin(tiny.generate(), image, GenerateOptions(**{**vars(OPTIONS), "fast_rank": 3}), both=False)
    with pytest.raises(InputError, match="rank"):
        others.upload(archive, tmp_path)
    assert others.episodes == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "is not a ZIP file"),
        (["walk/episode.json"], "holds no memory"),
        (["episode.json"], "the saved episode is damaged"),
        (["episode.json", *(f"{i}.txt" for i in range(50))], "unpacks to more than 400 MB or 50 files"),
    ],
)
def test_files_that_are_no_memory(walk: Any, tmp_path: Path, names: list[str] | None, message: str) -> None:
    path = tmp_path / "memory.zip"
    if names is None:
        path.write_bytes(b"no archive")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "{}")
    with pytest.raises(InputError, match=message):
        walk.upload(path, tmp_path)
    assert walk.episodes == []


def test_a_walk_has_an_end(walk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import generate_walk

    monkeypatch.setattr(generate_walk, "MAX_CHUNKS", 1)
    walk.take(RED)
    with pytest.raises(InputError, match="a walk on this page has up to 1 chunks"):
        walk.take(RED)


def test_a_visitor_walks(home: Path, go: Callable[[str], Visit]) -> None:
    from visionzoo.pipelines.generate import SlowFastVGenPipeline

    parts = tiny.generate()
    settings = {name: parts.config[name] for name in ("window", "frames_per_chunk", "past_frames")}
    pipe = SlowFastVGenPipeline(**parts.components, **settings, actions=[RED, BLUE])
    with serving("generate", pipe=pipe) as server:
        visit = go(server)
        visit.start("generate")
        assert "Pick a sample or upload an image first" in visit.trouble("generate")
        visit.sample("generate")
        visit.page.locator("#vz-generate-steps input[type=number]").fill("2")
        visit.run("generate")
        assert "press an action" in visit.status("generate")
        for number, name in enumerate(("a-red-boat", "a-blue-boat", "a-blue-boat"), start=1):
            visit.page.locator(f"#vz-generate-do-{name}").click()
            visit.page.get_by_text(f"{number}. {name.replace('-', ' ')}").wait_for()
            assert visit.page.locator("#vz-generate-with-memory video").count() == 1
            assert visit.page.locator("#vz-generate-without-memory video").count() == 1
        assert visit.download("generate").suggested_filename == "with_memory.mp4"
        visit.page.locator("#vz-generate-memories button").first.click()
        visit.page.locator("#vz-generate-save").click()
        assert "Give the memory a name first" in visit.trouble("generate")
        visit.page.locator("#vz-generate-name textarea, #vz-generate-name input").first.fill("harbour")
        visit.page.locator("#vz-generate-save").click()
        visit.page.get_by_text("Saved as harbour").wait_for()
        with visit.page.expect_download() as expected:
            visit.page.get_by_text("Download the memory").click()
        memory = home / "mine.zip"
        expected.value.save_as(memory)
        visit.page.locator("#vz-generate-add").click()
        assert "Upload a memory first" in visit.trouble("generate")
        visit.page.locator("#vz-generate-memory input[type=file]").set_input_files(memory)
        visit.page.locator("#vz-generate-memory").get_by_text("mine").wait_for()
        visit.page.locator("#vz-generate-add").click()
        visit.page.get_by_text("The memory mine can be used").wait_for()
        visit.page.locator("#vz-generate-load").click()
        visit.page.get_by_text("continues with the memory mine").wait_for()
        visit.check()
