"""The viewer: what browsers are sent, what controls do, and addresses that cannot be used."""

from __future__ import annotations

import io
import math
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("viser")

from tests import tiny
from tests.browsers import free_port
from tests.command import run
from tests.contract.setting import capture as write_capture
from visionzoo.errors import InputError
from visionzoo.models.modecgs import Gaussians
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.compact import write_scene
from visionzoo.models.modecgs.facts import facts_of
from visionzoo.models.modecgs.splats import write_splats
from visionzoo.pipelines.reconstruct import Scene, Viewer
from visionzoo.pipelines.reconstruct.browser_splats import ROWS, TYPICAL_SIGMA, browser_scale, splat_arrays
from visionzoo.pipelines.reconstruct.playback import AdaptiveSize, Playback
from visionzoo.pipelines.reconstruct.scene import Show
from visionzoo.pipelines.reconstruct.visitors import Pose, field_of_view
from visionzoo.splatting import spherical_harmonics

from .browser import Browser, until


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_capture(tmp_path_factory.mktemp("capture") / "scene")
    path = tmp_path_factory.mktemp("scene") / "a_b.vzgs"
    facts = facts_of(read_capture(folder), fps=12.0, scores={"train/psnr": 20.5})
    write_scene(tiny.modecgs(), path, facts=facts.to_dict())
    return path


@pytest.fixture(scope="module")
def scene(path: Path) -> Scene:
    return Scene.open(path, "cpu")


@pytest.fixture
def viewer(scene: Scene) -> Iterator[Viewer]:
    with Viewer(scene, port=free_port(), title="a_b.vzgs") as viewer:
        yield viewer


# Time and size


def test_a_scene_plays_once_or_again_and_again():
    playback = Playback(seconds=4.0)
    playback.advance(1.0)
    assert playback.time == 0
    playback.toggle()
    playback.advance(1.0)
    assert playback.time == 0.25
    playback.speed = 2.0
    playback.advance(1.75)
    assert (playback.time, playback.playing) == (pytest.approx(0.125), True)
    playback.loop = False
    playback.advance(9.0)
    assert (playback.time, playback.playing) == (1.0, False)
    playback.toggle()
    assert (playback.time, playback.playing) == (0.0, True)


def test_who_chooses_a_time_stops_the_scene():
    playback = Playback(playing=True)
    playback.seek(math.nan)
    assert (playback.time, playback.playing) == (0.0, True)
    playback.seek(7)
    assert (playback.time, playback.playing) == (1.0, False)


def test_images_are_small_while_something_moves_if_they_take_long():
    size = AdaptiveSize(target_s=0.1, share=1.0)
    for _ in range(20):
        size.took(0.4 * size.share**2)
    assert size.share == pytest.approx(0.5, abs=0.01)
    assert size.size(2000, 1000, 1000, moving=True) == (500, 250)
    assert size.size(2000, 1000, 1000, moving=False) == (1000, 500)
    assert size.size(90, 60, 1000, moving=False) == (90, 60)
    for _ in range(20):
        size.took(9.0)
    assert size.size(100, 100, 1000, moving=True) == (20, 20)


# Gaussians for the browser


