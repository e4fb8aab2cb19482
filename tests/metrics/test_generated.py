"""Reports about generated videos: the measures of the tables of SlowFast-VGen, from Python and from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import run
from tests.golden import seeded
from visionzoo.data.toy_world import ToyWorld, read_clip, write_clip
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.metrics import (
    RandomFeatures,
    find_revisits,
    fvd,
    generation_report,
    i3d_features,
    psnr,
    revisit,
    scene_return_consistency,
    ssim,
)
from visionzoo.metrics.i3d import I3D
from visionzoo.weights import WeightsError

HOLD, ACTIONS = 4, ["go left", "go in", "go out", "go right"]


@pytest.fixture(scope="module")
def walks() -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
    """Two walks that return, and their camera paths."""
    clips = [
        ToyWorld.create(seed).film(1 + 4 * HOLD, size=(64, 64), actions=ACTIONS, hold=HOLD, start=2.0 + seed)
        for seed in (0, 1)
    ]
    return [[frame.rgb for frame in clip.frames(motion=False)] for clip in clips], [clip.cameras for clip in clips]


def darker(frames: list[np.ndarray], start: int) -> list[np.ndarray]:
    return [frame if number < start else frame // 2 for number, frame in enumerate(frames)]


def test_the_measures_are_those_of_each_video(walks) -> None:
    true, cameras = walks
    made = [darker(video, 9) for video in true]
    extractor = RandomFeatures()
    settings = {"true": true, "cameras": cameras, "skip": 1, "src": extractor, "clips": extractor, "min_scene_len": 3}
    with pytest.warns(UserWarning, match="the Fréchet distance is too large"):
        report = generation_report([lambda: iter(made[0]), made[1]], **settings, clip_length=8, clip_stride=4)
    with pytest.warns(UserWarning, match="the Fréchet distance is too large"):
        distance = fvd(made, true, extractor, length=8, stride=4)
    for found, video, truth, path in zip(report.videos, made, true, cameras, strict=True):
        pairs = list(zip(video[1:], truth[1:], strict=True))
        assert found.frames == 1 + 4 * HOLD
        assert found.ssim == pytest.approx(np.mean([ssim(*pair, borders="reflected") for pair in pairs]))
        assert found.cuts is not None
        again = revisit(video, path)
        assert (found.revisit_psnr, found.revisit_ssim) == pytest.approx((again.mean_psnr, again.mean_ssim))
        assert found.revisits == len(again.pairs) == 2 * HOLD
        assert found.src == pytest.approx(scene_return_consistency(video, find_revisits(path), extractor).score)
    assert report.videos[0].psnr == np.inf  # frames before the change are equal
    assert report.fvd == distance
    assert report.mean("src") == pytest.approx((report.videos[0].src + report.videos[1].src) / 2)
    text = str(report)
    assert f"| FVD | {distance.distance:.1f} | random convolutions, seed 0; 6 and 6 clips |" in text
    assert "AdaptiveDetector, threshold 3, min_scene_len 3 frames" in text
    values = report.as_dict()
    assert values["measures"]["psnr"] == {"value": None, "how": "against the true frames"}
    assert values["by_video"][1]["cuts"] == list(report.videos[1].cuts.cuts)
    json.dumps(values, allow_nan=False)


def test_equal_videos_and_videos_without_truth(walks) -> None:
    true, _ = walks
    plain = generation_report(true, min_scene_len=4)
    assert [row[0] for row in plain.rows] == ["cuts"]
    assert plain.mean("psnr") is None
    same = generation_report(true[:1], true=true[:1], detector=False)
    assert same.mean("ssim") == pytest.approx(1)
    assert "cut" not in str(same)
    straight = generation_report(true[:1], cameras=[np.arange(17.0)[:, None]], detector=False)
    assert straight.videos[0].revisit_psnr is None
    noisy = [np.clip(frame.astype(int) + 9, 0, 255).astype(np.uint8) for frame in true[0]]
    report = generation_report([noisy], true=true[:1], detector=False)
    assert report.mean("psnr") == pytest.approx(np.mean([psnr(*pair) for pair in zip(noisy, true[0], strict=True)]))


def test_mistakes_are_named(walks) -> None:
    true, cameras = walks
    for settings, says in (
        ({"true": true[:1]}, "there are 2 videos but 1 true videos; give one for each video"),
        ({"cameras": cameras[:1]}, "there are 2 videos but 1 camera paths"),
        ({"clips": RandomFeatures()}, "LPIPS and FVD compare with true videos; pass true="),
        ({"src": RandomFeatures()}, "scene-return consistency needs camera paths; pass cameras="),
        ({"skip": -1}, "skip must be at least 0, got -1"),
        ({"true": true, "skip": 17}, "video 0 has 17 frames, and skip=17 leaves none to compare"),
        ({"true": [true[0], true[1][:5]]}, "there are 5 frames in true video 1 but more frames in video 1"),
        (
            {"true": [true[0], [frame[:60] for frame in true[1]]]},
            "video 1 has 64 x 64 pixels and its true video 64 x 60",
        ),
    ):
        with pytest.raises(InputError, match=says):
            generation_report(true, detector=False, **settings)
    with pytest.raises(InputError, match="there are no videos to measure"):
        generation_report([])


# I3D


@pytest.mark.slow
def test_i3d_computes_what_its_published_form_computes(tmp_path: Path) -> None:
    """Recorded from the class InceptionI3d of piergiaj/pytorch-i3d (b49fadf) with the same seeded weights."""
    torch.save(seeded.fill(I3D().state_dict(), 0), tmp_path / "rgb.pt")
    extractor = i3d_features(tmp_path / "rgb.pt")
    clip = seeded.tensor("clip", (1, 3, 9, 224, 224))
    features = extractor(clip.permute(0, 2, 3, 4, 1))
    assert features.shape == (1, 400)
    assert features[0, :4].tolist() == pytest.approx([0.1187873, 0.1825823, 0.1379740, 0.1240379], abs=1e-5)
    assert float(features.norm()) == pytest.approx(3.4116664, rel=1e-5)
    assert extractor.name == "I3D, rgb.pt"
    with pytest.raises(InputError, match=r"describes clips \(N, T, H, W, 3\) of 9 or more frames"):
        extractor(torch.zeros(1, 8, 32, 32, 3))


def test_other_weights_than_those_of_i3d_are_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt does not fit I3D"):
        i3d_features(tmp_path / "other.pt")


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A true walk, and a generated one that is too dark at the end, in folders with equal names; the camera's path as text."""
    place = tmp_path_factory.mktemp("generated")
    film = ToyWorld.create(2).film(1 + 4 * HOLD, size=(64, 64), actions=ACTIONS, hold=HOLD)
    write_clip(film, place / "true" / "walk", lossless=True)
    (place / "made").mkdir()
    with VideoWriter(place / "made" / "walk.mkv", fps=8.0, lossless=True) as video:
        for frame in darker([frame.rgb for frame in film.frames(motion=False)], 9):
            video.write(frame)
    np.savetxt(place / "walk.txt", film.cameras, delimiter=",")
    return place


