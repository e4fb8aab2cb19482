"""Reports about colourised videos: measures beside the truth, colour drift by segment, and seams, from Python and as a command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.command import run
from visionzoo.data.toy_world import ToyWorld, write_clip
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.metrics import (
    KnownRegions,
    RandomFeatures,
    color_drift,
    colorization_report,
    fid,
    fvd,
    psnr,
    seam,
    ssim,
)

COUNT, START, BORDERS = 20, 1, [6, 12]


@pytest.fixture(scope="module")
def film():
    return ToyWorld.create(3, "test", characters=1).film(
        COUNT, size=(64, 64), actions=["go right"], hold=COUNT, speed=0.5
    )


@pytest.fixture(scope="module")
def truth(film) -> list[np.ndarray]:
    return [frame.rgb for frame in film.frames(motion=False)]


def drifting(truth: list[np.ndarray]) -> list[np.ndarray]:
    """Frames 1 to 18; from one segment to the next, they become darker."""
    return [
        (frame * (1, 0.85, 0.7)[number // 6]).astype(np.uint8) for number, frame in enumerate(truth[START : COUNT - 1])
    ]


def regions_of(film) -> KnownRegions:
    def maps():
        for frame in film.frames(motion=False):
            yield np.where(frame.ink > 250, frame.regions, np.uint16(60_000))

    return KnownRegions(maps, {region.number: region.rgb for region in film.regions})


def test_the_measures_are_those_of_the_frames_that_were_colorized(film, truth) -> None:
    made, extractor, known = drifting(truth), RandomFeatures(), regions_of(film)
    theirs = truth[START : START + len(made)]
    settings = {"first_frame": START, "borders": BORDERS, "images": extractor, "clips": extractor}
    with pytest.warns(UserWarning, match="the Fréchet distance is too large"):
        report = colorization_report(
            [lambda: iter(made)], [truth], regions=[known], erode=0, clip_length=8, clip_stride=4, **settings
        )
    with pytest.warns(UserWarning, match="the Fréchet distance is too large"):
        images = fid(made, theirs, extractor)
    with pytest.warns(UserWarning, match="the Fréchet distance is too large"):
        clips = fvd([made], [theirs], extractor, length=8, stride=4)
    (found,) = report.videos
    pairs = list(zip(made, theirs, strict=True))
    assert found.frames == 18
    assert (report.fid, report.fvd) == (images, clips)
    assert found.psnr == pytest.approx(np.mean([min(psnr(*pair), np.inf) for pair in pairs]))
    assert found.ssim == pytest.approx(np.mean([ssim(*pair, borders="reflected") for pair in pairs]))
    drift = color_drift(made, list(known.maps())[START : START + 18], known.colors)
    assert np.array_equal(found.drift.distances, drift.distances, equal_nan=True)
    # the first segment has the true colours, up to rounding; then they drift away
    first, second, third = found.by_segment
    assert first < 0.5 < second < third
    assert found.by_segment == pytest.approx([np.nanmean(drift.distances[one : one + 6]) for one in (0, 6, 12)])
    assert (found.seam.ratio, found.true_seam.ratio) == pytest.approx(
        (seam(made, BORDERS).ratio, seam(theirs, BORDERS).ratio)
    )
    assert found.seam.ratio > 2 * found.true_seam.ratio
    text = str(report)
    assert "| segment | 1 | 2 | 3 |" in text
    assert f"true videos: {found.true_seam.ratio:.2f}" in text
    assert "regions against their true colors" in text
    values = report.as_dict()
    assert values["by_video"][0]["borders"] == BORDERS
    assert values["measures"]["color_slope"]["value"] == pytest.approx(100 * drift.slope)
    json.dumps(values, allow_nan=False)


def test_without_regions_cells_are_compared_with_the_true_video(truth) -> None:
    theirs = truth[START : COUNT - 1]
    report = colorization_report([drifting(truth), theirs], [theirs, theirs], borders=BORDERS)
    dark, same = report.videos
    assert same.drift.mean == pytest.approx(0, abs=1e-9)
    assert dark.by_segment[0] == pytest.approx(0, abs=1e-9)
    assert 1 < dark.by_segment[1] < dark.by_segment[2]
    assert dark.drift.distances.shape == (18, 64)
    assert report.by_segment == pytest.approx(dark.by_segment / 2)
    assert "8 x 8 cells against the true video" in str(report)
    values = report.as_dict()
    assert values["measures"]["psnr"]["value"] is None  # the second video is equal to its truth
    assert "fid" not in values["measures"]
    # noise that does not change the mean colours is no drift
    noisy = [
        np.clip(frame + np.random.default_rng(0).normal(0, 4, frame.shape), 0, 255).astype(np.uint8) for frame in theirs
    ]
    assert colorization_report([noisy], [theirs], borders=[]).videos[0].drift.mean < 1


def test_borders_are_those_of_the_published_plan(truth) -> None:
    many = [np.full((64, 64, 3), number, np.uint8) for number in range(140)]
    (found,) = colorization_report([many], [many]).videos
    assert found.borders == (72, 137)
    assert found.seam.ratio == pytest.approx(1)
    (short,) = colorization_report([truth], [truth]).videos
    assert (short.borders, short.seam) == ((), None)
    still = [truth[0]] * 9
    assert colorization_report([still], [still], borders=[4]).videos[0].seam is None


def test_mistakes_are_named(film, truth) -> None:
    made = drifting(truth)
    for given, settings, says in (
        (([made], [truth]), {}, r"video 0 has 18 frames, fewer than its true video; pass first_frame=.*\(1 with the published plan"),
        (([made], [truth]), {"first_frame": 5}, "video 0 has more than 15 frames, but its true video has only 15 from frame 5 on"),
        (([made], [truth]), {"first_frame": -1}, "first_frame must be at least 0, got -1"),
        (([made], []), {}, "there are 1 videos but 0 true videos"),
        (([made], [truth]), {"regions": []}, "there are 1 videos but 0 sets of regions"),
        (([], []), {}, "there are no videos to measure"),
        (([[]], [truth]), {}, "video 0 has no frames"),
        (([made], [truth]), {"first_frame": 1, "borders": [0]}, "borders must be numbers of frames from 1 on, got 0"),
        (([[frame[:60] for frame in made]], [truth]), {"first_frame": 1}, "video 0 has 64 x 60 pixels and its true video 64 x 64"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            colorization_report(*given, **settings)


# The command


@pytest.fixture(scope="module")
def folder(film, truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("colorized")
    write_clip(film, place / "true" / "walk", truth=True, lossless=True)
    (place / "made").mkdir()
    for name, frames in (("made/walk.mkv", drifting(truth)), ("whole.mkv", truth)):
        with VideoWriter(place / name, fps=12.0, lossless=True) as video:
            for frame in frames:
                video.write(frame)
    return place


def test_the_command_measures_beside_a_clip(folder: Path, film, truth, capsys: pytest.CaptureFixture) -> None:
    words = ["--true", folder / "true", "--first-frame", 1, "--borders", "6,12", "--erode", 0, "--device", "cpu"]
    code, out, err = run(capsys, "measure", "colorized", folder / "made", *words, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    report = colorization_report(
        [drifting(truth)], [truth], first_frame=1, regions=[regions_of(film)], erode=0, borders=BORDERS
    )
    assert found == {"files": [str(folder / "made" / "walk.mkv")], **report.as_dict()}
    random = ["--random-features", "--clip-length", 8, "--clip-stride", 4, "-q"]
    code, out, _ = run(capsys, "measure", "colorized", folder / "made" / "walk.mkv", *words, *random)
    assert code == 0
    assert "| FVD | " in out
    assert "random convolutions, seed 0; 18 and 18 frames" in out


def test_the_command_measures_beside_a_video(folder: Path, capsys: pytest.CaptureFixture) -> None:
    video = folder / "whole.mkv"
    code, out, _ = run(capsys, "measure", "colorized", video, "--true", video, "--borders", "none", "--json")
    assert code == 0
    found = json.loads(out)["measures"]
    assert found["color_distance"] == {"value": pytest.approx(0, abs=1e-9), "how": "8 x 8 cells against the true video"}
    assert "seam" not in found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.mp4", "--true", "whole.mkv"], "none.mp4: no such file; expected a video or a folder of videos"),
        (["whole.mkv", "--true", "none"], "none: no such file or folder"),
        (["whole.mkv", "--true", "true"], "true: holds nothing for whole.mkv; expected the same name there"),
        (["made", "--true", "true"], "fewer than its true video; pass first_frame="),
        (["made", "--true", "true", "--borders", "a,b"], "--borders must be numbers of frames such as 73,138"),
        (["made", "--true", "true", "--first-frame", "1", "--i3d", "a.pt"], "a.pt"),
        (["made"], "--true"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, "measure", "colorized", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(says, err), err
