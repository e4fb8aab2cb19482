"""A scene from a video: which frames are taken, whose cameras are found, and the error where that is impossible."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.io.files import bundled
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.models.modecgs.captures.from_video import capture_from_video
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.video_frames import choose_frames, sharpness

from .rooms import write_room

pytest.importorskip("pycolmap")


def clip(path: Path, count: int, *, size: tuple[int, int] = (64, 48), blurred: tuple[int, ...] = ()) -> Path:
    """A photo that slides by; frames of these numbers are blurred."""
    photo = Image.open(bundled("photos", "coins_1.jpg")).convert("RGB")
    with VideoWriter(path, fps=10, crf=10) as video:
        for k in range(count):
            part = photo.crop((k, 0, k + size[0], size[1]))
            video.write(np.asarray(part.filter(ImageFilter.GaussianBlur(3)) if k in blurred else part))
    return path


def write_masks(folder: Path, masks: list[np.ndarray]) -> Path:
    folder.mkdir()
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"{k:04d}.png")
    return folder


def quarrel(*_: object) -> None:
    raise KeyboardInterrupt


def test_sharp_frames_are_chosen_evenly(tmp_path: Path):
    sharp = [2, 7, 14, 18, 22, 27]
    video = clip(tmp_path / "a.mp4", 30, blurred=tuple(set(range(30)) - set(sharp)))
    numbers = [frame.number for frame in choose_frames(video, probe(video), 6)]
    # the middle halves of the six parts are 1 to 3, 6 to 8, 11 to 13, …
    assert numbers[:2] == [2, 7]
    assert 11 <= numbers[2] <= 13  # its sharp frame, 14, is too close to the next part
    assert numbers[3:] == [18, 22, 27]


def test_all_frames_of_a_short_video_are_taken(tmp_path: Path):
    video = clip(tmp_path / "a.mp4", 9)
    assert [frame.number for frame in choose_frames(video, probe(video), 20)] == list(range(9))


def test_blurred_images_are_less_sharp(tmp_path: Path):
    frames = [frame.pixels for frame in read_frames(clip(tmp_path / "a.mp4", 2, blurred=(1,)))]
    assert sharpness(frames[0]) > 4 * sharpness(frames[1])
    assert sharpness(np.zeros((2, 2, 3), np.uint8)) == 0


@pytest.mark.parametrize(("count", "message"), [(1, "has 1 frame; a scene needs at least 8"), (7, "has 7 frames; a")])
def test_a_video_that_is_too_short(tmp_path: Path, count: int, message: str):
    with pytest.raises(InputError, match=message):
        capture_from_video(clip(tmp_path / "a.mp4", count), tmp_path / "scene")
    with pytest.raises(InputError, match="frames must be at least 8, got 5"):
        capture_from_video(tmp_path / "a.mp4", tmp_path / "scene", frames=5)


def test_without_pycolmap_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    video = clip(tmp_path / "a.mp4", 9)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(MissingDependencyError, match=r"finding the camera of a video needs .*visionzoo\[colmap\]"):
        capture_from_video(video, tmp_path / "scene")


def test_masks_that_do_not_belong_to_the_video(tmp_path: Path):
    video = clip(tmp_path / "a.mp4", 9)
    few = write_masks(tmp_path / "few", [np.ones((48, 64), bool)] * 8)
    with pytest.raises(
        InputError, match=r"few: has 8 masks, but a\.mp4 has 9 frames; there must be one for every frame"
    ):
        capture_from_video(video, tmp_path / "scene", masks=few)
    tall = write_masks(tmp_path / "tall", [np.ones((96, 64), bool)] * 9)
    with pytest.raises(InputError, match=r"0000\.png: is 64 x 96, but the frames are 64 x 48; use masks of this video"):
        capture_from_video(video, tmp_path / "scene", masks=tall)
    inverted = write_masks(tmp_path / "inverted", [np.zeros((48, 64), bool)] * 9)
    with pytest.raises(InputError, match="leave 0% of the frames to find the camera with; what moves must be black"):
        capture_from_video(video, tmp_path / "scene", masks=inverted)
    assert not (tmp_path / "scene").exists()


def test_a_folder_with_other_files_is_kept(tmp_path: Path):
    video = clip(tmp_path / "a.mp4", 9)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="scene: holds other files; choose another folder"):
        capture_from_video(video, tmp_path / "scene")
    with pytest.raises(InputError, match=r"mine\.txt: is a file, expected a folder"):
        capture_from_video(video, tmp_path / "scene" / "mine.txt")
    assert (tmp_path / "scene" / "mine.txt").read_text() == "mine"


def test_frames_without_details(tmp_path: Path):
    with VideoWriter(tmp_path / "grey.mp4", fps=10) as video:
        for _ in range(8):
            video.write(np.full((48, 64, 3), 128, np.uint8))
    with pytest.raises(
        InputError, match=r"grey\.mp4: no two frames have details in common; film something with texture"
    ):
        capture_from_video(tmp_path / "grey.mp4", tmp_path / "scene", threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["grey.mp4"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path):
    video = clip(tmp_path / "a.mp4", 9)
    with pytest.raises(KeyboardInterrupt):
        capture_from_video(
            video, tmp_path / "scene", threads=1, progress=lambda what, *_: quarrel() if what == "details" else None
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_crash_of_pycolmap_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another package of that name, which cannot be used."""
    video = clip(tmp_path / "a.mp4", 9)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pycolmap.py").write_text("raise RuntimeError('no such processor')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    with pytest.raises(VisionZooError, match=r"a\.mp4: pycolmap failed \(RuntimeError: no such processor\)"):
        capture_from_video(video, tmp_path / "scene")
    assert not (tmp_path / "scene").exists()


