"""`visionzoo export SCENE`: files of one time, sequences, conversions, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.command import run
from tests.contract.setting import capture as write_capture
from visionzoo.errors import InputError
from visionzoo.jobs import Interrupted
from visionzoo.models.modecgs import bake, read_splats
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.compact import read_scene, write_scene
from visionzoo.models.modecgs.facts import SceneFacts, facts_of
from visionzoo.models.modecgs.published import read_camera_centers, write_published
from visionzoo.pipelines.reconstruct import ExportOptions, export_file, exporting


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    capture = read_capture(write_capture(folder / "capture"))
    write_scene(tiny.modecgs(), folder / "a.vzgs", facts=facts_of(capture, fps=3.0).to_dict())
    return folder / "a.vzgs"


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".spz", ".splat"])
def test_a_file_of_one_time(scene: Path, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / f"splats{ending}"
    code, printed, err = run(capsys, "export", scene, "-o", out, "--time", "0.4", "--json")
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"{out.name}.json"]
    result, record = json.loads(printed), json.loads((tmp_path / f"{out.name}.json").read_text())
    assert record["result"] == result
    assert record["options"]["time"] == result["time"] == 0.4
    assert result["bytes"] == out.stat().st_size
    stored = read_scene(scene)
    centers = torch.tensor(np.stack([each.camera.centre for each in facts_cameras(stored.facts)]), dtype=torch.float32)
    wanted = bake(stored.model, 0.4, centers=centers, sh_degree=0 if ending == ".splat" else 3)
    found = read_splats(out)
    assert len(found) == result["gaussians"] == len(wanted)
    assert found.sh_degree == result["sh_degree"] == wanted.sh_degree
    torch.testing.assert_close(found.means.mean(0), wanted.means.mean(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(found.colors.mean(0), wanted.colors.mean(0), atol=5e-3, rtol=0)


def facts_cameras(facts: dict) -> tuple:
    return SceneFacts.from_dict(facts).cameras


def test_what_one_training_view_sees(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    code, _, err = run(capsys, "export", scene, "-o", tmp_path / "a.ply", "--view", "2", "-q")
    assert (code, err) == (0, "")
    stored = read_scene(scene)
    camera = torch.tensor(facts_cameras(stored.facts)[2].camera.centre, dtype=torch.float32)
    torch.testing.assert_close(
        read_splats(tmp_path / "a.ply").opacities, bake(stored.model, 0.0, camera=camera).opacities, atol=1e-5, rtol=0
    )
    code, _, err = run(capsys, "export", scene, "-o", tmp_path / "b.ply", "--view", "6")
    assert code == 2
    assert "--view must be between 0 and 5, got 6" in err


def test_a_sequence_resumes_and_refuses_other_options(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "frames"
    words = ["export", scene, "-o", out, "--times", "3", "--format", ".splat"]
    assert run(capsys, *words)[0] == 0
    names = ["frame_00000.splat", "frame_00001.splat", "frame_00002.splat"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((tmp_path / "frames.json").read_text())["result"]
    assert record["complete"] is True
    assert record["frames"] == [{"file": name, "time": time} for name, time in zip(names, (0, 0.5, 1), strict=True)]
    assert record["fps"] == 1.5  # 6 images at 3 per second last 2 s
    last = read_splats(out / names[2])
    torch.testing.assert_close(
        last.means.mean(0), bake(read_scene(scene).model, 1.0, sh_degree=0).means.mean(0), atol=0.1, rtol=0
    )
    kept = (out / names[0]).stat().st_mtime_ns
    (out / names[1]).unlink()
    assert run(capsys, *words)[0] == 0
    assert (out / names[1]).exists()
    assert (out / names[0]).stat().st_mtime_ns == kept
    code, _, err = run(capsys, *words, "--view", "1")
    assert code == 2
    assert "holds frames of another scene or of other options" in err
    assert run(capsys, *words, "--view", "1", "--overwrite")[0] == 0
    assert (out / names[0]).stat().st_mtime_ns != kept


def test_ctrl_c_keeps_the_finished_frames(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, calls = exporting.write_splats, []

    def interrupted(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments, **more)

    monkeypatch.setattr(exporting, "write_splats", interrupted)
    options = ExportOptions(times=5, format=".splat")
    with pytest.raises(Interrupted, match="2 of 5 frames are finished: run the same command again to resume"):
        export_file(scene, tmp_path / "frames", options, device="cpu", progress=False)
    assert len(list((tmp_path / "frames").iterdir())) == 2
    assert json.loads((tmp_path / "frames.json").read_text())["result"]["complete"] is False
    export_file(scene, tmp_path / "frames", options, device="cpu", progress=False)
    assert len(calls) == 6
    assert len(list((tmp_path / "frames").iterdir())) == 5


def test_frames_per_second_of_the_recording(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(capsys, "export", scene, "-o", tmp_path / "a", "--fps", "2", "--format", ".splat", "-q")[0] == 0
    assert len(list((tmp_path / "a").iterdir())) == 4
    folder = write_published(tiny.modecgs(), tmp_path / "out").parent.parent
    code, _, err = run(capsys, "export", folder, "-o", tmp_path / "b", "--fps", "2")
    assert code == 2
    assert "does not say how long the recording was; use --times instead of --fps" in err
    assert not (tmp_path / "b").exists()


def test_frames_far_from_the_origin_share_one_offset(tmp_path: Path, capsys: pytest.CaptureFixture):
    model = tiny.modecgs()
    far = type(model)(model.config)
    far.load_state_dict(model.state_dict())
    with torch.no_grad():
        far.anchors["positions"][:, 0] += 10_000
    write_scene(far.eval(), tmp_path / "far.vzgs")
    stored = read_scene(tmp_path / "far.vzgs").model
    assert (
        run(capsys, "export", tmp_path / "far.vzgs", "-o", tmp_path / "a", "--times", "2", "--format", ".spz")[0] == 0
    )
    offset = json.loads((tmp_path / "a.json").read_text())["result"]["offset"]
    assert offset[0] == pytest.approx(10_000, abs=2)
    for name, time in (("frame_00000.spz", 0.0), ("frame_00001.spz", 1.0)):
        found, wanted = read_splats(tmp_path / "a" / name).means, bake(stored, time).means
        assert (found + torch.tensor(offset) - wanted).abs().max() < 0.01


def test_a_published_folder_becomes_a_scene_or_splats(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = write_published(tiny.modecgs(), tmp_path / "out").parent.parent
    assert read_camera_centers(folder) is None
    assert run(capsys, "export", folder, "-o", tmp_path / "a.vzgs")[0] == 0
    assert read_scene(tmp_path / "a.vzgs").model.anchors.rows == tiny.modecgs().anchors.rows
    (folder / "cameras.json").write_text(json.dumps([{"id": 0, "position": [0.3, 0.2, -4]}, {"position": [0, 0, -4]}]))
    np.testing.assert_allclose(read_camera_centers(folder), [[0.3, 0.2, -4], [0, 0, -4]], rtol=1e-6)
    assert run(capsys, "export", folder, "-o", tmp_path / "a.ply", "--view", "1")[0] == 0
    for text, says in (
        ("[1]", "must be a list of cameras with a position"),
        ('[{"position": [1, 2]}]', "must be three finite numbers"),
        ("{", "must be a list of cameras"),
    ):
        (folder / "cameras.json").write_text(text)
        with pytest.raises(InputError, match=says):
            read_camera_centers(folder)


def test_a_scene_is_stored_with_other_bits(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    code, printed, err = run(capsys, "export", scene, "-o", tmp_path / "b.vzgs", "--bits", "12", "--json")
    assert code == 0, err
    assert json.loads(printed)["bytes"] == (tmp_path / "b.vzgs").stat().st_size > scene.stat().st_size
    one, other = read_scene(scene), read_scene(tmp_path / "b.vzgs")
    assert other.facts == one.facts
    for key, value in one.model.state_dict().items():
        span = float(value.max() - value.min()) if value.numel() else 0.0
        assert (other.model.state_dict()[key] - value).abs().max() <= span / (2 * 4095) + 1e-6, key


def test_files_of_gaussians_are_converted(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(capsys, "export", scene, "-o", tmp_path / "a.ply")[0] == 0
    assert run(capsys, "export", tmp_path / "a.ply", "-o", tmp_path / "a.spz", "--sh-degree", "1")[0] == 0
    one, other = read_splats(tmp_path / "a.ply"), read_splats(tmp_path / "a.spz")
    assert other.sh_degree == 1
    torch.testing.assert_close(other.means, one.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(other.colors, one.colors[:, :4].clamp(-3.4, 3.4), atol=0.02, rtol=0.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.vzgs", "-o", "a.ply"], "none.vzgs: no such file; make a scene with: visionzoo reconstruct"),
        (["SCENE"], r"--output \(-o\) is missing, e.g. visionzoo export scene.vzgs -o splats.ply"),
        (["SCENE", "-o", "a.obj"], "a.obj: the extension chooses the format and must be one of .compressed.ply, .ply"),
        (["SCENE", "-o", "a.ply", "--time", "1.5"], r"--time must be in \[0, 1\], got 1.5"),
        (["SCENE", "-o", "a", "--times", "0"], "--times must be between 1 and 100000, got 0"),
        (["SCENE", "-o", "a", "--fps", "0"], "--fps must be above 0 and at most 1000, got 0"),
        (["SCENE", "-o", "a", "--times", "2", "--time", "0"], "give only one of --time, --times and --fps"),
        (["SCENE", "-o", "a.spz", "--times", "2"], "the output must be a folder; --format .spz sets the files"),
        (["SCENE", "-o", "a.ply", "--sh-degree", "4"], "--sh-degree must be between 0 and 3, got 4"),
        (["SCENE", "-o", "a.ply", "--view", "-1"], "--view must be at least 0"),
        (["SCENE", "-o", "a.vzgs", "--time", "0"], "holds all times and views; leave --time and --view away"),
        (["SCENE", "-o", "a.vzgs", "--bits", "7"], "--bits must be an integer from 8 to 16, got 7"),
        (["SCENE", "-o", "a.ply", "--bits", "10"], r"a.ply: --bits is for moving scenes \(.vzgs\); omit it"),
        (["SCENE", "-o", "SCENE", "--overwrite"], "is an input, which is never overwritten"),
        (["SCENE", "-o", "taken.ply"], "taken.ply: exists already"),
        (["SCENE", "-o", "taken.ply", "--times", "2"], "the output must be a folder"),
        (["SCENE", "-o", "taken", "--times", "2"], "taken: is a file, expected a folder for the frames"),
        (["taken.ply", "-o", "b.vzgs"], "taken.ply: holds Gaussians of one time; it can only be converted"),
        (["taken.ply", "-o", "b.ply"], "taken.ply: is not a file of Gaussians"),
        (["broken.vzgs", "-o", "b.ply"], "broken.vzgs: is not a .vzgs scene, or is truncated"),
        (["empty", "-o", "b.ply"], "empty: has no point_cloud/iteration_<n>/point_cloud.ply"),
        (["-o", "b.ply", "empty"], "give the output folder of a training"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    says: str,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    for name in ("taken.ply", "taken"):
        Path(name).write_text("hello")
    Path("broken.vzgs").write_bytes(scene.read_bytes()[:-100])
    Path("empty").mkdir()
    code, out, err = run(capsys, "export", *(str(scene) if word == "SCENE" else word for word in words))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(says, err), err


def test_networks_are_exported_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    Path("shvit_s1").mkdir()  # a folder with the name of a model is not meant
    code, _, err = run(capsys, "export", "shvit_s1", "-o", "a.txt", "--random")
    assert code == 2
    assert "must be one of .onnx, .pt2" in err
    assert "visionzoo export scene.vzgs" in " ".join(run(capsys, "export", "--help")[1].split())
    assert "--sh-degree" in run(capsys, "export", "any.vzgs", "--help")[1]
