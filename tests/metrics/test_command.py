"""`visionzoo measure`: video files and clips of the toy world."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import run
from visionzoo.data.toy_world import ToyWorld, read_clip, write_clip
from visionzoo.io.video import VideoWriter
from visionzoo.metrics import edit_report, seam, warp_error

COUNT = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with its truth, and an edited video: the shirt is darker, and so is everything from frame 4 on."""
    place = tmp_path_factory.mktemp("measure")
    film = ToyWorld.create(1, characters=1).film(COUNT, size=(64, 64), actions=["go right"])
    write_clip(film, place / "clip", truth=True, lossless=True)
    stored = read_clip(place / "clip")
    with VideoWriter(place / "edited.mkv", fps=12.0, lossless=True) as video:
        for number, (pixels, shirt) in enumerate(zip(stored.video(), stored.mask("shirt"), strict=True)):
            dark = np.where(shirt[..., None], pixels // 2, pixels)
            video.write((dark * (0.9 if number >= 4 else 1.0)).astype(np.uint8))
    Image.fromarray(next(stored.mask("shirt"))).save(place / "mask.png")
    return place


def frames_of(folder: Path) -> list[np.ndarray]:
    from visionzoo.io.video import read_frames

    return [frame.pixels for frame in read_frames(folder / "edited.mkv")]


def test_a_clip_with_its_truth(folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, err = run(
        capsys,
        "measure",
        folder / "clip",
        folder / "edited.mkv",
        "--mask",
        "shirt",
        "--windows",
        4,
        "--json",
        "--device",
        "cpu",
    )
    assert (code, err) == (0, "")
    found, stored = json.loads(out), read_clip(folder / "clip")
    assert found["frames"] == COUNT
    assert found["borders"] == [4, 8]
    assert found["psnr_outside"][0] is None  # the rest of the first frames is unchanged
    assert found["psnr_outside"][5] > 15
    truths = list(stored.truths())
    warp = warp_error(frames_of(folder), [each.flow for each in truths], [each.valid for each in truths])
    assert found["measures"]["warp_error"]["edited"] == pytest.approx(warp.mean)
    own = warp_error(stored.video(), [each.flow for each in truths], [each.valid for each in truths])
    assert found["measures"]["warp_error"]["source"] == pytest.approx(own.mean)
    assert found["measures"]["seam"]["edited"] == pytest.approx(seam(frames_of(folder), [4, 8]).ratio)


def test_video_files(folder: Path, capsys: pytest.CaptureFixture) -> None:
    source, edited = folder / "clip" / "video.mp4", folder / "edited.mkv"
    code, out, _ = run(capsys, "measure", source, edited, "--mask", folder / "mask.png", "--windows", 0, "-q")
    assert code == 0
    stored = read_clip(folder / "clip")
    mask = next(stored.mask("shirt"))
    assert out == f"{edit_report(stored.video(), frames_of(folder), mask=mask, windows=None)}\n"
    assert "PSNR outside the mask" in out
    masks = folder / "clip" / "masks" / "shirt.mp4"
    code, out, _ = run(capsys, "measure", source, edited, "--mask", masks, "--json")
    assert code == 0
    assert json.loads(out)["psnr_outside"][:4] == [None] * 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.mp4", "edited.mkv"], "none.mp4: no such file; expected a video"),
        (["clip", "edited.mkv", "--mask", "cloak"], "has no mask of 'cloak'; there are: character"),
        (["edited.mkv", "edited.mkv", "--mask", "shirt"], "shirt: no such file; expected an image or a video that is white"),
        (["clip", "edited.mkv", "--windows", "1"], "--windows must be 0 or at least 2, got 1"),
        (["clip", "edited.mkv", "--prompt", "a hat"], "--prompt is compared by a CLIP model; add --clip FOLDER"),
        (["clip", "edited.mkv", "--source-prompt", "a hat"], "add --prompt"),
        (["clip", "edited.mkv", "--raft", "a.pth"], "holds the true flow, which is used; omit --raft"),
        (["edited.mkv", "edited.mkv", "--raft", "a.pth"], "a.pth"),
        (["edited.mkv", "edited.mkv", "--clip", "a"], "a: is not a folder; expected one with a CLIP model of transformers"),
        (["clip"], "EDITED"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: list[str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, "measure", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(says, err), err
