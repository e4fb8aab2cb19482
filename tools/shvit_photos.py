"""Makes the images on which the bundled SHViT learned from its teacher: tiles of free photos and photographed objects.

    python -m tools.shvit_photos unpacked data/shvit_photos     # tools/free_photos.py says how to get `unpacked`

The tiles are not redistributed. One source in ten (by the hash of its name) gives tiles to `val/` only.
The result is an image folder, `train/<group>/<tile>.jpg`; the groups are names of
folders, not labels to learn. Photos of scikit-image, scikit-learn and Gradio are excluded, as the model is tested on them.
"""

from __future__ import annotations

import argparse
import hashlib
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from tqdm import tqdm

from .free_photos import NOT_PHOTOS, Source, photo_files, resource_files

STAMPS = (
    *("animals", "clothes", "food", "household", "hobbies", "military", "people", "plants", "space", "sports", "town"),
    *("vehicles", "seasonal"),
)


def stamp_files(root: Path) -> Iterator[Source]:
    """Objects cut out of photos, with transparent surroundings."""
    for path in sorted(root.rglob("stamps/**/*.png")):
        if path.relative_to(root).parts[5] in STAMPS and not NOT_PHOTOS.search(str(path)):
            yield Source(str(path.relative_to(root)), path)


def tile(photo: Image.Image, rng: np.random.Generator, side: int, tries: int = 8) -> Image.Image:
    """A random square part of `photo`, of any size from 1.5 times the tile's pixels up to the whole photo; no empty sky."""
    width, height = photo.size
    smallest = min(1.0, 1.5 * side / min(width, height))
    for left_over in reversed(range(tries)):
        share = np.exp(rng.uniform(np.log(smallest), 0.0))
        extent = share * min(width, height)
        left, top = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
        part = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + extent, top + extent), 2.0)
        if not left_over or np.asarray(part.convert("L"), np.float32).std() > 25:
            return part
    raise AssertionError("tries is at least 1")


def place(thing: Image.Image, ground: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`thing` (RGBA) at a random position on `ground`: 45 to 110 % of its side, slightly rotated, sometimes mirrored."""
    side = ground.width
    scale = rng.uniform(0.45, 1.1) * side / max(thing.size)
    thing = thing.resize(
        (max(8, round(thing.width * scale)), max(8, round(thing.height * scale))), Image.Resampling.BICUBIC
    )
    if rng.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    thing = thing.rotate(rng.normal(0, 12), Image.Resampling.BICUBIC, expand=True)
    colours = thing.convert("RGB")
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Color):
        colours = enhancer(colours).enhance(float(np.exp(rng.normal(0, 0.15))))
    at = (round(rng.uniform(0.2, 0.8) * side - thing.width / 2), round(rng.uniform(0.2, 0.8) * side - thing.height / 2))
    scene = ground.copy()
    scene.paste(colours, at, thing.getchannel("A"))
    return scene


def make_tiles(
    source: Source, grounds: list[Path], out: Path, side: int, per_photo: int, per_object: int, group: str
) -> int:
    """Write the tiles of one source; returns their number."""
    rng = np.random.default_rng(zlib.crc32(source.name.encode()))
    try:
        image = source.open()
    except (OSError, ValueError, SyntaxError):
        return 0  # bytes that only look like the header of an image
    if min(image.size) < (96 if group == "objects" else 150):
        return 0
    image = image.convert("RGBA")
    cut_out = np.asarray(image.getchannel("A")).min() < 128
    if group != "objects" and cut_out:
        return 0  # a drawing, or a piece of a puzzle
    flat = image.convert("RGB")
    folder = out / ("val" if source.held_out else "train") / group
    folder.mkdir(parents=True, exist_ok=True)
    stem = hashlib.sha256(source.name.encode()).hexdigest()[:12]
    large = min(image.size) >= 700
    count = per_photo if large and not cut_out else per_object
    for number in range(count):
        if not cut_out:
            view = tile(flat, rng, side)
        else:
            if rng.random() < 0.25 or not grounds:
                ground = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
            else:
                with Image.open(grounds[rng.integers(len(grounds))]) as opened:
                    ground = opened.convert("RGB")
            view = place(image, ground, rng)
        view.save(folder / f"{stem}_{number:03d}.jpg", quality=90)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unpacked", type=Path, help="folder of unpacked packages")
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=192, help="side of the tiles in pixels")
    parser.add_argument("--per-photo", type=int, default=80, help="tiles of a large photo")
    parser.add_argument("--per-object", type=int, default=40, help="tiles of an object or a small image")
    options = parser.parse_args()
    sizes = {"side": options.side, "per_photo": options.per_photo, "per_object": options.per_object}
    photos = [*photo_files(options.unpacked)]
    others = {"gcompris": [*resource_files(options.unpacked)], "objects": [*stamp_files(options.unpacked)]}
    with ProcessPoolExecutor() as pool:
        work = partial(make_tiles, grounds=[], out=options.out, group="photos", **sizes)
        done = sum(tqdm(pool.map(work, photos), total=len(photos), desc="photos"))
        print(f"photos: {len(photos)} sources, {done} tiles")
        for group, sources in others.items():
            for held_out in (False, True):  # objects stand on grounds of their own part
                grounds = sorted((options.out / ("val" if held_out else "train") / "photos").glob("*.jpg"))
                part = [source for source in sources if source.held_out == held_out]
                work = partial(make_tiles, grounds=grounds, out=options.out, group=group, **sizes)
                done = sum(tqdm(pool.map(work, part), total=len(part), desc=group))
                print(f"{group}: {len(part)} sources, {done} tiles{' (held out)' if held_out else ''}")


if __name__ == "__main__":
    main()
