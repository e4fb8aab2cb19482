"""The networks of `lovecon_nano`: Stable Diffusion's UNet and text encoder with a ControlNet, all of them small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from visionzoo.errors import require, unknown
from visionzoo.weights import load_checkpoint, read_checkpoint

from ..toy_world import TextToImage, TextToImageConfig

__all__ = ["LOVEConNano", "LOVEConNanoConfig", "build"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {"unet": WEIGHTS, "controlnet": WEIGHTS, "text_encoder": "model.safetensors"}
"""Parts and their files in a folder of diffusers."""


@dataclass(frozen=True)
class LOVEConNanoConfig(TextToImageConfig):
    """Sizes of `LOVEConNano`: those of its UNet and text encoder, as of `TextToImageConfig`, and of its ControlNet.

    Attributes:
        hint: channels of the convolutions through which the control image enters the ControlNet, from full size to an eighth.
    """

    channels: tuple[int, ...] = (48, 80, 96)
    hint: tuple[int, ...] = (8, 16, 32, 64)


class LOVEConNano(TextToImage):
    """A denoising UNet, its ControlNet and its text encoder.

    Attributes:
        controlnet: diffusers' ControlNetModel; it starts as a copy of the UNet's encoder and adds nothing at first.
    """

    config: LOVEConNanoConfig

    def __init__(self, config: LOVEConNanoConfig):
        super().__init__(config)
        from diffusers.models.controlnets.controlnet import ControlNetModel

        self.controlnet = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=tuple(config.hint))

    def load_folder(self, folder: Path) -> None:
        """Load the parts of a folder in diffusers' layout.

        Raises:
            WeightsError: a part is missing or does not fit.
        """
        for part, file in FILES.items():
            state = read_checkpoint(folder / part / file)
            network = getattr(self, part)
            if not hasattr(network, "text_model"):  # a level that transformers 5 has removed
                state = {key.removeprefix("text_model."): value for key, value in state.items()}
            load_checkpoint(network, state)


def build(name: str, **overrides: Any) -> nn.Module:
    """Build the registered network "lovecon_nano" with random weights.

    Args:
        **overrides: fields of `LOVEConNanoConfig`.

    Raises:
        InputError: an unknown field.
        VisionZooError: diffusers is not installed.
    """
    require("diffusers", extra="diffusion", purpose=name)
    known = list(LOVEConNanoConfig.__dataclass_fields__)
    for field in overrides:
        if field not in known:
            raise unknown("field of LOVEConNanoConfig", field, known)
    settings: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return LOVEConNano(LOVEConNanoConfig(**settings))
