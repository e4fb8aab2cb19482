"""A teacher for distillation: any timm classifier, on images normalised for the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.folding import fold_batchnorm
from visionzoo.registry import require_source
from visionzoo.weights import WeightsError, fetch, find_state_dict, misfit, read_checkpoint, timm_network

from .preprocess import MEAN, STD


class Teacher(nn.Module):
    """Images (B, 3, H, W) with the ImageNet normalisation -> (logits (B, K), pooled vectors (B, C), last map (B, D, h, w)).

    It computes no gradients.

    Args:
        name: name of a timm network, e.g. "regnety_160.deit_in1k", the published teacher.
        checkpoint: its weights: a file, or the name of a checkpoint from `visionzoo weights list`; by default timm's own,
            which are downloaded. A file with other key names is loaded in its order, if every shape fits.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, checkpoint: str | None = None):
        super().__init__()
        try:
            network: Any = timm_network(
                name, pretrained=checkpoint is None, extra="train", purpose=f"the teacher {name}"
            ).eval()
        except WeightsError as error:
            raise WeightsError(f"{error}; for the teacher, use model.teacher_checkpoint=FILE") from error
        if checkpoint is not None:
            load_in_order(network, checkpoint)
        mean, std = (torch.tensor(network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
        self.register_buffer("scale", torch.tensor(STD)[:, None, None] / std)
        self.register_buffer("shift", (torch.tensor(MEAN)[:, None, None] - mean) / std)
        network = fold_batchnorm(network, torch.zeros(1, 3, 96, 96)).requires_grad_(False)
        self.network: Any = network.to(memory_format=torch.channels_last)

    @property
    def map_width(self) -> int:
        """Channels of the last map."""
        return self(torch.zeros(1, 3, 64, 64, device=self.scale.device))[2].shape[1]

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cells = self.network.forward_features(images * self.scale + self.shift)
        pooled = self.network.forward_head(cells, pre_logits=True)
        return self.network.get_classifier()(pooled), pooled, cells


def load_in_order(network: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint by its key names or, if they are another library's, by their order."""
    known = "/" not in checkpoint and not checkpoint.endswith((".pth", ".pt", ".safetensors", ".ckpt"))
    path = fetch(require_source(checkpoint)) if known else checkpoint
    state: Mapping[str, Tensor] = find_state_dict(read_checkpoint(path), str(path))
    own = network.state_dict()
    if own.keys() != state.keys() and len(own) == len(state):
        state = dict(zip(own, state.values(), strict=True))
    problem = misfit(own, state)
    if problem:
        raise WeightsError(f"{path} does not fit the teacher: {problem}")
    network.load_state_dict(state)
