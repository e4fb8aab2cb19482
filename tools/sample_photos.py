"""Makes the bundled sample collection: small copies of free photos and several views of each.

    python -m tools.sample_photos visionzoo/assets

It needs scikit-image and scikit-learn, which contain the photos.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from .views import random_view

# name -> (package, file, licence and author as the package states them)
SOURCES = {
    "astronaut": ("skimage", "data/astronaut.png", "public domain, NASA (Eileen Collins)"),
    "brick": ("skimage", "data/brick.png", "CC0, CC0Textures (Bricks25)"),
    "camera": ("skimage", "data/camera.png", "CC0, Lav Varshney"),
    "cat": ("skimage", "data/chelsea.png", "CC0, Stefan van der Walt"),
    "coffee": ("skimage", "data/coffee.png", "CC0, Rachel Michetti (photo courtesy of Pikolo Espresso Bar)"),
    "coins": ("skimage", "data/coins.png", "no known copyright restrictions, Brooklyn Museum Collection"),
    "grass": ("skimage", "data/grass.png", "CC0, linolafett (DeviantArt)"),
    "gravel": ("skimage", "data/gravel.png", "CC0, CC0Textures (Gravel04)"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg", "public domain, NASA"),
    "retina": ("skimage", "data/retina.jpg", "CC0 1.0, Häggström (Wikimedia Commons)"),
    "rocket": ("skimage", "data/rocket.jpg", "public domain, SpaceX"),
    "temple": (
        "sklearn",
        "datasets/images/china.jpg",
        "CC BY 2.0, danielbuechele (flickr.com/photos/danielbuechele/6061409035), altered: views made from it",
    ),
    "flower": (
        "sklearn",
        "datasets/images/flower.jpg",
        "CC BY 2.0, vultilion (flickr.com/photos/vultilion/6056698931), altered: views made from it",
    ),
}
VIEWS = 4


def source_photo(name: str) -> Image.Image:
    """The photo from its package, RGB."""
    package, file, _ = SOURCES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name}: needs the package that contains it: pip install scikit-image scikit-learn")
    return Image.open(Path(spec.origin).parent / file).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    photos, queries = folder / "photos", folder / "queries"
    for place in (photos, queries):
        place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    rows = [
        "# Sample photos\n",
        "Small copies of free photos, and views made from them (`tools/sample_photos.py`).\n",
        "| files | licence and author |",
        "|---|---|",
    ]
    for name, (_, _, licence) in SOURCES.items():
        photo = source_photo(name)
        small = photo.copy()
        small.thumbnail((480, 480), Image.Resampling.LANCZOS)
        small.save(photos / f"{name}_1.jpg", quality=85)
        for number in range(2, 2 + VIEWS):
            random_view(photo, rng, strength=0.9, side=420).save(photos / f"{name}_{number}.jpg", quality=80)
        random_view(photo, rng, strength=1.0, side=420).save(queries / f"{name}.jpg", quality=85)
        rows.append(f"| {name}* | {licence} |")
    (folder / "README.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
