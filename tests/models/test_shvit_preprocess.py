"""From an image to SHViT's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from visionzoo.errors import InputError
from visionzoo.models.shvit.preprocess import Preprocess, preprocess_of


@pytest.mark.parametrize(("name", "size", "short"), [("shvit_s1", 224, 256), ("shvit_s4.official", 256, 292)])
@pytest.mark.parametrize("shape", [(300, 401), (640, 333), (97, 211), (256, 256)])
def test_equals_the_published_evaluation(name: str, size: int, short: int, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    published = transforms.Compose(
        [
            transforms.Resize(short, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(preprocess_of(name)(image), published(Image.fromarray(image)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200_000), (50_000, 2), (3, 5)])
def test_strips_and_dots_take_little_memory(shape: tuple[int, int]) -> None:
    assert Preprocess(32)(np.full((*shape, 3), 255, np.uint8)).shape == (3, 32, 32)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"crop": 0.0}, {"crop": 1.5}])
def test_senseless_arguments_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="size must be at least 1"):
        Preprocess(**wrong)