def gaussians(sigmas: list[float], count: int = 2000, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    scales = torch.tensor(sigmas).expand(count, 3)
    means = torch.randn(count, 3, generator=generator)
    return Gaussians(means, quats, scales, torch.full((count,), 0.8), torch.rand(count, 3, generator=generator))


@pytest.mark.parametrize("sigma", [1e-5, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(1.0, 1.0, 1.0), (1.0, 0.3, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.001)])
def test_half_precision_keeps_gaussians_of_every_size_and_shape(sigma: float, shape: tuple[float, ...]):
    found = gaussians([sigma * each for each in shape])
    arrays = splat_arrays(found, (0, 0, 0), browser_scale(found))
    kept = arrays.covariances[: arrays.count].astype(np.float16).astype(np.float64)
    sigmas = np.linalg.eigvalsh(kept)
    assert (sigmas > 0).all()
    np.testing.assert_allclose(np.sqrt(sigmas[:, 2]), TYPICAL_SIGMA, rtol=2e-3)


def test_what_a_browser_gets_is_what_was_there():
    found = gaussians([0.2, 0.1, 0.05], count=5)
    arrays = splat_arrays(found, (0, 0, 0), 2.0)
    assert (arrays.count, len(arrays.centers), arrays.opacities[5:].max()) == (5, ROWS, 0)
    np.testing.assert_allclose(arrays.centers[:5], 2 * found.means)
    np.testing.assert_array_equal(arrays.rgbs[:5], (found.colors * 255).round())
    np.testing.assert_array_equal(arrays.opacities[:5, 0], 204)
    np.testing.assert_allclose(np.linalg.eigvalsh(arrays.covariances[0]), [0.01, 0.04, 0.16], rtol=1e-4)


def test_the_number_of_rows_changes_rarely_and_never_falls():
    few, many = gaussians([0.1] * 3, count=ROWS - 1), gaussians([0.1] * 3, count=ROWS + 1)
    assert len(splat_arrays(many, (0, 0, 0), 1.0, ROWS).centers) == 2 * ROWS
    assert len(splat_arrays(few, (0, 0, 0), 1.0, 2 * ROWS).centers) == 2 * ROWS
    nothing = replace(few, opacities=torch.zeros(len(few)))
    assert (browser_scale(nothing), splat_arrays(nothing, (0, 0, 0), 1.0).count) == (1.0, 0)


def test_gaussians_that_are_faint_or_not_finite_are_not_sent():
    found = gaussians([0.1] * 3, count=4)
    found.opacities[1] = 0.001
    found.means[2, 0] = math.nan
    arrays = splat_arrays(found, (0, 0, 0), 1.0)
    np.testing.assert_allclose(arrays.centers[: arrays.count], found.means[[0, 3]])


def test_harmonics_are_evaluated_for_the_camera():
    found = replace(gaussians([0.1] * 3, count=3), colors=0.2 * torch.ones(3, 4, 3), sh_degree=1)
    eye = torch.tensor([0.0, 0.0, -3.0])
    want = spherical_harmonics(1, found.means - eye, found.colors) + 0.5
    np.testing.assert_array_equal(splat_arrays(found, eye.numpy(), 1.0).rgbs[:3], (want * 255).round())


def test_a_browsers_camera_is_that_of_the_training_view_it_was_moved_to(scene: Scene):
    camera = scene.cameras[2].camera
    rotation = torch.from_numpy(camera.world_to_camera[:3, :3].T.copy())
    w = float(1 + rotation.trace()) ** 0.5 / 2
    axis = (
        torch.stack([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
        / 4
        / w
    )
    pose = Pose((w, *axis.tolist()), tuple(camera.centre * 3.0), field_of_view(camera, 1.0), 24, 24)
    again = pose.camera(3.0, 24, 24)
    np.testing.assert_allclose(again.world_to_camera, camera.world_to_camera, atol=1e-6)
    np.testing.assert_allclose(again.intrinsics, camera.intrinsics, rtol=1e-6)
    assert field_of_view(camera, 0.5) > field_of_view(camera, 1.0) == field_of_view(camera, 2.0)


# What a browser sees


def arrive(viewer: Viewer, browser: Browser) -> None:
    """Connect, and be moved to the first training view."""
    browser.look()
    until(viewer.step, lambda: browser.splats() or browser.images())


def centers(browser: Browser) -> np.ndarray:
    """(N, 3): the centres that the browser has."""
    return browser.splats()[-1][:, :3].copy().view(np.float32)


def test_the_page_is_served(viewer: Viewer):
    with urllib.request.urlopen(viewer.address, timeout=30) as answer:
        assert answer.status == 200
        assert b"<html" in answer.read()


def test_a_browser_gets_gaussians_that_change_with_time(viewer: Viewer, scene: Scene):
    with Browser(viewer.address) as browser:
        arrive(viewer, browser)
        browser.look(position=(0, 0, -3 * viewer.scale))
        until(viewer.step, lambda: "Gaussians" in browser.text())
        assert browser.text().splitlines()[0].strip() == r"**a\_b\.vzgs**"
        assert "6 training views, 20.5 dB on train views" in browser.text().replace("  \n", "\n")
        eye = np.array([0, 0, -3.0])
        want = splat_arrays(scene.gaussians(eye, 0.0), eye, viewer.scale)
        until(viewer.step, lambda: centers(browser).shape == want.centers.shape)
        until(viewer.step, lambda: np.allclose(centers(browser), want.centers, atol=1e-5))  # once the camera rests
        before = browser.splats()[-1]
        browser.use("Time", 0.7)
        until(viewer.step, lambda: not np.array_equal(browser.splats()[-1], before))
        assert viewer.state.playback.time == 0.7
        want = splat_arrays(scene.gaussians(eye, 0.7), eye, viewer.scale)
        np.testing.assert_allclose(centers(browser), want.centers, atol=1e-5)


def test_the_server_renders_the_very_image_of_the_scene(viewer: Viewer, scene: Scene):
    def difference(show: Show) -> float:
        """Mean difference, of 255, of the last image and the scene's own, if it has the size of the window as after a rest."""
        image = Image.open(io.BytesIO(browser.images()[-1]))
        if image.size != (64, 48):
            return math.inf
        return float(np.abs(np.asarray(image, float) - scene.image(camera, 0.0, show)).mean())

    with Browser(viewer.address) as browser:
        viewer.state.mode = "render"
        arrive(viewer, browser)
        browser.look(position=(0, 0, -3 * viewer.scale))
        camera = Pose((1, 0, 0, 0), (0, 0, -3), 0.8, 64, 48).camera(1.0, 64, 48)
        until(viewer.step, lambda: difference("color") < 4)  # after JPEG
        assert difference("opacity") > 20
        browser.use("Show", "opacity")
        until(viewer.step, lambda: difference("opacity") < 4)


def test_a_view_moves_the_camera_and_the_time(viewer: Viewer, scene: Scene):
    with Browser(viewer.address) as browser:
        arrive(viewer, browser)
        browser.use("View", 3)
        until(viewer.step, lambda: viewer.state.playback.time == scene.cameras[3].time)
        want = scene.cameras[3].camera.centre * viewer.scale
        until(
            viewer.step,
            lambda: any(
                np.allclose(each["position"], want, atol=1e-4)
                for each in browser.received("SetCameraPositionMessage")
                if not each["initial"]
            ),
        )


def test_playing_moves_the_slider_and_stops_when_it_is_dragged(viewer: Viewer):
    with Browser(viewer.address) as browser:
        arrive(viewer, browser)
        browser.use("Play")
        until(viewer.step, lambda: viewer.panel.time.value > 0)
        assert viewer.panel.play.label == "Pause"
        browser.use("Time", 0.25)
        until(viewer.step, lambda: not viewer.state.playback.playing)
        assert (viewer.state.playback.time, viewer.panel.play.label) == (0.25, "Play")


def test_training_cameras_are_shown_on_request(viewer: Viewer):
    with Browser(viewer.address) as browser:
        arrive(viewer, browser)
        assert not browser.received("CameraFrustumMessage")
        browser.use("Training cameras", True)
        until(viewer.step, lambda: len(browser.received("CameraFrustumMessage")) == 6)


@pytest.mark.parametrize("change", [{"position": (math.nan, 0, 0)}, {"width": 0}, {"fov": 9.0}, {"width": 10**6}])
def test_a_camera_that_cannot_be_used_is_ignored(viewer: Viewer, change: dict):
    with Browser(viewer.address) as browser, Browser(viewer.address) as other:
        browser.look(**change)
        other.look()
        until(viewer.step, other.splats)
        assert not browser.splats()


def test_a_browser_that_leaves_is_forgotten(viewer: Viewer):
    with Browser(viewer.address) as browser:
        arrive(viewer, browser)
    until(viewer.step, lambda: not viewer.has_visitors)
    assert not viewer.step()
    assert viewer._pause() == 0.5


def test_no_browser_can_make_the_scene_public(viewer: Viewer, monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    monkeypatch.setattr("viser._viser.ViserTunnel", lambda *_, **__: asked.append(True))
    with Browser(viewer.address) as browser:
        browser.look()
        browser.send("ShareUrlRequest")
        until(viewer.step, browser.splats)
    assert not asked


def test_files_of_gaussians_are_scenes_that_do_not_move(scene: Scene, tmp_path: Path):
    gaussians = scene.gaussians((0, 0, -3), 0.5)
    write_splats(
        replace(gaussians, colors=(gaussians.colors[:, None] - 0.5) / 0.28209479, sh_degree=0), tmp_path / "a.ply"
    )
    found = Scene.open(tmp_path / "a.ply", "cpu")
    camera = Pose((1, 0, 0, 0), (0, 0, -3), 0.8, 64, 48).camera(1.0, 64, 48)
    assert found.is_static
    assert np.abs(found.image(camera, 0.0) - scene.image(camera, 0.5).astype(float)).mean() < 2
    with Viewer(found, port=free_port()) as viewer, Browser(viewer.address) as browser:
        arrive(viewer, browser)
        assert not viewer.panel._times.visible


# The command


def test_a_port_that_is_in_use(viewer: Viewer, scene: Scene):
    port = int(viewer.address.rpartition(":")[2])
    with pytest.raises(InputError, match=rf"port {port} on 127\.0\.0\.1 is in use; choose another with --port"):
        Viewer(scene, port=port)


def test_a_port_that_is_taken_at_the_last_moment(viewer: Viewer, scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("visionzoo.pipelines.reconstruct.viewer.check_address", lambda *_: None)
    with pytest.raises(InputError, match="is in use; choose another with --port"):
        Viewer(scene, port=int(viewer.address.rpartition(":")[2]))


def test_ctrl_c_ends_the_command(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def stop(self: Viewer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Viewer, "run", stop)
    port = free_port()
    code, out, err = run(capsys, "view", path, "--port", port, "--device", "cpu")
    assert (code, out) == (0, "")
    assert err == f"the scene is at http://127.0.0.1:{port} (Ctrl-C ends it)\nthe viewer has ended\n"


def test_without_viser_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setitem(sys.modules, "viser", None)
    code, _, err = run(capsys, "view", path, "--port", free_port())
    assert code == 2
    assert "visionzoo view needs" in err
    assert "pip install 'visionzoo[gs]'" in err


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(path: Path):
    port = free_port()
    words = [sys.executable, "-m", "visionzoo", "view", str(path), "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stderr is not None
    assert server.stderr.readline() == f"the scene is at http://127.0.0.1:{port} (Ctrl-C ends it)\n"
    with Browser(f"http://127.0.0.1:{port}") as browser:
        browser.look()
        until(lambda: None, lambda: len(browser.splats()) > 0)
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "the viewer has ended\n")
