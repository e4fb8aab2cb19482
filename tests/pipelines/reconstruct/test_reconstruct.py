"""Reconstruction: what is written, what a scene file says, and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import visionzoo
from tests import tiny
from tests.command import run
from tests.contract.setting import capture as write_capture
from visionzoo.errors import InputError
from visionzoo.io.video import probe, read_frames
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.compact import read_scene, write_scene
from visionzoo.models.modecgs.facts import SceneFacts, facts_of
from visionzoo.pipelines.reconstruct import ReconstructOptions, Scene
from visionzoo.pipelines.reconstruct.files import recent, reconstruct_file, thinned
from visionzoo.pipelines.reconstruct.fitting import Fitting
from visionzoo.pipelines.reconstruct.presets import voxel_size_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "scene")


@pytest.fixture(scope="module")
def scene(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "a.vzgs"
    write_scene(tiny.modecgs(), path, facts=facts_of(read_capture(folder), fps=12.5).to_dict())
    return path


def test_the_command_writes_scene_preview_and_record(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "a.vzgs"
    code, printed, err = run(capsys, "reconstruct", folder, "-o", out, "--preset", "tiny", "--steps", "6", "--json")
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.vzgs", "a.vzgs.json", "a.vzgs.png"]
    result, found = json.loads(printed), Scene.open(out, "cpu")
    assert result["scores"].keys() == {"train/psnr", "test/psnr"}
    assert found.facts.scores == result["scores"]
    assert found.facts.frames == len(found.cameras) == 6
    assert found.facts.training["preset"] == "tiny"
    record = json.loads((tmp_path / "a.vzgs.json").read_text())
    assert record["history"][-1][0] == 6
    assert record["options"]["steps"] == 6
    # what the file shows is what was measured, but for its 8 bits per number
    view = read_capture(folder).train[0]
    shown = found.image(view.camera, view.time)
    assert shown.shape == (24, 24, 3)
    assert -10 * np.log10(np.mean((shown / 255.0 - view.pixels() / 255.0) ** 2)) == pytest.approx(
        result["scores"]["train/psnr"], abs=3
    )


def test_an_interrupted_training_resumes_bit_for_bit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="tiny")
    how = ReconstructOptions(steps=8)

    def stop(fitting: Fitting) -> None:
        if fitting.iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted after iteration 5; its state is kept in .*a\.vzgs\.part: run the same"
    ):
        reconstruct_file(pipe, folder, tmp_path / "a.vzgs", how, progress=False, watch=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.vzgs.part"]
    seen: list[int] = []
    reconstruct_file(
        pipe, folder, tmp_path / "a.vzgs", how, progress=False, watch=lambda fitting: seen.append(fitting.iteration)
    )
    assert seen == [6, 7, 8]
    assert not (tmp_path / "a.vzgs.part").exists()
    reconstruct_file(pipe, folder, tmp_path / "b.vzgs", how, progress=False)
    one, other = (read_scene(tmp_path / name).model.state_dict() for name in ("a.vzgs", "b.vzgs"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_an_interrupted_training_is_not_replaced_by_one_with_other_settings(folder: Path, tmp_path: Path):
    pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="tiny")
    first = pipe.fitting(pipe.capture(folder), ReconstructOptions(steps=4))
    next(first.run())
    first.save(tmp_path / "a.vzgs.part")
    saved = (tmp_path / "a.vzgs.part").read_bytes()
    with pytest.raises(
        InputError, match=r"a\.vzgs\.part: holds an interrupted training .* add --overwrite to start over"
    ):
        pipe.run(folder, tmp_path / "a.vzgs", progress=False, steps=2)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.vzgs.part", saved)]
    pipe.run(folder, tmp_path / "a.vzgs", progress=False, overwrite=True, steps=2)
    assert not (tmp_path / "a.vzgs.part").exists()


def test_a_state_of_other_settings_is_not_resumed(folder: Path, tmp_path: Path):
    pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="tiny")
    first = pipe.fitting(pipe.capture(folder), ReconstructOptions(steps=4))
    next(first.run())
    first.save(tmp_path / "state")
    assert pipe.fitting(pipe.capture(folder), ReconstructOptions(steps=4)).load(tmp_path / "state")
    assert not pipe.fitting(pipe.capture(folder), ReconstructOptions(steps=5)).load(tmp_path / "state")
    (tmp_path / "state").write_bytes(b"words")
    with pytest.raises(InputError, match="state: is not a checkpoint"):
        first.load(tmp_path / "state")


def test_a_static_scene_does_not_move(folder: Path, tmp_path: Path):
    pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="tiny")
    pipe.run(folder, tmp_path / "a.vzgs", progress=False, steps=4, static=True)
    found = Scene.open(tmp_path / "a.vzgs", "cpu")
    assert found.is_static
    camera = found.cameras[0].camera
    assert np.array_equal(found.image(camera, 0.0), found.image(camera, 1.0))


def test_a_scene_file_is_a_checkpoint(scene: Path):
    pipe = visionzoo.pipeline("reconstruct", device="cpu", checkpoint=scene)
    assert pipe.network.anchors.rows == read_scene(scene).model.anchors.rows  # pyright: ignore
    with pytest.raises(InputError, match=r"a\.vzgs: holds a scene with its configuration; omit width"):
        visionzoo.pipeline("reconstruct", device="cpu", checkpoint=scene, width=8)


def test_steps_keep_the_shares_of_the_stages():
    pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="published", width=8)
    recipe = pipe.recipe(ReconstructOptions(steps=330))
    assert (recipe.coarse_steps, recipe.fine_steps, recipe.decay_steps) == (30, 300, 300)
    recipe = pipe.recipe(ReconstructOptions(steps=330, static=True))
    assert (recipe.coarse_steps, recipe.fine_steps, recipe.decay_steps) == (330, 0, 330)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_the_size_of_voxels_follows_the_points(scale: float):
    points = scale * np.random.default_rng(0).uniform(-1, 1, (5000, 3)).astype(np.float32)
    size = voxel_size_for(points, 500)
    assert 300 < len(np.unique(np.round(points / size), axis=0)) <= 500
    assert voxel_size_for(points[:100], 500) == pytest.approx(2 * scale / 1000, rel=0.1)


def test_a_voxel_size_that_is_given_is_kept(folder: Path):
    for given, want in (({"voxel_size": 0.4}, 0.4), ({}, None)):
        pipe = visionzoo.pipeline("reconstruct", device="cpu", preset="tiny", **given)
        found = pipe.fitting(pipe.capture(folder)).model.config.voxel_size
        assert found == want if want else 0 < found < 0.1


def test_the_course_of_the_psnr_is_thinned_without_what_was_skipped():
    history = [(step, float("nan") if step % 2 else float(step)) for step in range(1, 1001)]
    course = thinned(history, 50)
    assert len(course) == 50
    assert course[-1] == [1000, 991.0]
    assert recent(history) == 976.0
    assert thinned([]) == []


@pytest.mark.slow
def test_a_video_becomes_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Frames and cameras are kept beside the scene, and used again."""
    pytest.importorskip("pycolmap")
    from tests.models.rooms import write_room

    video = tmp_path / "room.mp4"
    write_room(video, 12)
    words = ["reconstruct", video, "-o", tmp_path / "a.vzgs", "--preset", "tiny", "--steps", "5", "--frames", "12"]
    code, _, err = run(capsys, *words)
    assert code == 0, err
    found = Scene.open(tmp_path / "a.vzgs", "cpu")
    assert found.facts.frames == len(found.cameras) >= 8
    assert found.facts.fps == pytest.approx(probe(video).fps, rel=0.35)  # every eighth frame is a test view
    assert (tmp_path / "a.vzgs.capture" / "sparse").is_dir()
    code, _, err = run(capsys, *words, "--overwrite")
    assert code == 0
    assert "they are used again" in err


