"""Tiny classifiers: one that recognises three colours, and meaningless ones in which every weight matters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from PIL import Image

import visionzoo
from visionzoo.models.shvit import Preprocess, SHViT
from visionzoo.pipelines.classify import ClassificationResult

SMALL: dict[str, Any] = {"embed_dim": [16, 24, 32], "partial_dim": [8, 8, 8], "depth": [1, 1, 1]}

COLOURS = ("red", "green", "blue")


def small(classes: int = 3, **more: Any) -> SHViT:
    """A meaningless network in which every weight matters: its norms have statistics of colours and noise."""
    torch.manual_seed(classes)
    network = visionzoo.create_model("shvit_s1", **{**SMALL, "num_classes": classes, **more})
    assert isinstance(network, SHViT)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = None  # the plain mean of what is seen
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(torch.randn(64, 3, 1, 1) + 0.3 * torch.randn(64, 3, 64, 64))
    return network.eval()


def colour_network() -> SHViT:
    """Knows red, green and blue: its head answers with the plain colour whose pooled vector is nearest."""
    network = small(3)
    swatches = torch.stack([Preprocess(64)(np.asarray(Image.new("RGB", (64, 64), name))) for name in COLOURS])
    with torch.no_grad():
        means = network.forward_features(swatches)[0]
        centre = means.mean(0)
        spread = (means - centre).pow(2).sum(-1).mean()
        head: Any = network.head
        head.norm.running_mean.copy_(centre)
        head.norm.running_var.fill_(1 - head.norm.eps)
        head.norm.weight.fill_(1)
        head.norm.bias.fill_(0)
        head.linear.weight.copy_(8 * (means - centre) / spread)
        head.linear.bias.copy_(-4 * (means - centre).pow(2).sum(-1) / spread)
    return network


def facts(classes: int = 3, **more: Any) -> dict[str, str]:
    config = {**SMALL, "num_classes": classes}
    return {"model": "shvit_s1", **{k: json.dumps(v) for k, v in {"config": config, "image_size": 64, **more}.items()}}


def labels(results: list[ClassificationResult]) -> list[str]:
    return [result.predictions[0].label for result in results]
