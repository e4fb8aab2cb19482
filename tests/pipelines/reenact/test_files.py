"""Files in and out: videos with sound and sidecars, and one-line errors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.jobs import make_plan
from visionzoo.pipelines.reenact import ReenactPipeline, driver
from visionzoo.pipelines.reenact.files import KINDS
from visionzoo.pipelines.reenact.motion import Motion
from visionzoo.watermark import read_watermark

from ...command import run
from .clips import frames_of, moving


def test_a_video_is_written_with_all_that_belongs_to_it(
    pipe: ReenactPipeline, weights: Path, face: Path, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["reenact", face, talk, "-o", tmp_path / "out.mp4", "--checkpoint", weights, "--device", "cpu"]
    code, out, err = run(capsys, *words, "--save-motion", tmp_path / "talk.safetensors", "--json")
    assert code == 0, err
    (result,) = json.loads(out)
    assert (result["frames"], result["width"], result["height"]) == (7, 128, 128)
    assert probe(tmp_path / "out.mp4").fps == 25
    got = frames_of(tmp_path / "out.mp4")
    want = pipe(face, talk).frames
    assert np.abs(got.astype(int) - want).mean() < 6  # marked, and compressed
    assert read_watermark(got).present
    saved = json.loads((tmp_path / "out.mp4.json").read_text())
    assert saved["options"]["weights"] == pipe.fingerprint
    assert saved["options"]["driving"] == str(talk)
    assert Motion.load(tmp_path / "talk.safetensors").weights == pipe.fingerprint
    assert "exists already" in run(capsys, *words)[2]
    assert run(capsys, *words, "--overwrite", "--no-watermark", "-q")[0] == 0
    assert not read_watermark(frames_of(tmp_path / "out.mp4")).present


@pytest.mark.parametrize(("view", "size"), [("face", (128, 128)), ("whole", (320, 360)), ("side-by-side", (128, 384))])
def test_views(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path, view: str, size: tuple[int, int]) -> None:
    pipe.run(face, tmp_path / "out.mkv", False, driving=talk, view=view, watermark=False)
    got = frames_of(tmp_path / "out.mkv")
    assert got.shape[1:3] == size
    assert len(got) == 7
    if view == "whole":
        assert np.abs(got[0, -30:].astype(int) - load_image(face)[-30:]).mean() < 8, "outside the crop it is the image"
    if view == "side-by-side":
        assert np.abs(got[0, :, :128].astype(int) - pipe.portrait(face).crop).mean() < 8


@pytest.mark.parametrize("kept", [True, False], ids=["in memory", "too long"])
def test_driving_frames_are_decoded_once_and_searched_once(
    pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Side by side needs the driver's frames for the search, for keypoints and for the image; a long video is decoded twice."""
    decoded: list[int] = []
    searched: list[tuple[int, ...]] = []
    detector = pipe.detector

    def counted(path: Path) -> Any:
        for frame in read_frames(path):
            decoded.append(frame.number)
            yield frame

    class Counting:
        def __call__(self, image: np.ndarray) -> Any:
            searched.append(image.shape)
            return detector(image)

    monkeypatch.setattr(driver, "read_frames", counted)
    monkeypatch.setattr(pipe, "_detector", Counting())
    if not kept:
        monkeypatch.setattr(driver, "KEPT_BYTES", 3 * 300 * 340 * 3)
    pipe.run(face, tmp_path / "out.mkv", False, driving=talk, view="side-by-side", watermark=False)
    assert decoded == list(range(7)) * (1 if kept else 2)
    assert len(searched) == 1 + 2, "the source, and every fifth of seven frames"
    shown = frames_of(tmp_path / "out.mkv")[:, :, 128:256]
    (box,) = set(pipe.motion(talk).boxes or ())
    for frame, got in zip(read_frames(talk), shown, strict=True):
        assert np.abs(pipe.cut(frame.pixels, box).astype(int) - got).mean() < 8


def test_the_driving_video_is_never_replaced(pipe: ReenactPipeline, face: Path, talk: Path) -> None:
    before = talk.read_bytes()
    with pytest.raises(InputError, match="is an input, which is never overwritten"):
        pipe.run(face, talk, False, driving=talk, overwrite=True)
    assert talk.read_bytes() == before


