"""Progress where no bar can be drawn: a line now and then, with the remaining time."""

from __future__ import annotations

import pytest

from visionzoo.jobs import Bars, Counter, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the counters see: `clock[0]`."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_are_printed_at_intervals(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    with Counter(100, "dehazed") as counter:
        for number in range(1, 101):
            clock[0] = 4.0 * number
            counter.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "visionzoo: dehazed: 3 of 100 files, about 6 min left"
    assert lines[1] == "visionzoo: dehazed: 18 of 100 files, about 5 min left"
    assert len(lines) == 7


def test_skipped_work_does_not_count_in_the_estimate(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    with Counter(100, "dehazed", initial=90) as counter:
        clock[0] = 20.0
        counter.update(2)
    assert capsys.readouterr().err == "visionzoo: dehazed: 92 of 100 files, about 80 s left\n"


def test_no_lines_for_short_work_or_quiet_commands(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    with Counter(2, "dehazed") as counter:
        clock[0] = 9.0
        counter.update()
    with Counter(2, "dehazed", shown=False) as counter:
        clock[0] = 99.0
        counter.update()
    assert capsys.readouterr().err == ""


def test_a_single_long_file_shows_its_progress(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    with Bars(True, "a\nb.mp4") as bars:
        for number in range(1, 4):
            clock[0] = 8.0 * number
            bars.show("frames", number, 900)
    assert capsys.readouterr().err == "visionzoo: a\\nb.mp4: frames: 3 of 900, about 2 h 0 min left\n"


def test_a_file_that_is_resumed_is_not_taken_for_fast(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    with Bars(True, "big.tif") as bars:
        for number in range(900, 903):
            clock[0] = 8.0 * (number - 899)
            bars.show("tiles", number, 1000)
    assert capsys.readouterr().err == "visionzoo: big.tif: tiles: 902 of 1000, about 13 min left\n"


@pytest.mark.parametrize(
    ("seconds", "message"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (5460, "1 h 31 min"), (86400 * 10, "10 days")],
)
def test_durations_fit_their_length(seconds: float, message: str) -> None:
    assert progress.duration(seconds) == message
