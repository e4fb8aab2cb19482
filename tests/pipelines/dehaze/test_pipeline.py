"""The pipeline object: made by name, saved and loaded, and models that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


import visionzoo
from visionzoo.errors import InputError
from visionzoo.models.dehazexl import DehazeXL
from visionzoo.pipelines.dehaze import DehazePipeline, DehazeResult
from visionzoo.weights import WeightsError, save_safetensors


def test_pipeline_by_name(network: DehazeXL, weights: Path, photo: Callable) -> None:
    trained = DehazeXL(network.config).train()
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    made = visionzoo.pipeline("dehaze", model=trained)
    assert isinstance(made, DehazePipeline)
    assert made.to("cpu") is made
    made(photo("a.jpg"))
    assert trained.training, "the user's network stays unchanged"
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert isinstance(visionzoo.pipeline("dehaze", checkpoint=weights), DehazePipeline)
    with pytest.raises(InputError, match="cuda:99"):
        made.to("cuda:99")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_and_load(network: DehazeXL, photo: Callable, tmp_path: Path, dtype: str) -> None:
    """Weights are saved unchanged, for any precision of the computation."""
    pipe = DehazePipeline(network, dtype=dtype)
    pipe.save_pretrained(tmp_path / "p")
    want = DehazePipeline(network)(photo("a.jpg"))
    for again in (
        DehazePipeline.from_pretrained(tmp_path / "p"),
        DehazePipeline.create(checkpoint=tmp_path / "p" / "model.safetensors"),
    ):
        assert (again.config, again.fingerprint) == (pipe.config, pipe.fingerprint)
        got = again(tmp_path / "a.jpg")
        assert isinstance(got, DehazeResult)
        assert isinstance(want, DehazeResult)
        assert np.array_equal(got.image, want.image)
    rough = pipe(tmp_path / "a.jpg")
    assert isinstance(rough, DehazeResult)
    assert isinstance(want, DehazeResult)
    assert np.abs(rough.image.astype(int) - want.image).mean() < 3
    saved = json.loads((tmp_path / "p/pipeline.json").read_text())
    for broken, message in (
        ("{}", "no saved dehazing pipeline"),
        ("nonsense", "no saved dehazing pipeline"),
        (json.dumps({**saved, "model": "shvit_s1"}), "no saved dehazing pipeline .its model is shvit_s1"),
        (json.dumps({**saved, "config": {"zz": 1}}), "no field 'zz'"),
    ):
        (tmp_path / "p/pipeline.json").write_text(broken)
        with pytest.raises(InputError, match=message):
            DehazePipeline.from_pretrained(tmp_path / "p")
    with pytest.raises(InputError, match="fused network could not be loaded again"):
        DehazePipeline(network.fuse()).save_pretrained(tmp_path / "q")


def test_unknown_models(network: DehazeXL, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="superglobal_r50 is not a dehazing model; use dehazexl"):
        DehazePipeline.create("superglobal_r50")
    with pytest.raises(InputError, match="did you mean dehazexl_nano"):
        DehazePipeline.create("dehazexl_nan")
    with pytest.raises(InputError, match="DehazeXL network or a name, got Linear"):
        DehazePipeline.create(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="need a model name"):
        DehazePipeline.create(network, checkpoint=weights)
    with pytest.raises(InputError, match="no field 'width'"):
        DehazePipeline.create(checkpoint=weights, width=3)
    with pytest.raises(WeightsError, match=r"model\.safetensors does not fit DehazeXL"):
        DehazePipeline.create(checkpoint=weights, embed_dim=16)
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        DehazePipeline.create(checkpoint=tmp_path / "gone.safetensors")
    other = tmp_path / "other.safetensors"
    save_safetensors({"head.weight": torch.zeros(3)}, other, {"model": "shvit_s1"})
    with pytest.raises(InputError, match=r"other\.safetensors: is for 'shvit_s1', which is not a dehazing model"):
        DehazePipeline.create(checkpoint=other)
    save_safetensors({"head.weight": torch.zeros(3)}, other, {})
    with pytest.raises(WeightsError, match=r"other\.safetensors does not fit DehazeXL"):
        DehazePipeline.create(checkpoint=other)
