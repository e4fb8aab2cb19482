"""Base of the pipelines with one network: opening it by name or file, saving, loading, moving, and recording how a result was made.

(The module is not called `pipeline`, as `visionzoo.pipeline` is the public function.)
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from .config import as_dict
from .devices import pick_device, pick_dtype
from .errors import InputError
from .io.files import make_folder, write_json
from .registry import create_model
from .stored import CUSTOM, Stored, read_stored, stored_facts
from .task import Task
from .weights import WeightsError, fingerprint, save_safetensors


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


class TaskPipeline(Task):
    """Base of the pipelines that hold one network. A subclass sets the class attributes and, in its constructor, `model`.

    Attributes:
        networks: network classes that the pipeline accepts.
        config: configuration of the network.
        device, dtype: where and in what precision the network runs.
        fingerprint: fingerprint of the weights.
        network: the given network, unchanged.
        model: `network` prepared for inference, on the device.
    """

    networks: ClassVar[tuple[type[nn.Module], ...]]

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
        path = cls.published(model)
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
    def base_of(cls, config: dict[str, Any]) -> str:
        """A registered model of the same class as a custom network, whose stored configuration has every field."""
        del config
        return cls.default_model

    @classmethod
    def load(cls, name: str, path: Path, config: dict[str, Any]) -> nn.Module:
        """Load the network `name` with a file's weights; `config` holds fields of its configuration."""
        return create_model(name, checkpoint=path, **config)

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
        return {**super().facts(), **{key: value for key, value in self.settings().items() if key != "classes"}}

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), **as_dict(self.config)}


__all__ = ["CUSTOM", "Opened", "TaskPipeline"]
