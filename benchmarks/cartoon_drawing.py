"""Drawing the toy world with all truths, beside OpenCV's part of the work alone.

    visionzoo bench toy-world

The peer repeats the very calls of OpenCV that draw the same frames, with their arguments at hand: fills, morphology, averaging,
look-up tables. Everything else is missing in it: geometry, motion, visibility, captions. One thread, 128 x 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

from visionzoo.benchmark import Contestant, Report, Table, compare
from visionzoo.data.toy_world import Clip, ToyWorld, drawing

DRAWING = (
    *("fillConvexPoly", "fillPoly", "morphologyEx", "compare", "dilate", "subtract", "LUT", "applyColorMap", "resize"),
    "bitwise_not",
)
FRAMES = 64
SEEDS = 3


def benchmark(rounds: int = 5, command: str = "") -> Report:
    """A table for one character and one for three."""
    import cv2

    cv2.setNumThreads(1)
    return Report([_table(characters, rounds, command) for characters in (1, 3)])


def _table(characters: int, rounds: int, command: str) -> Table:
    clips = [ToyWorld.create(seed, "test", characters=characters).film(FRAMES) for seed in range(SEEDS)]
    calls = _recorded(clips)

    def replay() -> int:
        for function, arguments, more in calls:
            function(*arguments, **more)
        return len(calls)

    def draw() -> int:
        return sum(1 for clip in clips for _ in clip)

    frames = len(clips) * FRAMES
    table = compare(
        f"The toy world: {frames} frames of 128 x 128 with everything on, {characters} character{'s' * (characters > 1)}",
        [Contestant("OpenCV's calls alone", replay), Contestant("visionzoo", draw)],
        rounds=rounds,
        command=command,
        items=frames,
        unit="frames",
        judge=lambda outputs: [f"{outputs[0] / frames:.1f} calls per frame", "all truths"],
    )
    peer, ours = table.rows
    return replace(
        table,
        notes=[f"visionzoo takes {ours.cpu_seconds / peer.cpu_seconds:.2f} times the CPU time of the calls alone."],
    )


def _recorded(clips: list[Clip]) -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    """The calls of OpenCV that drawing the clips makes, with their arguments."""
    calls = []
    real = drawing.opencv()

    class Recorder:
        """Calls a module's functions and remembers how they were called."""

        def __init__(self, module: Any):
            self._module = module

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._module, name)
            if name not in DRAWING:
                return found

            def call(*arguments: Any, **more: Any) -> Any:
                calls.append((found, arguments, more))
                return found(*arguments, **more)

            return call

    with mock.patch.object(drawing, "opencv", return_value=Recorder(real)):
        for clip in clips:
            for _ in clip:
                pass
    return calls
