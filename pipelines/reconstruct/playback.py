"""What a viewer shows and when: the course of time, and how large an image can be rendered while something moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .scene import Show

Mode = Literal["render", "splats"]
"""render: images come from the server; splats: Gaussians are sent to the browser, which draws them."""

SPEEDS = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "1": 1.0, "2": 2.0}


@dataclass
class Playback:
    """The time of a scene, which can play.

    Attributes:
        seconds: how long the scene plays at speed 1.
        time: in [0, 1].
        playing: whether it advances.
        loop: whether it starts again at the end.
        speed: factor.
    """

    seconds: float = 5.0
    time: float = 0.0
    playing: bool = False
    loop: bool = True
    speed: float = 1.0

    def seek(self, time: float) -> None:
        """Stop at `time`; anything that is not a time is ignored."""
        if math.isfinite(time):
            self.time, self.playing = min(max(float(time), 0.0), 1.0), False

    def toggle(self) -> None:
        """Play or stop; a scene that has reached its end plays from its start."""
        self.playing = not self.playing
        if self.playing and self.time >= 1:
            self.time = 0.0

    def advance(self, passed_s: float) -> None:
        """Let `passed_s` seconds pass."""
        if not self.playing:
            return
        time = self.time + passed_s * self.speed / self.seconds
        if time < 1:
            self.time = time
        elif self.loop:
            self.time = time % 1
        else:
            self.time, self.playing = 1.0, False


@dataclass
class AdaptiveSize:
    """How large images are rendered while the camera or the scene moves, so that each takes about `target_s`.

    Attributes:
        target_s: seconds that an image may take.
        share: of the full width and height.
    """

    target_s: float = 0.1
    share: float = 0.5

    SMALLEST = 0.2

    def size(self, width: int, height: int, most: int, *, moving: bool) -> tuple[int, int]:
        """Width and height in pixels of an image for a window of this size, at most `most` on the longer side."""
        scale = min(1.0, most / max(width, height)) * (self.share if moving else 1.0)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def took(self, seconds: float) -> None:
        """An image of this share took `seconds`."""
        factor = math.sqrt(self.target_s / max(seconds, 1e-4))
        self.share = min(max(self.share * min(max(factor, 0.6), 1.3), self.SMALLEST), 1.0)


@dataclass
class ViewState:
    """Everything that the controls of a viewer set.

    Attributes:
        mode: where images come from.
        show: what they show, if the server renders them.
        follow: whether colours, which depend on the view, are those for each visitor's camera, if the browser draws; otherwise they
            are those for the mean training camera.
        most_side: longer side of rendered images in pixels.
    """

    mode: Mode = "splats"
    show: Show = "color"
    follow: bool = True
    most_side: int = 1024
    playback: Playback = field(default_factory=Playback)


__all__ = ["SPEEDS", "AdaptiveSize", "Mode", "Playback", "ViewState"]
