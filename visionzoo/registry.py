"""Registry of models and tasks.

A system registers its variants in `models/<system>/__init__.py`, a task registers itself in `pipelines/<task>/__init__.py`. Both
use text ("module:attribute"), so that listing names imports nothing heavy. The base package names no system and no task: the
command line, the demo, `visionzoo bench` and `visionzoo doctor` show what has been registered.
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import weights
from .cards import ModelCard, WeightSource
from .errors import InputError, unknown
from .lazy import resolve
from .stored import remember_stored, stored_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: `builder(name, **config_overrides)` returns the network with random weights."""

    card: ModelCard
    builder: str


@dataclass(frozen=True)
class Bench:
    """A benchmark that `visionzoo bench` lists and runs.

    Attributes:
        name: as typed after `visionzoo bench`.
        place: "module:function" inside `visionzoo`, e.g. "benchmarks.retrieval:rerank"; the function takes `rounds` and `command`.
        summary: what is measured.
        peer: the implementation it is compared with.
    """

    name: str
    place: str
    summary: str
    peer: str


@dataclass(frozen=True)
class Need:
    """An optional package that `visionzoo doctor` checks.

    Attributes:
        module: import name.
        extra: the extra of visionzoo that installs it.
        purpose: what it is used for.
    """

    module: str
    extra: str
    purpose: str


@dataclass(frozen=True)
class Command:
    """A further command of a task, for what it has made: "render" for scenes.

    Attributes:
        name: as typed after `visionzoo`.
        place: "module:app", its cyclopts app.
        summary: what it does, starting with a verb, without a full stop.
    """

    name: str
    place: str
    summary: str


@dataclass(frozen=True)
class Exporter:
    """What `visionzoo export` does with files that a task has made, instead of exporting a network.

    Attributes:
        place: "module:app", its cyclopts app.
        reads: extensions of its inputs.
        folders: whether it takes every folder, too.
        example: a command line that uses it, for the help of `visionzoo export`.
        summary: what it does, starting with a verb, without a full stop.
    """

    place: str
    reads: tuple[str, ...]
    folders: bool
    example: str
    summary: str


@dataclass(frozen=True)
class PipelineEntry:
    """A registered task.

    Attributes:
        task: its name, which is also the command and the argument of `visionzoo.pipeline`.
        factory: "module:class"; the class has a classmethod `create(model, device, dtype, checkpoint)`.
        summary: what it does, starting with a verb, without a full stop.
        command: "module:app", its cyclopts app.
        commands: further commands, for what the task has made.
        exporter: how `visionzoo export` writes what the task has made for other programs.
        page: module of its demo page, with a function `page(home=…, index=…)` and a constant `TITLE`.
        benches: its benchmarks.
        needs: optional packages that only this task uses.
        uses: other tasks whose models it can use, too.
        also: models that it can use besides registered ones, as text for users, e.g. "timm:NAME".
    """

    task: str
    factory: str
    summary: str
    command: str | None = None
    page: str | None = None
    benches: tuple[Bench, ...] = ()
    needs: tuple[Need, ...] = ()
    uses: tuple[str, ...] = ()
    also: str | None = None
    commands: tuple[Command, ...] = ()
    exporter: Exporter | None = None


_models: dict[str, ModelEntry] = {}
_pipelines: dict[str, PipelineEntry] = {}


def register_model(card: ModelCard, *, builder: str) -> None:
    """Register a model for `create_model`. `builder` is "module:function"."""
    if card.name in _models and _models[card.name].builder != builder:
        raise ValueError(f"two models are registered as {card.name!r}")
    _models[card.name] = ModelEntry(card, builder)


def register_pipeline(
    task: str,
    *,
    factory: str,
    summary: str,
    command: str | None = None,
    page: str | None = None,
    benches: Iterable[Bench] = (),
    needs: Iterable[Need] = (),
    uses: Iterable[str] = (),
    also: str | None = None,
    commands: Iterable[Command] = (),
    exporter: Exporter | None = None,
) -> None:
    """Register a task for `pipeline`, the command line, the demo, `bench` and `doctor`; see `PipelineEntry`."""
    _pipelines[task] = PipelineEntry(
        task, factory, summary, command, page, tuple(benches), tuple(needs), tuple(uses), also,
        tuple(commands), exporter,
    )  # fmt: skip


@cache
def _discover() -> None:
    """Import the `__init__` of every system and task, which import nothing heavy, so that they register."""
    for folder in ("visionzoo.models", "visionzoo.pipelines"):
        for module in pkgutil.iter_modules(importlib.import_module(folder).__path__):
            if module.ispkg:
                importlib.import_module(f"{folder}.{module.name}")


def model_entry(name: str) -> ModelEntry:
    """The registration of `name`, which may include the tag of a checkpoint ("shvit_s1.official").

    Raises:
        InputError: there is no such model, or it has no weights with that tag; the message suggests similar names.
    """
    _discover()
    model, dot, _ = name.partition(".")
    if model not in _models:
        raise unknown("model", name, _models)
    known = [source.name for source in _models[model].card.weights]
    if dot and name not in known:
        raise unknown("checkpoint", name, known)
    return _models[model]


