"""Planning with a video generator, on the toy world: go there and come back (section 3.4 of arXiv 2410.23277).

Every sub-goal is a text, such as "go left", for which the generator makes one chunk of frames. The inverse dynamics network reads an
action off every two consecutive frames, and the camera of the toy world takes it: where the camera arrives tells how well the
generated frames follow the sub-goals. The paper has a language model that splits a task into sub-goals; here they are given.

`drawn_world` is a generator without errors: what remains are the errors of the inverse dynamics network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.data.toy_world import ToyWorld
from visionzoo.data.toy_world.camera import STEPS, check_actions, follow, returning
from visionzoo.errors import InputError

from .inverse_dynamics import InverseDynamics, read_actions

Generator = Callable[[NDArray[np.uint8], Sequence[str]], Iterable[NDArray[np.uint8]]]
"""(first image (H, W, 3) uint8, sub-goals) -> for every sub-goal its new frames (F, H, W, 3) uint8, in order."""


@dataclass(frozen=True)
class Plan:
    """What was read off generated frames, and where the camera went by it; N sub-goals of F frames each.

    Attributes:
        goals: the sub-goals.
        actions: for every sub-goal the F actions that were read.
        cameras: (1 + N F, 3) states of the camera that took these actions: x, depth and zoom, at the beginning and after each.
        wanted: the same for a camera that takes the sub-goals themselves.
    """

    goals: tuple[str, ...]
    actions: tuple[tuple[str, ...], ...]
    cameras: NDArray[np.float64]
    wanted: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """Share of the actions that are their sub-goal."""
        right = [action == goal for goal, read in zip(self.goals, self.actions, strict=True) for action in read]
        return sum(right) / len(right)

    @property
    def distances(self) -> NDArray[np.float64]:
        """(1 + N,): distance of the camera from where it should be, at the beginning and after every sub-goal, in frames of "go left".

        The distance is Euclidean over x, depth and the logarithm of the zoom, each in units of its change per frame.
        """
        every = (len(self.cameras) - 1) // len(self.goals)
        return _distance(self.cameras[::every], self.wanted[::every])

    @property
    def from_start(self) -> float:
        """Distance of the camera from where it began, at the end, in the unit of `distances`."""
        return float(_distance(self.cameras[-1:], self.cameras[:1])[0])

    @property
    def farthest(self) -> float:
        """The largest distance from the beginning on the wanted path: what a camera would miss that never comes back."""
        return float(_distance(self.wanted, self.wanted[:1]).max())

    def as_dict(self) -> dict[str, Any]:
        return {
            "goals": list(self.goals),
            "actions": [list(read) for read in self.actions],
            "accuracy": self.accuracy,
            "distances": self.distances.tolist(),
            "from_start": self.from_start,
            "farthest": self.farthest,
        }


def there_and_back(goals: Sequence[str]) -> list[str]:
    """The sub-goals, then the opposite ones in reverse order.

    Raises:
        InputError: a goal is no action of the toy world, or there are none.
    """
    check_actions(goals)
    if not goals:
        raise InputError("there are no sub-goals; give some, such as ['go left', 'go in']")
    return returning(goals)


def follow_goals(generate: Generator, network: InverseDynamics, first: NDArray[np.uint8], goals: Sequence[str]) -> Plan:
    """Generate a chunk for every sub-goal and take the actions that are read off its frames.

    The camera of the returned plan moves without borders, except that it cannot go behind its first depth and zoom, as in the toy
    world.

    Args:
        generate: e.g. `drawn_world(world)`, or a function around `SlowFastVGenPipeline.stream`.
        network: reads the actions, in eval mode.
        first: the image to begin with, (H, W, 3) uint8.
        goals: of `visionzoo.data.toy_world.ACTIONS`.

    Raises:
        InputError: an unknown goal, a generator that makes fewer or more chunks than goals, or chunks of unequal lengths.
    """
    check_actions(goals)
    if not goals:
        raise InputError("there are no sub-goals; give some, such as ['go left', 'go right']")
    last = np.asarray(first)
    read: list[tuple[str, ...]] = []
    for chunk in generate(first, list(goals)):
        frames = np.asarray(chunk)
        if frames.ndim != 4 or not len(frames):
            raise InputError(f"the generator made a chunk of shape {frames.shape}, expected frames (F, H, W, 3)")
        if read and len(frames) != len(read[0]):
            raise InputError(
                f"chunk {len(read)} has {len(frames)} frames and chunk 0 {len(read[0])}; use one number of frames"
            )
        read.append(tuple(read_actions(network, [last, *frames])))
        last = frames[-1]
    if len(read) != len(goals):
        raise InputError(f"the generator made {len(read)} chunks for {len(goals)} sub-goals; it must make one for each")
    taken = [action for actions in read for action in actions]
    wanted = [goal for goal in goals for _ in read[0]]
    return Plan(tuple(goals), tuple(read), _cameras(taken), _cameras(wanted))


def drawn_world(
    world: ToyWorld, *, frames: int = 8, start: float | None = None, take: int = 0, speed: float = 1.0
) -> Generator:
    """A generator that draws the true frames of a world.

    Args:
        world: its first image is that of `world.film` with the same start and take.
        frames: F, of each chunk.
        start: x of the camera at the first frame; None for a random one.
        take, speed: see `ToyWorld.film`.
    """

    def generate(first: NDArray[np.uint8], goals: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
        height, width = first.shape[:2]
        clip = world.film(
            1 + frames * len(goals),
            size=(height, width),
            actions=goals,
            hold=frames,
            start=start,
            take=take,
            speed=speed,
        )
        for chunk in range(len(goals)):
            begin = 1 + chunk * frames
            yield np.stack([frame.rgb for frame in clip.frames(begin, begin + frames, motion=False)])

    return generate


def _cameras(actions: Sequence[str]) -> NDArray[np.float64]:
    """(1 + T, 3) states of a camera that takes an action per frame."""
    path = follow(actions, 1, len(actions), 0.0, (-np.inf, np.inf))
    return np.stack([path.x, path.z, path.zoom], axis=1)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    units = np.array([STEPS["go"], STEPS["in"], np.log(STEPS["zoom"])])
    states = [np.concatenate([each[:, :2], np.log(each[:, 2:])], axis=1) / units for each in (one, other)]
    return np.linalg.norm(states[0] - states[1], axis=1)


__all__ = ["Generator", "Plan", "drawn_world", "follow_goals", "there_and_back"]
