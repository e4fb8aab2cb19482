"""Images for SHViT's training: folders and tar files, augmentation, and one-line errors."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visionzoo.data.augmented import seeded
from visionzoo.errors import InputError
from visionzoo.models.shvit import Preprocess, SHViTData
from visionzoo.models.shvit.data import class_names, read_classes


def _image(seed: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(("bee", "ant", "cow")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for copy in range(count):
                _image(10 * number + copy).save(tmp_path / "set" / split / name / f"{copy}.png")
    return tmp_path / "set"


def _data(root: Path | str | None, **options) -> SHViTData:
    data = SHViTData(
        None if root is None else str(root), **{"image_size": 32, "batch_size": 2, "num_workers": 0, **options}
    )
    data.setup()
    return data


def test_tar_files_give_what_folders_give(folders: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for split in ("train", "val"):
        with tarfile.open(packed / f"{split}.tar", "w") as tar:
            tar.add(folders / split, arcname=".")
    plain, tarred = _data(folders), _data(packed)
    assert plain.classes == tarred.classes == ["ant", "bee", "cow"]
    assert len(plain.train_set) == len(tarred.train_set) == 12
    for index in range(6):
        key = (0, index)
        ours, theirs = plain.val_set[key], tarred.val_set[key]
        assert ours[1] == theirs[1]
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)


def test_a_tar_of_one_tar_a_class(folders: Path, tmp_path: Path) -> None:
    """The form in which ImageNet itself is distributed."""
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for name in ("ant", "bee", "cow"):
            inner = tmp_path / f"{name}.tar"
            with tarfile.open(inner, "w") as tar:
                for file in sorted((folders / "train" / name).iterdir()):
                    tar.add(file, arcname=file.name)
            outer.add(inner, arcname=inner.name)
    images = read_classes(tmp_path / "train.tar")
    assert images.classes == ["ant", "bee", "cow"]
    assert sorted(images.labels) == [0] * 4 + [1] * 4 + [2] * 4
    assert images(0).shape == (40, 40, 3)


def test_repeats_differ_and_epochs_do(folders: Path) -> None:
    data = _data(folders, repeats=3)
    loader = data.train_dataloader()
    keys = list(loader.sampler)
    assert len(keys) == 12
    assert [copy for _, _, copy in keys[:3]] == [0, 1, 2]
    assert len({index for _, index, _ in keys[:3]}) == 1
    first, second = data.train_set[keys[0]][0], data.train_set[keys[1]][0]
    assert not torch.equal(first, second)
    assert torch.equal(first, data.train_set[keys[0]][0])
    loader.sampler.set_epoch(1)
    assert list(loader.sampler) != keys
    assert len(list(_data(folders, repeats=1).train_dataloader().sampler)) == 12


@pytest.mark.parametrize("augmentation", [None, "3-augment", "rand-m9-mstd0.5-inc1"])
def test_augmentations_give_the_input_of_the_network(folders: Path, augmentation: str | None) -> None:
    data = _data(folders, augmentation=augmentation, erasing=1.0 if augmentation is None else 0.0)
    image, label, index = data.train_set[(0, 3, 0)]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert (label, index) == (0, 3)


def test_validation_images_go_the_published_way(folders: Path) -> None:
    image, _, _ = _data(folders).val_set[(5, 0)]
    torch.testing.assert_close(image, Preprocess(32)(np.asarray(_image(10))))


def test_seeded_does_not_change_the_global_generators() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with seeded(1, 2):
        inside = torch.rand(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(1, 2):
        assert torch.equal(torch.rand(2), inside)
    with seeded(1, 3):
        assert not torch.equal(torch.rand(2), inside)


def test_imagenets_folders_get_names() -> None:
    wnids = [f"n{number:08d}" for number in range(1000)]
    assert class_names(wnids)[281] == "tabby"
    assert class_names(["b", "a"]) == ["b", "a"]


def test_errors_in_the_data_are_one_line(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        _data(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"neither train/ nor train\.tar"):
        _data(folders / "train" / "ant")
    with pytest.raises(InputError, match="data.root must be the folder"):
        SHViTData()
    with pytest.raises(InputError, match="must be even"):
        SHViTData("x", batch_size=3)
    with pytest.raises(InputError, match="do not fill a batch of 64"):
        _data(folders, batch_size=64).train_dataloader()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.tar").write_bytes(b"this is no tar file" * 100)
    with pytest.raises(InputError, match=r"train\.tar: holds no images"):
        _data(tmp_path / "broken")
    (tmp_path / "one" / "train" / "only").mkdir(parents=True)
    _image(0).save(tmp_path / "one" / "train" / "only" / "a.png")
    with pytest.raises(InputError, match="has 1 class, expected two or more"):
        _data(tmp_path / "one")
    (folders / "val" / "cow").rename(folders / "val" / "dog")
    with pytest.raises(InputError, match="its classes differ from those of"):
        _data(folders)


def test_validating_needs_no_images_to_train_on(folders: Path) -> None:
    shutil.rmtree(folders / "train")
    data = SHViTData(str(folders), image_size=32, batch_size=2, num_workers=0)
    data.setup("validate")
    assert (data.classes, len(data.val_set)) == (["ant", "bee", "cow"], 6)
    with pytest.raises(InputError, match=r"neither train/ nor train\.tar"):
        _data(folders)


def test_a_broken_image_is_named(folders: Path) -> None:
    buffer = io.BytesIO()
    _image(0).save(buffer, "PNG")
    (folders / "train" / "ant" / "0.png").write_bytes(buffer.getvalue()[:-600])
    data = _data(folders)
    with pytest.raises(InputError, match=r"train/ant/0\.png: .*(truncated|cut off|incomplete)"):
        data.train_set[(0, 0, 0)]
