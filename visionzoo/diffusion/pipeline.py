"""Base of the pipelines of diffusion tasks: a `DiffusionPipeline` of diffusers that is also a task of visionzoo.

A subclass registers its parts in the constructor and reads like the algorithm in `__call__`:

    class TextToImage(DiffusionTaskPipeline):
        task, kind, default_model, files = "…", "…", "…", "…:FileJob"

        def __init__(self, vae, text_encoder, tokenizer, unet, scheduler):
            super().__init__()
            self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)

        def __call__(self, prompt, seed=0, …, progress=None, callback_on_step_end=None):
            for i, t in self.steps(self.scheduler.timesteps, progress):
                …
                latents = scheduler_step(self.scheduler, output, t, latents)
                latents = self.after_step(callback_on_step_end, i, t, latents=latents)["latents"]
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from diffusers.pipelines import pipeline_utils
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from ..devices import DTYPES, pick_device, pick_dtype
from ..errors import InputError, WeightsError
from ..io.files import make_folder
from ..registry import list_models
from ..stored import CUSTOM
from ..task import Task
from ..weights import fingerprint
from .embeddings import list_embeddings, load_embedding
from .folders import (
    check_complete,
    check_named,
    check_parts,
    finish_saving,
    import_own,
    load_transformers,
    one_line,
    read_facts,
    without_bars,
)
from .lora import list_loras, load_lora
from .schedulers import check_scheduler, make_scheduler
from .steps import Steps

__all__ = ["DiffusionTaskPipeline"]

Offload = Literal["none", "model", "sequential"]

_FINGERPRINT_VALUES = 4096
_DTYPE = "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"
"""The argument of `from_pretrained`: the old name gives a warning in new versions, and old versions ignore the new one."""


class DiffusionTaskPipeline(Task, Steps, DiffusionPipeline):
    """Base of the pipelines of diffusion tasks; see the module's docstring.

    It has what every `DiffusionPipeline` has (`from_pretrained`, `save_pretrained`, `to`, offloading, `components`, progress bars)
    and what every task has (`create`, `run`, `facts`, `arguments`). Parts that are given in code are put into eval mode, as their
    dropout would make one seed give two results.

    Attributes:
        name: name of the model: a registered name, or "custom".
        checkpoint: the folder that was given, recorded with results.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(self) -> None:
        super().__init__()
        self.name = CUSTOM
        self.checkpoint = None
        self._interrupt = False
        self._scheduler_made: tuple[Any, str | None] = (None, None)
        self._given: list[str] = []
        self._loras_given: dict[str, tuple[str, float]] = {}
        self._embeddings_given: list[str] = []
        self._words_made: dict[str, str] = {}
        self.single_file_config: str | None = None
        self._offload: str = "none"

    def register_modules(self, **kwargs: Any) -> None:
        """Register parts of the pipeline, networks in eval mode."""
        super().register_modules(**kwargs)
        for part in kwargs.values():
            if isinstance(part, nn.Module):
                part.eval()

    # Creation by name or from a folder

    @classmethod
    def create(
        cls,
        model: str | DiffusionPipeline | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        *,
        scheduler: str | None = None,
        offload: Offload = "none",
        config: str | Path | None = None,
        loras: Mapping[str, float] | None = None,
        embeddings: Sequence[str | Path] = (),
        **parts: Any,
    ) -> Self:
        """Create a pipeline that is ready to run.

        Args:
            model: a registered name, with or without a tag of weights, or a pipeline of diffusers with the same parts (they
                are shared); None is the checkpoint's model, or the default.
            device, dtype: where and in what precision the networks run; "auto" is float32 on a CPU.
            checkpoint: folder in the layout of diffusers, or a single file with `config`, instead of the model's own weights.
            scheduler: name of a scheduler, see `visionzoo.diffusion.scheduler_names`; by default that of the folder.
            offload: "model" or "sequential" keeps networks in main memory while they do not run. Ignored on a CPU.
            config: folder with the configuration and the tokenizer of a `checkpoint` in a single file.
            loras: files of LoRA to load, and the strength of each; see `visionzoo.diffusion.load_lora`.
            embeddings: files of textual inversions to load; see `visionzoo.diffusion.load_embedding`.
            **parts: parts to use instead of those in the folder, e.g. `vae=…`; None for optional parts that shall be left out.

        Raises:
            InputError: a name, folder or part that cannot be used, or a folder of another task or model.
        """
        chosen = pick_device(device)
        precision = pick_dtype(dtype, chosen)
        if scheduler is not None:
            check_scheduler(scheduler)
        if offload not in get_args(Offload):
            raise InputError(f"unknown offload {offload!r}; use {', '.join(get_args(Offload))}")
        cls._check_parts(parts)
        if isinstance(model, DiffusionPipeline):
            if checkpoint is not None:
                raise InputError("a pipeline already has weights; checkpoints need a model name")
            pipe = cls._of(model, parts)
            if dtype != "auto":
                pipe.to(dtype=precision)
        elif model is not None and not isinstance(model, str):
            raise InputError(f"expected a pipeline of diffusers or the name of a model, got {type(model).__name__}")
        else:
            pipe = cls._open(model, checkpoint, config, precision, parts)
        if scheduler is not None:
            pipe.set_scheduler(scheduler)
        for path, scale in (loras or {}).items():
            pipe._loras_given[load_lora(pipe, path, scale=scale)] = (str(Path(path).absolute()), float(scale))
        for path in embeddings:
            load_embedding(pipe, path)
        pipe._embeddings_given = [str(Path(path).absolute()) for path in embeddings]
        pipe._words_made = list_embeddings(pipe)
        return pipe._place(chosen, offload)

    @classmethod
    def _check_parts(cls, parts: Mapping[str, Any]) -> None:
        known = cls.part_names()
        if unknown := sorted(parts.keys() - known):
            raise InputError(f"{cls.__name__} has no part or setting {unknown[0]!r}; it has {', '.join(known)}")

    @classmethod
    def part_names(cls) -> list[str]:
        """Names of the constructor's arguments: parts of the pipeline."""
        return [name for name in inspect.signature(cls).parameters if name != "self"]

    @classmethod
    def _of(cls, other: DiffusionPipeline, parts: Mapping[str, Any]) -> Self:
        """A pipeline with the parts and settings of another one."""
        settings: Any = other.config
        found = {name: settings[name] for name in cls.part_names() if name in settings and name not in other.components}
        found |= {name: part for name, part in other.components.items() if name in cls.part_names()}
        given = {**found, **parts}
        if missing := [name for name in cls._needed() if name not in given]:
            raise InputError(
                f"a {type(other).__name__} has no {' and no '.join(missing)}, which a {cls.__name__} needs"
            )
        pipe = cls(**given)
        pipe.name, pipe.checkpoint = getattr(other, "name", CUSTOM), getattr(other, "checkpoint", None)
        return pipe

    @classmethod
    def _open(
        cls,
        model: str | None,
        checkpoint: str | Path | None,
        config: str | Path | None,
        dtype: torch.dtype,
        parts: Mapping[str, Any],
    ) -> Self:
        """A pipeline of a model by name, of a folder, or of a single file."""
        if model is not None:
            cls.check_name(model)
        this: Any = cls
        is_file = checkpoint is not None and (
            Path(checkpoint).is_file() if config is None else not Path(checkpoint).is_dir()
        )
        is_single = is_file and hasattr(cls, "from_single_file")
        if config is not None and not is_single:
            raise InputError(
                f"{config}: a configuration belongs to a checkpoint in a single file, which has none of its own"
            )
        if checkpoint is None:
            return cls._registered(model or cls.default(), dtype=dtype, **parts)
        if is_single:
            pipe = this.from_single_file(checkpoint, config=config, dtype=dtype, **parts)
        else:
            pipe = cls.from_pretrained(Path(checkpoint), dtype=dtype, **parts)
        if model is not None and pipe.name != CUSTOM and cls.variant(pipe.name) != cls.variant(model):
            raise InputError(f"{checkpoint}: holds weights of {pipe.name}, not of {model}; omit the model")
        if model is not None and pipe.name == CUSTOM:
            pipe.name = model
        return pipe

    @classmethod
    def _check_folder(cls, folder: Path) -> dict[str, Any]:
        """The content of `pipeline.json`, if any. Raises `InputError` unless the folder can hold a pipeline of this task."""
        stored = read_facts(folder, cls.task, cls.kind, single=hasattr(cls, "from_single_file"))
        if (model := stored.get("model", CUSTOM)) != CUSTOM:
            try:
                cls.check_name(model)
            except InputError:
                raise InputError(f"{folder}: holds no saved {cls.kind} pipeline (its model is {model})") from None
        return stored

    @classmethod
    def check_index(cls, folder: Path, given: Sequence[str]) -> None:
        """Raise `WeightsError` unless a folder names all parts that the pipeline needs, besides those that are `given` in code.

        A subclass says here what else cannot be used, before weights are loaded.
        """
        check_named(folder, [name for name in cls._needed() if name not in given], f"a {cls.__name__}")

    @classmethod
    def _needed(cls) -> list[str]:
        """Names of the parts that have no default."""
        found = inspect.signature(cls).parameters
        return [name for name, one in found.items() if one.default is inspect.Parameter.empty]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """Load a pipeline to the CPU from a folder, a registered model, or a repository of the Hugging Face hub.

        Parts whose classes are visionzoo's are found without being imported first.

        Args:
            pretrained_model_name_or_path: the folder or name.
            **kwargs: see `DiffusionPipeline.from_pretrained`; `dtype` (or `torch_dtype`) may be text, e.g. "float16".

        Raises:
            InputError: the folder holds no pipeline, or a part is missing, damaged or does not fit.
        """
        place = pretrained_model_name_or_path
        if isinstance(place, str) and not Path(place).exists() and place.partition(".")[0] in list_models():
            cls.check_name(place)
            return cls._registered(place, **kwargs)
        local, stored = isinstance(place, Path) or Path(place).exists(), {}
        given = [part for part in cls.part_names() if kwargs.get(part) is not None]
        old, new = kwargs.pop("torch_dtype", None), kwargs.pop("dtype", None)
        if (dtype := old if new is None else new) is not None:
            dtype = kwargs[_DTYPE] = pick_dtype(dtype, torch.device("cpu"))
        try:
            if local:
                stored = cls._check_folder(Path(place))
                cls.check_index(Path(place), given)
                kwargs = cls._local_parts(Path(place), dtype, kwargs)
            with without_bars() if local else contextlib.nullcontext():
                pipe = super().from_pretrained(str(place), **kwargs)
        except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
            if isinstance(error, InputError) or not local:
                raise
            raise WeightsError(f"{place}: cannot be loaded ({one_line(error)})") from error
        pipe._scheduler_made = (pipe.components.get("scheduler"), None)
        pipe._given, pipe._words_made = given, list_embeddings(pipe)
        if local:
            check_complete(pipe.components, Path(place))
            pipe.checkpoint = str(Path(place).absolute())
            pipe.name = stored.get("model", CUSTOM)
        return pipe

    @classmethod
    def _registered(cls, model: str, **kwargs: Any) -> Self:
        """A pipeline of a registered model, also where the working directory has a folder of that name."""
        pipe = cls.from_pretrained(cls.published(model), **kwargs)
        pipe.name, pipe.checkpoint = model, None
        return pipe

    @classmethod
    def _get_signature_types(cls) -> dict[str, Any]:
        """Types of the parts. Old versions of diffusers know none for annotations that are text, and then accept no part."""
        types = super()._get_signature_types()
        return {**dict.fromkeys(cls.part_names(), (object,)), **types}

    @classmethod
    def _local_parts(cls, folder: Path, dtype: torch.dtype | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """`kwargs` with the variant of the weights, and with those parts that diffusers would not load safely."""
        names = [name for name in cls.part_names() if name not in kwargs]
        import_own(folder, names)
        kwargs.setdefault("variant", check_parts(folder, names))
        if kwargs.keys() & {"device_map", "quantization_config"}:
            return kwargs
        return {**kwargs, **load_transformers(folder, names, dtype, kwargs["variant"])}

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write the pipeline to a folder that diffusers reads, with transformers 4 and 5.

        `pipeline.json` beside `model_index.json` records the task and the model.

        Args:
            save_directory: the folder, created if it does not exist.
            **kwargs: see `DiffusionPipeline.save_pretrained`.

        Raises:
            InputError: a LoRA is loaded, a part cannot be saved, or the folder cannot be created.
        """
        for name, part in self.components.items():
            if getattr(part, "peft_config", None):
                raise InputError(
                    f"a LoRA is loaded in the {name}: call unload_lora_weights() before saving, and save the LoRA by itself"
                )
            if part is not None and not hasattr(part, "save_pretrained"):
                raise InputError(
                    f"the {name} ({type(part).__name__}) has no save_pretrained; leave it out, or save it yourself"
                )
        folder = make_folder(save_directory)
        with without_bars():
            super().save_pretrained(str(folder), **kwargs)
        model = self.name if self.name == CUSTOM else self.variant(self.name)
        finish_saving(folder, self.components, {"task": self.task, "model": model})

    # Where it runs

    @property
    def run_device(self) -> torch.device:
        """Where the networks run, also if their weights are kept elsewhere meanwhile."""
        this: Any = self
        return this._execution_device

    @property
    def gpus(self) -> float:
        return 1.0 if self.run_device.type == "cuda" else 0.0

    def _place(self, device: torch.device, offload: Offload) -> Self:
        self._offload = "none" if device.type == "cpu" else offload
        if self._offload == "none":
            return self.to(device)
        if offload == "model":
            self.enable_model_cpu_offload(device=device)
        else:
            self.enable_sequential_cpu_offload(device=device)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and convert the networks, as in diffusers; return the pipeline. Raises `InputError` for a device that is missing."""
        for device in (*args, kwargs.get("device")):
            if isinstance(device, str) and device not in DTYPES:
                pick_device(device)
        # the warning says that CPUs cannot compute in float16, which was true for old versions of torch
        return super().to(*args, **{"silence_dtype_warnings": True, **kwargs})

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Keep networks in main memory while they do not run; without an accelerator, where they are already, a warning."""
        if self._has_accelerator(device):
            super().enable_model_cpu_offload(gpu_id, device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Keep layers in main memory while they do not run; without an accelerator, where they are already, a warning."""
        if self._has_accelerator(device):
            super().enable_sequential_cpu_offload(gpu_id, device)

    @staticmethod
    def _has_accelerator(device: Any) -> bool:
        if pick_device("auto" if device is None else device).type != "cpu":
            return True
        warnings.warn("nothing is offloaded: the networks run on the CPU", stacklevel=3)
        return False

    def set_scheduler(self, name: str, **settings: Any) -> None:
        """Use another scheduler, by name; see `visionzoo.diffusion.make_scheduler`."""
        self.scheduler = make_scheduler(name, self.components["scheduler"], **settings)
        self._scheduler_made = (None, None) if settings else (self.scheduler, name)

    # How results are recorded and recreated

    @property
    def fingerprint(self) -> str:
        """A fingerprint of the weights of all networks, from a sample of each tensor."""
        parts = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        texts = [f"{name} {fingerprint(parts[name], _FINGERPRINT_VALUES)}" for name in sorted(parts)]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """How a result was made: model, weights, device, precision, scheduler, LoRA; recorded with outputs."""
        facts = {**super().facts(), "device": str(self.run_device)}
        if (scheduler := self.components.get("scheduler")) is not None:
            settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
            facts["scheduler"] = {"class": type(scheduler).__name__, **settings}
        if loras := list_loras(self):
            facts["loras"] = loras
        if words := list_embeddings(self):
            facts["embeddings"] = words
        return facts

    def arguments(self) -> dict[str, Any]:
        arguments = super().arguments()
        made, name = self._scheduler_made
        changed = [f"the {part}" for part in self._given]
        changed += ["the scheduler"] if self.components.get("scheduler") is not made else []
        loras = list_loras(self)
        changed += ["a LoRA"] if loras != {name: scale for name, (_, scale) in self._loras_given.items()} else []
        changed += ["a textual inversion"] if list_embeddings(self) != self._words_made else []
        if changed:
            raise InputError(
                f"--engine ray needs a pipeline that other processes can load, but {' and '.join(changed)} was set in code; save the "
                "pipeline with save_pretrained first, and create it from that folder"
            )
        arguments |= {"device": self.run_device.type} | ({} if self._offload == "none" else {"offload": self._offload})
        more = {"scheduler": name, "config": self.single_file_config, "loras": dict(self._loras_given.values())}
        more["embeddings"] = self._embeddings_given
        return {**arguments, **{key: value for key, value in more.items() if value}}
