"""Settings stored in an index or a weights file, and networks that cannot be saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import visionzoo
from tests import tiny
from visionzoo.errors import InputError
from visionzoo.models.superglobal import SuperGlobal, SuperGlobalConfig
from visionzoo.pipelines.retrieve import RetrievePipeline
from visionzoo.stored import read_stored


@pytest.fixture
def folder(photo: Callable) -> Path:
    made = [photo(f"photos/p{seed}.png", (160, 120), seed) for seed in range(3)]
    return made[0].parent


def test_settings_of_an_index_are_taken_over(folder: Path, tmp_path: Path) -> None:
    """In Python as in the command, settings that are not given come from the index, including the model."""
    made = visionzoo.pipeline("retrieve", model="shvit_xs", device="cpu", max_side=128, scales=(1.0,))
    made.index(folder, tmp_path / "i", progress=False)
    query = folder / "p1.png"
    want = made(query, index=tmp_path / "i").matches
    plain = visionzoo.pipeline("retrieve", device="cpu")
    for pipe in (plain, visionzoo.pipeline("retrieve", "shvit_xs", device="cpu", max_side=128)):
        assert pipe(query, index=tmp_path / "i").matches == want
        report = pipe.index(folder, tmp_path / "i", progress=False)
        assert (report.added, report.unchanged) == (0, 3)
    (result,) = plain.run(query, tmp_path / "r.json", False, index=tmp_path / "i")
    assert '"model": "shvit_xs"' in (tmp_path / "r.json").read_text()
    assert result.matches == want
    conflicts: list[dict[str, Any]] = [{"max_side": 192}, {"scales": (1.0, 2.0)}, {"model": "superglobal_lite0"}]
    for asked in conflicts:
        with pytest.raises(InputError, match="was made with"):
            visionzoo.pipeline("retrieve", device="cpu", **asked)(query, index=tmp_path / "i")


def fitted(name: str, tmp_path: Path) -> Path:
    """A file like those that `visionzoo fit --config NAME` writes."""
    from visionzoo.lazy import resolve
    from visionzoo.training.run import load_config

    section = load_config([name], [])["model"]
    place, _, kind = section["class_path"].rpartition(".")
    module = resolve(f"{place}:{kind}")(**section["init_args"])
    module.export_weights(tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("recipe", ["superglobal/tiny", "shvit/tiny"])
@pytest.mark.parametrize("named", [False, True], ids=["by its file", "with its name"])
def test_weights_that_a_training_wrote_make_an_index(recipe: str, named: bool, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    file = fitted(recipe, tmp_path)
    name = {"superglobal/tiny": "superglobal_r50"}.get(recipe)
    if named and name is None:
        name = read_stored(file).model
    pipe = RetrievePipeline.create(name if named else None, device="cpu", checkpoint=file, max_side=128)
    pipe.index(folder, tmp_path / "i", progress=False)
    again = RetrievePipeline.for_index(tmp_path / "i", "cpu")
    assert (again.fingerprint, again.config) == (pipe.fingerprint, pipe.config)
    assert again(folder / "p2.png", index=tmp_path / "i", top=1).matches[0].path.name == "p2.png"
    pipe.save_pretrained(tmp_path / "saved")
    loaded = RetrievePipeline.from_pretrained(tmp_path / "saved", "cpu")
    assert np.array_equal(loaded.describe([folder / "p0.png"]), pipe.describe([folder / "p0.png"]))


class Own(nn.Module):
    num_features, stride = 8, 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


def test_saving_refuses_a_custom_backbone(folder: Path, tmp_path: Path) -> None:
    """It could not be loaded again, but it can index and search."""
    network = SuperGlobal(SuperGlobalConfig(dim=None, scales=(1.0,), rgem=False), Own()).eval()
    pipe = RetrievePipeline(network, device="cpu", dtype="float32", max_side=64)
    with pytest.raises(
        InputError, match=r"has its own backbone, not the resnet50 .* could not be loaded again"
    ) as raised:
        pipe.save_pretrained(tmp_path / "p")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "p").exists()
    pipe.index(folder, tmp_path / "i", progress=False)
    assert pipe(folder / "p0.png", index=tmp_path / "i", top=1).matches[0].path.name == "p0.png"


def test_an_ordinary_network_is_saved(tmp_path: Path) -> None:
    network: Any = tiny.superglobal()
    RetrievePipeline(network, device="cpu", dtype="float32", max_side=64).save_pretrained(tmp_path / "p")
    assert (tmp_path / "p" / "model.safetensors").exists()
