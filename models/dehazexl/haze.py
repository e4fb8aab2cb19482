"""Haze for clear images: the scattering model I = J t + A (1 - t) in linear light, over a field of any size.

Haze is a function of absolute pixel coordinates: any window of an image of any size gets its own part of the same field,
which is never in memory as a whole. The colours of transmission follow the law that RS-Haze fitted to Landsat's bands (Song et al.,
"Vision Transformers for Single Image Dehazing", arXiv 2204.03883): thin haze is bluish, thick haze grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError

Level = Literal["light", "moderate", "dense", "very dense"]
LEVELS: dict[Level, tuple[float, float]] = {
    "light": (0.1, 0.3),
    "moderate": (0.3, 0.5),
    "dense": (0.5, 0.7),
    "very dense": (0.7, 0.95),
}
"""Range of the share of blue light that haze removes where it is densest."""

Array = NDArray[np.float32]
_WAVELENGTHS = np.array([0.655, 0.5625, 0.4825], np.float32)  # micrometres: red, green, blue
_REFERENCE = 0.443
_AIRLIGHT = np.array([0.515, 0.489, 0.456], np.float32)  # RS-Haze: mean over 77 hazy scenes, linear reflectance
GAMMA = 2.2


def lattice_noise(seed: int, top: int, left: int, height: int, width: int, cell: float) -> Array:
    """Gradient noise (Perlin 1985) on a lattice of `cell` pixels: (height, width), about -0.7 to 0.7.

    The gradients are hashes of the seed and of the lattice's points, so a window depends on its own coordinates alone.
    """
    y, x = (np.arange(height) + top) / cell, (np.arange(width) + left) / cell
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    v, u = (y - row).astype(np.float32)[:, None], (x - column).astype(np.float32)[None]
    rows, columns = np.arange(row[0], row[-1] + 2), np.arange(column[0], column[-1] + 2)
    angle = _hash(rows[:, None], columns[None], seed) * np.float32(2 * np.pi)
    gy, gx = np.sin(angle), np.cos(angle)
    row, column = row - row[0], column - column[0]

    def corner(down: int, right: int) -> Array:
        place = np.ix_(row + down, column + right)
        return gy[place] * (v - down) + gx[place] * (u - right)

    fv, fu = v**3 * (v * (6 * v - 15) + 10), u**3 * (u * (6 * u - 15) + 10)
    upper = corner(0, 0) + fu * (corner(0, 1) - corner(0, 0))
    lower = corner(1, 0) + fu * (corner(1, 1) - corner(1, 0))
    return (upper + fv * (lower - upper)).astype(np.float32, copy=False)


def _hash(row: NDArray[np.int64], column: NDArray[np.int64], seed: int) -> Array:
    """Uniform in [0, 1) for every point of the lattice (the mixing of splitmix64)."""
    with np.errstate(over="ignore"):
        z = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64) * np.uint64(
            0xC2B2AE3D27D4EB4F
        )
        z = z + np.uint64(seed % 2**64) * np.uint64(0x165667B19E3779F9)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def band_transmission(blue: Array) -> Array:
    """Transmission at 0.443 micrometres (h, w) -> transmission of red, green and blue (h, w, 3)."""
    d = 1 - blue
    exponent = np.clip(6.537 + d * (-27.465 + d * (41.224 - 21.547 * d)), 0, 4)[..., None]
    return np.exp(np.log(np.maximum(blue, 1e-4))[..., None] * (_REFERENCE / _WAVELENGTHS) ** exponent)


@dataclass(frozen=True)
class Haze:
    """The parameters of a haze field. `draw_haze` draws random ones.

    Attributes:
        seed: random seed for the noise.
        density: share of light at 0.443 micrometres that it removes where it is densest, below 1.
        base: share of that density that is everywhere, in [0, 1]; the rest forms lumps.
        cell: size of the largest lumps in pixels.
        persistence: strength of each finer octave of noise relative to the one before.
        contrast: how sharply lumps end.
        slope: relative change of density over 1000 pixels downwards and to the right.
        airlight: linear (red, green, blue) of the light that the haze scatters.
    """

    seed: int
    density: float
    base: float
    cell: float
    persistence: float
    contrast: float
    slope: tuple[float, float]
    airlight: tuple[float, float, float]

    def pattern(self, top: int, left: int, height: int, width: int) -> Array:
        """Amount of haze, (height, width) in [0, 1]."""
        total, reach, cell, octave = np.zeros((height, width), np.float32), 0.0, self.cell, 0
        while cell >= 4 and octave < 7:
            weight = self.persistence**octave
            total += np.float32(weight) * lattice_noise(self.seed + octave, top, left, height, width, cell)
            reach, cell, octave = reach + 0.5 * weight, cell / 2, octave + 1
        lumps = 0.5 + 0.5 * np.tanh(self.contrast * total / max(reach, 1e-6))
        ramp = self.slope[0] * (np.arange(height) + top)[:, None] + self.slope[1] * (np.arange(width) + left)[None]
        field = self.base + (1 - self.base) * lumps + ramp.astype(np.float32) / 1000
        return np.clip(field, 0, 1).astype(np.float32)

    def transmission(self, top: int, left: int, height: int, width: int, distance: Array | None = None) -> Array:
        """Transmission, (height, width, 3) in (0, 1].

        Args:
            distance: (height, width), amount of haze along the line of sight relative to that of `density`; 1 if None.
        """
        blue = 1 - np.float32(self.density) * self.pattern(top, left, height, width)
        if distance is not None:
            blue = blue ** distance.astype(np.float32)
        return band_transmission(blue)

    def __call__(
        self, clear: NDArray[np.uint8], *, top: int = 0, left: int = 0, distance: Array | None = None
    ) -> Array:
        """Add this haze to a clear image, or to a window of one.

        Args:
            clear: (h, w, 3) uint8 sRGB.
            top, left: position of the window in the image.
            distance: see `transmission`.

        Returns:
            (h, w, 3) float32 in [0, 1], not rounded.
        """
        t = self.transmission(top, left, clear.shape[0], clear.shape[1], distance)
        light = (clear.astype(np.float32) / 255) ** np.float32(GAMMA)
        hazy = light * t + np.array(self.airlight, np.float32) * (1 - t)
        return (np.clip(hazy, 0, 1) ** np.float32(1 / GAMMA)).astype(np.float32, copy=False)


def draw_haze(rng: np.random.Generator, level: Level | None = None, *, side: int = 2048) -> Haze:
    """Draw random haze.

    Args:
        level: density of the haze; random if None.
        side: side of the images in pixels; lumps have an eighth to four times that size.
    """
    if level is not None and level not in LEVELS:
        raise InputError(f"level must be one of {', '.join(map(repr, LEVELS))}, got {level!r}")
    low, high = LEVELS[level] if level else LEVELS[list(LEVELS)[rng.integers(len(LEVELS))]]
    brightness, whiteness = rng.uniform(0.75, 1.9), rng.uniform(0, 1)
    grey = _AIRLIGHT * (1 - whiteness) + _AIRLIGHT.mean() * whiteness
    airlight = np.clip(grey * brightness * rng.uniform(0.95, 1.05, 3), 0.2, 1.0)
    angle, steepness = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6) * 1000 / side
    return Haze(
        seed=int(rng.integers(2**62)),
        density=rng.uniform(low, high),
        base=rng.beta(0.8, 0.8),
        cell=float(side * np.exp(rng.uniform(np.log(0.125), np.log(4)))),
        persistence=rng.uniform(0.3, 0.65),
        contrast=rng.uniform(1, 5),
        slope=(steepness * np.sin(angle), steepness * np.cos(angle)),
        airlight=(float(airlight[0]), float(airlight[1]), float(airlight[2])),
    )


def draw_distance(rng: np.random.Generator, height: int, width: int) -> Array:
    """Distances in an oblique or level view over ground, relative to a middle distance: (height, width), 0.1 to 4.

    Distance grows towards a horizon in the upper part, as 1 / (row - horizon); above the horizon it is farthest.
    """
    horizon = rng.uniform(-1.5, 0.4)
    row = np.linspace(0, 1, height, dtype=np.float32)[:, None] + rng.uniform(-0.2, 0.2) * np.linspace(
        -0.5, 0.5, width, dtype=np.float32
    )
    below = np.maximum(row - horizon, 1e-3)
    return np.clip((0.75 - min(horizon, 0.6)) / below, 0.1, 4).astype(np.float32)
