"""Renders an animated glTF model as a scene with exact cameras and times, in D-NeRF's layout: a moving camera, one image per time.

    python -m tools.animated_gltf FOX.gltf -o data/fox --animation Run     # Fox.gltf comes with gradio (media_assets/models3d)

The model is skinned as glTF 2.0 defines it (linear blend skinning, linear and spherical interpolation of key frames) and drawn with a
z-buffer, its base colour texture and one fixed lamp, four samples per pixel. Models with embedded buffers and triangles are read;
materials other than a base colour are not.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from visionzoo.models.modecgs.captures.capture import Camera, Points
from visionzoo.models.modecgs.captures.writing import CapturedImage, write_blender

from .zbuffer import rasterize

Array = np.ndarray
_KINDS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_SAMPLES = 2
"""Samples per side of a pixel."""
_LAMP = np.array([0.4, 0.8, 0.45]) / np.linalg.norm([0.4, 0.8, 0.45])
_AMBIENT = 0.6
_NOISE = 0.01
"""Standard deviation of the initial points around the surface, for a model of length 2: as uncertain as those of a real scene."""


@dataclass(frozen=True)
class Mesh:
    """Triangles (T, 3) of vertices with positions (V, 3), texture coordinates (V, 2), joints and their weights (V, 4)."""

    triangles: Array
    positions: Array
    coordinates: Array
    joints: Array
    weights: Array


class AnimatedModel:
    """The first skinned mesh of a .gltf file with embedded buffers."""

    def __init__(self, path: Path):
        self.data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.buffers = [_embedded(buffer["uri"]) for buffer in self.data["buffers"]]
        primitive = self.data["meshes"][0]["primitives"][0]
        attributes = {name: self._accessor(number) for name, number in primitive["attributes"].items()}
        count = len(attributes["POSITION"])
        order = self._accessor(primitive["indices"]).ravel() if "indices" in primitive else np.arange(count)
        self.mesh = Mesh(
            order.reshape(-1, 3).astype(int),
            attributes["POSITION"].astype(float),
            attributes["TEXCOORD_0"].astype(float),
            attributes["JOINTS_0"].astype(int),
            attributes["WEIGHTS_0"].astype(float),
        )
        self.skin = self.data["skins"][0]
        # matrices are stored by columns
        self.bind = self._accessor(self.skin["inverseBindMatrices"]).astype(float).reshape(-1, 4, 4).transpose(0, 2, 1)
        self.parents = {child: i for i, node in enumerate(self.data["nodes"]) for child in node.get("children", ())}
        material = self.data["materials"][primitive["material"]]["pbrMetallicRoughness"]
        image = self.data["images"][self.data["textures"][material["baseColorTexture"]["index"]]["source"]]
        picture = _embedded(image["uri"]) if "uri" in image else self._view(image["bufferView"])
        self.texture = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.float64) / 255

    def animations(self) -> dict[str, float]:
        """Name -> length in seconds."""
        return {
            animation.get("name", str(i)): max(float(self._accessor(s["input"]).max()) for s in animation["samplers"])
            for i, animation in enumerate(self.data.get("animations", ()))
        }

    def vertices(self, animation: str, seconds: float) -> Array:
        """(V, 3): the skinned positions at a time of an animation."""
        locals_ = self._locals(animation, seconds)
        worlds: dict[int, Array] = {}

        def world(node: int) -> Array:
            if node not in worlds:
                above = world(self.parents[node]) if node in self.parents else np.eye(4)
                worlds[node] = above @ locals_[node]
            return worlds[node]

        joints = np.stack([world(node) for node in self.skin["joints"]]) @ self.bind
        blended = np.einsum("vj,vjab->vab", self.mesh.weights, joints[self.mesh.joints])
        return np.einsum("vab,vb->va", blended[:, :3, :3], self.mesh.positions) + blended[:, :3, 3]

    def _locals(self, animation: str, seconds: float) -> list[Array]:
        nodes = [dict(node) for node in self.data["nodes"]]
        found = next(a for i, a in enumerate(self.data["animations"]) if a.get("name", str(i)) == animation)
        for channel in found["channels"]:
            sampler = found["samplers"][channel["sampler"]]
            if sampler.get("interpolation", "LINEAR") != "LINEAR":
                raise SystemExit(f"the interpolation {sampler['interpolation']} is not read")
            times, values = self._accessor(sampler["input"]).ravel(), self._accessor(sampler["output"]).astype(float)
            path = channel["target"]["path"]
            nodes[channel["target"]["node"]][path] = _interpolated(times, values, seconds, turns=path == "rotation")
        return [_matrix(node) for node in nodes]

    def _view(self, number: int) -> bytes:
        view = self.data["bufferViews"][number]
        start = view.get("byteOffset", 0)
        return self.buffers[view["buffer"]][start : start + view["byteLength"]]

    def _accessor(self, number: int) -> Array:
        accessor = self.data["accessors"][number]
        kind, width = np.dtype(_KINDS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        stride = self.data["bufferViews"][accessor["bufferView"]].get("byteStride", width * kind.itemsize)
        return np.ndarray(
            (accessor["count"], width),
            kind,
            self._view(accessor["bufferView"]),
            accessor.get("byteOffset", 0),
            (stride, kind.itemsize),
        )


def _embedded(uri: str) -> bytes:
    if not uri.startswith("data:"):
        raise SystemExit(f"{uri[:60]}: only models with embedded buffers are read")
    return base64.b64decode(uri.split(",", 1)[1])


def _interpolated(times: Array, values: Array, seconds: float, *, turns: bool) -> Array:
    seconds = float(np.clip(seconds, times[0], times[-1]))
    after = int(np.clip(np.searchsorted(times, seconds, side="right"), 1, len(times) - 1))
    start, end = values[after - 1], values[after]
    share = (seconds - times[after - 1]) / (times[after] - times[after - 1])
    if not turns:
        return start + share * (end - start)
    cosine = float(start @ end)
    end, cosine = (end, cosine) if cosine >= 0 else (-end, -cosine)
    if cosine > 0.9995:
        mixed = start + share * (end - start)
    else:
        angle = np.arccos(cosine)
        mixed = (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)
    return mixed / np.linalg.norm(mixed)


def _matrix(node: dict[str, Any]) -> Array:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.asarray(node.get("scale", (1, 1, 1)), float)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def draw(vertices: Array, mesh: Mesh, texture: Array, camera: Camera) -> Array:
    """The mesh on white, (H, W, 3) uint8."""
    fine = camera.resized(_SAMPLES * camera.width, _SAMPLES * camera.height)
    pixels, depths = fine.project(vertices)
    hits = rasterize(np.c_[pixels, depths], mesh.triangles, fine.height, fine.width, perspective=True)
    u, v = hits.mix(mesh.coordinates, mesh.triangles).T
    height, width = texture.shape[:2]
    texels = texture[(v * height).astype(int).clip(0, height - 1), (u * width).astype(int).clip(0, width - 1)]
    first, second, third = vertices[mesh.triangles].transpose(1, 0, 2)
    normals = np.cross(second - first, third - first)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = np.maximum(normals @ _LAMP, 0)[hits.triangle, None]
    colours = np.ones((fine.height * fine.width, 3))
    colours[hits.pixel] = texels * (_AMBIENT + (1 - _AMBIENT) * light)
    mean = colours.reshape(camera.height, _SAMPLES, camera.width, _SAMPLES, 3).mean((1, 3))
    return np.rint(mean * 255).astype(np.uint8)


def orbit(yaw: float, pitch: float, distance: float, size: int) -> Camera:
    """A camera that looks at the origin from the side; the world's y axis points up. Angles are in radians."""
    back = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.cross(-back, [0, 1.0, 0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(-back, right), -back])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ (distance * back)
    focal = 1.6 * size
    return Camera(motion, np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]), size, size)