def test_the_command_measures_beside_a_clip(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--random-features", "--clip-length", 8, "--clip-stride", 4, "--min-scene-len", 3, "--device", "cpu"]
    code, out, _ = run(capsys, "measure", "generated", folder / "made", "--true", folder / "true", *words, "--json")
    assert code == 0
    found = json.loads(out)
    stored = read_clip(folder / "true" / "walk")
    made = darker(list(stored.video()), 9)
    again = revisit(made, stored.cameras)
    assert found["files"] == [str(folder / "made" / "walk.mkv")]
    assert found["measures"]["revisit_psnr"]["value"] == pytest.approx(again.mean_psnr)
    assert found["measures"]["fvd"]["how"].startswith("random convolutions, seed 0; 3 and 3 clips")
    assert found["measures"]["ssim"]["value"] < 100
    path = ["--cameras", folder / "walk.txt", "--detector", "none", "-q"]
    code, out, _ = run(capsys, "measure", "generated", folder / "made" / "walk.mkv", *path)
    assert code == 0
    assert f"| PSNR of revisits, dB | {again.mean_psnr:.2f} | 8 visits |" in out
    assert "PSNR, dB" not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.mp4"], "none.mp4: no such file; expected a video or a folder of videos"),
        (["true"], "true: holds no videos; give a folder with videos"),
        (["made", "--true", "made/walk.mp4"], "made/walk.mp4: no such file or folder"),
        (["made", "--true", "made/.."], "holds nothing for walk.mkv; expected the same name there"),
        (["made", "--i3d", "a.pt"], "--i3d compares with true videos; add --true"),
        (["made", "--resnet18", "a.pth"], "--resnet18 compares the frames of revisits; add --cameras"),
        (["made", "--true", "true", "--i3d", "a.pt"], "a.pt"),
        (["made", "--cameras", "made/walk.mkv"], "walk.mkv: cannot be read as camera states"),
        (["made/walk.mkv", "made/walk.mkv", "--cameras", "walk.txt"], "walk.txt: is one, but there are 2 videos"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: list[str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, "measure", "generated", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(says, err), err