# What a scene file says


def test_facts_come_back(folder: Path):
    facts = facts_of(read_capture(folder), fps=30, scores={"train/psnr": 20.5}, training={"seed": 1})
    again = SceneFacts.from_dict(json.loads(json.dumps(facts.to_dict())))
    assert (again.frames, again.fps, again.scores, again.training) == (6, 30, facts.scores, facts.training)
    for one, other in zip(facts.cameras, again.cameras, strict=True):
        np.testing.assert_allclose(one.camera.world_to_camera, other.camera.world_to_camera, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(one.camera.intrinsics, other.camera.intrinsics, rtol=1e-6)
    assert SceneFacts.from_dict({}) == SceneFacts()


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["cameras"][0]["world_to_camera"][0].__setitem__(0, 9.0),
        lambda facts: facts["cameras"][0].__setitem__("size", [0, 5]),
        lambda facts: facts["cameras"][0].__setitem__("time", 7),
        lambda facts: facts["cameras"][0].__setitem__("intrinsics", [[0, 0, 0], [0, 0, 0]]),
        lambda facts: facts["cameras"][0].pop("size"),
        lambda facts: facts.__setitem__("cameras", 5),
        lambda facts: facts.__setitem__("low", ["a", 1, 2]),
        lambda facts: facts.__setitem__("fps", -1),
        lambda facts: facts.__setitem__("scores", [1]),
    ],
)
def test_facts_that_cannot_be_used(folder: Path, tmp_path: Path, change):
    facts = facts_of(read_capture(folder)).to_dict()
    change(facts)
    write_scene(tiny.modecgs(), tmp_path / "a.vzgs", facts=facts)
    with pytest.raises(InputError, match=r"a\.vzgs: is a damaged scene"):
        Scene.open(tmp_path / "a.vzgs", "cpu")


