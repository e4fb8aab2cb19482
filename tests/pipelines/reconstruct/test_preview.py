"""The live preview: it shows the training, can pause it, changes nothing in it, and its failure does not end it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("viser")

import visionzoo
from tests.browsers import free_port
from tests.command import run
from tests.contract.setting import capture as write_capture
from visionzoo.pipelines.reconstruct import Preview, ReconstructOptions
from visionzoo.pipelines.reconstruct.files import reconstruct_file
from visionzoo.pipelines.reconstruct.fitting import Fitting
from visionzoo.pipelines.reconstruct.preview import course, previewing

from .browser import Browser, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "scene")


@pytest.fixture
def fitting(folder: Path) -> Fitting:
    pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="tiny")
    return pipe.fitting(pipe.capture(folder), ReconstructOptions(steps=12))


@pytest.fixture
def preview(fitting: Fitting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Preview]:
    monkeypatch.setattr("visionzoo.pipelines.reconstruct.preview.SHARE", math.inf)
    monkeypatch.setattr("visionzoo.pipelines.reconstruct.preview.EVERY_S", 0.0)
    with Preview(fitting.scene(), port=free_port()) as preview:
        yield preview


def test_a_training_can_be_watched_and_paused(preview: Preview, fitting: Fitting):
    training = fitting.run()

    def train() -> None:
        next(training)
        preview.watch(fitting)

    with Browser(preview.viewer.address) as browser:
        browser.look()
        until(preview.viewer.step, browser.splats)
        train()
        before = browser.splats()[-1]
        train()
        until(preview.viewer.step, lambda: not np.array_equal(browser.splats()[-1], before))

        def tells() -> bool:
            texts = [each["updates"].get("_markdown", "") for each in browser.received("GuiUpdateMessage")]
            return any(text.startswith("2 of 12 iterations, ") and text.endswith(" dB") for text in texts)

        until(preview.viewer.step, tells)
        browser.use("Pause training")
        until(preview.viewer.step, lambda: preview.paused)
        waits = iter([False, False, True])  # a paused training returns only if it is interrupted
        preview.show(fitting.scene, fitting.iteration, 12, fitting.history, lambda: next(waits))
        assert next(waits, None) is None
        browser.use("Pause training")
        preview.watch(fitting)
        assert not preview.paused


def test_time_is_offered_once_the_scene_moves(preview: Preview, fitting: Fitting):
    assert not preview.viewer.panel._times.visible
    with Browser(preview.viewer.address) as browser:
        browser.look()
        until(preview.viewer.step, browser.splats)
        for _ in fitting.run():
            preview.watch(fitting)
    assert preview.viewer.panel._times.visible


def test_a_preview_changes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("visionzoo.pipelines.reconstruct.preview.SHARE", math.inf)
    monkeypatch.setattr("visionzoo.pipelines.reconstruct.preview.EVERY_S", 0.0)
    pipe, how, port = (
        visionzoo.pipeline("reconstruct", device="cpu", preset="tiny"),
        ReconstructOptions(steps=8),
        free_port(),
    )
    reconstruct_file(pipe, folder, tmp_path / "a.vzgs", how, progress=False)
    browsers: list[Browser] = []

    def look(fitting: Fitting) -> None:
        watch(fitting)
        if not browsers:
            browsers.append(Browser(f"http://127.0.0.1:{port}"))
            browsers[0].look()
            until(lambda: watch(fitting), browsers[0].splats)

    with previewing(port=port, quiet=True) as watch:
        reconstruct_file(pipe, folder, tmp_path / "b.vzgs", how, progress=False, watch=look)
    assert len(browsers[0].splats()) > 1
    browsers[0].__exit__()
    assert (tmp_path / "a.vzgs").read_bytes() == (tmp_path / "b.vzgs").read_bytes()


def test_a_preview_that_fails_does_not_end_the_training(
    preview: Preview, fitting: Fitting, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(preview.viewer, "step", fail)
    next(fitting.run())
    with pytest.warns(
        UserWarning, match=r"the preview has ended \(RuntimeError: out of memory\); the training continues"
    ):
        preview.watch(fitting)
    preview.watch(fitting)


def test_a_preview_takes_its_share_of_the_time(preview: Preview, fitting: Fitting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("visionzoo.pipelines.reconstruct.preview.SHARE", 0.0)
    next(fitting.run())
    preview.watch(fitting)
    monkeypatch.setattr(preview.viewer, "step", lambda *_: pytest.fail("the preview has used up its time"))
    preview.watch(fitting)


def test_the_course_of_the_psnr_is_thinned():
    at, psnr = course([(step, math.nan if step % 2 else float(step)) for step in range(1, 1001)], 50)
    assert (len(at), at[-1], psnr[-1]) == (50, 991, 991)
    assert [len(each) for each in course([])] == [0, 0]


def test_the_command_says_where_to_look(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    port = free_port()
    words = ("reconstruct", folder, "-o", tmp_path / "a.vzgs", "--preset", "tiny", "--steps", "3", "--device", "cpu")
    code, _, err = run(capsys, *words, "--preview", "--port", port)
    assert code == 0, err
    assert f"the training can be watched at http://127.0.0.1:{port}\n" in err
    assert "viser" not in err


@pytest.mark.slow
def test_lightning_shows_the_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    shown: list[tuple[int, int]] = []
    show = Preview.show

    def record(self: Preview, scene, iteration, steps, history, interrupted) -> None:
        shown.append((iteration, len(history)))
        return show(self, scene, iteration, steps, history, interrupted)

    monkeypatch.setattr(Preview, "show", record)
    port = free_port()
    (tmp_path / "preview.yaml").write_text(
        "trainer:\n  callbacks:\n    - class_path: visionzoo.pipelines.reconstruct.LivePreview\n"
        f"      init_args: {{port: {port}}}\n"
    )
    code, _, err = run(
        capsys, "fit", "--config", "modecgs/tiny", "--config", "preview.yaml", "trainer.max_steps=4",
        "model.recipe.coarse_steps=2",
    )  # fmt: skip
    assert code == 0, err
    assert f"the training can be watched at http://127.0.0.1:{port}\n" in err
    assert shown == [(1, 1), (2, 2), (3, 3), (4, 4)]
