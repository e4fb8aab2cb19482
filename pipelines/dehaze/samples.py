"""Hazy images to try haze removal with: a photo of a hazy day, and two with synthetic haze and their clear originals."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from visionzoo.io.files import atomic_path, bundled, check_output, make_folder
from visionzoo.io.image import load_image
from visionzoo.io.pixels import floats_to_bytes

from ...models.dehazexl.haze import Haze
from ...models.dehazexl.scenes import aerial_scene

_HAZE = Haze(
    seed=7,
    density=0.62,
    base=0.75,
    cell=500.0,
    persistence=0.5,
    contrast=2.0,
    slope=(0.0, 0.2),
    airlight=(0.62, 0.64, 0.66),
)


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the sample images into a folder, which is made if it does not exist.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists.
    """
    folder = make_folder(folder)
    temple, flower, scene = (folder / f"{name}.jpg" for name in ("temple", "flower", "fields"))
    clear = {flower: load_image(bundled("photos", "flower_1.jpg")), scene: aerial_scene(512, 1)}
    paths = [temple, *clear, *(path.with_stem(f"{path.stem}_clear") for path in clear)]
    for path in paths:
        check_output(path, overwrite=overwrite)
    with atomic_path(temple) as temporary:
        shutil.copyfile(bundled("photos", "temple_1.jpg"), temporary)
    for path, pixels in clear.items():
        hazy = floats_to_bytes(_HAZE(pixels))
        for target, image in ((path, hazy), (path.with_stem(f"{path.stem}_clear"), pixels)):
            with atomic_path(target) as temporary:
                Image.fromarray(image).save(temporary, "JPEG", quality=95)
    return paths
