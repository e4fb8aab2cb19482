"""The pipeline object: descriptors, saving and loading, models by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.errors import InputError
from visionzoo.pipelines.retrieve import RetrievePipeline
from visionzoo.weights import save_safetensors

from ...io.profiles import PROPHOTO, display
from ..assets import ASSETS


def test_a_pil_image_is_described_as_its_file(pipe: RetrievePipeline, photo: Callable, tmp_path: Path) -> None:
    """Orientation, alpha, 16 bits and colour profiles are handled for any kind of input."""
    upright = Image.open(photo("up.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    clear = upright.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 80, 120))
    clear.save(tmp_path / "clear.png")
    deep = np.asarray(upright.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    upright.save(tmp_path / "wide.jpg", icc_profile=display(PROPHOTO, 1.8))
    for name in ("turned.png", "clear.png", "deep.png", "wide.jpg"):
        with Image.open(tmp_path / name) as image:
            by_path, by_image = pipe.describe([tmp_path / name, image])
        assert np.allclose(by_path, by_image, atol=1e-5), name
    same, turned = pipe.describe([tmp_path / "up.png", tmp_path / "turned.png"])
    assert np.allclose(same, turned, atol=1e-5)


def test_save_and_load(pipe: RetrievePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "p")
    again = RetrievePipeline.from_pretrained(tmp_path / "p")
    query = ASSETS / "queries" / "cat.jpg"
    assert again.fingerprint == pipe.fingerprint
    assert np.array_equal(again.describe([query]), pipe.describe([query]))
    with pytest.raises(InputError, match=r"no saved retrieval pipeline"):
        RetrievePipeline.from_pretrained(tmp_path)


def test_pipeline_by_name() -> None:
    made = visionzoo.pipeline("retrieve", max_side=160, scales=(1.0,))
    assert isinstance(made, RetrievePipeline)
    assert made.to("cpu") is made
    with pytest.raises(InputError, match="cuda:99"):
        made.to("cuda:99")
    with pytest.raises(InputError, match="SuperGlobal network or a name"):
        visionzoo.pipeline("retrieve", model=torch.nn.Linear(1, 1))


def test_out_of_memory_halves_the_batch(pipe: RetrievePipeline, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with memory for at most two images: one warning, the same vectors."""
    square = [np.asarray(Image.open(p).resize((160, 160))) for p in sorted(samples.glob("*.jpg"))[:9]]
    wanted = pipe.describe(square)
    real = pipe.model.forward

    def small(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        return real(batch)

    monkeypatch.setattr(pipe.model, "forward", small)
    with pytest.warns(UserWarning, match="out of memory; continuing with batches of") as caught:
        got = pipe.describe(square)
    assert len([w for w in caught if "out of memory" in str(w.message)]) == 1
    assert np.allclose(got, wanted, atol=1e-5)
    monkeypatch.setattr(pipe.model, "forward", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    with pytest.raises(InputError, match="lower --max-side"):
        pipe.describe(square[:1])


def test_a_classifier_indexes_and_searches(samples: Path, tmp_path: Path) -> None:
    """Given by the name of the model and a weights file; the index remembers both."""
    torch.manual_seed(0)
    save_safetensors(visionzoo.create_model("shvit_xs").state_dict(), tmp_path / "xs.safetensors")
    made = RetrievePipeline.create("shvit_xs", checkpoint=tmp_path / "xs.safetensors", max_side=160)
    made.index(samples, tmp_path / "xs.index", progress=False)
    found = RetrievePipeline.for_index(tmp_path / "xs.index")
    assert (found.name, found.max_side, found.fingerprint) == ("shvit_xs", 160, made.fingerprint)
    photo = samples / "cat_1.jpg"
    assert found(photo, index=tmp_path / "xs.index", top=1).matches[0].path == photo.absolute()
    made.save_pretrained(tmp_path / "saved")
    assert RetrievePipeline.from_pretrained(tmp_path / "saved").fingerprint == made.fingerprint
