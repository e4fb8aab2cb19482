"""Images of rendered heads: skin, hair, eyes and clothes drawn by formulas over the mesh, lit as in a studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from .heads import PARTS, HeadMesh, Shape
from .zbuffer import Hits, rasterize, vertex_normals

Array = NDArray[np.floating]
Colour = tuple[float, float, float]

DISTANCE = 13.0
"""Distance of the camera, in decimetres."""
BODY, EYE, LASHES, TEETH, TONGUE, HAIR = range(len(PARTS))


@dataclass(frozen=True)
class Look:
    """How a head is drawn; colours are linear RGB.

    Attributes:
        brows: how dark they are.
        stubble, freckles, make_up: from 0 to 1.
        length: where the hair ends: 7 is at the ears, 5 at the shoulders; None is short hair, close to the head.
        thickness: thickness of the hair on the head, in decimetres.
        hairline: how much higher the forehead is than usual, in decimetres.
        parting: how far the hair parts to the left, from -0.4 to 0.4.
        light: from where the main light comes, in degrees to the head's left.
        warm: colour of the light, from -1 (blue) to 1 (orange).
    """

    skin: Colour = (0.62, 0.36, 0.26)
    lips: Colour = (0.5, 0.17, 0.16)
    hair: Colour = (0.06, 0.03, 0.015)
    eyes: Colour = (0.10, 0.06, 0.03)
    shirt: Colour = (0.1, 0.15, 0.3)
    background: tuple[Colour, Colour] = ((0.35, 0.38, 0.4), (0.12, 0.14, 0.17))
    brows: float = 0.8
    stubble: float = 0.0
    freckles: float = 0.0
    make_up: float = 0.0
    length: float | None = None
    thickness: float = 0.09
    hairline: float = 0.0
    parting: float = 0.0
    collar: float = 0.0
    light: float = 35.0
    warm: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Pose:
    """A moment of a performance: rotation of the head in degrees, its position, and weights of facial movements."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    units: Mapping[str, float] = field(default_factory=dict)


