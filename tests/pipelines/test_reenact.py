"""Animating faces: what the network gives reaches the file, motion is kept and used again, and bad input is one line."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av")

import visionzoo
from visionzoo.cli import main
from visionzoo.errors import InputError
from visionzoo.faces import CropBox
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.jobs import make_plan, silent
from visionzoo.models.mcnet import Keypoints, MCNet
from visionzoo.pipelines.reenact import ReenactPipeline, driver
from visionzoo.pipelines.reenact.driver import DrivingVideo
from visionzoo.pipelines.reenact.files import KINDS, ReenactJob
from visionzoo.pipelines.reenact.motion import Motion, nearest_frame
from visionzoo.training.run import load_config
from visionzoo.watermark import read_watermark

SMALL = load_config(["mcnet/tiny"], ["data.root=x"])["model"]["init_args"]["config"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> MCNet:
    """Random weights, but keypoints that differ from picture to picture."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = visionzoo.create_model("mcnet", **SMALL)
        with torch.no_grad():
            model.detector.heatmap.weight.mul_(20)
            model.train()
            for _ in range(3):
                model(*torch.rand(2, 2, 3, 128, 128))
    return model.eval()


@pytest.fixture(scope="module")
def pipe(network: MCNet) -> ReenactPipeline:
    return ReenactPipeline(network, device="cpu", size=128)


