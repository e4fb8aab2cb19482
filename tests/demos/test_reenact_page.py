"""The demo page of reenactment: its functions, and the page as a visitor sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.watermark import read_watermark

from .conftest import free_port

pytest.importorskip("gradio")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A small network with random weights."""
    from visionzoo.pipelines.reenact import ReenactPipeline
    from visionzoo.training.run import load_config

    config = load_config(["mcnet/tiny"], ["data.root=x"])["model"]["init_args"]["config"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = visionzoo.create_model("mcnet", **config)
    return ReenactPipeline(model.eval(), device="cpu", size=128)


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    path = tmp_path_factory.mktemp("face") / "face.png"
    Image.fromarray(data.astronaut()[:320, 60:420]).save(path)
    return path


@pytest.fixture(scope="module")
def talk(face: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    picture = load_image(face)
    with VideoWriter(path, fps=25) as writer:
        for i in range(5):
            writer.write(np.ascontiguousarray(np.roll(picture, 3 * i, 1)[:300, :340]))
    return path


def upload(path: Path) -> dict[str, str]:
    return {"path": str(path), "orig_name": path.name}


def test_a_video_and_a_template_come_out(pipe: Any, face: Path, talk: Path, tmp_path: Path) -> None:
    from visionzoo.demos.reenact import animate
    from visionzoo.pipelines.reenact.motion import Motion

    told: list[str] = []
    video, template, text = animate(
        pipe,
        upload(face),
        str(talk),
        tmp_path / "results",
        mode="relative",
        view="side-by-side",
        smooth=0.2,
        progress=lambda what, done, of: told.append(what),
    )
    assert (probe(video).width, probe(video).height) == (384, 128)
    assert read_watermark(np.stack([frame.pixels for frame in read_frames(video)])).present
    assert len(Motion.load(template)) == 5
    assert "5 frames" in text
    assert str(tmp_path) not in text
    assert {"faces", "keypoints", "frames"} == set(told)


def test_what_cannot_be_used_is_said_without_a_path(pipe: Any, face: Path, talk: Path, tmp_path: Path) -> None:
    from visionzoo.demos import reenact

    (tmp_path / "words.mp4").write_bytes(b"words")
    Image.new("RGB", (90, 90)).save(tmp_path / "black.png")
    options: dict[str, Any] = {"mode": "relative", "view": "face", "smooth": 0}
    for source, driving, reason in (
        (None, talk, "upload an image of a face first"),
        (upload(face), None, "upload a video of a person who talks first"),
        (upload(tmp_path / "gone.png"), talk, "no such file|gone"),
        (upload(tmp_path / "black.png"), talk, "no face found"),
        (upload(face), tmp_path / "words.mp4", "not a video|cannot be"),
    ):
        with pytest.raises(InputError, match=reason) as problem:
            reenact.animate(pipe, source, driving and str(driving), tmp_path / "results", **options)
        assert str(tmp_path) not in str(problem.value)


def test_long_videos_are_refused(
    pipe: Any, face: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos import reenact

    monkeypatch.setattr(reenact, "MAX_FRAMES", 3)
    with pytest.raises(InputError, match="5 frames; this page accepts up to 3"):
        reenact.animate(pipe, upload(face), str(talk), tmp_path, mode="relative", view="face", smooth=0)


def test_the_small_network_stands_in_and_says_so(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.demos.reenact import Animator

    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    small = Animator()
    assert "put 00000099-checkpoint.pth.tar into the folder" in (small.notice() or "")
    assert (small().name, small().size) == ("mcnet_nano", 128)
    assert Animator(pipe).notice() is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "00000099-checkpoint.pth.tar").write_bytes(b"here")
    published = Animator()
    assert (published.model, published.notice()) == ("mcnet", None)


@pytest.fixture(scope="module")
def server(home: Path, pipe: Any) -> Iterator[str]:
    from visionzoo.demos import reenact
    from visionzoo.demos.app import build, start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reenact, "page", partial(reenact.page, pipe=pipe))
        blocks = build("reenact")
    yield start(blocks, port=free_port(), host="127.0.0.1").rstrip("/")
    blocks.close()


@pytest.mark.browser
def test_the_page_animates_and_explains(chromium: Any, server: str, face: Path, talk: Path, tmp_path: Path) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server)
    page.locator("#vz-reenact-start").click()
    page.get_by_role("alert").get_by_text("upload an image of a face first").wait_for()
    page.locator("#vz-reenact-source input[type=file]").set_input_files(str(face))
    page.wait_for_selector("#vz-reenact-source img")
    page.locator("#vz-reenact-driving input[type=file]").set_input_files(str(talk))
    page.locator("#vz-reenact-driving").get_by_text("talk").first.wait_for()
    page.locator("#vz-reenact-start").click()
    page.locator("#vz-reenact-reading").get_by_text("5 frames").wait_for()
    page.wait_for_selector("#vz-reenact-result video")
    assert page.get_by_role("alert").count() == 0
    with page.expect_download() as download:
        page.locator("#vz-reenact-motion").click()
    assert download.value.suggested_filename == "motion.safetensors"
    page.get_by_role("tab", name="Webcam").click()
    page.locator("#vz-reenact-calibrate").wait_for()
    assert "Traceback" not in page.content()
    for width, height in ((1280, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert problems == []
    context.close()
