"""Go there and come back: plans that are followed by what an inverse dynamics network reads off generated frames.

python -m benchmarks.slowfastvgen_planning                        # drawn and repeated frames: what reading alone costs
python -m benchmarks.slowfastvgen_planning --generate             # and the bundled model, with and without fast learning
python -m benchmarks.slowfastvgen_planning --generate FOLDER --tasks 5 --steps 10

Every task is a list of sub-goals of the toy world and the way back, in a world of the test split. A generator makes a chunk for each
sub-goal; the actions that its frames show are taken; and the distance of the camera from where it should be, and at the end from
where it began, is measured in frames of "go left" (or of any other action: each counts by its change per frame).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.benchmark import Grid
from visionzoo.data.toy_world import ToyWorld
from visionzoo.devices import environment
from visionzoo.models.slowfastvgen import Plan, drawn_world, follow_goals
from visionzoo.models.slowfastvgen.planning import Generator

from .revisits import ROWS, walks

PUBLISHED = (
    "Published (Table 2; other worlds, other units), distance without TEMP-LORA, without the slow-fast loop, full: move cubes and put "
    "them back, 0.080, 0.055, 0.013; retrace a path in Minecraft, 6.31, 2.23, 1.51."
)


@dataclass(frozen=True)
class Task:
    """Sub-goals that come back, the image to begin with, and the world with its take."""

    number: int
    first: NDArray[np.uint8]
    goals: tuple[str, ...]
    world: ToyWorld
    start: float


def tasks(chunks: int, frames: int, size: int) -> Iterator[Task]:
    """Those of the study of revisits: paths that go far and return."""
    for walk in walks(chunks, frames, size):
        world = ToyWorld.create(walk.number, "test", places=3, characters=0)
        yield Task(walk.number, walk.clip[0].rgb, walk.actions, world, float(walk.clip.cameras[0, 0]))


def repeated(frames: int) -> Generator:
    """A generator that repeats its first image."""
    return lambda first, goals: [np.repeat(first[None], frames, axis=0)] * len(goals)


def generated(pipe: Any, number: int, row: str, options: dict[str, Any]) -> Generator:
    """A `SlowFastVGenPipeline` as a generator."""
    from visionzoo.pipelines.generate import GenerateOptions

    chosen = GenerateOptions(seed=number, **{**options, **ROWS[row]})

    def generate(first: NDArray[np.uint8], goals: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
        for chunk in pipe.stream(first, list(goals), chosen, progress=lambda *_: None):
            yield np.stack(chunk.frames)

    return generate


def table(
    ways: dict[str, Callable[[Task], Generator]], chosen: Sequence[Task], network: Any, frames: int, command: str
) -> Grid:
    """A row for each way to generate."""
    rows = []
    for name, way in ways.items():
        plans: list[Plan] = [follow_goals(way(task), network, task.first, task.goals) for task in chosen]
        turn = len(chosen[0].goals) // 2
        rows.append(
            (
                name,
                f"{np.mean([plan.accuracy for plan in plans]):.1%}",
                f"{np.mean([plan.distances[turn] for plan in plans]):.2f}",
                f"{np.mean([plan.distances[1:] for plan in plans]):.2f}",
                f"{np.mean([plan.from_start for plan in plans]):.2f}",
            )
        )
    farthest = np.mean([follow_goals(repeated(frames), network, task.first, task.goals).farthest for task in chosen])
    return Grid(
        f"Go there and come back: {len(chosen)} tasks of {len(chosen[0].goals)} sub-goals of {frames} frames",
        (
            "",
            "actions read as the sub-goal",
            "distance at the turn",
            "distance after each sub-goal",
            "from the start, at the end",
        ),
        rows,
        environment(),
        command,
        (
            f"Distances are in frames of an action; on average, the turn is {farthest:.1f} away from the start.",
            PUBLISHED,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--generate", nargs="?", const="", metavar="FOLDER", help="also generate, with this or the bundled pipeline"
    )
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=8, help="sub-goals of a task, there and back")
    parser.add_argument("--frames", type=int, default=8, help="of each chunk")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if omitted")
    args = parser.parse_args()
    if args.chunks < 2 or args.chunks % 2 or args.tasks < 1 or args.frames < 1:
        parser.error("--chunks must be even and at least 2, --tasks and --frames at least 1")
    from visionzoo import create_model

    network = create_model("toy_actions", pretrained=True).eval()
    ways: dict[str, Callable[[Task], Generator]] = {
        "true frames": lambda task: drawn_world(task.world, frames=args.frames, start=task.start),
        "first image, repeated": lambda _: repeated(args.frames),
    }
    size, command = 96, "python -m benchmarks.slowfastvgen_planning"
    if args.generate is not None:
        from visionzoo.pipelines.generate import SlowFastVGenPipeline

        pipe = SlowFastVGenPipeline.create(checkpoint=Path(args.generate) if args.generate else None)
        size, command = pipe.frame_size[0], f"{command} --generate"
        options = {"steps": args.steps, "frames_per_chunk": args.frames}
        for row, name in (("off", "generated, without fast learning"), ("local", "generated, with fast learning")):
            ways[name] = partial(lambda task, row: generated(pipe, task.number, row, options), row=row)
    chosen = list(islice(tasks(args.chunks, args.frames, size), args.tasks))
    print(table(ways, chosen, network, args.frames, command).to_markdown())


if __name__ == "__main__":
    main()
