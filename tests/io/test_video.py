"""Videos: every frame in order, and files that are not videos."""

from __future__ import annotations

import logging
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from visionzoo.errors import InputError
from visionzoo.io.files import bundled
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoError, probe, read_frames

av = pytest.importorskip("av")


def write(path: Path, frames: int = 12, size: tuple[int, int] = (64, 48), rotation: int = 0) -> Path:
    """Lossless: frame n is of the grey n * 10, its left half lighter."""
    codec = "libx264rgb" if path.suffix == ".mp4" else "ffv1"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "bgr0"
        if codec == "libx264rgb":
            stream.options = {"crf": "0", "g": "4"}
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image(number, size), format="rgb24")))
        container.mux(stream.encode())
    return path


def image(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    pixels = np.full((size[1], size[0], 3), number * 10, np.uint8)
    pixels[:, : size[0] // 2] += 5
    return pixels


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"clip{suffix}")
    frames = list(read_frames(file))
    assert [frame.number for frame in frames] == list(range(12))
    assert [round(frame.time_s, 3) for frame in frames] == [n / 10 for n in range(12)]
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, image(frame.number))
    info = probe(file)
    assert (info.width, info.height, info.fps, info.frames) == (64, 48, Fraction(10), 12)


def test_some_frames_made_smaller(tmp_path: Path) -> None:
    file = write(tmp_path / "clip.mkv")
    frames = list(read_frames(file, start=2, stop=9, step=3, longest=32))
    assert [frame.number for frame in frames] == [2, 5, 8]
    assert frames[0].pixels.shape == (24, 32, 3)
    assert abs(int(frames[1].pixels[5, 25, 0]) - 50) <= 1
    assert list(read_frames(file, stop=0)) == []


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the command ffmpeg to turn a clip as a phone does")
def test_a_phone_held_upright(tmp_path: Path) -> None:
    upright, shown = tmp_path / "upright.mp4", tmp_path / "shown.png"
    turn = ["-i", str(write(tmp_path / "clip.mp4")), "-c", "copy", "-metadata:s:v:0", "rotate=90", str(upright)]
    for arguments in (turn, ["-i", str(upright), "-frames:v", "1", str(shown)]):
        subprocess.run(["ffmpeg", "-loglevel", "error", *arguments], check=True)
    first = next(iter(read_frames(upright)))
    assert first.pixels.shape == (64, 48, 3)
    np.testing.assert_array_equal(first.pixels, load_image(shown))


def test_a_truncated_file_gives_its_complete_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write(tmp_path / "clip.mkv", frames=25, size=(256, 192)).read_bytes()
    short = tmp_path / "short.mkv"
    short.write_bytes(whole[: len(whole) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(short))
    assert 5 < len(frames) < 25
    np.testing.assert_array_equal(frames[3].pixels, image(3, (256, 192)))


def test_a_video_that_is_shorter_than_its_index_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An interrupted download: the index at the start of an mp4 is complete, the frames are not, and decoding gives no error."""
    whole = bundled("talking", "man.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(tmp_path / "cut.mp4"))
        assert 5 <= len(frames) < 63
        assert f"ends after {len(frames)} of 75 frames" in caplog.text
        caplog.clear()
        assert len(list(read_frames(bundled("talking", "man.mp4")))) == 75
        list(read_frames(tmp_path / "cut.mp4", stop=3))
    assert not caplog.records


def test_files_without_a_video_are_reported(tmp_path: Path, photo) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    cases = {
        "none.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "cannot be read as a video",
        ".": "is a folder",
    }
    for name, message in {**cases, "list.m3u8": "list.m3u8: "}.items():
        with pytest.raises(VideoError, match=message):
            list(read_frames(tmp_path / name))
        if name != "list.m3u8":
            with pytest.raises(VideoError, match=message):
                probe(tmp_path / name)
    with pytest.raises(InputError, match="step at least 1"):
        list(read_frames(write(tmp_path / "clip.mkv"), step=0))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the command ffmpeg to attach a cover image")
def test_the_cover_of_a_song_is_not_a_video(tmp_path: Path, photo) -> None:
    cover, song = photo("cover.jpg"), tmp_path / "song.mp4"
    sound = ["-f", "lavfi", "-i", "sine=duration=0.5"]
    options = ["-map", "0", "-map", "1", "-c:a", "aac", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic"]
    subprocess.run(["ffmpeg", "-loglevel", "error", *sound, "-i", str(cover), *options, str(song)], check=True)
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(VideoError, match="has no video stream"):
            read(song)


def test_parts_that_were_joined_follow_one_another(tmp_path: Path) -> None:
    """Time stamps that start again, and frames of another size: all frames have the first size and increasing times."""
    for name, size in (("a.ts", (64, 48)), ("b.ts", (32, 24))):
        with av.open(str(tmp_path / name), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for number in range(40):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image(number % 20, size), format="rgb24")))
            container.mux(stream.encode())
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    frames = list(read_frames(tmp_path / "both.ts"))
    assert len(frames) in (79, 80)  # the last one before the joint may be lost
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(len(frames))], abs=0.05)
