"""The demo page of reenactment: its functions, and the page as a visitor sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from .conftest import Visit, serving, upload

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
    image = load_image(face)
    with VideoWriter(path, fps=25) as writer:
        for i in range(5):
            writer.write(np.ascontiguousarray(np.roll(image, 3 * i, 1)[:300, :340]))
    return path


def test_a_video_and_a_template_come_out(pipe: Any, face: Path, talk: Path, tmp_path: Path) -> None:
    from visionzoo.demos.reenact import animate
    from visionzoo.pipelines.reenact.motion import Motion
    from visionzoo.pipelines.reenact.options import ReenactOptions

    told: list[str] = []
    options = ReenactOptions(view="side-by-side", smooth=0.2)
    video, template, text = animate(
        pipe, upload(face), upload(talk), tmp_path, options, lambda what, done, of: told.append(what)
    )
    assert video.name == "face_animated.mp4"
    assert (probe(video).width, probe(video).height) == (384, 128)
    assert read_watermark(np.stack([frame.pixels for frame in read_frames(video)])).present
    assert len(Motion.load(template)) == 5
    assert "5 frames" in text
    assert str(tmp_path) not in text
    assert {"faces", "keypoints", "frames"} == set(told)
    assert {file.name for file in tmp_path.iterdir()} == {
        video.name,
        template.name,
    }  # no sidecar that names our folders


def test_unusable_inputs_are_reported(pipe: Any, face: Path, talk: Path, tmp_path: Path) -> None:
    from visionzoo.demos import reenact
    from visionzoo.pipelines.reenact.options import ReenactOptions

    (tmp_path / "words.mp4").write_bytes(b"words")
    Image.new("RGB", (90, 90)).save(tmp_path / "black.png")
    with VideoWriter(tmp_path / "black.mp4", fps=25) as writer:
        for _ in range(3):
            writer.write(np.zeros((96, 96, 3), np.uint8))
    for source, driving, reason in (
        (None, upload(talk), "upload an image of a face first"),
        (upload(face), None, "upload a driving video first"),
        (upload(tmp_path / "gone.png"), upload(talk), "no such file"),
        (upload(tmp_path / "black.png"), upload(talk), "no face"),
        (upload(face), upload(tmp_path / "black.mp4"), "no face"),
        (upload(face), upload(tmp_path / "words.mp4"), "not a video|cannot be"),
    ):
        with pytest.raises(InputError, match=reason):
            reenact.animate(pipe, source, driving, tmp_path, ReenactOptions())


def test_long_videos_are_refused(
    pipe: Any, face: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos import reenact
    from visionzoo.pipelines.reenact.options import ReenactOptions

    monkeypatch.setattr(reenact, "MAX_FRAMES", 3)
    with pytest.raises(InputError, match="5 frames; this page takes up to 3"):
        reenact.animate(pipe, upload(face), upload(talk), tmp_path, ReenactOptions())


def test_the_small_network_is_used_instead_and_named(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.demos.reenact import Animator

    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    small = Animator()
    assert "only the small network" in small.notice()
    assert (small().name, small().size) == ("mcnet_nano", 128)
    assert Animator(pipe).notice() == ""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "00000099-checkpoint.pth.tar").write_bytes(b"here")
    published = Animator()
    assert (published.model, published.notice()) == ("mcnet", "")


@pytest.fixture(scope="module")
def reenact_server(home: Path, pipe: Any) -> Iterator[str]:
    with serving("reenact", pipe=pipe) as address:
        yield address


@pytest.mark.browser
def test_the_page_animates_and_explains(
    go: Callable[[str], Visit], reenact_server: str, face: Path, talk: Path, tmp_path: Path
) -> None:
    visit = go(reenact_server)
    page = visit.page
    visit.give("vz-reenact-source", face)
    page.wait_for_selector("#vz-reenact-source img")
    visit.start("reenact")
    assert "Upload a driving video first" in visit.trouble("reenact")
    with VideoWriter(tmp_path / "nobody here.mp4", fps=25) as writer:
        for _ in range(3):
            writer.write(np.zeros((96, 96, 3), np.uint8))
    for path in (tmp_path / "nobody here.mp4", talk):
        visit.give("vz-reenact-driving", path)
        page.locator("#vz-reenact-driving .file-preview").wait_for()
        if path != talk:
            visit.start("reenact")
            page.locator("#vz-reenact-status .vz-problem", has_text="no face").wait_for()
            assert "nobody here.mp4: " in visit.trouble("reenact")
            assert "--" not in visit.trouble("reenact")
            page.locator("#vz-reenact-driving").get_by_role("button", name="Clear").click()
    visit.run("reenact")
    assert "5 frames" in visit.status("reenact")
    page.wait_for_selector("#vz-reenact-video video")
    assert page.get_by_role("alert").count() == 0
    assert visit.download("reenact", 1).suggested_filename == "motion.safetensors"
    assert visit.download("reenact").suggested_filename == "face_animated.mp4"
    visit.check()
    page.get_by_role("tab", name="From the webcam").click()
    page.locator("#vz-reenact-calibrate").wait_for()
    visit.check()
