"""Files spread over a Ray cluster; run where Ray is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.golden import seeded
from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.models.dehazexl import DehazeXL, DehazeXLConfig
from visionzoo.pipelines.dehaze import DehazePipeline
from visionzoo.ray_engine import on_ray


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


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_cluster() -> Iterator[None]:
    """Started once: every start takes five seconds."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def doubled(by: int) -> Callable[[int], tuple[int, int]]:
    return lambda item: (by * item, os.getpid())


def test_a_missing_package_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"--engine ray needs .*pip install 'visionzoo\[ray\]'"):
        list(on_ray([1], doubled, {"by": 2}))


def test_results_come_from_worker_processes() -> None:
    pytest.importorskip("ray.data")
    found = dict(on_ray(list(range(5)), doubled, {"by": 2}, processes=1))
    assert {number: value for number, (value, _) in found.items()} == {0: 0, 1: 2, 2: 4, 3: 6, 4: 8}
    assert os.getpid() not in {process for _, process in found.values()}


def test_a_folder_gives_what_one_process_gives(tmp_path: Path, network: Path) -> None:
    """Also with a file that cannot be read; a second run finds nothing to do, and starts no cluster."""
    pytest.importorskip("ray.data")
    source = images(tmp_path / "in", 3)
    (source / "broken.png").write_bytes(b"no image")
    pipe = DehazePipeline.from_pretrained(network.parent, device="cpu")
    runs = {}
    for engine in ("ray", "local"):
        with pytest.warns(UserWarning, match="broken"):
            runs[engine] = pipe.run(source, tmp_path / engine, progress=False, engine=engine)
    assert [result.error is None for result in runs["ray"]] == [result.error is None for result in runs["local"]]
    assert [Path(result.source) for result in runs["ray"]] == [Path(result.source) for result in runs["local"]]
    for number in range(3):
        one, other = (np.asarray(Image.open(tmp_path / name / f"{number}.png")) for name in ("ray", "local"))
        assert np.array_equal(one, other)
        assert (tmp_path / "ray" / f"{number}.png.json").is_file()
    (source / "broken.png").unlink()
    again = pipe.run(source, tmp_path / "ray", progress=False, engine="ray")
    assert all(result.skipped for result in again)


def test_a_network_made_in_code_is_refused(tmp_path: Path, network: Path) -> None:
    pipe = DehazePipeline(DehazePipeline.from_pretrained(network.parent).network)
    with pytest.raises(InputError, match="--engine ray needs a network that other processes can load"):
        pipe.run(images(tmp_path / "in", 2), tmp_path / "out", progress=False, engine="ray")
