"""Frames equal those of the ffmpeg command, for all containers, codecs, rates, rotations, mirrors, aspects, ranges and curves."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visionzoo.io.video import map_video, probe, read_frames

av = pytest.importorskip("av")
pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with the command ffmpeg")

ONE = 0x10000
MATRICES = {  # a b c d of the display matrix: (x, y) is shown at (a x + c y, b x + d y)
    "90": (0, ONE, -ONE, 0),
    "180": (-ONE, 0, 0, -ONE),
    "270": (0, -ONE, ONE, 0),
    "mirror": (-ONE, 0, 0, ONE),
    "flip": (ONE, 0, 0, -ONE),
    "transpose": (0, ONE, ONE, 0),
    "transverse": (0, -ONE, -ONE, 0),
}
NTSC = Fraction(30000, 1001)
VARYING = [Fraction(n, 1000) for n in (0, 100, 200, 233, 267, 300, 400, 433)]
BT601, BT709, BT2020 = 5, 1, 9
PQ, HLG = 16, 18


@dataclass(frozen=True)
class Clip:
    """How a clip is made: numbers of matrix, primaries and curve from ITU-T H.273; `rate` None: `VARYING`."""

    extension: str
    codec: str = "libx264"
    rate: Fraction | None = Fraction(25)
    turn: str = ""
    aspect: Fraction = Fraction(1)
    full: bool = False
    matrix: int = BT709
    primaries: int = 1
    curve: int = 1
    format: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    shown: tuple[int, int] = (64, 48)

    def __str__(self) -> str:
        others = {"codec": "libx264", "turn": "", "aspect": 1, "full": False, "matrix": 1, "primaries": 1, "curve": 1}
        odd = [f"{name}={getattr(self, name)}" for name, usual in others.items() if getattr(self, name) != usual]
        return "-".join([self.extension, str(self.rate or "varying"), self.format, *odd]).replace("/", ":")

    @property
    def times(self) -> list[Fraction]:
        return VARYING if self.rate is None else [n / self.rate for n in range(8)]

    @property
    def end(self) -> float:
        return float(VARYING[-1]) + 0.033 if self.rate is None else float(8 / self.rate)


WIDE, TALL = Fraction(4, 3), Fraction(8, 9)
HDR: dict[str, Any] = {"format": "yuv420p10le", "matrix": BT2020, "primaries": 9, "codec": "libx265"}
CLIPS = [
    # containers and rates
    *[Clip(name, rate=rate) for name in ("mp4", "mov", "mkv") for rate in (Fraction(25), NTSC, None)],
    *[Clip(name, rate=NTSC) for name in ("avi", "ts", "m2ts", "3gp", "flv", "h264")],
    Clip("ts", "mpeg2video", None),
    Clip("webm", "libvpx", None, matrix=BT601),
    Clip("webm", "libvpx-vp9", NTSC),
    Clip("hevc", "libx265", NTSC),
    # other codecs
    Clip("mpg", "mpeg2video", matrix=BT601),
    Clip("avi", "mpeg4", NTSC, matrix=BT601),
    Clip("avi", "mjpeg", full=True, matrix=BT601, format="yuvj420p"),
    Clip("mkv", "ffv1", format="yuv444p"),
    Clip("mov", "prores_ks", format="yuv422p10le"),
    Clip("mp4", "libx265", NTSC, format="yuv420p10le"),
    # turned and mirrored
    *[Clip("mp4", turn=turn) for turn in ("180", "mirror", "flip")],
    *[Clip("mov", turn=turn, shown=(48, 64)) for turn in ("90", "270", "transpose", "transverse")],
    # pixels that are not square
    Clip("mp4", aspect=WIDE, shown=(86, 48)),
    Clip("mkv", aspect=TALL, shown=(64, 54)),
    Clip("mpg", "mpeg2video", aspect=WIDE, matrix=BT601, shown=(86, 48)),
    Clip("mp4", turn="90", aspect=WIDE, shown=(48, 86)),
    Clip("mov", turn="transpose", aspect=TALL, rate=None, shown=(54, 64)),
    # ranges and matrices
    Clip("mp4", full=True),
    Clip("mkv", "ffv1", full=True, matrix=BT601, format="yuv444p"),
    Clip("mkv", matrix=BT601),
    Clip("mp4", matrix=2, primaries=2, curve=2),
    Clip("mkv", "libvpx-vp9", full=True, size=(63, 47), shown=(63, 47)),
    # HDR and wide gamuts
    Clip("mp4", curve=PQ, **HDR),
    Clip("mp4", curve=HLG, **HDR),
    Clip("mkv", curve=HLG, turn="", aspect=WIDE, shown=(86, 48), **HDR),
    Clip("mov", curve=PQ, turn="270", rate=NTSC, **{**HDR, "full": True}, shown=(48, 64)),
    Clip("mp4", curve=14, **HDR),
]


def image(clip: Clip, number: int) -> NDArray[np.uint16]:
    """(H, W, 3) uint16: soft colours with one bright corner, a different one in each frame."""
    width, height = clip.size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    light = np.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.65 - 0.4 * x * y + 0.02 * number], -1)
    light[: height // 3, : width // 3] = (0.55, 0.5, 0.3 + 0.02 * number)
    if clip.curve in (PQ, HLG):
        light = 0.25 + 0.35 * light  # up to about reference white
    return (light * 65535).astype(np.uint16)


def made(clip: Clip, folder: Path) -> Path:
    path = folder / f"clip.{clip.extension}"
    names = {"m2ts": "mpegts", "ts": "mpegts", "mpg": "mpeg", "h264": "h264", "hevc": "hevc"}
    try:
        av.codec.Codec(clip.codec, "w")
    except ValueError:
        pytest.skip(f"this build of PyAV has no {clip.codec}")
    tick = Fraction(1, 1000) if clip.rate is None and clip.codec != "mpeg2video" else 1 / Fraction(clip.rate or 30)
    options = {"libx264": {"crf": "4", "preset": "veryfast"}, "libx265": {"crf": "2", "preset": "ultrafast"}}
    options |= {"libvpx": {"crf": "4", "deadline": "realtime"}, "libvpx-vp9": {"crf": "4", "cpu-used": "8"}}
    options |= {"mpeg4": {"qmax": "2"}, "mpeg2video": {"qmax": "2"}, "mjpeg": {"qmax": "2"}}
    options["libx265"]["x265-params"] = "log-level=none"
    with av.open(str(path), "w", format=names.get(clip.extension)) as container:
        stream = container.add_stream(clip.codec, rate=clip.rate or 30, options=options.get(clip.codec, {}))
        stream.width, stream.height = clip.size
        stream.pix_fmt = clip.format
        if clip.codec in ("libvpx", "libvpx-vp9", "mpeg4", "mpeg2video"):
            stream.bit_rate = 4_000_000
        context = stream.codec_context
        context.time_base, context.sample_aspect_ratio = tick, clip.aspect
        context.color_range = 2 if clip.full else 1
        context.colorspace, context.color_primaries, context.color_trc = clip.matrix, clip.primaries, clip.curve
        for number, time in enumerate(clip.times):
            frame = av.VideoFrame.from_ndarray(image(clip, number), format="rgb48le").reformat(
                format=clip.format,
                dst_colorspace={BT709: "ITU709", BT601: "ITU601", BT2020: 9}.get(clip.matrix, "ITU601"),
                dst_color_range="JPEG" if clip.full else "MPEG",
            )
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if clip.turn:
        turn(path, clip.turn)
    return path


def turn(path: Path, name: str) -> None:
    """Write the display matrix into the track header of an mp4 or mov."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd")
    a, b, c, d = MATRICES[name]
    struct.pack_into(">9i", data, at + 8 + (32 if data[at + 4] else 20) + 16, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


@cache
def filters() -> str:
    return subprocess.run(["ffmpeg", "-hide_banner", "-filters"], capture_output=True, text=True, check=True).stdout


def shown_by_ffmpeg(path: Path, clip: Clip) -> tuple[NDArray[np.int64], list[float]]:
    """(N, H, W, 3) RGB, and the times from the first frame on."""
    width, height = clip.shown
    steps = [f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int", "format=rgb24"]
    if clip.primaries == BT2020:
        if "zscale" not in filters():
            pytest.skip("this ffmpeg has no zscale, which converts HDR")
        steps = [
            f"scale={width}:{height}:flags=bicubic,zscale=t=linear:npl=203:agamma=0,format=gbrpf32le,zscale=p=bt709",
            "zscale=t=bt709:m=gbr:r=pc,format=rgb24",
        ]
    command = ["ffmpeg", "-hide_banner", "-i", str(path), "-map", "0:v", "-vf", ",".join([*steps, "showinfo"])]
    done = subprocess.run([*command, "-vsync", "passthrough", "-f", "rawvideo", "-"], capture_output=True, check=True)
    times = [float(time) for time in re.findall(r"pts_time:([\d.]+)", done.stderr.decode())]
    pixels = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3).astype(int)
    return pixels, [time - times[0] for time in times]


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_frames_are_as_the_ffmpeg_command_shows_them(tmp_path: Path, clip: Clip) -> None:
    path = made(clip, tmp_path)
    wanted, times = shown_by_ffmpeg(path, clip)
    frames = list(read_frames(path))
    assert len(frames) == len(wanted) == 8
    got = np.stack([frame.pixels for frame in frames]).astype(int)
    assert got.shape == wanted.shape
    off = np.abs(got - wanted)
    # we compress highlights and ffmpeg clips them, and edges of strong colours depend on when the frame is rotated
    assert off.mean() < (3.5 if clip.curve in (PQ, HLG) else 2.2)
    assert np.quantile(off, 0.97) < (12 if clip.curve in (PQ, HLG) else 6)

    tick = 1.1e-3
    assert [frame.time_s for frame in frames] == pytest.approx([float(time) for time in clip.times], abs=tick)
    if clip.extension not in ("h264", "hevc"):  # without a container the command takes 25 frames a second
        assert [frame.time_s for frame in frames] == pytest.approx(times, abs=tick)
    assert float(frames[-1].time + frames[-1].duration) == pytest.approx(
        clip.end, abs=0.07 if clip.rate is None else 2e-3
    )

    info = probe(path)
    assert (info.width, info.height, info.frames) == (*clip.shown, 8)
    assert info.is_variable == (clip.rate is None)
    assert float(info.duration) == pytest.approx(clip.end, abs=0.07 if clip.rate is None else 2e-3)
    if clip.rate is not None:
        assert info.fps == clip.rate


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm", "avi"])
@pytest.mark.parametrize("rate", [NTSC, None])
def test_what_is_written_is_what_the_command_reads(tmp_path: Path, extension: str, rate: Fraction | None) -> None:
    """A turned clip with wide pixels becomes an upright one with square ones, at the same times."""
    clip = Clip("mov", rate=rate, turn="90", aspect=WIDE, shown=(48, 86))
    source = made(clip, tmp_path)
    target = tmp_path / f"out.{extension}"
    map_video(source, target, lambda window: (frame.pixels for frame in window.items), window=4, crf=4)
    pixels, times = shown_by_ffmpeg(target, clip)
    wanted, _ = shown_by_ffmpeg(source, clip)
    if extension == "avi" and rate is None:
        wanted = wanted[[0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7]]
        assert times == pytest.approx([n / 30 for n in range(14)], abs=1e-3)
    else:
        assert times == pytest.approx([float(time) for time in clip.times], abs=1.1e-3)
    assert np.abs(pixels - wanted).mean() < 2
