"""`IFNet` as a part of a pipeline of diffusers, which saves and loads only classes of its own kind. Needs the extra `diffusion`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from visionzoo.config import as_dict, configure
from visionzoo.errors import InputError, WeightsError
from visionzoo.io.files import make_folder, write_json
from visionzoo.stored import CUSTOM, stored_facts
from visionzoo.weights import load_checkpoint, save_safetensors

from .ifnet import IFNet, IFNetConfig

CONFIG = "config.json"
_NAME = "diffusion_pytorch_model"


class Interpolator(IFNet, ModelMixin):
    """An `IFNet` that diffusers saves and loads as a part of a pipeline, in a folder with `config.json` and a weights file.

    The weights file also serves as a checkpoint of `visionzoo interpolate`.
    """

    @classmethod
    def of(cls, network: IFNet) -> Interpolator:
        """The part with the weights of a network, which it shares; a network that is a part already is returned."""
        if isinstance(network, cls):
            return network
        part = cls(network.config)
        part.blocks = network.blocks
        return part.train(network.training)

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: Any, *, safe_serialization: bool = True, variant: str | None = None, **_: Any
    ) -> None:
        """Write `config.json` and the weights, in their precision, to a folder, which is created if it does not exist.

        Args:
            safe_serialization: must be True, as weights are written as .safetensors only.
            variant: a part of the name of the weights file, e.g. "fp16".

        Raises:
            InputError: the folder cannot be written, or another format of weights.
        """
        if not safe_serialization:
            raise InputError("weights are written as .safetensors only; omit safe_serialization=False")
        folder = make_folder(save_directory)
        facts = {"task": "interpolate", "model": CUSTOM, "config": as_dict(self.config)}
        save_safetensors(self.state_dict(), _weights(folder, variant), stored_facts(facts))
        write_json(folder / CONFIG, {"_class_name": type(self).__name__, **as_dict(self.config)})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        **_: Any,
    ) -> Self:
        """Load the part that `save_pretrained` wrote to a folder, in eval mode.

        Args:
            torch_dtype, dtype: precision of the weights, under the name that diffusers used before 1.0 and the later one; None: as in
                the file.
            variant: see `save_pretrained`.

        Raises:
            InputError: the folder has no configuration, or one of another network.
            WeightsError: the weights are missing or do not fit.
        """
        folder = Path(pretrained_model_name_or_path)
        try:
            stated = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            fields = {key: value for key, value in stated.items() if not key.startswith("_")}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / CONFIG}: holds no configuration of an IFNet ({error})") from error
        try:
            part = cls(configure(IFNetConfig(), fields))
        except (InputError, TypeError) as error:
            raise InputError(f"{folder / CONFIG}: holds no configuration of an IFNet ({error})") from error
        file = _weights(folder, variant)
        if not file.is_file():
            raise WeightsError(f"{file}: no such file; copy or download the whole folder again")
        from safetensors.torch import load_file

        kinds = {value.dtype for value in load_file(file).values() if value.is_floating_point()}
        wanted = dtype or torch_dtype or (kinds.pop() if len(kinds) == 1 else torch.float32)
        nn.Module.to(part, wanted)  # ModelMixin prints a line about parts that stay in float32
        load_checkpoint(part, file)
        return part.eval()


def _weights(folder: Path, variant: str | None) -> Path:
    return folder / (f"{_NAME}.{variant}.safetensors" if variant else f"{_NAME}.safetensors")


__all__ = ["Interpolator"]
