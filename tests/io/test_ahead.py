"""Work in threads ahead of its consumer: in order, bounded, and over when the consumer stops."""

from __future__ import annotations

import threading
import time

import pytest

from visionzoo.errors import InputError
from visionzoo.io.ahead import ahead


def test_results_are_in_order_and_input_errors_handed_on() -> None:
    def work(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        if item == 4:
            raise InputError("four")
        return item * item

    done = list(ahead(work, range(9), workers=3, depth=4))
    assert [item for item, _ in done] == list(range(9))
    assert [result for item, result in done if item != 4] == [i * i for i in range(9) if i != 4]
    assert str(done[4][1]) == "four"


def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 1], workers=1, depth=2))


def test_a_bounded_number_ahead_and_nothing_after() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item

    results = ahead(work, iter(range(10**9)), workers=2, depth=5)
    assert next(results) == (0, 0)
    time.sleep(0.05)
    assert len(started) <= 6
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    before = len(started)
    time.sleep(0.02)
    assert len(started) == before