class Portrait:
    """A head that can be drawn in any pose."""

    def __init__(self, mesh: HeadMesh, shape: Shape, look: Look):
        self.mesh, self.look = mesh, look
        base = mesh.shaped(shape)
        self.points = mesh.points(base)
        self.eyes = (mesh.joint("joint-l-eye", base) + mesh.joint("joint-r-eye", base)) / 2
        self.pivot = mesh.joint("joint-head", base) * np.array([0, 1, 1]) - np.array([0, 0.25, 0])
        self.masks = {name: mesh.mask(name) for name in ("lips", "eyelids", "inside-mouth", "ears")}
        rng = np.random.default_rng(look.seed)
        self._lattice = rng.uniform(-1, 1, (24, 24, 24)).astype(np.float32)
        self._blobs = rng.uniform(0, 1, (6, 4))
        body = np.unique(mesh.triangles[mesh.part == BODY])
        thick = _smooth(-0.05, 0.3, self._hairline(mesh.rest[body])) * look.thickness
        self.points[body] += vertex_normals(self.points, mesh.triangles)[body] * thick[:, None]

    def frame(self, pose: Pose, size: int, view: float = 3.7) -> NDArray[np.uint8]:
        """(size, size, 3) uint8; `view` is the side of the visible square at the face, in decimetres."""
        large = 2 * size
        points = self._posed(pose).astype(np.float32)
        normals = vertex_normals(points, self.mesh.triangles).astype(np.float32)
        seen = points - self.eyes - np.array([0, -0.35, 0])
        away = DISTANCE - seen[:, 2]
        scale = large / view * DISTANCE / away
        screen = np.stack([large / 2 + scale * seen[:, 0], large / 2 - scale * seen[:, 1], away], 1).astype(np.float32)
        image = self._background(large).reshape(-1, 3).astype(np.float32)
        depth = np.full(large * large, np.inf, np.float32)
        for parts in ((BODY, EYE, TEETH, TONGUE), (LASHES,), (HAIR,)):
            if parts == (HAIR,) and self.look.length is None:
                continue
            chosen = np.flatnonzero(np.isin(self.mesh.part, parts))
            both_sides = np.isin(self.mesh.part[chosen], (LASHES, HAIR))
            hits = rasterize(screen, self.mesh.triangles[chosen], large, large, both_sides=both_sides)
            hits = Hits(hits.pixel, hits.depth, chosen[hits.triangle], hits.weights)
            shade = self._occlusion(hits, large) if BODY in parts else np.ones(len(hits.pixel), np.float32)
            colour, alpha = self._shade(hits, points, normals, shade)
            alpha = np.where(hits.depth < depth[hits.pixel] + 0.02, alpha, 0)[:, None]
            image[hits.pixel] = image[hits.pixel] * (1 - alpha) + colour * alpha
            if parts != (LASHES,):
                depth[hits.pixel] = np.where(
                    alpha[:, 0] > 0.5, np.minimum(hits.depth, depth[hits.pixel]), depth[hits.pixel]
                )
        small = image.reshape(size, 2, size, 2, 3).mean((1, 3))
        small = small / (1 + 0.18 * small)
        return (np.clip(small, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)

    def _posed(self, pose: Pose) -> Array:
        points = self.points.copy()
        for name, weight in pose.units.items():
            points += weight * self.mesh.units[name]
        follows = np.clip(self.mesh.bones[:, :1] + 0.5 * self.mesh.bones[:, 1:], 0, 1)
        # each vertex turns by its share of the angles about the top of the neck
        angles = np.radians([pose.yaw, pose.pitch, pose.roll]) * follows
        turned = points - self.pivot
        for angle, (a, b) in zip(angles.T, ((2, 0), (1, 2), (0, 1)), strict=True):
            one, two = turned[:, a].copy(), turned[:, b].copy()
            turned[:, a], turned[:, b] = (
                one * np.cos(angle) - two * np.sin(angle),
                one * np.sin(angle) + two * np.cos(angle),
            )
        return turned + self.pivot + np.asarray(pose.shift) * (0.3 + 0.7 * follows)

    def _noise(self, places: Array, frequency: float | tuple[float, float, float]) -> Array:
        scaled = (places * np.asarray(frequency, np.float32)).T
        return map_coordinates(self._lattice, scaled, np.float32, order=1, mode="grid-wrap")

    def _hairline(self, rest: Array) -> Array:
        """Height of points of the skin above the hairline."""
        x, y, z = rest.T
        around = np.degrees(np.arctan2(np.abs(x - 0.3 * self.look.parting * (y > 7.6)), z - 0.05))
        return (
            y
            - np.interp(around, [0, 25, 38, 50, 60, 70, 80, 100, 180], [8.0, 8.0, 7.93, 7.8, 7.5, 7.15, 6.98, 6.9, 6.4])
            - self.look.hairline
        )

    def _background(self, size: int) -> Array:
        y, x = np.mgrid[:size, :size] / size
        above, below = (np.asarray(colour) for colour in self.look.background)
        mix = np.clip(y + 0.15 * (x - 0.5), 0, 1)
        for bx, by, radius, strength in self._blobs:
            mix = mix + (strength - 0.5) * np.exp(-((x - bx) ** 2 + (y - by) ** 2) / (0.03 + 0.05 * radius))
        mix = np.clip(mix, 0, 1)[..., None]
        return above * (1 - mix) + below * mix

    def _shade(self, hits: Hits, points: Array, normals: Array, shade: Array) -> tuple[Array, Array]:
        """Colours (N, 3) and opacities (N,) of pixels."""
        mesh = self.mesh
        rest, normal = hits.mix(mesh.rest, mesh.triangles), hits.mix(normals, mesh.triangles)
        place = hits.mix(points, mesh.triangles)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        sight = self.eyes + np.array([0, -0.35, DISTANCE]) - place
        sight /= np.linalg.norm(sight, axis=1, keepdims=True)
        part = mesh.part[hits.triangle]
        uv = hits.mix_corners(mesh.uv[hits.triangle])
        albedo = np.zeros((len(rest), 3), np.float32)
        gloss, alpha, scatter = (np.full(len(rest), value, np.float32) for value in (0, 1, 0))
        for number, paint in ((BODY, self._skin), (EYE, self._eye), (LASHES, self._lash), (HAIR, self._hair)):
            if (part == number).any():
                m = part == number
                albedo[m], gloss[m], alpha[m], scatter[m] = paint(rest[m], uv[m])
        albedo[part == TEETH], gloss[part == TEETH] = (0.62, 0.56, 0.47), 0.25
        albedo[part == TONGUE], gloss[part == TONGUE] = (0.42, 0.12, 0.12), 0.15
        normal = np.where((normal * sight).sum(1, keepdims=True) < 0, -normal, normal)
        inside = np.isin(part, (TEETH, TONGUE))
        shade[inside] = shade[inside] * np.clip((rest[inside, 2] - 0.75) / 0.7, 0.08, 0.75)
        return self._light(albedo, normal, sight.astype(np.float32), gloss, scatter, shade), alpha

    def _light(self, albedo: Array, normal: Array, sight: Array, gloss: Array, scatter: Array, shade: Array) -> Array:
        warm, angle = self.look.warm, np.radians(self.look.light)
        tint = np.array([1 + 0.18 * warm, 1.0, 1 - 0.22 * warm])
        lights = [
            ((np.sin(angle) * 0.8, 0.55, np.cos(angle) * 0.8), 1.15 * tint),
            ((-np.sin(angle), 0.1, 0.6), 0.38 * np.array([0.92, 1.0, 1.1])),
            ((-0.7 * np.sign(self.look.light), 0.5, -0.75), 0.5 * np.ones(3)),
        ]
        up = 0.5 + 0.5 * normal[:, 1:2]
        total = albedo * (0.30 * up + 0.13 * (1 - up)) * shade[:, None]
        for direction, strength in lights:
            towards = (np.asarray(direction) / np.linalg.norm(direction)).astype(np.float32)
            facing = normal @ towards
            wrap = scatter[:, None] * np.array([0.45, 0.2, 0.12], np.float32)
            diffuse = np.clip((facing[:, None] + wrap) / (1 + wrap) ** 2, 0, None)
            half = sight + towards
            half /= np.linalg.norm(half, axis=1, keepdims=True)
            match = np.clip((normal * half).sum(1), 0, 1)
            shine = gloss * (0.4 * match**16 * (gloss < 0.3) + 2.2 * gloss * match**150) * (facing > 0)
            total += (albedo * diffuse + shine[:, None]) * strength.astype(np.float32) * shade[:, None] ** 0.7
        return total

    def _occlusion(self, hits: Hits, size: int) -> Array:
        """Ambient occlusion: how much light reaches a pixel, depending on how far it lies behind its surroundings."""
        depth = np.full(size * size, DISTANCE + 1.5, np.float32)
        depth[hits.pixel] = hits.depth
        depth = np.minimum(depth.reshape(size, size), DISTANCE + 1.5)
        coarse = depth.reshape(size // 2, 2, size // 2, 2).mean((1, 3))
        dark = np.zeros_like(depth)
        for sigma, reach, strength in ((0.004, 0.12, 0.5), (0.015, 0.5, 0.45)):
            around = gaussian_filter(coarse, sigma * size, truncate=2.5).repeat(2, 0).repeat(2, 1)
            dark += strength * np.clip((depth - around) / reach, 0, 1)
        return 1 - np.clip(dark, 0, 0.85).reshape(-1)[hits.pixel]

    def _of_mask(self, name: str, uv: Array) -> Array:
        mask = self.masks[name]
        return map_coordinates(
            mask, (uv[:, ::-1] * [mask.shape[0], mask.shape[1]] - 0.5).T, np.float32, order=1, mode="nearest"
        )

    def _skin(self, rest: Array, uv: Array) -> tuple[Array, Array, Array, Array]:
        look = self.look
        x, y, z = rest.T
        side = np.abs(x)
        blotch, fine = self._noise(rest, 4.0), self._noise(rest, 23.0)
        colour = np.asarray(look.skin) * (1 + 0.07 * blotch + 0.05 * fine)[:, None]
        red = 0.5 * np.exp(-(((side - 0.45) / 0.28) ** 2) - ((y - 6.98) / 0.25) ** 2) * (z > 0.7)
        red += 0.5 * np.exp(-((x / 0.16) ** 2) - ((y - 6.98) / 0.14) ** 2) * (z > 1.2) + 0.35 * self._of_mask(
            "ears", uv
        )
        colour = colour * (1 - red[:, None] * np.array([0.02, 0.22, 0.2]))
        spots = (
            _smooth(0.45, 0.7, self._noise(rest, 17.0)) * look.freckles * (z > 0.8) * _smooth(6.6, 6.9, y) * (y < 7.5)
        )
        colour = colour * (1 - 0.55 * spots[:, None])
        socket = np.exp(-(((side - 0.31) / 0.2) ** 2) - ((y - 7.18) / 0.1) ** 2) * (z > 0.9)
        colour = colour * (1 - socket[:, None] * np.array([0.14, 0.18, 0.14]))
        lids = self._of_mask("eyelids", uv)[:, None] * (0.25 + 0.5 * look.make_up)
        colour = colour * (1 - lids) + np.asarray(look.skin) * np.array([0.5, 0.38, 0.38]) * lids

        beard = (
            look.stubble
            * _smooth(6.95, 6.75, y + 0.35 * (side < 0.14) - 0.4 * np.clip(side - 0.5, 0, 0.4))
            * _smooth(5.9, 6.25, y)
        )
        beard *= (z > 0.3) * (0.65 + 0.35 * fine)
        colour = _blend(colour, np.asarray(look.hair) * 0.8 + 0.02, 0.75 * beard)
        lips = self._of_mask("lips", uv)
        colour = _blend(colour, np.asarray(look.lips) * (1 + 0.1 * fine)[:, None], lips * 0.9)
        colour = _blend(colour, np.array([0.16, 0.03, 0.03]), self._of_mask("inside-mouth", uv))

        arch = np.interp(side, [0.09, 0.25, 0.40, 0.56], [7.475, 7.505, 7.525, 7.465])
        thick = np.interp(side, [0.08, 0.13, 0.32, 0.56], [0.0, 0.05, 0.05, 0.01]) * (side < 0.57)
        hairs = self._noise(np.stack([x + 0.8 * y, y, z], 1), (40.0, 16.0, 4.0))
        brow = _smooth(1.3, 0.5, np.abs(y - arch) / np.maximum(thick, 1e-3) + 0.25 * hairs) * (z > 0.8) * (thick > 0)
        colour = _blend(colour, np.asarray(look.hair) * 0.5 + 0.003, look.brows * brow)

        gloss = 0.22 + 0.25 * lips + 0.08 * blotch
        hair = _smooth(-0.02, 0.12, self._hairline(rest) + 0.05 * self._noise(rest, (19.0, 5.0, 19.0)))
        hair *= 1 - self._of_mask("ears", uv)
        streaks = self._streaks(rest)
        colour = _blend(colour, np.asarray(look.hair) * (1 + 0.45 * streaks)[:, None], hair)
        gloss = gloss * (1 - hair) + 0.12 * hair
        cloth = _smooth(
            0.02,
            -0.02,
            y - (5.55 - look.collar + 0.5 * np.clip(np.hypot(side, 0.15) - 0.4, 0, 1) - 0.12 * _smooth(0.2, 1.0, z)),
        )
        colour = _blend(
            colour, np.asarray(look.shirt) * (1 + 0.12 * self._noise(rest, (3.0, 1.0, 3.0)))[:, None], cloth
        )
        return colour, gloss * (1 - cloth), np.ones(len(rest)), (1 - 0.7 * hair) * (1 - cloth)

    def _eye(self, rest: Array, uv: Array) -> tuple[Array, Array, Array, Array]:
        centre = np.stack([np.sign(rest[:, 0]) * 0.308, np.full(len(rest), 7.285), np.full(len(rest), 1.245)], 1)
        out = rest - centre
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        angle = np.degrees(np.arccos(np.clip(out[:, 2], -1, 1)))
        rays = self._noise(np.stack([np.arctan2(out[:, 0], out[:, 1]) * 2, angle * 0.02, angle * 0], 1), 3.0)
        colour = np.array([0.55, 0.50, 0.48]) * np.ones((len(rest), 1))
        iris = (
            np.asarray(self.look.eyes)
            * (1.2 + 0.5 * rays)[:, None]
            * np.interp(angle, [8, 20, 27], [1.1, 0.9, 0.3])[:, None]
        )
        colour = _blend(colour, iris, _smooth(29, 26, angle))
        colour = _blend(colour, np.full(3, 0.004), _smooth(12, 10, angle))
        return colour, np.full(len(rest), 0.35), np.ones(len(rest)), np.full(len(rest), 0.6)

    def _lash(self, rest: Array, uv: Array) -> tuple[Array, Array, Array, Array]:
        upper = rest[:, 1] > 7.275
        opacity = np.where(upper, 0.55 + 0.35 * self.look.make_up, 0.15 + 0.3 * self.look.make_up)
        return np.full((len(rest), 3), 0.012), np.zeros(len(rest)), opacity, np.zeros(len(rest))

    def _hair(self, rest: Array, uv: Array) -> tuple[Array, Array, Array, Array]:
        look = self.look
        assert look.length is not None
        y, z = rest[:, 1], rest[:, 2]
        streaks = self._streaks(rest)
        alpha = _smooth(8.1, 7.9, y) * _smooth(0.48, 0.38, z + 0.06 * streaks)  # the cap of hair covers the top
        alpha *= _smooth(look.length - 0.06, look.length + 0.08, y + 0.12 * streaks)
        return (
            np.asarray(look.hair) * (1 + 0.55 * streaks)[:, None],
            np.full(len(rest), 0.15),
            alpha,
            np.full(len(rest), 0.3),
        )

    def _streaks(self, rest: Array) -> Array:
        around = np.arctan2(rest[:, 0] - 0.5 * self.look.parting, rest[:, 2] - 0.1) * 1.2
        places = np.stack([around, rest[:, 1], np.hypot(rest[:, 0], rest[:, 2])], 1)
        return 0.6 * self._noise(places, (14.0, 0.5, 1.0)) + 0.4 * self._noise(places, (37.0, 1.0, 2.0))


def _smooth(low: float | Array, high: float | Array, value: Array) -> Array:
    """0 at `low`, 1 at `high`, smooth between; `low` may be the larger one."""
    share = np.clip((value - low) / (np.asarray(high) - low), 0, 1)
    return share * share * (3 - 2 * share)


def _blend(below: Array, above: Array, opacity: Array) -> Array:
    return below * (1 - opacity[:, None]) + above * opacity[:, None]
