"""Images in class folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from ..errors import InputError
from ..io.extensions import IMAGES
from ..io.find import find_inputs
from ..io.image import load_image


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with classes; calling it with an index reads (H, W, 3) uint8 RGB.

    Attributes:
        labels: class index of each image.
        classes: class names by index.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: Sequence[str]

    def __call__(self, index: int) -> np.ndarray:
        return load_image(self.paths[index])


def read_class_folders(root: Path) -> LabelledFiles:
    """The images <root>/<class>/…/<image>, at any depth; the folder directly below `root` is the class.

    Classes are sorted by name. Images directly in `root` have no class and are skipped.

    Raises:
        InputError: there is no such folder, or fewer than two classes have images.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected {root}/<class>/<image>")
    try:
        found = find_inputs(root, IMAGES)
    except InputError:
        found = []
    inside = [(path, place.parts[0]) for path, place in found if len(place.parts) > 1]
    classes, labels = number_classes([name for _, name in inside])
    if len(classes) < 2:
        count = f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}"
        raise InputError(f"{root}: has {count}, expected two or more folders of images")
    return LabelledFiles([path for path, _ in inside], labels, classes)


def first_levels(places: Sequence[PurePath]) -> list[str]:
    """The class of each image of an archive: the first component of its path that is not the same for all images."""
    parts = [place.parts for place in places]
    depth = 0
    while parts and all(len(each) > depth + 2 for each in parts) and len({each[depth] for each in parts}) == 1:
        depth += 1
    return [each[depth] if len(each) > depth + 1 else "" for each in parts]


def number_classes(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """From the class name of each image: the sorted class names, and the class index of each image."""
    classes = sorted(set(names))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, [numbers[name] for name in names]
