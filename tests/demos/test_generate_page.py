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
        visit.page.locator("#vz-generate-load").click()
        visit.page.get_by_text("continues with the memory harbour").wait_for()
        visit.check()
