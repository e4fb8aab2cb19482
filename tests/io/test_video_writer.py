"""Written videos are read back unchanged, and no partial file is left."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.io.video import VideoError, VideoWriter, probe, read_frames

av = pytest.importorskip("av")
CHART = (
    (255, 255, 255),
    (0, 0, 0),
    (200, 30, 30),
    (30, 200, 30),
    (30, 30, 200),
    (200, 200, 40),
    (40, 200, 200),
    (128, 128, 128),
)


def chart(number: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    for place, colour in enumerate(CHART):
        pixels[:, place * width // 8 : (place + 1) * width // 8] = colour
    pixels[number % height, :, :] = 255
    return pixels


ENDINGS = [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"]


def write(path: Path, count: int = 6, **options: object) -> Path:
    with VideoWriter(path, fps=Fraction(30000, 1001), **options) as writer:  # pyright: ignore[reportArgumentType]
        for number in range(count):
            writer.write(chart(number))
    return path


def with_sound(path: Path, codec: str = "aac", seconds: float = 2.0) -> Path:
    """A clip with a tone, which begins at half a second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=48000)
        audio.layout = "mono"
        for number in range(int(10 * seconds)):
            frame = av.VideoFrame.from_ndarray(chart(number, 48, 64), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(int(48000 * seconds)) * 2 * np.pi * 440 / 48000).astype(np.float32)
        tone[:24000] = 0
        for start in range(0, len(tone), 960):
            part = av.AudioFrame.from_ndarray(tone[None, start : start + 960], format="fltp", layout="mono")
            part.sample_rate, part.pts = 48000, start
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    return path