def test_sound_goes_along(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (3000 * np.sin(np.arange(8000) / 5)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with VideoWriter(tmp_path / "loud.mp4", fps=25, audio_from=tmp_path / "sound.wav") as writer:
        for image in moving(face):
            writer.write(image)
    for name, options in (("with", {}), ("without", {"sound": False})):
        pipe.run(face, tmp_path / f"{name}.mp4", False, driving=tmp_path / "loud.mp4", **options)
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            assert len(container.streams.audio) == (name == "with")


def test_many_sources_share_one_motion(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for name in ("a", "b"):
        Image.open(face).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"c\.png"):
        results = pipe.run(folder, tmp_path / "out", False, driving=talk)
    assert [result.error is None for result in results] == [True, True, False]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["a.mp4", "b.mp4"]
    (tmp_path / "out" / "a.mp4").unlink()
    with pytest.warns(UserWarning, match=r"c\.png"):
        again = pipe.run(folder, tmp_path / "out", False, driving=talk)
    assert [result.seconds > 0 for result in again] == [True, False, False]
    assert [result.skipped for result in again] == [False, True, False]


def test_errors_are_one_line(
    weights: Path, face: Path, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "grey.png")
    (tmp_path / "words.mp4").write_bytes(b"these are words")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "no.safetensors").write_bytes(b"no")
    grey = [np.full((120, 120, 3), 80, np.uint8)] * 3
    with VideoWriter(tmp_path / "grey.mp4", fps=10) as writer:
        for frame in grey:
            writer.write(frame)
    given = ["--checkpoint", weights, "--device", "cpu", "-q"]
    for words, reason in (
        ([tmp_path / "none.jpg", talk], "none.jpg"),
        ([tmp_path / "empty.jpg", talk], "empty.jpg"),
        ([tmp_path / "grey.png", talk], "grey.png: no face found"),
        ([face, tmp_path / "none.mp4"], "none.mp4"),
        ([face, tmp_path / "words.mp4"], "words.mp4"),
        ([face, tmp_path / "grey.mp4"], "grey.mp4: no face found"),
        ([face, tmp_path / "no.safetensors"], "no.safetensors: is not a motion template"),
        ([face, weights], "is not a motion template"),
        ([face, talk, "--face", "3"], "there is no face number 3"),
        ([face, talk, "--crop", "1,2"], "--crop must be auto, centre, none, or left,top,side"),
        ([face, talk, "--start", "soon"], "--start must be best, first, or the number"),
        ([face, talk, "--start", "99"], "a frame from 0 to 6, got 99"),
        ([face, talk, "--smooth", "1"], "smooth must be at least 0 and below 1"),
        ([face, talk, "--size", "100"], "size must be a multiple of 128"),
        ([face, talk, "--save-motion", tmp_path / "m.json"], "written as .safetensors"),
    ):
        code, _, err = run(capsys, "reenact", *words, "-o", tmp_path / "out.mp4", *given)
        assert code == 2, (words, err)
        assert reason in " ".join(err.split()), (words, err)
        assert not (tmp_path / "out.mp4").exists()
    code, _, err = run(capsys, "reenact", face, talk, "-o", tmp_path / "out.jpg", *given)
    assert code == 2
    assert "videos are written as .mp4" in err


def test_a_single_frame_gives_no_motion_and_a_warning(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "one.mp4", fps=25) as writer:
        writer.write(moving(face)[0])
    with pytest.warns(UserWarning, match="has one frame, so nothing moves"):
        pipe.run(face, tmp_path / "out.mp4", False, driving=tmp_path / "one.mp4")
    assert len(frames_of(tmp_path / "out.mp4")) == 1


def test_a_truncated_video_is_used_up_to_its_end(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "whole.mkv", fps=25) as writer:
        for frame in moving(face, 40):
            writer.write(frame)
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 6 // 10])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.run(face, tmp_path / "out.mp4", False, driving=tmp_path / "cut.mkv", crop_driving="centre")
    assert 5 < len(frames_of(tmp_path / "out.mp4")) < 40


def test_outputs_are_planned(face: Path, photo: Any, tmp_path: Path) -> None:
    assert make_plan(face, tmp_path / "a.webm", KINDS).pairs == ((face, tmp_path / "a.webm"),)
    assert make_plan([face], tmp_path / "folder", KINDS).pairs == ((face, tmp_path / "folder" / "face.mp4"),)
    photo("faces/a.png")
    photo("faces/b.png")
    with pytest.raises(InputError, match="with several inputs, the output must be a folder"):
        make_plan(tmp_path / "faces", tmp_path / "a.mp4", KINDS)


@pytest.mark.parametrize("model", [None, "mcnet", "mcnet.official"])
def test_without_weights_the_bundled_model_is_named(
    model: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    with pytest.raises(InputError, match="visionzoo reenact samples -o talking, then use --model mcnet_nano"):
        ReenactPipeline.create(model)
