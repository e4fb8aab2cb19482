"""The demo page of editing: what its function returns and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, probe
from visionzoo.pipelines.edit import EditOptions

from .conftest import Visit, serving, upload

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.PIPELINES["edit"]()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps=10) as video:
        for number in range(10):
            video.write(np.full((64, 64, 3), 60 + 10 * number, np.uint8))
    return path


OPTIONS = EditOptions("a girl with a blue shirt", "a girl with a red shirt", steps=1, guidance=3.0, memory="bank")


@pytest.mark.parametrize(("preview", "frames"), [(True, 8), (False, 10)])
def test_the_edited_video_comes_with_control_and_mask(
    pipe: Any, clip: Path, tmp_path: Path, preview: bool, frames: int
) -> None:
    from visionzoo.demos.edit import edit_upload

    found, text = edit_upload(pipe, upload(clip), OPTIONS, tmp_path, preview=preview)
    assert {name: probe(path).frames for name, path in found.items() if path} == dict.fromkeys(found, frames)
    assert found["result"] == tmp_path / "clip_result.mp4"
    assert f"{frames} frames of 64 x 64 pixels" in text
    assert str(tmp_path) not in text
    assert not list(tmp_path.glob("*.json"))


def test_what_cannot_be_done_is_said(pipe: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos import edit

    monkeypatch.setattr(edit, "MAX_FRAMES", 9)
    with pytest.raises(InputError, match="has 10 frames; this page takes up to 9"):
        edit.edit_upload(pipe, upload(clip), OPTIONS, tmp_path)


def test_a_visitor_edits_a_sample(
    home: Path, go: Callable[[str], Visit], pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts come with the sample; three videos are shown, and the result can be downloaded."""
    from visionzoo.diffusion import text

    monkeypatch.setattr(text, "words_of", lambda _: [])  # the tiny network spells words that it does not know
    with serving("edit", pipe=pipe) as server:
        visit = go(server)
        visit.start("edit")
        assert "Pick a sample or upload a video first" in visit.trouble("edit")
        visit.sample("edit")
        assert "a green shirt" in visit.page.locator("#vz-edit-source textarea").input_value()
        assert "a blue shirt" in visit.page.locator("#vz-edit-prompt textarea").input_value()
        visit.page.locator("#vz-edit-prompt textarea").fill("")
        visit.start("edit")
        assert "both texts are needed" in visit.trouble("edit")
        visit.sample("edit")
        visit.run("edit")
        assert "8 frames of 128 x 128 pixels" in visit.status("edit")
        for name in ("video", "control", "mask"):
            assert visit.page.locator(f"#vz-edit-{name} video").count() == 1
        assert visit.download("edit").suggested_filename == "girl_result.mp4"
        visit.check()
