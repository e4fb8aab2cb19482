"""What the pipelines of all tasks share: opening a network by name or file, saving and loading, moving, and saying what made a result.

(The module is not called `pipeline`, as `visionzoo.pipeline` is the public function.)
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from .config import as_dict
from .devices import pick_device, pick_dtype
from .errors import InputError, unknown
from .io.files import make_folder, write_json
from .jobs import Engine, FileJob, FileResult, make_plan, run_files
from .lazy import resolve
from .registry import create_model, list_models, model_card, model_entry, weight_source
from .stored import CUSTOM, Stored, read_stored, stored_facts
from .weights import WeightsError, fetch, fingerprint, save_safetensors


@dataclass(frozen=True)
class Opened:
    """A network with its weights.

    Attributes:
        network: in eval mode, on the CPU.
        name: of the registered model, as it was asked for; or "custom".
        checkpoint: the weights file that was given; None for published weights and networks made in code.
        stored: what the file says of itself.
    """

    network: Any
    name: str
    checkpoint: Path | None = None
    stored: Stored = field(default_factory=Stored)


_SHARED = ("model", "network", "name", "device", "dtype", "checkpoint")
"""Arguments of every pipeline's constructor."""


class TaskPipeline:
    """Base of the pipelines. A subclass sets the class attributes, and in its constructor `model`, which runs.

    Attributes:
        task: registered name.
        kind: the adjective in "a dehazing model".
        default_model: what is used if neither a model nor a checkpoint that names one is given; see `default`.
        networks: classes of networks that the pipeline takes.
        files: "module:class" of the `FileJob` that `run` does; empty where a subclass has a `run` of its own.
        name: of the model: a registered name, or "custom".
        config: of the network.
        checkpoint: the weights file that was loaded, recorded beside results.
        device, dtype: where and in what precision the network runs.
        fingerprint: of the weights.
        network: as it was given; it is not changed.
        model: what runs: `network` prepared for inference, on the device.
    """

    task: ClassVar[str]
    kind: ClassVar[str]
    default_model: ClassVar[str]
    networks: ClassVar[tuple[type[nn.Module], ...]]
    files: ClassVar[str] = ""

    model: Any

    def __init__(
        self,
        network: Any,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
    ):
        self.name, self.config, self.network = name, network.config, network
        self.checkpoint = None if checkpoint is None else str(Path(checkpoint).absolute())
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.fingerprint = fingerprint(network)

    # Made by name, from a file, or from a network

    @classmethod
    def create(
        cls,
        model: str | nn.Module | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        **settings: Any,
    ) -> Self:
        """A pipeline for `model`, with the weights of `checkpoint` or else the model's own; see `open`.

        Args:
            model: a registered name, with or without a tag of weights, or a network; None is the checkpoint's model, or the default.
            device, dtype: where and in what precision the network runs.
            checkpoint: published or own key names.
            **settings: arguments of the class, of which None is what the checkpoint says, or the default; and fields of the
                network's configuration.

        Raises:
            InputError: a name, file or setting that cannot be used, a file of another model than `model`, or a model without weights
                here.
        """
        own = {name: settings.pop(name) for name in cls.own_settings() if name in settings}
        own = {name: value for name, value in own.items() if value is not None}
        chosen = pick_device(device)  # all arguments are checked before anything is downloaded
        cls.check_settings(chosen, pick_dtype(dtype, chosen), own)
        return cls._made(cls.open(model, checkpoint, settings), device, dtype, **own)

    @classmethod
    def own_settings(cls) -> list[str]:
        """Names of the constructor's arguments that are this task's own."""
        return [name for name in inspect.signature(cls).parameters if name not in _SHARED]

    @classmethod
    def check_settings(cls, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]) -> None:
        """Raise `InputError` for a value in `settings` that cannot be used, whatever the network is.

        Args:
            settings: arguments of the class that `create` was given, without those that are None.
        """

    @classmethod
    def open(cls, model: str | nn.Module | None, checkpoint: str | Path | None, overrides: dict[str, Any]) -> Opened:
        """The network for `create`: `model` with the weights of `checkpoint`, or else its published ones.

        A file that `visionzoo fit` or `save_pretrained` wrote says which model it is for; what is given here wins.

        Args:
            model: a registered name, with or without a tag of weights, or a network; None is the checkpoint's model, or the default.
            checkpoint: published or own key names.
            overrides: fields of the network's configuration.

        Raises:
            InputError: a name, file or setting that cannot be used, or a file of another model than `model`.
        """
        if isinstance(model, nn.Module):
            if not isinstance(model, cls.networks):
                raise InputError(f"expected a {cls.networks[0].__name__} network or a name, got {type(model).__name__}")
            if checkpoint is not None or overrides:
                raise InputError("a network has its weights and configuration; a checkpoint and fields go with a name")
            return Opened(model, CUSTOM)
        if model is not None:
            cls.check_name(model)
        if checkpoint is not None:
            return cls._open_file(Path(checkpoint), read_stored(checkpoint), model, overrides)
        model = model or cls.default()
        source = weight_source(model)
        try:
            path = fetch(source)
        except WeightsError as error:
            raise WeightsError(f"{error}{cls.instead(model)}") from error
        if source.caution:
            warnings.warn(f"{model}: {source.caution}", stacklevel=3)
        opened = cls._open_file(path, read_stored(path), model, overrides)
        return Opened(opened.network, opened.name, None, opened.stored)

    @classmethod
    def _open_file(cls, path: Path, stored: Stored, model: str | None, overrides: dict[str, Any]) -> Opened:
        wanted = None if model is None else cls.variant(model)
        if stored.model == CUSTOM:
            if stored.task not in (None, cls.task):
                raise InputError(f"{path}: holds a network for the task {stored.task}, which is not a {cls.kind} model")
            if wanted is not None:
                raise InputError(f"{path}: holds weights of a custom network, not of {model}; omit the model")
        elif stored.model is not None:
            try:
                cls.check_name(stored.model)
            except InputError:
                raise InputError(
                    f"{path}: is for {stored.model!r}, which is not a {cls.kind} model; see `visionzoo models`"
                ) from None
            if wanted is not None and wanted != cls.variant(stored.model):
                raise InputError(f"{path}: holds weights of {stored.model}, not of {model}; omit the model")
        name = model or stored.model or cls.default_model
        base = cls.base_of(stored.config) if name == CUSTOM else name
        try:
            network = cls.load(base, path, {**stored.config, **overrides})
        except WeightsError as error:
            if "does not fit" not in str(error) or model is not None or stored.model is not None:
                raise
            raise WeightsError(f"{error}; if it is not of {base}, name its model: --model NAME") from error
        return Opened(network, name, path, stored)

    @classmethod
    def default(cls) -> str:
        """The model that is used with published weights if none is named."""
        return cls.default_model

    @classmethod
    def base_of(cls, config: dict[str, Any]) -> str:
        """A registered model of the class of a custom network, whose stored configuration has every field."""
        del config
        return cls.default_model

    @classmethod
    def load(cls, name: str, path: Path, config: dict[str, Any]) -> nn.Module:
        """The network called `name` with a file's weights; `config` are fields of its configuration."""
        return create_model(name, checkpoint=path, **config)

    @classmethod
    def check_name(cls, name: str) -> None:
        """Raise `InputError` unless `name` is a model of this task."""
        if name.partition(".")[0] not in list_models():
            raise unknown("model", name, list_models(task=cls.task))
        if model_entry(name).card.task != cls.task:
            known = ", ".join(list_models(task=cls.task))
            raise InputError(f"{name} is not a {cls.kind} model; use {known}")

    @classmethod
    def variant(cls, name: str) -> str:
        """A model's name without the tag of its weights."""
        return model_entry(name).card.name

    @classmethod
    def instead(cls, model: str | None) -> str:
        """The end of the message that weights are not here: a model whose weights are."""
        del model
        sources = [source for name in list_models(task=cls.task) for source in model_card(name).weights]
        bundled = next((source.name for source in sources if source.bundled and not source.caution), None)
        return "" if bundled is None else f"; or use --model {bundled}, whose weights come with visionzoo"

    @classmethod
    def _made(cls, opened: Opened, device: str | torch.device, dtype: str | torch.dtype, **settings: Any) -> Self:
        """The pipeline of an opened network; settings that are not given come from the file."""
        facts = {**cls.stored_settings(opened.stored), **settings}
        return cls(opened.network, opened.name, device, dtype, checkpoint=opened.checkpoint, **facts)

    @classmethod
    def stored_settings(cls, stored: Stored) -> dict[str, Any]:
        """Arguments of the class that a weights file states."""
        del stored
        return {}

    # Saved and loaded

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "auto", dtype: str = "auto") -> Self:
        """The pipeline that `save_pretrained` wrote to `directory`, or the one of a registered model's name.

        Raises:
            InputError: the folder holds no pipeline of this task, or its weights do not fit.
        """
        folder = Path(directory)
        if not folder.is_dir():
            return cls._made(cls.open(str(directory), None, {}), device, dtype)
        try:
            stored = Stored.of(json.loads((folder / "pipeline.json").read_text(encoding="utf-8")))
            if stored.model is None:
                raise ValueError("it names no model")
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: holds no saved {cls.kind} pipeline (pipeline.json: {error})") from error
        if stored.model != CUSTOM:
            try:
                cls.check_name(stored.model)
            except InputError:
                raise InputError(
                    f"{folder}: holds no saved {cls.kind} pipeline (its model is {stored.model})"
                ) from None
        if stored.task not in (None, cls.task):
            raise InputError(f"{folder}: holds no saved {cls.kind} pipeline (it is for the task {stored.task})")
        return cls._made(cls._open_file(folder / "model.safetensors", stored, None, {}), device, dtype)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the weights (not fused, float32) and settings to a folder.

        `model.safetensors` in it holds the same facts as `pipeline.json`, so that it is a checkpoint of its own.

        Raises:
            InputError: the network is fused, and could not be loaded again; or the folder cannot be made.
        """
        if getattr(self.network, "is_fused", False):
            raise InputError("a fused network cannot be saved to be loaded again; save the one that it was made of")
        folder = make_folder(directory)
        name = self.name if self.name == CUSTOM else self.variant(self.name)
        facts = {"task": self.task, "model": name, "config": as_dict(self.config), **self.settings()}
        state = {
            key: value.detach().float() if value.is_floating_point() else value
            for key, value in self.network.state_dict().items()
        }
        save_safetensors(state, folder / "model.safetensors", stored_facts(facts))
        write_json(folder / "pipeline.json", facts)

    def settings(self) -> dict[str, Any]:
        """What is saved beside the weights, as fields of `visionzoo.stored.Stored`."""
        return {}

    # In use

    def to(self, device: str | torch.device) -> Self:
        """Move the network; returns the pipeline."""
        self.device = pick_device(device)
        self.model.to(self.device)
        return self

    def facts(self) -> dict[str, Any]:
        """What made a result: model, weights, device, precision and settings; recorded beside outputs."""
        settings = {key: value for key, value in self.settings().items() if key != "classes"}
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "weights": self.fingerprint,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            **settings,
        }

    def arguments(self) -> dict[str, Any]:
        """Arguments with which `visionzoo.pipeline` makes this pipeline again, also on another machine.

        Raises:
            InputError: the network was made in code, and is in no file.
        """
        if self.name == CUSTOM and self.checkpoint is None:
            raise InputError(
                "--engine ray needs a network that other processes can load; save this one with save_pretrained first, and "
                "make the pipeline with from_pretrained"
            )
        return {
            "task": self.task,
            "model": None if self.name == CUSTOM else self.name,
            "checkpoint": self.checkpoint,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            **as_dict(self.config),
        }

    def run(
        self,
        path_in: str | Path | Sequence[str | Path],
        path_out: str | Path,
        progress: bool = True,
        *,
        overwrite: bool = False,
        format: str | None = None,
        engine: Engine = "local",
        on_result: Callable[[FileResult], None] | None = None,
        **options: Any,
    ) -> list[FileResult]:
        """Process a file to a file; or several files, a folder or a glob pattern to a folder.

        Args:
            progress, overwrite, engine, on_result: see `visionzoo.jobs.run_files`.
            format: extension of the results in a folder of outputs, e.g. ".png"; see `visionzoo.jobs.make_plan`.
            **options: of the task's job, which `files` names.

        Raises:
            InputError: nothing found, none readable, or an output that cannot be written.
        """
        job: FileJob = resolve(self.files)(self, **options)
        plan = make_plan(path_in, path_out, job.kinds, format)
        return run_files(job, plan, overwrite=overwrite, progress=progress, engine=engine, on_result=on_result)

    @property
    def gpus(self) -> float:
        """GPUs that a process needs which runs this pipeline."""
        return 1.0 if self.device.type == "cuda" else 0.0


__all__ = ["CUSTOM", "Opened", "TaskPipeline"]
