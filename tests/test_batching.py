"""Reading ahead keeps order and is bounded; a device that runs out of memory gets smaller batches, with each item once."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
import torch

from visionzoo.batching import Batches, ahead
from visionzoo.errors import InputError


def test_results_are_in_order_and_input_errors_are_passed_on() -> None:
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


def test_reads_a_bounded_number_ahead_and_stops_at_the_end() -> None:
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


class Device:
    """A fake device with memory for items of total cost `room`; `tried` records the sizes of the batches."""

    def __init__(self, room: int, cost: int = 1):
        self.room, self.cost, self.tried = room, cost, list[int]()

    def __call__(self, part: list[int]) -> list[int]:
        self.tried.append(len(part))
        if len(part) * self.cost > self.room:
            raise torch.OutOfMemoryError("no room")
        return [10 * item for item in part]


@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_batches_are_halved_until_they_fit_and_stay_small(room: int) -> None:
    batches, device = Batches(torch.device("cpu"), 8), Device(room)
    with pytest.warns(UserWarning, match="cpu is out of memory; continuing with batches of 4") as caught:
        found = [batches.run(device, range(start, start + 8)) for start in (0, 8)]
    assert len(caught) == 1
    assert [item for parts in found for part in parts for item in part] == [10 * item for item in range(16)]
    fits = 1 << (room.bit_length() - 1)
    assert batches.size == fits
    assert [tried for tried in device.tried if tried > room] == [size for size in (8, 4, 2) if size > room], (
        "tried once"
    )


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    batches = Batches(torch.device("cpu"), 2)
    with pytest.raises(torch.OutOfMemoryError, match="no room"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches.run(Device(0), range(2))
    assert batches.run(Device(0), []) == []


def test_a_budget_makes_batches_of_large_items_smaller() -> None:
    batches = Batches(torch.device("cpu"), 4, budget=100)
    assert [batches.at_once(cost) for cost in (1, 25, 26, 60, 1000)] == [4, 4, 3, 1, 1]
    device = Device(40, cost=20)
    with pytest.warns(UserWarning, match="batches of 2"):
        batches.run(device, range(4), cost=20)
    assert device.tried == [4, 2, 2]
    assert [batches.at_once(cost) for cost in (1, 20, 30)] == [2, 2, 1], "for items of other sizes too"
