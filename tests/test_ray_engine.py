"""Files spread over a Ray cluster; run where Ray is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.golden import seeded
from visionzoo.errors import MissingDependencyError
from visionzoo.models.dehazexl import DehazeXL, DehazeXLConfig
from visionzoo.pipelines.dehaze import DehazePipeline
from visionzoo.pipelines.dehaze.files import FileJob
from visionzoo.pipelines.dehaze.ray import run_on_ray
from visionzoo.ray_engine import map_on_ray


@pytest.fixture
def network(tmp_path: Path) -> Path:
    model = DehazeXL(
        DehazeXLConfig(
            embed_dim=8,
            depths=(1, 2, 1, 1),
            heads=(1, 1, 2, 2),
            bottleneck_heads=4,
            decoder_depths=(1, 2, 1, 1),
            decoder_heads=(4, 2, 2, 1),
        )
    ).eval()
    model.load_state_dict(seeded.fill(model.state_dict()))
    DehazePipeline.create(model, device="cpu").save_pretrained(tmp_path / "net")
    return tmp_path / "net" / "model.safetensors"


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def doubled(by: int) -> Callable[[int], tuple[int, int]]:
    return lambda item: (by * item, os.getpid())


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"--engine ray needs .*pip install 'visionzoo\[ray\]'"):
        map_on_ray([1], doubled, {"by": 2})


@pytest.mark.slow
def test_results_come_in_order_from_other_processes() -> None:
    pytest.importorskip("ray.data")
    found = map_on_ray(list(range(5)), doubled, {"by": 2}, processes=1, progress=False)
    assert [value for value, _ in found] == [0, 2, 4, 6, 8]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.slow
def test_a_folder_gives_what_one_process_gives(tmp_path: Path, network: Path) -> None:
    pytest.importorskip("ray.data")
    source = pictures(tmp_path / "in", 3)
    (source / "broken.png").write_bytes(b"no picture")
    create = {"device": "cpu", "checkpoint": network}
    with pytest.warns(UserWarning, match="broken"):
        results = run_on_ray(create, {}, source, tmp_path / "ray", progress=False)
    assert [result.error is None for result in results] == [True, True, True, False]
    with pytest.warns(UserWarning, match="broken"):
        FileJob(DehazePipeline.create(**create)).run(source, tmp_path / "local", progress=False)
    for number in range(3):
        one, other = (np.asarray(Image.open(tmp_path / name / f"{number}.png")) for name in ("ray", "local"))
        assert np.array_equal(one, other)
    with pytest.warns(UserWarning, match="broken"):
        again = run_on_ray(create, {}, source, tmp_path / "ray", progress=False)
    assert [result.seconds for result in again[:3]] == [0, 0, 0]
