"""Videos made from videos: times, sound and order are kept, and interrupted runs give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter, Window, map_video, probe, read_frames
from visionzoo.io.video.loop import windows
from visionzoo.io.video.parts import decoding_times

av = pytest.importorskip("av")
ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def image(number: int) -> NDArray[np.uint8]:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, : 2 * number + 2] = (250, 40 + 5 * number, 120)
    return pixels


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames, the first half at 10 a second, the others at 30, with a tone."""
    folder = tmp_path_factory.mktemp("uneven")
    with av.open(str(folder / "tone.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = (np.sin(np.arange(16000) / 3) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times = [Fraction(n, 10) for n in range(10)] + [1 + Fraction(n, 30) for n in range(10)]
    with VideoWriter(folder / "uneven.mp4", fps=15, variable=True, audio_from=folder / "tone.wav") as video:
        for number, (time, end) in enumerate(zip(times, [*times[1:], Fraction(4, 3)], strict=True)):
            video.write(image(number), time=time, duration=end - time)
    return folder / "uneven.mp4"


def inverted(window: Window[Any]) -> Iterator[NDArray[np.uint8]]:
    for frame in window.items:
        yield 255 - frame.pixels


def streams(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Packets of video and sound: time in seconds, length, content."""
    found: dict[str, list[tuple[Any, ...]]] = {"video": [], "audio": []}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size:
                place = (packet.dts, packet.pts) if packet.pts is not None else ()
                found[packet.stream.type].append((*place, packet.duration, bytes(packet)))
    return found


@pytest.mark.parametrize("extension", ENDINGS)
def test_times_and_sound_go_along(tmp_path: Path, uneven: Path, extension: str) -> None:
    seen: list[tuple[int, int]] = []
    made = map_video(uneven, tmp_path / f"out{extension}", inverted, progress=lambda *done: seen.append(done))
    before, after = list(read_frames(uneven)), list(read_frames(tmp_path / f"out{extension}"))
    assert seen == [(n, 20) for n in range(1, 21)]
    if extension == ".avi":  # .avi has no times, so frames of the first half are shown three times
        assert (made.fps, made.frames) == (30, 40)
        before = [frame for frame in before[:10] for _ in range(3)] + before[10:]
        assert [frame.time_s for frame in after] == pytest.approx([n / 30 for n in range(40)], abs=1e-3)
    else:
        assert (made.fps, made.frames) == (15, 20)
        assert [frame.time_s for frame in after] == pytest.approx([frame.time_s for frame in before], abs=1.1e-3)
        assert after[-1].time_s + float(after[-1].duration) == pytest.approx(4 / 3, abs=5e-3)
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert np.abs(255 - new.pixels.astype(int) - old.pixels).mean() < 6
    with av.open(str(tmp_path / f"out{extension}")) as container:
        sound = list(container.decode(audio=0))
        assert sound[0].time == pytest.approx(0, abs=0.03)
        assert sound[-1].time == pytest.approx(4 / 3, abs=0.15)
    assert [path.name for path in tmp_path.iterdir()] == [f"out{extension}"]


class Stop(Exception):
    pass


class Remembering:
    """Each frame is mixed with earlier ones; windows overlap, and the overlap is held back."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.mean = np.zeros((32, 48, 3))
        self.fails_at = fails_at

    def __call__(self, window: Window[Any]) -> Iterator[NDArray[np.uint8]]:
        if self.fails_at is not None and window.start >= self.fails_at:
            raise Stop
        last = len(window.items) if window.is_last else 4
        for frame in window.items[:last]:
            self.mean = 0.5 * self.mean + 0.5 * frame.pixels
            yield self.mean.round().astype(np.uint8)

    def get_state(self) -> dict[str, NDArray[Any]]:
        return {"mean": self.mean}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        self.mean = state["mean"]


@pytest.mark.parametrize("extension", ENDINGS)
def test_an_interrupted_video_equals_one_that_was_not(
    tmp_path: Path, uneven: Path, extension: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, target = tmp_path / f"whole{extension}", tmp_path / f"out{extension}"
    options: dict[str, Any] = {"window": 6, "stride": 4, "part_frames": 5}
    map_video(uneven, whole, Remembering(), **options)
    for stop in (12, 16):
        with pytest.raises(Stop):
            map_video(uneven, target, Remembering(stop), **options)
        assert not target.exists()
    assert "the first 16 frames of out" in caplog.text
    assert "run it again to resume" in caplog.text
    made = map_video(uneven, target, Remembering(), **options)
    assert made.resumed == 16
    assert streams(target) == streams(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out{extension}", f"whole{extension}"]


def test_parts_of_other_settings_are_not_used(tmp_path: Path, uneven: Path) -> None:
    target = tmp_path / "out.mp4"
    for settings in ({"strength": 1}, {"strength": 2}):
        with pytest.raises(Stop):
            map_video(uneven, target, Remembering(12), window=4, part_frames=4, settings=settings)
    assert map_video(uneven, target, inverted, window=4, part_frames=4, settings={"strength": 1}).resumed == 0
    with pytest.raises(InputError, match="exists already"):
        map_video(uneven, target, inverted)


def test_a_damaged_part_is_rebuilt(tmp_path: Path, uneven: Path) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(Stop):
        map_video(uneven, target, Remembering(12), window=4, part_frames=4)
    parts = sorted((tmp_path / ".out.mp4.parts").iterdir())
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    assert map_video(uneven, target, Remembering(), window=4, part_frames=4).resumed == 4
    map_video(uneven, tmp_path / "whole.mp4", Remembering(), window=4, part_frames=4)
    assert streams(target) == streams(tmp_path / "whole.mp4")


def test_an_exception_in_the_progress_callback_cancels(tmp_path: Path, uneven: Path) -> None:
    def cancel(done: int, _: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        map_video(uneven, tmp_path / "out.mp4", inverted, progress=cancel)
    assert list(tmp_path.iterdir()) == []  # no part was finished


def test_frames_without_a_file(tmp_path: Path) -> None:
    class Moment:
        def __init__(self, number: int) -> None:
            self.time, self.duration, self.number = number / 10, 0.1, number

    def drawn(window: Window[Moment]) -> Iterator[NDArray[np.uint8]]:
        return (image(moment.number) for moment in window.items)

    made = map_video(
        [Moment(n) for n in range(7)], tmp_path / "out.mp4", drawn, window=3, fps=Fraction(10), sound=False
    )
    assert (made.width, made.height, made.frames, made.fps) == (48, 32, 7, 10)
    assert probe(tmp_path / "out.mp4").fps == 10
    with pytest.raises(InputError, match="fps is required"):
        map_video([Moment(0)], tmp_path / "b.mp4", drawn)


@pytest.mark.parametrize(
    ("count", "message"), [(0, "19 frames came out, but 20 went in"), (2, "more frames came out than the 20")]
)
def test_frames_are_counted(tmp_path: Path, uneven: Path, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_video(
            uneven, tmp_path / "out.mp4", lambda window: [image(0)] * count if window.is_last else inverted(window)
        )


@pytest.mark.parametrize(
    ("count", "length", "stride"), [(20, 6, 4), (6, 6, 2), (7, 6, 6), (3, 8, 8), (1, 1, 1), (13, 5, 1)]
)
def test_windows_cover_everything_once(count: int, length: int, stride: int) -> None:
    class Item:
        time = duration = 0

        def __init__(self, number: int) -> None:
            self.number = number

    every = list(windows([Item(n) for n in range(count)], length, stride))
    fresh = [item.number for window in every for item in window.items[window.overlap :]]
    assert fresh == list(range(count))
    assert [window.is_last for window in every] == [False] * (len(every) - 1) + [True]
    assert [window.start for window in every] == [n * stride for n in range(len(every))]
    for first in range(len(every) + 1):
        again = list(windows([Item(n) for n in range(count)], length, stride, first=first))
        assert [(w.start, w.overlap if w.start else 0, len(w.items)) for w in again] == [
            (w.start, w.overlap, len(w.items)) for w in every[first:]
        ]


def test_decoding_times_rise_and_come_before_display() -> None:
    shown = np.array([0, 8, 4, 2, 6, 10, 40, 25, 20, 30, 41, 42])
    decoded = decoding_times(shown)
    assert (np.diff(decoded) > 0).all()
    assert (decoded <= shown).all()
    assert decoding_times(np.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_ctrl_c_says_what_is_kept(tmp_path: Path, uneven: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"interrupted; the first 10 frames of out\.mp4 are kept"):
        map_video(uneven, tmp_path / "out.mp4", inverted, part_frames=5, progress=interrupt)
    assert map_video(uneven, tmp_path / "out.mp4", inverted, part_frames=5).resumed == 10
