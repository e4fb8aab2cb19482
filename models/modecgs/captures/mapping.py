"""Finds the cameras of images with pycolmap, in a process of its own: `python -P mapping.py FOLDER`, see `from_video.py`.

It reads `settings.json` and `images/` in the folder, and writes `database.db`, `model/` and, if the lens bends lines, `straight/`. It
prints a JSON list per line: ["progress", activity, done, total], and at last ["done", {...}] or ["failed", reason, {...}]. It imports
nothing of visionzoo: whatever pycolmap does to its process, Ctrl-C and a crash included, leaves the other one alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

STILL = 0.01
"""The camera does not move if details move by less than this share of the image's width between all pairs of frames."""
BENT = 0.5
"""A lens is straight if it moves the corners of the image by less than this many pixels."""
EXTENT = 4.0
"""Size of the scene, in which 80 % of the points lie: voxels of 0.01 to 0.05 are then fine enough, as in published scenes."""
_CHUNK = 4


def say(*line: Any) -> None:
    print(json.dumps(line), flush=True)


def extract(folder: Path, names: list[str], settings: dict[str, Any]) -> None:
    """Details of every image. All images have one camera."""
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    if settings["masks"]:
        reader.mask_path = str(folder / "masks")
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = settings["threads"]
    for start in range(0, len(names), _CHUNK):
        say("progress", "details", start, len(names))
        if start:  # otherwise every call would make another camera
            reader.existing_camera_id = 1
        pycolmap.extract_features(
            folder / "database.db",
            folder / "images",
            names[start : start + _CHUNK],
            pycolmap.CameraMode.SINGLE,
            reader,
            options,
            pycolmap.Device.cpu,
        )


def match(folder: Path, settings: dict[str, Any]) -> None:
    """Details that images have in common: every image with the next ten, and with those 16, 32, … later."""
    say("progress", "matches", 0, 1)
    matching, pairing = pycolmap.FeatureMatchingOptions(), pycolmap.SequentialPairingOptions()
    matching.num_threads = settings["threads"]
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = settings["seed"]
    pycolmap.match_sequential(folder / "database.db", matching, pairing, verification, pycolmap.Device.cpu)


def motion(folder: Path) -> tuple[int, float]:
    """Number of pairs of images with details in common, and how far these move in the pair that moves most: the median, relative to
    the width."""
    database = pycolmap.Database.open(folder / "database.db")
    width = database.read_camera(1).width
    keypoints = {
        image.image_id: np.asarray(database.read_keypoints(image.image_id)) for image in database.read_all_images()
    }
    pairs, most = 0, 0.0
    for pair, geometry in zip(*database.read_two_view_geometries(), strict=True):
        if not len(geometry.inlier_matches):
            continue
        first, second = pycolmap.pair_id_to_image_pair(pair)
        one, two = np.asarray(geometry.inlier_matches).T
        moved = np.linalg.norm(keypoints[first][one, :2] - keypoints[second][two, :2], axis=1)
        pairs, most = pairs + 1, max(most, float(np.median(moved)) / width)
    database.close()
    return pairs, most


def locate(folder: Path, names: list[str], settings: dict[str, Any]) -> Any:
    """The largest model that can be built, or None."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = settings["threads"], settings["seed"]
    options.min_model_size = 3
    placed = [2]
    say("progress", "cameras", 0, len(names))

    def after() -> None:
        placed[0] = min(placed[0] + 1, len(names))
        say("progress", "cameras", placed[0], len(names))

    models = pycolmap.incremental_mapping(
        folder / "database.db", folder / "images", folder / "models", options, next_image_callback=after
    )
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def straighten(folder: Path, model: Any) -> bool:
    """Write images without lens distortion, and their model; False if the lens is straight."""
    camera = model.cameras[1]
    corners = np.array([[x, y] for x in (0, camera.width) for y in (0, camera.height)], float)
    rays = np.array([camera.cam_from_img(corner) for corner in corners])
    straight = rays * camera.mean_focal_length() + [camera.principal_point_x, camera.principal_point_y]
    if np.abs(straight - corners).max() < BENT:
        return False
    pycolmap.undistort_images(folder / "straight", folder / "model", folder / "images", jpeg_quality=95)
    return True


def main(folder: Path) -> None:
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    pycolmap.set_random_seed(settings["seed"])
    names = sorted(path.name for path in (folder / "images").iterdir())
    extract(folder, names, settings)
    match(folder, settings)
    pairs, moved = motion(folder)
    facts: dict[str, Any] = {"frames": len(names), "pairs": pairs, "moved": moved}
    if not pairs:
        return say("failed", "no matches", facts)
    if moved < STILL:
        return say("failed", "still", facts)
    model = locate(folder, names, settings)
    facts["placed"] = 0 if model is None else model.num_reg_images()
    if model is None or facts["placed"] < settings["least"]:
        return say("failed", "few", facts)
    model.normalize(extent=EXTENT, use_images=False)
    (folder / "model").mkdir()
    model.write_binary(str(folder / "model"))
    facts["points"], facts["error"] = model.num_points3D(), model.compute_mean_reprojection_error()
    facts["straightened"] = straighten(folder, model)
    return say("done", facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
