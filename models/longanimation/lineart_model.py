"""The line-art network as a part of diffusers' pipelines, which save and load only models of their own kind."""

from __future__ import annotations

from typing import Any, Self

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from .lineart import LineartConfig, LineartGenerator

__all__ = ["LineartModel"]


class LineartModel(ModelMixin, ConfigMixin):
    """A `LineartGenerator` with `save_pretrained` and `from_pretrained`; its layers have the same names.

    Args:
        width, blocks: see `LineartConfig`; `blocks` are its residuals.
    """

    @register_to_config
    def __init__(self, width: int = LineartConfig.width, blocks: int = LineartConfig.residuals) -> None:
        super().__init__()
        for name, layer in LineartGenerator(LineartConfig(width, blocks)).named_children():
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        """See `LineartGenerator.forward`."""
        this: Any = self
        return LineartGenerator.forward(this, images)

    @classmethod
    def of(cls, network: LineartGenerator) -> Self:
        """The same layers, shared, as a `LineartModel`."""
        model = cls(network.config.width, network.config.residuals)
        for name, layer in network.named_children():
            setattr(model, name, layer)
        return model.eval()