# Videos and images


def test_a_video_and_its_record(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "a.mp4"
    code, _, err = run(capsys, "render", scene, "-o", out, "--seconds", "0.5", "--fps", "12", "--resolution", "32")
    assert code == 0, err
    info = probe(out)
    assert (info.width, info.height, info.frames, info.fps) == (32, 32, 6, 12)
    assert json.loads((tmp_path / "a.mp4.json").read_text())["options"]["path"] == "orbit"


def test_the_recording_keeps_its_length(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(capsys, "render", scene, "-o", tmp_path / "a.mkv", "--path", "input", "--fps", "25")[0] == 0
    assert probe(tmp_path / "a.mkv").frames == 12  # 6 frames at 12.5 per second


@pytest.mark.parametrize("show", ["color", "depth", "opacity"])
def test_an_image_of_one_moment(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture, show: str):
    from visionzoo.io.image import load_image

    out = tmp_path / "a.png"
    assert (
        run(
            capsys, "render", scene, "-o", out, "--view", "3", "--time", "0.5", "--show", show, "--resolution", "40x30"
        )[0]
        == 0
    )
    found = Scene.open(scene, "cpu")
    want = found.image(found.cameras[3].camera.resized(40, 30), 0.5, show)  # pyright: ignore[reportArgumentType]
    assert np.array_equal(load_image(out), want)


def test_frames_of_a_video_are_images_of_the_scene(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert (
        run(capsys, "render", scene, "-o", tmp_path / "a.mp4", "--path", "still", "--seconds", "0.2", "--fps", "10")[0]
        == 0
    )
    found = Scene.open(scene, "cpu")
    for frame, time in zip(read_frames(tmp_path / "a.mp4"), (0.0, 1.0), strict=True):
        want = found.image(found.cameras[0].camera, time)
        assert np.abs(frame.pixels.astype(float) - want).mean() < 6  # of 255, after H.264