def weight_source(name: str) -> WeightSource:
    """The checkpoint that `create_model(name, pretrained=True)` loads: the one with that tag, or the model's default.

    Raises:
        InputError: there is no such model or checkpoint, or the model has no published weights.
    """
    card = model_entry(name).card
    if not card.weights:
        raise InputError(f"{name} has no published weights; give checkpoint=… or train it with `visionzoo fit`")
    return next((source for source in card.weights if source.name == name), card.weights[0])


def all_sources() -> list[WeightSource]:
    """Every published checkpoint of every registered model, by name."""
    _discover()
    found = {source.name: source for entry in _models.values() for source in entry.card.weights}
    return [found[name] for name in sorted(found)]


def require_source(name: str) -> WeightSource:
    """The checkpoint `name`, or the default one of the model `name`. Raises `InputError` that suggests similar names."""
    sources = {source.name: source for source in all_sources()}
    if name in sources:
        return sources[name]
    if name in list_models(pretrained=True):
        return model_card(name).weights[0]
    raise unknown("checkpoint", name, [*sources, *list_models(pretrained=True)])


def list_models(pattern: str = "*", *, task: str | None = None, pretrained: bool = False) -> list[str]:
    """Names of registered models, sorted.

    Args:
        pattern: shell-style wildcard, e.g. "superglobal*".
        task: keep only models of this task, e.g. "retrieve".
        pretrained: keep only models with published or bundled weights.
    """
    _discover()
    return sorted(
        name
        for name, entry in _models.items()
        if fnmatch.fnmatchcase(name, pattern)
        and (task is None or entry.card.task == task)
        and (not pretrained or entry.card.weights)
    )


def list_tasks() -> list[str]:
    """Names of the tasks that have a pipeline or a model, sorted."""
    return sorted({entry.task for entry in pipeline_entries()} | {entry.card.task for entry in _models.values()})


def usable_models(task: str, pattern: str = "*") -> list[str]:
    """Sorted names of the registered models that the pipeline of `task` can use: its own, and those of the tasks in `uses`."""
    _discover()
    tasks = {task, *(_pipelines[task].uses if task in _pipelines else ())}
    return sorted(name for each in tasks for name in list_models(pattern, task=each))


def model_card(name: str) -> ModelCard:
    """The card of a model: data, printable as text. Raises `InputError` if there is no such model."""
    return model_entry(name).card


def create_model(
    name: str,
    pretrained: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    **config_overrides: Any,
) -> nn.Module:
    """Build a model by name, in eval mode on the CPU; `model.config` is its configuration dataclass.

    Args:
        name: one of `list_models()`, with or without the tag of a checkpoint: "shvit_s1", "shvit_s1.official".
        pretrained: load the weights of that tag, or the default ones: from the cache, an installed package, or a download.
        checkpoint: load this file instead (published or our key names; `.safetensors`, `.pth`, `.pt`, `.ckpt`).
        **config_overrides: fields of the configuration dataclass.

    Raises:
        InputError: an unknown name or field (the message lists the known ones), or a checkpoint that does not fit.
        VisionZooError: `pretrained`, but the file is neither cached nor downloadable; the message says which file to put where.
    """
    entry = model_entry(name)
    if pretrained and checkpoint is not None:
        raise InputError("give either pretrained=True or checkpoint=…, not both")
    if pretrained:
        checkpoint = weights.fetch(weight_source(name))
    model: nn.Module = resolve(entry.builder)(entry.card.name, **config_overrides)
    if checkpoint is not None:
        weights.load_checkpoint(model, checkpoint)
    remember_stored(model, replace(stored_of(model), model=entry.card.name))
    return model.eval()


def pipeline_entries() -> list[PipelineEntry]:
    """Every registered task, by name."""
    _discover()
    return [_pipelines[task] for task in sorted(_pipelines)]


def list_pipelines() -> dict[str, str]:
    """Task -> one-line summary."""
    return {entry.task: entry.summary for entry in pipeline_entries()}


def pipeline(
    task: str,
    model: str | nn.Module | None = None,
    device: str = "auto",
    dtype: str = "auto",
    checkpoint: str | PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Create a pipeline for `task`: `pipe(input, …)` returns a dataclass, `pipe.run(path_in, path_out)` writes files.

    Args:
        task: one of `list_pipelines()`.
        model: a registered name or a network; None for the task's default.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        dtype: "auto", "float32", "bfloat16" or "float16".
        checkpoint: weights file for `model`, instead of its default weights.
    """
    pipeline_entries()
    if task not in _pipelines:
        raise unknown("pipeline", task, _pipelines)
    factory = resolve(_pipelines[task].factory)
    return factory.create(model=model, device=device, dtype=dtype, checkpoint=checkpoint, **options)
