"""The demo page of reconstruction: training, stopping, looking, files, and the page as a visitor sees it."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.contract.setting import capture as write_capture
from visionzoo.errors import InputError
from visionzoo.io.video import probe
from visionzoo.models.modecgs import write_splats
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig
from visionzoo.models.modecgs.compact import write_scene
from visionzoo.models.modecgs.facts import SceneFacts, facts_of
from visionzoo.pipelines.reconstruct import Scene

from .conftest import Visit, serving, upload

pytest.importorskip("gradio")
pytest.importorskip("numba")

from visionzoo.demos import reconstruct, reconstruct_look, reconstruct_train
from visionzoo.demos.reconstruct_course import axis, curve, ticks
from visionzoo.demos.reconstruct_look import Look, film, image_of, open_scene
from visionzoo.demos.reconstruct_train import train
from visionzoo.demos.work import Cancelled, Work

SMALL = SyntheticConfig(blobs=1, per_blob=12, wall=60, frames=6, size=24)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruct_train, "SETTINGS", SMALL)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of random weights with six cameras."""
    folder = write_capture(tmp_path_factory.mktemp("capture") / "scene")
    path = tmp_path_factory.mktemp("scene") / "my scene.vzgs"
    write_scene(tiny.modecgs(), path, facts=facts_of(read_capture(folder), scores={"train/psnr": 21.04}).to_dict())
    return path


def stopping_after(work: Work, iterations: int) -> Work:
    """Presses Stop in that iteration."""
    report = work.report

    def told(what: str, done: int, of: int) -> None:
        if what == "training" and done >= iterations:
            work.stop.set()
        report(what, done, of)

    work.report = told  # pyright: ignore[reportAttributeAccessIssue]
    return work


# Training


def test_a_training_leaves_a_scene_a_file_and_its_course(tmp_path: Path) -> None:
    work = Work(tmp_path)
    trained = train(work, "blobs", 12, tmp_path)
    assert (trained.iterations, trained.planned) == (12, 12)
    assert trained.path.parent == work.folder()
    assert trained.scores.keys() == {"train/psnr", "test/psnr"}
    assert trained.course.count("<img") == 8
    assert "Views that the training does not see" in trained.course
    assert work.live.count("<img") == 8
    stored = Scene.open(trained.path, "cpu")
    assert stored.facts.scores == trained.scores
    assert len(stored.cameras) == SMALL.frames
    assert not stored.is_static
    difference = image_of(stored, Look(time=0.4)).astype(int) - image_of(trained.scene, Look(time=0.4))
    assert np.abs(difference).mean() < 3  # of 255, from its 8 bits per number
    text = reconstruct.described(trained)
    assert "Trained for 12 iterations" in text
    assert "on views that the training did not see" in text


def test_a_training_that_is_stopped_leaves_the_scene_so_far(tmp_path: Path) -> None:
    trained = train(stopping_after(Work(tmp_path), 9), "blobs", 40, tmp_path)
    assert trained.iterations == 9
    assert not trained.scene.is_static  # it starts to move after a fifth
    assert "Stopped after 9 of 40 iterations" in reconstruct.described(trained)


def test_a_training_that_is_stopped_before_it_moves_leaves_a_scene_at_rest(tmp_path: Path) -> None:
    """Its untrained fields would move it at random."""
    trained = train(stopping_after(Work(tmp_path), 4), "blobs", 40, tmp_path)
    stored = Scene.open(trained.path, "cpu")
    assert stored.is_static
    assert trained.scene.is_static
    np.testing.assert_array_equal(image_of(stored, Look(time=0.0)), image_of(stored, Look(time=0.9)))
    difference = image_of(stored, Look()).astype(int) - image_of(trained.scene, Look())
    assert np.abs(difference).mean() < 3
    assert "does not move yet" in reconstruct.described(trained)


