"""The tools that render heads: visibility, subdivision of meshes, and performances. (The mesh itself is not bundled.)"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("scipy")

from tools.heads import Shape, subdivide
from tools.performances import FPS, perform
from tools.zbuffer import rasterize, vertex_normals


def test_the_nearer_triangle_is_seen() -> None:
    points = np.array([(0, 16, 5), (16, 16, 5), (0, 0, 5), (0, 16, 3), (8, 16, 3), (0, 8, 3.0)])
    triangles = np.array([(0, 1, 2), (3, 4, 5)])
    hits = rasterize(points, triangles, 16, 16, both_sides=np.zeros(2, bool))
    shown = np.full(256, -1)
    shown[hits.pixel] = hits.triangle
    shown = shown.reshape(16, 16)
    assert (shown[15, :7] == 1).all()
    assert (shown[15, 9:15] == 0).all()
    assert shown[2, 10] == -1
    assert sorted(hits.pixel) == hits.pixel.tolist()
    place = hits.mix(points, triangles)  # the position interpolated from the corners is that of the pixel
    assert np.abs(place[:, 0] - (hits.pixel % 16 + 0.5)).max() < 1e-9
    assert np.abs(place[:, 2] - hits.depth).max() < 1e-9


def test_triangles_from_behind_are_seen_only_if_wanted() -> None:
    points, behind = np.array([(0, 16, 1), (16, 16, 1), (0, 0, 1.0)]), np.array([(0, 2, 1), (0, 1, 2)])
    assert set(rasterize(points, behind, 16, 16, both_sides=False).triangle.tolist()) == {1}
    assert set(rasterize(points, behind[:1], 16, 16).triangle.tolist()) == {0}


def test_perspective_and_places_that_cannot_be_projected() -> None:
    """Half-way in the image is not half-way in space; triangles with a corner behind the camera are skipped."""
    points = np.array([(0, 0, 1), (0, 8, 1), (8, 4, 3), (np.nan, np.inf, -1)])
    hits = rasterize(points, np.array([(0, 1, 2), (0, 1, 3)]), 8, 12, perspective=True)
    assert set(hits.triangle.tolist()) == {0}
    x = hits.pixel % 12 + 0.5
    assert hits.depth == pytest.approx(1 / (1 - x / 8 * (1 - 1 / 3)))
    assert hits.weights.sum(1) == pytest.approx(np.ones(len(x)))
    assert len(rasterize(points, np.array([(0, 1, 3)]), 8, 12).pixel) == 0


def test_normals_point_outwards() -> None:
    points = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0.0)])
    assert vertex_normals(points, np.array([(0, 1, 2)])).tolist() == [[0, 0, 1]] * 3


def test_catmull_and_clark_of_a_cube() -> None:
    """The known result: corners of a cube move to 5/9, middles of edges to 3/4; faces keep their centres and their side."""
    points = np.array(list(itertools.product((-1, 1), repeat=3)), float)
    quads = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
    uv = np.broadcast_to(np.array([(0, 0), (1, 0), (1, 1), (0, 1.0)]), (6, 4, 2))
    finer, new, corners = subdivide(quads, uv, 8)
    places = finer @ points
    assert places.shape == (26, 3)
    assert new.shape == (24, 4)
    assert np.abs(places[:8]) == pytest.approx(np.full((8, 3), 5 / 9))
    assert np.sort(np.abs(places[8:20]), 1) == pytest.approx(np.tile([0, 0.75, 0.75], (12, 1)))
    assert np.sort(np.abs(places[20:]), 1) == pytest.approx(np.tile([0, 0, 1], (6, 1)))
    a, b, c, _ = places[new].transpose(1, 0, 2)
    assert (np.sign((np.cross(b - a, c - a) * places[new].mean(1)).sum(1)) == 1).all()
    assert corners[0].tolist() == [[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]


def test_a_flat_sheet_keeps_its_border() -> None:
    points = np.array([(0, 0), (1, 0), (1, 1), (0, 1.0)])
    finer, _, _ = subdivide(np.array([[0, 1, 2, 3]]), np.zeros((1, 4, 2)), 4)
    assert (finer @ points)[:4].tolist() == points.tolist()


def test_a_performance_starts_at_rest_and_is_repeatable() -> None:
    poses = perform(4 * FPS, seed=5)
    assert poses == perform(4 * FPS, seed=5)
    assert poses != perform(4 * FPS, seed=6)
    first = poses[0]
    assert (first.yaw, first.pitch, first.roll, first.shift, dict(first.units)) == (0, 0, 0, (0, 0, 0), {})
    assert max(abs(pose.yaw) for pose in poses) > 5
    assert max(pose.units.get("jawOpen", 0) for pose in poses) > 0.3
    assert any(pose.units.get("eyeBlinkLeft") == 1 for pose in poses)
    assert all(0 <= weight <= 1.3 for pose in poses for weight in pose.units.values())
    steps = [abs(a.yaw - b.yaw) for a, b in itertools.pairwise(poses)]
    assert max(steps) < 4, "no jumps"


def test_the_targets_of_a_shape_are_shares() -> None:
    weights = Shape(
        female=0.3, old=0.2, african=0.5, asian=0.1, weight=-0.4, local={"nose/nose-hump-incr": 0.2}
    ).targets()
    looks = [
        weight for name, weight in weights.items() if name.split("/")[1].startswith(("african", "asian", "caucasian"))
    ]
    bodies = [weight for name, weight in weights.items() if "universal" in name]
    assert sum(looks) == pytest.approx(1)
    assert sum(bodies) == pytest.approx(1)
    assert weights["nose/nose-hump-incr"] == 0.2
