"""The bundled small network does what its card says, on the bundled clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import visionzoo
from visionzoo.io.files import bundled
from visionzoo.io.image import load_image
from visionzoo.metrics.restoration import psnr
from visionzoo.models.mcnet import MCNet
from visionzoo.models.mcnet.data import ClipReader, find_clips


@pytest.mark.slow
def test_it_moves_the_people_it_knows() -> None:
    """Frames of a clip that are generated from its first frame are far closer to the true ones than the first frame is."""
    model = visionzoo.create_model("mcnet_nano", pretrained=True)
    assert isinstance(model, MCNet)
    reader = ClipReader(128)
    gains = {}
    for clip in find_clips(bundled("talking")):
        numbers = np.linspace(0, reader.count(clip) - 1, 9).astype(int)
        frames = torch.from_numpy(reader.read(clip, numbers.tolist()).copy()).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            made = model.eval()(frames[:1], frames[1:])
        scores = [(psnr(a, b), psnr(frames[0], b)) for a, b in zip(made, frames[1:], strict=True)]
        gains[clip.identity] = float(np.mean([ours - still for ours, still in scores]))
    print(gains)
    assert gains["woman"] > 3
    assert gains["man"] > 3


def test_the_samples_are_of_faces_that_are_found() -> None:
    pipe = visionzoo.pipeline("reenact", "mcnet_nano", device="cpu")
    assert pipe.size == 128
    for name in ("woman.jpg", "man.jpg"):
        portrait = pipe.portrait(load_image(bundled("talking", name)))
        assert portrait.box.outside(256, 256) < 0.15, "no warning about the sample images"


def test_half_precision_makes_no_visible_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs with instructions for bfloat16 use it by default: frames have more than 50 dB compared with float32."""
    frames = {}
    for fast in (False, True):
        monkeypatch.setattr("visionzoo.pipelines.reenact.pipeline.has_fast_bfloat16", lambda device, fast=fast: fast)
        pipe = visionzoo.pipeline("reenact", "mcnet_nano", device="cpu")
        assert pipe.dtype == (torch.bfloat16 if fast else torch.float32)
        reader = ClipReader(128)
        clip = next(clip for clip in find_clips(bundled("talking")) if clip.identity == "woman")
        driving = torch.from_numpy(reader.read(clip, [0, 60]).copy()).permute(0, 3, 1, 2).float() / 255
        portrait = pipe.portrait(bundled("talking", "man.jpg"))  # another person: losses are more visible
        with torch.inference_mode():
            frames[fast] = pipe.model.animate(portrait.cache, pipe.model.detect(driving))
    assert psnr(frames[True], frames[False]) > 50
    assert visionzoo.pipeline("reenact", "mcnet_nano", device="cpu", dtype="float32").dtype == torch.float32