def test_nothing_is_left_of_a_training_that_never_began(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train(stopping_after(Work(tmp_path), 0), "blobs", 10, tmp_path)


def test_trainings_take_turns_and_waiting_can_be_stopped(tmp_path: Path) -> None:
    waiting = Work(tmp_path)
    with reconstruct_train.one_at_a_time(Work(tmp_path)):
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                train(waiting, "blobs", 10, tmp_path)
            except Cancelled as error:
                ended.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while "another visitor" not in waiting.shown():
            time.sleep(0.02)
        waiting.stop.set()
        thread.join(20)
    assert len(ended) == 1
    with reconstruct_train.one_at_a_time(Work(tmp_path)):
        pass


def test_every_scene_to_train_can_be_read(tmp_path: Path) -> None:
    from visionzoo.io.image import load_image

    for name, subject in reconstruct_train.SUBJECTS.items():
        capture = read_capture(subject.folder(tmp_path))
        assert len(capture.train) >= 6, name
        assert load_image(subject.image(tmp_path)).shape[0] >= 64, name
        assert subject.image(tmp_path) == subject.image(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"reconstruct"}


# The course


def test_a_curve_states_what_it_shows() -> None:
    history = [(step, 12 + step / 10) for step in range(1, 101)] + [(101, float("nan"))]
    html = curve(history, 200, 50)
    assert "<h3>PSNR of the training views: 19.6 dB</h3>" in html
    assert 'aria-label="PSNR of the training views: 19.6 dB, after 101 of 200 iterations"' in html
    assert "starts to move" in html
    points = [tuple(map(float, point.split(","))) for point in re.findall(r"[\d.]+,[\d.]+", html)]
    across, down = np.array(points).T
    assert across[-1] == pytest.approx(50)  # half of the iterations
    assert (np.diff(down) < 0).all()  # it rises
    assert 0 <= down.min() <= down.max() <= 100
    assert re.findall(r">(\d+) dB</span>", html) == ["12", "14", "16", "18", "20", "22"]


def test_a_curve_without_motion_or_without_points() -> None:
    assert "starts to move" not in curve([(1, 10.0), (2, 11.0)], 10, 10)
    assert "<svg" not in curve([(1, float("nan"))], 10, 5)
    assert "<svg" in curve([(1, 10.0)], 10, 5)


@pytest.mark.parametrize(("low", "high"), [(10, 10), (3.2, 41.7), (20.1, 20.2), (-4, 90)])
def test_axes_hold_all_values(low: float, high: float) -> None:
    start, end = axis(low, high)
    marks = ticks(start, end)
    assert start <= low <= high <= end
    assert 2 <= len(marks) <= 6
    assert all(start <= mark <= end for mark in marks)


# Looking


def test_a_look_is_what_it_says(scene_file: Path) -> None:
    scene = open_scene(scene_file)
    first = image_of(scene, Look(size=40))
    assert first.shape == (40, 40, 3)
    for other in (
        Look(size=40, place=0.4),
        Look(size=40, time=0.7),
        Look(size=40, show="depth"),
        Look(size=40, show="opacity"),
    ):
        assert not np.array_equal(first, image_of(scene, other)), other
    np.testing.assert_allclose(
        image_of(scene, Look(place=1.0)).astype(int), image_of(scene, Look(place=0.0)), atol=1
    )  # once around
    view = scene.cameras[4]
    np.testing.assert_array_equal(
        image_of(scene, Look("recording", number=4, time=view.time, size=24)), scene.image(view.camera, view.time)
    )
    image_of(scene, Look("recording", number=99))  # of the scene before


def test_a_video_goes_round_and_plays(scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct_look, "FILM_S", 0.5)
    steps = list(film(open_scene(scene_file), tmp_path / "a.mp4", Look(size=41)))
    assert steps == [(number, 12) for number in range(1, 13)]
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.frames) == (42, 42, 12)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_upload_is_described(scene_file: Path) -> None:
    scene, text = reconstruct.opened(upload(scene_file))
    assert len(scene.cameras) == 6
    assert "my scene.vzgs" in text
    assert "with 6 cameras of its video" in text
    assert "PSNR: 21.0 dB on the views of the video." in text
    assert str(scene_file.parent) not in text


