"""Images whose folder is their class."""

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
    """Images in files, with their classes: index -> (H, W, 3) uint8 RGB.

    Attributes:
        labels: class number per image.
        classes: names, by number.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: Sequence[str]

    def __call__(self, index: int) -> np.ndarray:
        return load_image(self.paths[index])


def read_class_folders(root: Path) -> LabelledFiles:
    """The images of <root>/<class>/…/<image>, however deep, with the folder right below `root` as their class.

    Classes are in the order of their names. Images right in `root` have no class and are left out.

    Raises:
        InputError: no such folder, or fewer than two classes with images.
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
    """The class of each image of an archive: the first part of its place that is not the same for all images."""
    parts = [place.parts for place in places]
    depth = 0
    while parts and all(len(each) > depth + 2 for each in parts) and len({each[depth] for each in parts}) == 1:
        depth += 1
    return [each[depth] if len(each) > depth + 1 else "" for each in parts]


def number_classes(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of classes in order, and the number of each image's, from the name of each image's class."""
    classes = sorted(set(names))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, [numbers[name] for name in names]
