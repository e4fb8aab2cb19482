"""Times of frames: missing, repeated or decreasing time stamps, rates that headers do not state, and constant rates."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.io.video.times import Clock, at_even_times, even_rate, measure_rate, ticks

av = pytest.importorskip("av")
NTSC = Fraction(30000, 1001)


def clip(path: Path, stamps: list[int], codec: str = "libx264", options: dict[str, str] | None = None) -> Path:
    """Frames shown at whole milliseconds; frame n is of the grey 8 n."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=1000 if path.suffix == ".webm" else 30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_browser_recording_is_read(tmp_path: Path) -> None:
    """Uneven times, and a header without rate, length of frames and duration."""
    stamps = np.cumsum([0, *np.random.default_rng(0).choice([16, 31, 33, 34, 35, 36, 50], 29)]).tolist()
    path = clip(tmp_path / "recorded.webm", stamps, "libvpx", {"live": "1"})
    data = bytearray(path.read_bytes())
    at = data.index(b"\x23\xe3\x83")  # DefaultDuration becomes a Void element
    length = (data[at + 3] & 0x7F) + 4
    data[at : at + length] = bytes([0xEC, 0x80 | (length - 2)]) + bytes(length - 2)
    path.write_bytes(data)
    info = probe(path)
    assert info.frames == 30
    assert 28 < info.fps < 33
    assert info.is_variable
    assert info.even_fps in (Fraction(30), NTSC, info.fps)
    assert float(info.duration) == pytest.approx(stamps[-1] / 1000, abs=0.06)
    assert [frame.time_s for frame in read_frames(path)] == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-6)


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".webm"])
def test_a_varying_rate_is_detected_despite_the_header(tmp_path: Path, extension: str) -> None:
    stamps = [*range(0, 1000, 100), *(1000 + round(n * 1000 / 30) for n in range(15))]
    path = clip(tmp_path / f"uneven{extension}", stamps, "libvpx" if extension == ".webm" else "libx264")
    info = probe(path)
    assert (info.frames, info.is_variable, info.even_fps) == (25, True, 30)
    assert float(info.fps) == pytest.approx(25 / 1.5, rel=0.02)
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == [Fraction(stamp, 1000) for stamp in stamps]
    assert [float(frame.duration) for frame in frames[:-1]] == pytest.approx(np.diff(stamps) / 1000)
    assert float(frames[-1].duration) == pytest.approx(0.033, abs=2e-3)


def test_frames_after_a_damaged_stretch_keep_their_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clip.mkv"
    with VideoWriter(path, fps=10, lossless=True) as video:
        for number in range(20):
            video.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    begin, size = places[10]
    data[begin + size // 3 : begin + size] = bytes(size - size // 3)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        frames = {round(frame.time_s, 3): frame.pixels for frame in read_frames(path)}
    assert {0.5, 1.5, 1.9} <= set(frames)
    for number in (5, 15, 19):
        wanted = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        assert np.array_equal(frames[number / 10], wanted)


def test_missing_timestamps_are_continued() -> None:
    clock = Clock(Fraction(1, 1000), 500, Fraction(25))
    times = [clock.time(stamp) for stamp in (500, 600, None, None, 800)]
    assert [float(time) for time in times] == pytest.approx([0, 0.1, 0.14, 0.18, 0.3])
    none = Clock(Fraction(1, 1000), None, NTSC)
    assert [none.time(None) for _ in range(3)] == [0, 1 / NTSC, 2 / NTSC]


def test_timestamps_that_do_not_increase() -> None:
    clock = Clock(Fraction(1, 1000), 0, Fraction(25))
    times = [float(clock.time(stamp)) for stamp in (0, 40, 40, 30, 80, 120)]
    assert times == pytest.approx([0, 0.04, 0.041, 0.042, 0.08, 0.12])
    joined = Clock(Fraction(1, 1000), 10_000, Fraction(25))
    times = [float(joined.time(stamp)) for stamp in (10_000, 12_000, 0, 40, 80)]
    assert times == pytest.approx([0, 2, 2.04, 2.08, 2.12])


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), NTSC, Fraction(15, 2), Fraction(60)])
@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 90_000)])
def test_rounded_times_of_a_constant_rate_give_the_rate(rate: Fraction, tick: Fraction) -> None:
    times = np.array([round(n / rate / tick) * float(tick) for n in range(200)])
    assert measure_rate(times, float(tick)) == (rate, False)
    assert measure_rate(times, float(tick), [Fraction(1000), rate]) == (rate, False)
    assert measure_rate(times[:1], float(tick), [rate]) == (rate, False)


def test_one_longer_frame_is_a_varying_rate() -> None:
    times = np.array([n / 25 + (0.1 if n > 50 else 0) for n in range(100)])
    rate, varies = measure_rate(times, 1e-3, [Fraction(25)])
    assert varies
    assert float(rate) == pytest.approx(100 / 4.1, rel=0.01)
    assert even_rate(times, rate) == 25


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.fractions(Fraction(1, 500), 2, max_denominator=1000), min_size=1, max_size=40),
    st.sampled_from([Fraction(5), Fraction(25), NTSC]),
)
def test_a_constant_rate_covers_all_times_once(lengths: list[Fraction], fps: Fraction) -> None:
    begins = [sum(lengths[:n], Fraction(0)) for n in range(len(lengths))]
    parts = [ticks(begin, length, fps) for begin, length in zip(begins, lengths, strict=True)]
    assert [n for part in parts for n in part] == list(range(parts[-1].stop))
    assert abs(parts[-1].stop / fps - sum(lengths)) <= 1 / (2 * fps)
    shown = at_even_times([float(begin) for begin in begins], float(lengths[-1]), fps)
    assert (np.diff(shown) >= 0).all()
    for number, chosen in enumerate(shown):  # within half a frame of when it was shown
        begin, end = begins[chosen], begins[chosen] + lengths[chosen]
        assert begin - 1 / fps <= number / fps <= end + 1 / fps