def sound(path: Path) -> tuple[str, float, float] | None:
    """Codec of the sound, and times in seconds at which the tone begins and the file ends; None if there is no sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=48000)
        begins, ends = None, 0.0
        for frame in container.decode(stream):
            time = float(frame.time or 0.0)
            ends = time + frame.samples / frame.sample_rate
            heard = [np.flatnonzero(np.abs(part.to_ndarray()[0]) > 0.3) for part in resampler.resample(frame)]
            if begins is None and heard and len(heard[0]):
                begins = time + heard[0][0] / 48000
        assert begins is not None
        return stream.codec_context.name, begins, ends


def packets(path: Path, kind: str = "audio") -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(getattr(container.streams, kind)[0]) if packet.size]


@pytest.mark.parametrize("extension", ENDINGS)
def test_colours_and_times_come_back(tmp_path: Path, extension: str) -> None:
    path = write(tmp_path / f"clip{extension}")
    info = probe(path)
    assert (info.width, info.height) == (96, 64)
    assert float(info.fps) == pytest.approx(30000 / 1001, rel=1e-3)
    frames = list(read_frames(path))
    assert len(frames) == 6
    assert frames[5].time_s == pytest.approx(5 * 1001 / 30000, abs=2e-3)
    middle = np.array([frames[3].pixels[40, 6 + 12 * place] for place in range(8)], int)
    assert np.abs(middle - np.array(CHART)).max() <= 6  # a wrong matrix shifts colours by 10 and more


@pytest.mark.parametrize("extension", ENDINGS)
@pytest.mark.parametrize("size", [(96, 128), (95, 127), (96, 127)])
def test_a_chart_of_colours_keeps_them(tmp_path: Path, extension: str, size: tuple[int, int]) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = colours.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    path = tmp_path / f"chart{extension}"
    with VideoWriter(path, fps=24) as writer:
        for _ in range(3):
            writer.write(pixels)
    for frame in read_frames(path):
        assert frame.pixels.shape == pixels.shape
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 2  # the matrix of BT.601 would be off by 7
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert context.pix_fmt == ("yuv420p" if size == (96, 128) else "yuv444p")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the command ffmpeg")
@pytest.mark.parametrize("extension", ENDINGS)
def test_ffmpeg_sees_the_same(tmp_path: Path, extension: str) -> None:
    path = write(tmp_path / f"clip{extension}", 30)
    asked = ["-v", "error", "-select_streams", "v", "-count_frames", "-show_streams", "-of", "json"]
    shown = subprocess.run(["ffprobe", *asked, str(path)], check=True, capture_output=True).stdout
    stream = json.loads(shown)["streams"][0]
    assert [stream[key] for key in ("color_range", "color_space", "color_primaries", "color_transfer")] == [
        "tv",
        "bt709",
        "bt709",
        "bt709",
    ]
    assert stream["avg_frame_rate"] == stream["r_frame_rate"] == "30000/1001"
    assert (stream["width"], stream["height"], int(stream["nb_read_frames"])) == (96, 64, 30)
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True,
        capture_output=True,
    ).stdout
    first = np.frombuffer(raw, np.uint8).reshape(64, 96, 3).astype(int)
    assert np.abs(first - chart(0)).mean() < 3


@pytest.mark.parametrize("extension", [".mp4", ".mov"])
def test_times_are_exact_and_the_index_comes_first(tmp_path: Path, extension: str) -> None:
    path = write(tmp_path / f"clip{extension}", 60)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = sorted(packet.pts * packet.time_base for packet in container.demux(stream) if packet.size)
        assert stream.duration * stream.time_base == 60 * Fraction(1001, 30000)
    assert times == [number * Fraction(1001, 30000) for number in range(60)]
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(30000 / 1001, Fraction(30000, 1001)), (23.976, Fraction(2997, 125)), (25, Fraction(25)), (0.5, Fraction(1, 2))],
)
def test_rates(tmp_path: Path, fps: float, rate: Fraction) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=fps) as writer:
        assert writer.fps == rate
        for number in range(3):
            writer.write(chart(number))
    assert probe(tmp_path / "a.mp4").fps == rate


def test_quality_costs_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for extension in (".mp4", ".webm"):
        sizes = []
        for crf in (10, 40):
            with VideoWriter(tmp_path / f"{crf}{extension}", fps=10, crf=crf) as writer:
                for _ in range(3):
                    writer.write(noise)
            sizes.append((tmp_path / f"{crf}{extension}").stat().st_size)
        assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize(
    ("extension", "codec", "stored"),
    [
        (".mp4", None, "h264"),
        (".mov", None, "h264"),
        (".mkv", None, "ffv1"),
        (".mkv", "h264", "h264"),
        (".mkv", "vp9", "vp9"),
        (".webm", None, "vp9"),
        (".avi", None, "ffv1"),
    ],
)
def test_lossless_is_exact(tmp_path: Path, extension: str, codec: str | None, stored: str) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (37, 51, 3), dtype=np.uint8) for _ in range(3)]
    path = tmp_path / f"clip{extension}"
    with VideoWriter(path, fps=25, lossless=True, codec=codec) as writer:
        for frame in frames:
            writer.write(frame)
    back = list(read_frames(path))
    assert all(np.array_equal(got.pixels, want) for got, want in zip(back, frames, strict=True))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name.removeprefix("lib") == stored


def test_odd_sizes_stay(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "odd.mp4", fps=10) as writer:
        writer.write(chart(0, 33, 57))
    assert (probe(tmp_path / "odd.mp4").width, probe(tmp_path / "odd.mp4").height) == (57, 33)


@pytest.mark.parametrize(
    ("source", "codec", "extension", "stored"),
    [
        (".mp4", "aac", ".mp4", "aac"),
        (".mp4", "aac", ".mkv", "aac"),
        (".mp4", "aac", ".webm", "opus"),
        (".mp4", "aac", ".avi", "mp3float"),
        (".mkv", "flac", ".mp4", "flac"),
        (".mkv", "flac", ".mov", "aac"),
        (".mkv", "libopus", ".webm", "opus"),
        (".avi", "pcm_s16le", ".avi", "pcm_s16le"),
        (".avi", "pcm_s16le", ".mp4", "aac"),
    ],
)
def test_sound_goes_along_and_is_cut(tmp_path: Path, source: str, codec: str, extension: str, stored: str) -> None:
    heard = with_sound(tmp_path / f"heard{source}", codec)
    path = tmp_path / f"out{extension}"
    with VideoWriter(path, fps=10, audio_from=heard) as writer:
        for number in range(12):
            writer.write(chart(number))
    got, source_sound = sound(path), sound(heard)
    assert got is not None
    assert source_sound is not None
    assert got[0].removeprefix("lib") == stored
    assert got[1] == pytest.approx(source_sound[1], abs=0.03)
    assert 1.17 < got[2] < 1.3  # at most one packet over
    times = [frame.time_s for frame in read_frames(path)]
    assert times == pytest.approx([n / 10 for n in range(12)], abs=1e-3)


@pytest.mark.parametrize(("codec", "extension"), [("aac", ".mp4"), ("aac", ".mkv"), ("aac", ".webm"), ("flac", ".mov")])
def test_sound_may_begin_later(tmp_path: Path, codec: str, extension: str) -> None:
    """As when the first frames are left out: sound and frames stay together, whether sound is copied or encoded."""
    heard = with_sound(tmp_path / "heard.mkv", codec)
    path = write(tmp_path / f"out{extension}", 30, audio_from=heard, audio_start=Fraction(3, 10))
    got = sound(path)
    assert got is not None
    assert got[1] == pytest.approx(0.2, abs=0.03)
    times = [frame.time_s for frame in read_frames(path)]
    assert times == pytest.approx([n * 1001 / 30000 for n in range(30)], abs=1e-3)


def test_copied_sound_is_the_same_bytes(tmp_path: Path) -> None:
    heard = with_sound(tmp_path / "heard.mp4")
    with VideoWriter(tmp_path / "out.mp4", fps=10, audio_from=heard) as writer:
        for number in range(40):  # longer than the sound
            writer.write(chart(number))
    assert packets(tmp_path / "out.mp4") == packets(heard)
    assert len(packets(tmp_path / "out.mp4", "video")) == 40


def test_sound_of_a_file_written_over(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mp4")
    before = packets(path)
    write(path, 70, audio_from=path, overwrite=True)
    assert packets(path) == before


@pytest.mark.parametrize("extension", [".mp4", ".webm"])
def test_truncated_sound(tmp_path: Path, extension: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = with_sound(tmp_path / "whole.mkv", "flac", 8.0).read_bytes()
    (tmp_path / "short.mkv").write_bytes(whole[: len(whole) // 2])
    with (
        caplog.at_level(logging.WARNING),
        VideoWriter(tmp_path / f"out{extension}", fps=10, audio_from=tmp_path / "short.mkv") as writer,
    ):
        for number in range(80):
            writer.write(chart(number))
    got = sound(tmp_path / f"out{extension}")
    assert got is not None
    assert 1 < got[2] < 7
    assert len(list(read_frames(tmp_path / f"out{extension}"))) == 80


def test_sound_from_a_file_without_sound(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound\n" * 50)
    for name, says in {"text.wav": "cannot be read", "none.mp4": "no such file"}.items():
        with pytest.raises(VideoError, match=f"{name}: .*{says}"):
            VideoWriter(tmp_path / "out.mp4", fps=10, audio_from=tmp_path / name)


def test_a_silent_source_gives_a_silent_video(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4")
    assert sound(write(tmp_path / "out.mp4", audio_from=silent)) is None


def test_no_partial_file_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        writer.write(chart())
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", fps=10):
        pass
    with (
        pytest.raises(InputError, match="the first one was 96 x 64"),
        VideoWriter(tmp_path / "a.mp4", fps=10) as writer,
    ):
        writer.write(chart())
        writer.write(chart(0, 32, 32))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write(path)
    with pytest.raises(RuntimeError), VideoWriter(path, fps=10, overwrite=True) as writer:
        writer.write(chart())
        raise RuntimeError
    assert path.read_bytes() == before
    write(path, count=2, overwrite=True)
    assert len(list(read_frames(path))) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.gif", {}, "must be one of .mp4"),
        ("a.mp4", {"fps": 0}, "fps must be above 0"),
        ("a.mp4", {"fps": float("nan")}, "fps must be above 0"),
        ("a.mp4", {"fps": float("inf")}, "fps must be above 0"),
        ("a.mp4", {"fps": 1e9}, "fps must be above 0"),
        ("a.mp4", {"crf": 70}, "crf must be from 0"),
        ("a.mp4", {"codec": "vp9"}, "holds h264 here, got the codec 'vp9'"),
        ("none/a.mp4", {}, "does not exist; create it first"),
    ],
)
def test_impossible_settings_are_reported(tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoWriter(tmp_path / name, **{"fps": 10, **options})


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_frames_of_other_types_are_refused(tmp_path: Path, frame: np.ndarray) -> None:
    with pytest.raises(InputError, match="a frame must be"), VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        writer.write(frame)


def test_an_exception_in_the_block_is_raised_unchanged(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="other"),
        VideoWriter(tmp_path / "a.mp4", fps=10, audio_from=with_sound(tmp_path / "s.mp4")) as writer,
    ):
        writer.write(chart())
        (tmp_path / "other.png").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["s.mp4"]


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(VisionZooError, match="a.mp4: the disk is full"),
        VideoWriter(tmp_path / "a.mp4", fps=10) as writer,
    ):
        writer.write(chart())
        writer._container = SimpleNamespace(mux=full, close=lambda: None)
        writer.write(chart())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = av.codec.Codec

    def lacking(name: str, mode: str) -> object:
        return codec("no such codec" if name.startswith("libx264") else name, mode)

    monkeypatch.setattr(av.codec, "Codec", lacking)
    with pytest.raises(MissingDependencyError, match="a.mp4: .*lacks the encoder libx264; install"):
        VideoWriter(tmp_path / "a.mp4", fps=10)
    VideoWriter(tmp_path / "a.webm", fps=10)


def test_a_size_beyond_the_codec_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="20000 x 2 pixels cannot be encoded by libx264"),
        VideoWriter(tmp_path / "a.mp4", fps=10) as writer,
    ):
        writer.write(np.zeros((2, 20000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_writing_outside_the_with_block(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", fps=10)
    with pytest.raises(RuntimeError, match="inside"):
        writer.write(chart())
    assert list(tmp_path.iterdir()) == []


def test_views_and_other_strides(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "a.mkv", fps=10, lossless=True) as writer:
        writer.write(wide[::-1, ::-1])
        writer.write(wide[..., ::-1])
        assert writer.frames == 2
    first, second = read_frames(tmp_path / "a.mkv")
    np.testing.assert_array_equal(first.pixels, wide[::-1, ::-1])
    np.testing.assert_array_equal(second.pixels, wide[..., ::-1])


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np; from visionzoo.io.video import VideoWriter\n"
        "with VideoWriter(sys.argv[1], fps=25) as video:\n"
        "    while True:\n"
        "        video.write(np.zeros((64, 64, 3), np.uint8))\n"
        "        if video.frames == 100: print('going', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a.mp4")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in output
    assert list(tmp_path.iterdir()) == []