def make(path: Path, output: Path, *, animation: str, frames: int, size: int, turns: float = 3, every: int = 5) -> Path:
    """Write the scene.

    The training camera circles around the model `turns` times while the animation plays once, and takes one image per time. Another
    camera circles the other way, and takes a test image at every `every`th time.
    """
    model = AnimatedModel(path)
    lengths = model.animations()
    if animation not in lengths:
        raise SystemExit(f"{path}: has no animation {animation!r}; it has {', '.join(lengths)}")
    times = np.arange(frames) / (frames - 1)
    shapes = [model.vertices(animation, time * lengths[animation]) for time in times]
    low, high = np.min([s.min(0) for s in shapes], 0), np.max([s.max(0) for s in shapes], 0)
    shapes = [(shape - (low + high) / 2) / (high - low).max() * 2 for shape in shapes]

    def picture(name: str, k: int, yaw: float, pitch: float) -> CapturedImage:
        camera = orbit(yaw, pitch, 3.2, size)
        return CapturedImage(
            f"{name}_{k:03d}", draw(shapes[k], model.mesh, model.texture, camera), camera, float(times[k])
        )

    angles = 2 * np.pi * times
    train = [
        picture("r", k, 0.9 + turns * angles[k], 0.3 + 0.2 * np.sin(2 * angles[k]))
        for k in tqdm(range(frames), desc="training views", unit="view")
    ]
    test = [
        picture("t", k, 0.5 - 2 * angles[k], 0.3 + 0.1 * np.cos(3 * angles[k]))
        for k in tqdm(range(every // 2, frames, every), desc="test views", unit="view")
    ]
    return write_blender(output, train, test, _surface(shapes, model))


def _surface(shapes: list[Array], model: AnimatedModel, count: int = 3000) -> Points:
    """Points near the surface at a few times, with the texture's colours."""
    draw_ = np.random.default_rng(0)
    positions, colours = [], []
    for shape in shapes[:: max(1, len(shapes) // 4)]:
        triangles = model.mesh.triangles[draw_.integers(len(model.mesh.triangles), size=count // 4)]
        shares = draw_.dirichlet((1, 1, 1), len(triangles))
        positions.append(np.einsum("tk,tka->ta", shares, shape[triangles]))
        u, v = np.einsum("tk,tka->ta", shares, model.mesh.coordinates[triangles]).T
        height, width = model.texture.shape[:2]
        colours.append(model.texture[(v * height).astype(int) % height, (u * width).astype(int) % width])
    cloud = np.concatenate(positions)
    return Points(cloud + draw_.normal(0, _NOISE, cloud.shape), np.concatenate(colours))


def main() -> None:
    parser = argparse.ArgumentParser(description="Render an animated glTF model as a scene in D-NeRF's layout.")
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--animation", default="Survey")
    parser.add_argument("--frames", type=int, default=100, help="number of times and training views (default: 100)")
    parser.add_argument("--size", type=int, default=200, help="height and width in pixels (default: 200)")
    parser.add_argument("--turns", type=float, default=3, help="how often the training camera goes around (default: 3)")
    o = parser.parse_args()
    print(make(o.model, o.output, animation=o.animation, frames=o.frames, size=o.size, turns=o.turns))


if __name__ == "__main__":
    main()
