"""CLIP scores of videos: a tiny random model in transformers' folder format, compared with transformers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny_diffusion as tiny
from visionzoo.errors import InputError, WeightsError
from visionzoo.metrics import ClipModel, clip_scores, image_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipModel:
    return ClipModel(folder)


def video(count: int = 7, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def published(folder: Path, frames: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of unit length by transformers alone."""
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model: Any = CLIPModel.from_pretrained(folder)
    model.eval()
    pixels = CLIPImageProcessor.from_pretrained(folder)(
        [Image.fromarray(frame) for frame in frames], return_tensors="pt"
    )
    words = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**pixels, **words)
    return found.image_embeds.double().numpy(), found.text_embeds.double().numpy()


def test_scores_are_those_of_the_definitions(folder: Path, clip: ClipModel) -> None:
    frames = video()
    images, texts = published(folder, frames, ["a blue hat", "a red shirt"])
    found = clip_scores(iter(frames), clip, prompt="a blue hat", source_prompt="a red shirt", batch=3)
    np.testing.assert_allclose(found.steps, (images[1:] * images[:-1]).sum(1), atol=1e-6)
    np.testing.assert_allclose(found.target, images @ texts[0], atol=1e-6)
    np.testing.assert_allclose(found.source, images @ texts[1], atol=1e-6)
    assert found.frame_consistency == pytest.approx((images[1:] * images[:-1]).sum(1).mean(), abs=1e-6)
    assert found.textual_alignment == pytest.approx((images @ texts[0]).mean(), abs=1e-6)
    nearer = images @ texts[0] > images @ texts[1]
    assert found.frame_accuracy == pytest.approx(nearer.mean())
    swapped = clip_scores(frames, clip, prompt="a red shirt", source_prompt="a blue hat")
    assert swapped.frame_accuracy == pytest.approx(1 - nearer.mean())
    assert found.model == "CLIP, tiny-clip"
    assert clip_scores([frames[0]] * 3, clip).frame_consistency == pytest.approx(1)
    alone = clip_scores([frames[0]], clip)
    assert (alone.frame_consistency, alone.textual_alignment, alone.frame_accuracy) == (None, None, None)


def test_it_is_a_feature_extractor(folder: Path, clip: ClipModel) -> None:
    frames = video(3)
    found = image_features(frames / 255.0, clip, batch=2)
    wanted, _ = published(folder, frames, ["a"])
    np.testing.assert_allclose(found / found.norm(dim=1, keepdim=True), wanted, atol=1e-6)


def test_long_prompts_are_cut_with_a_warning(clip: ClipModel) -> None:
    with pytest.warns(UserWarning, match="more than 75 tokens"):
        long = clip.text(["a red hat " * 40])
    assert long.shape == (1, 16)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"prompt": " "}, "the target prompt must be a text .*, got ' '"),
        ({"source_prompt": 3}, "the source prompt must .* 3"),
    ],
)
def test_bad_prompts(clip: ClipModel, prompts: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        clip_scores(video(2), clip, **prompts)


def test_no_model_and_no_frames(clip: ClipModel) -> None:
    with pytest.raises(InputError, match="the CLIP model must be a visionzoo.metrics.ClipModel, got None"):
        clip_scores(video(2), None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="the video has no frames"):
        clip_scores([], clip)


def _change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def _lose_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (shutil.rmtree, "is not a folder; expected one with a CLIP model of transformers"),
        (lambda f: (f / "config.json").unlink(), r"has not config.json"),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            r"has not the settings of the images \(preprocessor_config.json or",
        ),
        (
            lambda f: [(f / name).unlink() for name in ("tokenizer.json", "vocab.json") if (f / name).exists()],
            "the vocabulary",
        ),
        (lambda f: _change(f, model_type="bert"), "holds a model of the type 'bert', expected 'clip'"),
        (lambda f: (f / "config.json").write_text("{"), "is damaged"),
        (lambda f: _change(f, projection_dim=8), "some weights have another shape|does not fit CLIPModel"),
        (_lose_weights, "does not fit CLIPModel: 1 key is missing, e.g. visual_projection.weight"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"hello"), "cannot be read"),
    ],
)
def test_incomplete_folders_are_one_line(change: Any, says: str, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    change(copy)
    with pytest.raises(WeightsError, match=says) as caught:
        ClipModel(copy)
    assert "\n" not in str(caught.value)