@pytest.fixture(scope="module")
def weights(pipe: ReenactPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    pipe.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The astronaut's, with room around it."""
    from skimage import data

    path = tmp_path_factory.mktemp("face") / "face.png"
    Image.fromarray(data.astronaut()[:320, 60:420]).save(path)
    return path


def moving(face: Path, count: int = 7) -> list[np.ndarray]:
    """Frames in which the face wanders."""
    picture = load_image(face)
    return [np.ascontiguousarray(np.roll(picture, (2 * i, 3 * i), (0, 1))[:300, :340]) for i in range(count)]


@pytest.fixture(scope="module")
def talk(face: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    with VideoWriter(path, fps=Fraction(25)) as writer:
        for frame in moving(face):
            writer.write(frame)
    return path


def run(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(stop.value.code or 0), out, err


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in read_frames(path)])


# What comes out


def test_frames_are_the_networks(pipe: ReenactPipeline, network: MCNet, face: Path, talk: Path) -> None:
    result = pipe(face, talk, mode="absolute", crop="centre", crop_driving="none", batch_size=3)
    assert result.frames.shape == (7, 128, 128, 3)
    assert result.fps == 25
    portrait = pipe.portrait(face, crop="centre")
    source, driver = (
        torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        for pixels in (portrait.crop, pipe.cut(list(read_frames(talk))[4].pixels, None))
    )
    with torch.no_grad():
        want = (network(source, driver)[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(result.frames[4] - want).max() <= 1


def test_relative_motion_begins_with_the_source_as_it_is(pipe: ReenactPipeline, face: Path, talk: Path) -> None:
    portrait, motion = pipe.portrait(face), pipe.motion(talk)
    still = next(pipe.animate(portrait, portrait.cache.keypoints))
    for start in ("first", 3):
        moved = pipe.transfer(portrait, motion, start=start)
        frames = list(pipe.animate(portrait, moved))
        assert np.array_equal(frames[0 if start == "first" else 3], still)
        assert not np.array_equal(frames[5], still)
    best = nearest_frame(portrait.cache.keypoints.value[0], motion)
    assert np.array_equal(list(pipe.animate(portrait, pipe.transfer(portrait, motion)))[best], still)
    with pytest.raises(InputError, match="a frame from 0 to 6, got 7"):
        pipe.transfer(portrait, motion, start=7)


def test_the_best_frame_is_that_of_the_same_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(5, 10, 2, generator=generator)
    motion = Motion(Keypoints(value, torch.eye(2).expand(5, 10, 2, 2)), np.arange(5) / 25, Fraction(25), "w", 128)
    assert nearest_frame(0.3 * value[3] - 0.1, motion) == 3, "wherever it is, and however large"


def test_faces_are_cropped(pipe: ReenactPipeline, face: Path) -> None:
    portrait = pipe.portrait(face)
    assert portrait.box is not None
    assert abs(portrait.box.left + portrait.box.side / 2 - 165) < 25  # of the face's middle
    assert portrait.crop.shape == (128, 128, 3)
    own = pipe.portrait(face, crop=CropBox(10, 20, 128))
    assert np.array_equal(own.crop, load_image(face)[20:148, 10:138])


def test_a_crop_follows_the_driver(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    """A face that moves to the right by 8 pixels a frame: a fixed crop shows it, one that follows does not."""
    picture = load_image(face)
    with VideoWriter(tmp_path / "walk.mp4", fps=25) as writer:
        for number in range(11):
            writer.write(
                np.ascontiguousarray(np.pad(picture[:300, :320], ((0, 0), (8 * number, 80 - 8 * number), (0, 0))))
            )
    boxes = {
        crop: [
            DrivingVideo(tmp_path / "walk.mp4", keep=False).boxes(crop, "largest", lambda: pipe.detector, silent)(n)
            for n in (0, 5, 10, 99)
        ]
        for crop in ("auto", "follow")
    }
    assert len(set(boxes["auto"])) == 1
    first, middle, last, beyond = (box.left + box.side / 2 for box in boxes["follow"] if box is not None)
    assert 25 < middle - first < 55
    assert 50 < last - first < 100
    assert beyond == last
    fixed, follows = (pipe.motion(tmp_path / "walk.mp4", crop=crop) for crop in ("auto", "follow"))
    assert len(fixed) == len(follows) == 11
    assert not torch.equal(fixed.keypoints.value, follows.keypoints.value)


def test_motion_is_saved_and_used_again(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path) -> None:
    first = pipe(face, talk)
    first.motion.save(tmp_path / "talk.safetensors")
    again = pipe(face, tmp_path / "talk.safetensors")
    assert np.array_equal(again.frames, first.frames)
    assert again.motion.fps == 25
    assert np.array_equal(pipe(face, first.motion).frames, first.frames)
    with torch.random.fork_rng():
        other = ReenactPipeline(visionzoo.create_model("mcnet", **SMALL).eval(), device="cpu", size=128)  # pyright: ignore
    with pytest.raises(InputError, match="keypoints of other weights"):
        other.motion(tmp_path / "talk.safetensors")


def test_pipelines_are_saved_and_loaded(pipe: ReenactPipeline, weights: Path, face: Path, talk: Path) -> None:
    want = pipe(face, talk).frames
    for other in (
        ReenactPipeline.from_pretrained(weights.parent, device="cpu"),
        visionzoo.pipeline("reenact", checkpoint=weights, device="cpu"),
    ):
        assert other.size == 128
        assert np.array_equal(other(face, talk).frames, want)


# Motion


def test_uneven_frames_become_even() -> None:
    times = np.array([0, 0.12, 0.24, *(0.36 + n / 25 for n in range(8))])
    value = torch.arange(11.0)[:, None, None].expand(11, 3, 2)
    motion = Motion(Keypoints(value, torch.eye(2).expand(11, 3, 2, 2)), times, Fraction(16), "w", 128)
    even = motion.even()
    assert even.fps == motion.even_fps == 25
    assert even.keypoints.value[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, *range(3, 11)]
    assert np.allclose(np.diff(even.times), 0.04)
    assert even.even() is even


def test_smoothing_takes_off_jitter_and_keeps_movement() -> None:
    generator = torch.Generator().manual_seed(0)
    path = torch.linspace(0, 0.5, 100)[:, None, None].expand(100, 3, 2)
    shaken = path + 0.01 * torch.randn(100, 3, 2, generator=generator)
    motion = Motion(Keypoints(shaken, torch.eye(2).expand(100, 3, 2, 2)), np.arange(100) / 25, Fraction(25), "w", 128)
    steady = motion.smooth(0.9).keypoints.value
    assert (steady[20:].diff(dim=0)).std() < 0.4 * (shaken[20:].diff(dim=0)).std()
    assert (steady - path)[20:].abs().mean() < 0.08
    assert motion.smooth(0) is motion


# Files


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
        assert np.abs(got[0, -30:].astype(int) - load_image(face)[-30:]).mean() < 8, (
            "outside the crop it is the picture"
        )
    if view == "side-by-side":
        assert np.abs(got[0, :, :128].astype(int) - pipe.portrait(face).crop).mean() < 8


@pytest.mark.parametrize("kept", [True, False], ids=["in memory", "too long"])
def test_driving_frames_are_decoded_once_and_searched_once(
    pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Side by side needs the driver's frames for the search, for keypoints and for the picture; a long video is decoded twice."""
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


def test_sound_goes_along(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = (3000 * np.sin(np.arange(8000) / 5)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with VideoWriter(tmp_path / "loud.mp4", fps=25, audio_from=tmp_path / "sound.wav") as writer:
        for picture in moving(face):
            writer.write(picture)
    for name, options in (("with", {}), ("without", {"sound": False})):
        pipe.run(face, tmp_path / f"{name}.mp4", False, driving=tmp_path / "loud.mp4", **options)
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            assert len(container.streams.audio) == (name == "with")


def test_many_sources_share_one_motion(pipe: ReenactPipeline, face: Path, talk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for name in ("a", "b"):
        Image.open(face).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"c\.png"):
        results = pipe.run(folder, tmp_path / "out", False, driving=talk)
    assert [result.error is None for result in results] == [True, True, False]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["a.mp4", "b.mp4"]
    (tmp_path / "out" / "a.mp4").unlink()
    with pytest.warns(UserWarning, match=r"c\.png"):
        again = pipe.run(folder, tmp_path / "out", False, driving=talk)
    assert [result.seconds > 0 for result in again] == [True, False, False]
    assert [result.skipped for result in again] == [False, True, False]


# Live


def test_live_frames_are_those_of_the_clip(pipe: ReenactPipeline, face: Path) -> None:
    live = pipe.live(face, adapt_scale=False)
    pictures = moving(face)
    first = live(pictures[0])
    assert np.array_equal(first, next(pipe.animate(live.portrait, live.portrait.cache.keypoints)))
    moved = live(pictures[6])
    assert not np.array_equal(moved, first)
    live.reset()
    assert np.array_equal(live(np.full((200, 200, 3), 90, np.uint8)), moved), "without a face the last result stays"
    assert np.array_equal(live(pictures[6]), first), "after a reset the next pose is the source's"


# What goes wrong


def test_what_is_wrong_is_one_line(
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
        ([face, talk, "--crop", "1,2"], "--crop is auto, centre, none, or left,top,side"),
        ([face, talk, "--start", "soon"], "--start is best, first, or the number"),
        ([face, talk, "--start", "99"], "a frame from 0 to 6, got 99"),
        ([face, talk, "--smooth", "1"], "smooth is at least 0 and below 1"),
        ([face, talk, "--size", "100"], "size is a multiple of 128"),
        ([face, talk, "--save-motion", tmp_path / "m.json"], "written as .safetensors"),
    ):
        code, _, err = run(capsys, "reenact", *words, "-o", tmp_path / "out.mp4", *given)
        assert code == 2, (words, err)
        assert reason in " ".join(err.split()), (words, err)
        assert not (tmp_path / "out.mp4").exists()
    code, _, err = run(capsys, "reenact", face, talk, "-o", tmp_path / "out.jpg", *given)
    assert code == 2
    assert "videos are written as .mp4" in err


def test_without_weights_it_says_what_to_do(
    face: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path))
    code, _, err = run(capsys, "reenact", face, talk, "-o", tmp_path / "out.mp4")
    assert code == 2
    assert "00000099-checkpoint.pth.tar" in err


def test_one_frame_moves_nothing_and_says_so(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "one.mp4", fps=25) as writer:
        writer.write(moving(face)[0])
    with pytest.warns(UserWarning, match="has one frame, so nothing moves"):
        pipe.run(face, tmp_path / "out.mp4", False, driving=tmp_path / "one.mp4")
    assert len(frames_of(tmp_path / "out.mp4")) == 1


def test_a_video_that_breaks_off_is_used_up_to_there(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
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


def test_a_driver_with_a_varying_rate(pipe: ReenactPipeline, face: Path, tmp_path: Path) -> None:
    """Each of its frames becomes one, shown when it was; .avi, which keeps no times, repeats the longer ones."""
    times = [0, 0.12, 0.24, 0.28, 0.32, 0.36, 0.4]
    with VideoWriter(tmp_path / "uneven.webm", fps=16, variable=True) as writer:
        for frame, time, end in zip(moving(face), times, [*times[1:], 0.44], strict=True):
            writer.write(frame[:128, :128], time=time, duration=end - time)
    job = ReenactJob(pipe, tmp_path / "uneven.webm", crop="none", crop_driving="none")
    for name in ("out.mp4", "out.avi"):
        result = job.convert(face, tmp_path / name, lambda *_: None)
        assert (result.frames, probe(tmp_path / name).is_variable) == ((7, True) if name == "out.mp4" else (11, False))
    shown = list(read_frames(tmp_path / "out.mp4"))
    assert [frame.time_s for frame in shown] == pytest.approx(times, abs=2e-3)
    repeated = frames_of(tmp_path / "out.avi")
    for number, place in enumerate([0, 0, 0, 1, 1, 1, *range(2, 7)]):
        assert np.abs(repeated[number].astype(int) - shown[place].pixels).mean() < 3


def test_faces_are_followed_by_the_times_of_the_frames(
    pipe: ReenactPipeline, face: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0, 0.5, 1, 1.04, 1.08]
    with VideoWriter(tmp_path / "uneven.mp4", fps=5, variable=True) as writer:
        for frame, time, end in zip(moving(face, 5), times, [*times[1:], 1.12], strict=True):
            writer.write(frame, time=time, duration=end - time)
    seen: list[float] = []

    def follow(frames: Any, *_: Any, **__: Any) -> Any:
        seen.extend(time for time, _ in frames)
        return SimpleNamespace(found=np.array([False]))

    monkeypatch.setattr("visionzoo.pipelines.reenact.driver.follow_face", follow)
    with pytest.raises(InputError, match="no face found"):
        pipe.motion(tmp_path / "uneven.mp4", crop="follow")
    assert seen == pytest.approx(times, abs=1e-3)
