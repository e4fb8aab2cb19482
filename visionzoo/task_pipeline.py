"""Base of the pipelines of all tasks: opening networks by name or file, saving, loading, moving, and recording how a result was made.

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
from .errors import Caution, InputError, unknown
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
        name: the registered model's name as requested, or "custom".
        checkpoint: the given weights file; None for published weights and networks made in code.
        stored: metadata of the file.
    """

    network: Any
    name: str
    checkpoint: Path | None = None
    stored: Stored = field(default_factory=Stored)


_SHARED = ("model", "network", "name", "device", "dtype", "checkpoint")
"""Constructor arguments of every pipeline."""


class TaskPipeline:
    """Base of the pipelines. A subclass sets the class attributes and, in its constructor, `model`.

    Attributes:
        task: registered name of the task.
        kind: adjective for models of the task, e.g. "dehazing" in "a dehazing model".
        default_model: model to use if neither a model nor a checkpoint that states one is given; see `default`.
        networks: network classes that the pipeline accepts.
        files: "module:class" of the `FileJob` for `run`; empty if a subclass defines its own `run`.
        name: name of the model: a registered name, or "custom".
        config: configuration of the network.
        checkpoint: the loaded weights file, recorded with results.
        device, dtype: where and in what precision the network runs.
        fingerprint: fingerprint of the weights.
        network: the given network, unchanged.
        model: `network` prepared for inference, on the device.
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

    # Creation by name, from a file, or from a network

    @classmethod
    def create(
        cls,
        model: str | nn.Module | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        **settings: Any,
    ) -> Self:
        """Create a pipeline for `model`, with the weights of `checkpoint` or else the model's own; see `open`.

        Args:
            model: a registered name, with or without a tag of weights, or a network; None is the checkpoint's model, or the default.
            device, dtype: where and in what precision the network runs.
            checkpoint: weights file, with published or our key names.
            **settings: constructor arguments, where None means the checkpoint's value or the default; and fields of the
                network's configuration.

        Raises:
            InputError: a name, file or setting that cannot be used, a file for another model than `model`, or a model whose
                weights are not available.
        """
        if checkpoint is None and not isinstance(model, nn.Module):
            settings = {**cls.untrained_settings(pick_device(device), settings), **settings}
        own = {name: settings.pop(name) for name in cls.own_settings() if name in settings}
        own = {name: value for name, value in own.items() if value is not None}
        chosen = pick_device(device)  # all arguments are checked before anything is downloaded
        cls.check_settings(chosen, pick_dtype(dtype, chosen), own)
        return cls._from_opened(cls.open(model, checkpoint, settings), device, dtype, **own)

    @classmethod
    def untrained_settings(cls, device: torch.device, settings: dict[str, Any]) -> dict[str, Any]:
        """Fields of the configuration that `create` uses for a model by name, unless `settings` has them."""
        del device, settings
        return {}

    @classmethod
    def own_settings(cls) -> list[str]:
        """Names of the constructor arguments that are specific to this task."""
        return [name for name in inspect.signature(cls).parameters if name not in _SHARED]

    @classmethod
    def check_settings(cls, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]) -> None:
        """Raise `InputError` for a value in `settings` that cannot be used, whatever the network is.

        Args:
            settings: arguments of the class that `create` was given, without those that are None.
        """

    @classmethod
    def open(cls, model: str | nn.Module | None, checkpoint: str | Path | None, overrides: dict[str, Any]) -> Opened:
        """Open the network for `create`: `model` with the weights of `checkpoint`, or else its published ones.

        A file written by `visionzoo fit` or `save_pretrained` states its model; arguments given here take precedence.

        Args:
            model: a registered name, with or without a tag of weights, or a network; None is the checkpoint's model, or the default.
            checkpoint: published or own key names.
            overrides: fields of the network's configuration.

        Raises:
            InputError: a name, file or setting that cannot be used, or a file for another model than `model`.
        """
        if isinstance(model, nn.Module):
            if not isinstance(model, cls.networks):
                raise InputError(f"expected a {cls.networks[0].__name__} network or a name, got {type(model).__name__}")
            if checkpoint is not None or overrides:
                raise InputError(
                    "a network already has weights and a configuration; checkpoints and fields need a model name"
                )
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
            warnings.warn(f"{model}: {source.caution}", Caution, stacklevel=3)
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
            raise WeightsError(f"{error}; if it is not for {base}, give its model with --model NAME") from error
        return Opened(network, name, path, stored)

    @classmethod
    def default(cls) -> str:
        """The model to use with published weights if none is given."""
        return cls.default_model

    @classmethod
    def base_of(cls, config: dict[str, Any]) -> str:
        """A registered model of the same class as a custom network, whose stored configuration has every field."""
        del config
        return cls.default_model

    @classmethod
    def load(cls, name: str, path: Path, config: dict[str, Any]) -> nn.Module:
        """Load the network `name` with a file's weights; `config` holds fields of its configuration."""
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
    def instead(cls, model: str) -> str:
        """The end of the message for weights of `model` that are not available: a model whose weights are bundled."""
        del model
        sources = [source for name in list_models(task=cls.task) for source in model_card(name).weights]
        bundled = next((source.name for source in sources if source.bundled and not source.caution), None)
        return "" if bundled is None else f"; or use --model {bundled}, whose weights come with visionzoo"

    @classmethod
    def _from_opened(
        cls, opened: Opened, device: str | torch.device, dtype: str | torch.dtype, **settings: Any
    ) -> Self:
        """Make the pipeline of an opened network; missing settings come from the file."""
        facts = {**cls.stored_settings(opened.stored), **settings}
        return cls(opened.network, opened.name, device, dtype, checkpoint=opened.checkpoint, **facts)

    @classmethod
    def stored_settings(cls, stored: Stored) -> dict[str, Any]:
        """Constructor arguments that a weights file states."""
        del stored
        return {}

    # Saving and loading

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "auto", dtype: str = "auto") -> Self:
        """Load the pipeline that `save_pretrained` wrote to `directory`, or that of a registered model.

        Raises:
            InputError: the folder holds no pipeline of this task, or its weights do not fit.
        """
        folder = Path(directory)
        if not folder.is_dir():
            return cls._from_opened(cls.open(str(directory), None, {}), device, dtype)
        try:
            stored = Stored.of(json.loads((folder / "pipeline.json").read_text(encoding="utf-8")))
            if stored.model is None:
                raise ValueError("it states no model")
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
        return cls._from_opened(cls._open_file(folder / "model.safetensors", stored, None, {}), device, dtype)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the weights (not fused, float32) and settings to a folder.

        `model.safetensors` in it holds the same metadata as `pipeline.json`, so that it can be used as a checkpoint by itself.

        Raises:
            InputError: the network is fused and could not be loaded again; or the folder cannot be created.
        """
        if getattr(self.network, "is_fused", False):
            raise InputError("a fused network could not be loaded again; save the original network")
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
        """Settings to save with the weights, as fields of `visionzoo.stored.Stored`."""
        return {}

    # Use

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device; return the pipeline."""
        self.device = pick_device(device)
        self.model.to(self.device)
        return self

    def facts(self) -> dict[str, Any]:
        """How a result was made: model, weights, device, precision and settings; recorded with outputs."""
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
        """Arguments with which `visionzoo.pipeline` recreates this pipeline, also on another machine.

        Raises:
            InputError: the network was made in code and is not in a file.
        """
        if self.name == CUSTOM and self.checkpoint is None:
            raise InputError(
                "--engine ray needs a network that other processes can load; save this one with save_pretrained first, and "
                "create the pipeline with from_pretrained"
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
        """Process one file to a file, or several files, a folder or a glob pattern to a folder.

        Args:
            progress, overwrite, engine, on_result: see `visionzoo.jobs.run_files`.
            format: extension of the results in an output folder, e.g. ".png"; see `visionzoo.jobs.make_plan`.
            **options: options of the task's job; see `files`.

        Raises:
            InputError: nothing was found, no input is readable, or an output cannot be written.
        """
        job: FileJob = resolve(self.files)(self, **options)
        plan = make_plan(path_in, path_out, job.kinds, format)
        return run_files(job, plan, overwrite=overwrite, progress=progress, engine=engine, on_result=on_result)

    @property
    def gpus(self) -> float:
        """Number of GPUs that a process running this pipeline needs."""
        return 1.0 if self.device.type == "cuda" else 0.0


__all__ = ["CUSTOM", "Opened", "TaskPipeline"]
