"""Images whose folder is their class."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.data.labelled import read_class_folders
from visionzoo.errors import InputError
from visionzoo.models.shvit.data import read_classes


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """Cats and dogs, sorted by year below; an image without a class; a folder without images."""
    root = tmp_path / "train"
    for place in ("cat/2020/1.png", "cat/2021/2.jpg", "cat/3.png", "dog/2020/4.png", "dog/2021/deep/5.png", "6.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), int(Path(place).stem) * 20, np.uint8)).save(root / place)
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("no image")
    return root


def test_the_first_level_is_the_class(nested: Path) -> None:
    files = read_class_folders(nested)
    assert list(files.classes) == ["cat", "dog"]
    assert {path.stem: label for path, label in zip(files.paths, files.labels, strict=True)} == {
        "1": 0, "2": 0, "3": 0, "4": 1, "5": 1,
    }  # fmt: skip
    number = [path.stem for path in files.paths].index("4")
    assert files(number)[0, 0].tolist() == [80, 80, 80]


@pytest.mark.parametrize("wrapped", [False, True], ids=["as ImageNet is packed", "with the folder's own name"])
def test_a_tar_file_has_the_classes_of_its_folder(nested: Path, tmp_path: Path, wrapped: bool) -> None:
    (nested / "6.png").unlink()
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(nested, arcname="train" if wrapped else ".")
    packed, plain = read_classes(tmp_path / "train.tar"), read_classes(nested)
    assert list(packed.classes) == list(plain.classes)
    seen = {int(packed(index)[4, 4].mean() / 20 + 0.5): packed.labels[index] for index in range(5)}
    assert seen == {1: 0, 2: 0, 3: 0, 4: 1, 5: 1}


def test_a_folder_without_classes(nested: Path) -> None:
    with pytest.raises(InputError, match="notes: has 0 classes, expected two or more folders of images"):
        read_class_folders(nested / "notes")
    with pytest.raises(InputError, match="nothing: no such folder"):
        read_class_folders(nested / "nothing")
