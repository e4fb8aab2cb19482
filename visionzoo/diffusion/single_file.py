"""Stable Diffusion in a single file, in the layout of its authors, as most community models are distributed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.loaders.single_file import FromSingleFileMixin
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open

from ..devices import pick_dtype
from ..errors import InputError, WeightsError
from ..io.head import read_head
from ..weights import find_state_dict, read_checkpoint
from .folders import check_complete, check_parts, one_line, without_bars

__all__ = ["SingleFile", "single_file_kind"]

STABLE_DIFFUSION_1 = "Stable Diffusion 1.5"

_KINDS = {
    "conditioner.embedders.": "SDXL",
    ".joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "lora_": "a LoRA",
    "lora.": "a LoRA",
    "input_hint_block.": "a ControlNet",
    "controlnet_cond_embedding.": "a ControlNet",
    "emb_params": "a textual inversion",
    "string_to_param": "a textual inversion",
}
"""What a part of a key tells about a file."""
_NEEDED = {
    "model.diffusion_model.input_blocks.": "UNet",
    "first_stage_model.": "autoencoder",
    "cond_stage_model.transformer.": "text encoder",
}


def single_file_kind(path: str | Path) -> str:
    """What a weights file holds, by its keys: "Stable Diffusion 1.5", "SDXL", "a LoRA", …; "something else" if it is not known.

    Raises:
        WeightsError: there is no such file, or it is damaged or unsafe; or a file of Stable Diffusion 1.5 that lacks a part.
    """
    keys = _keys(Path(path))
    for part, kind in _KINDS.items():
        if any(part in key for key in keys):
            return kind
    missing = [name for part, name in _NEEDED.items() if not any(key.startswith(part) for key in keys)]
    if missing == [*_NEEDED.values()]:
        return "something else"
    if missing:
        raise WeightsError(
            f"{path}: holds no {' and no '.join(missing)}; expected the whole of Stable Diffusion 1.5 in one file"
        )
    return STABLE_DIFFUSION_1


def _keys(path: Path) -> list[str]:
    read_head(path, "a checkpoint file", WeightsError)
    if path.suffix != ".safetensors":
        return list(find_state_dict(read_checkpoint(path), str(path)))
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise WeightsError(f"{path}: is damaged ({one_line(error)}); copy or download it again") from error


@contextlib.contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Without the warnings of diffusers about layers that should stay in float32, of which these networks have none."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


class SingleFile(FromSingleFileMixin):
    """A pipeline of diffusers that a single file can hold the weights of."""

    single_file_kinds: ClassVar[tuple[str, ...]] = (STABLE_DIFFUSION_1,)

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path: Any, **kwargs: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Load a pipeline to the CPU from a `.safetensors` or `.ckpt` file, with configuration files from a folder.

        Nothing is downloaded.

        Args:
            pretrained_model_link_or_path: the file.
            **kwargs: `config`: folder with the configuration files and the tokenizer of the model, e.g. one of the same model in the
                layout of diffusers, whose weights are not read; `dtype` (or `torch_dtype`), which may be text; parts that the file
                does not hold, e.g. `controlnet`; and see `FromSingleFileMixin.from_single_file`.

        Raises:
            InputError: no configuration, or one that does not fit.
            WeightsError: the file is missing or damaged, or holds something else.
        """
        this: Any = cls
        file, config = Path(pretrained_model_link_or_path), kwargs.pop("config", None)
        kind = single_file_kind(file)
        if kind not in cls.single_file_kinds:
            raise WeightsError(f"{file}: holds {kind}, expected {' or '.join(cls.single_file_kinds)}")
        if config is None:
            raise InputError(
                f"{file}: has no configuration and no tokenizer; give a folder with them, e.g. a model of the same kind in the layout "
                "of diffusers, with --config (in Python: config=FOLDER)"
            )
        this._check_folder(Path(config))
        given = [name for name in this.part_names() if kwargs.get(name) is not None]
        this.check_index(Path(config), given)
        check_parts(Path(config), this.part_names(), weights=False)
        old, new = kwargs.pop("torch_dtype", None), kwargs.pop("dtype", None)
        dtype = pick_dtype((old if new is None else new) or "float32", torch.device("cpu"))
        try:
            with without_bars(), _quiet_diffusers():
                pipe: Any = super().from_single_file(
                    str(file), config=str(config), torch_dtype=dtype, local_files_only=True, **kwargs
                )
        except (
            OSError,
            ValueError,
            RuntimeError,
            AttributeError,
            KeyError,
            SafetensorError,
            SingleFileComponentError,
        ) as error:
            if isinstance(error, InputError):
                raise
            # a network with weights that the file does not have cannot be copied
            reason = "weights are missing" if isinstance(error, NotImplementedError) else one_line(error)
            raise WeightsError(f"{file}: does not fit the configuration {config} ({reason})") from error
        check_complete(pipe.components, file)
        pipe._given, pipe._scheduler_made = given, (pipe.components.get("scheduler"), None)
        pipe.checkpoint, pipe.single_file_config = str(file.absolute()), str(Path(config).absolute())
        return pipe
