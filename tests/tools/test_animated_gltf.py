"""Animated glTF models are skinned and drawn as the format defines it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.animated_gltf import AnimatedModel, draw, make, orbit
from visionzoo.models.modecgs.captures.reading import read_capture

RED, BLUE = (200, 0, 0), (0, 0, 200)


def data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def hinge(tmp_path: Path) -> Path:
    """Two triangles in the plane z = 0. One hangs on a joint that turns by 180 degrees about z within two seconds, after which it
    has moved up by 3; the other one on a joint that stands still."""
    arrays = {
        "POSITION": np.array([[1, 0, 0], [2, 0, 0], [1, 1, 0], [-3, -3, 0], [-2, -3, 0], [-3, -2, 0]], "<f4"),
        "TEXCOORD_0": np.array([[0.25, 0.5]] * 3 + [[0.75, 0.5]] * 3, "<f4"),
        "JOINTS_0": np.array([[0, 0, 0, 0]] * 3 + [[1, 0, 0, 0]] * 3, "<u2"),
        "WEIGHTS_0": np.array([[1, 0, 0, 0]] * 6, "<f4"),
        "bind": np.tile(np.eye(4, dtype="<f4").ravel(), (2, 1)),
        "times": np.array([[0], [2]], "<f4"),
        "turns": np.array([[0, 0, 0, 1], [0, 0, 1, 0]], "<f4"),
        "moves": np.array([[0, 0, 0], [0, 3, 0]], "<f4"),
    }
    kinds = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
    buffer, views, accessors, number = b"", [], [], {}
    for name, array in arrays.items():
        number[name] = len(accessors)
        views.append({"buffer": 0, "byteOffset": len(buffer), "byteLength": array.nbytes})
        component = 5123 if array.dtype.kind == "u" else 5126
        accessors.append(
            {
                "bufferView": len(views) - 1,
                "componentType": component,
                "count": len(array),
                "type": kinds[array.shape[1]],
            }
        )
        buffer += array.tobytes()
    texture = io.BytesIO()
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((1, 0), BLUE)
    picture.save(texture, "PNG")
    attributes = {name: number[name] for name in ("POSITION", "TEXCOORD_0", "JOINTS_0", "WEIGHTS_0")}
    samplers = [{"input": number["times"], "output": number[name]} for name in ("turns", "moves")]
    channels = [
        {"sampler": i, "target": {"node": 0, "path": path}} for i, path in enumerate(("rotation", "translation"))
    ]
    model = {
        "asset": {"version": "2.0"},
        "buffers": [{"uri": data(buffer, "application/octet-stream"), "byteLength": len(buffer)}],
        "bufferViews": views,
        "accessors": accessors,
        "nodes": [{"name": "joint"}, {"name": "fixed"}, {"mesh": 0, "skin": 0}],
        "skins": [{"joints": [0, 1], "inverseBindMatrices": number["bind"]}],
        "meshes": [{"primitives": [{"attributes": attributes, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"uri": data(texture.getvalue(), "image/png"), "mimeType": "image/png"}],
        "animations": [{"name": "turn", "samplers": samplers, "channels": channels}],
    }
    (tmp_path / "hinge.gltf").write_text(json.dumps(model))
    return tmp_path / "hinge.gltf"


@pytest.mark.parametrize(
    ("seconds", "first"), [(0, (1, 0, 0)), (1, (0, 1 + 1.5, 0)), (2, (-1, 3, 0)), (9, (-1, 3, 0))], ids=str
)
def test_vertices_follow_their_joints(hinge: Path, seconds: float, first: tuple[float, ...]):
    model = AnimatedModel(hinge)
    assert model.animations() == {"turn": 2}
    vertices = model.vertices("turn", seconds)
    np.testing.assert_allclose(vertices[0], first, atol=1e-6)
    np.testing.assert_allclose(vertices[3:], model.mesh.positions[3:], atol=1e-6)


def test_triangles_appear_where_the_camera_projects_them(hinge: Path):
    model, camera = AnimatedModel(hinge), orbit(0.2, 0.1, 12, 80)
    vertices = model.vertices("turn", 0)
    image = draw(vertices, model.mesh, model.texture, camera)
    for triangle, colour in zip(model.mesh.triangles, (RED, BLUE), strict=True):
        (x, y), _ = (part[0] for part in camera.project(vertices[triangle].mean(0)[None]))
        shown = image[int(y), int(x)]
        assert (shown > 0).tolist() == [c > 0 for c in colour]
    assert (image[0] == 255).all()


def test_the_nearer_triangle_hides_the_other(hinge: Path):
    model, camera = AnimatedModel(hinge), orbit(0, 0, 12, 40)
    vertices = model.vertices("turn", 0)
    vertices[3:] = vertices[:3] + np.array([0, 0, 0.1])  # towards the camera
    (column, row), _ = (part[0] for part in camera.project(vertices[:3].mean(0)[None]))
    red, _, blue = draw(vertices, model.mesh, model.texture, camera)[int(row), int(column)]
    assert (red, blue > 0) == (0, True)


def test_the_scene_can_be_read(hinge: Path, tmp_path: Path):
    scene = read_capture(make(hinge, tmp_path / "scene", animation="turn", frames=5, size=24, every=2))
    assert (len(scene.train), len(scene.test)) == (5, 2)
    assert [view.time for view in scene.train] == [0, 0.25, 0.5, 0.75, 1]
    assert [view.time for view in scene.test] == [0.25, 0.75]


def test_an_unknown_animation(hinge: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match="has no animation 'jump'; it has turn"):
        make(hinge, tmp_path / "scene", animation="jump", frames=5, size=24)