@pytest.mark.slow
def test_a_camera_that_stands_still(tmp_path: Path):
    write_room(tmp_path / "room.mp4", 8, still=True)
    with pytest.raises(InputError, match=r"the camera does not move \(details move by at most .* of the width\)"):
        capture_from_video(tmp_path / "room.mp4", tmp_path / "scene", threads=1)


@pytest.mark.slow
def test_the_cameras_of_a_rendered_video_are_found(tmp_path: Path):
    """The lens bends lines, and a box crosses the room, which masks hide from COLMAP."""
    video = tmp_path / "room.mp4"
    cameras, moving = write_room(video, 20, lens=-0.15)
    masks = write_masks(tmp_path / "masks", [~mask for mask in moving])
    activities = []
    folder = capture_from_video(
        video, tmp_path / "scene", frames=10, masks=masks, threads=1, progress=lambda what, *_: activities.append(what)
    )
    assert set(activities) == {"frames", "details", "matches", "cameras"}
    scene = read_capture(folder)
    assert scene.layout == "video"
    views = sorted((*scene.train, *scene.test), key=lambda view: view.time)
    assert len(views) == 10
    assert len(scene.points) > 300
    numbers = [int(view.name) for view in views]
    assert [view.time for view in views] == pytest.approx(
        [(n - numbers[0]) / (numbers[-1] - numbers[0]) for n in numbers]
    )

    truth = [cameras[number] for number in numbers]
    for k, (one, two) in enumerate(zip(views, views[3:], strict=False)):
        found = two.camera.world_to_camera[:3, :3] @ one.camera.world_to_camera[:3, :3].T
        true = truth[k + 3].world_to_camera[:3, :3] @ truth[k].world_to_camera[:3, :3].T
        assert np.degrees(np.arccos(np.clip((np.trace(found.T @ true) - 1) / 2, -1, 1))) < 1.5
    centres, expected = (np.stack([c.centre for c in part]) for part in ([v.camera for v in views], truth))
    assert np.linalg.norm(aligned(centres, expected) - expected, axis=1).max() < 0.02 * np.ptp(expected, 0).max()
    # the undistorted images show the room as a camera without distortion sees it
    assert views[0].camera.intrinsics[0, 0] == pytest.approx(300, rel=0.1)

    def nothing(*_: object) -> None:
        raise AssertionError("the scene is made again")

    assert capture_from_video(video, folder, frames=10, masks=masks, progress=nothing) == folder
    with pytest.raises(
        InputError, match=r"holds the scene of room\.mp4, made from another file or with other settings"
    ):
        capture_from_video(video, folder, frames=9, masks=masks)
    record = json.loads((folder / "video.json").read_text())
    del record["times"][f"{views[3].name}.png"]
    (folder / "video.json").write_text(json.dumps(record))
    with pytest.raises(
        InputError, match=rf"video\.json: has no time for {views[3].name}\.png; make the scene from its"
    ):
        read_capture(folder)


def aligned(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` (N, 3) after the similarity that brings them closest to `target` (Umeyama, 1991)."""
    middle, goal = points.mean(0), target.mean(0)
    left, sizes, right = np.linalg.svd((target - goal).T @ (points - middle))
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    scale = (sizes * signs).sum() / ((points - middle) ** 2).sum()
    return scale * (points - middle) @ (left * signs @ right).T + goal
