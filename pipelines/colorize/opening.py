"""How a `LongAnimationPipeline` is opened: by name, from a folder that was saved, or from the published files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from visionzoo.devices import pick_device, pick_dtype
from visionzoo.diffusion import DiffusionTaskPipeline
from visionzoo.diffusion.folders import INDEX
from visionzoo.errors import InputError, WeightsError
from visionzoo.weights.places import weights_dir

from ...models.longanimation import check_trained
from .placement import MemoryPlacement, Placement, check_placement
from .published import LAYOUT, is_published, open_published

__all__ = ["Opening", "check_family"]

PUBLISHED = "longanimation"
"""The model of the published files."""


class Opening(DiffusionTaskPipeline):
    """The part of `LongAnimationPipeline` that creates it."""

    task: ClassVar[str] = "colorize"
    kind: ClassVar[str] = "colouring"
    default_model: ClassVar[str] = "longanimation_nano"
    files: ClassVar[str] = "visionzoo.pipelines.colorize.files:ColorizeJob"

    @classmethod
    def create(
        cls,
        model: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        *,
        offload: Placement = "none",
        memory_placement: MemoryPlacement = "device",
        **more: Any,
    ) -> Self:
        """Create a pipeline that is ready to run.

        Args:
            model, device, dtype: see `DiffusionTaskPipeline.create`.
            checkpoint: a folder that `save_pretrained` wrote, or one with the published files: control_module.safetensors,
                glm_module.safetensors, and the folders CogVideoX1.5-5B-I2V and VideoXL_weight_8; sk_model.pth for videos in colour.
                None: for "longanimation", the folder of that name in the weights folder; otherwise the bundled weights.
            offload: what is kept in main memory: "none"; "model": text encoder and autoencoder while they do not run; "group": also
                the blocks of the networks of the denoising loop; "sequential": every layer. Ignored on a CPU.
            memory_placement: where the memory encoder is: on the "device", "moved" there between segments, or on the "host".
            **more: parts and settings to use instead of those in the folder, e.g. memory_encoder=None.

        Raises:
            InputError: a name, folder or part that cannot be used, or files that are missing; the message names them.
        """
        check_placement(offload, memory_placement)
        place = pick_device(device)
        if not isinstance(model, DiffusionTaskPipeline) or dtype != "auto":
            dtype = str(pick_dtype(dtype, place)).removeprefix("torch.")
        pipe = super().create(model, "cpu", dtype, checkpoint, **more)
        return pipe.place(place, offload, memory_placement)

    @classmethod
    def check_name(cls, name: str) -> None:
        """Raise `InputError` unless `name` is a model of this task that consists of all networks."""
        super().check_name(name)
        part = cls.variant(name).removeprefix("longanimation_")
        if part in ("sketchdit", "dglm", "lineart", "nano_vae"):
            raise InputError(f"{name} is one network of LongAnimation; create the pipeline as {PUBLISHED}")

    @classmethod
    def published(cls, model: str) -> Path:
        """The folder of published files, or that of bundled weights."""
        if cls.variant(model) != PUBLISHED:
            return super().published(model)
        folder = weights_dir() / PUBLISHED
        if not is_published(folder) and not (folder / INDEX).is_file():
            raise WeightsError(f"{folder}: holds no weights of LongAnimation; put {LAYOUT} there{cls.instead(model)}")
        return folder

    @classmethod
    def model_settings(cls, model: str | None = None) -> dict[str, Any]:
        """A model's own settings (steps, guidance, memory, …), read from its folder without loading networks.

        Args:
            model: a registered name; None: the default model.

        Raises:
            WeightsError: its weights are not available.
        """
        place = cls.published(model or cls.default())
        own = cls.published_settings()
        if not _is_ours(place):
            return own
        cls._check_folder(place)
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        return own | {name: index[name] for name in own if name in index}

    @classmethod
    def published_settings(cls) -> dict[str, Any]:
        """The settings of the published model."""
        found, parts = inspect.signature(cls).parameters, cls._optional_components
        return {name: one.default for name, one in found.items() if name not in [*cls._needed(), *parts]}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """Load a pipeline to the CPU from a folder in diffusers' layout, or from one with the published files; see `create`.

        Raises:
            InputError: the folder holds no pipeline, or a part is missing, damaged, or has no effect.
        """
        place = Path(str(pretrained_model_name_or_path))
        if is_published(place) and not _is_ours(place):
            old, new = kwargs.pop("torch_dtype", None), kwargs.pop("dtype", None)
            dtype = old if new is None else new
            precision = None if dtype is None else pick_dtype(dtype, torch.device("cpu"))
            pipe = cls(**open_published(place, precision, kwargs))
            pipe.name, pipe.checkpoint = PUBLISHED, str(place.absolute())
            pipe._scheduler_made = (pipe.scheduler, None)
            pipe._given = [name for name, part in kwargs.items() if part is not None]
        else:
            pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if pipe.checkpoint is not None or pipe.name == PUBLISHED:
            where = pipe.checkpoint or str(place)
            check_trained(pipe.sketch_dit, f"{where}: sketch_dit")
            if pipe.memory_fusion is not None and pipe.config["memory"] != "none":
                check_trained(pipe.memory_fusion, f"{where}: memory_fusion")
        return pipe

    @classmethod
    def _check_folder(cls, folder: Path) -> dict[str, Any]:
        try:
            return super()._check_folder(folder)
        except InputError as error:
            raise WeightsError(f"{error}; expected {LAYOUT}, or a folder that save_pretrained wrote") from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder has an index that does not name a pipeline of CogVideoX; also a damaged one, which loading reports."""
    index = folder / INDEX
    if not index.is_file():
        return False
    try:
        return "CogVideoX" not in json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return True


def check_family(vae: Any, transformer: Any, sketch_dit: Any, memory_fusion: Any, memory_encoder: Any) -> None:
    """Raise `InputError` unless the networks belong together, as those of LongAnimation do."""
    channels = vae.config["latent_channels"]
    width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    own = sketch_dit.config["num_attention_heads"] * sketch_dit.config["attention_head_dim"]
    found = {
        "the video network takes latents of": (transformer.config["in_channels"], 2 * channels, "channels"),
        "SketchDiT takes latents of": (sketch_dit.config["in_channels"], 2 * channels, "channels"),
        "the signal of SketchDiT has a width of": (own, width, "values"),
        "SketchDiT takes texts of width": (
            sketch_dit.config["text_embed_dim"], transformer.config["text_embed_dim"], "values",
        ),
    }  # fmt: skip
    if memory_fusion is not None:
        found["DGLM takes a signal of"] = (memory_fusion.config["dim"], width, "values")
        if memory_encoder is not None:
            language = memory_encoder.language
            given = language.num_key_value_heads * language.head_dim
            found["DGLM takes a memory of"] = (memory_fusion.config["memory_dim"], given, "values")
            found["DGLM takes a memory of so many levels,"] = (memory_fusion.config["depth"], len(language.levels), "")
    for what, (one, expected, unit) in found.items():
        if one != expected:
            raise InputError(
                f"these networks do not belong together: {what} {one} {unit}".rstrip()
                + f", but {expected} are needed; use all parts of one folder"
            )
