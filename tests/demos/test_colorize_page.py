"""The demo page of colouring: segments arrive, what the memory holds, cancelling and resuming, and missing weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny, tiny_animation
from tests.pipelines.colorize.clips import drawings, reference, write
from visionzoo.errors import InputError
from visionzoo.io.video import probe
from visionzoo.pipelines.colorize import ColorizeOptions, LongAnimationPipeline

from .conftest import Visit, serving, upload

pytest.importorskip("gradio")

OPTIONS = ColorizeOptions(prompt="a girl with a red shirt", steps=1, guidance=1.0, drop_remainder=False)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "walk.mp4", drawings(26))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return reference(tmp_path / "girl.png")


def test_segments_arrive_and_cancelled_work_is_resumed(clip: Path, image: Path, tmp_path: Path) -> None:
    from visionzoo.demos.colorize import colorize_upload
    from visionzoo.demos.page import Cancelled

    shown: list[str] = []
    given: Any = (tiny.colorize(), upload(clip), upload(image), OPTIONS, tmp_path / "work")

    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("segment 3"):
            raise Cancelled

    with pytest.raises(Cancelled):
        colorize_upload(*given, report=stop, show=shown.append)
    assert [html.count("vz-strip") for html in shown] == [1, 2]
    assert "Segment 2 of 3" in shown[-1]
    assert "Memory of 16 frames" in shown[-1] or "Memory of 17 frames" in shown[-1]
    worked: list[str] = []
    video, text = colorize_upload(*given, report=lambda what, done, of: worked.append(what), show=shown.append)
    assert {what for what in worked if what.startswith("segment")} == {"segment 3 of 3"}
    assert [html.count("vz-strip") for html in shown] == [1, 2, 1, 2, 3]
    assert (video.name, probe(video).frames) == ("walk_coloured.mp4", 26)
    assert "26 frames of 32 x 32 pixels" in text
    assert sorted(path.name for path in video.parent.iterdir()) == [video.name]


def test_clips_that_are_too_long(clip: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import colorize

    monkeypatch.setattr(colorize, "MAX_FRAMES", 20)
    with pytest.raises(InputError, match="has 26 frames; this page takes up to 20"):
        colorize.colorize_upload(tiny.colorize(), upload(clip), upload(image), OPTIONS, tmp_path / "work")
    colorize.colorize_upload(tiny.colorize(), upload(clip), upload(image), OPTIONS, tmp_path / "work", preview=True)


def test_the_page_starts_with_the_settings_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a given pipeline, or of the folder of the default model."""
    pipe = LongAnimationPipeline(**tiny_animation.parts(memory=False), **{**tiny_animation.SETTINGS, "memory": "none"})
    pipe.register_to_config(steps=60, guidance=1.3)
    pipe.save_pretrained(tmp_path / "model")
    assert _starts(tmp_path, tiny.colorize()) == (2, 2.0, "both")
    own = LongAnimationPipeline.model_settings()
    assert _starts(tmp_path, None) == (own["steps"], own["guidance"], own["memory"])
    assert own["steps"] < 50
    monkeypatch.setattr(LongAnimationPipeline, "published", classmethod(lambda cls, model: tmp_path / "model"))
    assert _starts(tmp_path, None) == (60, 1.3, "none")


def _starts(home: Path, pipe: Any) -> tuple[Any, ...]:
    """The steps, the guidance and the memory that a visitor finds."""
    import gradio as gr

    from visionzoo.demos import colorize

    with gr.Blocks() as blocks, pytest.MonkeyPatch.context() as patch:
        patch.setattr(colorize, "samples", lambda home: [])
        colorize.page(home=home, pipe=pipe)
    found = {getattr(part, "elem_id", None): part for part in blocks.blocks.values()}
    steps, guidance, memory = (found[f"vz-colorize-{name}"] for name in ("steps", "guidance", "memory"))
    assert steps.minimum <= steps.value <= steps.maximum
    assert guidance.minimum <= guidance.value <= guidance.maximum
    return steps.value, guidance.value, memory.value


def test_numbers_of_bytes() -> None:
    from visionzoo.demos.colorize_course import megabytes

    assert [megabytes(count) for count in (0, 9728, 1_500_000, 278_400_000)] == ["0.0", "0.0097", "1.5", "278"]


@pytest.mark.slow
def test_a_visitor_colours_a_clip(home: Path, go: Callable[[str], Visit], clip: Path, image: Path) -> None:
    with serving("colorize", pipe=tiny.colorize()) as server:
        visit = go(server)
        visit.start("colorize")
        assert "Pick a sample, or upload a video of line art and a reference image first" in visit.trouble("colorize")
        visit.give("vz-colorize-upload", clip)
        visit.give("vz-colorize-reference", image)
        visit.page.locator("#vz-colorize-prompt textarea").fill("a girl with a red shirt")
        visit.page.locator("#vz-colorize-steps input[type=number]").fill("2")
        visit.page.wait_for_timeout(2000)
        visit.run("colorize")
        assert "9 frames of 32 x 32 pixels" in visit.status("colorize")
        assert "Marked as synthetic" in visit.status("colorize")
        assert visit.page.locator("#vz-colorize-course .vz-strip img").count() == 4
        assert visit.download("colorize").suggested_filename == "walk_coloured.mp4"
        visit.check()