def test_what_cannot_be_shown_is_said(scene_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {
        "empty.vzgs": (b"", "empty"),
        "words.vzgs": (b"these are words", "is not a .vzgs scene, or is truncated"),
        "half.vzgs": (scene_file.read_bytes()[:5000], "is not a .vzgs scene, or is truncated"),
        "page.vzgs": (b"<!doctype html><html>", "web page"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: .*{reason}"):
            reconstruct.opened(upload(tmp_path / name))
    monkeypatch.setattr(reconstruct_look, "MOST_GAUSSIANS", 99)
    with pytest.raises(InputError, match=r"my scene.vzgs: has up to [\d,]+ Gaussians; this page takes up to 99"):
        reconstruct.opened(upload(scene_file))
    monkeypatch.setattr(reconstruct_look, "MOST_NUMBERS", 99)
    with pytest.raises(InputError, match=r"my scene.vzgs: is a scene of [\d,]+ numbers, over the limit of 99"):
        reconstruct.opened(upload(scene_file))


@pytest.mark.parametrize("ending", [".ply", ".splat", ".spz"])
def test_files_of_gaussians_are_scenes_at_rest(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("gsply" if ending == ".spz" else "plyfile")
    path = tmp_path / f"garden{ending}"
    with torch.no_grad():
        write_splats(tiny.modecgs()(torch.zeros(3), 0.3), path)
    scene, text = reconstruct.opened(upload(path))
    assert scene.is_static
    assert "at rest, without cameras" in text
    images = [image_of(scene, Look(place=place, size=64)) for place in (0.0, 0.5)]
    assert all((image < 250).any(axis=2).mean() > 0.02 for image in images)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 5])
    with pytest.raises(InputError, match=rf"garden{ending}: .*(truncated|damaged|multiple of 32)"):
        reconstruct.opened(upload(path))


def test_an_archive_that_unpacks_to_more_than_it_should_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader would unpack all of it."""
    monkeypatch.setattr(reconstruct_look, "MOST_GAUSSIANS", 1000)
    path = tmp_path / "zeros.spz"
    path.write_bytes(gzip.compress(bytes(30_000_000)))
    with pytest.raises(InputError, match=r"zeros.spz: unpacks to over 0 MB, which is more than 1,000 Gaussians need"):
        open_scene(path)
    path.write_bytes(b"NGSP" + bytes(60))
    with pytest.raises(InputError, match=r"zeros.spz: is an .spz file of version 4; this page takes versions 2 and 3"):
        open_scene(path)


# The page


@pytest.fixture(scope="module")
def reconstruct_server(home: Path) -> Iterator[str]:
    del home
    with serving("reconstruct") as address:
        yield address


def changed(visit: Visit, box: str, before: str) -> str:
    """The address of an image once it is another one."""
    visit.page.wait_for_function(
        "([box, before]) => { const now = document.querySelector(`#${box} img`)?.getAttribute('src'); return now && now !== before }",
        arg=[box, before],
    )
    return visit.page.locator(f"#{box} img").get_attribute("src")


@pytest.mark.browser
@pytest.mark.slow
def test_a_visitor_watches_a_training_stops_it_and_looks(
    reconstruct_server: str, go: Callable[[str], Visit], tmp_path: Path
) -> None:
    visit = go(reconstruct_server)
    page: Any = visit.page
    page.locator("#vz-reconstruct-samples .gallery-item").nth(1).click()
    page.locator("#vz-reconstruct-scene input:checked").wait_for()
    visit.start("reconstruct")
    page.locator("#vz-reconstruct-live svg polyline").wait_for()
    assert page.locator("#vz-reconstruct-live img").count() == 8
    early = page.locator("#vz-reconstruct-live img").last.get_attribute("src")
    page.wait_for_function(  # it is updated
        "early => [...document.querySelectorAll('#vz-reconstruct-live img')].at(-1)?.src !== early", arg=early
    )
    assert re.search(r"Training: \d+ of 750", visit.status("reconstruct"))
    page.locator("#vz-reconstruct-cancel").click()
    page.locator("#vz-reconstruct-results").wait_for(state="visible")
    assert re.search(r"Stopped after \d+ of 750 iterations", visit.status("reconstruct"))
    assert page.locator("#vz-reconstruct-live svg").count() == 0
    assert page.locator("#vz-reconstruct-course img").count() == 8
    path = tmp_path / visit.download("reconstruct").suggested_filename
    assert path.name == "blobs.vzgs"
    page.wait_for_selector("#vz-reconstruct-image img")
    now = page.locator("#vz-reconstruct-image img").get_attribute("src")
    slider = page.locator("#vz-reconstruct-place input[type=range]")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    now = changed(visit, "vz-reconstruct-image", now)
    page.locator("#vz-reconstruct-show").get_by_text("depth").click()
    now = changed(visit, "vz-reconstruct-image", now)
    page.locator("#vz-reconstruct-size").get_by_text("128").click()
    changed(visit, "vz-reconstruct-image", now)
    page.get_by_text("128 x 128 pixels, rendered in").wait_for()
    page.locator("#vz-reconstruct-film").click()
    page.wait_for_selector("#vz-reconstruct-video video")
    with page.expect_download() as download:
        page.locator("#vz-reconstruct-video-link a").click()
    info = probe(download.value.path())
    assert (info.width, info.frames) == (128, 96)
    visit.check()


@pytest.mark.browser
def test_a_visitor_opens_a_scene_after_a_bad_file(
    reconstruct_server: str, go: Callable[[str], Visit], scene_file: Path, tmp_path: Path
) -> None:
    visit = go(reconstruct_server)
    page: Any = visit.page
    bad = tmp_path / "half.vzgs"
    bad.write_bytes(scene_file.read_bytes()[:5000])
    visit.give("vz-reconstruct-upload", bad)
    assert "half.vzgs: is not a .vzgs scene, or is truncated" in visit.refused("vz-reconstruct-upload")
    visit.give("vz-reconstruct-upload", scene_file)
    page.locator("#vz-reconstruct-upload .file-preview").wait_for()
    visit.run("reconstruct")
    assert "my scene.vzgs" in visit.status("reconstruct")
    page.wait_for_selector("#vz-reconstruct-image img")
    now = page.locator("#vz-reconstruct-image img").get_attribute("src")
    page.locator("#vz-reconstruct-camera").get_by_text("of the video").click()
    now = changed(visit, "vz-reconstruct-image", now)
    slider = page.locator("#vz-reconstruct-number input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    changed(visit, "vz-reconstruct-image", now)
    page.wait_for_function(  # the time of that view, of six
        "() => document.querySelector('#vz-reconstruct-time input[type=range]').value === '0.4'"
    )
    assert not page.locator("#vz-reconstruct-place").is_visible()
    assert page.locator("#vz-reconstruct-download a").count() == 0
    visit.check()


def test_scenes_without_cameras_are_seen_from_all_sides(tmp_path: Path) -> None:
    path = tmp_path / "a.vzgs"
    write_scene(tiny.modecgs(), path, facts=SceneFacts().to_dict())
    scene, text = reconstruct.opened(upload(path))
    assert "without cameras" in text
    images = [image_of(scene, Look(place=place, size=64)) for place in (0.0, 0.25, 0.5, 0.75)]
    assert all((image < 255).any(axis=2).mean() > 0.02 for image in images)
    assert len({image.tobytes() for image in images}) == 4
