"""Makes the clear images on which the bundled DehazeXL was trained: tiles of free photos, and synthetic aerial scenes.

    python -m tools.clear_photos unpacked data/clear     # tools/free_photos.py says how to get `unpacked`

The result is `train/` and `val/` of JPEG files; one source in ten (by the hash of its name) gives tiles to `val/` only. Photos that
are hazy themselves (a dark channel that is bright and grey) are excluded, as are those of scikit-image, scikit-learn and Gradio,
on which the model is tested. The tiles are not redistributed.
"""

from __future__ import annotations

import argparse
import hashlib
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .free_photos import Source, photo_files, resource_files

HAZY = 0.36
"""Mean dark channel (least colour within 1/64 of a side) above which a tile counts as hazy."""


def is_clear(tile: Image.Image) -> bool:
    """Whether a tile is a photo (grain nearly everywhere) without haze (contrast, and shadows or colours nearly everywhere)."""
    grain = np.asarray(tile.convert("L").resize((256, 256), Image.Resampling.BOX), np.float32) / 255
    if (grain.reshape(32, 8, 32, 8).std((1, 3)) < 0.01).mean() > 0.35:
        return False
    small = np.asarray(tile.resize((128, 128), Image.Resampling.BOX), np.float32) / 255
    dark = small.min(-1).reshape(32, 4, 32, 4).min((1, 3))
    return bool(dark.mean() < HAZY and np.quantile(dark, 0.9) < 0.8 and small.mean(-1).std() > 0.1)


def tiles(photo: Image.Image, rng: np.random.Generator, side: int, count: int) -> Iterable[Image.Image]:
    """Up to `count` random clear parts of `photo`, which is shrunk to remove compression artefacts if it is large enough."""
    width, height = photo.size
    smallest = min(1.0, 1.5 * side / min(width, height))
    found = 0
    for _ in range(4 * count):
        extent = np.exp(rng.uniform(np.log(smallest), 0.0)) * min(width, height)
        left, top = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
        part = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + extent, top + extent), 2.0)
        if is_clear(part):
            found += 1
            yield part
            if found == count:
                return


def make_tiles(source: Source, out: Path, side: int, count: int) -> int:
    """Write the tiles of one source; returns their number."""
    rng = np.random.default_rng(zlib.crc32(source.name.encode()))
    try:
        image = source.open()
    except (OSError, ValueError, SyntaxError):
        return 0  # bytes that only look like the header of an image
    if min(image.size) < side or np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        return 0
    folder = out / ("val" if source.held_out else "train")
    stem = hashlib.sha256(source.name.encode()).hexdigest()[:12]
    number = 0
    for number, tile in enumerate(tiles(image.convert("RGB"), rng, side, count), 1):
        tile.save(folder / f"photo_{stem}_{number:03d}.jpg", quality=95)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unpacked", type=Path, help="folder of unpacked packages")
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=560, help="side of the tiles in pixels")
    parser.add_argument("--per-photo", type=int, default=12, help="tiles of a photo")
    options = parser.parse_args()
    for part in ("train", "val"):
        (options.out / part).mkdir(parents=True, exist_ok=True)
    sources = [*photo_files(options.unpacked), *resource_files(options.unpacked)]
    work = partial(make_tiles, out=options.out, side=options.side, count=options.per_photo)
    with ProcessPoolExecutor() as pool:
        done = [*tqdm(pool.map(work, sources), total=len(sources), desc="photos")]
    print(f"{sum(map(bool, done))} of {len(sources)} sources gave {sum(done)} tiles")


if __name__ == "__main__":
    main()
